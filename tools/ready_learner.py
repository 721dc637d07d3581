"""Train the learner that pages play with before anything else has been trained (10 minutes).

.venv/bin/python tools/ready_learner.py     rewrites mamlpp/show/ready.safetensors

It trains on Omniglot, drawings by many hands, where that is at hand, otherwise on the glyphs.
"""

from mamlpp import stopping

stopping.listen(__name__, "The weights are as they were.")

import torch
import tyro

import mamlpp
from mamlpp.show.ready import WEIGHTS, write_ready_learner

EPOCHS, ITERATIONS, TASKS = 10, 100, 600


def main() -> None:
    """Train MAML++ in small, measure it on unseen characters, and write its weights."""
    torch.set_num_threads(1)
    dataset = mamlpp.default_dataset()
    recipe = mamlpp.RECIPES["maml++"].with_(
        filters=32, inner_steps=3, inner_rate=0.2, outer_rate=1e-2, meta_batch=4,
        epochs=EPOCHS, iterations_per_epoch=ITERATIONS, validation_tasks=100,
    )  # fmt: skip
    train, validation = (
        mamlpp.TaskSampler(mamlpp.load_images(dataset, split), 5, 1, 5, seed=0, rotate=turn)
        for split, turn in (("train", True), ("validation", False))
    )
    run = mamlpp.Trainer(recipe, train, validation).fit()
    evaluation = mamlpp.evaluate(run, mamlpp.load_images(dataset, "test"), tasks=TASKS)
    made_by = (
        f"MAML++, {EPOCHS * ITERATIONS} meta-steps on {dataset}; 5-way 1-shot tasks of characters "
        f"that it had not seen: {evaluation}"
    )
    write_ready_learner(run.learner, made_by)
    print(f"{WEIGHTS.name}, {WEIGHTS.stat().st_size / 1000:.0f} kB: {made_by}")


if __name__ == "__main__":
    tyro.cli(main)
