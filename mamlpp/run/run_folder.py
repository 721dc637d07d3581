"""The folder of a training while it runs: its lock, tables and checkpoints, and how it resumes."""

import errno
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from filelock import FileLock, Timeout

from mamlpp.errors import InputError, InputWarning
from mamlpp.files import remove_leftovers, user_path
from mamlpp.recipe import Recipe
from mamlpp.run.changes import CHANGE_COLUMNS
from mamlpp.run.checkpoints import (
    Best,
    Checkpoint,
    State,
    latest_checkpoint,
    save_checkpoint,
    write_best,
)
from mamlpp.run.history import GRADIENT_COLUMNS, History, Row
from mamlpp.run.run import DataSettings, open_directory, read_workers

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
CHECKPOINT_SECONDS = 30.0  # between two checkpoints within an epoch: what a killed run can lose

# Who trains in a folder on a background thread of this process, and leaves it when asked to.
IN_BACKGROUND: "WeakValueDictionary[Path, Any]" = WeakValueDictionary()


class RunFolder:
    """What a training writes, as it happens; with `directory` None it is kept in memory only.

    Only one training may use it at a time: `with folder.alone():`. Every method raises `InputError`
    where the folder cannot be written.
    """

    def __init__(self, directory: Path | str | None) -> None:
        # Absolute, so that a later change of the current folder moves nothing.
        self.directory = None if directory is None else user_path(directory)
        self.history = History()
        self.gradients = History(columns=GRADIENT_COLUMNS)
        self.changes = History(columns=CHANGE_COLUMNS)
        self.first_recipe = Recipe()  # what the run began with; `open` says it
        self._saved_at, self._saved = time.monotonic(), -1
        self._thread = threading.RLock()
        self._lock = (
            None if self.directory is None else FileLock(self.directory / ".lock", timeout=0)
        )

    def read_workers(self) -> int | None:
        """The number of processes that this run has been trained with; None if it is new."""
        return None if self.directory is None else read_workers(self.directory)

    def open(
        self, recipe: Recipe, data: DataSettings, workers: int, used: dict[str, str],
        columns: Sequence[str],
    ) -> Checkpoint | None:  # fmt: skip
        """Begin, or read what is there up to the latest checkpoint, which is returned.

        A training on a background thread of this process, which a notebook's cell that runs again
        would continue, is stopped first. Raises `InputError` where the folder holds another run, or
        another process trains in it.
        """
        self.first_recipe, self.history = recipe, History(columns=columns)
        if self.directory is None:
            return None
        self.first_recipe = open_directory(self.directory, recipe, data, workers, used)
        if (background := IN_BACKGROUND.get(self.directory)) is not None:
            background.leave()
        history, gradients = self.directory / "history.csv", self.directory / "gradients.csv"
        with self.alone(), self._writing():
            remove_leftovers(self.directory)
            checkpoint = latest_checkpoint(self.directory)
            if checkpoint is None:
                self.history = History(history, columns)
                self.gradients = History(gradients, GRADIENT_COLUMNS)
                return None
            self._saved = iteration = checkpoint.iteration
            write_best(self.directory, checkpoint.best)
            changes = self.directory / "changes.csv"
            if changes.exists():  # Those made just before the next meta-step belong to it.
                self.changes = History.resume_at(changes, CHANGE_COLUMNS, iteration + 1)
            self.history = History.resume(history, checkpoint.history_size)
            self.gradients = History.resume_at(gradients, GRADIENT_COLUMNS, iteration)
            return checkpoint

    def append(self, row: Row, gradients: list[Row]) -> None:
        """A meta-step, and the gradient norms along its inner loop if it was diagnosed."""
        with self._writing():
            self.gradients.append(*gradients)
            self.history.append(row)

    def append_changes(self, rows: list[Row]) -> None:
        """Changes that were made by hand."""
        with self._writing():
            if self.directory is not None and self.changes.path is None:
                self.changes.path = History(self.directory / "changes.csv", CHANGE_COLUMNS).path
            self.changes.append(*rows)

    @property
    def due(self) -> bool:
        """Whether the last checkpoint is too old to risk what came after it."""
        return time.monotonic() - self._saved_at >= CHECKPOINT_SECONDS

    def save(
        self, iteration: int, state: dict[str, State], best: list[Best], plain: dict[str, Any]
    ) -> None:
        """Write a checkpoint, unless there is no folder or the last one is of this iteration."""
        if self.directory is None or self._saved == iteration:
            return
        with self._writing():
            size = (self.directory / "history.csv").stat().st_size
            save_checkpoint(self.directory, Checkpoint(iteration, size, state, best, plain))
        self._saved_at, self._saved = time.monotonic(), iteration

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other threads and processes out; the lock is released if this process dies.

        The thread that holds it may enter again. Raises `InputError` where another one is inside.
        """
        if not self._thread.acquire(blocking=False):
            raise InputError(
                "this trainer is at work in another thread; wait for it, or stop it first"
            )
        try:
            with self._alone_in_folder():
                yield
        finally:
            self._thread.release()

    @contextmanager
    def _alone_in_folder(self) -> Iterator[None]:
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
            except (OSError, NotImplementedError) as error:
                if isinstance(error, OSError) and error.errno not in NO_LOCKS:
                    raise
                self._lock = None
                warnings.warn(
                    f"the file system of {self.directory} has no locks ({error}); the training "
                    f"goes on, but nothing keeps a second one out of this folder",
                    InputWarning,
                    stacklevel=6,
                )
        try:
            yield
        finally:
            if self._lock is not None:
                self._lock.release()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn an `OSError` into a sentence that says what it means for the run."""
        try:
            yield
        except OSError as error:
            raise InputError(
                f"the run cannot be written to {self.directory} ({error}); once it can, the same "
                f"command continues from the last checkpoint"
            ) from error
