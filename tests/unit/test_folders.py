"""What `MAMLPP_DATA` and `MAMLPP_CACHE` may name, and what is said of anything else."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mamlpp
from mamlpp.data import folders, omniglot
from mamlpp.data.folders import cache_folder, child, user_folder
from mamlpp.errors import InputError, InputWarning
from tests.makers import noise_images

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def data(tmp_path, monkeypatch):
    """The folder that `MAMLPP_DATA` names, still empty."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("MAMLPP_DATA", str(folder))
    return folder


def refuse(match):
    """Both datasets, and the choice between them and the glyphs, fail in the same sentence."""
    for load in (
        mamlpp.default_dataset,
        lambda: mamlpp.load_images("omniglot", "train"),
        lambda: mamlpp.load_images("mini_imagenet", "train"),
    ):
        with pytest.raises(InputError, match=match) as raised:
            load()
        assert "\n" not in str(raised.value)


def test_without_data_the_default_is_the_glyphs(monkeypatch):
    for value in (None, ""):
        monkeypatch.delenv("MAMLPP_DATA", raising=False)
        if value is not None:
            monkeypatch.setenv("MAMLPP_DATA", value)
        assert mamlpp.default_dataset() == "glyphs"


def test_with_omniglot_the_default_is_omniglot(data):
    (data / "omniglot").mkdir()
    (data / "omniglot" / "images_background.zip").touch()
    assert mamlpp.default_dataset() == "omniglot"


def test_data_without_omniglot_gives_the_glyphs_with_a_warning(data):
    (data / "mini_imagenet").mkdir()
    with pytest.warns(InputWarning, match="has no folder omniglot, so the built-in glyphs") as seen:
        assert mamlpp.default_dataset() == "glyphs"
    assert seen[0].filename == __file__


@pytest.mark.parametrize("name", ["gone", "x" * 300, "file"])
def test_data_that_is_no_folder(data, tmp_path, monkeypatch, name):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MAMLPP_DATA", str(tmp_path / name))
    refuse(f"MAMLPP_DATA is .*{name}, and there is no such folder; set it to the folder that holds")


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("omniglot", ["images_background.zip"]),
        ("Mini_ImageNet", ["a.zip"]),
        ("mini_imagenet", []),
        ("pictures", ["train/n01/1.jpg", "val/n02/1.jpg"]),
        ("pictures", ["Train.zip", "Test.zip"]),
        ("pictures", ["images_evaluation/Greek/character01/1.png"]),
    ],
)
def test_the_folder_of_a_dataset_in_place_of_the_one_above(data, monkeypatch, name, inside):
    (data / name).mkdir()
    for path in inside:
        (data / name / path).parent.mkdir(parents=True, exist_ok=True)
        (data / name / path).touch()
    monkeypatch.setenv("MAMLPP_DATA", str(data / name))
    above = re.escape(str(data))
    refuse(f"{name}, which is the folder of one dataset; set it to the folder above, {above}, and")


@pytest.mark.parametrize("inside", [[], [".DS_Store"], ["letters/a.txt", "train/x"], ["omniglot"]])
def test_a_folder_without_a_dataset(data, inside):
    for path in inside:
        (data / path).parent.mkdir(parents=True, exist_ok=True)
        (data / path).touch()
    refuse("MAMLPP_DATA is .*, which has no folder omniglot or mini_imagenet; put one there, set ")


@pytest.mark.parametrize("inside", [[], ["Thumbs.db", ".DS_Store"]])
@pytest.mark.parametrize("dataset", ["omniglot", "mini_imagenet"])
def test_an_empty_folder_of_a_dataset(data, dataset, inside):
    (data / dataset).mkdir()
    for name in inside:
        (data / dataset / name).touch()
    match = f"{dataset} is empty; put {dataset} there, as folders or zips, or remove that folder"
    with pytest.raises(InputError, match=match):
        mamlpp.load_images(dataset, "train")


def test_the_glyphs_need_no_data(monkeypatch, tmp_path):
    monkeypatch.setenv("MAMLPP_DATA", str(tmp_path / "gone"))
    images = noise_images()
    monkeypatch.setitem(mamlpp.data.DATASETS, "glyphs", lambda split: images)
    assert mamlpp.load_images("glyphs", "test") is images


# The cache


def test_a_file_is_no_cache(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MAMLPP_CACHE", str(tmp_path / "file"))
    with pytest.raises(
        InputError, match=r"MAMLPP_CACHE is .*, which is a file; set it to a folder"
    ):
        mamlpp.load_images("glyphs", "train")


def test_a_folder_of_data_is_no_cache(monkeypatch, tmp_path):
    (tmp_path / "images_background").mkdir()
    monkeypatch.setenv("MAMLPP_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"MAMLPP_CACHE is .*, which holds a dataset; set it to"):
        mamlpp.load_images("glyphs", "train")


def test_without_a_name_the_cache_is_the_users_own(monkeypatch):
    monkeypatch.delenv("MAMLPP_CACHE")
    assert "mamlpp" in str(cache_folder())


# Paths as a person writes them


@pytest.mark.parametrize("variable", ["MAMLPP_DATA", "MAMLPP_CACHE"])
def test_the_home_folder_is_expanded(monkeypatch, tmp_path, variable):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "data" / "omniglot" / "images_background").mkdir(parents=True)
    monkeypatch.setenv(variable, "~/data")
    if variable == "MAMLPP_DATA":
        assert user_folder("omniglot", "") == tmp_path / "data" / "omniglot"
    else:
        assert cache_folder() == tmp_path / "data"


@pytest.mark.skipif(os.name == "nt", reason="Windows takes any name for a user's")
def test_the_home_folder_of_nobody(monkeypatch):
    monkeypatch.setenv("MAMLPP_DATA", "~nobody-here/data")
    with pytest.raises(InputError, match=r"MAMLPP_DATA is '~nobody-here/data': .* write the whole"):
        mamlpp.default_dataset()


def test_a_later_change_of_folder_moves_neither(data, tmp_path, monkeypatch):
    (data / "omniglot" / "images_background").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MAMLPP_DATA", "data")
    monkeypatch.setenv("MAMLPP_CACHE", "my cache")
    first = user_folder("omniglot", ""), cache_folder()
    monkeypatch.chdir(data)
    assert (user_folder("omniglot", ""), cache_folder()) == first
    assert first == (data / "omniglot", tmp_path / "my cache")


CHANGE_FOLDER = """
import os, subprocess, sys
import mamlpp
os.mkdir("other"); os.chdir("other")
show = "from mamlpp.data.folders import cache_folder; print(cache_folder())"
exec(show)
sys.stdout.flush()
subprocess.run([sys.executable, "-c", show], check=True)
"""


def test_a_change_of_folder_after_the_import_moves_nothing_here_or_in_other_processes(tmp_path):
    found = subprocess.run(
        [sys.executable, "-c", CHANGE_FOLDER],
        cwd=tmp_path,
        env=os.environ
        | {"MAMLPP_CACHE": "c", "PYTHONPATH": str(Path(mamlpp.__file__).parent.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.splitlines() == 2 * [str(tmp_path / "c")]


def test_names_in_capitals_serve_and_the_exact_name_comes_first(tmp_path):
    (tmp_path / "OMNIGLOT").touch()
    assert child(tmp_path, "omniglot").name == "OMNIGLOT"
    if not (tmp_path / "omniglot").exists():  # Some file systems take both for the same.
        (tmp_path / "omniglot").touch()
        assert child(tmp_path, "omniglot").name == "omniglot"
    assert child(tmp_path, "else") is None


def test_a_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(InputError, match=r"cannot be read \(Permission denied\); allow it"):
        folders.visible(tmp_path)


# What is asked for


@pytest.mark.parametrize(
    ("dataset", "split", "said"),
    [
        ("omnigot", "train", "no dataset 'omnigot'; choose one of glyphs, omniglot, mini_imagenet"),
        (["glyphs"], "train", r"no dataset \['glyphs'\]; choose one of glyphs, omniglot"),
        (None, "train", "no dataset None; choose one of glyphs"),
        ("glyphs", "val", "no split 'val'; choose one of train, validation, test"),
        ("glyphs", 1, "no split 1; choose one of train, validation, test"),
    ],
)
def test_a_misspelt_name_is_answered_with_the_choices(dataset, split, said):
    with pytest.raises(InputError, match=said):
        mamlpp.load_images(dataset, split)


def test_omniglot_without_a_folder_says_how_to_have_it_downloaded(data):
    with pytest.raises(InputError, match=r"where MAMLPP_DATA is not set, Omniglot is downloaded"):
        omniglot.load("train")
