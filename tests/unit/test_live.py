"""Background training and its live panel: buttons, knobs, pictures, errors and restarts."""

import gc
import subprocess
import sys
import threading
import time
import weakref
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

import mamlpp
from mamlpp import maml
from mamlpp.run import trainer as training
from mamlpp.run.background import Background
from mamlpp.show import live, live_picture
from mamlpp.show.knobs import with_method
from mamlpp.show.live import LivePanel, compare, stages
from mamlpp.show.live_picture import ComparisonPicture, TrainingPicture, describe_progress

RECIPE = mamlpp.RECIPES["maml"].with_(
    filters=4, inner_steps=2, meta_batch=2, epochs=2, iterations_per_epoch=4, validation_tasks=2
)
LONG = {"iterations_per_epoch": 100_000}


def sampler(split, seed=0):
    draw = torch.Generator().manual_seed(len(split))
    images = torch.randint(0, 256, (8, 4, 1, 16, 16), generator=draw).byte()
    names = tuple(map(str, range(8)))
    return mamlpp.TaskSampler(mamlpp.ImageSet(images, names, "noise", split), 3, 1, seed=seed)


def make_trainer(directory=None, **fields):
    return mamlpp.Trainer(
        RECIPE.with_(**fields), sampler("train"), sampler("validation"), directory
    )


def weights(module):
    return torch.nn.utils.parameters_to_vector(module.parameters()).detach().clone()


def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.005)


def pause(panel):
    """Pause a panel and return the iteration at which it stands."""
    panel.pause()
    wait_until(lambda: panel.training.state == "paused")
    return panel.trainer.iteration


def status(panel):
    return panel._status.value


def break_step(monkeypatch, trainer, at, error):
    step = trainer.step

    def broken():
        if trainer.iteration == at:
            raise error
        return step()

    monkeypatch.setattr(trainer, "step", broken)


@pytest.fixture
def shown(monkeypatch):
    """Record everything that a notebook displays, in order, by display ID."""
    outputs = {}

    def display(data, display_id=None, **_):
        outputs.setdefault(display_id, []).append(data)

    monkeypatch.setattr(live, "get_ipython", lambda: SimpleNamespace(execution_count=1))
    monkeypatch.setattr(live, "display", display)
    return outputs


@pytest.fixture
def endless():
    """A panel whose training is too long to end by itself; it is stopped after the test."""
    panel = LivePanel(make_trainer(**LONG))
    yield panel
    if panel.training.active:
        panel.stop()
    panel.result()


# From start to end


def test_background_training_matches_fit():
    fitted = make_trainer().fit()
    panel = LivePanel(make_trainer())
    run = panel.result()
    assert torch.equal(weights(run.learner), weights(fitted.learner))
    assert run.history.column("loss") == fitted.history.column("loss")
    assert panel.training.state == "finished"
    assert "Finished" in status(panel)


def test_asking_twice_for_the_result_trains_once():
    panel = LivePanel(make_trainer())
    assert panel.result() is panel.result()
    assert len(panel.result().history.rows) == 8


def test_the_final_picture_stays_in_the_cell(shown):
    panel = LivePanel(make_trainer(), min_interval=0)
    panel.result()
    [pictures] = [values for name, values in shown.items() if name and name.endswith("picture")]
    first, last = pictures[0], pictures[-1]
    assert "iteration 0 of 8" in first["text/plain"]
    assert "Finished: iteration 8 of 8, epoch 2.0 of 2" in last["text/plain"]
    assert first["image/png"] != last["image/png"]


def test_progress_is_described_in_words():
    trainer = make_trainer(second_order_from=1.0)
    assert "iteration 0 of 8, epoch 0.0 of 2; first order; no non" in describe_progress(trainer)
    with trainer.alone():
        for _ in range(4):
            trainer.advance()
    trainer.history.rows[-1]["nonfinite"] = "a weight"
    text = describe_progress(trainer)
    for part in (
        "4 of 8",
        "tasks per second",
        "s left",
        "second order",
        "1 non-finite step",
        "CPU",
    ):
        assert part in text
    assert text.endswith(" MB")


# Buttons


def test_pause_and_resume(endless):
    endless.start()
    at = pause(endless)
    time.sleep(0.1)
    assert endless.trainer.iteration == at
    assert "Paused" in status(endless)
    endless.resume()
    wait_until(lambda: endless.trainer.iteration > at)


def test_stop_saves_a_checkpoint_and_start_continues(tmp_path):
    panel = LivePanel(make_trainer(tmp_path / "a", **LONG))
    panel.start()
    wait_until(lambda: panel.trainer.iteration > 3)
    panel.stop()
    steps = len(panel.result().history.rows)
    assert panel.training.state == "stopped"
    assert list((tmp_path / "a").glob(f"checkpoint-{steps:08}*"))
    assert make_trainer(tmp_path / "a", **LONG).iteration == steps
    panel.start()
    wait_until(lambda: panel.trainer.iteration > steps)
    panel.stop()
    assert len(panel.result().history.rows) > steps


@pytest.mark.parametrize(
    ("button", "reason"),
    [
        ("pause", "Cannot pause: the training has not started."),
        ("resume", "Cannot resume: the training has not started."),
        ("stop", "Cannot stop: the training has not started."),
    ],
)
def test_an_unusable_button_before_the_start_says_why(button, reason):
    panel = LivePanel(make_trainer())
    panel._buttons[button].click()
    assert reason in status(panel)
    assert panel.training.state == "ready"
    assert len(panel.result().history.rows) == 8


def test_unusable_buttons_during_training_say_why(endless):
    endless.start()
    endless.start()
    assert "Cannot start: the training is already running." in status(endless)
    endless.resume()
    assert "Cannot resume: the training is not paused." in status(endless)
    pause(endless)
    endless.pause()
    assert "Cannot pause: the training is already paused." in status(endless)


def test_unusable_buttons_after_the_end_say_why():
    panel = LivePanel(make_trainer())
    panel.result()
    for action, reason in (
        (panel.start, "the training is finished"),
        (panel.pause, "the training is over"),
        (panel.stop, "the training is over"),
        (lambda: panel.change(inner_rate=1.0), "Cannot change the recipe: the training"),
    ):
        action()
        assert reason in status(panel)


def test_result_resumes_a_paused_training():
    panel = LivePanel(make_trainer())
    panel.training.start()
    panel.training._pause.set()
    assert len(panel.result().history.rows) == 8


def test_stop_ends_a_pause(endless):
    endless.start()
    at = pause(endless)
    endless.stop()
    assert len(endless.result().history.rows) == at


def test_interrupting_the_wait_does_not_stop_the_training(monkeypatch, endless):
    def interrupt(self, timeout=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "join", interrupt)
    with pytest.raises(KeyboardInterrupt):
        endless.result()
    monkeypatch.undo()
    at = endless.trainer.iteration
    wait_until(lambda: endless.trainer.iteration > at + 2)


# Knobs


def test_every_control_has_a_visible_description():
    panel = LivePanel(make_trainer())
    controls = [*panel._buttons.values(), *panel._knobs.values()]
    assert all(control.description for control in controls)
    assert [button.description for button in panel._buttons.values()] == [
        *("Start", "Pause", "Resume", "Stop")
    ]
    assert panel._knobs["recipe"].label == "as given"


@pytest.mark.parametrize(
    ("knob", "value", "row"),
    [
        ("order", "first", {"field": "second_order_from"}),
        ("msl", True, {"field": "msl_epochs", "value": 2.0}),
        ("inner_rate", 0.4, {"field": "inner_rate", "value": 0.4}),
        ("outer_rate", 1e-4, {"field": "outer_rate", "value": 1e-4}),
        ("clip", 10, {"field": "clip_norm", "value": 10.0}),
    ],
)
def test_a_knob_turned_during_a_pause_acts_at_once_and_is_recorded(knob, value, row):
    panel = LivePanel(make_trainer(**LONG, epochs=2))
    panel.start()
    at = pause(panel)
    panel._knobs[knob].value = value
    wait_until(lambda: panel.trainer.changes.rows)
    panel.stop()
    changes = panel.result().changes.rows
    assert changes == [{"iteration": at + 1, "epoch": at / 100_000, **row}]
    assert panel._knobs[knob].value == value


def test_the_picture_marks_a_change():
    trainer = make_trainer()
    before = TrainingPicture().draw(trainer)
    trainer.change(clip_norm=5.0)
    marked = TrainingPicture().draw(trainer)
    upper_half = slice(0, before.shape[0] // 2)
    assert (marked[upper_half] != before[upper_half]).any()


def test_stages_summarise_the_effect_of_each_change():
    trainer = make_trainer()
    with trainer.alone():
        while not trainer.done:
            if trainer.iteration == 3:
                trainer.change(second_order_from=None, inner_rate=0.5)
                trainer.change(inner_rate=0.2)
            trainer.advance()
    trainer.change(inner_rate=0.3)  # after the last meta-step: no effect
    table = stages(trainer.result())
    assert list(table.index) == ["initial recipe", "first order, inner rate 0.2"]
    assert list(table["meta-steps"]) == [3, 5]
    norms = trainer.history.column("gradient_norm")
    assert list(table["largest gradient norm"]) == [max(norms[:3]), max(norms[3:])]


def test_turning_knobs_back_restores_the_recipe():
    panel = LivePanel(make_trainer(clip_value=10.0, second_order_from=1.0))
    for knob, value in (("clip", 1), ("clip", "recipe"), ("order", "first"), ("order", "recipe")):
        panel._knobs[knob].value = value
    assert panel.result().changes.rows
    assert panel.trainer.recipe == panel.trainer.initial_recipe


def test_a_rejected_knob_turns_back_and_says_why():
    panel = LivePanel(make_trainer(inner_rule="lslr"))
    panel._knobs["inner_rate"].value = 1.0
    assert "learns its rates" in status(panel)
    assert panel._knobs["inner_rate"].value == 0.1
    assert panel.result().changes.rows == []


def test_the_knobs_follow_a_change_made_in_code(endless):
    endless.start()
    endless.change(second_order_from=None, inner_rate=0.05)
    wait_until(lambda: endless._knobs["order"].value == "first")
    assert endless._knobs["inner_rate"].value == 0.05


def test_the_multi_step_loss_knob_turns_off_after_its_epochs():
    panel = LivePanel(make_trainer(msl_epochs=1.0))
    assert panel._knobs["msl"].value
    panel.result()
    assert not panel._knobs["msl"].value
    assert panel.trainer.changes.rows == []


def test_a_recipe_can_only_be_selected_before_the_start(tmp_path):
    panel = LivePanel(make_trainer(tmp_path / "a"))
    panel._knobs["recipe"].value = "maml++"
    run = panel.result()
    assert run.recipe.inner_rule == "lslr"
    assert (run.recipe.msl_epochs, run.recipe.epochs) == (0.2, 2)
    assert run.directory == tmp_path / "a-maml++"
    panel._knobs["recipe"].value = "fomaml"
    assert "A recipe can only be selected before training starts." in status(panel)
    assert panel.result() is run


def test_every_method_applies_to_every_recipe():
    for name in mamlpp.RECIPES:
        assert with_method(mamlpp.RECIPES[name], name) == mamlpp.RECIPES[name]
        assert with_method(RECIPE, name).filters == RECIPE.filters


# Errors and restarts


def test_an_error_is_shown_and_raised_and_start_continues_after_it(monkeypatch):
    panel = LivePanel(make_trainer())
    break_step(monkeypatch, panel.trainer, at=3, error=RuntimeError("no memory left"))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no memory left"):
            panel.result()
    assert "Training failed: RuntimeError: no memory left." in status(panel)
    assert panel._text().startswith("Failed: iteration 3 of 8")
    monkeypatch.undo()
    panel.start()
    run = panel.result()
    assert torch.equal(weights(run.learner), weights(make_trainer().fit().learner))


def test_a_recipe_that_stops_at_a_non_finite_gradient_says_so(monkeypatch):
    panel = LivePanel(make_trainer(nonfinite="stop"))
    bad = torch.tensor(torch.nan), torch.tensor(0.0)
    monkeypatch.setattr(maml, "gradient_norm", lambda learner: bad)
    monkeypatch.setattr(maml, "first_nonfinite", lambda learner: "a weight")
    with pytest.raises(mamlpp.InputError, match="iteration 1 is not finite, first in a weight"):
        panel.result()
    assert "Training failed: the meta-gradient of iteration 1 is not finite" in status(panel)


def test_a_failed_picture_does_not_stop_the_run(monkeypatch, shown):
    panel = LivePanel(make_trainer(), min_interval=0)

    def fail():
        raise RuntimeError("no font")

    monkeypatch.setattr(panel, "picture", fail)
    assert len(panel.result().history.rows) == 8
    assert "display could not be updated (RuntimeError: no font)" in panel.training.warning


def test_two_panels_on_one_trainer_show_one_training(endless):
    endless.start()
    second = LivePanel(endless.trainer)
    assert second.training is endless.training
    assert "This training is now shown in another panel." in status(endless)
    pause(second)
    assert "Paused" in status(second)
    second.stop()
    assert second.result() is endless.result()


def test_a_new_panel_can_draw_during_training(endless):
    endless.start()
    wait_until(lambda: endless.trainer.iteration > 0)
    assert LivePanel(endless.trainer).picture()[0].startswith(b"\x89PNG")
    assert endless.training.active
    assert endless.training.warning == ""


def test_fit_is_rejected_while_a_panel_trains(endless):
    endless.start()
    wait_until(lambda: endless.trainer.iteration > 0)
    with pytest.raises(mamlpp.InputError, match="at work in another thread"):
        endless.trainer.fit()


KILLED = """
import os, sys
from mamlpp import *
print(*sys.modules)
sys.path.insert(0, sys.argv[1])
import test_live

panel = test_live.LivePanel(test_live.make_trainer(sys.argv[2]))
panel.start()
panel.training.change(inner_rate=0.02)
listen = panel.training.listener
def die():
    listen()
    if panel.trainer.iteration == 6:
        sys.stdout.flush()
        os._exit(9)
panel.training.listener = die
panel.result()
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A kernel that is killed while it trains: its run folder and its output."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    here = Path(__file__).parent
    command = [sys.executable, "-c", KILLED, str(here), str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=here.parents[1])
    assert ended.returncode == 9, ended.stderr
    return folder, ended.stdout


def test_a_new_panel_finishes_the_run_of_a_killed_kernel_bit_for_bit(killed):
    folder, _ = killed
    panel = LivePanel(make_trainer(folder))
    assert panel.trainer.iteration in (4, 6)
    run, other = panel.result(), make_trainer()
    first = run.changes.rows[0]["iteration"]
    assert panel.trainer.recipe.inner_rate == 0.02
    with other.alone():
        while not other.done:
            if other.iteration == first - 1:
                other.change(inner_rate=0.02)
            other.advance()
    assert torch.equal(weights(run.learner), weights(other.result().learner))
    assert run.history.column("loss") == other.history.column("loss")


# One at a time: the same cell again, another cell, the same folder


@pytest.fixture
def notebook(monkeypatch):
    """A function that runs a cell, given its ID: the code is a function without arguments."""
    shell = SimpleNamespace(execution_count=0, cell=None)
    shell.get_parent = lambda: {"metadata": {"cellId": shell.cell}}
    monkeypatch.setattr(live, "get_ipython", lambda: shell)
    monkeypatch.setattr(live, "display", lambda *_, **__: None)

    def run(cell, code):
        shell.execution_count, shell.cell = shell.execution_count + 1, cell
        return code()

    yield run
    for panel in list(live._PANELS):
        panel.training.displace()


def trains(panel):
    """Whether it is still at it, once what was asked of it has been done."""
    wait_until(lambda: not panel.training.pending_request)
    return panel.training.state == "running"


def start_long(directory=None):
    panel = LivePanel(make_trainer(directory, **LONG))
    panel.start()
    wait_until(lambda: panel.trainer.iteration > 2)
    return panel


def test_a_training_that_starts_stops_the_one_before_and_waits_for_it(tmp_path):
    first, second = start_long(tmp_path / "a"), LivePanel(make_trainer(**LONG))
    at_work = threading.Lock()  # taken by one meta-step at a time, or the test fails
    for trainer in (first.trainer, second.trainer):
        trainer.step = alone(at_work, trainer.step)
    second.start()
    wait_until(lambda: second.trainer.iteration > 2)
    assert first.training.state == "stopped"
    assert not first.training._thread.is_alive()
    assert "Stopped, because another training was started in this notebook." in status(first)
    steps = first.trainer.iteration
    assert list((tmp_path / "a").glob(f"checkpoint-{steps:08}*"))
    with pytest.warns(mamlpp.InputWarning, match="stopped before its end, because another one"):
        assert len(first.result().history.rows) == steps

    first.start()  # and back again
    wait_until(lambda: first.trainer.iteration > steps + 2)
    assert second.training.state == "stopped"
    assert "because another" not in status(first)
    first.stop()
    first.result()
    for panel in (first, second):
        assert panel.training.error is None
        assert panel.training.warning == ""


def alone(lock, step):
    def locked():
        assert lock.acquire(blocking=False), "two trainings at the same time"
        try:
            return step()
        finally:
            lock.release()

    return locked


def test_many_starts_in_a_row_leave_one_training():
    panels = [LivePanel(make_trainer(**LONG)) for _ in range(4)]
    for panel in panels:
        panel.start()
    wait_until(lambda: panels[-1].trainer.iteration > 2)
    assert [panel.training.state for panel in panels] == ["stopped"] * 3 + ["running"]
    assert sum(thread.name == "mamlpp training" for thread in threading.enumerate()) == 1
    panels[-1].stop()
    panels[-1].result()


def test_a_paused_training_is_stopped_too(endless):
    endless.start()
    at = pause(endless)
    second = LivePanel(make_trainer())
    second.result()
    assert (endless.training.state, endless.trainer.iteration) == ("stopped", at)


def test_the_end_of_a_training_is_not_changed_by_another():
    first, second = LivePanel(make_trainer()), LivePanel(make_trainer())
    first.result()
    second.result()
    assert [panel.training.state for panel in (first, second)] == ["finished"] * 2
    assert "Finished" in status(first)


def test_a_cell_that_is_run_again_stops_its_training_before_the_new_one_starts(notebook):
    first = notebook("a", start_long)
    again = notebook("a", lambda: LivePanel(make_trainer(**LONG)))
    wait_until(lambda: first.training.state == "stopped")
    assert again.training.state == "ready"
    assert first.box.comm is None  # Its widgets are gone, and the new ones are not.
    assert again.box.comm is not None


def test_another_cell_stops_nothing_until_it_starts(notebook):
    first = notebook("a", start_long)
    other = notebook("b", lambda: LivePanel(make_trainer(**LONG)))
    assert trains(first)
    other.start()
    wait_until(lambda: first.training.state == "stopped")
    assert first.box.comm is not None
    assert "Stopped, because another training" in status(first)


def test_a_cell_that_shows_the_same_training_again_does_not_stop_it(notebook):
    first = notebook("a", start_long)
    again = notebook("a", lambda: LivePanel(first.trainer))
    assert again.training is first.training
    assert trains(again)
    notebook("c", again._ipython_display_)
    assert trains(again)


def test_a_panel_that_another_cell_shows_too_keeps_its_buttons(notebook):
    first = notebook("a", start_long)
    notebook("b", first._ipython_display_)
    notebook("a", lambda: LivePanel(make_trainer()))
    wait_until(lambda: first.training.state == "stopped")
    assert first.box.comm is not None


def test_two_panels_of_one_cell_live_side_by_side(notebook):
    panels = notebook("a", lambda: [LivePanel(make_trainer()) for _ in range(2)])
    assert all(panel.box.comm is not None for panel in panels)


def test_a_cell_that_is_run_again_with_a_folder_continues_there(notebook, tmp_path):
    first = notebook("a", lambda: start_long(tmp_path / "run"))
    again = notebook("a", lambda: start_long(tmp_path / "run"))
    assert first.training.state == "stopped"
    assert "Stopped, because another trainer continues this training" in status(first)
    at = first.trainer.iteration
    wait_until(lambda: len(again.trainer.history.rows) > at + 1)
    assert again.trainer.history.column("iteration")[: at + 2] == [*range(1, at + 3)]
    first.start()  # What it knows of the folder is out of date.
    assert "Cannot start: another trainer has taken over the folder." in status(first)
    assert trains(again)


def test_another_recipe_in_the_folder_of_a_training_does_not_stop_it(notebook, tmp_path):
    first = notebook("a", lambda: start_long(tmp_path / "run"))
    with pytest.raises(mamlpp.InputError):
        make_trainer(tmp_path / "run", **LONG, inner_rate=0.3)
    assert trains(first)


def test_a_comparison_counts_as_one_training(endless):
    endless.start()
    trainers = [make_trainer(second_order_from=order) for order in (0.0, None)]
    panel = compare(trainers)
    runs = panel.result()
    assert [len(run.history.rows) for run in runs.values()] == [8, 8]
    assert panel.training.state == "finished"
    assert endless.training.state == "stopped"


def test_nothing_is_left_of_a_cell_that_is_run_again(notebook, tmp_path):
    def watched():
        panel = start_long(tmp_path / "run")
        return [weakref.ref(each) for each in (panel, panel.training, panel.trainer)]

    old = notebook("a", watched)
    thread = old[1]()._thread
    notebook("a", lambda: LivePanel(make_trainer()))
    thread.join(30)
    del thread
    gc.collect()
    assert [reference() for reference in old] == [None] * 3


def test_the_processes_of_a_training_end_with_it(monkeypatch):
    panel, ended = LivePanel(make_trainer()), []
    monkeypatch.setattr(panel.trainer.engine, "dismiss", lambda: ended.append(True))
    panel.result()
    assert ended == [True]


# Overhead


@pytest.mark.parametrize("step", [0.001, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("picture", [0.02, 0.2, 3.0])
def test_pictures_take_at_most_a_tenth_of_the_time(step, picture, monkeypatch, shown):
    now = [100.0]
    monkeypatch.setattr(live, "time", SimpleNamespace(monotonic=lambda: now[0]))
    panel, frames = LivePanel(make_trainer()), []

    def draw():
        now[0] += picture
        frames.append(now[0])
        return b"", ""

    monkeypatch.setattr(panel, "picture", draw)
    panel.training.state = "running"
    begin = now[0]
    while now[0] < begin + max(5, 60 * max(step, picture)):
        now[0] += step
        panel._on_update()
    assert len(frames) >= 2
    assert len(frames) * picture <= 0.1 * (now[0] - begin)
    assert min(b - a for a, b in pairwise(frames)) >= 1.0
    panel.training.state = "ready"


def test_only_a_panel_diagnoses_the_gradient_now_and_then(monkeypatch):
    calls, diagnose = [], training.diagnose

    def count(*args):
        calls.append(1)
        return diagnose(*args)

    monkeypatch.setattr(training, "diagnose", count)
    make_trainer().fit()
    assert not calls
    panel = LivePanel(make_trainer())
    panel.result()
    assert 1 <= len(calls) < 8
    assert panel.trainer.diagnosis is not None
    assert panel.trainer.diagnose_every is None


def test_importing_the_package_does_not_import_the_panel(killed):
    _, modules = killed
    assert "mamlpp.run.trainer" in modules.split()
    for name in ("mamlpp.show.live", "mamlpp.run.background", "ipywidgets", "IPython"):
        assert name not in modules.split()


# Comparison


@pytest.mark.parametrize("interleaved", [True, False])
def test_compared_trainings_match_separate_ones(interleaved):
    orders = {"second order": 0.0, "first order": None}
    trainers = [make_trainer(second_order_from=order) for order in orders.values()]
    panel = compare(trainers, interleaved)
    iterations = []
    panel.training.listener = lambda: iterations.append(
        tuple(trainer.iteration for trainer in panel.training.trainers)
    )
    runs = panel.result()
    assert list(runs) == list(orders)
    for name, order in orders.items():
        alone = make_trainer(second_order_from=order).fit()
        assert torch.equal(weights(runs[name].learner), weights(alone.learner))
    assert ((4, 4) in iterations) == interleaved
    assert ((8, 0) in iterations) != interleaved


def test_a_comparison_has_a_picture_and_a_text():
    panel = compare([make_trainer(pooling=kind, filters=4) for kind in ("max", "stride")])
    panel.result()
    png, text = panel.picture()
    assert Image.open(BytesIO(png)).size == (900, 450)
    assert text.startswith("Finished. pooling max: iteration 8 of 8")
    assert "pooling stride: iteration 8 of 8" in text


def test_invalid_comparisons_are_rejected():
    def message(*trainers):
        with pytest.raises(mamlpp.InputError) as error:
            compare(trainers)
        return str(error.value)

    one = make_trainer()
    assert "compare takes two to four trainers, not 1" in message(one)
    assert "not 5" in message(*[one] * 5)
    assert "the recipe seeds differ (0, 3)" in message(one, make_trainer(seed=3))
    other = mamlpp.Trainer(RECIPE, sampler("train", seed=1), sampler("validation"))
    assert "the training task seeds differ (0, 1)" in message(one, other)


def test_identical_recipes_are_numbered():
    assert compare([make_trainer(), make_trainer()]).names == ["1", "2"]


def test_all_callers_share_one_background_per_trainer():
    trainer = make_trainer()
    background = Background.for_trainer(trainer)
    assert background is Background.for_trainer(trainer)
    assert background is not Background.for_trainer(make_trainer())


# Regression, and learners of one's own


def on_waves(rate=0.02):
    recipe = RECIPE.with_(inner_rate=rate)
    network = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    learner = mamlpp.MetaLearner(recipe, network=network, loss=torch.nn.functional.mse_loss)
    waves = [mamlpp.SinusoidSampler(shots=2, queries=2, seed=seed) for seed in range(2)]
    return mamlpp.Trainer(recipe, *waves, diagnose_every=2, learner=learner)


def test_a_regression_is_watched_by_its_loss(monkeypatch):
    drawn = []
    plot = live_picture.plot_training

    def noted(history, ax, column):
        drawn.append((history, column))
        return plot(history, ax, column)

    monkeypatch.setattr(live_picture, "plot_training", noted)
    panel = LivePanel(on_waves())
    panel.result()
    trainers = [on_waves(), on_waves(0.01)]
    compare(trainers).result()
    TrainingPicture().draw(panel.trainer)
    ComparisonPicture(["A", "B"]).draw(trainers)
    for trainer in (panel.trainer, *trainers):
        assert {column for history, column in drawn if history is trainer.history} == {"loss"}


def test_another_recipe_is_refused_for_a_learner_of_ones_own():
    panel = LivePanel(on_waves())
    panel._knobs["recipe"].value = "maml++"
    assert "own learner and optimizer alone" in status(panel)
    assert panel._knobs["recipe"].value == ""


def test_another_recipe_keeps_callbacks_and_patience():
    seen = []
    trainer = make_trainer()
    trainer.callbacks, trainer.patience = [lambda trainer, row: seen.append(row)], 7
    panel = LivePanel(trainer)
    panel._knobs["recipe"].value = "fomaml"
    assert panel.trainer.patience == 7
    assert len(panel.result().history.rows) == len(seen)
