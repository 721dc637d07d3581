"""The outer loop: draw a meta-batch, take the meta-gradient, let Adam step, validate each epoch."""

import copy
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch
from filelock import FileLock, Timeout
from torch import Tensor
from tqdm.auto import tqdm

from mamlpp import schedules
from mamlpp.data.tasks import TaskBatch, TaskSampler
from mamlpp.diagnostics import Diagnosis, diagnose
from mamlpp.errors import InputError
from mamlpp.files import remove_leftovers
from mamlpp.lean import graph_bytes
from mamlpp.maml import MetaLearner, Report
from mamlpp.precision import full_precision
from mamlpp.recipe import Recipe
from mamlpp.recorded import Recorder
from mamlpp.run.changes import CHANGE_COLUMNS, as_rows, changed, in_force
from mamlpp.run.checkpoints import (
    Best,
    Checkpoint,
    Run,
    Setting,
    State,
    keep_best,
    latest_checkpoint,
    open_directory,
    save_checkpoint,
    write_best,
)
from mamlpp.run.evaluation import evaluate_tasks
from mamlpp.run.history import GRADIENT_COLUMNS, History, Row
from mamlpp.run.parallel import Team, local_team
from mamlpp.together import at_once, backward

if sys.platform != "win32":
    import resource

CHECKPOINT_SECONDS = 30.0  # between two checkpoints within an epoch: what a killed run can lose


class Trainer:
    """Trains one recipe on the tasks of one sampler, on the device where its images live.

    With a `directory` everything is also written there as it happens, and a `Trainer` made of the
    same goes on from the latest checkpoint in it: on a CPU to the same weights, bit by bit, as if
    nothing had stopped it. Raises `InputError` where the folder holds another run.

    With `diagnose_every` the gradient of every so many meta-steps is followed back through the
    inner loop, on the first of their tasks: `gradients` (in a folder: `gradients.csv`) has its norm
    at each inner step and layer, `diagnosis` the latest. A meta-gradient that is not finite is
    always looked at.

    `workers` processes share the tasks of each meta-batch, each with one thread; as many give the
    same bits every time, and another number the same but for rounding. A `Team` is one that
    `torchrun` started.

    `fit` trains to the end. Who wants to look in between, or to `change` the recipe by hand, calls
    `with trainer.alone():` and in it `advance()` until `done`; then `save()` and `result()`.
    """

    def __init__(
        self,
        recipe: Recipe,
        train: TaskSampler,
        validation: TaskSampler,
        directory: Path | str | None = None,
        diagnose_every: int | None = None,
        workers: int | Team = 1,
    ) -> None:
        _check(train, validation, diagnose_every)
        _check_workers(workers, recipe, train.device)
        self.diagnose_every = diagnose_every
        self.diagnosis: Diagnosis | None = None
        self.recipe, self.train, self.validation = recipe, train, validation
        self.workers = workers
        self.given = recipe  # `recipe` is what it has become by changes
        self.setting = _setting(train, validation)
        self.learner = MetaLearner(recipe, train.images.shape, train.ways).to(train.device)
        fused = train.device.type == "cuda"  # One kernel, not one for each operation.
        self.optimizer = torch.optim.Adam(
            self.learner.parameters(), lr=recipe.outer_rate, fused=fused or None
        )
        self._recorder = Recorder()
        self.lean: bool | None = {"fast": False, "lean": True}.get(recipe.memory)
        self.iteration = 0
        self._row: Row | None = None  # of a meta-step that is done but not yet in the history
        self._followed: list[Row] = []  # of its gradient, likewise
        self._best: list[Best] = []
        self._saved_at, self._saved = time.monotonic(), -1
        self.directory = None if directory is None else Path(directory)
        self._at_work, self._lock = threading.RLock(), self._folder_lock()
        self.changes = History(columns=CHANGE_COLUMNS)
        self.history, self.gradients = self._open(self.directory)

    @property
    def epoch(self) -> float:
        """Where in the schedules the next meta-step is."""
        return self.iteration / self.recipe.iterations_per_epoch

    @property
    def done(self) -> bool:
        """Whether every meta-step has been taken, with all that is due after it."""
        total = self.recipe.epochs * self.recipe.iterations_per_epoch
        return self._row is None and self.iteration >= total

    def fit(self) -> Run:
        """Train to the end; the run's learner has the weights that were best on validation.

        Ctrl-C (in a notebook: interrupting the kernel) ends the current meta-step, saves it, and
        raises `KeyboardInterrupt`, which says how to go on; a second one interrupts at once. `fit`
        may be called again: it goes on after the last whole meta-step, or validates what it had not
        yet. Raises `InputError` where the folder cannot be written to, where another process trains
        in it, and where the recipe stops at a meta-gradient that is not finite.
        """
        total = self.recipe.epochs * self.recipe.iterations_per_epoch
        with (
            self.alone(),
            _interrupts() as pressed,
            tqdm(total=total, initial=self.iteration, desc="training", unit="step") as bar,
        ):
            while not self.done:
                self.advance()
                bar.set_postfix(self._summary(), refresh=False)
                bar.update()
                if pressed:
                    self._stop()
            self.save()
            if isinstance(self.workers, Team):
                self.workers.dismiss()
            return self.result()

    def advance(self) -> None:
        """One meta-step with all that is due after it; or, of the last one, what is still undone.

        Raises `InputError` like `fit`.
        """
        self._refuse_nonfinite()
        self._finish_step()

    def _finish_step(self) -> None:
        row = self._row = self._row or self.step()
        ends_epoch = self.iteration % self.recipe.iterations_per_epoch == 0
        if ends_epoch and "validation_loss" not in row:
            row |= self.validate()
        with self._writing():
            self.gradients.append(*self._followed)
            self._followed = []
            self.history.append(row)
        self._row = None
        if ends_epoch or time.monotonic() - self._saved_at >= CHECKPOINT_SECONDS:
            self.save()

    def change(self, **fields: float | None) -> None:
        """Change the recipe by hand, from the next meta-step on: those fields in `CHANGEABLE`.

        Each change is a row of `changes` (in a folder: `changes.csv`) and lasts: a run that is
        resumed goes on with it. Raises `InputError`, and changes nothing, where the recipe does not
        allow it.
        """
        recipe = changed(self.recipe, fields)
        with self.alone():
            if self._row is not None:
                self._finish_step()
            rows = as_rows(self.recipe, recipe, self.iteration + 1, self.epoch)
            if rows:
                self.save()  # So that no meta-step under this change is ever done again without it.
                self._write_changes(rows)
                self._follow(recipe)

    def _write_changes(self, rows: list[Row]) -> None:
        with self._writing():
            if self.directory is not None and self.changes.path is None:
                self.changes = History(self.directory / "changes.csv", CHANGE_COLUMNS)
            self.changes.append(*rows)

    def _follow(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.learner.follow(recipe)

    @full_precision()
    def step(self) -> Row:
        """One meta-step: the meta-gradient of a new meta-batch, clipped, then Adam.

        A meta-gradient that is not finite, or statistics of batch norm that are not, would end the
        run: nothing of such a meta-step is applied, and its row has the name under `nonfinite`.
        """
        start, epoch = time.perf_counter(), self.epoch
        rate = schedules.outer_rate(
            self.recipe.outer_rate, self.recipe.outer_rate_min, self.recipe.epochs, epoch
        )
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.zero_grad()
        buffers = [buffer.clone() for buffer in self.learner.buffers()]
        batch = self.train.sample(self.recipe.meta_batch)
        tasks = batch.split()
        report = self._backward(batch, epoch)
        norm = torch.nn.utils.get_total_norm(self._gradients().values())
        seen = torch.stack([report.loss, report.accuracy, norm, self._nothing()])
        loss, accuracy, size, nothing = seen.tolist()  # A GPU waits here, and only here.
        bad = None if math.isfinite(size + nothing) else self._first_nonfinite()
        diagnosis = self._diagnose(tasks, epoch, bad)
        if bad is None:
            self._apply(norm)
        else:
            with torch.no_grad():
                for buffer, before in zip(self.learner.buffers(), buffers, strict=True):
                    buffer.copy_(before)
        self.iteration += 1
        row: Row = {
            "iteration": self.iteration,
            "epoch": epoch,
            "outer_rate": rate,
            "loss": loss,
            "accuracy": accuracy,
            "gradient_norm": size,
            "seconds": time.perf_counter() - start,
            "memory_mb": _peak_memory(self.train.device) / 1e6,
        }
        row |= {} if bad is None else {"nonfinite": bad}
        return row if diagnosis is None else row | self._note(diagnosis)

    def _diagnose(self, tasks: list[TaskBatch], epoch: float, bad: str | None) -> Diagnosis | None:
        """What is due: of the first task; or, of a bad meta-gradient, of the first bad task."""
        if bad is not None:
            looks = (diagnose(self.learner, task, epoch) for task in tasks)
            return next((diagnosis for diagnosis in looks if diagnosis.first_bad), None)
        if self.diagnose_every is None or self.iteration % self.diagnose_every:
            return None
        return diagnose(self.learner, tasks[0], epoch)

    def _note(self, diagnosis: Diagnosis) -> Row:
        """Keep a diagnosis of the meta-step just done; what its row says of it."""
        self.diagnosis, self._followed = diagnosis, diagnosis.as_rows(self.iteration)
        bad = diagnosis.first_bad
        return (
            {"first_order_cosine": diagnosis.cosine} if bad is None else {"nonfinite_step": bad[0]}
        )

    def _gradients(self) -> State:
        """The meta-gradient, by the names of the parameters that have one."""
        return {
            name: parameter.grad
            for name, parameter in self.learner.named_parameters()
            if parameter.grad is not None
        }

    def _nothing(self) -> Tensor:
        """0; NaN if a buffer has a number that is not finite."""
        return (torch.cat([buffer.flatten() for buffer in self.learner.buffers()]) * 0).sum()

    def _first_nonfinite(self) -> str:
        """The first parameter whose gradient is not finite, or else such a buffer."""
        tensors = self._gradients() | dict(self.learner.named_buffers())
        return next((name for name, x in tensors.items() if not x.norm().isfinite()), "norm")

    def _apply(self, norm: Tensor) -> None:
        if self.recipe.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(
                self.learner.parameters(), self.recipe.clip_norm, norm
            )
        if self.recipe.clip_value is not None:
            torch.nn.utils.clip_grad_value_(self.learner.parameters(), self.recipe.clip_value)
        self.optimizer.step()

    def _backward(self, batch: TaskBatch, epoch: float) -> Report:
        """The meta-gradient."""
        if self.lean is None:
            self.lean = self._choose_memory(batch)
        if isinstance(self.workers, int) and self.workers > 1:
            self.workers = local_team(self.workers)
        if isinstance(self.workers, Team):
            return self.workers.backward(self.learner, batch, epoch, self.lean)
        parts = backward(self.learner, batch, epoch, len(batch), self.lean, self._recorder)
        self.learner.absorb(parts)
        losses, accuracies, _ = zip(*parts, strict=True)
        return Report(torch.stack(losses).mean(), torch.stack(accuracies).mean())

    def _choose_memory(self, batch: TaskBatch) -> bool:
        """Whether the graphs of all inner steps would take more than half of what is free."""
        count = self.workers if isinstance(self.workers, int) else 1
        if at_once(self.learner, self.train.device):
            count = -(-len(batch) // (self.workers.size if isinstance(self.workers, Team) else 1))
        need = count * graph_bytes(self.learner, next(iter(batch)))
        free = _free_memory(self.train.device)
        lean = need > free / 2
        tqdm.write(
            f"memory: {'lean' if lean else 'fast'}; all inner steps at once would keep about "
            f"{need / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free",
            file=sys.stderr,
        )
        return lean

    def validate(self) -> Row:
        """Accuracy on the same validation tasks each time; keeps the weights of the best few."""
        self.validation.restart()
        result = evaluate_tasks(self.learner, self.validation, self.recipe.validation_tasks)
        weights = {
            name: tensor.to("cpu", copy=True) for name, tensor in self.learner.state_dict().items()
        }
        self._best = keep_best(self._best, Best(result.accuracy, self.iteration, weights))
        return {"validation_loss": result.loss, "validation_accuracy": result.accuracy}

    def result(self) -> Run:
        """The run so far; its learner has the weights that were best on validation, if there are.

        Raises `InputError` where the recipe stops at a meta-gradient that is not finite.
        """
        self._refuse_nonfinite()
        learner = copy.deepcopy(self.learner)
        if self._best:
            learner.load_state_dict(self._best[0].weights)
            learner.follow(in_force(self.given, self.changes, self._best[0].iteration))
        return Run(
            self.given,
            self.setting,
            learner,
            self.history,
            self.directory,
            tuple(self._best),
            self.gradients,
            self.changes,
        )

    def _open(self, directory: Path | None) -> tuple[History, History]:
        """Begin, or go on from the checkpoint in a folder; history and gradients up to there."""
        if directory is None:
            return History(), History(columns=GRADIENT_COLUMNS)
        open_directory(directory, self.recipe, self.setting)
        path, gradients = directory / "history.csv", directory / "gradients.csv"
        with self.alone(), self._writing():
            remove_leftovers(directory)
            checkpoint = latest_checkpoint(directory)
            if checkpoint is None:
                return History(path), History(gradients, GRADIENT_COLUMNS)
            self._restore(checkpoint)
            write_best(directory, self._best)
            self._open_changes(directory / "changes.csv")
            return (
                History.resume(path, checkpoint.history_size),
                History.resume_at(gradients, GRADIENT_COLUMNS, self.iteration),
            )

    def _open_changes(self, path: Path) -> None:
        if path.exists():  # Those made just before the next meta-step count too.
            self.changes = History.resume_at(path, CHANGE_COLUMNS, self.iteration + 1)
            self._follow(in_force(self.given, self.changes, self.iteration + 1))

    def save(self) -> None:
        """Write a checkpoint, unless there is no folder or the last one is of this iteration."""
        if self.directory is None or self._saved == self.iteration:
            return
        size = (self.directory / "history.csv").stat().st_size
        with self._writing():
            save_checkpoint(
                self.directory, Checkpoint(self.iteration, size, self._parts(), self._best)
            )
        self._saved_at, self._saved = time.monotonic(), self.iteration

    def _parts(self) -> dict[str, State]:
        """All tensors that the next meta-step depends on; nothing uses torch's global generator."""
        adam = self.optimizer.state_dict()["state"]
        return {
            "learner": self.learner.state_dict(),
            "adam": {f"{i}/{name}": x for i, some in adam.items() for name, x in some.items()},
            "sampler": {"generator": self.train.generator.get_state()},
        }

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.learner.load_state_dict(checkpoint.parts["learner"])
        adam: dict[int, State] = {}
        for name, tensor in checkpoint.parts.get("adam", {}).items():
            index, _, rest = name.partition("/")
            adam.setdefault(int(index), {})[rest] = tensor
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": adam})
        self.train.generator.set_state(checkpoint.parts["sampler"]["generator"])
        self.iteration = self._saved = checkpoint.iteration
        self._best = checkpoint.best

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps other threads and processes out; the system lets go of a folder if this one dies.

        The thread that is in may enter again. Raises `InputError` where another one is.
        """
        if not self._at_work.acquire(blocking=False):
            raise InputError(
                "this trainer is at work in another thread; wait for it, or stop it first"
            )
        try:
            with self._folder_alone():
                yield
        finally:
            self._at_work.release()

    @contextmanager
    def _folder_alone(self) -> Iterator[None]:
        if self._lock is None:
            yield
            return
        with self._writing():
            try:
                self._lock.acquire()
            except Timeout as error:
                raise InputError(
                    f"another training is at work in {self.directory}; wait for it, or choose "
                    f"another folder"
                ) from error
        try:
            yield
        finally:
            self._lock.release()

    def _folder_lock(self) -> FileLock | None:
        return None if self.directory is None else FileLock(self.directory / ".lock", timeout=0)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Says in one sentence what it means that the folder cannot be written to."""
        try:
            yield
        except OSError as error:
            raise InputError(
                f"the run cannot be written to {self.directory} ({error}); once it can, the same "
                f"command goes on from the last checkpoint"
            ) from error

    def _stop(self) -> None:
        self.save()
        again = "fit()" if self.directory is None else "the same command"
        raise KeyboardInterrupt(
            f"stopped after iteration {self.iteration}; {again} goes on from there"
        )

    def _refuse_nonfinite(self) -> None:
        """Where the recipe says so, end at a meta-gradient that is not finite, whoever resumes."""
        bad = self.history.rows[-1].get("nonfinite") if self.history.rows else None
        if bad is not None and self.recipe.nonfinite == "stop":
            self.save()
            raise InputError(
                f"the meta-gradient of iteration {self.iteration} is not finite, first in {bad}, "
                f"and the recipe says stop; train with nonfinite='skip', a lower outer_rate or "
                f"clip_norm"
            )

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


def _check(train: TaskSampler, validation: TaskSampler, diagnose_every: int | None) -> None:
    if diagnose_every is not None and diagnose_every < 1:
        raise InputError(
            f"diagnose_every must be a number of meta-steps from 1 on, or None, not "
            f"{diagnose_every}"
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


def _check_workers(workers: int | Team, recipe: Recipe, device: torch.device) -> None:
    count = workers if isinstance(workers, int) else workers.size
    if not 1 <= count <= recipe.meta_batch:
        raise InputError(
            f"workers must be 1 to {recipe.meta_batch}, the tasks of a meta-batch that they share, "
            f"not {count}"
        )
    if isinstance(workers, int) and workers > 1 and device.type != "cpu":
        raise InputError(
            "several workers on GPUs are started by torchrun --nproc-per-node GPUS -m mamlpp train"
        )


def _setting(train: TaskSampler, validation: TaskSampler) -> Setting:
    return Setting(
        dataset=train.images.dataset,
        ways=train.ways,
        shots=train.shots,
        queries=train.queries,
        image_shape=train.images.shape,
        training_images=train.images.name,
        training_seed=train.seed,
        training_rotate=train.rotate,
        validation_images=validation.images.name,
        validation_seed=validation.seed,
        validation_rotate=validation.rotate,
        validation_queries=validation.queries,
    )


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """A list that is no longer empty after Ctrl-C; from then on Ctrl-C does what it did before."""
    pressed: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield pressed  # Only the main thread may listen, and who ignores Ctrl-C goes on to do so.
        return

    def note(number: int, _: object) -> None:
        pressed.append(number)
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def _peak_memory(device: torch.device) -> int:
    """Bytes: the most that this process has held so far, or that was allocated on the GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
