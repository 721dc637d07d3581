"""Evaluate a meta-learner on unseen tasks: accuracy, confidence interval, calibration.

Letters: R readings, S inner steps, T tasks, M query images per task, N ways.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from mamlpp.data.images import ImageSet
from mamlpp.data.tasks import TaskBatch, TaskSampler, as_batch, stream_seed
from mamlpp.engine import Engine
from mamlpp.errors import InputError
from mamlpp.input_checks import check_is_sampler, check_sampler, is_whole
from mamlpp.learner import MetaLearner, Reading
from mamlpp.maml import cross_entropy
from mamlpp.naming import counted
from mamlpp.run.outer import validation_tasks
from mamlpp.run.run import Run

if TYPE_CHECKING:
    import pandas

EVALUATION_SEED = 600
BINS = 15  # confidence bins, as in Guo et al. 2017
READINGS: dict[Reading, str] = {
    "support": "by the support set's statistics (inductive)",
    "running": "by running statistics (inductive)",
    "queries": "by the queries' own (transductive)",
}
"""What normalises a query image at evaluation, in words."""


class Calibration(NamedTuple):
    """Queries grouped by the classifier's confidence into 15 bins; each field has shape `[15]`.

    Bin i holds confidences in (i/15, (i + 1)/15]. An empty bin is 0 in every field.
    NaN confidences go into the last bin, whose mean confidence is then NaN.
    """

    counts: Tensor
    confidences: Tensor
    """Mean confidence of the bin's queries, in 0 … 1."""
    accuracies: Tensor
    """Fraction of the bin's queries that were classified correctly, in 0 … 1."""

    @property
    def error(self) -> float:
        """Expected calibration error: |accuracy − confidence| per bin, weighted by its count."""
        gaps = (self.accuracies - self.confidences).abs()
        return ((gaps * self.counts).sum() / self.counts.sum()).item()


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Scores on T tasks: `accuracies` (in 0 … 1) and `losses`, both `[S + 1, T]`, on the CPU.

    Row s holds the scores after s inner steps; if only step S was evaluated, it is the only row.
    """

    accuracies: Tensor
    losses: Tensor
    reading: Reading = "support"
    confidences: Tensor = field(default_factory=lambda: torch.empty(0))
    """Probability of the predicted class after the last step: `[T, M]`."""
    hits: Tensor = field(default_factory=lambda: torch.empty(0))
    """Whether the predicted class is the correct one: `[T, M]`."""
    metrics: dict[str, Tensor] = field(default_factory=dict)
    """What the learner's own metrics give: each `[S + 1, T]`."""

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor, reading: Reading = "support") -> "Evaluation":
        """Score query logits `[S + 1, T, M, N]` against labels `[T, M]`."""
        logits = logits.double()  # So that a mean of 0.2 prints as 0.2.
        labels = labels.expand(logits.shape[:-1])
        hits = logits.argmax(-1) == labels
        losses = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none")
        confidences = logits[-1].softmax(-1).amax(-1)
        accuracies, losses = hits.double().mean(-1), losses.view_as(hits).mean(-1)
        return cls(accuracies, losses, reading, confidences, hits[-1])

    @classmethod
    def by(
        cls, learner: MetaLearner, outputs: Tensor, targets: Tensor, reading: Reading
    ) -> "Evaluation":
        """Score outputs `[S + 1, T, M, …]` by the learner's own loss and metrics.

        Where there are no classes, accuracies are NaN.
        """
        device = next(learner.parameters()).device

        def aim(y: Tensor, x: Tensor) -> Tensor:
            return y.to(x.dtype) if y.is_floating_point() else y

        def each(name: str, score: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
            pairs = (zip(step, targets, strict=True) for step in outputs)
            rows = [[score(x.to(device), aim(y, x).to(device)) for x, y in row] for row in pairs]
            return torch.tensor([[_number(name, value) for value in row] for row in rows]).double()

        losses = each("the loss", learner.query_loss)
        scores = {n: each(f"the metric {n!r}", metric) for n, metric in learner.metrics.items()}
        if learner.ways is None:
            return cls(torch.full_like(losses, math.nan), losses, reading, metrics=scores)
        found = replace(cls.of(outputs, targets, reading), losses=losses, metrics=scores)
        if _is_own(learner, "accuracy"):
            found = replace(found, accuracies=each("the accuracy", learner.accuracy))
        return found

    @property
    def scores(self) -> dict[str, float]:
        """Mean over tasks after the last step: loss, accuracy where there are classes, metrics."""
        accuracy = {} if self.accuracies.isnan().any() else {"accuracy": self.accuracy}
        metrics = {name: values[-1].mean().item() for name, values in self.metrics.items()}
        return {"loss": self.loss} | accuracy | metrics

    def frame(self) -> "pandas.DataFrame":
        """A row for each task: its number, loss, accuracy and metrics after the last step."""
        import pandas

        columns = {"loss": self.losses[-1]} | {n: x[-1] for n, x in self.metrics.items()}
        if not self.accuracies.isnan().any():
            columns = {"accuracy": self.accuracies[-1]} | columns
        return pandas.DataFrame({name: values.numpy() for name, values in columns.items()})

    @property
    def accuracy(self) -> float:
        """Mean accuracy over tasks after the last step, in 0 … 1; NaN without classes."""
        return self.accuracies[-1].mean().item()

    @property
    def interval(self) -> float:
        """Half-width of the 95 % confidence interval of `accuracy`: 1.96 · s / √tasks."""
        return 1.96 * self.accuracies[-1].std().item() / math.sqrt(self.tasks)

    @property
    def loss(self) -> float:
        """Mean query loss over tasks after the last step, in nats."""
        return self.losses[-1].mean().item()

    @property
    def accuracy_by_step(self) -> list[float]:
        """Mean accuracy over tasks after 0, 1, …, S inner steps."""
        return self.accuracies.mean(-1).tolist()

    @property
    def loss_by_step(self) -> list[float]:
        """Mean query loss over tasks after 0, 1, …, S inner steps."""
        return self.losses.mean(-1).tolist()

    @property
    def calibration(self) -> Calibration:
        """Confidence compared with accuracy after the last step."""
        confidences, hits = self.confidences.flatten().double(), self.hits.flatten().double()
        bins = torch.bucketize(confidences, torch.arange(1, BINS).double() / BINS)
        counts = bins.bincount(minlength=BINS)
        sums = (bins.bincount(values, BINS) for values in (confidences, hits))
        return Calibration(counts, *(values / counts.clamp(min=1) for values in sums))

    @property
    def calibration_error(self) -> float:
        """Expected calibration error (ECE; Guo et al. 2017) in 0 … 1; 0 is perfect calibration.

        NaN if the logits are NaN, as they are when the weights have diverged.
        """
        return self.calibration.error

    @property
    def tasks(self) -> int:
        """Number of tasks, T."""
        return self.accuracies.shape[-1]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON. NaN and infinity, which diverged weights give, become None."""
        calibration = self.calibration._asdict()
        return {
            "tasks": self.tasks,
            "reading": self.reading,
            "accuracy": _finite(self.accuracy),
            "interval": _finite(self.interval),
            "loss": _finite(self.loss),
            "accuracy_by_step": [_finite(value) for value in self.accuracy_by_step],
            "loss_by_step": [_finite(loss) for loss in self.loss_by_step],
            "calibration_error": _finite(self.calibration_error),
            "calibration": {
                name: [_finite(value) for value in values.tolist()]
                for name, values in calibration.items()
            },
            "accuracies": [_finite(value) for value in self.accuracies[-1].tolist()],
            **({"metrics": metrics} if (metrics := self._metrics()) else {}),
        }

    def _metrics(self) -> dict[str, float | None]:
        return {name: _finite(self.scores[name]) for name in self.metrics}

    def __repr__(self) -> str:
        return f"<Evaluation: {self}>"

    def __str__(self) -> str:
        if "accuracy" not in self.scores:
            spread = 1.96 * self.losses[-1].std().item() / math.sqrt(self.tasks)
            metrics = "".join(f", {name} {self.scores[name]:.4g}" for name in self.metrics)
            return (
                f"loss {self.loss:.4g} ± {spread:.2g}{metrics} (over {counted(self.tasks, 'task')})"
            )
        return (
            f"{100 * self.accuracy:.2f} ± {100 * self.interval:.2f} % "
            f"(95 % interval over {counted(self.tasks, 'task')}), {READINGS[self.reading]}"
        )


def evaluate(
    run: Run, images: "ImageSet | Any", tasks: int = 600, *, steps: int | None = None,
    reading: Reading = "support", ensemble: int = 1, seed: int = EVALUATION_SEED,
    shots: int | None = None, queries: int | None = None,
) -> Evaluation:  # fmt: skip
    """Evaluate a run after every inner step, on tasks with the run's ways.

    `shots` and `queries` default to those of training. In the place of images, a sampler draws
    tasks of its own, from its first on.

        result = mamlpp.evaluate(run, mamlpp.load_images("glyphs", "test"))
        print(result)  # accuracy, its 95 % interval, the number of tasks, the reading

    The `reading` says whose statistics normalise a query: the support set's, the default, which you
    report; the running ones, where training collected them; or those of all queries of the task,
    to compare with the numbers of published code. See `MetaLearner.adapt`.

    The same `seed` draws the same tasks; no seed draws those of training or validation. `steps`
    defaults to the recipe's. `ensemble` > 1 averages the logits of that many checkpoints, the best
    on validation. Raises `InputError` if the run has fewer or not this reading, or `tasks` < 2.
    """
    sampler = _sampler(run, images, seed, shots, queries)
    members = _members(run, ensemble)
    return evaluate_tasks(members, sampler, tasks, steps, reading, every_step=True)


def evaluate_tasks(
    learners: MetaLearner | Sequence[MetaLearner], sampler: TaskSampler, tasks: int,
    steps: int | None = None, reading: Reading = "support", *, every_step: bool = False,
    engine: Engine | None = None,
) -> Evaluation:  # fmt: skip
    """Evaluate one learner, or an ensemble of several, on the next `tasks` tasks of a sampler.

    Scores the last step only, which is faster, unless `every_step`. Pass the `engine` that trains
    the learners, if there is one, to reuse it. Raises `InputError` if `tasks` < 2.
    """
    members = list(learners) if isinstance(learners, Sequence) else [learners]
    engine = engine or Engine()
    logits, labels = _predict(engine, members, sampler, tasks, steps, [reading], every_step)
    return _scored(members[0], logits.mean(0)[0], labels, reading)


def evaluate_readings(
    run: Run, images: "ImageSet | Any", tasks: int = 600, *, steps: int | None = None,
    ensemble: int = 1, seed: int = EVALUATION_SEED, shots: int | None = None,
    queries: int | None = None,
) -> dict[Reading, dict[str, Evaluation]]:  # fmt: skip
    """Evaluate a run by all its readings, single and ensemble, in the time of the ensemble alone.

    Returns `result[reading]["single" or "ensemble"]`, all on the same tasks; "running" is there if
    training collected running statistics.
    "single" is the best checkpoint; with `ensemble` 1 there is no "ensemble". See `evaluate`.
    """
    sampler, members = _sampler(run, images, seed, shots, queries), _members(run, ensemble)
    readings = run.learner.readings
    logits, labels = _predict(Engine(), members, sampler, tasks, steps, readings, True)
    sizes = {"single": 1} | ({"ensemble": ensemble} if ensemble > 1 else {})
    return {
        reading: {
            kind: _scored(members[0], logits[:size, row].mean(0), labels, reading)
            for kind, size in sizes.items()
        }
        for row, reading in enumerate(readings)
    }


def _scored(learner: MetaLearner, outputs: Tensor, targets: Tensor, reading: Reading) -> Evaluation:
    """By cross-entropy and accuracy, at once; or by what the learner has of its own."""
    plain = not any(_is_own(learner, name) for name in _SCORES)
    if plain and learner._loss is cross_entropy and learner.ways and not learner.metrics:
        return Evaluation.of(outputs, targets, reading)
    return Evaluation.by(learner, outputs, targets, reading)


_SCORES = {name: getattr(MetaLearner, name) for name in ("loss", "query_loss", "accuracy")}


def _is_own(learner: MetaLearner, name: str) -> bool:
    """Whether this method was overridden: by a subclass, in the object itself, in the kit's class.

    The last as a notebook may do it.
    """
    return getattr(type(learner), name) is not _SCORES[name] or name in vars(learner)


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        kind = f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise InputError(f"{name} must be one number for each task, not {kind}") from error


def _sampler(
    run: Run, images: Any, seed: int, shots: int | None = None, queries: int | None = None
) -> Any:
    if not isinstance(run, Run):
        raise InputError(
            f"a Run is expected, such as Trainer.fit returns, not {type(run).__name__}; "
            f"evaluate_tasks evaluates a learner"
        )
    if not isinstance(images, ImageSet):
        return _own_sampler(images, seed, shots, queries)
    seed = stream_seed(seed, "evaluation")  # Never the tasks that selected the best checkpoint.
    if run.ways is None or run.shots is None:
        raise InputError("the run was trained on tasks of a sampler of its own; give a sampler")
    shots = run.shots if shots is None else shots
    queries = (run.queries or 1) if queries is None else queries
    return TaskSampler(images, run.ways, shots, queries, seed=seed)


def _own_sampler(sampler: Any, seed: int, shots: int | None, queries: int | None) -> Any:
    if isinstance(sampler, str):
        raise InputError(
            f"images must be an ImageSet, not the name {sampler!r}; give "
            f"load_images({sampler!r}, 'test')"
        )
    check_is_sampler(sampler)
    if seed != EVALUATION_SEED or shots is not None or queries is not None:
        raise InputError("a sampler has a seed, shots and queries of its own; leave these out")
    own = validation_tasks(sampler, stream_seed(seed, "evaluation"))
    own.restart()
    return own


def _members(run: Run, ensemble: int) -> list[MetaLearner]:
    if not is_whole(ensemble) or ensemble < 1:
        raise InputError(f"an ensemble needs at least 1 checkpoint, not {ensemble!r}")
    if ensemble == 1:
        return [run.learner]
    members = run.best(ensemble)
    if len(members) < ensemble:
        raise InputError(
            f"an ensemble of {ensemble} needs as many checkpoints, but the run has only "
            f"{len(members)}; choose an ensemble of at most {len(members)}"
        )
    return members


def _predict(
    engine: Engine, learners: Sequence[MetaLearner], sampler: TaskSampler, tasks: int,
    steps: int | None, readings: Sequence[Reading], every_step: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Query logits `[learners, R, S + 1, T, M, N]` and labels `[T, M]`, on the CPU."""
    if not learners:
        raise InputError("there is no learner to evaluate; give at least one")
    if not is_whole(tasks) or tasks < 2:
        raise InputError(f"a confidence interval needs at least 2 tasks, not {tasks!r}")
    if steps is not None and not (is_whole(steps) and steps >= 0):
        raise InputError(f"steps must be 0 or more, not {steps!r}")
    for learner in learners:
        check_sampler(learner, sampler)
    logits, labels = [], []
    with tqdm(desc="evaluating", total=tasks, leave=False, unit="task", delay=1) as bar:
        for batch in _batches(sampler, tasks, max(10, learners[0].recipe.meta_batch)):
            each = [
                engine.logits(learner, batch, steps, readings, every_step) for learner in learners
            ]
            logits.append(torch.stack(each))
            labels.append(batch.query_y)
            bar.update(len(batch))
    return torch.cat(logits, dim=-3).cpu(), torch.cat(labels).cpu()


def _batches(sampler: Any, tasks: int, size: int) -> Iterator[TaskBatch]:
    """Draw `tasks` tasks, in batches of at most `size`."""
    for done in range(0, tasks, 50):
        count = min(50, tasks - done)
        yield from as_batch(sampler.sample(count), count).split(size)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
