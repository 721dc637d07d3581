"""The outer loop: draw a meta-batch, take the meta-gradient, let Adam step, validate each epoch."""

import copy
import time
from pathlib import Path

import psutil
import torch
from torch import Tensor
from tqdm.auto import tqdm

from mamlpp import schedules
from mamlpp.data.tasks import TaskSampler
from mamlpp.errors import InputError
from mamlpp.maml import MetaLearner, Report
from mamlpp.recipe import Recipe
from mamlpp.run.checkpoints import Run, Setting, save_weights, start_directory
from mamlpp.run.evaluation import evaluate_tasks
from mamlpp.run.history import History, Row


class Trainer:
    """Trains one recipe on the tasks of one sampler, on the device where its images live.

    With a `directory` everything is also written there as it happens. `fit` may be interrupted and
    called again: it goes on after the last whole meta-step, or validates what it had not yet.
    """

    def __init__(
        self,
        recipe: Recipe,
        train: TaskSampler,
        validation: TaskSampler,
        directory: Path | str | None = None,
    ) -> None:
        _check(recipe, train, validation)
        self.recipe, self.train, self.validation = recipe, train, validation
        self.setting = Setting(
            train.images.dataset, train.ways, train.shots, train.queries, train.images.shape
        )
        self.learner = MetaLearner(recipe, train.images.shape, train.ways).to(train.device)
        self.optimizer = torch.optim.Adam(self.learner.parameters(), lr=recipe.outer_rate)
        self.iteration = 0
        self._row: Row | None = None  # of a meta-step that is done but not yet in the history
        self._best: tuple[float, dict[str, Tensor]] | None = None
        self.directory = None if directory is None else Path(directory)
        if self.directory is not None:
            start_directory(self.directory, recipe, self.setting)
        self.history = History(self.directory and self.directory / "history.csv")

    @property
    def epoch(self) -> float:
        """Where in the schedules the next meta-step is."""
        return self.iteration / self.recipe.iterations_per_epoch

    def fit(self) -> Run:
        """Train to the end; the run's learner has the weights that were best on validation."""
        total = self.recipe.epochs * self.recipe.iterations_per_epoch
        with tqdm(total=total, initial=self.iteration, desc="training", unit="step") as bar:
            while self._row is not None or self.iteration < total:
                row = self._row = self._row or self.step()
                if self.iteration % self.recipe.iterations_per_epoch == 0:
                    row |= self.validate()
                self.history.append(row)
                self._row = None
                bar.set_postfix(self._summary(), refresh=False)
                bar.update()
        return self._run()

    def step(self) -> Row:
        """One meta-step: the meta-gradient of a new meta-batch, then Adam."""
        start, epoch = time.perf_counter(), self.epoch
        rate = schedules.outer_rate(
            self.recipe.outer_rate, self.recipe.outer_rate_min, self.recipe.epochs, epoch
        )
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.zero_grad()
        report = self._backward(epoch)
        norm = torch.nn.utils.get_total_norm(
            [p.grad for p in self.learner.parameters() if p.grad is not None]
        )
        # A meta-gradient that is not finite would end the run: it is recorded, and not applied.
        if norm.isfinite():
            self.optimizer.step()
        self.iteration += 1
        return {
            "iteration": self.iteration,
            "epoch": epoch,
            "outer_rate": rate,
            "loss": report.loss.item(),
            "accuracy": report.accuracy.item(),
            "gradient_norm": norm.item(),
            "seconds": time.perf_counter() - start,
            "memory_mb": _memory(self.train.device) / 1e6,
        }

    def _backward(self, epoch: float) -> Report:
        """The meta-gradient, task by task, so that only one task's graph is alive at a time."""
        batch = self.train.sample(self.recipe.meta_batch)
        reports = []
        for task in batch.split():
            loss, report = self.learner.meta_loss(task, epoch)
            (loss / len(batch)).backward()
            reports.append(report)
        losses, accuracies = zip(*reports, strict=True)
        return Report(torch.stack(losses).mean(), torch.stack(accuracies).mean())

    def validate(self) -> Row:
        """Accuracy on the same validation tasks each time; keeps the weights if they are best."""
        self.validation.restart()
        result = evaluate_tasks(self.learner, self.validation, self.recipe.validation_tasks)
        if self._best is None or result.accuracy >= self._best[0]:
            self._best = result.accuracy, copy.deepcopy(self.learner.state_dict())
            if self.directory is not None:
                save_weights(self.learner, self.directory, "best")
        if self.directory is not None:
            save_weights(self.learner, self.directory, "latest")
        return {"validation_loss": result.loss, "validation_accuracy": result.accuracy}

    def _run(self) -> Run:
        learner = copy.deepcopy(self.learner)
        if self._best is not None:
            learner.load_state_dict(self._best[1])
        return Run(self.recipe, self.setting, learner, self.history, self.directory)

    def _summary(self) -> dict[str, str]:
        """For the progress bar: means over the last 20 meta-steps, and the last validation."""
        recent = self.history.rows[-20:]
        summary = {
            name: f"{sum(row[name] for row in recent) / len(recent):.3f}"
            for name in ("loss", "accuracy")
        }
        validation = self.history.column("validation_accuracy")
        return summary | ({"validation": f"{validation[-1]:.3f}"} if validation else {})


def default_device() -> str:
    """The GPU if there is one, otherwise the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _check(recipe: Recipe, train: TaskSampler, validation: TaskSampler) -> None:
    if recipe.validation_tasks < 2:
        raise InputError(
            f"a validation needs at least 2 tasks, not {recipe.validation_tasks}; "
            f"raise validation_tasks"
        )
    for name in ("ways", "shots"):
        ours, theirs = getattr(train, name), getattr(validation, name)
        if ours != theirs:
            raise InputError(
                f"training tasks have {ours} {name} and validation tasks {theirs}; "
                f"give both samplers the same"
            )
    if train.images.shape != validation.images.shape:
        raise InputError(
            f"training images are {list(train.images.shape)} and validation images "
            f"{list(validation.images.shape)}; give both samplers images of the same dataset"
        )


def _memory(device: torch.device) -> int:
    """Bytes: of this process now, or the most that was allocated on the GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return psutil.Process().memory_info().rss
