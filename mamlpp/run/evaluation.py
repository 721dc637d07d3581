"""How good a meta-learner is on tasks it has not seen: accuracy, its interval, its calibration.

Letters: A protocols, S inner steps, T tasks, M query images a task, N ways.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from mamlpp.data.images import ImageSet
from mamlpp.data.tasks import TaskBatch, TaskSampler, stream_seed
from mamlpp.engine import Engine
from mamlpp.errors import InputError
from mamlpp.learner import MetaLearner
from mamlpp.run.run import Run

EVALUATION_SEED = 600
BINS = 15  # of confidence, as Guo et al. 2017 have them
PROTOCOLS = {"inductive": False, "transductive": True}


class Calibration(NamedTuple):
    """Queries by how sure the classifier was: one number for each of the 15 bins of confidence.

    Bin i holds confidences above i/15, up to (i + 1)/15. An empty bin has 0 everywhere.
    Confidences that are NaN are counted in the last bin, whose mean is then NaN.
    """

    counts: Tensor
    confidences: Tensor
    """Mean confidence of the bin's queries, in 0 … 1."""
    accuracies: Tensor
    """Share of them that were right."""

    @property
    def error(self) -> float:
        """Mean over all queries of their bin's |accuracy − confidence| (ECE; Guo et al. 2017)."""
        gaps = (self.accuracies - self.confidences).abs()
        return ((gaps * self.counts).sum() / self.counts.sum()).item()


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Scores of the same tasks: `accuracies` and `losses` `[S + 1, T]`, on the CPU.

    A row for each number of inner steps, 0 … S; or, if only that was evaluated, one for the last.
    """

    accuracies: Tensor
    losses: Tensor
    transductive: bool
    confidences: Tensor = field(default_factory=lambda: torch.empty(0))
    """Probability of the class that was chosen, after the last step: `[T, M]`."""
    hits: Tensor = field(default_factory=lambda: torch.empty(0))
    """Whether that was the right one: `[T, M]`."""

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor, transductive: bool) -> "Evaluation":
        """Score query logits `[S + 1, T, M, N]` against labels `[T, M]`."""
        logits = logits.double()  # Exact means: 0.2 is written as 0.2.
        labels = labels.expand(logits.shape[:-1])
        hits = logits.argmax(-1) == labels
        losses = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none")
        confidences = logits[-1].softmax(-1).amax(-1)
        accuracies, losses = hits.double().mean(-1), losses.view_as(hits).mean(-1)
        return cls(accuracies, losses, transductive, confidences, hits[-1])

    @property
    def accuracy(self) -> float:
        """Mean over tasks after the last step, in 0 … 1."""
        return self.accuracies[-1].mean().item()

    @property
    def interval(self) -> float:
        """Half the width of the 95 % interval of the mean over tasks: 1.96 · s / √tasks."""
        return 1.96 * self.accuracies[-1].std().item() / math.sqrt(self.tasks)

    @property
    def loss(self) -> float:
        """Mean over tasks after the last step."""
        return self.losses[-1].mean().item()

    @property
    def accuracy_by_step(self) -> list[float]:
        """Mean over tasks after 0, 1, … S inner steps."""
        return self.accuracies.mean(-1).tolist()

    @property
    def loss_by_step(self) -> list[float]:
        """Mean over tasks after 0, 1, … S inner steps."""
        return self.losses.mean(-1).tolist()

    @property
    def calibration(self) -> Calibration:
        """How confidence and accuracy compare after the last step."""
        confidences, hits = self.confidences.flatten().double(), self.hits.flatten().double()
        bins = torch.bucketize(confidences, torch.arange(1, BINS).double() / BINS)
        counts = bins.bincount(minlength=BINS)
        sums = (bins.bincount(values, BINS) for values in (confidences, hits))
        return Calibration(counts, *(values / counts.clamp(min=1) for values in sums))

    @property
    def calibration_error(self) -> float:
        """Expected calibration error over 15 bins, in 0 … 1: 0 if confidence can be relied on.

        NaN where the weights diverged: they are sure of nothing.
        """
        return self.calibration.error

    @property
    def tasks(self) -> int:
        """How many tasks."""
        return self.accuracies.shape[-1]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON; numbers that are not finite (of weights that diverged) are None."""
        calibration = self.calibration._asdict()
        return {
            "tasks": self.tasks,
            "transductive": self.transductive,
            "accuracy": self.accuracy,
            "interval": _finite(self.interval),
            "loss": _finite(self.loss),
            "accuracy_by_step": self.accuracy_by_step,
            "loss_by_step": [_finite(loss) for loss in self.loss_by_step],
            "calibration_error": _finite(self.calibration_error),
            "calibration": {
                name: [_finite(value) for value in values.tolist()]
                for name, values in calibration.items()
            },
            "accuracies": self.accuracies[-1].tolist(),
        }

    def __str__(self) -> str:
        return (
            f"{100 * self.accuracy:.2f} ± {100 * self.interval:.2f} % "
            f"(95 % interval over {self.tasks} tasks, "
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
    """How good a run is, after each inner step, on tasks from `images` like those it trained on.

    The same seed gives the same tasks, and no seed those of training or validation. `steps` inner
    steps, as many as in training unless said. `transductive` lets the query images of a task be
    normalised by each other, as the published code does; otherwise none depends on its neighbours.
    `ensemble` > 1 averages the logits of that many checkpoints, the best on validation, each
    adapted to a task by itself; raises `InputError` if the run kept fewer.
    """
    sampler = _sampler(run, images, seed)
    members = _members(run, ensemble)
    return evaluate_tasks(members, sampler, tasks, steps, transductive, every_step=True)


def evaluate_tasks(
    learners: MetaLearner | Sequence[MetaLearner], sampler: TaskSampler, tasks: int,
    steps: int | None = None, transductive: bool = False, *, every_step: bool = False,
    engine: Engine | None = None,
) -> Evaluation:  # fmt: skip
    """The same for any learner, or an ensemble of them, and the next `tasks` tasks of a sampler.

    Only after the last step, which takes less time, unless `every_step`. `engine` is the one that
    trains the learners, where there is one.
    """
    members = [learners] if isinstance(learners, MetaLearner) else learners
    engine = engine or Engine()
    logits, labels = _predict(engine, members, sampler, tasks, steps, [transductive], every_step)
    return Evaluation.of(logits.mean(0)[0], labels, transductive)


def evaluate_protocols(
    run: Run,
    images: ImageSet,
    tasks: int = 600,
    *,
    steps: int | None = None,
    ensemble: int = 1,
    seed: int = EVALUATION_SEED,
) -> dict[str, dict[str, Evaluation]]:
    """All that `evaluate` can say of a run, in the time of the ensemble alone.

    `result["inductive" or "transductive"]["single" or "ensemble"]`, on the same tasks. The single
    one is the first, and best, of the ensemble; there is no "ensemble" of one.
    """
    members, sampler = _members(run, ensemble), _sampler(run, images, seed)
    protocols = list(PROTOCOLS.values())
    logits, labels = _predict(Engine(), members, sampler, tasks, steps, protocols, True)
    sizes = {"single": 1} | ({"ensemble": ensemble} if ensemble > 1 else {})
    return {
        name: {
            kind: Evaluation.of(logits[:size, row].mean(0), labels, transductive)
            for kind, size in sizes.items()
        }
        for row, (name, transductive) in enumerate(PROTOCOLS.items())
    }


def _sampler(run: Run, images: ImageSet, seed: int) -> TaskSampler:
    seed = stream_seed(seed, "evaluation")  # Whatever the seed, no tasks that selection has seen.
    return TaskSampler(images, run.ways, run.shots, run.queries, seed=seed)


def _members(run: Run, ensemble: int) -> list[MetaLearner]:
    if ensemble < 1:
        raise InputError(f"an ensemble needs at least 1 checkpoint, not {ensemble}")
    if ensemble == 1:
        return [run.learner]
    members = run.best(ensemble)
    if len(members) < ensemble:
        raise InputError(
            f"an ensemble of {ensemble} needs as many checkpoints, but the run has "
            f"{len(members)}; choose at most that many"
        )
    return members


def _predict(
    engine: Engine, learners: Sequence[MetaLearner], sampler: TaskSampler, tasks: int,
    steps: int | None, protocols: Sequence[bool], every_step: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Query logits `[learners, A, S + 1, T, M, N]` and labels `[T, M]`, on the CPU."""
    if tasks < 2:
        raise InputError(f"an interval over tasks needs at least 2 of them, not {tasks}")
    if steps is not None and steps < 0:
        raise InputError(f"steps must be 0 or more, not {steps}")
    logits, labels = [], []
    with tqdm(desc="evaluating", total=tasks, leave=False, unit="task", delay=1) as bar:
        for batch in _draw(sampler, tasks, learners[0].recipe.meta_batch):
            each = [
                engine.logits(learner, batch, steps, protocols, every_step) for learner in learners
            ]
            logits.append(torch.stack(each))
            labels.append(batch.query_y)
            bar.update(len(batch))
    return torch.cat(logits, dim=-3).cpu(), torch.cat(labels).cpu()


def _draw(sampler: TaskSampler, tasks: int, size: int) -> Iterator[TaskBatch]:
    """So many tasks, in batches of at most `size`."""
    for done in range(0, tasks, 50):
        yield from sampler.sample(min(50, tasks - done)).split(size)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
