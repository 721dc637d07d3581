"""How good a meta-learner is: accuracy over tasks it has not seen, with its interval."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from mamlpp.data.images import ImageSet
from mamlpp.data.tasks import Task, TaskSampler
from mamlpp.errors import InputError
from mamlpp.maml import MetaLearner
from mamlpp.run.checkpoints import Run

EVALUATION_SEED = 600
BINS = 15  # of confidence, in the calibration error


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Tasks judged after the last inner step: `accuracies` and `losses` `[tasks]`, on the CPU.

    Of each of a task's M queries, `confidences` `[tasks, M]` has the probability of the class that
    was said, `hits` whether it was right. `steps` are the same after 0, 1, …, S inner steps, where
    they were asked for.
    """

    accuracies: Tensor
    losses: Tensor
    transductive: bool
    confidences: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    hits: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    steps: tuple["Evaluation", ...] = ()

    @property
    def accuracy(self) -> float:
        """Mean over tasks, in 0 … 1."""
        return self.accuracies.mean().item()

    @property
    def interval(self) -> float:
        """Half the width of the 95 % interval of the mean over tasks: 1.96 · s / √tasks."""
        return 1.96 * self.accuracies.std().item() / math.sqrt(len(self.accuracies))

    @property
    def loss(self) -> float:
        """Mean over tasks."""
        return self.losses.mean().item()

    @property
    def calibration_error(self) -> float:
        """How far confidence is from accuracy, 0 … 1: the mean gap of `BINS` bins of confidence,
        each counting as many times as it has queries (Guo et al. 2017).
        """
        if not self.confidences.isfinite().all():
            return math.nan  # weights that diverged are sure of nothing
        bins = (self.confidences * BINS).long().clamp(max=BINS - 1).flatten()
        gaps = (self.hits.double() - self.confidences.double()).flatten()
        total = torch.zeros(BINS, dtype=torch.float64).index_add_(0, bins, gaps)
        return (total.abs().sum() / len(gaps)).item()

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "accuracy": self.accuracy,
            "interval": self.interval,
            "loss": self.loss,
            "tasks": len(self.accuracies),
            "transductive": self.transductive,
            "calibration_error": self.calibration_error,
            "accuracy_by_step": [step.accuracy for step in self.steps],
            "loss_by_step": [step.loss for step in self.steps],
        }

    def __str__(self) -> str:
        return (
            f"{100 * self.accuracy:.2f} ± {100 * self.interval:.2f} % "
            f"(95 % interval over {len(self.accuracies)} tasks, "
            f"{'transductive' if self.transductive else 'inductive'})"
        )


def evaluate(
    run: Run,
    images: ImageSet,
    tasks: int = 600,
    *,
    steps: int | None = None,
    transductive: bool = False,
    ensemble: int = 1,
    seed: int = EVALUATION_SEED,
) -> Evaluation:
    """Accuracy of a run on tasks from `images`, of the same ways and shots as it was trained on.

    After each inner step; `steps` of them, as many as in training unless said. The same seed gives
    the same tasks. `transductive` lets the query images of a task be normalised by each other, as
    the published code does; otherwise none depends on its neighbours. `ensemble` averages the
    logits of that many checkpoints, those best on validation (section 5), or as many as there are.
    """
    sampler = TaskSampler(images, run.ways, run.shots, run.queries, seed=seed)
    learners = [run.learner] if ensemble == 1 else run.best(ensemble)
    return evaluate_tasks(learners, sampler, tasks, steps, transductive, every_step=True)


def evaluate_tasks(
    learner: MetaLearner | Sequence[MetaLearner],
    sampler: TaskSampler,
    tasks: int,
    steps: int | None = None,
    transductive: bool = False,
    every_step: bool = False,
) -> Evaluation:
    """The same for any learner, or an ensemble of some, and the next `tasks` tasks of a sampler."""
    if tasks < 2:
        raise InputError(f"an interval over tasks needs at least 2 of them, not {tasks}")
    if steps is not None and steps < 0:
        raise InputError(f"steps must be 0 or more, not {steps}")
    members = [learner] if isinstance(learner, MetaLearner) else list(learner)
    scores: list[tuple[Tensor, Tensor, Tensor]] = []
    with tqdm(total=tasks, desc="evaluating", unit="task", delay=2, leave=False) as bar:
        while len(scores) < tasks:
            batch = sampler.sample(min(50, tasks - len(scores)))
            scores += [_score(members, task, steps, transductive, every_step) for task in batch]
            bar.update(len(batch))
    return _evaluation(scores, transductive, every_step)


def _score(
    members: list[MetaLearner],
    task: Task,
    steps: int | None,
    transductive: bool,
    every_step: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Of one task, at each step asked for: loss `[T]`, confidences and hits of queries `[T, M]`."""
    votes = [_logits(member, task, steps, transductive, every_step) for member in members]
    logits = torch.stack(votes).mean(0)  # [T, M, N]
    losses = torch.stack([F.cross_entropy(at_step, task.query_y) for at_step in logits])
    confidences, said = logits.softmax(-1).max(-1)
    return losses, confidences, (said == task.query_y).float()


def _logits(
    learner: MetaLearner, task: Task, steps: int | None, transductive: bool, every_step: bool
) -> Tensor:
    """After each inner step, or the last alone: `[T, M, N]`, from one adaptation."""
    path = learner.adapted_path(task.support_x, task.support_y, steps)
    last = len(path) - 1
    asked = range(0 if every_step else last, last + 1)
    return torch.stack(
        [
            learner.classifier(path, step, task.support_x, transductive)(task.query_x)
            for step in asked
        ]
    )


def _evaluation(
    scores: list[tuple[Tensor, Tensor, Tensor]], transductive: bool, every_step: bool
) -> Evaluation:
    losses, confidences, hits = (
        torch.stack(parts).cpu().transpose(0, 1) for parts in zip(*scores, strict=True)
    )  # [T, tasks], twice [T, tasks, M]
    at_steps = tuple(
        Evaluation(hit.mean(-1), loss, transductive, confidence, hit)
        for loss, confidence, hit in zip(losses, confidences, hits, strict=True)
    )
    return replace(at_steps[-1], steps=at_steps if every_step else ())
