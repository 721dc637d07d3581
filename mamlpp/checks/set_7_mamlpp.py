"""Checks of set 7: MAML++ put together, and a training judged by what it reaches.

A training has a budget of tasks rather than of seconds, so that it is judged alike on every
machine. A teacher who grades many sets MAMLPP_PROFILE=smoke: a shorter budget and lower marks.
"""

import os
import time
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mamlpp.checks.core import (
    Function,
    Wrong,
    attempt,
    difference,
    generator,
    name_of,
    passed,
    same,
)
from mamlpp.data import load_images
from mamlpp.data.images import ImageSet
from mamlpp.data.tasks import TaskBatch, TaskSampler
from mamlpp.errors import InputError
from mamlpp.learner import MetaLearner
from mamlpp.maml import Task
from mamlpp.recipe import RECIPES
from mamlpp.run.evaluation import evaluate_tasks
from mamlpp.run.run import Run


def _learner(seed: int) -> MetaLearner:
    """A tiny MAML++ in float64 whose steps and layers all differ."""
    draw = generator(seed)
    recipe = RECIPES["maml++"].with_(
        filters=2, inner_steps=2, inner_rate=0.3, second_order_from=2.0, msl_epochs=4.0
    )
    learner = MetaLearner(recipe, (1, 16, 16), ways=2, seed=seed).double()
    for name, parameter in learner.named_parameters():
        if "norm" in name or "rates" in name:
            noise = torch.rand(parameter.shape, generator=draw, dtype=torch.float64)
            parameter.data += 0.3 * noise
    return learner


def _task(draw: torch.Generator) -> Task:
    images = torch.rand(2, 4, 1, 16, 16, generator=draw, dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 1])
    return Task(images[0], labels, images[1], labels)


def _loss(
    learner: MetaLearner,
    task: Task,
    epoch: float,
    *,
    query_step: int = 1,
    rule_step: int | None = None,
    counts: list[float] | None = None,
    second_order: bool | None = None,
    support_twice: bool = False,
    fixed: bool = False,
) -> Tensor:
    """MAML++'s loss on a task; each option is a mistake."""
    scheduled, order = learner.schedule(epoch)
    order = order if second_order is None else second_order
    query_x, query_y = task[:2] if support_twice else task[2:]
    weights, losses = learner.weights(), []
    for step, count in enumerate(counts or scheduled):
        support_loss = F.cross_entropy(learner(weights, task.support_x, step), task.support_y)
        gradients = torch.autograd.grad(
            support_loss, list(weights.values()), create_graph=order, retain_graph=True
        )
        at = step if rule_step is None else rule_step
        rates = [learner.recipe.inner_rate if fixed else learner.rule(n, at) for n in weights]
        pairs = zip(weights.items(), rates, gradients, strict=True)
        weights = {name: weight - rate * g for (name, weight), rate, g in pairs}
        losses.append(
            count * F.cross_entropy(learner(weights, query_x, step + query_step), query_y)
        )
    return torch.stack(losses).sum()


def _with_gradient(loss: Tensor, learner: MetaLearner) -> tuple[Tensor, Tensor]:
    parts = torch.autograd.grad(loss, list(learner.parameters()), materialize_grads=True)
    return loss.detach(), torch.cat([part.flatten() for part in parts])


_LOSS_MISTAKES: dict[str, dict] = {
    "the query loss after step i belongs to the network that has taken i steps: tell the model "
    "step + 1 there, as batch norm has weights for each step": {"query_step": 0},
    "the rule is asked for the rate of step 0 at every step": {"rule_step": 0},
    "the rates are learner.rule's, not the recipe's single inner_rate": {"fixed": True},
    "the last query loss alone is plain MAML: where are the weights of the epoch (MSL)?": {
        "counts": [0.0, 1.0]
    },
    "the query losses are not weighted": {"counts": [1.0, 1.0]},
    "the weights are those of epoch 0 at every epoch": {"counts": [0.5, 0.5]},
    "the number is right, but the gradient is of second order at every epoch (DA)": {
        "second_order": True
    },
    "the number is right, but the gradient is of first order at every epoch": {
        "second_order": False
    },
    "the adapted weights are judged on the support set, not on the queries": {
        "support_twice": True
    },
}


def task_loss(student: Function, seed: int = 0) -> None:
    """Exercise 7.1: `task_loss(learner, task, epoch)`: all improvements in one loss."""
    learner, draw = _learner(seed), generator(seed)
    trials = [(learner, _task(draw), epoch) for epoch in (1.0, 3.0, 6.0)]
    found = []
    for trial in trials:
        loss = attempt(student, *trial)
        if not isinstance(loss, Tensor) or loss.ndim or not loss.requires_grad:
            raise Wrong(f"{name_of(student)}: a scalar tensor with its graph is asked")
        found.append(_with_gradient(loss, learner))
    expected = [_with_gradient(_loss(*trial), learner) for trial in trials]
    if same(found, expected):
        passed(student)
        return
    for sentence, mistake in _LOSS_MISTAKES.items():
        if same(found, [_with_gradient(_loss(*trial, **mistake), learner) for trial in trials]):
            raise Wrong(f"{name_of(student)}: {sentence}")
    raise Wrong(f"{name_of(student)}: {difference(found, expected)}")


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


class BudgetedSampler(TaskSampler):
    """Training tasks, 5-way 1-shot with 5 queries a class, of which only so many can be drawn."""

    def __init__(self, images: ImageSet, tasks: int, seed: int = 0) -> None:
        super().__init__(images, 5, 1, 5, seed=seed, rotate=True)
        self.tasks, self.drawn = tasks, [0]

    def with_seed(self, seed: int) -> "BudgetedSampler":
        """Another seed, the same budget."""
        other = BudgetedSampler(self.images, self.tasks, seed)
        other.drawn = self.drawn
        return other

    def sample(self, tasks: int) -> TaskBatch:
        """The next tasks; raises `Wrong` beyond the budget."""
        self.drawn[0] += tasks
        if self.drawn[0] > self.tasks:
            raise Wrong(
                f"the training draws more than its {self.tasks} tasks: meta_batch × "
                f"iterations_per_epoch × epochs must stay within them"
            )
        return super().sample(tasks)


def reaches(student: Function, level: int, profile: str = "laptop", seed: int = 0) -> None:
    """Exercise 7.2: a training by `train_learner(train, validation, tasks)` reaches mark 1, 2 or 3.

    It is trained once, whatever is asked of it. `seed` 0 judges on validation characters, others on
    those of the test split.
    """
    budget = BUDGETS.get(os.environ.get("MAMLPP_PROFILE", profile), BUDGETS["laptop"])
    learner = _trained(student, budget)
    if isinstance(learner, Wrong):
        raise learner
    sampler = TaskSampler(load_images("glyphs", "test" if seed else "validation"), 5, 1, 5)
    accuracy, mark = _accuracy(learner, sampler, budget), budget.marks[level - 1]
    if accuracy >= mark:
        passed(student, f"{accuracy:.1%} where {mark:.0%} are asked")
        return
    if accuracy < 0.25:
        raise Wrong(
            f"{name_of(student)} only guesses ({accuracy:.1%}, and 20% are guessed): is it the "
            f"trained learner that you return, or a new one?"
        )
    if learner.recipe.norm_statistics != "batch":
        other = _accuracy(learner.with_recipe(norm_statistics="batch"), sampler, budget)
        if other > accuracy + 0.03:
            raise Wrong(
                f"{name_of(student)} reaches {accuracy:.1%} by its running statistics, but "
                f"{other:.1%} by the support set's: which ones should the learner use? "
                f"({mark:.0%} are asked)"
            )
    raise Wrong(f"{name_of(student)} reaches {accuracy:.1%}, and {mark:.0%} are asked")


def _accuracy(learner: MetaLearner, sampler: TaskSampler, budget: Budget) -> float:
    sampler.restart()
    return evaluate_tasks(learner, sampler, budget.test_tasks).accuracy


@cache
def _trained(student: Function, budget: Budget) -> MetaLearner | Wrong:
    """What the student's training gives, or what is wrong with it: it is tried once."""
    try:
        return _train(student, budget)
    except Wrong as wrong:
        return wrong


def _train(student: Function, budget: Budget) -> MetaLearner:
    """The learner that the student's training gives, within its budget."""
    train = BudgetedSampler(load_images("glyphs", "train"), budget.tasks)
    validation = TaskSampler(load_images("glyphs", "validation"), 5, 1, 5)
    start = time.monotonic()
    try:
        found = student(train, validation, budget.tasks)
    except InputError as error:
        raise Wrong(f"{name_of(student)} stopped: {error}") from error
    seconds = time.monotonic() - start
    learner = found.learner if isinstance(found, Run) else found
    if not isinstance(learner, MetaLearner):
        raise Wrong(f"{name_of(student)} gave {type(found).__name__}: return the trained learner")
    if seconds > budget.seconds:
        raise Wrong(
            f"{name_of(student)} took {seconds:.0f} s, and {budget.seconds:.0f} s are the limit: "
            f"fewer filters or fewer inner steps"
        )
    return learner
