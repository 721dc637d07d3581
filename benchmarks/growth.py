"""How a meta-step's time and memory grow: with inner steps, tasks, ways, filters, images, workers.

python -m benchmarks.growth

Both memory modes take turns. One size varies at a time; the others stay at `BASE`, but several
workers share 8 tasks. Prints the fitted exponents; writes `growth.json` and the figure drawn from
it, `growth.svg`, to `benchmarks/results/`.
"""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import linear_regression, median
from typing import Any

import matplotlib.pyplot as plt
import tyro
from matplotlib.figure import Figure

from benchmarks import report
from benchmarks.contenders import Memory, ours
from benchmarks.race import Contender, race
from benchmarks.workloads import MAML_PLUS_PLUS, Workload
from mamlpp.show.plots import use_style

RESULTS = Path(__file__).parent / "results"
BASE = {"inner_steps": 5, "tasks": 4, "ways": 20, "filters": 32, "image_size": 28, "workers": 1}
SIZES = {
    "inner_steps": (1, 2, 5, 10, 20),
    "tasks": (1, 2, 4, 8, 16, 32),
    "ways": (5, 10, 20, 50),
    "filters": (16, 32, 64, 128),
    "image_size": (28, 42, 56, 84),
    "workers": (1, 2, 4, 8),
}
SHARED_TASKS = 8
MODES: tuple[Memory, ...] = ("store", "recompute")


def main(rounds: int = 3, output: Path = RESULTS) -> None:
    """Measure time and memory, print the exponents, and draw the figure.

    Args:
        rounds: Timed turns of each mode at each size, after one warm-up turn.
        output: Folder for the numbers and the figure.
    """
    about = report.provenance("benchmarks.growth", 1)
    rows = []
    for axis, sizes in SIZES.items():
        for size in sizes:
            rows += measure(axis, size, rounds)
            print(*rows[-len(MODES) :], sep="\n", flush=True)
    print(*summary(rows), sep="\n")
    report.write(output / "growth.json", about | {"base": BASE, "rows": rows})
    draw(output)


def measure(axis: str, size: int, rounds: int) -> list[dict[str, Any]]:
    """Seconds and peak MB of a meta-step in each mode, with one size of `BASE` changed."""
    sizes = BASE | {axis: size} | ({"tasks": SHARED_TASKS} if axis == "workers" else {})
    workers = sizes.pop("workers")
    workload = make_workload(**sizes)
    started = [Contender(mode, ours, workload, mode, workers) for mode in MODES]
    seconds, memory = race(started, rounds)
    return [
        {
            "axis": axis,
            "size": size,
            "mode": name,
            "seconds": round(median(times), 4),
            "megabytes": memory[name],
        }
        for name, times in seconds.items()
    ]


def make_workload(
    inner_steps: int, tasks: int, ways: int, filters: int, image_size: int = 28
) -> Workload:
    """Second-order MAML++ on grey images, 1-shot."""
    recipe = MAML_PLUS_PLUS.with_(inner_steps=inner_steps, meta_batch=tasks, filters=filters)
    return Workload("MAML++", recipe, ways=ways, image_shape=(1, image_size, image_size))


def summary(rows: list[dict[str, Any]]) -> Iterator[str]:
    """A line for each size that varied and each mode: the exponents of time and memory."""
    for axis, mode in dict.fromkeys((row["axis"], row["mode"]) for row in rows):
        own = [row for row in rows if (row["axis"], row["mode"]) == (axis, mode)]
        time, memory = (exponent(own, name) for name in ("seconds", "megabytes"))
        yield f"{axis}, {mode}: time grows with its power {time:.2f}, memory with {memory:.2f}"


def exponent(rows: list[dict[str, Any]], measured: str) -> float:
    """The power of the size with which a measured quantity grows: a line fitted to the logarithms.

    NaN where the system does not report the quantity.
    """
    if any(not row[measured] for row in rows):
        return math.nan
    sizes, values = ([math.log(row[name]) for row in rows] for name in ("size", measured))
    return linear_regression(sizes, values).slope


def draw(folder: Path) -> None:
    """Draw `growth.svg` from `growth.json`; the same numbers give the same bytes."""
    use_style()
    figure = plot_growth(json.loads((folder / "growth.json").read_text(encoding="utf-8"))["rows"])
    figure.savefig(folder / "growth.svg", metadata={"Date": None}, facecolor="white")
    plt.close(figure)


def plot_growth(rows: list[dict[str, Any]]) -> Figure:
    """Plot seconds (top) and peak MB (bottom); a column per varied size, a line per mode."""
    columns = list(dict.fromkeys(row["axis"] for row in rows))
    figure, axes = plt.subplots(
        2, len(columns), figsize=(2 * len(columns), 4.4), layout="constrained", squeeze=False,
        sharex="col",
    )  # fmt: skip
    for column, axis in enumerate(columns):
        for above, measure, unit in ((0, "seconds", "s per meta-step"), (1, "megabytes", "MB")):
            ax = axes[above][column]
            for mode in MODES:
                points = [row for row in rows if (row["axis"], row["mode"]) == (axis, mode)]
                values = [row[measure] for row in points]
                ax.plot([row["size"] for row in points], values, marker="o", label=mode)
            ax.set_ylim(bottom=0)
            if column == 0:
                ax.set_ylabel(unit)
        axes[1][column].set_xlabel(axis.replace("_", " "))
    axes[0][-1].legend(title="memory", loc="lower left", fontsize=9)
    return figure


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
