"""How long each explorer takes to answer a turned knob, in ms: `python benchmarks/widgets.py`.

Wall time of one picture, drawn and encoded; the way to the browser and back comes on top. On a busy
machine the fastest of the pictures says most about the work itself.
"""

import time
from statistics import median

import torch

from mamlpp.show import widgets

EXPLORERS = ("msl", "order", "cosine", "rates", "batch_norm", "graph", "landscape")
REPEATS = 20


def main() -> None:
    """Print a line for each explorer."""
    torch.set_num_threads(1)
    builders = {name: getattr(widgets, f"{name}_explorer") for name in EXPLORERS}
    print(f"{'explorer':<12} {'fastest':>8} {'median':>7}   ms of {REPEATS} pictures")
    for name, build in (builders | {"recipe": widgets.recipe_board}).items():
        explorer = build()
        explorer.picture()
        times = [_milliseconds(explorer) for _ in range(REPEATS)]
        print(f"{name:<12} {min(times):>8.0f} {median(times):>7.0f}")


def _milliseconds(explorer: widgets.Explorer) -> float:
    start = time.perf_counter()
    explorer.picture()
    return 1000 * (time.perf_counter() - start)


if __name__ == "__main__":
    main()
