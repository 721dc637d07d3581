"""The outer loop: draw a meta-batch, take a meta-step, validate after each epoch, write it down."""

import atexit
import copy
import math
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
from tqdm.auto import tqdm

from mamlpp.data.tasks import TaskBatch
from mamlpp.diagnostics import Diagnosis, diagnose
from mamlpp.engine import Engine, Workers, one_thread
from mamlpp.errors import InputError, InputWarning
from mamlpp.files import user_path
from mamlpp.gradients import second_derivatives
from mamlpp.input_checks import check_sampler
from mamlpp.learner import MetaLearner
from mamlpp.maml import meta_step
from mamlpp.naming import counted
from mamlpp.precision import full_precision, gradients_on
from mamlpp.recipe import Recipe
from mamlpp.run.changes import as_rows, changed, in_force, use_recipe, with_length
from mamlpp.run.history import COLUMNS, History, Row, gradient_rows
from mamlpp.run.interrupts import interrupts
from mamlpp.run.outer import Fixed, MakeOptimizer, Outer, TrainingTasks, at_start, seeded
from mamlpp.run.run import MakeLearner, Run, make_learner, names_of, read_selection
from mamlpp.run.run_folder import RunFolder
from mamlpp.run.schedule_words import (
    describe_length,
    failed_to_learn,
    late_milestones,
    nonfinite_end,
)
from mamlpp.run.training_checks import (
    check_other_classes,
    check_training,
    check_unchanged,
    check_workers,
    data_settings,
    device_of,
    shape_of,
    ways_of,
)
from mamlpp.run.validation import Validation
from mamlpp.run.worker_count import available_cores, choose_workers

if sys.platform != "win32":
    import resource


class Trainer:
    """Trains one recipe on the tasks of one sampler, on the device where its images are.

    Each sampler is copied and starts at its first task. With a `directory` everything is also
    written there, and a `Trainer` made with the same arguments continues from the latest checkpoint
    in it: on a CPU to the same weights, bit for bit, as if it had never stopped. With other
    `epochs` it goes on to those, under the schedules of that length from there on, which is a row
    of `changes`. Raises `InputError` where the folder holds another run, or a longer one.

    Every `diagnose_every` meta-steps the gradient of the first task is followed back through the
    inner loop: `gradients` (and `gradients.csv`) has its norm at each inner step and layer,
    `diagnosis` is the latest. A meta-gradient that is not finite is always followed.

    `workers` processes share the tasks of each meta-batch, one thread each; "auto" is as many as
    pay on this machine. The same number gives the same bits every time, another number the same up
    to rounding, so a run that is resumed keeps its number. `Workers` are those of `torchrun`.

    `learner` is what is trained, in place: a `MetaLearner` with a network or methods of your own,
    or its class. `optimizer` makes one of a list of parameters, or (optimizer, scheduler).
    A sampler is any object with `sample(tasks)`. Of several for `validation`, by name, each is a
    column, and the first selects weights: by accuracy, or by loss where there are no classes.
    `callbacks` are called with the trainer and the row of the history after each meta-step, and may
    `stop()` it; so do `patience` validations without a better one. A folder goes on with the same
    learner and optimizer only.

    `fit` trains to the end. To do something between meta-steps, or to `change` the recipe:

        with trainer.alone():
            while not trainer.done:
                trainer.advance()
            trainer.save()
        run = trainer.result()
    """

    learner = Fixed[MetaLearner]("Trainer(…, learner=…)")
    optimizer = Fixed[torch.optim.Optimizer]("Trainer(…, optimizer=lambda parameters: …)")
    train, validation = Fixed[Any]("Trainer(recipe, train)"), Fixed[Any]("Trainer(…, validation)")
    directory, workers = Fixed[Any]("Trainer(…, directory)"), Fixed[Any]("Trainer(…, workers=…)")
    recipe = Fixed[Recipe]("Trainer(recipe, …); fields of it with trainer.change(outer_rate=…)")

    def __init__(
        self, recipe: Recipe, train: Any, validation: Any,
        directory: Path | str | None = None, diagnose_every: int | None = None,
        workers: int | Workers | Literal["auto"] = "auto", *,
        learner: MetaLearner | MakeLearner | None = None, optimizer: MakeOptimizer | None = None,
        callbacks: Sequence[Callable[["Trainer", Row], Any]] = (), patience: int | None = None,
    ) -> None:  # fmt: skip
        check_training(recipe, train, validation, diagnose_every, patience, callbacks)
        check_workers(workers, recipe, device_of(train))
        for sentence in late_milestones(recipe):
            warnings.warn(sentence, InputWarning, stacklevel=2)
        self.initial_recipe, self.recipe = recipe, recipe  # `recipe` changes with `change`
        self.train, self._validation = at_start(train), Validation(validation, recipe.seed)
        self._tasks = TrainingTasks(self.train, recipe.seed)
        self.diagnose_every, self.callbacks, self.patience = diagnose_every, callbacks, patience
        self.diagnosis: Diagnosis | None = None
        with gradients_on():
            self.learner = make_learner(learner, recipe, shape_of(train), ways_of(train))
            self.learner.to(device_of(train))
            self._outer = Outer(self.learner, recipe, optimizer)
        self.optimizer, self.validation = self._outer.optimizer, self._validation.first
        for sampler in [train, *self._validation.samplers.values()]:
            check_sampler(self.learner, sampler)
        self.data = data_settings(train, self.validation, self.learner)
        self.used = names_of(self.learner, self._outer.name)
        self.iteration, self._stopped = 0, False
        self._row: Row | None = None  # of a meta-step that is not yet in the history
        self._gradient_rows: list[Row] = []  # and of its diagnosis
        self.folder = RunFolder(directory)
        self.alone = self.folder.alone  # keeps other threads and processes out of this training
        self.selected_by = read_selection(self.folder.directory)
        self.workers = _decide(workers, self.folder, self.learner, self.train)
        self.engine = Engine(recipe.memory, self.workers)
        _resume(self)
        self.directory, self.history = self.folder.directory, self.folder.history
        self.gradients, self.changes = self.folder.gradients, self.folder.changes
        self._stopped = self._validation.out_of_patience(self.history, patience)

    @property
    def epoch(self) -> float:
        """Where in the schedules the next meta-step is."""
        return self.iteration / self.recipe.iterations_per_epoch

    @property
    def done(self) -> bool:
        """Whether every meta-step has been taken, or it was told to stop, with all that is due."""
        total = self.recipe.epochs * self.recipe.iterations_per_epoch
        return self._row is None and (self._stopped or self.iteration >= total)

    def stop(self) -> None:
        """End the training after this meta-step, as if it were the last one."""
        self._stopped = True

    def fit(self) -> Run:
        """Train to the end; the run's learner has the weights that were best on validation.

        Ctrl-C (or interrupting the kernel) ends the current meta-step, saves it, and raises
        `KeyboardInterrupt`, which says how to continue; a second one interrupts at once. `fit`
        again continues. Raises `InputError` where the folder cannot be written or another process
        trains in it, and where the recipe stops at a meta-gradient that is not finite.
        """
        total = self.recipe.epochs * self.recipe.iterations_per_epoch
        with (
            self.alone(),
            interrupts() as pressed,
            tqdm(total=total, initial=self.iteration, desc="training", unit="step") as bar,
        ):
            while not self.done:
                self.advance()
                bar.set_postfix(_summary(self.history), refresh=False)
                bar.update()
                if pressed:
                    self._interrupt()
            self.save()
            self.engine.dismiss()
            failure = failed_to_learn(self.recipe, self.history.rows, self.learner.ways)
            if failure is not None:
                warnings.warn(failure, InputWarning, stacklevel=2)
            return self.result()

    def advance(self) -> None:
        """One meta-step with everything that is due after it; of the last one, what is missing.

        Raises `InputError` like `fit`.
        """
        self._stop_at_nonfinite()
        self._finish_step()

    def _finish_step(self) -> None:
        row = self._row = self._row or self.step()
        ends_epoch = self.iteration % self.recipe.iterations_per_epoch == 0
        if ends_epoch and "validation_loss" not in row:
            row |= self.validate()
            self._outer.after_validation(row)
        self.folder.append(row, self._gradient_rows)
        self._row, self._gradient_rows = None, []
        if ends_epoch or self.folder.due:
            self.save()
        if ends_epoch:
            self._stopped |= self._validation.out_of_patience(self.history, self.patience)
        for callback in self.callbacks:
            callback(self, dict(row))

    @one_thread()
    @full_precision()
    @gradients_on()
    def step(self) -> Row:
        """One meta-step: its row of the history."""
        start, epoch = time.perf_counter(), self.epoch
        check_unchanged(self.used, self.learner, self._outer.name, self.recipe)
        self._outer.check_unchanged(self.learner, self.recipe, epoch)
        batch = self._tasks.sample(self.recipe.meta_batch, self.iteration)
        random = seeded(self.recipe.seed, f"meta-step {self.iteration}")  # for dropout, say
        with random if self.learner._own_network else nullcontext(), second_derivatives():
            arguments = self.learner, self.optimizer, batch, epoch, self.engine.meta_gradient
            result = meta_step(*arguments)
        self._outer.after_step()
        if self.learner.ways is None:
            del result["accuracy"]
        self.iteration += 1
        row: Row = {"iteration": self.iteration, "epoch": epoch} | result
        due = self.diagnose_every is not None and (self.iteration - 1) % self.diagnose_every == 0
        found = _followed(self.learner, batch, epoch, "nonfinite" in row, due)
        if found is not None:
            self.diagnosis, self._gradient_rows = found, gradient_rows(found, self.iteration)
            row |= _said_of(found)
        seconds = time.perf_counter() - start
        return row | {"seconds": seconds, "memory_mb": _peak_memory(batch.support_x.device) / 1e6}

    def validate(self) -> Row:
        """Scores on the same validation tasks each time; keeps the weights of the best few."""
        at = self.recipe, self.iteration, self.selected_by, self.engine
        return self._validation.row(self.learner, *at)

    def change(self, **fields: float | None) -> None:
        """Change the recipe by hand, from the next meta-step on: the fields in `CHANGEABLE`.

        Each change is a row of `changes` (and `changes.csv`) and stays: a run that is
        resumed continues with it. Raises `InputError`, and changes nothing, where the recipe does
        not allow it.
        """
        self._change_to(changed(self.recipe, fields, self.learner.rule))

    def _change_to(self, recipe: Recipe) -> None:
        with self.alone():
            if self._row is not None:
                self._finish_step()
            rows = as_rows(self.recipe, recipe, self.iteration + 1, self.epoch)
            if rows:
                self.save()  # So that no meta-step under this change is done again without it.
                self.folder.append_changes(rows)
                self._use(recipe)

    def _use(self, recipe: Recipe) -> None:
        vars(self)["recipe"] = recipe
        use_recipe(self.learner, recipe)

    @gradients_on()
    def result(self) -> Run:
        """The run so far; its learner has the weights that were best on validation, if there are.

        Raises `InputError` where the recipe stops at a meta-gradient that is not finite.
        """
        self._stop_at_nonfinite()
        learner = copy.deepcopy(self.learner).eval()
        if best := self._validation.best:
            learner.load_state_dict(best[0].weights)
            iteration = best[0].iteration
            use_recipe(learner, in_force(self.folder.first_recipe, self.changes, iteration))
        return Run(
            self.folder.first_recipe, self.data, learner, self.history, self.directory,
            tuple(self._validation.best), self.gradients, self.changes, self.selected_by,
        )  # fmt: skip

    def save(self) -> None:
        """Write a checkpoint, unless there is no folder or the last one is of this iteration."""
        if self.folder.directory is not None:
            tensors, plain = self._outer.state()
            state = {"learner": self.learner.state_dict(), "adam": tensors}
            state |= {"sampler": self._tasks.state()}
            self.folder.save(self.iteration, state, self._validation.best, plain)

    def _interrupt(self) -> None:
        self.save()
        again = "fit()" if self.directory is None else "the same command"
        raise KeyboardInterrupt(
            f"stopped after iteration {self.iteration}; {again} continues from there"
        )

    def _stop_at_nonfinite(self) -> None:
        if (sentence := nonfinite_end(self.recipe, self.history.rows)) is not None:
            self.save()
            raise InputError(sentence)


def _resume(trainer: Trainer) -> None:
    """Begin in its folder, or go on from what is there."""
    workers = trainer.workers if isinstance(trainer.workers, int) else trainer.workers.size
    about = trainer.initial_recipe, trainer.data, workers, trainer.used
    if trainer.folder.read_workers() is None:  # It is a new run.
        check_other_classes(trainer.train, trainer._validation.samplers.values())
    columns = (*COLUMNS, *trainer._validation.columns(trainer.learner))
    found = trainer.folder.open(*about, columns)
    if found is not None:
        trainer.learner.load_state_dict(found.state["learner"])
        trainer._outer.restore(found.state.get("adam", {}), found.plain)
        trainer.iteration, trainer._validation.best = found.iteration, found.best
        drawn = trainer.initial_recipe.meta_batch, trainer.iteration
        trainer._tasks.restore(found.state.get("sampler", {}), *drawn)
    trainer._use(
        in_force(trainer.folder.first_recipe, trainer.folder.changes, trainer.iteration + 1)
    )
    trainer._change_to(
        _at_length(trainer.initial_recipe, trainer.recipe, trainer.folder, trainer.iteration)
    )


def _followed(
    learner: MetaLearner, batch: TaskBatch, epoch: float, nonfinite: bool, due: bool
) -> Diagnosis | None:
    """The diagnosis of the first task, if it is due; at a bad meta-gradient, of the first bad."""
    if nonfinite:
        looks = (diagnose(learner, task, epoch) for task in batch.split())
        return next((look for look in looks if look.first_nonfinite), None)
    return diagnose(learner, batch.split()[0], epoch) if due else None


def _said_of(found: Diagnosis) -> Row:
    bad = found.first_nonfinite
    return {"first_order_cosine": found.cosine} if bad is None else {"nonfinite_step": bad[0]}


def tensorboard(directory: Path | str) -> Callable[[Trainer, Row], None]:
    """A callback that writes every number of the history for TensorBoard.

    Raises `InputError` where it is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            "TensorBoard is not installed; pip install tensorboard, or read history.csv, which has "
            "the same numbers"
        ) from error
    writer = SummaryWriter(str(user_path(directory)))
    atexit.register(writer.close)  # which writes what an interrupted training left in memory

    def write(trainer: Trainer, row: Row) -> None:
        for name, value in row.items():
            if isinstance(value, int | float) and name != "iteration":
                writer.add_scalar(name, value, row["iteration"])
        if "validation_loss" in row or trainer.done:
            writer.flush()

    return write


def default_device() -> str:
    """The GPU if there is one, otherwise the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _decide(workers: Any, folder: RunFolder, learner: MetaLearner, train: Any) -> Any:
    """A number for "auto": the one that this run began with, or else what pays here."""
    if workers != "auto":
        return workers
    begun = folder.read_workers()
    if begun is not None and begun > available_cores():
        warnings.warn(
            f"this run began with {counted(begun, 'process')}, and this machine has "
            f"{counted(available_cores(), 'core')}; it keeps the {begun}, so that it "
            f"continues bit for bit, and takes longer",
            InputWarning,
            stacklevel=3,
        )
    return begun or choose_workers(learner, train)


def _at_length(given: Recipe, recipe: Recipe, folder: RunFolder, iteration: int) -> Recipe:
    """The recipe in force, on to the epochs that are given; warns where they are others.

    Raises `InputError` where more have been trained.
    """
    longer = with_length(recipe, given, folder.first_recipe)
    trained = iteration / recipe.iterations_per_epoch
    if longer.epochs < trained:
        raise InputError(
            f"the run in {folder.directory} has trained {counted(trained, 'epoch')} already; "
            f"choose epochs from {math.ceil(trained)} on, or another folder"
        )
    if longer != recipe:
        warnings.warn(
            f"the run in {folder.directory} goes on with {describe_length(recipe, longer)}, from "
            f"meta-step {iteration + 1} on, as its changes.csv says",
            InputWarning,
            stacklevel=4,  # Where the `Trainer` was made.
        )
    return longer


def _peak_memory(device: torch.device) -> int:
    """Bytes: the most that this process has held so far, or that was allocated on the GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _summary(history: History) -> dict[str, str]:
    """For the progress bar: means over the last 20 meta-steps, and the last validation."""
    recent = history.rows[-20:]
    summary = {
        name: f"{sum(row[name] for row in recent) / len(recent):.3f}"
        for name in ("loss", "accuracy")
        if all(name in row for row in recent)
    }
    validation = history.column("validation_accuracy") or history.column("validation_loss")
    return summary | ({"validation": f"{validation[-1]:.3f}"} if validation else {})
