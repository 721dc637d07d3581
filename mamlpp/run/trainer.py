"""The outer loop: draw a meta-batch, take a meta-step, validate after each epoch, write it down."""

import copy
import math
import sys
import time
import warnings
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
from tqdm.auto import tqdm

from mamlpp.data.tasks import TaskBatch, TaskSampler
from mamlpp.diagnostics import Diagnosis, diagnose
from mamlpp.engine import Engine, Workers, one_thread
from mamlpp.errors import InputError, InputWarning
from mamlpp.input_checks import check_is_recipe, check_is_sampler, is_whole
from mamlpp.learner import MetaLearner
from mamlpp.maml import meta_step
from mamlpp.precision import full_precision, gradients_on
from mamlpp.recipe import Recipe
from mamlpp.run.changes import as_rows, changed, in_force, with_length
from mamlpp.run.checkpoints import Best, keep_best, restore_state, training_state
from mamlpp.run.evaluation import evaluate_tasks
from mamlpp.run.history import History, Row, gradient_rows
from mamlpp.run.interrupts import interrupts
from mamlpp.run.run import DataSettings, Run, read_selection
from mamlpp.run.run_folder import RunFolder
from mamlpp.run.schedule_words import describe_length, failed_to_learn, late_milestones
from mamlpp.run.worker_count import available_cores, choose_workers

if sys.platform != "win32":
    import resource


class Trainer:
    """Trains one recipe on the tasks of one sampler, on the device where its images are.

    Each sampler is copied and starts at its first task. With a `directory` everything is also
    written there as it happens, and a `Trainer` made with the same arguments continues from the
    latest checkpoint in it: on a CPU to the same weights, bit for bit, as if it had never stopped.
    With other `epochs` it goes on to those, under the schedules of that length from there on, which
    is a row of `changes`. Raises `InputError` where the folder holds another run, or a longer one.

    With `diagnose_every` the gradient of every so many meta-steps is followed back through the
    inner loop, for the first of their tasks: `gradients` (and `gradients.csv`) has its norm
    at each inner step and layer, `diagnosis` is the latest. A meta-gradient that is not finite is
    always followed.

    `workers` processes share the tasks of each meta-batch, one thread each; "auto" is as many as
    pay on this machine. The same number gives the same bits every time, another number the same up
    to rounding, so a run that is resumed keeps its number. `Workers` are those of `torchrun`.

    `fit` trains to the end. To do something between meta-steps, or to `change` the recipe:

        with trainer.alone():
            while not trainer.done:
                trainer.advance()
            trainer.save()
        run = trainer.result()
    """

    def __init__(
        self, recipe: Recipe, train: TaskSampler, validation: TaskSampler,
        directory: Path | str | None = None, diagnose_every: int | None = None,
        workers: int | Workers | Literal["auto"] = "auto",
    ) -> None:  # fmt: skip
        _check(recipe, train, validation, diagnose_every)
        _check_workers(workers, recipe, train.device)
        for sentence in late_milestones(recipe):
            warnings.warn(sentence, InputWarning, stacklevel=2)
        self.initial_recipe, self.recipe = recipe, recipe  # `recipe` changes with `change`
        self.train, self.validation = _at_start(train), _at_start(validation)
        self.data = _data_settings(train, validation)
        self.diagnose_every = diagnose_every
        self.diagnosis: Diagnosis | None = None
        with gradients_on():
            self.learner = MetaLearner(recipe, train.images.shape, train.ways).to(train.device)
        fused = train.device.type == "cuda"  # One kernel instead of one for each operation.
        self.optimizer = torch.optim.Adam(
            self.learner.parameters(), lr=recipe.outer_rate, fused=fused or None
        )
        self.iteration = 0
        self._row: Row | None = None  # of a meta-step that is not yet in the history
        self._gradient_rows: list[Row] = []  # and of its diagnosis
        self._best: list[Best] = []
        self.folder = RunFolder(directory)
        self.alone = self.folder.alone  # keeps other threads and processes out of this training
        self.selected_by = read_selection(self.folder.directory)
        self.workers = _decide(workers, self.folder, self.learner, self.train)
        self.engine = Engine(recipe.memory, self.workers)
        self._resume()
        self.directory, self.history = self.folder.directory, self.folder.history
        self.gradients, self.changes = self.folder.gradients, self.folder.changes

    def _resume(self) -> None:
        workers = self.workers if isinstance(self.workers, int) else self.workers.size
        checkpoint = self.folder.open(self.initial_recipe, self.data, workers)
        if checkpoint is not None:
            generator = self.train.generator
            restore_state(checkpoint.state, self.learner, self.optimizer, generator)
            self.iteration, self._best = checkpoint.iteration, checkpoint.best
        self._use(in_force(self.folder.first_recipe, self.folder.changes, self.iteration + 1))
        self._change_to(_at_length(self.initial_recipe, self.recipe, self.folder, self.iteration))

    @property
    def epoch(self) -> float:
        """Where in the schedules the next meta-step is."""
        return self.iteration / self.recipe.iterations_per_epoch

    @property
    def done(self) -> bool:
        """Whether every meta-step has been taken, with everything that is due after it."""
        total = self.recipe.epochs * self.recipe.iterations_per_epoch
        return self._row is None and self.iteration >= total

    def fit(self) -> Run:
        """Train to the end; the run's learner has the weights that were best on validation.

        Ctrl-C (in a notebook: interrupting the kernel) ends the current meta-step, saves it, and
        raises `KeyboardInterrupt`, which says how to continue; a second one interrupts at once.
        Calling `fit` again continues after the last whole meta-step. Raises `InputError` where the
        folder cannot be written or another process trains in it, and where the recipe stops at a
        meta-gradient that is not finite.
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
                    self._stop()
            self.save()
            self.engine.dismiss()
            failure = failed_to_learn(self.recipe, self.history.rows, self.train.ways)
            if failure is not None:
                warnings.warn(failure, InputWarning, stacklevel=2)
            return self.result()

    def advance(self) -> None:
        """One meta-step with everything that is due after it; of the last one, what is missing.

        Raises `InputError` like `fit`.
        """
        self._refuse_nonfinite()
        self._finish_step()

    def _finish_step(self) -> None:
        row = self._row = self._row or self.step()
        ends_epoch = self.iteration % self.recipe.iterations_per_epoch == 0
        if ends_epoch and "validation_loss" not in row:
            row |= self.validate()
        self.folder.append(row, self._gradient_rows)
        self._row, self._gradient_rows = None, []
        if ends_epoch or self.folder.due:
            self.save()

    @one_thread()
    @full_precision()
    @gradients_on()
    def step(self) -> Row:
        """One meta-step: its row of the history."""
        start, epoch = time.perf_counter(), self.epoch
        batch = self.train.sample(self.recipe.meta_batch)
        result = meta_step(self.learner, self.optimizer, batch, epoch, self.engine.meta_gradient)
        self.iteration += 1
        row: Row = {"iteration": self.iteration, "epoch": epoch} | result
        row |= self._diagnose(batch, epoch, "nonfinite" in result)
        seconds = time.perf_counter() - start
        return row | {"seconds": seconds, "memory_mb": _peak_memory(self.train.device) / 1e6}

    def _diagnose(self, batch: TaskBatch, epoch: float, nonfinite: bool) -> Row:
        """Of the first task, if it is due; of a bad meta-gradient, of the first bad task."""
        if nonfinite:
            looks = (diagnose(self.learner, task, epoch) for task in batch.split())
            found = next((look for look in looks if look.first_nonfinite), None)
        elif self.diagnose_every and (self.iteration - 1) % self.diagnose_every == 0:
            found = diagnose(self.learner, batch.split()[0], epoch)
        else:
            return {}
        if found is None:
            return {}
        self.diagnosis, self._gradient_rows = found, gradient_rows(found, self.iteration)
        bad = found.first_nonfinite
        return {"first_order_cosine": found.cosine} if bad is None else {"nonfinite_step": bad[0]}

    def validate(self) -> Row:
        """Accuracy on the same validation tasks each time; keeps the weights of the best few."""
        self.validation.restart()
        tasks = self.recipe.validation_tasks
        result = evaluate_tasks(
            self.learner, self.validation, tasks, reading=self.selected_by, engine=self.engine
        )
        state = self.learner.state_dict()
        weights = {name: tensor.to("cpu", copy=True) for name, tensor in state.items()}
        self._best = keep_best(self._best, Best(result.accuracy, self.iteration, weights))
        return {"validation_loss": result.loss, "validation_accuracy": result.accuracy}

    def change(self, **fields: float | None) -> None:
        """Change the recipe by hand, from the next meta-step on: the fields in `CHANGEABLE`.

        Each change is a row of `changes` (and `changes.csv`) and stays: a run that is
        resumed continues with it. Raises `InputError`, and changes nothing, where the recipe does
        not allow it.
        """
        self._change_to(changed(self.recipe, fields))

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
        self.recipe = recipe
        self.learner.update_recipe(recipe)

    @gradients_on()
    def result(self) -> Run:
        """The run so far; its learner has the weights that were best on validation, if there are.

        Raises `InputError` where the recipe stops at a meta-gradient that is not finite.
        """
        self._refuse_nonfinite()
        learner = copy.deepcopy(self.learner)
        if self._best:
            learner.load_state_dict(self._best[0].weights)
            iteration = self._best[0].iteration
            learner.update_recipe(in_force(self.folder.first_recipe, self.changes, iteration))
        return Run(
            self.folder.first_recipe, self.data, learner, self.history, self.directory,
            tuple(self._best), self.gradients, self.changes, self.selected_by,
        )  # fmt: skip

    def save(self) -> None:
        """Write a checkpoint, unless there is no folder or the last one is of this iteration."""
        state = training_state(self.learner, self.optimizer, self.train.generator)
        self.folder.save(self.iteration, state, self._best)

    def _stop(self) -> None:
        self.save()
        again = "fit()" if self.directory is None else "the same command"
        raise KeyboardInterrupt(
            f"stopped after iteration {self.iteration}; {again} continues from there"
        )

    def _refuse_nonfinite(self) -> None:
        """Where the recipe says so, end at a meta-gradient that is not finite, resumed or not."""
        rows = self.history.rows
        bad = rows[-1].get("nonfinite") if rows else None
        if bad is not None and self.recipe.nonfinite == "stop":
            self.save()
            raise InputError(
                f"the meta-gradient of iteration {self.iteration} is not finite, first in {bad}, "
                f"and the recipe says stop; train with nonfinite='skip', a lower outer_rate or "
                f"clip_norm"
            )


def default_device() -> str:
    """The GPU if there is one, otherwise the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _at_start(sampler: Any) -> Any:
    """A copy that draws the sampler's tasks from the first one on, and shares its images."""
    own = copy.copy(sampler)
    own.restart()
    return own


def _check(
    recipe: Recipe, train: TaskSampler, validation: TaskSampler, diagnose_every: int | None
) -> None:
    check_is_recipe(recipe)
    for sampler in (train, validation):
        check_is_sampler(sampler)
    if diagnose_every is not None and not (is_whole(diagnose_every) and diagnose_every >= 1):
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
    if train.device != validation.device:
        raise InputError(
            f"training images are on {train.device} and validation images on "
            f"{validation.device}; move both sets to one device with .to"
        )


def _check_workers(
    workers: int | Workers | Literal["auto"], recipe: Recipe, device: torch.device
) -> None:
    if workers == "auto":
        return
    if not isinstance(workers, int | Workers):
        raise InputError(f"workers must be a whole number or 'auto', not {workers!r}")
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


def _decide(workers: Any, folder: RunFolder, learner: MetaLearner, train: TaskSampler) -> Any:
    """A number for "auto": the one that this run began with, or else what pays here."""
    if workers != "auto":
        return workers
    begun = folder.read_workers()
    if begun is not None and begun > available_cores():
        warnings.warn(
            f"this run began with {begun} processes, and this machine has {available_cores()} "
            f"cores; it keeps the {begun}, so that it continues bit for bit, and takes longer",
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
            f"the run in {folder.directory} has trained {trained:g} epochs already; choose epochs "
            f"from {math.ceil(trained)} on, or another folder"
        )
    if longer != recipe:
        warnings.warn(
            f"the run in {folder.directory} goes on with {describe_length(recipe, longer)}, from "
            f"meta-step {iteration + 1} on, as its changes.csv says",
            InputWarning,
            stacklevel=4,  # Where the `Trainer` was made.
        )
    return longer


def _data_settings(train: TaskSampler, validation: TaskSampler) -> DataSettings:
    return DataSettings(
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
    }
    validation = history.column("validation_accuracy")
    return summary | ({"validation": f"{validation[-1]:.3f}"} if validation else {})
