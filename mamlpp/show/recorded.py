"""Recorded results (`mamlpp.load_result`), drawn: trainings played again, cures, maps of rates."""

from collections.abc import Sequence

import ipywidgets  # type: ignore[import-untyped]
import numpy as np
import pandas
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from mamlpp.errors import InputError
from mamlpp.run.evaluation import READINGS
from mamlpp.run.results import RecordedResult, RecordedRun
from mamlpp.show.plots import COLOURS, METHODS, plain_ticks
from mamlpp.show.widgets import Explorer, Picture, make_figure

SECONDS = 30.0  # that the whole training takes when it is played
FRAMES = 100
NEAR_CHANCE = 1.5  # below so many times chance a method has learned hardly anything
# How recipes name the improvements, in the order of the paper's gains, and how its table does.
IMPROVEMENTS = {
    "lslr": "LSLR", "bnrs+bnwb": "BNRS + BNWB", "ca": "CA", "da": "DA", "msl": "MSL",
}  # fmt: skip


def plot_recorded(
    runs: Sequence[RecordedRun], axes: Sequence[Axes], until: float | None = None
) -> Sequence[Axes]:
    """Plot validation accuracy and the largest meta-gradients of each run, a thin line for a seed.

    Up to the meta-step `until`; the axes are those of the whole runs, so that they stay in place.
    """
    accuracy, norms = axes
    labelled: set[str] = set()
    for run in runs:
        method = METHODS.get(run.cell.recipe, run.cell.recipe)
        label = "" if method in labelled else method
        labelled.add(method)
        rows = [row for row in run.history.rows if until is None or row["iteration"] <= until]
        judged = [row for row in rows if "validation_accuracy" in row]
        style = {"color": COLOURS[method], "linewidth": 1.2, "alpha": 0.8}
        accuracy.plot(
            [row["iteration"] for row in judged],
            [100 * row["validation_accuracy"] for row in judged],
            label=label,
            **style,
        )
        norms.plot(
            [row["iteration"] for row in rows], [row["gradient_norm"] for row in rows], **style
        )
    _fix_axes(runs, accuracy, norms)
    return axes


def _fix_axes(runs: Sequence[RecordedRun], accuracy: Axes, norms: Axes) -> None:
    length = max(run.cell.steps for run in runs)
    sizes = [norm for run in runs for norm in run.history.column("gradient_norm") if norm > 0]
    chance = 100 / runs[0].cell.ways
    accuracy.axhline(chance, color=COLOURS["chance"], linestyle=":", label="chance")
    accuracy.set(ylim=(0, 100), ylabel="validation accuracy, %")
    accuracy.legend(loc="upper left", fontsize=8)
    norms.set(yscale="log", ylim=(min(sizes) / 1.5, max(sizes) * 1.5))
    norms.set_ylabel("norm of the meta-gradient")
    plain_ticks(norms)
    for ax in (accuracy, norms):
        ax.set(xlim=(0, length), xlabel="meta-step")


def replay(result: RecordedResult | Sequence[RecordedRun]) -> Explorer:
    """Play recorded runs in half a minute; the slider stops and scrubs.

        replay(mamlpp.load_result("cures"))

    Raises `InputError` where there is no run.
    """
    runs = result.runs if isinstance(result, RecordedResult) else tuple(result)
    if not runs:
        raise InputError("there is no run to replay; give a recorded result with at least one")
    length = max(run.cell.steps for run in runs)
    frames = sorted({round(length * i / FRAMES) for i in range(FRAMES + 1)})
    last = len(frames) - 1
    slider = ipywidgets.SelectionSlider(
        options=frames, value=length, description="meta-step", continuous_update=True
    )
    player = ipywidgets.Play(
        max=last, interval=round(1000 * SECONDS / last), description="play", show_repeat=False
    )
    ipywidgets.jslink((player, "value"), (slider, "index"))
    explorer = Explorer(lambda step: _draw(runs, step), {"step": slider})
    explorer.box.children = (player, *explorer.box.children)
    return explorer


def _draw(runs: Sequence[RecordedRun], step: int) -> Picture:
    figure = make_figure(2, wspace=0.36, right=0.965)
    plot_recorded(runs, figure.axes, step)
    return figure, f"Recorded, meta-step {step}: {'; '.join(_words(runs, step))}."


def _words(runs: Sequence[RecordedRun], step: int) -> list[str]:
    """For each method the latest validation accuracies, and the largest spike of the gradient.

    Without the first tenth of the training, where each gradient is large.
    """
    words, warm = [], max(run.cell.steps for run in runs) / 10
    for recipe in dict.fromkeys(run.cell.recipe for run in runs):
        rows = [
            [row for row in run.history.rows if row["iteration"] <= step]
            for run in runs
            if run.cell.recipe == recipe
        ]
        judged = [[r for r in some if "validation_accuracy" in r] for some in rows]
        latest = [f"{100 * some[-1]['validation_accuracy']:.0f}" for some in judged if some]
        late = [[r["gradient_norm"] for r in some if r["iteration"] > warm] for some in rows]
        spikes = [max(norms) / np.median(norms) for norms in late if norms and np.median(norms)]
        spike = f", largest gradient {max(spikes):.0f} times the median" if spikes else ""
        words.append(f"{METHODS[recipe]} {', '.join(latest) or '–'} %{spike}")
    return words


def plot_cures(
    result: RecordedResult, recipes: Sequence[str], axes: Sequence[Axes]
) -> Sequence[Axes]:
    """Test accuracy of each run at two outer rates: a dot for a seed, a bar at the mean.

    `recipes` are names in `RECIPES`, from top to bottom; there is one of `axes` for each rate.
    """
    rates = sorted({run.cell.settings.outer_rate or 0.0 for run in result.runs})
    for ax, rate in zip(axes, rates, strict=True):
        for row, recipe in enumerate(recipes):
            _dots(cure_accuracies(result, recipe, rate), row, COLOURS[METHODS[recipe]], ax)
        ax.axvline(100 / result.runs[0].cell.ways, color=COLOURS["chance"], linestyle=":")
        ax.set_yticks(range(len(recipes)), [METHODS[recipe] for recipe in recipes])
        ax.set(xlim=(0, 100), ylim=(len(recipes) - 0.5, -0.5), xlabel="test accuracy, %")
        ax.set_title(f"outer rate β = {rate:g} (dotted: chance)", fontsize=11)
    for ax in axes[1:]:
        ax.set_yticklabels([])
    return axes


def _dots(accuracies: Sequence[float], row: float, colour: str, ax: Axes, size: int = 22) -> None:
    """A dot in % for each seed, and a bar at their mean."""
    values = [100 * accuracy for accuracy in accuracies]
    ax.plot(values, [row] * len(values), "o", color=colour, alpha=0.5)
    ax.plot(np.mean(values), row, "|", color=colour, markersize=size, mew=3)


def plot_leave_one_out(
    cures: RecordedResult, without: RecordedResult, axes: Sequence[Axes]
) -> Sequence[Axes]:
    """Test accuracy with each improvement added to MAML, and left out of MAML++.

    One of `axes` for each outer rate; a dot for a seed, a bar at the mean, and a line at the means
    of MAML and of MAML++ themselves, over the seeds that `without` has. Its recipes are
    "maml++-without-lslr" and so on.
    """
    rates = sorted({run.cell.settings.outer_rate or 0.0 for run in without.runs})
    seeds = {run.cell.seed for run in without.runs}
    for ax, rate in zip(axes, rates, strict=True):
        for recipe in ("maml", "maml++"):
            own = _by_seed(cures, recipe, rate)
            mean = float(100 * np.mean([own[seed] for seed in seeds & own.keys()]))
            ax.axvline(mean, color=COLOURS[METHODS[recipe]], linestyle=":", label=METHODS[recipe])
        for row, name in enumerate(IMPROVEMENTS):
            added = cure_accuracies(cures, f"maml+{name}", rate)
            left_out = cure_accuracies(without, f"maml++-without-{name}", rate)
            _dots(added, row - 0.18, COLOURS["MAML"], ax, 12)
            _dots(left_out, row + 0.18, COLOURS["MAML++"], ax, 12)
        ax.plot([], [], "o", color=COLOURS["MAML"], label="added to MAML")
        ax.plot([], [], "o", color=COLOURS["MAML++"], label="left out of MAML++")
        ax.set_yticks(range(len(IMPROVEMENTS)), IMPROVEMENTS.values())
        ax.set(xlim=(0, 100), ylim=(len(IMPROVEMENTS) - 0.5, -0.5), xlabel="test accuracy, %")
        ax.set_title(f"outer rate β = {rate:g}", fontsize=11)
    axes[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    for ax in axes[1:]:
        ax.set_yticklabels([])
    return axes


def leave_one_out(
    cures: RecordedResult, without: RecordedResult, outer_rate: float
) -> dict[str, tuple[float, float]]:
    """For each improvement: what MAML gains by it and what MAML++ loses without it, in 0 … 1.

    Means of the differences between runs of the same seed.
    """

    def difference(higher: dict[int, float], lower: dict[int, float]) -> float:
        return float(np.mean([higher[seed] - lower[seed] for seed in higher.keys() & lower.keys()]))

    maml, plus = (_by_seed(cures, recipe, outer_rate) for recipe in ("maml", "maml++"))
    return {
        shown: (
            difference(_by_seed(cures, f"maml+{name}", outer_rate), maml),
            difference(plus, _by_seed(without, f"maml++-without-{name}", outer_rate)),
        )
        for name, shown in IMPROVEMENTS.items()
    }


def _by_seed(result: RecordedResult, recipe: str, outer_rate: float) -> dict[int, float]:
    runs = result.select(recipe=recipe, outer_rate=outer_rate)
    return {run.cell.seed: run.accuracy() for run in runs}


def cure_accuracies(result: RecordedResult, recipe: str, outer_rate: float) -> list[float]:
    """Test accuracy in 0 … 1 by the support's statistics, one for each seed."""
    runs = result.select(recipe=recipe, outer_rate=outer_rate)
    if not runs:
        raise InputError(f"the recorded result {result.name} has no {recipe} at {outer_rate:g}")
    return [run.accuracy() for run in runs]


def plot_rate_map(result: RecordedResult, axes: Sequence[Axes]) -> Sequence[Axes]:
    """Mean test accuracy in % over inner and outer rates, one of `axes` for each recipe.

    A frame marks the squares near chance.
    """
    recipes = list(dict.fromkeys(run.cell.recipe for run in result.runs))
    chance = 100 / result.runs[0].cell.ways
    for ax, recipe in zip(axes, recipes, strict=True):
        accuracies = rate_map(result, recipe)
        sns.heatmap(
            100 * accuracies, ax=ax, cbar=False, annot=True, fmt=".0f", cmap="viridis",
            vmin=chance, vmax=100, linewidths=1,
        )  # fmt: skip
        for row, column in np.argwhere(100 * accuracies.to_numpy() < NEAR_CHANCE * chance):
            frame = Rectangle((column, row), 1, 1, fill=False, edgecolor="#d55e00", linewidth=3)
            ax.add_patch(frame).set_clip_on(False)
        for text in ax.texts:  # seaborn would write white on green, which is hard to read
            text.set_color("black" if float(text.get_text()) > 55 else "white")
        ax.tick_params(axis="y", rotation=0)
        ax.set(xlabel="inner rate α", ylabel="outer rate β", title=METHODS[recipe])
    return axes


def rate_map(result: RecordedResult, recipe: str) -> pandas.DataFrame:
    """Mean test accuracy in 0 … 1: a row for each outer rate, a column for each inner rate."""
    rows = [
        {
            "outer": run.cell.settings.outer_rate,
            "inner": run.cell.settings.inner_rate,
            "accuracy": run.accuracy(),
        }
        for run in result.select(recipe=recipe)
    ]
    means = pandas.DataFrame(rows).groupby(["outer", "inner"])["accuracy"].mean().unstack()
    return means.sort_index(ascending=False)


def plot_readings(result: RecordedResult, ax: Axes) -> Axes:
    """Test accuracy in % by each reading: a group for each kind of task, a dot for each run."""
    groups = _by_task(result)
    for shift, reading in zip((-0.2, 0.0, 0.2), READINGS, strict=True):
        values = [[100 * run.accuracy(reading) for run in runs] for runs in groups.values()]
        at = np.arange(len(groups)) + shift
        ax.bar(at, [np.mean(some) for some in values], 0.19, alpha=0.6, label=f"by {reading}")
        for x, some in zip(at, values, strict=True):
            ax.plot([x] * len(some), some, ".", color="black", markersize=5)
    ax.set_xticks(range(len(groups)), groups)
    ax.set(ylim=(0, 100), ylabel="test accuracy, %")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def reading_gaps(result: RecordedResult) -> dict[str, float]:
    """For each kind of task: mean accuracy by the support's statistics minus by the running."""
    return {
        task: float(np.mean([run.accuracy() - run.accuracy("running") for run in runs]))
        for task, runs in _by_task(result).items()
    }


def _by_task(result: RecordedResult) -> dict[str, list[RecordedRun]]:
    """The runs that collected running statistics, by their kind of task: "5-way 1-shot"."""
    groups: dict[str, list[RecordedRun]] = {}
    for run in result.runs:
        if "running" in run.results:
            groups.setdefault(f"{run.cell.ways}-way {run.cell.shots}-shot", []).append(run)
    return groups
