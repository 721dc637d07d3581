"""Every figure in `figures/`, and every table on a page, is what its numbers give today."""

import subprocess
import sys
from pathlib import Path

import pytest

import figures


@pytest.mark.parametrize("name", figures.DRAWN)
def test_a_figure_is_drawn_from_its_numbers(name, tmp_path):
    fresh = figures.draw(name, tmp_path)
    assert fresh.read_bytes() == (figures.FIGURES / f"{name}.svg").read_bytes()


def test_every_figure_and_every_file_of_numbers_is_in_the_list():
    assert {path.stem for path in figures.FIGURES.glob("*.svg")} == set(figures.DRAWN)
    used = {source for _, sources in figures.DRAWN.values() for source in sources}
    assert {path.stem for path in figures.FIGURES.glob("*.json")} == used


def test_the_command_draws_them_all():
    script = Path(figures.__file__)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    drawn = [f"figures/{name}.svg" for name in figures.DRAWN]
    assert done.stdout.split() == [*drawn, *figures.PAGES]


@pytest.mark.parametrize("name", figures.PAGES)
def test_the_table_on_a_page_is_made_from_the_recorded_results(name):
    page = (figures.FIGURES.parent / name).read_text(encoding="utf-8")
    assert figures.page_with_table(name) == page
