"""Recorded trainings, played again: validation accuracy and meta-gradient, with a slider."""

from collections.abc import Sequence
from itertools import pairwise

import ipywidgets  # type: ignore[import-untyped]
from matplotlib.axes import Axes

from mamlpp.errors import InputError
from mamlpp.run.results import RecordedResult, RecordedRun
from mamlpp.show.plots import COLOURS, METHODS
from mamlpp.show.widgets import Explorer, Picture, make_figure

SECONDS = 30.0  # that the whole training takes when it is played
FRAMES = 100


def plot_recorded(
    runs: Sequence[RecordedRun], axes: Sequence[Axes], until: float | None = None
) -> Sequence[Axes]:
    """Plot validation accuracy and the largest meta-gradients of each run, a thin line for a seed.

    Up to the meta-step `until`; the axes are those of the whole runs, so that they stay in place.
    """
    accuracy, norms = axes
    labelled: set[str] = set()
    for run in runs:
        method = METHODS[run.cell.recipe]
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
    for ax in (accuracy, norms):
        ax.set(xlim=(0, length), xlabel="meta-step")


def replay(result: RecordedResult | Sequence[RecordedRun]) -> Explorer:
    """Play recorded runs in half a minute; the slider stops and scrubs.

        replay(mamlpp.load_result("figure1"))

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
    figure = make_figure(2)
    plot_recorded(runs, figure.axes, step)
    return figure, f"Recorded, meta-step {step}: {'; '.join(_words(runs, step))}."


def _words(runs: Sequence[RecordedRun], step: int) -> list[str]:
    """For each method the latest validation accuracies, and the largest jump of the gradient."""
    words = []
    for recipe in dict.fromkeys(run.cell.recipe for run in runs):
        rows = [
            [row for row in run.history.rows if row["iteration"] <= step]
            for run in runs
            if run.cell.recipe == recipe
        ]
        judged = [[r for r in some if "validation_accuracy" in r] for some in rows]
        latest = [f"{100 * some[-1]['validation_accuracy']:.0f}" for some in judged if some]
        jumps = [
            after["gradient_norm"] / before["gradient_norm"]
            for some in rows
            for before, after in pairwise(some)
            if before["gradient_norm"] > 0
        ]
        jump = f", the gradient grew up to {max(jumps):.0f}-fold at once" if jumps else ""
        words.append(f"{METHODS[recipe]} {', '.join(latest) or '–'} %{jump}")
    return words
