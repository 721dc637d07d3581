"""A training on its own thread, and the panel that shows and steers it: no run is ever lost."""

import subprocess
import sys
import threading
import time
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

import mamlpp
from mamlpp.run import trainer as training
from mamlpp.run.background import Background
from mamlpp.show import live
from mamlpp.show.knobs import method
from mamlpp.show.live import LivePanel, compare, stages
from mamlpp.show.live_picture import FourPanels, status

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


def wait(for_what):
    until = time.monotonic() + 30
    while not for_what():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.005)


def paused(panel):
    """The iteration at which it rests."""
    panel.pause()
    wait(lambda: panel.training.state == "paused")
    return panel.trainer.iteration


def said(panel):
    return panel._note.value


def break_step(monkeypatch, trainer, at, error):
    step = trainer.step

    def broken():
        if trainer.iteration == at:
            raise error
        return step()

    monkeypatch.setattr(trainer, "step", broken)


@pytest.fixture
def shown(monkeypatch):
    """What a notebook shows, by display id: of each, all that was there one after the other."""
    outputs = {}

    def display(data, display_id=None, **_):
        outputs.setdefault(display_id, []).append(data)

    monkeypatch.setattr(live, "get_ipython", lambda: SimpleNamespace(execution_count=1))
    monkeypatch.setattr(live, "display", display)
    return outputs


@pytest.fixture
def endless():
    """A panel whose training does not end by itself, and which is stopped after the test."""
    panel = LivePanel(make_trainer(**LONG))
    yield panel
    if panel.training.alive:
        panel.stop()
    panel.result()


# From start to end


def test_it_trains_on_another_thread_to_what_fit_gives():
    fitted = make_trainer().fit()
    panel = LivePanel(make_trainer())
    run = panel.result()
    assert torch.equal(weights(run.learner), weights(fitted.learner))
    assert run.history.column("loss") == fitted.history.column("loss")
    assert panel.training.state == "finished"
    assert "Done" in said(panel)


def test_result_twice_is_the_same_run_and_trains_once():
    panel = LivePanel(make_trainer())
    assert panel.result() is panel.result()
    assert len(panel.result().history.rows) == 8


def test_the_picture_of_the_end_stays_in_the_cell(shown):
    panel = LivePanel(make_trainer(), seconds=0)
    panel.result()
    [pictures] = [all_ for name, all_ in shown.items() if name and name.endswith("picture")]
    first, last = pictures[0], pictures[-1]
    assert "iteration 0 of 8" in first["text/plain"]
    assert "Done: iteration 8 of 8, epoch 2.0 of 2" in last["text/plain"]
    assert first["image/png"] != last["image/png"]


def test_it_says_in_words_how_things_stand():
    trainer = make_trainer(second_order_from=1.0)
    assert status(trainer).startswith("iteration 0 of 8, epoch 0.0 of 2; first order; no steps not")
    with trainer.alone():
        for _ in range(4):
            trainer.advance()
    trainer.history.rows[-1]["nonfinite"] = "a weight"
    words = status(trainer)
    for part in ("4 of 8", "tasks a second", "s left", "second order", "1 step not finite", "CPU"):
        assert part in words
    assert words.endswith(" MB")


# Buttons


def test_paused_it_stands_still_and_resumed_it_goes_on(endless):
    endless.start()
    at = paused(endless)
    time.sleep(0.1)
    assert endless.trainer.iteration == at
    assert "Paused" in said(endless)
    endless.resume()
    wait(lambda: endless.trainer.iteration > at)


def test_stop_ends_after_the_step_and_start_goes_on(tmp_path):
    panel = LivePanel(make_trainer(tmp_path / "a", **LONG))
    panel.start()
    wait(lambda: panel.trainer.iteration > 3)
    panel.stop()
    steps = len(panel.result().history.rows)
    assert panel.training.state == "stopped"
    assert list((tmp_path / "a").glob(f"checkpoint-{steps:08}*"))
    assert make_trainer(tmp_path / "a", **LONG).iteration == steps
    panel.start()
    wait(lambda: panel.trainer.iteration > steps)
    panel.stop()
    assert len(panel.result().history.rows) > steps


@pytest.mark.parametrize(
    ("button", "reason"),
    [
        ("pause", "It cannot be paused: the training has not begun."),
        ("resume", "It cannot be resumed: the training has not begun."),
        ("stop", "It cannot be stopped: the training has not begun."),
    ],
)
def test_a_button_that_cannot_act_before_the_start_says_why(button, reason):
    panel = LivePanel(make_trainer())
    panel._buttons[button].click()
    assert reason in said(panel)
    assert panel.training.state == "ready"
    assert len(panel.result().history.rows) == 8


def test_buttons_that_cannot_act_while_it_runs_say_why(endless):
    endless.start()
    endless.start()
    assert "it is training already" in said(endless)
    endless.resume()
    assert "it is not paused" in said(endless)
    paused(endless)
    endless.pause()
    assert "It cannot be paused: it is already." in said(endless)


def test_buttons_that_cannot_act_after_the_end_say_why():
    panel = LivePanel(make_trainer())
    panel.result()
    for act, reason in (
        (panel.start, "the training is done"),
        (panel.pause, "the training is over"),
        (panel.stop, "the training is over"),
        (lambda: panel.change(inner_rate=1.0), "Nothing can be changed: the training is done."),
    ):
        act()
        assert reason in said(panel)


def test_result_resumes_what_is_paused():
    panel = LivePanel(make_trainer())
    panel.training.start()
    panel.training._pause.set()
    assert len(panel.result().history.rows) == 8


def test_stop_ends_a_pause(endless):
    endless.start()
    at = paused(endless)
    endless.stop()
    assert len(endless.result().history.rows) == at


def test_interrupting_the_wait_leaves_the_training_be(monkeypatch, endless):
    def interrupt(self, timeout=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "join", interrupt)
    with pytest.raises(KeyboardInterrupt):
        endless.result()
    monkeypatch.undo()
    at = endless.trainer.iteration
    wait(lambda: endless.trainer.iteration > at + 2)


# Knobs


def test_every_control_has_a_visible_name():
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
def test_a_knob_turned_in_a_pause_acts_at_once_and_is_recorded(knob, value, row):
    panel = LivePanel(make_trainer(**LONG, epochs=2))
    panel.start()
    at = paused(panel)
    panel._knobs[knob].value = value
    wait(lambda: panel.trainer.changes.rows)
    panel.stop()
    changes = panel.result().changes.rows
    assert changes == [{"iteration": at + 1, "epoch": at / 100_000, **row}]
    assert panel._knobs[knob].value == value


def test_a_change_is_a_mark_in_the_picture():
    trainer = make_trainer()
    before = FourPanels().draw(trainer)
    trainer.change(clip_norm=5.0)
    marked = FourPanels().draw(trainer)
    upper = slice(0, before.shape[0] // 2)
    assert (marked[upper] != before[upper]).any()


def test_stages_say_what_came_of_each_change():
    trainer = make_trainer()
    with trainer.alone():
        while not trainer.done:
            if trainer.iteration == 3:
                trainer.change(second_order_from=None, inner_rate=0.5)
                trainer.change(inner_rate=0.2)
            trainer.advance()
    trainer.change(inner_rate=0.3)  # after the last meta-step: nothing came of it
    table = stages(trainer.result())
    assert list(table.index) == ["as begun", "first order, inner rate 0.2"]
    assert list(table["steps"]) == [3, 5]
    norms = trainer.history.column("gradient_norm")
    assert list(table["greatest_norm"]) == [max(norms[:3]), max(norms[3:])]


def test_turned_back_to_the_recipe_it_is_as_the_recipe():
    panel = LivePanel(make_trainer(clip_value=10.0, second_order_from=1.0))
    for knob, value in (("clip", 1), ("clip", "recipe"), ("order", "first"), ("order", "recipe")):
        panel._knobs[knob].value = value
    assert panel.result().changes.rows
    assert panel.trainer.recipe == panel.trainer.initial_recipe


def test_a_knob_that_cannot_be_turned_says_why_and_turns_back():
    panel = LivePanel(make_trainer(inner_rule="lslr"))
    panel._knobs["inner_rate"].value = 1.0
    assert "the rule lslr learns its rates" in said(panel)
    assert panel._knobs["inner_rate"].value == 0.1
    assert panel.result().changes.rows == []


def test_a_change_made_in_code_is_shown_by_the_knobs(endless):
    endless.start()
    endless.change(second_order_from=None, inner_rate=0.05)
    wait(lambda: endless._knobs["order"].value == "first")
    assert endless._knobs["inner_rate"].value == 0.05


def test_the_knob_of_the_multi_step_loss_goes_off_when_its_epochs_are_over():
    panel = LivePanel(make_trainer(msl_epochs=1.0))
    assert panel._knobs["msl"].value
    panel.result()
    assert not panel._knobs["msl"].value
    assert panel.trainer.changes.rows == []


def test_a_recipe_is_chosen_before_the_start_and_not_after(tmp_path):
    panel = LivePanel(make_trainer(tmp_path / "a"))
    panel._knobs["recipe"].value = "maml++"
    run = panel.result()
    assert run.recipe.inner_rule == "lslr"
    assert (run.recipe.msl_epochs, run.recipe.epochs) == (0.2, 2)
    assert run.directory == tmp_path / "a-maml++"
    panel._knobs["recipe"].value = "fomaml"
    assert "A recipe can only be chosen before the start." in said(panel)
    assert panel.result() is run


def test_every_method_fits_every_length():
    for name in mamlpp.RECIPES:
        assert method(mamlpp.RECIPES[name], name) == mamlpp.RECIPES[name]
        assert method(RECIPE, name).filters == RECIPE.filters


# Never lost


def test_an_error_is_said_in_words_and_raised_and_start_goes_on_after_it(monkeypatch):
    panel = LivePanel(make_trainer())
    break_step(monkeypatch, panel.trainer, at=3, error=RuntimeError("no memory left"))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no memory left"):
            panel.result()
    assert "The training ended with an error. RuntimeError: no memory left." in said(panel)
    assert panel._words().startswith("Ended with an error: iteration 3 of 8")
    monkeypatch.undo()
    panel.start()
    run = panel.result()
    assert torch.equal(weights(run.learner), weights(make_trainer().fit().learner))


def test_a_recipe_that_stops_at_a_bad_gradient_says_so(monkeypatch):
    panel = LivePanel(make_trainer(nonfinite="stop"))
    monkeypatch.setattr(panel.trainer, "_nothing", lambda: torch.tensor(torch.nan))
    monkeypatch.setattr(panel.trainer, "_first_nonfinite", lambda: "a weight")
    with pytest.raises(mamlpp.InputError, match="iteration 1 is not finite, first in a weight"):
        panel.result()
    assert "error. the meta-gradient of iteration 1 is not finite" in said(panel)


def test_a_picture_that_fails_costs_no_run(monkeypatch, shown):
    panel = LivePanel(make_trainer(), seconds=0)

    def fail():
        raise RuntimeError("no ink")

    monkeypatch.setattr(panel, "picture", fail)
    assert len(panel.result().history.rows) == 8
    assert "the picture could not be drawn (RuntimeError: no ink)" in panel.training.note


def test_two_panels_on_one_trainer_show_one_training(endless):
    endless.start()
    second = LivePanel(endless.trainer)
    assert second.training is endless.training
    assert "This training is shown in another panel now." in said(endless)
    paused(second)
    assert "Paused" in said(second)
    second.stop()
    assert second.result() is endless.result()


def test_a_panel_made_anew_while_it_trains_draws_beside_it(endless):
    endless.start()
    wait(lambda: endless.trainer.iteration > 0)
    assert LivePanel(endless.trainer).picture()[0].startswith(b"\x89PNG")
    assert endless.training.alive
    assert endless.training.note == ""


def test_fit_while_a_panel_trains_is_refused(endless):
    endless.start()
    wait(lambda: endless.trainer.iteration > 0)
    with pytest.raises(mamlpp.InputError, match="at work in another thread"):
        endless.trainer.fit()


KILLED = """
import os, sys
import mamlpp
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
    """A kernel that dies while it trains: the folder it leaves, and what it said before."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    here = Path(__file__).parent
    command = [sys.executable, "-c", KILLED, str(here), str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=here.parents[1])
    assert ended.returncode == 9, ended.stderr
    return folder, ended.stdout


def test_a_killed_kernel_leaves_a_run_that_a_new_panel_ends_bit_by_bit(killed):
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


# What it costs


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
        panel._listen()
    assert len(frames) >= 2
    assert len(frames) * picture <= 0.1 * (now[0] - begin)
    assert min(b - a for a, b in pairwise(frames)) >= 1.0
    panel.training.state = "ready"


def test_the_gradient_is_followed_now_and_then_and_not_without_a_panel(monkeypatch):
    looks, look = [], training.diagnose

    def count(*args):
        looks.append(1)
        return look(*args)

    monkeypatch.setattr(training, "diagnose", count)
    make_trainer().fit()
    assert not looks
    panel = LivePanel(make_trainer())
    panel.result()
    assert 1 <= len(looks) < 8
    assert panel.trainer.diagnosis is not None
    assert panel.trainer.diagnose_every is None


def test_the_package_alone_loads_nothing_of_it(killed):
    _, modules = killed
    assert "mamlpp.run.trainer" in modules.split()
    for name in ("mamlpp.show.live", "mamlpp.run.background", "ipywidgets", "IPython"):
        assert name not in modules.split()


# Side by side


@pytest.mark.parametrize("together", [True, False])
def test_trainings_side_by_side_are_what_each_alone_is(together):
    orders = {"second order": 0.0, "first order": None}
    panel = compare([make_trainer(second_order_from=order) for order in orders.values()], together)
    seen = []
    panel.training.listener = lambda: seen.append(
        tuple(trainer.iteration for trainer in panel.training.trainers)
    )
    runs = panel.result()
    assert list(runs) == list(orders)
    for name, order in orders.items():
        alone = make_trainer(second_order_from=order).fit()
        assert torch.equal(weights(runs[name].learner), weights(alone.learner))
    assert ((4, 4) in seen) == together
    assert ((8, 0) in seen) != together


def test_side_by_side_has_a_picture_and_words():
    panel = compare([make_trainer(pooling=kind, filters=4) for kind in ("max", "stride")])
    panel.result()
    png, words = panel.picture()
    assert Image.open(BytesIO(png)).size == (900, 450)
    assert words.startswith("Done. pooling max: iteration 8 of 8")
    assert "pooling stride: iteration 8 of 8" in words


def test_what_cannot_be_compared_is_refused():
    def refused(*trainers):
        with pytest.raises(mamlpp.InputError) as error:
            compare(trainers)
        return str(error.value)

    one, shared = make_trainer(), sampler("train")
    assert "two to four trainings can be compared, not 1" in refused(one)
    assert "not 5" in refused(*[one] * 5)
    two = [mamlpp.Trainer(RECIPE, shared, sampler("validation")) for _ in range(2)]
    assert "two trainers draw from one sampler" in refused(*two)
    assert "seeds of the recipe differ (0, 3)" in refused(one, make_trainer(seed=3))
    other = mamlpp.Trainer(RECIPE, sampler("train", seed=1), sampler("validation"))
    assert "seeds of the training tasks differ (0, 1)" in refused(one, other)


def test_what_differs_in_nothing_has_a_number():
    assert compare([make_trainer(), make_trainer()]).names == ["1", "2"]


def test_one_background_for_all_who_ask():
    trainer = make_trainer()
    assert Background.of(trainer) is Background.of(trainer) is not Background.of(make_trainer())
