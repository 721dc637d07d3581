"""How good a meta-learner is: accuracy over tasks it has not seen, with its interval."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mamlpp.data.images import ImageSet
from mamlpp.data.tasks import Task, TaskSampler
from mamlpp.errors import InputError
from mamlpp.maml import MetaLearner
from mamlpp.run.checkpoints import Run

EVALUATION_SEED = 600


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One number a task: `accuracies` and `losses` `[tasks]`, on the CPU."""

    accuracies: Tensor
    losses: Tensor
    transductive: bool

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
    seed: int = EVALUATION_SEED,
) -> Evaluation:
    """Accuracy of a run on tasks from `images`, of the same ways and shots as it was trained on.

    The same seed gives the same tasks. `steps` inner steps, as many as in training unless said.
    `transductive` lets the query images of a task be normalised by each other, as the published
    code does; otherwise none depends on its neighbours.
    """
    sampler = TaskSampler(images, run.ways, run.shots, run.queries, seed=seed)
    return evaluate_tasks(run.learner, sampler, tasks, steps, transductive)


def evaluate_tasks(
    learner: MetaLearner,
    sampler: TaskSampler,
    tasks: int,
    steps: int | None = None,
    transductive: bool = False,
) -> Evaluation:
    """The same for any learner and the next `tasks` tasks of a sampler."""
    if tasks < 2:
        raise InputError(f"an interval over tasks needs at least 2 of them, not {tasks}")
    if steps is not None and steps < 0:
        raise InputError(f"steps must be 0 or more, not {steps}")
    scores: list[Tensor] = []
    while len(scores) < tasks:
        batch = sampler.sample(min(50, tasks - len(scores)))
        scores += [_score(learner, task, steps, transductive) for task in batch]
    accuracies, losses = torch.stack(scores).cpu().unbind(1)
    return Evaluation(accuracies, losses, transductive)


def _score(learner: MetaLearner, task: Task, steps: int | None, transductive: bool) -> Tensor:
    """Query accuracy and loss of one task, `[2]`."""
    classify = learner.adapt(task.support_x, task.support_y, steps, transductive)
    logits = classify(task.query_x)
    accuracy = (logits.argmax(-1) == task.query_y).float().mean()
    return torch.stack([accuracy, F.cross_entropy(logits, task.query_y)])
