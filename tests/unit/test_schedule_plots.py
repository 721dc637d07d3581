"""Schedule plots match the schedules of training: checked on the matplotlib artists."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from mamlpp import RECIPES, schedules
from mamlpp.show import schedule_plots as plots
from tests.makers import make_learner


@pytest.fixture
def ax():
    return Figure().add_subplot()


def torch_cosine_rates(rate, minimum, t_max, until):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, t_max, minimum)
    rates = []
    for _ in range(until):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cosine.step()
    return rates


# MSL


def test_stacked_weights_match_the_schedule(ax):
    recipe = RECIPES["maml+msl"].with_(msl_floor=0.02)
    plots.plot_step_weights(recipe, ax, until=24)
    tops = [band.get_paths()[0].vertices for band in ax.collections]
    for epoch in (0.0, 5.0, 24.0):
        stacked = np.cumsum(schedules.step_weights(5, 15, 0.02, epoch))
        drawn = [v[np.isclose(v[:, 0], epoch), 1].max() for v in tops]
        assert drawn == pytest.approx(stacked.tolist())


def test_bars_show_and_label_the_weights(ax):
    plots.plot_weight_bars([0.25, 0.75], ax)
    assert [bar.get_height() for bar in ax.patches] == [0.25, 0.75]
    assert [text.get_text() for text in ax.texts] == ["0.25", "0.75"]


# Order and cost


def test_task_cost_counts_passes():
    maml, msl = RECIPES["maml"], RECIPES["maml+msl"]
    assert plots.task_cost(maml, 0, second_order_cost=3) == 5 * 3 + 1
    assert plots.task_cost(RECIPES["fomaml"], 0) == 5 + 1
    assert plots.task_cost(msl, 0, second_order_cost=3) == 5 * 3 + 5
    assert plots.task_cost(msl, 15, second_order_cost=3) == 5 * 3 + 1


def test_cost_is_relative_to_second_order_maml_of_the_same_length():
    assert plots.relative_cost(RECIPES["maml"]) == 1
    assert plots.relative_cost(RECIPES["fomaml"]) == pytest.approx(6 / 16)
    annealed = RECIPES["maml+da"].with_(epochs=100, second_order_from=50.0)
    assert plots.relative_cost(annealed) == pytest.approx((6 / 16 + 1) / 2)


@pytest.mark.parametrize(
    ("switch", "expected"),
    [
        (None, [(0, 150, False)]),
        (0.0, [(0, 150, True)]),
        (50.0, [(0, 50, False), (50, 150, True)]),
        (500.0, [(0, 150, False)]),
    ],
)
def test_epochs_are_shaded_by_derivative_order(ax, switch, expected):
    recipe = RECIPES["maml"].with_(second_order_from=switch)
    assert plots.order_spans(recipe) == expected
    plots.plot_order(recipe, ax)
    drawn = [(band.get_x(), band.get_x() + band.get_width()) for band in ax.patches]
    assert drawn == [(start, end) for start, end, _ in expected]


def test_the_dot_marks_the_switch_epoch_and_its_cost(ax):
    recipe = RECIPES["maml+da"]
    plots.plot_order_cost(recipe, ax)
    assert ax.lines[1].get_xydata().tolist() == [[50, 100 * plots.relative_cost(recipe)]]


# The outer rate


def test_the_rate_curve_matches_the_schedule(ax):
    recipe = RECIPES["maml+ca"]
    plots.plot_outer_rate(recipe, ax, until=200)
    epochs, rates = ax.lines[0].get_data()
    for epoch, rate in zip(epochs, rates, strict=True):
        assert rate == schedules.outer_rate(1e-3, 1e-5, 150, epoch)
    assert epochs[-1] == 200


def test_the_unbounded_rate_matches_the_cosine_schedule_of_torch():
    recipe = RECIPES["maml+ca"].with_(epochs=20)
    unbounded = plots.outer_rates(recipe, list(range(90)), bounded=False)
    assert unbounded == pytest.approx(torch_cosine_rates(1e-3, 1e-5, 20, 90))
    assert max(plots.outer_rates(recipe, list(range(20, 90)))) == 1e-5


# The inner rates


def test_the_lslr_table_has_layers_by_steps():
    rule = make_learner("maml+lslr").rule
    with torch.no_grad():
        rule.rates[1, 2] = 0.7
    rows, columns, values = plots.rates_table(rule)
    assert rows == ["conv 1", "conv 2", "conv 3", "conv 4", "head"]
    assert columns == ["step 1", "step 2", "step 3"]
    assert values[1, 2] == pytest.approx(0.7)
    assert np.delete(values.flatten(), 5) == pytest.approx(0.1)


def test_the_meta_sgd_table_has_percentiles_of_each_weight():
    rule = make_learner("meta-sgd", ways=2).rule
    with torch.no_grad():
        rule.rates[-1].copy_(torch.tensor([0.0, 1.0]))
    rows, columns, values = plots.rates_table(rule)
    assert (rows[0], rows[-1]) == ("conv 1 weight", "head bias")
    assert columns == ["5 %", "50 %", "95 %"]
    assert values[-1] == pytest.approx([0.05, 0.5, 0.95])


def test_rate_counts_match_the_parameters_of_the_rules():
    for name, rule in (("maml+lslr", "lslr"), ("meta-sgd", "meta-sgd")):
        model = make_learner(name)
        size = sum(weight.numel() for weight in model.weights().values())
        learned = sum(rates.numel() for rates in model.rule.parameters())
        assert plots.count_rates(rule, size, layers=5, steps=3) == learned


def test_the_heat_map_shows_and_labels_the_rates(ax):
    values = np.array([[0.1, 0.2], [0.1, -0.3]])
    plots.plot_rates(["a", "b"], ["1", "2"], values, ax, centre=0.1)
    [image] = ax.images
    assert image.get_array().tolist() == values.tolist()
    assert image.get_clim() == pytest.approx((-0.3, 0.5))
    assert [text.get_text() for text in ax.texts] == ["0.10", "0.20", "0.10", "-0.30"]


def test_the_heat_map_handles_equal_rates(ax):
    plots.plot_rates(["a"], ["1"], np.array([[0.1]]), ax, centre=0.1)
    ax.figure.draw_without_rendering()
    assert ax.texts[0].get_text() == "0.10"


# Batch norm


def test_statistics_of_the_task_and_those_used_are_drawn(ax):
    actual = torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.5])
    used = torch.tensor([0.0, 0.0]), torch.tensor([1.0, 1.0])
    plots.plot_norm_statistics(actual, used, ax, step=1)
    lines = [list(line.get_ydata()) for line in ax.lines]
    assert [0.0, 0.0] in lines
    assert [1.0, 2.0] in lines


def test_outputs_are_labelled_and_the_chosen_row_is_highlighted(ax):
    plots.plot_normalised({"a": (0.0, 1.0), "b": (0.5, 2.0)}, ax, chosen="b")
    assert [text.get_text() for text in ax.texts] == ["0.00 ± 1.00", "0.50 ± 2.00"]
    colours = [text.get_color() for text in ax.texts]
    assert colours[1] == plots.COLOURS["MAML++"] != colours[0]


# Timeline


def test_the_timeline_shows_the_three_schedules():
    axes = Figure().subplots(3, 1)
    plots.plot_timeline(RECIPES["maml++"], axes)
    losses, rate, cost = axes
    assert len(losses.collections) == 5
    assert rate.lines[0].get_ydata()[0] == 1e-3
    epochs, percent = cost.lines[0].get_data()
    by_epoch = dict(zip(epochs.tolist(), percent.tolist(), strict=True))
    assert (by_epoch[0], by_epoch[150]) == pytest.approx((100 * 10 / 16, 100))
    assert [text.get_text() for text in cost.texts] == ["first order", "second order"]
