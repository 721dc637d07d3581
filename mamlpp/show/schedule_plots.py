"""Plots of a recipe's schedules: weights of the query losses, derivative order, learning rates.

Every curve evaluates `mamlpp.schedules` at each epoch, as training does. Letters: S inner steps, L
layers, F features.
"""

from collections.abc import Sequence

import matplotlib
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from torch import Tensor

from mamlpp import schedules
from mamlpp.inner_rates import LSLR, FixedRate, MetaSGD
from mamlpp.recipe import Recipe
from mamlpp.show.plots import COLOURS, layer_title

POINTS = 121  # per curve
# Cost of a second-order support pass relative to a first-order one. Measured on a CPU by
# benchmarks/order.py, 20-way 1-shot, 32 filters: 2.7, 2.9, 2.9, 3.1, 3.2 for 1, 2, 3, 5, 10 steps.
SECOND_ORDER_COST = 3.0
ORDERS = {True: ("second order", COLOURS["MAML"]), False: ("first order", "#f0c27a")}
PERCENTILES = (5, 50, 95)


# Multi-step loss (MSL)


def step_colours(steps: int) -> list[tuple[float, float, float]]:
    """Return one colour per step, from light (first) to dark (last)."""
    return sns.color_palette("viridis_r", steps + 1)[1:]


def step_weights(recipe: Recipe, epoch: float) -> list[float]:
    """Return the weights of the query losses after inner steps 1 … S at an epoch."""
    return schedules.step_weights(recipe.inner_steps, recipe.msl_epochs, recipe.msl_floor, epoch)


def plot_step_weights(recipe: Recipe, ax: Axes, until: float) -> Axes:
    """Plot the stacked weights of the query losses, which sum to 1, from epoch 0 to `until`."""
    epochs = np.linspace(0, until, POINTS)
    weights = np.array([step_weights(recipe, epoch) for epoch in epochs]).T  # [S, POINTS]
    ax.stackplot(
        epochs, weights, colors=step_colours(recipe.inner_steps), edgecolor="white", lw=0.5
    )
    _label_bands(weights, until, ax)
    ax.set(xlim=(0, until), ylim=(0, 1), xlabel="epoch", ylabel="weight of the query loss")
    return ax


def _label_bands(weights: np.ndarray, until: float, ax: Axes) -> None:
    """Label the last step's band in the middle, and the others at the left where there is room."""
    steps, later = len(weights), POINTS // 10
    middles = np.cumsum(weights, axis=0) - weights / 2
    ax.text(0.6 * until, middles[-1, -1], f"step {steps}", va="center", fontsize=9, color="white")
    for step in range(1, steps):
        if weights[step - 1, later] > 0.04:
            height = middles[step - 1, [0, later]].mean()
            colour = "white" if step > 0.4 * steps else "black"
            ax.text(0.012 * until, height, f"step {step}", va="center", fontsize=9, color=colour)


def plot_weight_bars(weights: Sequence[float], ax: Axes) -> Axes:
    """Plot the weight of the query loss after each step as a labelled bar."""
    steps = range(1, len(weights) + 1)
    ax.bar(steps, weights, color=step_colours(len(weights)))
    rotation = 90 if len(weights) > 6 else 0  # horizontal labels would overlap
    for step, weight in zip(steps, weights, strict=True):
        ax.text(step, weight + 0.02, f"{weight:.2g}", ha="center", fontsize=9, rotation=rotation)
    ax.set(
        ylim=(0, 1.12), xticks=steps, yticks=(0, 0.5, 1), xlabel="after inner step", ylabel="weight"
    )
    ax.grid(False, axis="x")
    return ax


# Derivative order and cost


def task_cost(recipe: Recipe, epoch: float, second_order_cost: float = SECOND_ORDER_COST) -> float:
    """Return the cost of one task in a meta-step, in first-order passes (forward and backward).

    Each of the S support passes costs 1, or `second_order_cost` in second order, and each query
    loss with a non-zero weight costs 1. Query and support set are assumed to be equally large, as
    in 1-shot Omniglot tasks with 1 query per class. The cost of inner rates and batch norm is
    negligible.
    """
    second_order = schedules.second_order(recipe.second_order_from, epoch)
    queries = sum(weight > 0 for weight in step_weights(recipe, epoch))
    return recipe.inner_steps * (second_order_cost if second_order else 1.0) + queries


def relative_cost(recipe: Recipe) -> float:
    """Return the cost of the whole training relative to plain second-order MAML."""
    plain = recipe.with_(msl_epochs=0.0, msl_floor=0.0, second_order_from=0.0)
    total = sum(task_cost(recipe, epoch) for epoch in range(recipe.epochs))
    return total / (recipe.epochs * task_cost(plain, 0))


def plot_order(recipe: Recipe, ax: Axes) -> Axes:
    """Shade the epochs with a first-order and with a second-order meta-gradient."""
    for start, end, second_order in order_spans(recipe):
        name, colour = ORDERS[second_order]
        ax.axvspan(start, end, color=colour, alpha=0.45, lw=0, label=name)
    ax.set(xlim=(0, recipe.epochs), xlabel="epoch")
    return ax


def order_spans(recipe: Recipe) -> list[tuple[float, float, bool]]:
    """Return (first epoch, last epoch, whether second order) of each phase of the training."""
    end = float(recipe.epochs)
    switch = end if recipe.second_order_from is None else min(recipe.second_order_from, end)
    spans = [(0.0, switch), (switch, end)]
    return [
        (start, stop, schedules.second_order(recipe.second_order_from, start))
        for start, stop in spans
        if stop > start
    ]


def plot_order_cost(recipe: Recipe, ax: Axes) -> Axes:
    """Plot the cost of the whole training by switch epoch, with a dot at this recipe's epoch."""
    epochs = np.linspace(0, recipe.epochs, 31)
    costs = [100 * relative_cost(recipe.with_(second_order_from=float(e))) for e in epochs]
    ax.plot(epochs, costs, color="#555555")
    switch = recipe.epochs if recipe.second_order_from is None else recipe.second_order_from
    dot = min(switch, recipe.epochs), 100 * relative_cost(recipe)
    ax.plot(*dot, "o", color=COLOURS["MAML++"], markersize=10, clip_on=False)
    ax.set(xlabel="epoch of the switch", ylabel="predicted cost, %")
    ax.set(xlim=(0, recipe.epochs), ylim=(0, 105))
    return ax


def plot_timeline(recipe: Recipe, axes: Sequence[Axes]) -> None:
    """Plot query-loss weights, outer rate, and derivative order with cost, below each other."""
    losses, rate, cost = axes
    plot_step_weights(recipe, losses, until=recipe.epochs)
    losses.set(ylabel="weights of\nthe query\nlosses", yticks=(0, 0.5, 1))
    plot_outer_rate(recipe, rate, until=recipe.epochs)
    rate.set(
        ylabel="outer\nrate β", yticks=(0, (recipe.outer_rate or 0) / 2, recipe.outer_rate or 0)
    )
    rate.yaxis.set_major_formatter("{x:.1g}")
    plot_order(recipe, cost)
    plot_cost(recipe, cost)
    for start, end, second_order in order_spans(recipe):
        if end - start > 0.15 * recipe.epochs:
            position, name = ((start + end) / 2, 0.12), ORDERS[second_order][0]
            cost.text(*position, name, ha="center", size=10, transform=cost.get_xaxis_transform())
    for ax in axes[:-1]:
        ax.set_xlabel("")
        ax.tick_params(labelbottom=False)
    for ax in axes:
        ax.yaxis.label.set(rotation=0, ha="right", va="center", size=10)
        ax.tick_params(labelsize=9)


def plot_cost(recipe: Recipe, ax: Axes) -> Axes:
    """Plot the cost of a meta-step by epoch, in % of plain second-order MAML."""
    epochs = np.linspace(0, recipe.epochs, POINTS)
    plain = task_cost(Recipe(inner_steps=recipe.inner_steps), 0)
    costs = [100 * task_cost(recipe, epoch) / plain for epoch in epochs]
    ax.plot(epochs, costs, color="#333333", linewidth=2.5, drawstyle="steps-post")
    ax.set(xlim=(0, recipe.epochs), ylim=(0, 1.15 * max(costs)), xlabel="epoch", ylabel="cost,\n%")
    return ax


# The outer rate


def outer_rates(recipe: Recipe, epochs: Sequence[float], bounded: bool = True) -> list[float]:
    """Return the meta-optimizer's learning rate at each epoch.

    If not `bounded`, T exceeds T_max, as in code without the bound, and the rate rises again.
    """
    period = 2 * recipe.epochs
    folded = [abs((e + recipe.epochs) % period - recipe.epochs) for e in epochs]  # cos is even
    return [
        schedules.outer_rate(recipe.outer_rate, recipe.outer_rate_min, recipe.epochs, epoch)
        for epoch in (epochs if bounded else folded)
    ]


def plot_outer_rate(recipe: Recipe, ax: Axes, until: float, bounded: bool = True) -> Axes:
    """Plot the outer rate from epoch 0 to `until`, marking T_max if it lies before that."""
    epochs = np.linspace(0, until, POINTS)
    rates = outer_rates(recipe, epochs.tolist(), bounded)
    ax.plot(epochs, rates, color=COLOURS["MAML"], linewidth=2.5)
    if until > recipe.epochs:
        ax.axvline(recipe.epochs, color="#555555", linestyle=":")
        label = "T_max", (recipe.epochs, 1.0), (4, -4)
        ax.annotate(*label, xycoords=ax.get_xaxis_transform(), textcoords="offset points", va="top")
    ax.set(
        xlim=(0, until),
        ylim=(0, 1.1 * max(rates)),
        xlabel="epoch",
        ylabel="outer rate β",
    )
    return ax


# The inner rates


def rates_table(rule: FixedRate | LSLR | MetaSGD) -> tuple[list[str], list[str], np.ndarray]:
    """Return row names, column names and values of the inner rates, for a heat map.

    LSLR: layers by steps. Meta-SGD: weight tensors by percentile (5th, 50th, 95th) of their rates.
    """
    if isinstance(rule, LSLR):
        columns = [f"step {step + 1}" for step in range(rule.rates.shape[1])]
        return [layer_title(name) for name in rule.layers], columns, _to_numpy(rule.rates)
    columns = [f"{percent} %" for percent in PERCENTILES]
    if isinstance(rule, MetaSGD):
        rows = [np.percentile(_to_numpy(rates), PERCENTILES) for rates in rule.rates]
        return [layer_title(name) for name in rule.names], columns, np.array(rows)
    return ["all"], ["all"], np.array([[rule.rate]])


def _to_numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().double().numpy()


def count_rates(rule: str, weights: int, layers: int, steps: int) -> int:
    """Return the number of inner rates, fixed or learned, of an inner rule."""
    return {"fixed": 1, "lslr": layers * steps, "meta-sgd": weights}[rule]


def plot_rates(
    rows: Sequence[str],
    columns: Sequence[str],
    values: np.ndarray,
    ax: Axes,
    centre: float,
    half_range: float | None = None,
) -> Axes:
    """Plot rates `[rows, columns]` as a heat map with their numbers.

    The colour is white at `centre`, the initial rate, and saturates at `centre ± half_range`.
    """
    half_range = half_range or max(float(np.abs(values - centre).max()), 1e-9)
    norm = TwoSlopeNorm(centre, centre - half_range, centre + half_range)
    colours = matplotlib.colormaps["PuOr_r"]
    ax.imshow(values, cmap=colours, norm=norm, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        dark = abs(norm(value) - 0.5) > 0.35
        number = f"{value:.2f}" if abs(value) >= 0.095 else f"{value:.2g}"
        ax.text(
            column, row, number, ha="center", va="center", fontsize=9,
            color="white" if dark else "black",
        )  # fmt: skip
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), rows)
    ax.grid(False)
    return ax


# Batch-norm statistics


def plot_norm_statistics(
    actual: tuple[Tensor, Tensor], used: tuple[Tensor, Tensor], ax: Axes, step: int
) -> Axes:
    """Plot mean ± standard deviation of one feature, each `[S + 1]`, after 0 … S inner steps.

    `actual` are the statistics of the task's images (dots); `used` are those that batch norm
    normalises by (line and band, in the colour of `plot_normalised`).
    """
    mean, deviation = map(_to_numpy, actual)
    line, band = map(_to_numpy, used)
    steps = np.arange(len(mean))
    ax.fill_between(steps, line - band, line + band, color=COLOURS["MAML++"], alpha=0.25)
    ax.plot(steps, line, color=COLOURS["MAML++"], label="chosen statistics")
    ax.errorbar(
        steps, mean, deviation, fmt="o", color=COLOURS["MAML"], capsize=4, label="of this task"
    )
    ax.axvline(step, color="#bbbbbb", linewidth=14, alpha=0.35, zorder=0)
    ax.set(xlabel="inner steps taken", ylabel="one feature, mean ± sd", xticks=steps)
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.35 * (high - low))
    ax.legend(fontsize=9, loc="upper right", ncols=2)
    return ax


def plot_normalised(results: dict[str, tuple[float, float]], ax: Axes, chosen: str) -> Axes:
    """Plot mean ± standard deviation of one feature after batch norm, one row per statistics.

    The grey band is the target, 0 ± 1. The `chosen` row is highlighted.
    """
    ax.axvspan(-1, 1, color="#dddddd", lw=0)
    for row, (name, (mean, deviation)) in enumerate(results.items()):
        colour = COLOURS["MAML++"] if name == chosen else "#777777"
        ax.errorbar(mean, row, xerr=deviation, fmt="o", color=colour, capsize=4, linewidth=2.5)
        ax.text(
            mean, row - 0.18, f"{mean:.2f} ± {deviation:.2f}", ha="center", fontsize=9, color=colour
        )
    extent = max(2.0, 1.1 * max(abs(mean) + deviation for mean, deviation in results.values()))
    ax.set(xlim=(-extent, extent), ylim=(2.5, -0.6))
    ax.set_yticks(range(len(results)), list(results))
    ax.set(xlabel="after batch norm (grey: 0 ± 1)")
    ax.grid(False)
    return ax


# Two weights, two tasks


def plot_landscape(
    losses: Sequence[np.ndarray],
    extent: float,
    paths: Sequence[np.ndarray],
    arrows: dict[str, np.ndarray],
    ax: Axes,
) -> Axes:
    """Plot each task's loss `[G, G]` over ±`extent` as contours, with its inner steps `[S + 1, 2]`.

    `arrows` are the descent directions of each method at the start; only their direction is shown.
    """
    axis = np.linspace(-extent, extent, len(losses[0]))
    tasks = zip(losses, paths, (("#444444", "-"), ("#8a8a8a", "--")), "AB", strict=True)
    for loss, path, (colour, linestyle), name in tasks:
        levels = loss.min() + 0.12 * (1 + np.arange(9)) ** 2
        lines = ax.contour(axis, axis, loss, levels=levels, colors=colour, linestyles=linestyle)
        lines.set(linewidths=0.8, alpha=0.6)
        ax.plot(*path.T, "o-", color=colour, linewidth=1.5, markersize=6)
        row, column = np.unravel_index(loss.argmin(), loss.shape)
        lowest = axis[column], axis[row]
        ax.plot(*lowest, "x", color=colour, markersize=9, markeredgewidth=2.5)
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
        ax.annotate(
            name, lowest, (11, 11), textcoords="offset points", color=colour, fontsize=15,
            fontweight="bold", ha="center", va="center", bbox=box,
        )  # fmt: skip
    for (name, direction), linestyle in zip(arrows.items(), ("-", "--", ":"), strict=True):
        _draw_arrow(paths[0][0], direction, name, linestyle, ax)
    ax.set(xlim=(-extent, extent), ylim=(-extent, extent), xlabel="weight θ₁", ylabel="weight θ₂")
    ax.set_aspect("equal")
    ax.grid(False)
    return ax


def _draw_arrow(
    start: np.ndarray, direction: np.ndarray, name: str, linestyle: str, ax: Axes
) -> None:
    length = float(np.hypot(*direction))
    if not 0 < length < np.inf:
        return
    ax.annotate(
        "",
        xy=tuple(start + direction / length),
        xytext=tuple(start),
        arrowprops={
            "arrowstyle": "-|>", "color": COLOURS[name], "linewidth": 2.5, "linestyle": linestyle,
            "shrinkA": 0, "shrinkB": 0, "mutation_scale": 16,
        },
    )  # fmt: skip
    ax.plot([], [], color=COLOURS[name], linestyle=linestyle, linewidth=2.5, label=name)
