"""How long each explorer takes to answer a turned knob, in ms: `python -m benchmarks.widgets`.

Wall time of one picture, drawn and encoded; the way to the browser and back comes on top. On a busy
machine the fastest of the pictures says most about the work itself.
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
