"""Cost of second order: seconds per meta-step compared with first order, 1 to 10 inner steps.

    python -m benchmarks.order

Both orders take turns in one run, so that a busy machine slows both: trust the ratio of medians.
"""

from statistics import median

import mamlpp
from benchmarks.timing import seconds

REPEATS = 5


def main() -> None:
    """Print a line for each number of inner steps."""
    images = mamlpp.load_images("glyphs", "train")
    print("20-way 1-shot, 32 filters, 2 tasks per meta-step; medians in seconds")
    print(f"{'steps':>5} {'first order':>12} {'second order':>13} {'ratio':>6}")
    for steps in (1, 2, 3, 5, 10):
        trainers = [_trainer(images, steps, start) for start in (None, 0.0)]
        for trainer in trainers:
            trainer.step()
        rounds = [[seconds(trainer.step) for trainer in trainers] for _ in range(REPEATS)]
        first, second = map(median, zip(*rounds, strict=True))
        print(f"{steps:>5} {first:>12.3f} {second:>13.3f} {second / first:>6.2f}")


def _trainer(
    images: mamlpp.ImageSet, steps: int, second_order_from: float | None
) -> mamlpp.Trainer:
    recipe = mamlpp.RECIPES["maml"].with_(
        filters=32, inner_steps=steps, meta_batch=2, second_order_from=second_order_from
    )
    sampler = mamlpp.TaskSampler(images, 20, 1)
    held_out = mamlpp.load_images(images.dataset, "validation")
    return mamlpp.Trainer(recipe, sampler, mamlpp.TaskSampler(held_out, 20, 1))


if __name__ == "__main__":
    main()
