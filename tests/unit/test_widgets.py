"""Explorers: every control changes picture and caption, and captions match the package."""

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


def change(control):
    """Set a control of any type to another value."""
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


def numbers(text):
    return [float(found) for found in re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", text)]


@pytest.fixture
def shown(monkeypatch):
    """Record what explorers display and update, as (MIME bundle, metadata, thread)."""
    outputs = []

    class Handle:
        def update(self, data, raw, metadata):
            outputs.append((data, metadata, threading.current_thread()))

    def display(data, raw, metadata=None, display_id=False):
        outputs.append((data, metadata, threading.current_thread()))
        return Handle() if display_id else None

    monkeypatch.setattr(widgets, "display", display)
    return outputs


# All explorers


@by_explorer
def test_every_control_changes_picture_and_caption(build):
    for name in build().controls:
        explorer = build()
        before, caption = explorer.picture()
        assert before.startswith(PNG)
        assert len(caption) > 40
        change(explorer.controls[name])
        picture, new_caption = explorer.picture()
        assert picture != before, name
        assert new_caption != caption, name


@by_explorer
def test_every_control_has_a_unique_visible_description(build):
    names = [control.description for control in build().controls.values()]
    assert all(names)
    assert len(set(names)) == len(names)


@by_explorer
def test_captions_are_complete_and_inside_the_picture(build):
    explorer = build()
    with widgets.matplotlib.rc_context():
        widgets.use_style()
        figure, caption = explorer.draw(**explorer.values)
        first_line = caption.partition("\n")[0]
        widgets._draw_caption(figure, first_line)
        figure.draw_without_rendering()
        text = figure.texts[-1]
        box = text.get_window_extent()
        assert " ".join(text.get_text().split()) == first_line
        assert box.x1 < figure.bbox.x1
        bottoms = [ax.get_tightbbox().y0 for ax in figure.axes if ax.axison]
        assert all(box.y1 < bottom for bottom in bottoms)


def test_controls_and_a_picture_with_its_caption_are_displayed(shown):
    explorer = widgets.msl_explorer()
    explorer._ipython_display_()
    controls, picture = shown
    assert "application/vnd.jupyter.widget-view+json" in controls[0]
    data, metadata, _ = picture
    png, caption = explorer.picture()
    assert base64.b64decode(data["image/png"]) == png
    assert data["text/plain"] == metadata["image/png"]["alt"] == caption
    assert caption in explorer._caption.value


def test_a_changed_control_updates_every_display_from_any_thread(shown):
    explorer = widgets.msl_explorer()
    explorer._ipython_display_()
    explorer._ipython_display_()
    del shown[:]
    thread = threading.Thread(target=lambda: change(explorer.controls["steps"]))
    thread.start()
    thread.join()
    assert [output[2] for output in shown] == [thread, thread]
    assert shown[0][0]["text/plain"] == explorer.picture()[1]


def test_an_explorer_that_is_not_displayed_draws_nothing(shown):
    change(widgets.msl_explorer().controls["steps"])
    assert not shown


def test_invalid_settings_are_explained(shown):
    explorer = widgets.cosine_explorer()
    explorer.controls["minimum"].value = 0.1
    png, caption = explorer.picture()
    assert png.startswith(PNG)
    assert caption.startswith("Invalid settings: outer_rate_min 0.1 is above outer_rate 0.001")


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
    # The control changed in the last cell updated the picture in the second cell.
    assert "last of 3 inner steps" in executed.cells[1].outputs[-1].data["text/plain"]


# Captions have the numbers of training


@pytest.mark.parametrize(("epoch", "floor"), [(0.0, 0.0), (6.0, 0.1), (30.0, 0.3)])
def test_msl_caption_has_the_weights_of_the_schedule(epoch, floor):
    explorer = widgets.msl_explorer()
    explorer.set_values({"epoch": epoch, "floor": floor, "steps": 4})
    weights = schedules.step_weights(4, 15, floor / 4, epoch)
    found = numbers(explorer.picture()[1])
    assert found[:2] == [epoch, 4]
    assert (found[2], found[4]) == pytest.approx((weights[-1], weights[0]), rel=0.01)


def test_msl_caption_says_when_only_the_last_loss_is_computed():
    explorer = widgets.msl_explorer()
    explorer.controls["epoch"].value = 20
    assert "it is the only one computed" in explorer.picture()[1]


def test_cosine_caption_has_the_rate_of_the_schedule():
    explorer = widgets.cosine_explorer()
    explorer.controls["epoch"].value = 100
    rate = schedules.outer_rate(1e-3, 1e-5, 150, 100)
    assert numbers(explorer.picture()[1])[:2] == pytest.approx([100, rate], rel=0.005)
    explorer.set_values({"epoch": 300, "bounded": False})
    assert numbers(explorer.picture()[1])[:2] == [300, 1e-3]


def test_order_shows_the_cost_and_the_norms_of_the_run():
    history = History()
    history.append(*({"epoch": e / 2, "gradient_norm": 1.0 + e} for e in range(20)))
    explorer = widgets.order_explorer(history)
    explorer.controls["switch"].value = 5
    figure, caption = explorer.draw(**explorer.values)
    recipe = RECIPES["maml"].with_(second_order_from=5.0, epochs=10)
    assert f"{100 * schedule_plots.relative_cost(recipe):.0f} %" in caption
    assert "recorded in the run" in caption
    drawn = [line.get_xydata().tolist() for line in figure.axes[1].lines]
    assert [[e / 2, 1.0 + e] for e in range(20)] in drawn


def test_order_without_a_run_measures_norms_on_sine_waves():
    assert "measured here" in widgets.order_explorer().picture()[1]
    norms = widgets.sine_norms()
    assert (norms > 0).all()
    assert (norms[:, 0] != norms[:, 1]).any()


def test_rates_shows_and_counts_the_given_rates():
    learner = mamlpp.MetaLearner(RECIPES["maml+lslr"].with_(filters=4), (1, 16, 16), 2)
    rules = [copy.deepcopy(learner.rule) for _ in range(2)]
    with torch.no_grad():
        rules[1].rates[0, 0] = 0.35
    explorer = widgets.rates_explorer(rules, iterations=[0, 500])
    figure, caption = explorer.draw(**explorer.values)
    assert figure.axes[0].images[0].get_array()[0, 0] == pytest.approx(0.35)
    assert "25 rates after 500 meta-steps, from 0.1 to 0.35 on the map; all began at 0.1" in caption
    assert "recorded in a training" in caption


def test_the_board_counts_the_rates_of_each_rule():
    counts = widgets.network_rate_counts(filters=64, steps=5)
    assert counts == {"MAML": 1, "LSLR": 25, "Meta-SGD": 112_468}  # 9·64·(1 + 3·64) + 65·20


def test_the_short_training_learns_its_rates():
    for rule in ("lslr", "meta-sgd"):
        first, *_, last = (next(iter(r.parameters())) for r in widgets.sine_rates(rule))
        assert not torch.equal(first, last)


def test_running_statistics_come_from_the_other_tasks():
    means = torch.tensor([[1.0, 3.0], [3.0, 5.0], [0.0, 1.0]])
    statistics = widgets.statistics_by_kind(means, means + 1)
    assert [value.tolist() for value in statistics["batch"]] == [[0, 1], [1, 2]]
    assert [value.tolist() for value in statistics["per_step"]] == [[2, 4], [3, 5]]
    assert [value.tolist() for value in statistics["shared"]] == [[3, 3], [4, 4]]


def test_batch_norm_statistics_match_those_recorded_in_training():
    learner = widgets.MetaLearner(RECIPES["maml+bnrs+bnwb"].with_(filters=4), (1, 28, 28), 3)
    batch = widgets._glyph_tasks(learner, tasks=1)
    means, variances = widgets.norm_statistics(learner, batch)
    assert means.shape == (1, 4, 6, 4)
    before = copy.deepcopy(learner.state_dict())
    norm = learner.network.blocks[2].norm
    records = []
    learner(learner.weights(), batch.support_x[0], collect=records)
    assert torch.equal(records[2][2], means[0, 2, 0])
    assert torch.equal(records[2][3], variances[0, 2, 0])
    assert norm is records[2][0]
    assert all(torch.equal(learner.state_dict()[name], value) for name, value in before.items())


def test_batch_norm_is_exact_with_the_statistics_of_the_task():
    explorer = widgets.batch_norm_explorer()
    [mean, *_] = numbers(explorer.picture()[1].partition("a mean of")[2])
    assert abs(mean) > 1, "it opens where the running statistics of the step do not fit"
    explorer.set_values({"statistics": "batch", "step": 3})
    assert "mean of 0.00 and a standard deviation of 1.00" in explorer.picture()[1]
    explorer.controls["statistics"].value = "shared"
    assert "mean of 0.00" not in explorer.picture()[1]


def test_graph_caption_has_the_path_lengths():
    explorer = widgets.graph_explorer()
    explorer.controls["steps"].value = 4
    assert "has 20 layers of support passes and the 5 layers" in explorer.picture()[1]
    explorer.controls["msl"].value = True
    assert "3 shorter paths; the shortest has 5" in explorer.picture()[1]
    explorer.controls["second_order"].value = False
    assert "bypasses the support passes" in explorer.picture()[1]


def test_landscape_gradients_match_finite_differences():
    """MAML's gradient against finite differences of hand-written inner steps in float64."""
    theta, rate, steps = np.array([0.4, -0.7]), 0.2, 3

    def meta_loss(start):
        total = 0.0
        for task in widgets._TASKS:
            a, y = task.support_x.double().numpy(), task.support_y.double().numpy()
            w = start
            for _ in range(steps):
                w = w - rate * a.T @ (a @ w - y)
            total += ((a @ w - y) ** 2).sum() / 4
        return total

    e = 1e-5
    slopes = [(meta_loss(theta + e * d) - meta_loss(theta - e * d)) / (2 * e) for d in np.eye(2)]
    gradients = widgets.landscape_gradients(theta.tolist(), rate, steps)
    assert gradients["MAML"].tolist() == pytest.approx(slopes, rel=1e-4)
    assert gradients["first-order MAML"].tolist() != pytest.approx(slopes, rel=0.05)


def test_landscape_with_inner_rate_0_is_joint_training():
    explorer = widgets.landscape_explorer()
    explorer.controls["rate"].value = 0.0
    assert "MAML's by 0°, and that of joint training by 0°" in explorer.picture()[1]


def test_landscape_warns_of_too_large_an_inner_rate():
    explorer = widgets.landscape_explorer()
    assert "too large" not in explorer.picture()[1]
    explorer.controls["rate"].value = 0.6
    assert "The inner rate is too large" in explorer.picture()[1]


def test_board_controls_reproduce_every_recipe():
    fields = ("norm_statistics", "inner_rule", "second_order_from", "msl_epochs", "outer_rate_min")
    for name, recipe in RECIPES.items():
        board = widgets.recipe_board(name)
        settings = {key: value for key, value in board.values.items() if key != "epoch"}
        rebuilt = widgets.board_recipe(**settings)
        assert [getattr(rebuilt, f) for f in fields] == [getattr(recipe, f) for f in fields], name


def test_board_caption_describes_the_epoch():
    board = widgets.recipe_board("maml++")
    board.controls["epoch"].value = 60
    caption = board.picture()[1]
    rate = schedules.outer_rate(1e-3, 1e-5, 150, 60)
    assert "1 query loss, the last with weight 1; second order" in caption
    assert f"outer rate {rate:.3g}; a meta-step costs 100%" in caption


def test_selecting_a_recipe_sets_the_controls_and_draws_once(shown):
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
def test_invalid_arguments_are_explained(call, match):
    with pytest.raises(InputError, match=match):
        call()


def test_batch_norm_needs_per_step_statistics_and_two_tasks():
    plain = mamlpp.MetaLearner(RECIPES["maml"].with_(filters=4), (1, 28, 28), 3)
    with pytest.raises(InputError, match="pass a learner with norm_statistics='per_step'"):
        widgets.batch_norm_explorer(plain)
    fit = mamlpp.MetaLearner(RECIPES["maml++"].with_(filters=4), (1, 28, 28), 3)
    with pytest.raises(InputError, match="at least 2 tasks"):
        widgets.batch_norm_explorer(fit, widgets._glyph_tasks(fit, tasks=1))
