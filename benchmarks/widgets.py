"""How long each explorer takes to redraw after a change, in ms: `python -m benchmarks.widgets`.

Wall time to draw and encode one picture, without the time to reach the browser and back. On a busy
machine, the fastest picture is the best measure of the work itself.
"""

from statistics import median

import torch

from benchmarks.timing import seconds
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
        times = [1000 * seconds(explorer.picture) for _ in range(REPEATS)]
        print(f"{name:<12} {min(times):>8.0f} {median(times):>7.0f}")


if __name__ == "__main__":
    main()
