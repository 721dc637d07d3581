"""Several recipes, several seeds: what a claim about training has to be averaged over."""

import io
import os
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from functools import cache

import torch
from joblib import Parallel, cpu_count, delayed
from tqdm.auto import tqdm

from mamlpp.data.tasks import TaskSampler
from mamlpp.errors import InputError
from mamlpp.recipe import Recipe
from mamlpp.run.run import Run
from mamlpp.run.trainer import Trainer


def train_seeds(
    recipes: Mapping[str, Recipe],
    train: TaskSampler,
    validation: TaskSampler,
    seeds: Sequence[int] = (0, 1, 2),
    workers: int | None = None,
) -> dict[str, list[Run]]:
    """Train every recipe once with each seed: `result[name][i]` is the run of `seeds[i]`.

    A seed sets the initial weights and the training tasks, so that all recipes start from the same
    weights (where their networks have the same shape) and see the same tasks; validation is the
    same for all. On a CPU the runs are trained side by side, one thread each, in as many processes
    as there are cores (`workers` says otherwise), and each to the same weights as alone on one
    thread. Raises `InputError` where there is no recipe, no seed, or a seed twice.
    """
    _check(recipes, seeds)
    cells = [(name, seed) for name in recipes for seed in seeds]
    jobs = (
        delayed(_train)(
            recipes[name].with_(seed=seed), train.with_seed(seed), validation, os.getpid()
        )
        for name, seed in cells
    )
    pool = Parallel(_workers(train.device, len(cells), workers), return_as="generator")
    runs: dict[str, list[Run]] = {name: [] for name in recipes}
    done = tqdm(pool(jobs), "training", len(cells), unit="run")
    for (name, _), run in zip(cells, done, strict=True):
        runs[name].append(run)
    return runs


def _check(recipes: Mapping[str, Recipe], seeds: Sequence[int]) -> None:
    if not recipes or not seeds:
        raise InputError("there is nothing to train: give at least one recipe and one seed")
    if len(set(seeds)) < len(seeds):
        raise InputError(f"each seed counts once, but these are {list(seeds)}")


def _workers(device: torch.device, cells: int, asked: int | None) -> int:
    """A process for each core, or one: several would only wait for each other on a GPU."""
    if asked is not None:
        return asked
    return min(cells, cpu_count()) if device.type == "cpu" else 1


def _train(recipe: Recipe, train: TaskSampler, validation: TaskSampler, parent: int) -> Run:
    if os.getpid() != parent:
        _leave_with(parent)
    with redirect_stderr(io.StringIO()):  # A progress bar of each process would tear the one above.
        return Trainer(recipe, train, validation).fit()


@cache
def _leave_with(parent: int) -> None:
    """From now on this process ends when its parent does, even one that was killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
