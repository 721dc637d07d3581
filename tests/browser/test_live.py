"""A live training used as a student would: watch, pause, change, stop, close, restart."""

import re
import time
from pathlib import Path

import pytest

from tests.browser.conftest import Lab

pytestmark = pytest.mark.xdist_group("browser")  # one worker, so that all tests share one server
NOTEBOOK = Path(__file__).with_name("live.ipynb")
SIZE, PANEL, RESULT = 1, 3, 4  # cell indices


@pytest.fixture(scope="module")
def lab(server, browser):
    """The page and the kernel of all tests here: each makes a panel of its own."""
    lab = Lab(server, browser)
    lab.open(NOTEBOOK)
    yield lab
    lab.close()


class Live:
    """The panel in a notebook, used only through what is visible and by keyboard."""

    def __init__(self, lab, epochs, folder=None):
        self.lab = lab
        size = f"folder = {folder!r}\nepochs = {epochs}"
        lab.edit(SIZE, lambda text: re.sub("folder = .*\nepochs = .*", size, text))
        self.run_panel()

    def run_panel(self):
        for index in range(PANEL + 1):
            self.lab.run(index)

    def press(self, name):
        """Press a button of the panel by its full name; JupyterLab has other buttons."""
        self.lab.find(PANEL, f'button:text-is("{name}")').press("Enter")

    def select(self, label, letters):
        """Select an option of a dropdown by its first letters."""
        box = self.lab.find(PANEL, f'.widget-dropdown:has(label:text-is("{label}")) select')
        box.focus()
        self.lab.page.keyboard.type(letters)

    @property
    def text(self):
        return self.lab.text(PANEL).splitlines()[-1]

    @property
    def iteration(self):
        return int(re.search(r"iteration (\d+) of", self.text)[1])

    def wait(self, condition, description):
        self.lab.poll(condition, description)

    def result(self):
        self.lab.run(RESULT)
        return self.lab.text(RESULT)


def test_watch_pause_change_resume_and_stop(lab):
    live = Live(lab, epochs=1000)
    frames = {lab.picture(PANEL)}
    live.press("Start")
    live.wait(lambda: frames.add(lab.picture(PANEL)) or len(frames) >= 4, "several frames")
    live.wait(lambda: live.iteration >= 20, "20 meta-steps")

    live.press("Pause")
    live.wait(lambda: live.text.startswith("Paused"), "the pause")
    paused_at, picture = live.iteration, lab.picture(PANEL)
    time.sleep(1.5)
    assert live.iteration == paused_at

    assert "second order" in live.text
    live.select("derivative order", "first")
    live.wait(lambda: "first order" in live.text, "the text to show the change")
    live.wait(lambda: lab.picture(PANEL) != picture, "the picture to mark the change")
    assert live.iteration == paused_at

    live.press("Resume")
    live.wait(lambda: live.iteration >= paused_at + 20, "the training to continue")
    live.press("Stop")
    live.wait(lambda: live.text.startswith("Stopped"), "the stop")
    output = live.result()
    assert f"iterations {live.iteration}" in output
    assert f"'iteration': {paused_at + 1}" in output
    assert "'second_order_from'" in output
    assert float(re.search(r"relative time ([\d.]+)", output)[1]) < 0.85


def test_stop_before_start_says_why_and_the_result_cell_starts_it(lab):
    live = Live(lab, epochs=1)
    live.press("Stop")
    status = lab.find(PANEL, "[role=status]")
    live.wait(lambda: "has not started" in status.inner_text(), "the reason")
    assert "iterations 10" in live.result()
    assert "Finished: iteration 10 of 10" in live.text


@pytest.mark.slow
def test_closing_the_tab_during_training_loses_nothing(lab):
    live = Live(lab, epochs=4)
    live.press("Start")
    live.wait(lambda: live.iteration >= 2, "2 meta-steps")
    lab.page.close()
    time.sleep(1)
    lab.visit(NOTEBOOK.name)
    assert "iterations 40" in live.result()


@pytest.mark.slow
def test_after_a_kernel_restart_training_continues_from_the_checkpoint(lab):
    live, folder = Live(lab, epochs=4, folder="run"), lab.folder / "run"
    live.press("Start")
    live.wait(lambda: list(folder.glob("checkpoint-*")), "a checkpoint")
    lab.restart()
    live.run_panel()
    assert live.iteration >= 10
    assert "iterations 40" in live.result()
