"""Every figure in `figures/` is what its numbers give today."""

import subprocess
import sys
from pathlib import Path

import pytest

import figures

SOURCES = sorted(figures.FIGURES.glob("*.json"))


@pytest.mark.parametrize("name", [source.stem for source in SOURCES])
def test_a_figure_is_drawn_from_its_numbers(name, tmp_path):
    fresh = figures.draw(name, tmp_path)
    assert fresh.read_text() == (figures.FIGURES / f"{name}.svg").read_text()


def test_there_is_no_figure_without_numbers():
    drawn = {path.stem for path in figures.FIGURES.glob("*.svg")}
    assert drawn == {source.stem for source in SOURCES} != set()


def test_the_command_draws_them_all():
    script = Path(figures.__file__)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [f"figures/{source.stem}.svg" for source in SOURCES]
