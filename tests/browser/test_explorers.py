"""Every explorer redraws its picture when a slider is moved by keyboard."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("browser")  # one worker, so that all tests share one server
NOTEBOOK = Path(__file__).with_name("explorers.ipynb")
FIRST, EXPLORERS = 2, 8  # index of the first explorer cell, and their number


@pytest.mark.slow
def test_moving_a_slider_by_keyboard_changes_the_picture(lab):
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
        lab.poll(lambda: lab.picture(index) != before, f"the picture of cell {index} to change")  # noqa: B023
