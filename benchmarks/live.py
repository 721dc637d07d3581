"""What a live panel costs, as a share of the run's time: `python -m benchmarks.live`.

Shares of wall time that the training thread spends on pictures (drawn, packed, put into a message)
and on following the gradient back; then the time of a whole run with a panel over that of one
without, the better of two each, taken in turn. The server and the browser come on top, in processes
of their own.
"""

import json
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

import mamlpp
from benchmarks.timing import seconds
from mamlpp.run import trainer as training
from mamlpp.show import live

REPEATS = 2
SIZES: dict[str, dict[str, Any]] = {
    "fast": {"filters": 8, "inner_steps": 1, "meta_batch": 1, "iterations_per_epoch": 1500},
    "middle": {"filters": 16, "inner_steps": 3, "meta_batch": 4, "iterations_per_epoch": 150},
    "slow": {"filters": 64, "inner_steps": 5, "meta_batch": 8, "iterations_per_epoch": 8},
}


def main() -> None:
    """Print a line for each size of a meta-step."""
    torch.set_num_threads(1)
    live.get_ipython = lambda: SimpleNamespace(execution_count=1)  # type: ignore[assignment, return-value]
    live.display = lambda data, **_: json.dumps(data)
    titles = ("s a step", "pictures", "drawing", "looking")
    print("steps   ", *(f"{title:>9}" for title in titles), f"{'with/without':>14}", sep="")
    for name, fields in SIZES.items():
        print(f"{name:<8}{line(mamlpp.RECIPES['maml'].with_(epochs=1, **fields))}", flush=True)


def line(recipe: mamlpp.Recipe) -> str:
    """Seconds a meta-step, pictures, both shares, and the ratio of the whole."""
    plain, shown = [], []
    for _ in range(REPEATS):
        trainer = make_trainer(recipe)
        plain.append(seconds(trainer.fit))
        shown.append(with_panel(make_trainer(recipe)))
    whole, pictures, drawing, looking = min(shown)
    step = min(plain) / recipe.iterations_per_epoch
    ratio = whole / min(plain)
    return f"{step:>9.3f}{pictures:>9}{drawing / whole:>9.1%}{looking / whole:>9.1%}{ratio:>14.2f}"


def with_panel(trainer: mamlpp.Trainer) -> tuple[float, int, float, float]:
    """Seconds in all; pictures; seconds spent on them, and on following the gradient back."""
    panel = live.LivePanel(trainer)
    drawing, looking = Clock(panel._publish), Clock(training.diagnose)
    panel._publish, training.diagnose = drawing, looking  # type: ignore[method-assign]
    try:
        whole = seconds(panel.result)
    finally:
        training.diagnose = looking.function
    return whole, drawing.calls, drawing.seconds, looking.seconds


def make_trainer(recipe: mamlpp.Recipe) -> mamlpp.Trainer:
    """5-way 1-shot tasks of glyphs."""
    train, validation = (
        mamlpp.TaskSampler(mamlpp.load_images("glyphs", split), 5, 1)
        for split in ("train", "validation")
    )
    return mamlpp.Trainer(recipe.with_(validation_tasks=2), train, validation)


class Clock:
    """A function, and how long all its calls took."""

    def __init__(self, function: Callable) -> None:
        self.function, self.calls, self.seconds = function, 0, 0.0

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Call it, and count."""
        start = time.perf_counter()
        try:
            return self.function(*args, **options)
        finally:
            self.calls += 1
            self.seconds += time.perf_counter() - start


if __name__ == "__main__":
    main()
