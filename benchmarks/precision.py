"""How exact float32 meta-gradients are, and what that does to training.

python -m benchmarks.precision                        on the embedded glyphs
python -m benchmarks.precision --dataset omniglot     with MAMLPP_DATA

Errors are |g − g64| / |g64|, with g64 the definition's in float64. The definition in float32 stands
beside the network that training uses, whose first layer sees patches without their mean. Writes
`precision.json` into `benchmarks/results/`.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, median
from typing import Any, Literal

import torch
import tyro
from torch import Tensor

import mamlpp
from benchmarks import report
from mamlpp import maml
from mamlpp.engine import Engine
from mamlpp.engine.batched import task_gradients

Network = Literal["definition", "fast"]
NETWORKS: tuple[Network, ...] = ("definition", "fast")
KINK = 1e-3  # More is not rounding: somewhere a ReLU or a maximum has chosen otherwise.
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
    output: Path = report.ROOT / "benchmarks" / "results" / "precision.json",
) -> None:
    """Measure and print.

    Args:
        dataset: Whose training images.
        ways: Classes of a task, with one image each.
        filters: Of the network.
        inner_rate: Of all steps.
        inner_steps: How many, each in turn.
        tasks: How many from each start, at each number of steps.
        seeds: How many initial weights.
        trained: Meta-steps of 3 inner steps that lead to the second start of each seed.
        output: The JSON file.
    """
    torch.set_num_threads(1)
    sampler = mamlpp.TaskSampler(mamlpp.load_images(dataset, "train"), ways, shots=1)
    recipe = RECIPE.with_(filters=filters, inner_rate=inner_rate, inner_steps=3)
    recipe = recipe.with_(iterations_per_epoch=trained)
    rows, runs = [], []
    for seed in range(seeds):
        for network in NETWORKS:
            learner, run = train(recipe.with_(seed=seed), sampler.with_seed(seed), network)
            runs.append({"seed": seed, "network": network} | run)
        untrained = mamlpp.MetaLearner(learner.recipe, learner.image_shape, ways)
        batch = sampler.with_seed(seeds + seed).sample(tasks)
        for after, start in ((0, untrained), (trained, learner)):
            for steps in inner_steps:
                about: dict[str, Any] = {"seed": seed, "trained": after, "inner_steps": steps}
                rows += [about | errors(start, task, steps) for task in batch]
    print(*table(rows), "", *summary(runs), sep="\n")
    found = {"errors": rows, "runs": runs}
    report.write(output, report.provenance("benchmarks.precision", 1) | found)


def errors(learner: mamlpp.MetaLearner, task: mamlpp.Task, steps: int) -> dict[str, float]:
    """Of the second-order meta-gradient of one task, by each network in float32."""
    exact = gradient(learner, task, steps, "definition", torch.float64)
    found = {each: gradient(learner, task, steps, each, torch.float32) for each in NETWORKS}
    return {each: ((g - exact).norm() / exact.norm()).item() for each, g in found.items()}


def gradient(
    learner: mamlpp.MetaLearner, task: mamlpp.Task, steps: int, which: Network, dtype: torch.dtype
) -> Tensor:
    """Flat, in float64, as computed in `dtype`."""
    other = mamlpp.MetaLearner(learner.recipe, learner.image_shape, learner.ways).to(dtype)
    other.load_state_dict(learner.state_dict())
    x, y = task.support_x.to(dtype)[None], task.support_y[None]
    batch = mamlpp.TaskBatch(x, y, task.query_x.to(dtype)[None], task.query_y[None])
    other.recipe = other.recipe.with_(inner_steps=steps)
    if which == "definition":
        found: Any = torch.autograd.grad(other.meta_loss(batch)[0], list(other.parameters()))
    else:
        found, _ = task_gradients(other, batch, *other.schedule(0.0), 1)
    return torch.cat([each.flatten() for each in found]).double()


def train(
    recipe: mamlpp.Recipe, sampler: mamlpp.TaskSampler, which: Network
) -> tuple[mamlpp.MetaLearner, dict[str, Any]]:
    """The last weights of a training; norms of its meta-gradients, and accuracy after it."""
    trainer = mamlpp.Trainer(recipe, sampler, sampler)
    gradient = maml.meta_gradient if which == "definition" else Engine().meta_gradient
    norms = []
    for _ in range(recipe.iterations_per_epoch):
        batch = trainer.train.sample(recipe.meta_batch)
        row = maml.meta_step(trainer.learner, trainer.optimizer, batch, 0.0, gradient)
        norms.append(row["gradient_norm"])
    found = mamlpp.evaluate_tasks(trainer.learner, sampler.with_seed(1000 + recipe.seed), 100)
    return trainer.learner, {"accuracy": found.accuracy, "norms": norms}


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Errors over tasks and seeds, as text."""
    yield f"{'trained':>7}{'steps':>7}  {'network':<12}{'median':>9}{'worst':>9}{'kinks':>9}"
    groups: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["trained"], row["inner_steps"]].append(row)
    for (after, steps), some in sorted(groups.items()):
        for network in NETWORKS:
            found = [row[network] for row in some]
            kinks = f"{sum(error > KINK for error in found)} of {len(found)}"
            numbers = f"{median(found):>9.0e}{max(found):>9.0e}{kinks:>9}"
            yield f"{after:>7}{steps:>7}  {network:<12}{numbers}"


def summary(runs: list[dict[str, Any]]) -> Iterator[str]:
    """What the trainings came to, as text."""
    for network in NETWORKS:
        some = [run for run in runs if run["network"] == network]
        largest = " ".join(f"{max(run['norms']):.3g}" for run in some)
        accuracy = mean(run["accuracy"] for run in some)
        yield f"trained with {network}: largest norms {largest}; accuracy {100 * accuracy:.1f} %"


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
