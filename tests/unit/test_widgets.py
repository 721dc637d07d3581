"""Explorers: each control changes picture and words, and the words have training's own numbers."""

import base64
import copy
import re
import threading

import nbformat
import numpy as np
import papermill
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook

import mamlpp
from mamlpp import RECIPES, InputError, schedules
from mamlpp.run.history import History
from mamlpp.show import schedule_plots, widgets

PNG = b"\x89PNG\r\n\x1a\n"
BUILDERS = {
    "msl": widgets.msl_explorer,
    "order": widgets.order_explorer,
    "cosine": widgets.cosine_explorer,
    "rates": widgets.rates_explorer,
    "batch_norm": widgets.batch_norm_explorer,
    "graph": widgets.graph_explorer,
    "board": widgets.recipe_board,
    "landscape": widgets.landscape_explorer,
}
by_explorer = pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)


def turn(control):
    """Another value of any control."""
    if isinstance(control.value, bool):
        control.value = not control.value
    elif hasattr(control, "options"):
        values = [option[1] if isinstance(option, tuple) else option for option in control.options]
        control.value = next(value for value in values if value != control.value)
    elif hasattr(control, "base"):
        control.value = control.value / 10
    else:
        quarter = control.min + (control.max - control.min) / 4
        quarter = quarter if isinstance(control.value, float) else round(quarter)
        control.value = quarter if quarter != control.value else control.max


def numbers(words):
    return [float(found) for found in re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", words)]


@pytest.fixture
def shown(monkeypatch):
    """What an explorer shows and updates, as (mime bundle, metadata), without a notebook."""
    outputs = []

    class Handle:
        def update(self, data, raw, metadata):
            outputs.append((data, metadata, threading.current_thread()))

    def show(data, raw, metadata=None, display_id=False):
        outputs.append((data, metadata, threading.current_thread()))
        return Handle() if display_id else None

    monkeypatch.setattr(widgets, "display", show)
    return outputs


# All of them


@by_explorer
def test_every_control_changes_the_picture_and_the_words(build):
    for name in build().controls:
        explorer = build()
        before, words = explorer.picture()
        assert before.startswith(PNG)
        assert len(words) > 40
        turn(explorer.controls[name])
        picture, other_words = explorer.picture()
        assert picture != before, name
        assert other_words != words, name


@by_explorer
def test_every_control_has_a_name_of_its_own_in_view(build):
    names = [control.description for control in build().controls.values()]
    assert all(names)
    assert len(set(names)) == len(names)


@by_explorer
def test_words_are_whole_and_stay_inside_the_picture(build):
    explorer = build()
    with widgets.matplotlib.rc_context():
        widgets.use_style()
        figure, words = explorer.draw(**explorer.values)
        drawn = words.partition("\n")[0]
        widgets._write_caption(figure, drawn)
        figure.draw_without_rendering()
        caption = figure.texts[-1]
        box = caption.get_window_extent()
        assert " ".join(caption.get_text().split()) == drawn
        assert box.x1 < figure.bbox.x1
        below = [ax.get_tightbbox().y0 for ax in figure.axes if ax.axison]
        assert all(box.y1 < y for y in below)


def test_shown_are_the_controls_and_a_picture_with_its_words(shown):
    explorer = widgets.msl_explorer()
    explorer._ipython_display_()
    controls, picture = shown
    assert "application/vnd.jupyter.widget-view+json" in controls[0]
    data, metadata, _ = picture
    png, words = explorer.picture()
    assert base64.b64decode(data["image/png"]) == png
    assert data["text/plain"] == metadata["image/png"]["alt"] == words
    assert words in explorer._words.value


def test_a_turned_knob_updates_every_view_from_any_thread(shown):
    explorer = widgets.msl_explorer()
    explorer._ipython_display_()
    explorer._ipython_display_()
    del shown[:]
    thread = threading.Thread(target=lambda: turn(explorer.controls["steps"]))
    thread.start()
    thread.join()
    assert [output[2] for output in shown] == [thread, thread]
    assert shown[0][0]["text/plain"] == explorer.picture()[1]


def test_an_explorer_that_is_not_shown_draws_nothing(shown):
    turn(widgets.msl_explorer().controls["steps"])
    assert not shown


def test_what_is_not_possible_is_said(shown):
    explorer = widgets.cosine_explorer()
    explorer.controls["minimum"].value = 0.1
    png, words = explorer.picture()
    assert png.startswith(PNG)
    assert words.startswith("Not possible: outer_rate_min 0.1 is above outer_rate 0.001")


def test_pictures_do_not_depend_on_the_style_around_them():
    explorer = widgets.msl_explorer()
    before, _ = explorer.picture()
    with widgets.matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black"}):
        assert explorer.picture()[0] == before
        assert widgets.matplotlib.rcParams["font.size"] == 30


def test_an_executed_notebook_keeps_every_picture(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(next(iter(mamlpp.__path__)) + "/.."))
    names = [build.__name__ for build in BUILDERS.values()]
    cells = ["from mamlpp.show import widgets"] + [f"widgets.{name}()" for name in names]
    cells[1] = "explorer = widgets.msl_explorer()\nexplorer"
    cells.append("explorer.controls['steps'].value = 3")
    nbformat.write(
        new_notebook(cells=[new_code_cell(cell) for cell in cells]), tmp_path / "a.ipynb"
    )
    executed = papermill.execute_notebook(
        tmp_path / "a.ipynb", tmp_path / "b.ipynb", kernel_name="python3", progress_bar=False
    )
    for name, cell in zip(names, executed.cells[1:-1], strict=True):
        pictures = [out for out in cell.outputs if "image/png" in out.get("data", {})]
        assert len(pictures) == 1, name
        assert base64.b64decode(pictures[0].data["image/png"]).startswith(PNG)
        assert len(pictures[0].data["text/plain"]) > 40
    # The knob turned in the last cell changed the picture in the second.
    assert "last of 3 inner steps" in executed.cells[1].outputs[-1].data["text/plain"]


# The words of each have the numbers of training


@pytest.mark.parametrize(("epoch", "floor"), [(0.0, 0.0), (6.0, 0.1), (30.0, 0.3)])
def test_msl_says_the_schedules_weights(epoch, floor):
    explorer = widgets.msl_explorer()
    explorer.choose({"epoch": epoch, "floor": floor, "steps": 4})
    weights = schedules.step_weights(4, 15, floor / 4, epoch)
    said = numbers(explorer.picture()[1])
    assert said[:2] == [epoch, 4]
    assert (said[2], said[4]) == pytest.approx((weights[-1], weights[0]), rel=0.01)


def test_msl_says_when_the_last_loss_is_alone():
    explorer = widgets.msl_explorer()
    explorer.controls["epoch"].value = 20
    assert "it alone is computed" in explorer.picture()[1]


def test_cosine_says_the_schedules_rate():
    explorer = widgets.cosine_explorer()
    explorer.controls["epoch"].value = 100
    rate = schedules.outer_rate(1e-3, 1e-5, 150, 100)
    assert numbers(explorer.picture()[1])[:2] == pytest.approx([100, rate], rel=0.005)
    explorer.choose({"epoch": 300, "bounded": False})
    assert numbers(explorer.picture()[1])[:2] == [300, 1e-3]


def test_order_says_the_cost_and_draws_the_runs_norms():
    history = History()
    history.append(*({"epoch": e / 2, "gradient_norm": 1.0 + e} for e in range(20)))
    explorer = widgets.order_explorer(history)
    explorer.controls["switch"].value = 5
    figure, words = explorer.draw(**explorer.values)
    recipe = RECIPES["maml"].with_(second_order_from=5.0, epochs=10)
    assert f"{100 * schedule_plots.relative_cost(recipe):.0f} %" in words
    assert "as it recorded them" in words
    drawn = [line.get_xydata().tolist() for line in figure.axes[1].lines]
    assert [[e / 2, 1.0 + e] for e in range(20)] in drawn


def test_order_without_a_run_says_that_it_measured_sine_waves():
    assert "measured here" in widgets.order_explorer().picture()[1]
    norms = widgets.sine_norms()
    assert (norms > 0).all()
    assert (norms[:, 0] != norms[:, 1]).any()


def test_rates_counts_and_shows_those_given():
    learner = mamlpp.MetaLearner(RECIPES["maml+lslr"].with_(filters=4), (1, 16, 16), 2)
    rules = [copy.deepcopy(learner.rule) for _ in range(2)]
    with torch.no_grad():
        rules[1].rates[0, 0] = 0.35
    explorer = widgets.rates_explorer(rules, iterations=[0, 500])
    figure, words = explorer.draw(**explorer.values)
    assert figure.axes[1].images[0].get_array()[0, 0] == pytest.approx(0.35)
    assert "recorded in a training: after 500 meta-steps the rates shown are 0.1 to 0.35" in words
    assert "LSLR learns 25 rates, Meta-SGD 112,468" in words  # 9·64·(1 + 3·64) + 65·20


def test_rates_of_the_short_training_are_learned():
    for rule in ("lslr", "meta-sgd"):
        first, *_, last = (next(iter(r.parameters())) for r in widgets.sine_rates(rule))
        assert not torch.equal(first, last)


def test_batch_norm_reads_the_other_tasks():
    means = torch.tensor([[1.0, 3.0], [3.0, 5.0], [0.0, 1.0]])
    read = widgets.read_statistics(means, means + 1)
    assert [value.tolist() for value in read["batch"]] == [[0, 1], [1, 2]]
    assert [value.tolist() for value in read["per_step"]] == [[2, 4], [3, 5]]
    assert [value.tolist() for value in read["shared"]] == [[3, 3], [4, 4]]


def test_batch_norm_statistics_are_those_that_training_absorbs():
    learner = widgets.MetaLearner(RECIPES["maml+bnrs+bnwb"].with_(filters=4), (1, 28, 28), 3)
    batch = widgets._glyph_tasks(learner, tasks=1)
    means, variances = widgets.norm_statistics(learner, batch)
    assert means.shape == (1, 4, 6, 4)
    before = copy.deepcopy(learner.state_dict())
    norm = learner.network.blocks[2].norm
    seen = []
    learner.task_model(next(iter(batch)), seen)(learner.weights(), batch.support_x[0], 0)
    assert torch.equal(seen[2][2], means[0, 2, 0])
    assert torch.equal(seen[2][3], variances[0, 2, 0])
    assert norm is seen[2][0]
    assert all(torch.equal(learner.state_dict()[name], value) for name, value in before.items())


def test_batch_norm_is_right_with_the_tasks_own_statistics():
    explorer = widgets.batch_norm_explorer()
    explorer.choose({"kind": "batch", "step": 3})
    assert "mean of 0.00 and a standard deviation of 1.00" in explorer.picture()[1]
    explorer.controls["kind"].value = "shared"
    assert "mean of 0.00" not in explorer.picture()[1]


def test_graph_says_the_longest_way():
    explorer = widgets.graph_explorer()
    explorer.controls["steps"].value = 4
    assert "goes through 20 layers of support passes and the 5" in explorer.picture()[1]
    explorer.controls["msl"].value = True
    assert "3 shorter ones, the shortest through 5" in explorer.picture()[1]
    explorer.controls["second_order"].value = False
    assert "goes past the support passes" in explorer.picture()[1]


def test_landscape_gradients_are_those_of_the_loss_after_the_inner_steps():
    """MAML's, against finite differences of inner steps written out by hand, in float64."""
    theta, rate, steps = np.array([0.4, -0.7]), 0.2, 3

    def after(start):
        total = 0.0
        for task in widgets._TASKS:
            a, y = task.support_x.double().numpy(), task.support_y.double().numpy()
            w = start
            for _ in range(steps):
                w = w - rate * a.T @ (a @ w - y)
            total += ((a @ w - y) ** 2).sum() / 4
        return total

    e = 1e-5
    slopes = [(after(theta + e * d) - after(theta - e * d)) / (2 * e) for d in np.eye(2)]
    ours = widgets.landscape_gradients(theta.tolist(), rate, steps)
    assert ours["MAML"].tolist() == pytest.approx(slopes, rel=1e-4)
    assert ours["first-order MAML"].tolist() != pytest.approx(slopes, rel=0.05)


def test_landscape_without_inner_rate_is_joint_training():
    explorer = widgets.landscape_explorer()
    explorer.controls["rate"].value = 0.0
    assert "first-order MAML points 0° and joint training 0°" in explorer.picture()[1]


def test_landscape_says_when_the_inner_rate_is_too_large():
    explorer = widgets.landscape_explorer()
    assert "too large" not in explorer.picture()[1]
    explorer.controls["rate"].value = 0.6
    assert "The inner rate is too large" in explorer.picture()[1]


def test_board_settings_are_the_recipes_own():
    fields = ("norm_statistics", "inner_rule", "second_order_from", "msl_epochs", "outer_rate_min")
    for name, recipe in RECIPES.items():
        board = widgets.recipe_board(name)
        settings = {key: value for key, value in board.values.items() if key != "epoch"}
        made = widgets.board_recipe(**settings)
        assert [getattr(made, f) for f in fields] == [getattr(recipe, f) for f in fields], name


def test_board_says_what_training_does_at_the_epoch():
    board = widgets.recipe_board("maml++")
    board.controls["epoch"].value = 60
    words = board.picture()[1]
    rate = schedules.outer_rate(1e-3, 1e-5, 150, 60)
    assert "1 query loss counts, the last 1; the meta-gradient is of second order" in words
    assert f"the outer rate is {rate:.3g}; a meta-step costs 100%" in words


def test_choosing_a_recipe_sets_the_switches_and_draws_once(shown):
    board = widgets.recipe_board("maml++")
    board._ipython_display_()
    del shown[:]
    preset = board.box.children[0]
    preset.value = "fomaml"
    assert len(shown) == 1
    assert board.values["first_order"]
    assert board.values["msl_epochs"] == 0


# Errors


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: widgets.order_explorer(History()), "no meta-steps yet"),
        (lambda: widgets.rates_explorer([]), "no rules to show"),
        (lambda: widgets.rates_explorer(widgets.sine_rates("lslr"), [0]), "one for each"),
        (lambda: widgets.recipe_board("mamL"), "no recipe 'mamL'; choose one of maml,"),
    ],
)
def test_wrong_arguments_say_what_was_expected(call, match):
    with pytest.raises(InputError, match=match):
        call()


def test_batch_norm_needs_per_step_statistics_and_two_tasks():
    plain = mamlpp.MetaLearner(RECIPES["maml"].with_(filters=4), (1, 28, 28), 3)
    with pytest.raises(InputError, match="give one whose recipe says 'per_step'"):
        widgets.batch_norm_explorer(plain)
    fit = mamlpp.MetaLearner(RECIPES["maml++"].with_(filters=4), (1, 28, 28), 3)
    with pytest.raises(InputError, match="at least 2 tasks"):
        widgets.batch_norm_explorer(fit, widgets._glyph_tasks(fit, tasks=1))
