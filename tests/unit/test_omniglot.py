import hashlib
import io
import os
import shutil
import threading
import warnings
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mamlpp.data import omniglot
from mamlpp.errors import InputError, InputWarning
from tests.makers import write_files

SPLITS = ("train", "validation", "test")
ALPHABETS = {"images_background": {"Greek": 3, "Latin": 3}, "images_evaluation": {"Angelic": 4}}


def png(character, drawing):
    """A 1-bit picture as Omniglot's: one black stroke on white, in another place each time."""
    ink = np.zeros((105, 105), dtype=bool)
    ink[20:80, 6 * character + 2 * drawing + 10 :][:, :4] = True
    file = io.BytesIO()
    Image.fromarray(~ink).save(file, "PNG")
    return file.getvalue()


def archive_files(archive):
    return {
        f"{archive}/{alphabet}/character{c + 1:02}/{c:04}_{d + 1:02}.png": png(c, d)
        for alphabet, characters in ALPHABETS[archive].items()
        for c in range(characters)
        for d in range(3)
    }


def zip_bytes(files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


@pytest.fixture(autouse=True)
def small_omniglot(monkeypatch):
    monkeypatch.setattr(omniglot, "CHARACTERS", {"images_background": 6, "images_evaluation": 4})
    monkeypatch.setattr(omniglot, "DRAWINGS", 3)
    monkeypatch.setattr(omniglot, "SPLIT_SIZES", {"train": 5, "validation": 2, "test": 3})


@pytest.fixture
def folder(tmp_path, cache, monkeypatch):
    """`MAMLPP_DATA/omniglot` with both archives as zips."""
    monkeypatch.setenv("MAMLPP_DATA", str(tmp_path / "data"))
    folder = tmp_path / "data" / "omniglot"
    folder.mkdir(parents=True)
    for archive in ALPHABETS:
        (folder / f"{archive}.zip").write_bytes(zip_bytes(archive_files(archive)))
    return folder


def refuse(cache, match):
    """Loading fails in one sentence that matches, and leaves nothing behind."""
    with pytest.raises(InputError, match=match) as raised:
        omniglot.load("train")
    assert "\n" not in str(raised.value)
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_splits_hold_all_characters_once(folder):
    sets = [omniglot.load(split) for split in SPLITS]
    assert [tuple(s.images.shape) for s in sets] == [(n, 3, 1, 28, 28) for n in (5, 2, 3)]
    assert [s.split for s in sets] == list(SPLITS)
    names = [name for s in sets for name in s.class_names]
    assert sorted(names) == sorted(
        f"{alphabet}/character{c + 1:02}"
        for alphabets in ALPHABETS.values()
        for alphabet, characters in alphabets.items()
        for c in range(characters)
    )


def test_ink_is_255_on_paper_0_where_it_was_drawn(folder):
    images = omniglot.load("train")
    for name, drawings in zip(images.class_names, images.images, strict=True):
        c = int(name[-2:]) - 1
        for d, drawing in enumerate(drawings):
            middle = round((6 * c + 2 * d + 12) / 105 * 28 - 0.5)
            assert drawing[0, 14].argmax() == pytest.approx(middle, abs=1)
            assert drawing.max() > 150
            assert drawing[0, :, 27].max() == 0


def test_small_pictures_are_antialiased(folder):
    grey = omniglot.load("train").images
    assert ((grey > 40) & (grey < 215)).any()  # Nearest, which Pillow takes for 1 bit, has none.


def test_folders_give_what_zips_give(folder, tmp_path, monkeypatch):
    zipped = omniglot.load("test")
    unpacked = tmp_path / "other" / "omniglot"
    for archive in ALPHABETS:
        write_files(unpacked, archive_files(archive))
    monkeypatch.setenv("MAMLPP_DATA", str(tmp_path / "other"))
    assert omniglot.load("test").name == zipped.name


@pytest.mark.parametrize("outer", ["python", "omniglot-master/python", "Omniglot"])
def test_archives_may_lie_in_an_outer_folder_and_have_names_in_capitals(folder, outer):
    clean = omniglot.load("test").name
    (folder / outer).mkdir(parents=True)
    if outer == "python":
        (folder / "README.md").touch()
        (folder / "matlab").mkdir()
    (folder / "images_background.zip").rename(folder / outer / "Images_Background.ZIP")
    (folder / "images_evaluation.zip").rename(folder / outer / "images_evaluation.zip")
    assert omniglot.load("test").name == clean


def test_an_archive_unpacked_into_a_folder_of_its_own_name(folder):
    clean = omniglot.load("test").name
    (folder / "images_background.zip").unlink()
    write_files(folder / "images_background", archive_files("images_background"))
    assert omniglot.load("test").name == clean


def test_zips_with_backslashes(folder):
    clean = omniglot.load("test").name
    files = {n.replace("/", "\\"): d for n, d in archive_files("images_background").items()}
    (folder / "images_background.zip").write_bytes(zip_bytes(files))
    assert omniglot.load("test").name == clean


def test_an_archive_that_was_touched_or_copied_is_not_decoded_again(folder, tmp_path, monkeypatch):
    clean = omniglot.load("test").name
    monkeypatch.setattr(omniglot, "decode", None)
    os.utime(folder / "images_background.zip", (0, 0))
    assert omniglot.load("test").name == clean
    shutil.copytree(folder, tmp_path / "copy" / "omniglot")
    monkeypatch.setenv("MAMLPP_DATA", str(tmp_path / "copy"))
    assert omniglot.load("test").name == clean


def test_second_load_reads_the_cache(folder, monkeypatch):
    first = omniglot.load("train")
    monkeypatch.setattr(omniglot, "decode", None)
    assert omniglot.load("train").name == first.name


def test_changed_data_is_decoded_again(folder):
    before = omniglot.load("train").name
    changed = {name: png(8, 8) for name in archive_files("images_background")}
    (folder / "images_background.zip").write_bytes(zip_bytes(changed))
    assert omniglot.load("train").name != before


def test_what_macos_leaves_about_is_ignored(folder, monkeypatch):
    clean = omniglot.load("train")
    files = archive_files("images_background")
    junk = {
        "__MACOSX/images_background/Greek/character01/._0000_01.png": b"junk",
        "images_background/.DS_Store": b"junk",
        "images_background/Greek/character01/._0000_01.png": b"junk",
    }
    (folder / "images_background.zip").write_bytes(zip_bytes(files | junk))
    assert omniglot.load("train").name == clean.name
    (folder / ".DS_Store").write_bytes(b"junk")
    monkeypatch.setattr(omniglot, "decode", None)  # No new key: the cache still serves.
    assert omniglot.load("train").name == clean.name


def test_cut_off_zip(folder, cache):
    path = folder / "images_evaluation.zip"
    path.write_bytes(path.read_bytes()[:-200])
    refuse(cache, r"images_evaluation\.zip is not a zip file or was cut off")


def test_file_that_is_no_zip(folder, cache):
    (folder / "images_background.zip").write_bytes(b"<html>not found</html>")
    refuse(cache, r"images_background\.zip is not a zip file")


def test_zip_damaged_inside(folder, cache):
    path = folder / "images_background.zip"
    path.write_bytes(path.read_bytes().replace(png(1, 1), png(1, 1)[:-30] + bytes(30), 1))
    refuse(cache, r"character02/0001_02\.png in .*background\.zip cannot be read \(Bad CRC")


def test_zip_of_something_else(folder, cache):
    (folder / "images_background.zip").write_bytes(zip_bytes({"a/b/notes.txt": b"hello"}))
    refuse(cache, "holds 0 characters where Omniglot's images_background has 6")


def test_missing_alphabet(folder, cache):
    files = {n: d for n, d in archive_files("images_background").items() if "Greek" not in n}
    (folder / "images_background.zip").write_bytes(zip_bytes(files))
    refuse(cache, "holds 3 characters where Omniglot's images_background has 6")


def test_missing_archive(folder, cache):
    (folder / "images_evaluation.zip").unlink()
    refuse(cache, r"has no images_evaluation\.zip and no folder images_evaluation")


@pytest.mark.parametrize("name", ["../../x.png", "/etc/x.png", "C:\\x.png", "a\\..\\..\\x.png"])
def test_zip_that_leads_out_of_itself(folder, cache, tmp_path, name):
    files = archive_files("images_background") | {name: b"gotcha"}
    (folder / "images_background.zip").write_bytes(zip_bytes(files))
    refuse(cache, "leads out of the archive")
    assert not list(tmp_path.rglob("x.png"))


def test_character_with_too_few_drawings(folder, cache):
    files = archive_files("images_background")
    del files["images_background/Latin/character02/0001_03.png"]
    (folder / "images_background.zip").write_bytes(zip_bytes(files))
    refuse(cache, "class 'Latin/character02' in .* has 2 pictures where Omniglot has 3")


@pytest.mark.parametrize("data", [b"", b"not a picture", png(0, 0)[:60]])
def test_picture_that_cannot_be_decoded(folder, cache, data):
    files = archive_files("images_background")
    files["images_background/Latin/character02/0001_03.png"] = data
    (folder / "images_background.zip").write_bytes(zip_bytes(files))
    refuse(cache, r"Latin/character02/0001_03\.png in .* is not a picture that can be decoded")


class Server(ThreadingHTTPServer):
    """Serves `files`; the first `cuts[name]` answers for a name break off in the middle."""

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.cuts, self.asked = files, {}, []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        name = Path(self.path).name
        self.server.asked.append(name)
        if name not in self.server.files:
            return self.send_error(404)
        data = self.server.files[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        cut = self.server.cuts.get(name, 0) > 0
        self.server.cuts[name] = self.server.cuts.get(name, 0) - 1
        self.wfile.write(data[: len(data) // 2] if cut else data)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(cache, monkeypatch):
    """A stand-in for the official place, and no data of the user's own."""
    files = {f"{archive}.zip": zip_bytes(archive_files(archive)) for archive in ALPHABETS}
    sums = {name: f"md5:{hashlib.md5(data).hexdigest()}" for name, data in files.items()}
    server = Server(files)
    monkeypatch.delenv("MAMLPP_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(omniglot, "URL", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setattr(omniglot, "CHECKSUMS", sums)
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_download_once(server, cache):
    assert len(omniglot.load("train")) == 5
    for file in cache.glob("*.safetensors"):
        file.unlink()
    assert len(omniglot.load("test")) == 3
    assert server.asked == ["images_background.zip", "images_evaluation.zip"]


def test_download_gives_what_the_zips_give(server, folder, monkeypatch):
    given = omniglot.load("train")
    monkeypatch.delenv("MAMLPP_DATA")
    assert omniglot.load("train").name == given.name
    assert len(server.asked) == 2


def test_download_where_the_users_data_has_no_omniglot(server, tmp_path, monkeypatch):
    (tmp_path / "mini_imagenet").mkdir()
    monkeypatch.setenv("MAMLPP_DATA", str(tmp_path))
    assert len(omniglot.load("train")) == 5
    assert len(server.asked) == 2


def test_download_that_breaks_off_starts_that_file_again(server, cache):
    server.cuts["images_evaluation.zip"] = 1
    assert len(omniglot.load("train")) == 5
    assert server.asked == ["images_background.zip"] + 2 * ["images_evaluation.zip"]
    left = sorted(path.name for path in (cache / "omniglot").iterdir())
    assert left == ["images_background.zip", "images_evaluation.zip"]


def test_download_that_keeps_breaking_off(server, cache):
    server.cuts["images_background.zip"] = 99
    refuse(cache, r"could not be downloaded \(\w+Error\)")
    assert len(server.asked) == 1 + omniglot.RETRIES


def test_download_that_is_not_the_official_file(server, cache):
    server.files["images_background.zip"] += b"more"
    refuse(cache, "is not the official file by its checksum, so it was removed")


def test_damaged_download_is_fetched_again(server, cache):
    omniglot.load("train")
    for file in cache.rglob("*.*"):
        file.write_bytes(b"damaged") if file.suffix == ".zip" else file.unlink()
    assert len(omniglot.load("train")) == 5
    assert len(server.asked) == 4


def test_no_network(server, cache, monkeypatch):
    monkeypatch.setattr(omniglot, "URL", "http://127.0.0.1:9/")  # Where nothing listens.
    refuse(cache, r"connect to the network, or put .* MAMLPP_DATA/omniglot .* 'glyphs'")


def test_file_that_is_gone_from_the_server(server, cache):
    server.files.clear()
    refuse(cache, r"could not be downloaded \(HTTPError\)")


def test_download_needs_a_folder_it_can_write(server, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MAMLPP_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(InputError, match="set MAMLPP_CACHE to a folder that can be written"):
        omniglot.load("train")


def test_cache_that_cannot_be_written_costs_one_warning(folder, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MAMLPP_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(InputWarning, match="set MAMLPP_CACHE") as caught:
        assert len(omniglot.load("train")) == 5
    assert len(caught) == 1


def test_split_does_not_depend_on_the_order_of_names():
    names = [f"Greek/character{c:02}" for c in range(10)]
    chosen = omniglot.split_characters(names)
    turned = omniglot.split_characters(names[::-1])
    for split in SPLITS:
        assert {names[i] for i in chosen[split]} == {names[::-1][i] for i in turned[split]}


REAL = Path(os.environ.get("MAMLPP_DATA", ""), "omniglot")


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The real Omniglot, loaded twice: decoded and from the cache."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("error")
        patch.setenv("MAMLPP_CACHE", str(tmp_path_factory.mktemp("cache")))
        return [{split: omniglot.load(split) for split in SPLITS} for _ in range(2)]


@pytest.mark.skipif(
    not os.environ.get("MAMLPP_DATA") or not REAL.is_dir(), reason="needs MAMLPP_DATA/omniglot"
)
class TestRealOmniglot:
    @pytest.fixture(autouse=True)
    def small_omniglot(self):
        """The real sizes stay."""

    def test_sizes(self, real):
        shapes = [tuple(real[0][split].images.shape) for split in SPLITS]
        assert shapes == [(n, 20, 1, 28, 28) for n in (1150, 50, 423)]

    def test_no_character_is_in_two_splits(self, real):
        names = [name for images in real[0].values() for name in images.class_names]
        assert len(set(names)) == 1623
        assert len({name.split("/")[0] for name in names}) == 50

    def test_split_stays_the_same(self, real):
        assert [s.name for s in real[0].values()] == [s.name for s in real[1].values()]
        # Fixed by the names alone, so it can be written down.
        assert real[0]["validation"].class_names[:2] == (
            "Alphabet_of_the_Magi/character17",
            "Anglo-Saxon_Futhorc/character24",
        )

    def test_ink(self, real):
        ink = torch.cat([images.images for images in real[0].values()]) / 255
        assert 0.07 < ink.mean() < 0.1
        assert (ink.amax(dim=(2, 3, 4)) > 0.5).all()
        assert ink[..., 0, 0].mean() < 0.01
