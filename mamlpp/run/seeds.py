"""Train several recipes with several seeds: a claim about training must be averaged over seeds."""

import io
import os
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from functools import cache
from typing import Any

import psutil
from joblib import Parallel, cpu_count, delayed
from torch import Tensor
from tqdm.auto import tqdm

from mamlpp.data.tasks import as_batch
from mamlpp.engine import definition_result, same
from mamlpp.errors import InputError
from mamlpp.input_checks import check_is_recipe, check_is_sampler, whole_number
from mamlpp.learner import MetaLearner
from mamlpp.recipe import Recipe
from mamlpp.run.run import MakeLearner, Run, make_learner
from mamlpp.run.trainer import Trainer
from mamlpp.run.training_checks import device_of, shape_of, ways_of
from mamlpp.run.worker_count import meta_step_seconds, meta_steps

LEAST_TRAININGS = 15.0  # estimated seconds: shorter trainings end before other processes begin


def train_seeds(
    recipes: Mapping[str, Recipe],
    train: Any,
    validation: Any,
    seeds: Sequence[int] = (0, 1, 2),
    workers: int | None = None,
    learner: MakeLearner | None = None,
) -> dict[str, list[Run]]:
    """Train every recipe once with each seed; `result[name][i]` is the run with `seeds[i]`.

    A seed determines the initial weights and the training tasks: all recipes start from the same
    weights (if their networks have the same shape) and see the same tasks. The validation tasks are
    the same for all runs. On a CPU the runs train in parallel in `workers` processes (default: one
    per core, or this one alone where they would take longer to start than to train), one thread
    each, and reach the same weights as when trained alone on one thread.
    `learner` is the class or function of a learner of your own, as `Trainer` takes it: called once
    for each run, with (recipe, image_shape, ways). Raises `InputError` if there is no recipe, no
    seed, or a repeated seed.
    """
    _check(recipes, seeds, learner)
    pairs = [(name, seed) for name in recipes for seed in seeds]
    arguments = {
        (name, seed): (recipes[name].with_(seed=seed), _of_seed(train, seed), validation, learner)
        for name, seed in pairs
    }
    made = {name: _make(recipe, train, learner) for name, recipe in recipes.items()}
    expected = {name: _definition(one, train) for name, one in made.items()}
    jobs = (
        delayed(_train_elsewhere)(*arguments[name, seed], os.getpid(), expected[name])
        for name, seed in pairs
    )
    if workers is None:
        workers = _worker_count(list(made.values()), train, len(seeds))
    pool = Parallel(whole_number("workers", workers), return_as="generator")
    runs: dict[str, list[Run]] = {name: [] for name in recipes}
    finished = tqdm(pool(jobs), "training", len(pairs), unit="run")
    for (name, seed), run in zip(pairs, finished, strict=True):
        if run is None:
            warnings.warn(
                "the other processes do not compute what this process does, since something was "
                "changed in it alone (a function replaced in a notebook, say); it trains by itself",
                UserWarning,
                stacklevel=2,
            )
        runs[name].append(run or _train(*arguments[name, seed]))
    return runs


def _make(recipe: Recipe, train: Any, learner: MakeLearner | None) -> MetaLearner:
    return make_learner(learner, recipe.with_(seed=0), shape_of(train), ways_of(train))


def _definition(made: MetaLearner, train: Any) -> list[Tensor]:
    """What the definition computes with this learner, on the sampler's first task if it must."""
    one = as_batch(_of_seed(train, 0).sample(1)) if made._own_network else None
    return definition_result(made, one)


def _of_seed(train: Any, seed: int) -> Any:
    """The sampler with this seed; one without a generator draws by the recipe's."""
    check_is_sampler(train)
    if hasattr(train, "with_seed"):
        return train.with_seed(seed)
    if hasattr(train, "generator"):
        raise InputError(
            f"{type(train).__name__} has a generator of its own, but no with_seed(seed), so that "
            f"each seed would train on the same tasks; give it that method"
        )
    return train


def _check(
    recipes: Mapping[str, Recipe], seeds: Sequence[int], learner: MakeLearner | None
) -> None:
    if not isinstance(recipes, Mapping) or not isinstance(seeds, Sequence):
        raise InputError("give recipes by name, and a list of seeds: train_seeds({'MAML': recipe})")
    if not recipes or not seeds:
        raise InputError("there is nothing to train: give at least one recipe and one seed")
    for recipe in recipes.values():
        check_is_recipe(recipe)
    if isinstance(learner, MetaLearner):
        raise InputError(
            "each run needs a learner of its own: give the class, or a function that makes one"
        )
    if len(set(seeds)) < len(seeds):
        raise InputError(f"seeds must all be different, but are {list(seeds)}")


def _worker_count(learners: Sequence[MetaLearner], train: Any, seeds: int) -> int:
    """One process per core; on a GPU, where several would queue, and for short work, this one."""
    if device_of(train).type != "cpu":
        return 1
    steps = [meta_step_seconds(learner, train) for learner in learners]
    known = [x * meta_steps(y) for x, y in zip(steps, learners, strict=True) if x is not None]
    if len(known) == len(learners) and seeds * sum(known) < LEAST_TRAININGS:
        return 1
    return min(len(learners) * seeds, cpu_count())


def _train_elsewhere(
    recipe: Recipe, train: Any, validation: Any, learner: MakeLearner | None, parent: int,
    expected: list[Tensor],
) -> Run | None:  # fmt: skip
    """Train; or None in a process whose definition does not compute what the parent expects."""
    if os.getpid() != parent:
        _exit_with_parent(parent)
        if not same(_definition(_make(recipe, train, learner), train), expected):
            return None
    return _train(recipe, train, validation, learner)


def _train(recipe: Recipe, train: Any, validation: Any, learner: MakeLearner | None) -> Run:
    with redirect_stderr(io.StringIO()):  # Hide its progress bar: it would garble the overall one.
        return Trainer(recipe, train, validation, workers=1, learner=learner).fit()


@cache
def _exit_with_parent(parent: int) -> None:
    """Make this process exit when its parent ends, even if the parent is killed."""

    def watch() -> None:
        while _lives(process):
            time.sleep(0.5)
        os._exit(1)

    process = psutil.Process(parent)
    threading.Thread(target=watch, daemon=True).start()


def _lives(process: psutil.Process) -> bool:
    """Whether a process has not ended. (Windows never gives a child another parent.)"""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
