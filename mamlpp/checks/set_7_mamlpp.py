"""Checks of set 7: MAML++ put together, and a training judged by its accuracy.

A training has a budget of tasks rather than of seconds, so that it is judged in the same way on
every machine. A teacher with many students sets MAMLPP_PROFILE=smoke: a smaller budget and lower
marks.
"""

import copy
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from mamlpp.checks.compare import kind
from mamlpp.checks.core import (
    Function,
    Wrong,
    call_text,
    check_call,
    is_stub,
    name_of,
    not_written,
    passed,
    stopped,
)
from mamlpp.checks.inputs import check, generator
from mamlpp.checks.judging import judge_trials
from mamlpp.data import load_images
from mamlpp.data.tasks import TaskBatch, TaskSampler
from mamlpp.errors import InputError
from mamlpp.learner import MetaLearner
from mamlpp.maml import Task
from mamlpp.recipes import RECIPES
from mamlpp.run.changes import use_recipe
from mamlpp.run.evaluation import evaluate_tasks
from mamlpp.run.run import Run
from mamlpp.run.trainer import Trainer


def _learner(seed: int, inner_steps: int, **schedule: float) -> MetaLearner:
    """A tiny MAML++ in float64 whose steps and layers all differ."""
    draw = generator(seed)
    recipe = RECIPES["maml++"].with_(filters=2, inner_steps=inner_steps, inner_rate=0.3, **schedule)
    learner = MetaLearner(recipe, (1, 16, 16), ways=2, seed=seed).double()
    for name, parameter in learner.named_parameters():
        if "norm" in name or "rates" in name:
            noise = torch.rand(parameter.shape, generator=draw, dtype=torch.float64)
            parameter.data += 0.3 * noise
    return learner


def _task(seed: int) -> Task:
    images = torch.rand(2, 4, 1, 16, 16, generator=generator(seed), dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 1])
    return Task(images[0], labels, images[1], labels)


def _loss(
    learner: MetaLearner,
    task: Task,
    epoch: float,
    *,
    support_step: int = 0,
    query_step: int = 1,
    rule_step: int | None = None,
    step_weights: str = "",
    second_order: bool | None = None,
    support_twice: bool = False,
    fixed: bool = False,
    constant: str = "",
    mean: bool = False,
    one_rate: bool = False,
    next_rate: bool = False,
    too_early: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """MAML++'s loss on a task; each option is a mistake."""
    scheduled, order = learner.schedule(epoch)
    order = order if second_order is None else second_order
    query_x, query_y = task[:2] if support_twice else task[2:]
    weights, losses = learner.weights(), []
    for step, v in enumerate(_LOSS_WEIGHTS[step_weights](learner, scheduled)):
        logits = learner(weights, task.support_x, step + support_step)
        support_loss = F.cross_entropy(logits, task.support_y, reduction=reduction)
        gradients = torch.autograd.grad(
            support_loss, list(weights.values()), create_graph=order, retain_graph=True
        )
        at = step if rule_step is None else rule_step % len(scheduled)
        at = min(step + 1, len(scheduled) - 1) if next_rate else at
        rates: list[Any] = [learner.rule(name, at) for name in weights]
        if one_rate:
            rates = rates[:1] * len(rates)
        if fixed:
            rates = [learner.recipe.inner_rate] * len(weights)
        if constant == "rates":
            rates = [rate.detach() for rate in rates]
        pairs, before = zip(weights.items(), rates, gradients, strict=True), weights
        weights = {
            name: (w.detach() if constant == "weights" else w) - rate * g
            for (name, w), rate, g in pairs
        }
        judged = before if too_early else weights
        losses.append(v * F.cross_entropy(learner(judged, query_x, step + query_step), query_y))
    total = torch.stack(losses).sum()
    return total / len(losses) if mean else total


_LOSS_WEIGHTS: dict[str, Any] = {
    "": lambda learner, scheduled: scheduled,
    "last": lambda learner, scheduled: [0.0] * (len(scheduled) - 1) + [1.0],
    "ones": lambda learner, scheduled: [1.0] * len(scheduled),
    "first": lambda learner, scheduled: learner.schedule(0.0)[0],
    "reversed": lambda learner, scheduled: scheduled[::-1],
    "short": lambda learner, scheduled: scheduled[:-1],
}


def _rounded(learner: MetaLearner, task: Task, epoch: float, **mistakes: Any) -> Tensor:
    return _loss(learner, task, int(epoch), **mistakes)


def _late(learner: MetaLearner, task: Task, epoch: float) -> Tensor:
    start = learner.recipe.second_order_from
    return _loss(learner, task, epoch, second_order=start is not None and epoch > start)


def _without_floor(learner: MetaLearner, task: Task, epoch: float) -> Tensor:
    other = copy.deepcopy(learner)
    use_recipe(other, learner.recipe.with_(msl_floor=0.0))
    return _loss(other, task, epoch)


_LOSS_MISTAKES: dict[str, Function] = {
    "all three mistakes of the program are left": partial(_rounded, query_step=0, rule_step=0),
    "one mistake is mended; two are left, about the learner and the rates": partial(
        _loss, query_step=0, rule_step=0
    ),
    "one mistake is mended; two are left, about the learner and the epoch": partial(
        _rounded, query_step=0
    ),
    "one mistake is mended; two are left, about the rates and the epoch": partial(
        _rounded, rule_step=0
    ),
    "the query loss after step i belongs to the network that has taken i steps: pass the learner "
    "step + 1 there, as batch norm has weights for each step": partial(_loss, query_step=0),
    "the support loss of step i belongs to the network before that step: pass the learner `step` "
    "there, not step + 1": partial(_loss, support_step=1),
    "the rule is asked for the rate of step 0 at every step": partial(_loss, rule_step=0),
    "the rates come from learner.rule, not from the recipe's single inner_rate": partial(
        _loss, fixed=True
    ),
    "the last query loss alone is plain MAML: where are the weights of the epoch (MSL)?": partial(
        _loss, step_weights="last"
    ),
    "the query losses are not weighted": partial(_loss, step_weights="ones"),
    "the weights of the losses are those of epoch 0 at every epoch": partial(
        _loss, step_weights="first"
    ),
    "the weights of the losses are in the opposite order": partial(_loss, step_weights="reversed"),
    "the sum is divided by the number of steps, but the weights sum to 1 already": partial(
        _loss, mean=True
    ),
    "the floor is missing: pass recipe.msl_floor to the schedule": _without_floor,
    "the epoch may be a fraction: do not round it": _rounded,
    "the number is right, but the gradient is of second order at every epoch: DA switches to it": (
        partial(_loss, second_order=True)
    ),
    "the number is right, but the gradient is of first order at every epoch: DA switches to second "
    "order": partial(_loss, second_order=False),
    "the number is right, but the switch's own epoch is of second order already (>=, not >)": _late,
    "the epoch is one too many": lambda learner, task, epoch: _loss(learner, task, epoch + 1),
    "the last step is missing": partial(_loss, step_weights="short"),
    "the number is right, but the rates entered as constants (.item(), .detach()): they would "
    "never learn": partial(_loss, constant="rates"),
    "the number is right, but the old weights entered the step as constants (.detach(), .data)": (
        partial(_loss, constant="weights")
    ),
    "the adapted weights are judged on the support set, not on the queries": partial(
        _loss, support_twice=True
    ),
    "the query loss of a step is taken before the step: use the weights after it": partial(
        _loss, too_early=True
    ),
    "the rule is asked for the rate of the last step at every step": partial(_loss, rule_step=-1),
    "the rule is asked for the rate of the step after": partial(_loss, next_rate=True),
    "all weights move by the first one's rate: ask the rule for each name": partial(
        _loss, one_rate=True
    ),
    "the support loss is the sum over the images: cross_entropy averages them by default": partial(
        _loss, reduction="sum"
    ),
}


@check
def task_loss(student: Function, seed: int = 0) -> None:
    """Exercise 7.1: `task_loss(learner, task, epoch)`: all improvements in one loss."""
    early = {"inner_steps": 2, "second_order_from": 2.0, "msl_epochs": 4.0, "msl_floor": 0.0}
    late = {"inner_steps": 3, "second_order_from": 1.5, "msl_epochs": 3.0, "msl_floor": 0.05}

    def inputs(number: int, schedule: dict[str, Any], epoch: float) -> tuple[Any, ...]:
        return _learner(seed + number, **schedule), _task(seed + number), epoch

    kinds = ((early, 1.0), (early, 6.0), (late, 1.5), (late, 0.5))
    trials = [partial(inputs, i, *kind) for i, kind in enumerate(kinds)]
    judge_trials(student, trials, _loss, _LOSS_MISTAKES)
    passed(student)


class Budget(NamedTuple):
    """What a training may use, and what it should reach."""

    tasks: int
    seconds: float
    marks: tuple[float, float, float]
    test_tasks: int


BUDGETS = {
    "smoke": Budget(480, 300, (0.30, 0.38, 0.45), 100),
    "laptop": Budget(1200, 600, (0.60, 0.70, 0.78), 200),
}
"""By profile. 5-way 1-shot on glyphs; the seconds are twice what the text gives."""


@contextmanager
def limited(most: int) -> Iterator[None]:
    """Let all samplers together draw `most` tasks of each split, and none of the test split.

    A sampler that the student makes counts like the one that is given.
    """
    draw, drawn = TaskSampler.sample, Counter[str]()

    def counted(sampler: TaskSampler, tasks: int) -> TaskBatch:
        split = sampler.images.split
        drawn[split] += tasks
        if split == "test":
            raise Wrong("the characters of the test split are for the judge: train without them")
        if drawn[split] > most:
            raise Wrong(
                f"the training draws more than {most} tasks of the {split} characters: keep "
                f"meta_batch × iterations_per_epoch × epochs within them, and so validation_tasks "
                f"× epochs"
            )
        return draw(sampler, tasks)

    with patch.object(TaskSampler, "sample", counted):
        yield


@check
def reaches(student: Function, level: int, profile: str = "laptop", seed: int = 0) -> None:
    """Exercise 7.2: a training by `train_learner(train, validation, tasks)` reaches mark 1, 2 or 3.

    The training runs once for all three marks. `seed` 0 evaluates it on validation characters, any
    other on those of the test split.
    """
    check_call(student, ["train", "validation", "tasks"])
    budget = BUDGETS.get(os.environ.get("MAMLPP_PROFILE", profile), BUDGETS["laptop"])
    learner = _trained(student, budget)
    if isinstance(learner, Wrong):
        raise learner
    sampler = TaskSampler(load_images("glyphs", "test" if seed else "validation"), 5, 1, 5)
    accuracy, mark = _accuracy(learner, sampler, budget), budget.marks[level - 1]
    if accuracy >= mark:
        passed(student, f"accuracy {accuracy:.1%}, at least {mark:.0%} needed")
        return
    if accuracy < 0.25:
        raise Wrong(
            f"{name_of(student)} is no better than guessing: its accuracy is {accuracy:.1%}, and "
            f"guessing gives 20%. Is it a new learner that it returns?"
        )
    raise Wrong(
        f"{name_of(student)} reaches an accuracy of {accuracy:.1%}; at least {mark:.0%} are needed"
    )


def _accuracy(learner: MetaLearner, sampler: TaskSampler, budget: Budget) -> float:
    sampler.restart()
    try:
        return evaluate_tasks(learner, sampler, budget.test_tasks).accuracy
    except InputError as error:
        raise Wrong(f"the learner does not fit 5-way 1-shot tasks of glyphs: {error}") from error


@cache
def _trained(student: Function, budget: Budget) -> MetaLearner | Wrong:
    """What the student's training returns, or what is wrong with it; it runs once."""
    try:
        return _train(student, budget)
    except Wrong as wrong:
        return wrong


def _missing_learner(found: Any) -> str:
    if found is None:
        return "does every way through it end with `return`?"
    if isinstance(found, Trainer):
        return "its .fit() trains, and gives a run that has the learner"
    return "return the trained learner, and it alone"


def _train(student: Function, budget: Budget) -> MetaLearner:
    """The learner that the student's training returns, within its budget."""
    train = TaskSampler(load_images("glyphs", "train"), 5, 1, 5, rotate=True)
    validation = TaskSampler(load_images("glyphs", "validation"), 5, 1, 5)
    start = time.monotonic()
    try:
        with limited(budget.tasks):
            found = student(train, validation, budget.tasks)
    except Wrong:
        raise
    except InputError as error:
        raise Wrong(f"{name_of(student)} stopped: {error}") from error
    except Exception as error:
        if is_stub(error):
            raise not_written(error) from None
        raise stopped(
            student, call_text(student, (train, validation, budget.tasks)), error
        ) from error
    seconds = time.monotonic() - start
    learner = found.learner if isinstance(found, Run) else found
    if not isinstance(learner, MetaLearner):
        raise Wrong(f"{name_of(student)} returned {kind(found)}: {_missing_learner(found)}")
    if not all(parameter.isfinite().all() for parameter in learner.parameters()):
        raise Wrong(
            f"{name_of(student)} returned a learner whose weights are nan or infinite: try smaller "
            f"rates"
        )
    if seconds > budget.seconds:
        raise Wrong(
            f"{name_of(student)} took {seconds:.0f} s, and the limit is {budget.seconds:.0f} s: "
            f"try fewer filters or fewer inner steps"
        )
    return learner
