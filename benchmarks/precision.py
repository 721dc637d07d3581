"""The error of float32 meta-gradients, and its effect on training.

python -m benchmarks.precision                        on the built-in glyphs
python -m benchmarks.precision --dataset omniglot     with MAMLPP_DATA
python -m benchmarks.precision --device cuda          TF32 and bfloat16 as well

The error is |g − g64| / |g64|, where g64 is the definition's meta-gradient in float64. Compares, in
float32, the definition with the fast network that training uses; the fast network subtracts the
mean of the image patches before the first layer. On a GPU, also the definition with convolutions
that round their factors to TF32 or bfloat16. Writes `precision.json` to `benchmarks/results/`.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, median
from typing import Any, Literal, get_args

import torch
import tyro
from torch import Tensor

import mamlpp
from benchmarks import report
from mamlpp import maml
from mamlpp.engine import Engine
from mamlpp.engine.batched import task_gradients
from mamlpp.precision import CONVOLUTIONS, full_precision

Way = Literal["definition", "fast", "TF32", "bfloat16"]
FLOAT32: tuple[Way, ...] = ("definition", "fast")
KINK = 1e-3  # A larger error is not rounding: a ReLU or a maximum took the other branch.
RECIPE = mamlpp.RECIPES["maml"].with_(meta_batch=2, epochs=1)


def main(
    dataset: str = "glyphs",
    ways: int = 20,
    filters: int = 64,
    inner_rate: float = 0.1,
    inner_steps: tuple[int, ...] = (1, 2, 3, 5, 10),
    tasks: int = 4,
    seeds: int = 3,
    trained: int = 60,
    device: str = "cpu",
    output: Path = report.ROOT / "benchmarks" / "results" / "precision.json",
) -> None:
    """Measure the errors, train in each way, and print the results.

    Args:
        dataset: Dataset of the training images.
        ways: Classes per task, with one support image each.
        filters: Filters of each convolution.
        inner_rate: Learning rate of all inner steps.
        inner_steps: Numbers of inner steps to measure.
        tasks: Tasks for each start and each number of inner steps.
        seeds: Number of random initialisations.
        trained: Meta-steps, of 3 inner steps, that train the second start of each seed.
        device: The cpu, or a GPU, on which the definition is also computed with rounded factors.
        output: JSON file for the results.
    """
    torch.set_num_threads(1)
    images = mamlpp.load_images(dataset, "train").to(device)
    sampler = mamlpp.TaskSampler(images, ways, shots=1)
    compared = FLOAT32 if device == "cpu" else get_args(Way)
    recipe = RECIPE.with_(filters=filters, inner_rate=inner_rate, inner_steps=3)
    recipe = recipe.with_(iterations_per_epoch=trained)
    rows, runs = [], []
    for seed in range(seeds):
        learners = {}
        for way in compared:
            learners[way], run = train(recipe.with_(seed=seed), sampler.with_seed(seed), way)
            runs.append({"seed": seed, "network": way} | run)
        learner = learners["fast"]
        untrained = mamlpp.MetaLearner(learner.recipe, learner.image_shape, ways).to(device)
        batch = sampler.with_seed(seeds + seed).sample(tasks)
        for meta_steps, start in ((0, untrained), (trained, learner)):
            for steps in inner_steps:
                about: dict[str, Any] = {"seed": seed, "trained": meta_steps, "inner_steps": steps}
                rows += [about | errors(start, task, steps, compared) for task in batch]
    print(*table(rows, compared), "", *summary(runs, compared), sep="\n")
    about = report.provenance("benchmarks.precision", 1, device)
    report.write(output, about | {"errors": rows, "runs": runs})


def errors(
    learner: mamlpp.MetaLearner, task: mamlpp.Task, steps: int, compared: Sequence[Way] = FLOAT32
) -> dict[str, float]:
    """Relative error of one task's second-order meta-gradient, computed in each way."""
    exact = gradient(learner, task, steps, "definition", torch.float64)
    rounded = {each: gradient(learner, task, steps, each, torch.float32) for each in compared}
    return {each: ((g - exact).norm() / exact.norm()).item() for each, g in rounded.items()}


def gradient(
    learner: mamlpp.MetaLearner, task: mamlpp.Task, steps: int, way: Way, dtype: torch.dtype
) -> Tensor:
    """The meta-gradient of one task, computed in `dtype`, returned as one float64 vector."""
    device = task.support_x.device
    other = mamlpp.MetaLearner(learner.recipe, learner.image_shape, learner.ways)
    other.to(device, dtype).load_state_dict(learner.state_dict())
    x, y = task.support_x.to(dtype)[None], task.support_y[None]
    batch = mamlpp.TaskBatch(x, y, task.query_x.to(dtype)[None], task.query_y[None])
    other.recipe = other.recipe.with_(inner_steps=steps)
    with rounding(way, device.type):
        if way == "fast":
            gradients: Any = task_gradients(other, batch, *other.schedule(0.0), 1)[0]
        else:
            gradients = torch.autograd.grad(other.meta_loss(batch)[0], list(other.parameters()))
    return torch.cat([each.flatten() for each in gradients]).double()


@contextmanager
def rounding(way: Way, device: str) -> Iterator[None]:
    """Inside, convolutions round their factors as `way` says; as float32 does by default."""
    if way == "bfloat16":
        with torch.autocast(device, torch.bfloat16):
            yield
        return
    with full_precision():
        if way == "TF32":
            CONVOLUTIONS.fp32_precision = "tf32"  # `full_precision` restores it.
        yield


def train(
    recipe: mamlpp.Recipe, sampler: mamlpp.TaskSampler, way: Way
) -> tuple[mamlpp.MetaLearner, dict[str, Any]]:
    """Train in one way: the final learner, its accuracy, the meta-gradients' norms."""
    held_out = mamlpp.load_images(sampler.images.dataset, "validation").to(sampler.device)
    validation = mamlpp.TaskSampler(held_out, sampler.ways, sampler.shots)  # never judged here
    trainer = mamlpp.Trainer(recipe, sampler, validation)
    gradient = Engine().meta_gradient if way == "fast" else maml.meta_gradient
    norms = []
    with rounding(way, sampler.device.type):
        for _ in range(recipe.iterations_per_epoch):
            batch = trainer.train.sample(recipe.meta_batch)
            row = maml.meta_step(trainer.learner, trainer.optimizer, batch, 0.0, gradient)
            norms.append(row["gradient_norm"])
    scores = mamlpp.evaluate_tasks(trainer.learner, sampler.with_seed(1000 + recipe.seed), 100)
    return trainer.learner, {"accuracy": scores.accuracy, "norms": norms}


def table(rows: list[dict[str, Any]], compared: Sequence[Way] = FLOAT32) -> Iterator[str]:
    """The lines of a table of errors over tasks and seeds."""
    yield f"{'trained':>7}{'steps':>7}  {'network':<12}{'median':>9}{'worst':>9}{'kinks':>9}"
    groups: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["trained"], row["inner_steps"]].append(row)
    for (trained, steps), group in sorted(groups.items()):
        for network in compared:
            found = [row[network] for row in group]
            kinks = f"{sum(error > KINK for error in found)} of {len(found)}"
            numbers = f"{median(found):>9.0e}{max(found):>9.0e}{kinks:>9}"
            yield f"{trained:>7}{steps:>7}  {network:<12}{numbers}"


def summary(runs: list[dict[str, Any]], compared: Sequence[Way] = FLOAT32) -> Iterator[str]:
    """A line for each way: largest meta-gradient norms, and mean accuracy after training."""
    for network in compared:
        own = [run for run in runs if run["network"] == network]
        largest = " ".join(f"{max(run['norms']):.3g}" for run in own)
        accuracy = mean(run["accuracy"] for run in own)
        yield f"trained with {network}: largest norms {largest}; accuracy {100 * accuracy:.1f} %"


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
