"""The cost of a live panel as a fraction of a run's wall time.

python -m benchmarks.live
python -m benchmarks.live --device cuda --sizes gpu

Prints the fractions that the training thread spends on pictures (drawing, encoding, packing into a
message) and on diagnosing the backward pass; then the time of a run with a panel over that without,
the faster of two alternating runs each. The notebook server and the browser, which run in their own
processes, are not included.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import tyro

import mamlpp
from benchmarks import report
from benchmarks.timing import seconds
from mamlpp.run import trainer as training
from mamlpp.show import live

REPEATS = 2
SIZES: dict[str, dict[str, Any]] = {
    "fast": {"filters": 8, "inner_steps": 1, "meta_batch": 1, "iterations_per_epoch": 1500},
    "middle": {"filters": 16, "inner_steps": 3, "meta_batch": 4, "iterations_per_epoch": 150},
    "slow": {"filters": 64, "inner_steps": 5, "meta_batch": 8, "iterations_per_epoch": 8},
    "gpu": {"filters": 64, "inner_steps": 5, "meta_batch": 8, "iterations_per_epoch": 2000},
}
CPU_SIZES = ("fast", "middle", "slow")


def main(
    device: str = "cpu", sizes: tuple[str, ...] = CPU_SIZES, output: Path | None = None
) -> None:
    """Print a line for each size of meta-step.

    Args:
        device: Where it trains.
        sizes: Names in `SIZES`.
        output: JSON file for the results.
    """
    torch.set_num_threads(1)
    live.get_ipython = lambda: SimpleNamespace(execution_count=1)  # type: ignore[assignment, return-value]
    live.display = lambda data, **_: json.dumps(data)
    print("steps      s/step  pictures   drawing diagnosis  with/without")
    rows = []
    for name in sizes:
        row = measure(mamlpp.RECIPES["maml"].with_(epochs=1, **SIZES[name]), device)
        rows.append({"size": name} | row)
        print(LINE.format(**rows[-1]), flush=True)
    if output is not None:
        report.write(output, report.provenance("benchmarks.live", 1, device) | {"rows": rows})


LINE = "{size:<8}{step:>9.4f}{pictures:>10}{drawing:>10.1%}{diagnosis:>10.1%}{ratio:>14.2f}"


def measure(recipe: mamlpp.Recipe, device: str) -> dict[str, float]:
    """Seconds per meta-step, number of pictures, both fractions, and the ratio of run times."""
    plain, shown = [], []
    for _ in range(REPEATS):
        trainer = make_trainer(recipe, device)
        plain.append(seconds(trainer.fit))
        shown.append(with_panel(make_trainer(recipe, device)))
    whole, pictures, drawing, diagnosis = min(shown)
    return {
        "step": min(plain) / recipe.iterations_per_epoch,
        "pictures": pictures,
        "drawing": drawing / whole,
        "diagnosis": diagnosis / whole,
        "ratio": whole / min(plain),
    }


def with_panel(trainer: mamlpp.Trainer) -> tuple[float, int, float, float]:
    """Seconds of the run; number of pictures; seconds spent on them; seconds of diagnosis."""
    panel = live.LivePanel(trainer)
    drawing, diagnosis = TimedCalls(panel._publish), TimedCalls(training.diagnose)
    panel._publish, training.diagnose = drawing, diagnosis  # type: ignore[method-assign]
    try:
        whole = seconds(panel.result)
    finally:
        training.diagnose = diagnosis.function
    return whole, drawing.calls, drawing.seconds, diagnosis.seconds


def make_trainer(recipe: mamlpp.Recipe, device: str = "cpu") -> mamlpp.Trainer:
    """A trainer on 5-way 1-shot tasks of glyphs."""
    train, validation = (
        mamlpp.TaskSampler(mamlpp.load_images("glyphs", split).to(device), 5, 1)
        for split in ("train", "validation")
    )
    return mamlpp.Trainer(recipe.with_(validation_tasks=2), train, validation)


class TimedCalls:
    """Wraps a function; counts its calls and sums their wall time in seconds."""

    def __init__(self, function: Callable) -> None:
        self.function, self.calls, self.seconds = function, 0, 0.0

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Call the function and record the time."""
        start = time.perf_counter()
        try:
            return self.function(*args, **options)
        finally:
            self.calls += 1
            self.seconds += time.perf_counter() - start


if __name__ == "__main__":
    tyro.cli(main)
