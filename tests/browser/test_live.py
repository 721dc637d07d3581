"""A live training, driven as a student does it: seen, paused, changed, stopped, and never lost."""

import re
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("browser")  # One worker, so that there is one server.
NOTEBOOK = Path(__file__).with_name("live.ipynb")
PANEL, RESULT = 3, 4  # cells


class Live:
    """The panel in a notebook, by what is seen of it and by the keyboard alone."""

    def __init__(self, lab, epochs):
        self.lab = lab
        lab.open(NOTEBOOK, lambda text: re.sub("epochs = [0-9]+", f"epochs = {epochs}", text))
        self.run_panel()

    def run_panel(self):
        for index in range(PANEL + 1):
            self.lab.run(index)

    def press(self, name):
        """A button, by its whole name, in the panel: JupyterLab has buttons of its own."""
        self.lab.find(PANEL, f'button:text-is("{name}")').press("Enter")

    def choose(self, label, letters):
        box = self.lab.find(PANEL, f'.widget-dropdown:has(label:text-is("{label}")) select')
        box.focus()
        self.lab.page.keyboard.type(letters)

    @property
    def words(self):
        return self.lab.text(PANEL).splitlines()[-1]

    @property
    def iteration(self):
        return int(re.search(r"iteration (\d+) of", self.words)[1])

    def wait(self, for_what, what):
        self.lab.poll(for_what, what)

    def result(self):
        self.lab.run(RESULT)
        return self.lab.text(RESULT)


def test_seen_paused_changed_resumed_stopped_and_read(lab):
    live = Live(lab, epochs=1000)
    frames = {lab.picture(PANEL)}
    live.press("Start")
    live.wait(lambda: frames.add(lab.picture(PANEL)) or len(frames) >= 4, "there are frames")
    live.wait(lambda: live.iteration >= 20, "there are meta-steps")

    live.press("Pause")
    live.wait(lambda: live.words.startswith("Paused"), "it is paused")
    at, picture = live.iteration, lab.picture(PANEL)
    time.sleep(1.5)
    assert live.iteration == at

    assert "second order" in live.words
    live.choose("derivative order", "first")
    live.wait(lambda: "first order" in live.words, "the words say so")
    live.wait(lambda: lab.picture(PANEL) != picture, "the picture has the mark")
    assert live.iteration == at

    live.press("Resume")
    live.wait(lambda: live.iteration >= at + 20, "it goes on")
    live.press("Stop")
    live.wait(lambda: live.words.startswith("Stopped"), "it is stopped")
    said = live.result()
    assert f"iterations {live.iteration}" in said
    assert f"'iteration': {at + 1}" in said
    assert "'second_order_from'" in said
    assert float(re.search(r"cost ([\d.]+) of before", said)[1]) < 0.85


def test_stop_before_start_says_why_and_the_result_cell_starts_it(lab):
    live = Live(lab, epochs=1)
    live.press("Stop")
    note = lab.find(PANEL, "[role=status]")
    live.wait(lambda: "has not begun" in note.inner_text(), "it says why")
    assert "iterations 10" in live.result()
    assert "Done: iteration 10 of 10" in live.words


def test_a_tab_closed_while_it_trains_loses_nothing(lab):
    live = Live(lab, epochs=4)
    live.press("Start")
    live.wait(lambda: live.iteration >= 2, "it trains")
    lab.page.close()
    time.sleep(1)
    lab.visit(NOTEBOOK.name)
    assert "iterations 40" in live.result()


@pytest.mark.parametrize("epochs", [4])
def test_a_kernel_restarted_while_it_trains_goes_on_from_its_checkpoint(lab, epochs):
    live = Live(lab, epochs)
    folder = lab.folder / "run"
    kept = folder.glob
    lab.source(1, lambda text: text.replace("folder = None", 'folder = "run"'))
    live.run_panel()
    live.press("Start")
    live.wait(lambda: list(kept("checkpoint-*")), "there is a checkpoint")
    lab.restart()
    live.run_panel()
    assert live.iteration >= 10
    assert "iterations 40" in live.result()
