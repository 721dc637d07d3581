"""Pictures of what a recipe decides over a training: which losses count, which order, which rate.

Every curve is `mamlpp.schedules` called epoch by epoch, as training calls it. Letters: S inner
steps, L layers, F features.
"""

import re
from collections.abc import Sequence

import matplotlib
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.ticker import NullLocator
from torch import Tensor

from mamlpp import schedules
from mamlpp.inner_rates import LSLR, FixedRate, MetaSGD
from mamlpp.recipe import Recipe
from mamlpp.show.plots import COLOURS

POINTS = 121  # of each curve
# What a support pass costs in second order, where one in first order costs 1. Measured on a CPU by
# benchmarks/order.py, 20-way 1-shot, 32 filters: 2.7, 2.9, 2.9, 3.1, 3.2 for 1, 2, 3, 5, 10 steps.
SECOND_ORDER_PASS = 3.0
ORDERS = {True: ("second order", COLOURS["MAML"]), False: ("first order", "#f0c27a")}
PERCENTILES = (5, 50, 95)


# What counts: the multi-step loss


def step_colours(steps: int) -> list[tuple[float, float, float]]:
    """One colour a step, from light (the first) to dark (the last)."""
    return sns.color_palette("viridis_r", steps + 1)[1:]


def weights_at(recipe: Recipe, epoch: float) -> list[float]:
    """What the query loss after each of the steps 1 … S counts, as training asks for it."""
    return schedules.step_weights(recipe.inner_steps, recipe.msl_epochs, recipe.msl_floor, epoch)


def plot_step_weights(recipe: Recipe, ax: Axes, until: float) -> Axes:
    """The weights of the query losses from epoch 0 to `until`, stacked: together always 1."""
    epochs = np.linspace(0, until, POINTS)
    weights = np.array([weights_at(recipe, epoch) for epoch in epochs]).T  # [S, POINTS]
    ax.stackplot(
        epochs, weights, colors=step_colours(recipe.inner_steps), edgecolor="white", lw=0.5
    )
    _name_bands(weights, until, ax)
    ax.set(xlim=(0, until), ylim=(0, 1), xlabel="epoch", ylabel="weight of the query loss")
    return ax


def _name_bands(weights: np.ndarray, until: float, ax: Axes) -> None:
    """The last step's name in the middle; the others' at the left, where they have room."""
    steps, later = len(weights), POINTS // 10
    middles = np.cumsum(weights, axis=0) - weights / 2
    ax.text(0.6 * until, middles[-1, -1], f"step {steps}", va="center", fontsize=9, color="white")
    for step in range(1, steps):
        if weights[step - 1, later] > 0.04:
            height = middles[step - 1, [0, later]].mean()
            colour = "white" if step > 0.4 * steps else "black"
            ax.text(0.012 * until, height, f"step {step}", va="center", fontsize=9, color=colour)


def plot_weight_bars(weights: Sequence[float], ax: Axes) -> Axes:
    """What the query loss after each step counts at one moment, a bar a step, with its number."""
    steps = range(1, len(weights) + 1)
    ax.bar(steps, weights, color=step_colours(len(weights)))
    turned = 90 if len(weights) > 6 else 0  # side by side there would be no room
    for step, weight in zip(steps, weights, strict=True):
        ax.text(step, weight + 0.02, f"{weight:.2g}", ha="center", fontsize=9, rotation=turned)
    ax.set(
        ylim=(0, 1.12), xticks=steps, yticks=(0, 0.5, 1), xlabel="after inner step", ylabel="weight"
    )
    ax.grid(False, axis="x")
    return ax


# Which order, and what it costs


def passes(recipe: Recipe, epoch: float, second_order_pass: float = SECOND_ORDER_PASS) -> float:
    """What a meta-step costs for each task at an epoch, in passes (forward and back) of one set.

    S passes over the support set, each counting `second_order_pass` in second order, and one pass
    over the query set for every query loss that counts. Query and support set are taken as equally
    large, as in 1-shot Omniglot tasks with 1 query a class. The inner rule and batch norm add
    next to nothing.
    """
    order = schedules.second_order(recipe.second_order_from, epoch)
    queries = sum(weight > 0 for weight in weights_at(recipe, epoch))
    return recipe.inner_steps * (second_order_pass if order else 1.0) + queries


def relative_cost(recipe: Recipe) -> float:
    """Passes of the whole training, in those of plain second-order MAML of the same length."""
    plain = recipe.with_(msl_epochs=0.0, msl_floor=0.0, second_order_from=0.0)
    whole = sum(passes(recipe, epoch) for epoch in range(recipe.epochs))
    return whole / (recipe.epochs * passes(plain, 0))


def plot_order(recipe: Recipe, ax: Axes) -> Axes:
    """Bands over the epochs: where the meta-gradient is of first, where of second order."""
    for start, end, order in order_spans(recipe):
        name, colour = ORDERS[order]
        ax.axvspan(start, end, color=colour, alpha=0.45, lw=0, label=name)
    ax.set(xlim=(0, recipe.epochs), xlabel="epoch")
    return ax


def order_spans(recipe: Recipe) -> list[tuple[float, float, bool]]:
    """(first epoch, last epoch, whether in second order) of each phase of the training."""
    end = float(recipe.epochs)
    switch = end if recipe.second_order_from is None else min(recipe.second_order_from, end)
    spans = [(0.0, switch), (switch, end)]
    return [
        (start, stop, schedules.second_order(recipe.second_order_from, start))
        for start, stop in spans
        if stop > start
    ]


def plot_order_cost(recipe: Recipe, ax: Axes) -> Axes:
    """Cost of the whole training against the switch epoch; a dot where this recipe switches."""
    epochs = np.linspace(0, recipe.epochs, 31)
    cost = [100 * relative_cost(recipe.with_(second_order_from=float(e))) for e in epochs]
    ax.plot(epochs, cost, color="#555555")
    never = recipe.second_order_from is None
    ax.plot(
        recipe.epochs if never else min(recipe.second_order_from or 0, recipe.epochs),
        100 * relative_cost(recipe),
        "o",
        color=COLOURS["MAML++"],
        markersize=10,
        clip_on=False,
    )
    ax.set(xlabel="first epoch in second order", ylabel="predicted cost, %")
    ax.set(xlim=(0, recipe.epochs), ylim=(0, 105))
    return ax


def plot_timeline(recipe: Recipe, axes: Sequence[Axes]) -> None:
    """Three rows over the epochs: weights of the query losses; outer rate; order and cost."""
    losses, rate, cost = axes
    plot_step_weights(recipe, losses, until=recipe.epochs)
    losses.set(ylabel="query\nlosses", yticks=(0, 0.5, 1))
    plot_outer_rate(recipe, rate, until=recipe.epochs)
    rate.set(ylabel="outer\nrate β", yticks=(0, recipe.outer_rate / 2, recipe.outer_rate))
    rate.yaxis.set_major_formatter("{x:.1g}")
    plot_order(recipe, cost)
    plot_cost(recipe, cost)
    for start, end, order in order_spans(recipe):
        if end - start > 0.15 * recipe.epochs:
            place = (start + end) / 2, 0.12
            name = ORDERS[order][0]
            cost.text(*place, name, ha="center", size=10, transform=cost.get_xaxis_transform())
    for ax in axes[:-1]:
        ax.set_xlabel("")
        ax.tick_params(labelbottom=False)
    for ax in axes:
        ax.yaxis.label.set(rotation=0, ha="right", va="center", size=10)
        ax.tick_params(labelsize=9)


def plot_cost(recipe: Recipe, ax: Axes) -> Axes:
    """What a meta-step costs over the epochs, in % of one of plain second-order MAML."""
    epochs = np.linspace(0, recipe.epochs, POINTS)
    plain = passes(Recipe(inner_steps=recipe.inner_steps), 0)
    cost = [100 * passes(recipe, epoch) / plain for epoch in epochs]
    ax.plot(epochs, cost, color="#333333", linewidth=2.5, drawstyle="steps-post")
    ax.set(xlim=(0, recipe.epochs), ylim=(0, 1.15 * max(cost)), xlabel="epoch", ylabel="cost,\n%")
    return ax


# The outer rate


def outer_rates(recipe: Recipe, epochs: Sequence[float], bounded: bool = True) -> list[float]:
    """The meta-optimizer's rate at each epoch. Not `bounded`, T runs on past T_max, as in code
    that forgets the bound: the cosine turns, and the rate rises again.
    """
    period = 2 * recipe.epochs
    turned = [abs((e + recipe.epochs) % period - recipe.epochs) for e in epochs]  # cos is even
    return [
        schedules.outer_rate(recipe.outer_rate, recipe.outer_rate_min, recipe.epochs, epoch)
        for epoch in (epochs if bounded else turned)
    ]


def plot_outer_rate(recipe: Recipe, ax: Axes, until: float, bounded: bool = True) -> Axes:
    """The rate from epoch 0 to `until`, with T_max where the training goes on past it."""
    epochs = np.linspace(0, until, POINTS)
    rates = outer_rates(recipe, epochs.tolist(), bounded)
    ax.plot(epochs, rates, color=COLOURS["MAML"], linewidth=2.5)
    if until > recipe.epochs:
        ax.axvline(recipe.epochs, color="#555555", linestyle=":")
        label = "T_max", (recipe.epochs, 1.0), (4, -4)
        ax.annotate(*label, xycoords=ax.get_xaxis_transform(), textcoords="offset points", va="top")
    ax.set(
        xlim=(0, until), ylim=(0, 1.1 * recipe.outer_rate), xlabel="epoch", ylabel="outer rate β"
    )
    return ax


# The inner rates


def rates_table(rule: FixedRate | LSLR | MetaSGD) -> tuple[list[str], list[str], np.ndarray]:
    """Names of the rows, names of the columns and the numbers of an inner rule, for a heat map.

    LSLR: layers by steps. Meta-SGD: weights by the 5th, 50th and 95th percentile of their numbers.
    """
    if isinstance(rule, LSLR):
        columns = [f"step {step + 1}" for step in range(rule.rates.shape[1])]
        return [layer_title(name) for name in rule.layers], columns, _numbers(rule.rates)
    columns = [f"{percent} %" for percent in PERCENTILES]
    if isinstance(rule, MetaSGD):
        rows = [np.percentile(_numbers(rates), PERCENTILES) for rates in rule.rates]
        return [layer_title(name) for name in rule.names], columns, np.array(rows)
    return ["all"], ["all"], np.array([[rule.rate]])


def layer_title(name: str) -> str:
    """`"conv 1 weight"`, of `"blocks.0.conv.weight"`; other names with spaces for dots."""
    title = re.sub(r"^blocks\.(\d+)\.conv", lambda found: f"conv {int(found[1]) + 1}", name)
    return title.replace(".", " ")


def _numbers(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().double().numpy()


def count_rates(rule: str, weights: int, layers: int, steps: int) -> int:
    """How many inner rates there are, fixed or learned: one, layers times steps, one a weight."""
    return {"fixed": 1, "lslr": layers * steps, "meta-sgd": weights}[rule]


def plot_rate_counts(counts: dict[str, int], ax: Axes) -> Axes:
    """How many rates each rule has, on a logarithmic axis, with the numbers."""
    colours = (COLOURS["MAML"], COLOURS["MAML + LSLR"], COLOURS["Meta-SGD"])
    ax.barh(list(counts), list(counts.values()), color=colours[: len(counts)])
    for row, count in enumerate(counts.values()):
        ax.text(count * 1.3, row, f"{count:,}", va="center", fontsize=10)
    ax.set(xscale="log", xlim=(0.7, 100 * max(counts.values())), xticks=[])
    ax.set_xlabel("numbers, on a logarithmic axis")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.invert_yaxis()
    ax.grid(False, axis="y")
    return ax


def plot_rates(
    rows: Sequence[str],
    columns: Sequence[str],
    values: np.ndarray,
    ax: Axes,
    centre: float,
    spread: float | None = None,
) -> Axes:
    """Rates `[rows, columns]` as a heat map: white at `centre`, where they began, `spread` to
    either side of it the full colour. Each cell has its number.
    """
    spread = spread or max(float(np.abs(values - centre).max()), 1e-9)
    norm = TwoSlopeNorm(centre, centre - spread, centre + spread)
    colours = matplotlib.colormaps["PuOr_r"]
    ax.imshow(values, cmap=colours, norm=norm, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        dark = abs(norm(value) - 0.5) > 0.35
        ax.text(
            column, row, f"{value:.3g}", ha="center", va="center", fontsize=9,
            color="white" if dark else "black",
        )  # fmt: skip
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), rows)
    ax.grid(False)
    return ax


# The statistics of batch norm


def plot_norm_statistics(
    seen: tuple[Tensor, Tensor], read: tuple[Tensor, Tensor], ax: Axes, step: int
) -> Axes:
    """One feature's mean ± standard deviation, each `[S + 1]`, before each inner step: what the
    images of a task have (dots), and what batch norm reads instead (line and band).
    """
    mean, deviation = map(_numbers, seen)
    line, band = map(_numbers, read)
    steps = np.arange(len(mean))
    ax.fill_between(steps, line - band, line + band, color=COLOURS["first-order MAML"], alpha=0.25)
    ax.plot(steps, line, color=COLOURS["first-order MAML"], label="read at evaluation")
    ax.errorbar(
        steps, mean, deviation, fmt="o", color=COLOURS["MAML"], capsize=4, label="this task has"
    )
    ax.axvline(step, color="#bbbbbb", linewidth=14, alpha=0.35, zorder=0)
    ax.set(xlabel="inner steps taken", ylabel="one feature, mean ± sd", xticks=steps)
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.35 * (high - low))
    ax.legend(fontsize=9, loc="upper right", ncols=2)
    return ax


def plot_normalised(results: dict[str, tuple[float, float]], ax: Axes, chosen: str) -> Axes:
    """Mean ± standard deviation that one feature has after batch norm, a row a kind of statistics;
    the grey band is what it should have, 0 ± 1.
    """
    ax.axvspan(-1, 1, color="#dddddd", lw=0)
    for row, (kind, (mean, deviation)) in enumerate(results.items()):
        colour = COLOURS["MAML++"] if kind == chosen else "#777777"
        ax.errorbar(mean, row, xerr=deviation, fmt="o", color=colour, capsize=4, linewidth=2.5)
        ax.text(
            mean, row - 0.18, f"{mean:.2f} ± {deviation:.2f}", ha="center", fontsize=9, color=colour
        )
    furthest = max(abs(mean) + deviation for mean, deviation in results.values())
    ax.set(xlim=(-max(2.0, 1.1 * furthest), max(2.0, 1.1 * furthest)), ylim=(2.5, -0.6))
    ax.set_yticks(range(len(results)), list(results))
    ax.set(xlabel="after batch norm (grey: 0 ± 1)")
    ax.grid(False)
    return ax


# Two tasks with two weights


def plot_landscape(
    losses: Sequence[np.ndarray],
    extent: float,
    paths: Sequence[np.ndarray],
    arrows: dict[str, np.ndarray],
    ax: Axes,
) -> Axes:
    """Contours of each task's loss `[G, G]` over ±`extent`; the inner steps `[S + 1, 2]` of each;
    from where they begin, the direction (not the length) of each method's step downhill.
    """
    axis = np.linspace(-extent, extent, len(losses[0]))
    looks = zip(losses, paths, ("#5b8fb9", "#b98a3e"), "AB", strict=True)
    for loss, path, colour, name in looks:
        levels = loss.min() + 0.12 * (1 + np.arange(9)) ** 2
        ax.contour(axis, axis, loss, levels=levels, colors=colour, linewidths=0.9, alpha=0.8)
        ax.plot(*path.T, ".-", color=colour, linewidth=2, markersize=7)
        row, column = np.unravel_index(loss.argmin(), loss.shape)
        ax.text(
            axis[column], axis[row], name, color=colour, fontsize=15, fontweight="bold",
            ha="center", va="center",
        )  # fmt: skip
    for (name, direction), look in zip(arrows.items(), ("-", "--", ":"), strict=True):
        _draw_arrow(paths[0][0], direction, name, look, ax)
    ax.set(xlim=(-extent, extent), ylim=(-extent, extent), xlabel="weight θ₁", ylabel="weight θ₂")
    ax.set_aspect("equal")
    ax.grid(False)
    return ax


def _draw_arrow(start: np.ndarray, direction: np.ndarray, name: str, look: str, ax: Axes) -> None:
    length = float(np.hypot(*direction))
    if not 0 < length < np.inf:
        return
    ax.annotate(
        "",
        xy=tuple(start + direction / length),
        xytext=tuple(start),
        arrowprops={
            "arrowstyle": "-|>", "color": COLOURS[name], "linewidth": 2.5, "linestyle": look,
            "shrinkA": 0, "shrinkB": 0, "mutation_scale": 16,
        },
    )  # fmt: skip
    ax.plot([], [], color=COLOURS[name], linestyle=look, linewidth=2.5, label=name)
