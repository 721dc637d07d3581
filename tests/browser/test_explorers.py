"""Every explorer answers the keyboard with another picture."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("browser")  # One worker, so that there is one server.
NOTEBOOK = Path(__file__).with_name("explorers.ipynb")
FIRST, EXPLORERS = 2, 8  # cells


def test_a_slider_of_each_explorer_moved_by_keyboard_changes_its_picture(lab):
    lab.open(NOTEBOOK)
    assert lab.count() == FIRST + EXPLORERS
    lab.run_all()
    for index in range(FIRST, lab.count()):
        before = lab.picture(index)
        assert before, f"cell {index} shows no picture"
        slider = lab.find(index, ".widget-slider .noUi-handle").first
        slider.focus()
        low, now = (float(slider.get_attribute(f"aria-value{end}")) for end in ("min", "now"))
        slider.press("ArrowLeft" if now > low else "ArrowRight")
        lab.poll(lambda: lab.picture(index) != before, f"the picture of cell {index} changes")  # noqa: B023
