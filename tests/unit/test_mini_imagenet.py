import io
import os
import shutil
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mamlpp.data import mini_imagenet
from mamlpp.errors import InputError, InputWarning
from tests.makers import write_files

CLASSES = {"train": ("n01", "n02", "n03"), "val": ("n04",), "test": ("n05", "n06")}


def jpg(red, green, side=84, mode="RGB"):
    """A picture that is red above and green below, as strong as told."""
    pixels = np.zeros((side, side, 3), dtype=np.uint8)
    pixels[: side // 2, :, 0], pixels[side // 2 :, :, 1] = red, green
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "JPEG", quality=95)
    return file.getvalue()


def split_files(folder):
    return {
        f"{folder}/{name}/{name}_{i}.jpg": jpg(40 * int(name[1:]), 60 * (i + 1))
        for name in CLASSES[folder]
        for i in range(3)
    }


def write_zip(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)


@pytest.fixture(autouse=True)
def small_mini_imagenet(monkeypatch):
    monkeypatch.setattr(mini_imagenet, "CLASSES", {"train": 3, "validation": 1, "test": 2})
    monkeypatch.setattr(mini_imagenet, "SAMPLES", 3)


@pytest.fixture
def empty_folder(tmp_path, cache, monkeypatch):
    """`MAMLPP_DATA/mini_imagenet`, still empty."""
    monkeypatch.setenv("MAMLPP_DATA", str(tmp_path / "data"))
    folder = tmp_path / "data" / "mini_imagenet"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def folder(empty_folder):
    """`MAMLPP_DATA/mini_imagenet` with all pictures in folders."""
    for split in CLASSES:
        write_files(empty_folder, split_files(split))
    return empty_folder


def refuse(cache, match, split="train"):
    """Loading fails in one sentence that matches, and leaves nothing behind."""
    with pytest.raises(InputError, match=match) as raised:
        mini_imagenet.load(split)
    assert "\n" not in str(raised.value)
    assert not cache.exists()


def test_shapes_and_names(folder):
    for split, name in (("train", "train"), ("validation", "val"), ("test", "test")):
        images = mini_imagenet.load(split)
        assert images.class_names == CLASSES[name]
        assert images.images.shape == (len(CLASSES[name]), 3, 3, 84, 84)
        assert (images.dataset, images.split) == ("mini_imagenet", split)


def test_pixels_are_where_they_were(folder):
    images = mini_imagenet.load("train").images.float()
    for c in range(3):
        for s in range(3):
            above, below = images[c, s, :, :40].mean(dim=(1, 2)), images[c, s, :, 44:].mean((1, 2))
            assert above.tolist() == pytest.approx([40 * (c + 1), 0, 0], abs=3)
            assert below.tolist() == pytest.approx([0, 60 * (s + 1), 0], abs=3)


def test_any_number_of_zips_gives_what_folders_give(folder, tmp_path, monkeypatch):
    unpacked = mini_imagenet.load("train")
    other = tmp_path / "other" / "mini_imagenet"
    files = split_files("train")
    for i, name in enumerate(CLASSES["train"]):
        write_zip(other / f"{i}.zip", {n: d for n, d in files.items() if name in n})
    monkeypatch.setenv("MAMLPP_DATA", str(tmp_path / "other"))
    assert mini_imagenet.load("train").name == unpacked.name


def test_zips_and_folders_may_be_mixed(empty_folder):
    write_zip(empty_folder / "a.zip", split_files("train"))
    write_files(empty_folder, split_files("test"))
    assert len(mini_imagenet.load("train")) == 3
    assert len(mini_imagenet.load("test")) == 2


def test_order_in_the_zip_does_not_matter(empty_folder):
    files = split_files("train")
    write_zip(empty_folder / "a.zip", files)
    forward = mini_imagenet.load("train").name
    write_zip(empty_folder / "a.zip", dict(reversed(files.items())))
    os.utime(empty_folder / "a.zip", ns=(0, 0))
    assert mini_imagenet.load("train").name == forward


def test_pictures_outside_the_classes_are_passed_over(folder):
    clean = mini_imagenet.load("train").name
    write_files(folder, {"sheet.jpg": b"", "train/sheet.jpg": b""})
    assert mini_imagenet.load("train").name == clean


def test_folder_named_validation_serves_too(empty_folder):
    files = {name.replace("val", "validation"): data for name, data in split_files("val").items()}
    write_files(empty_folder, files)
    assert mini_imagenet.load("validation").class_names == CLASSES["val"]


def test_folders_may_lie_in_another_one_or_be_links(empty_folder, tmp_path):
    write_files(tmp_path / "elsewhere", split_files("train"))
    (empty_folder / "deeper").symlink_to(tmp_path / "elsewhere")
    assert len(mini_imagenet.load("train")) == 3


def test_what_systems_leave_about_is_ignored(folder):
    clean = mini_imagenet.load("train").name
    junk = {
        "__MACOSX/train/n01/._n01_0.jpg": b"",
        "train/n01/._n01_0.jpg": b"",
        "._n01": b"",
        "train/.DS_Store": b"",
        "train/n01/Thumbs.db": b"",
        "train/n01/desktop.ini": b"",
        "train/.ipynb_checkpoints/a.jpg": b"",
        "train/n01/@eaDir/n01_0.jpg/thumb.jpg": b"",
        "train/@eaDir/a.jpg": b"",
    }
    write_files(folder, junk)
    write_zip(folder / "junk.zip", junk)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mini_imagenet.load("train").name == clean


def backslashes(files):
    return {name.replace("/", "\\"): data for name, data in files.items()} | {"train\\": b""}


def in_one_folder(files):
    return {f"mini-imagenet/images/{name}": data for name, data in files.items()}


def in_capitals(files):
    return {name.replace("train", "Train").replace("jpg", "JPG"): d for name, d in files.items()}


@pytest.mark.parametrize("changed", [backslashes, in_one_folder, in_capitals])
def test_zips_as_other_programs_make_them(folder, tmp_path, monkeypatch, changed):
    clean = mini_imagenet.load("train").name
    write_zip(tmp_path / "other" / "Mini_ImageNet" / "A.ZIP", changed(split_files("train")))
    monkeypatch.setenv("MAMLPP_DATA", str(tmp_path / "other"))
    assert mini_imagenet.load("train").name == clean


def test_zips_and_folders_may_lie_in_an_outer_folder(folder, tmp_path, monkeypatch):
    clean = mini_imagenet.load("train").name
    outer = tmp_path / "other" / "mini_imagenet" / "Mini-ImageNet"
    write_zip(outer / "a.zip", split_files("train"))
    write_files(outer / "more", split_files("test"))
    monkeypatch.setenv("MAMLPP_DATA", str(tmp_path / "other"))
    assert mini_imagenet.load("train").name == clean
    assert len(mini_imagenet.load("test")) == 2


def png(red, green):
    file = io.BytesIO()
    Image.open(io.BytesIO(jpg(red, green))).save(file, "PNG")
    return file.getvalue()


def test_png_serves_too_with_the_same_pixels(folder, tmp_path, monkeypatch):
    clean = mini_imagenet.load("test").name
    files = {
        f"test/{name}/{name}_{i}.PNG": png(40 * int(name[1:]), 60 * (i + 1))
        for name in CLASSES["test"]
        for i in range(3)
    }
    write_files(tmp_path / "other" / "mini_imagenet", files)
    monkeypatch.setenv("MAMLPP_DATA", str(tmp_path / "other"))
    assert mini_imagenet.load("test").name == clean


def test_transparency_is_left_out_without_a_word(empty_folder):
    file = io.BytesIO()
    image = Image.open(io.BytesIO(png(200, 100))).convert("P")
    image.save(file, "PNG", transparency=bytes(range(256)))
    write_files(
        empty_folder, {f"train/n0{c}/{i}.png": file.getvalue() for c in "123" for i in "abc"}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mini_imagenet.load("train").images[0, 0, 0, :40].float().mean() > 190


@pytest.mark.parametrize("side", [42, 168])
def test_pictures_of_another_size_are_resized(empty_folder, side):
    write_files(empty_folder, {f"train/n01/{i}.jpg": jpg(200, 100, side) for i in range(3)})
    with pytest.warns(InputWarning):
        images = mini_imagenet.load("train").images.float()
    assert images.shape[-2:] == (84, 84)
    assert images[0, 0, 0, :40].mean().item() == pytest.approx(200, abs=3)
    assert images[0, 0, 1, 44:].mean().item() == pytest.approx(100, abs=3)


def test_grey_pictures_become_rgb(empty_folder):
    files = {f"train/n01/{i}.JPEG": jpg(200, 200, mode="L") for i in range(3)}
    write_files(empty_folder, files)
    with pytest.warns(InputWarning):
        images = mini_imagenet.load("train").images
    assert torch.equal(images[:, :, 0], images[:, :, 1])


def test_reduced_copy_costs_one_warning_each_time(folder, monkeypatch):
    monkeypatch.setattr(mini_imagenet, "CLASSES", {"train": 64})
    for _ in ("built", "cached"):
        with pytest.warns(InputWarning, match="train has 3 classes x 3 .* one has 64 x 3") as seen:
            mini_imagenet.load("train")
        assert len(seen) == 1


def test_second_load_reads_the_cache_of_that_split(folder, monkeypatch):
    first = mini_imagenet.load("train")
    monkeypatch.setattr(mini_imagenet, "decode", None)
    assert mini_imagenet.load("train").name == first.name
    with pytest.raises(TypeError):
        mini_imagenet.load("test")


def test_changed_data_is_decoded_again(folder):
    before = mini_imagenet.load("train").name
    (folder / "train/n01/n01_0.jpg").write_bytes(jpg(7, 7))
    assert mini_imagenet.load("train").name != before


def test_a_changed_picture_of_the_same_size_and_time_is_noticed(folder):
    before = mini_imagenet.load("train").name
    file = folder / "train/n01/n01_0.jpg"
    stat = file.stat()
    file.write_bytes(jpg(7, 7).ljust(stat.st_size, b"\0"))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert file.stat().st_size == stat.st_size
    assert mini_imagenet.load("train").name != before


@pytest.mark.parametrize("kind", ["folders", "zip"])
def test_data_that_was_touched_moved_or_renamed_is_not_decoded_again(
    empty_folder, tmp_path, monkeypatch, kind
):
    if kind == "zip":
        write_zip(empty_folder / "a.zip", split_files("train"))
    else:
        write_files(empty_folder, split_files("train"))
    before = mini_imagenet.load("train").name
    monkeypatch.setattr(mini_imagenet, "decode", None)
    for path in empty_folder.rglob("*"):
        os.utime(path, (0, 0))
    (empty_folder / "README.txt").write_text("what this is", encoding="utf-8")
    assert mini_imagenet.load("train").name == before
    shutil.copytree(empty_folder, tmp_path / "copy" / "mini_imagenet")
    if kind == "zip":
        (tmp_path / "copy" / "mini_imagenet" / "a.zip").rename(
            tmp_path / "copy" / "mini_imagenet" / "b.zip"
        )
    monkeypatch.setenv("MAMLPP_DATA", str(tmp_path / "copy"))
    assert mini_imagenet.load("train").name == before


@pytest.mark.parametrize("data", [None, "", ".", "only_omniglot"])
def test_missing_folder(cache, tmp_path, monkeypatch, data):
    (tmp_path / "only_omniglot" / "omniglot").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    if data is None:
        monkeypatch.delenv("MAMLPP_DATA", raising=False)
    else:
        monkeypatch.setenv("MAMLPP_DATA", data)
    refuse(cache, r"image-net\.org.*Ravi and Larochelle.*MAMLPP_DATA/mini_imagenet/ as train/<")


def test_missing_split(empty_folder, cache):
    write_files(empty_folder, split_files("train"))
    refuse(cache, "holds no picture of the split 'validation'; lay out", "validation")


def test_class_with_too_few_pictures(folder, cache):
    (folder / "train/n02/n02_1.jpg").unlink()
    refuse(cache, "class 'n02' in .* has 2 pictures where the others have 3")


def test_class_in_two_splits(folder, cache):
    write_files(
        folder, {name.replace("train", "test"): d for name, d in split_files("train").items()}
    )
    refuse(cache, "class 'n01' is in train and in test")
    refuse(cache, "class 'n01' is in test and in train", "test")


def test_pictures_that_are_there_twice(folder, cache):
    write_zip(folder / "train.zip", split_files("train"))
    refuse(cache, r"n01_0\.jpg in .* is there a second time .* remove one of the two")


def test_picture_that_cannot_be_decoded(folder, cache):
    (folder / "train/n02/n02_1.jpg").write_bytes(jpg(1, 1)[:300])
    refuse(cache, r"train/n02/n02_1\.jpg in .* is not a picture that can be decoded")


def test_a_picture_that_is_there_as_png_and_as_jpeg(folder, cache):
    (folder / "train/n02/n02_1.png").write_bytes(png(1, 1))
    refuse(cache, r"n02_1\.(png|jpg) in .* is there a second time .* remove one of the two")


@pytest.mark.parametrize("error", [ValueError, IndexError, KeyError, TypeError, MemoryError])
def test_whatever_pillow_says_of_a_broken_picture(folder, cache, monkeypatch, error):
    def broken(*_):
        raise error("struct")

    monkeypatch.setattr(Image.Image, "convert", broken)
    refuse(cache, r"train/n01/n01_0\.jpg in .* is not a picture that can be decoded")


def test_a_folder_that_cannot_be_read(folder, cache, monkeypatch):
    real = os.scandir

    def scandir(path):
        if Path(path).name == "n02":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    refuse(cache, r"train/n02 cannot be read \(Permission denied\); allow it to be read, or remove")


def test_a_file_that_cannot_be_read(folder, cache, monkeypatch):
    real = Path.read_bytes

    def read_bytes(path):
        if path.name == "n02_1.jpg":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    refuse(cache, r"train/n02/n02_1\.jpg in .* cannot be read .*Permission denied")


@pytest.mark.parametrize("place", ["train/n02/n02_9.jpg", "train/n09"])
def test_a_link_to_nothing(folder, cache, place):
    (folder / place).symlink_to(folder / "gone")
    refuse(cache, f"{place} is a link to what is not there; mend or remove it")


def test_cut_off_zip(folder, cache):
    write_zip(folder / "more.zip", {"a/b/c.jpg": jpg(1, 1)})
    (folder / "more.zip").write_bytes((folder / "more.zip").read_bytes()[:-10])
    refuse(cache, r"more\.zip is not a zip file or was cut off")


def test_zip_that_leads_out_of_itself(folder, cache, tmp_path):
    write_zip(folder / "more.zip", {"../../train/n01/evil.jpg": jpg(1, 1)})
    refuse(cache, r"more\.zip has an entry '\.\./\.\./train/n01/evil\.jpg' that leads out")
    assert not list(tmp_path.rglob("evil.jpg"))


def test_cache_that_cannot_be_written_costs_one_warning(folder, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MAMLPP_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(InputWarning, match="set MAMLPP_CACHE") as caught:
        assert len(mini_imagenet.load("train")) == 3
    assert len(caught) == 1


REAL = Path(os.environ.get("MAMLPP_DATA", ""), "mini_imagenet")


@pytest.mark.skipif(
    not os.environ.get("MAMLPP_DATA") or not REAL.is_dir(), reason="needs MAMLPP_DATA/mini_imagenet"
)
class TestRealMiniImageNet:
    @pytest.fixture(autouse=True)
    def small_mini_imagenet(self):
        """The real sizes stay."""

    @pytest.mark.filterwarnings("error")
    def test_smallest_split(self, cache):
        images = mini_imagenet.load("validation")
        assert images.images.shape == (16, 600, 3, 84, 84)
        assert 0.3 < images.images[:, ::50].float().mean() / 255 < 0.6
