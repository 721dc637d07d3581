"""The built-in drawings: enough classes, readable ones, no look-alikes, and the same every time."""

import os
import runpy
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from mamlpp.data import glyphs
from mamlpp.data.images import ImageSet

SPLITS = ("train", "validation", "test")
BUILD_ON_ONE_THREAD = """
import sys, torch
torch.set_num_threads(1)
torch.manual_seed(99)
from mamlpp.data import glyphs
glyphs.all_letters = lambda: [*sys.argv[1]]
print(*(image_set.checksum for image_set in glyphs.build().values()))
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAMLPP_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def sets(cache: Path) -> dict[str, ImageSet]:
    return {split: glyphs.load(split) for split in SPLITS}


def lines_of(letters: list[str]) -> glyphs.Pixels:
    return glyphs.thin(glyphs.silhouettes(letters, glyphs.FACES[0]))


def picture(*rows: str) -> glyphs.Pixels:
    return np.array([[[pixel == "#" for pixel in row] for row in rows]], np.uint8)


def test_there_are_enough_classes(sets: dict[str, ImageSet]) -> None:
    sizes = {split: len(image_set) for split, image_set in sets.items()}
    assert sum(sizes.values()) >= 1200
    assert sizes["train"] > sizes["test"] >= 200
    assert sizes["validation"] >= 60


@pytest.mark.parametrize("split", SPLITS)
def test_each_class_is_twenty_small_drawings(sets: dict[str, ImageSet], split: str) -> None:
    images = sets[split].images
    assert images.dtype == torch.uint8
    assert images.shape[1:] == (20, 1, 28, 28)
    assert (sets[split].dataset, sets[split].split) == ("glyphs", split)


@pytest.mark.parametrize("split", SPLITS)
def test_every_drawing_has_visible_strokes_on_paper(sets: dict[str, ImageSet], split: str) -> None:
    images = sets[split].images.flatten(1, 2).float() / 255
    ink = images.mean((2, 3))
    assert ink.min() > 0.005
    assert ink.max() < 0.4
    # Neither vanishing pens nor a grey haze: somewhere each drawing is black.
    assert images.amax((2, 3)).min() > 0.6


def test_drawers_differ_and_stay_the_same_drawer(sets: dict[str, ImageSet]) -> None:
    images = sets["test"].images
    assert all((images[:, 0] != images[:, k]).flatten(1).any(1).all() for k in range(1, 20))
    ink = images.float().mean((2, 3, 4))
    heaviest, lightest = ink.mean(0).argmax(), ink.mean(0).argmin()
    assert (ink[:, heaviest] > ink[:, lightest]).float().mean() > 0.95


def test_a_drawing_is_nearest_to_its_own_class_more_often_than_by_chance_but_not_always(
    sets: dict[str, ImageSet],
) -> None:
    rng = np.random.default_rng(0)
    flat = torch.nn.functional.avg_pool2d(sets["test"].images[:, :, 0].float(), 3, 1, 1).flatten(2)
    right = []
    for _ in range(100):
        classes = torch.from_numpy(rng.choice(len(flat), 20, replace=False))
        known, asked = rng.choice(20, 2, replace=False)
        nearest = torch.cdist(flat[classes, asked], flat[classes, known]).argmin(1)
        right.append((nearest == torch.arange(20)).float().mean().item())
    assert 0.2 < np.mean(right) < 0.6


def test_splits_share_no_script_and_no_letter(sets: dict[str, ImageSet]) -> None:
    names = [name for image_set in sets.values() for name in image_set.class_names]
    assert len(set(names)) == len(names)
    scripts = [{name.split()[0] for name in s.class_names} for s in sets.values()]
    assert sum(map(len, scripts)) == len(set.union(*scripts))
    assert "GREEK" in scripts[1]


def test_no_two_letters_look_alike(sets: dict[str, ImageSet]) -> None:
    letters = [unicodedata.lookup(name) for s in sets.values() for name in s.class_names]
    unlikeness = glyphs.unlikeness(lines_of(letters))
    assert unlikeness.fill_diagonal_(torch.inf).min() >= glyphs.ALIKE


@pytest.mark.parametrize("pair", ["AΑ", "AА", "oO", "sS", "οо", "ûũ", "жЖ"])
def test_letters_of_the_same_shape_count_as_alike(pair: str) -> None:
    assert glyphs.unlikeness(lines_of(list(pair)))[0, 1] < glyphs.ALIKE


@pytest.mark.parametrize("pair", ["AB", "eé", "PR", "uü", "בש", "TE"])
def test_different_letters_do_not(pair: str) -> None:
    assert glyphs.unlikeness(lines_of(list(pair)))[0, 1] >= glyphs.ALIKE


def test_unlikeness_goes_both_ways() -> None:
    unlikeness = glyphs.unlikeness(lines_of(list("AQüᐁש")))
    assert torch.equal(unlikeness, unlikeness.T)
    assert not unlikeness.diagonal().any()


def test_thinning_leaves_the_middle_line() -> None:
    bar = picture("." * 9, ".#######.", ".#######.", ".#######.", "." * 9)
    thinned = glyphs.thin(bar)
    assert set(np.nonzero(thinned[0])[0]) == {2}
    assert thinned.sum() >= 5


def test_thinning_keeps_dots_and_rings() -> None:
    dot_and_ring = picture(
        "..........", ".##..####.", ".##.######", "....##..##", "....######", ".....####.", "." * 10
    )
    thinned = glyphs.thin(np.pad(dot_and_ring, ((0, 0), (1, 1), (1, 1))))[0]
    assert thinned[:4, :4].sum() == 1
    ring = thinned[:, 5:]
    assert ring[4, 2] == ring[4, 3] == 0, "the hole is still there"
    assert ring.sum() >= 8


def test_squared_distances_against_every_pair() -> None:
    marks = (np.random.default_rng(3).random((4, 13, 17)) < 0.03).astype(np.uint8)
    marks[0] = 0
    pixels = np.stack(np.mgrid[:13, :17], -1)
    expected = np.full(marks.shape, 25)
    for n, y, x in np.argwhere(marks):
        expected[n] = np.minimum(expected[n], ((pixels - (y, x)) ** 2).sum(-1))
    assert np.array_equal(glyphs.squared_distances(marks, reach=5), expected)


@pytest.mark.slow
def test_the_same_bits_on_one_thread_and_on_a_plainer_processor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    letters = glyphs.all_letters()[::10]  # of all scripts: they are chosen and drawn as all are
    monkeypatch.setattr(glyphs, "all_letters", lambda: letters)
    before = torch.random.get_rng_state()
    built = glyphs.build()
    assert torch.equal(torch.random.get_rng_state(), before), "no use of the global random state"
    found = subprocess.run(
        [sys.executable, "-c", BUILD_ON_ONE_THREAD, "".join(letters)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "ATEN_CPU_CAPABILITY": "default"},
    )
    assert found.stdout.split() == [built[split].checksum for split in SPLITS]
    assert min(map(len, built.values())) > 4


def test_the_second_load_comes_from_the_cache(
    sets: dict[str, ImageSet], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build() -> dict[str, ImageSet]:
        raise AssertionError("built again")

    monkeypatch.setattr(glyphs, "build", build)
    assert glyphs.load("test").checksum == sets["test"].checksum
    monkeypatch.setenv("MAMLPP_CACHE", str(cache / "elsewhere"))
    with pytest.raises(AssertionError, match="built again"):
        glyphs.load("test")


def test_importing_reads_no_font(monkeypatch: pytest.MonkeyPatch) -> None:
    def read() -> str:
        raise AssertionError("looked for the fonts")

    monkeypatch.setattr("matplotlib.get_data_path", read)
    imported = runpy.run_path(glyphs.__file__)
    with pytest.raises(AssertionError, match="looked for the fonts"):
        imported["all_letters"]()
