"""Images of the user's own: folders, arrays, datasets of torch, registered names, augmentation."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import mamlpp
from mamlpp import cli
from mamlpp.data import DATASETS, load_images
from mamlpp.data.own import _dealt

SIZES = {"ant": 3, "bee": 5, "cat": 4, "dog": 3, "eel": 3, "fox": 3, "gnu": 3, "hen": 3, "ibex": 3}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Nine classes of 3 to 5 pictures of noise, of any format and size."""
    monkeypatch.setenv("MAMLPP_CACHE", str(tmp_path / "cache"))
    draw = np.random.default_rng(0)
    for name, count in SIZES.items():
        (tmp_path / "zoo" / name).mkdir(parents=True)
        for i in range(count):
            pixels = draw.integers(0, 255, (20, 24, 3), dtype="uint8")
            suffix = ("png", "bmp", "webp", "gif", "tiff")[i]
            Image.fromarray(pixels).save(tmp_path / "zoo" / name / f"{i}.{suffix}")
    return tmp_path / "zoo"


def splits_of(folder, **options):
    return {split: mamlpp.image_folder(folder, split, size=16, channels=1, **options)
            for split in ("train", "validation", "test")}  # fmt: skip


def test_a_folder_is_split_by_class_and_cached(folder, monkeypatch):
    found = splits_of(folder)
    names = [name for images in found.values() for name in images.class_names]
    assert sorted(names) == sorted(SIZES)
    assert [len(x) for x in found.values()] == [6, 1, 2]
    for images in found.values():
        assert images.shape == (1, 16, 16)
        counts = images.counts if images.counts is not None else [images.samples] * len(images)
        assert list(map(int, counts)) == [SIZES[name] for name in images.class_names]
    assert splits_of(folder, seed=1)["train"].class_names != found["train"].class_names
    monkeypatch.setattr("mamlpp.data.own.pixels", None)  # nothing is decoded again
    again = mamlpp.image_folder(folder, "train", size=16, channels=1)
    assert again.checksum == found["train"].checksum
    assert again.dataset == f"{folder}@16x1"
    assert load_images(f"{folder}@16x1", "train").name == again.name


def test_a_folder_is_split_by_lists_and_by_its_own_folders(folder, tmp_path):
    lists = {"train": ["ant", "bee"], "validation": ["cat"], "test": ["dog"]}
    assert splits_of(folder, splits=lists)["train"].class_names == ("ant", "bee")
    for where, name in (("train", "ant"), ("val", "bee"), ("test", "cat")):
        (tmp_path / "own" / where).mkdir(parents=True)
        (folder / name).rename(tmp_path / "own" / where / name)
    found = splits_of(tmp_path / "own")
    assert [x.class_names[0] for x in found.values()] == ["train/ant", "val/bee", "test/cat"]
    wrong = {"no class 'yak'": {"train": ["yak"]}, "twice": {"train": ["dog", "dog"]}}
    for words, splits in wrong.items():
        with pytest.raises(mamlpp.InputError, match=words):
            mamlpp.image_folder(folder, "train", splits=splits)


def test_tasks_of_unequal_classes_hold_no_padding(folder):
    images = mamlpp.image_folder(folder, "train", size=16, channels=3)
    sampler = mamlpp.TaskSampler(images, 5, 1, 2, rotate=True)
    batch = sampler.sample(50)
    assert batch.support_x.flatten(2).amax(2).min() > 0
    assert batch.query_x.flatten(2).amax(2).min() > 0
    with pytest.raises(mamlpp.InputError, match="has 3; choose fewer"):
        mamlpp.TaskSampler(images, 5, 1, 3)


def test_bad_folders_are_refused(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    for arguments, words in (
        ((tmp_path / "none",), "no folder"),
        ((tmp_path / "empty",), "has no class"),
        ((folder, "training"), "no split 'training'"),
    ):
        with pytest.raises(mamlpp.InputError, match=words):
            mamlpp.image_folder(*arguments)
    with pytest.raises(mamlpp.InputError, match=r"channels must be 1 \(grey\) or 3"):
        mamlpp.image_folder(folder, channels=4)
    (folder / "ant" / "0.png").write_bytes(b"no picture")
    with pytest.raises(mamlpp.InputError, match=r"ant/0.png .* cannot? be decoded|ant/0.png"):
        mamlpp.image_folder(folder, splits=(1, 0, 0))


def test_deep_and_transparent_pictures_are_seen(folder):
    grey = np.arange(16 * 16, dtype="uint8").reshape(16, 16)
    clear = Image.merge("LA", (Image.new("L", (16, 16)), Image.fromarray(255 - grey)))
    deep = Image.fromarray(grey.astype("uint16") * 257)
    for name, picture in {"clear": clear, "deep": deep}.items():
        (folder.parent / name / "a").mkdir(parents=True)
        picture.save(folder.parent / name / "a" / "0.png")
        images = mamlpp.image_folder(folder.parent / name, size=16, channels=1, splits=(1, 0, 0))
        assert np.array_equal(images.images[0, 0, 0], grey), name
    (folder.parent / "deep" / "a" / "notes.pdf").write_bytes(b"%PDF-")  # which Pillow only writes
    assert mamlpp.image_folder(folder.parent / "deep", size=16, splits=(1, 0, 0)).samples == 1
    Image.fromarray(grey / np.float32(255)).save(folder.parent / "deep" / "a" / "1.tiff")
    with pytest.raises(mamlpp.InputError, match=r"a/1.tiff in .* has 32 bits a pixel"):
        mamlpp.image_folder(folder.parent / "deep", size=16, splits=(1, 0, 0))


def test_arrays_become_image_sets():
    pixels = np.random.default_rng(0).integers(0, 255, (4, 5, 8, 9, 3), dtype="uint8")
    last = mamlpp.image_set(pixels, "train", name="mine")
    assert last.shape == (3, 8, 9)
    assert last.dataset == "mine"
    assert torch.equal(last.images, torch.tensor(pixels).movedim(-1, -3))
    grey = mamlpp.image_set(pixels[..., 0] / 255.0)
    assert torch.equal(grey.images[:, :, 0], torch.tensor(pixels[..., 0]))
    labels = np.repeat([7, 3, 5, 1], 5)[:18]
    flat = mamlpp.image_set(pixels.reshape(20, 8, 9, 3)[:18], labels=labels)
    assert flat.class_names == ("1", "3", "5", "7")
    assert flat.counts.tolist() == [3, 5, 5, 5]
    for wrong, words in ((pixels[..., :2], "with 1 or 3 channels"), (pixels[:, :, :3], "first or")):
        with pytest.raises(mamlpp.InputError, match=words):
            mamlpp.image_set(wrong)
    for wrong, words in (
        (pixels * 1.0, "floats in 0 … 1"),
        (pixels * np.nan, "floats in 0 … 1"),
        (pixels.astype("uint16"), "not torch.uint16 in 0 … 254"),
        (pixels % 2, "none of them is above 1"),
        (pixels[:0], "no images"),
    ):
        with pytest.raises(mamlpp.InputError, match=words):
            mamlpp.image_set(wrong)
    assert mamlpp.image_set(pixels[..., 0] > 99).images.unique().tolist() == [0, 255]
    named = mamlpp.image_set(pixels[0], labels=[*"babab"])
    assert (named.class_names, named.counts.tolist()) == (("a", "b"), [2, 3])
    with pytest.raises(mamlpp.InputError, match=r"whole numbers or names, not 1\.5"):
        mamlpp.image_set(pixels[0], labels=[1.5] * 5)
    for splits, words in (
        ({"train": "ant"}, "lists of classes"),
        ({"train": ["0"], "val": ["1"]}, "no split 'validation', but train, val"),
        (None, "three shares"),
    ):
        with pytest.raises(mamlpp.InputError, match=words):
            _dealt(["0", "1"], "validation", splits, 0)
    with pytest.raises(mamlpp.InputError, match="no split 'val'; choose"):
        mamlpp.image_set(pixels, "val", splits=(1, 1, 1))


def test_a_dataset_of_torch_goes_in_by_one_call():
    pictures = [Image.new("L", (8, 8), 10 * i) for i in range(12)]

    class Pictures(torch.utils.data.Dataset):
        def __len__(self):
            return 12

        def __getitem__(self, i):
            return pictures[i], i % 3

    images = mamlpp.image_set(Pictures())
    assert images.images[1, :, 0, 0, 0].tolist() == [10, 40, 70, 100]
    tensors = torch.utils.data.TensorDataset(torch.rand(12, 3, 8, 8), torch.arange(12) % 3)
    assert mamlpp.image_set(tensors).shape == (3, 8, 8)
    parts = [mamlpp.image_set(tensors, split, splits=(1, 1, 1)) for split in ("train", "test")]
    assert not set(parts[0].class_names) & set(parts[1].class_names)


def test_augmentation_is_seen_and_repeats_with_the_seed(folder):
    images = mamlpp.image_folder(folder, "train", size=16, channels=1)

    def noisy(x):
        return (x + 0.1 * torch.randn_like(x)).clamp(0, 1)

    plain, one, other = (
        mamlpp.TaskSampler(images, 5, 1, 1, augment=each).sample(2) for each in (None, noisy, noisy)
    )
    assert torch.equal(one.support_x, other.support_x)
    assert not torch.equal(one.support_x, plain.support_x)
    assert 0.02 < (one.query_x - plain.query_x).abs().mean() < 0.1
    for wrong, words in (
        (lambda x: x[:1], "augment must return images of the shape"),
        (lambda x: x * 255, "what augment returned goes up to 2"),
        (lambda x: x / 0, "what augment returned holds NaN"),
        ("noise", "augment must be a function of images"),
    ):
        with pytest.raises(mamlpp.InputError, match=words):
            mamlpp.TaskSampler(images, 5, 1, 1, augment=wrong).sample(1)


TRAIN = [
    *("--filters=2", "--inner-steps=1", "--meta-batch=2", "--epochs=1", "--ways=1"),
    *("--iterations-per-epoch=1", "--validation-tasks=2", "--workers=1"),
]


def test_the_commands_know_a_folder_and_a_run_remembers_it(folder, tmp_path, capsys):
    run = tmp_path / "run"
    cli.main(["train", f"--directory={run}", f"--dataset={folder}@16x1", *TRAIN])
    assert mamlpp.load_run(run).data.dataset == f"{folder}@16x1"
    cli.main(["evaluate", str(run), "--tasks=2", "--ensemble=1"])
    about = json.loads((run / "evaluation-test.json").read_text())
    assert about["dataset"]["name"].startswith(f"{folder}@16x1-test-")
    cli.main(["data", f"{folder}@16x1"])
    assert "6 classes" in capsys.readouterr().out


def test_registered_and_named_functions_are_datasets(tmp_path, monkeypatch):
    monkeypatch.setattr("mamlpp.data.DATASETS", dict(DATASETS))
    pixels = np.random.default_rng(0).integers(0, 255, (3, 4, 16, 16), dtype="uint8")
    mamlpp.register_dataset("mine", lambda split: mamlpp.image_set(pixels, split))
    assert load_images("mine", "test").dataset == "mine"
    (tmp_path / "my_own_data.py").write_text(
        "import numpy as np, mamlpp\n"
        "def letters(split):\n"
        "    pixels = np.random.default_rng(len(split)).integers(0, 255, (3, 4, 16, 16), 'uint8')\n"
        "    return mamlpp.image_set(pixels, split)\n"
    )
    monkeypatch.chdir(tmp_path)
    assert load_images("my_own_data:letters", "test").dataset == "my_own_data:letters"
    for wrong, words in (
        ("my_own_data:none", "cannot be found"),
        ("nothing", "there is no dataset 'nothing'"),
        (f"{tmp_path}@28x28", "write .*@28x1, or @28x3: a size and 1 or 3 channels, not '28x28'"),
    ):
        with pytest.raises(mamlpp.InputError, match=words):
            load_images(wrong, "test")
    with pytest.raises(mamlpp.InputError, match="a word that is free"):
        mamlpp.register_dataset("glyphs", print)
