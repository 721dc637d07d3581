"""How a meta-step's time and memory grow with inner steps, tasks, ways and filters.

python -m benchmarks.growth

Both memory modes take turns, in one process each. One size varies at a time; the others stay at
`BASE`. Writes `growth.json` and the figure drawn from it, `growth.svg`, to `benchmarks/results/`.
"""

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib.pyplot as plt
import tyro
from matplotlib.figure import Figure

from benchmarks import report
from benchmarks.contenders import OURS, start
from benchmarks.race import race
from benchmarks.workloads import MAML_PLUS_PLUS, Workload
from mamlpp.show.plots import use_style

RESULTS = Path(__file__).parent / "results"
BASE = {"inner_steps": 5, "tasks": 4, "ways": 20, "filters": 32}
SIZES = {
    "inner_steps": (1, 2, 5, 10, 20),
    "tasks": (1, 2, 4, 8, 16, 32),
    "ways": (5, 10, 20, 50),
    "filters": (16, 32, 64, 128),
}
MODES = {name: mode for name, (mode, processes) in OURS.items() if not processes}


def main(rounds: int = 3, cores: int = 2, output: Path = RESULTS) -> None:
    """Measure time and memory, and draw the figure.

    Args:
        rounds: Timed turns of each mode at each size, after one warm-up turn.
        cores: Threads per process.
        output: Folder for the numbers and the figure.
    """
    about = report.provenance("benchmarks.growth", cores)
    rows = []
    for axis, sizes in SIZES.items():
        for size in sizes:
            rows += measure(axis, size, rounds, cores)
            print(*rows[-len(MODES) :], sep="\n", flush=True)
    report.write(output / "growth.json", about | {"base": BASE, "rows": rows})
    draw(output)


def measure(axis: str, size: int, rounds: int, cores: int) -> list[dict[str, Any]]:
    """Seconds and peak MB of a meta-step in each mode, with one size of `BASE` changed."""
    workload = make_workload(**BASE | {axis: size})
    started = [start(name, workload, cores) for name in MODES]
    seconds, memory = race([contender for contender in started if contender is not None], rounds)
    return [
        {
            "axis": axis,
            "size": size,
            "mode": MODES[name],
            "seconds": round(median(times), 4),
            "megabytes": memory[name],
        }
        for name, times in seconds.items()
    ]


def make_workload(inner_steps: int, tasks: int, ways: int, filters: int) -> Workload:
    """Second-order MAML++ on 28x28 images, 1-shot."""
    recipe = MAML_PLUS_PLUS.with_(inner_steps=inner_steps, meta_batch=tasks, filters=filters)
    return Workload("MAML++", recipe, ways=ways)


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
        2, len(columns), figsize=(3 * len(columns), 5), layout="constrained", squeeze=False,
        sharex="col", sharey="row",
    )  # fmt: skip
    for column, axis in enumerate(columns):
        for above, measure, unit in ((0, "seconds", "s per meta-step"), (1, "megabytes", "MB")):
            ax = axes[above][column]
            for mode in MODES.values():
                points = [row for row in rows if (row["axis"], row["mode"]) == (axis, mode)]
                values = [row[measure] for row in points]
                ax.plot([row["size"] for row in points], values, marker="o", label=mode)
            if column == 0:
                ax.set_ylabel(unit)
        axes[1][column].set_xlabel(axis.replace("_", " "))
    for row in axes:
        row[0].set_ylim(bottom=0)
    axes[0][0].legend(title="memory")
    return figure


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
