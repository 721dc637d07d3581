"""Training on a background thread that any other thread can pause, change and stop.

This module is independent of notebooks: `mamlpp.show.live` displays what happens here. Only the
training thread touches a trainer. Other threads leave requests, which it reads between meta-steps.

A process trains one at a time in the background: one that starts stops the one before, and waits
until that is saved. A cell that is run again thus leaves no training behind.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread, current_thread
from weakref import WeakSet, WeakValueDictionary

from mamlpp.errors import InputError, InputWarning
from mamlpp.run.changes import changed
from mamlpp.run.run import Run
from mamlpp.run.run_folder import IN_BACKGROUND
from mamlpp.run.trainer import Trainer

# Keyed by id(trainer). The id stays valid because each `Background` keeps its trainer alive.
_INSTANCES: "WeakValueDictionary[int, Background]" = WeakValueDictionary()
_STARTED: "WeakSet[Background]" = WeakSet()
_START_LOCK = Lock()


class Background:
    """Train one or more trainers on one thread: one after the other, or `interleaved` by meta-step.

    `state` is `"ready"`, then `"running"` or `"paused"`, then `"finished"`, `"stopped"` or
    `"failed"`; `start` continues after the last two. `listener` is called on the training thread
    after each meta-step and each change of state. All methods but `result` return at once, and
    raise `InputError` if the request is not possible in the current state.
    """

    def __init__(self, trainers: Sequence[Trainer], interleaved: bool = False) -> None:
        self.trainers, self.interleaved = list(trainers), interleaved
        self.state = "ready"
        self.error: BaseException | None = None
        self.warning = ""  # the last problem that did not end the training
        self.displaced = False  # whether another training, which was started, stopped this one
        self.left = False  # whether another trainer continues this training from its folder
        self.seconds = 0.0  # time spent training, without pauses
        self.listener: Callable[[], None] | None = None
        self._runs: list[Run] = []
        self._thread: Thread | None = None
        self._pause, self._stop, self._wake = Event(), Event(), Event()
        self._changes: SimpleQueue[dict[str, float | None]] = SimpleQueue()

    @classmethod
    def for_trainer(cls, trainer: Trainer) -> "Background":
        """Return the instance that trains this trainer, shared by all callers; create it once."""
        return _INSTANCES.setdefault(id(trainer), cls([trainer]))

    @property
    def active(self) -> bool:
        """Whether the training is running or paused."""
        return self.state in ("running", "paused")

    @property
    def pending_request(self) -> str:
        """The request that has not been carried out yet: `"pause"`, `"stop"` or `""`."""
        if self.active and self._stop.is_set():
            return "stop"
        return "pause" if self.state == "running" and self._pause.is_set() else ""

    def start(self) -> None:
        """Start, or continue after a stop or an error; first stop what else trains in a background.

        Its last meta-step is waited for on the training thread.
        """
        with _START_LOCK:
            if self.active:
                raise InputError("cannot start: the training is already running")
            if self.state == "finished":
                raise InputError("cannot start: the training is finished")
            if self.left:
                raise InputError("cannot start: another trainer has taken over the folder")
            if self._thread is not None:
                self._thread.join()  # It has reported its final state and is about to end.
            for event in (self._pause, self._stop, self._wake):
                event.clear()
            before = [thread for each in _STARTED - {self} if (thread := each.displace())]
            self.state, self.error, self.warning, self.displaced = "running", None, "", False
            self._thread = Thread(
                target=self._run, args=(before,), name="mamlpp training", daemon=True
            )
            _STARTED.add(self)
            self._thread.start()

    def pause(self) -> None:
        """Pause after this meta-step, until `resume`; save a checkpoint if there is a folder."""
        self._require_active("pause")
        if self._pause.is_set():
            raise InputError("cannot pause: the training is already paused")
        self._pause.set()

    def resume(self) -> None:
        """Continue after a pause."""
        self._require_active("resume")
        if not self._pause.is_set():
            raise InputError("cannot resume: the training is not paused")
        self._pause.clear()
        self._wake.set()

    def stop(self) -> None:
        """Stop after this meta-step; save a checkpoint if there is a folder."""
        self._require_active("stop")
        self._stop.set()
        self._wake.set()

    def displace(self) -> Thread | None:
        """Stop because another training takes over; the thread that ends then, if one is active."""
        thread = self._thread if self.active else None
        if thread is not None:
            self.displaced = True
            self._stop.set()
            self._wake.set()
        return thread

    def leave(self) -> None:
        """Stop for good, if it runs, since another trainer takes over the folder; wait for that."""
        thread = self.displace()
        if thread is not None and thread is not current_thread():
            self.left = True
            thread.join()

    def change(self, **fields: float | None) -> None:
        """Apply `Trainer.change` to each trainer before its next meta-step."""
        if self.state == "finished":
            raise InputError("cannot change the recipe: the training is finished")
        for trainer in self.trainers:
            changed(trainer.recipe, fields)
        self._changes.put(fields)
        self._wake.set()

    def result(self) -> list[Run]:
        """Wait for the end and return the runs; first start or resume a waiting training.

        After a stop, return the runs so far, with a warning where another training caused it.
        Raises the exception that ended a failed training. An interrupt ends the wait, not the
        training.
        """
        if self.state == "ready":
            self.start()
        if self.active and self._pause.is_set():
            self.resume()
        while self._thread is not None and self._thread.is_alive():
            self._thread.join(0.2)  # A short timeout lets an interrupt through on every platform.
        if self.error is not None:
            raise self.error
        if self.displaced and self.state == "stopped":
            warnings.warn(
                "this training was stopped before its end, because another one was started; the "
                "result is the run so far",
                InputWarning,
                stacklevel=2,
            )
        return self._runs

    def _require_active(self, action: str) -> None:
        if not self.active:
            reason = "has not started" if self.state == "ready" else "is over"
            raise InputError(f"cannot {action}: the training {reason}")

    # On the training thread

    def _run(self, before: Sequence[Thread]) -> None:
        for thread in before:
            thread.join()
        try:
            with ExitStack() as stack:
                for trainer in self.trainers:
                    stack.enter_context(trainer.alone())
                    if trainer.directory is not None:
                        IN_BACKGROUND[trainer.directory] = self
                self._notify()
                self._train()
                self._runs = [trainer.result() for trainer in self.trainers]
            done = all(trainer.done for trainer in self.trainers)
            for trainer in self.trainers if done else ():
                trainer.engine.dismiss()
            self.state = "finished" if done else "stopped"
        except BaseException as error:  # `result` raises it again on the caller's thread.
            self.error, self.state = error, "failed"
        self._notify()

    def _train(self) -> None:
        while (trainer := self._next_trainer()) is not None:
            self._handle_requests()
            if self._stop.is_set():
                break
            start = time.monotonic()
            trainer.advance()
            self.seconds += time.monotonic() - start
            self._notify()
        for trainer in self.trainers:
            trainer.save()

    def _next_trainer(self) -> Trainer | None:
        unfinished = [trainer for trainer in self.trainers if not trainer.done]
        if not self.interleaved:
            return next(iter(unfinished), None)
        return min(unfinished, key=lambda trainer: trainer.iteration, default=None)

    def _handle_requests(self) -> None:
        """Apply pending changes; if a pause was requested, wait here and keep applying them."""
        self._apply_changes()
        if not self._pause.is_set() or self._stop.is_set():
            return
        for trainer in self.trainers:
            trainer.save()
        self.state = "paused"
        while self._pause.is_set() and not self._stop.is_set():
            self._notify()
            self._wake.wait()
            self._wake.clear()
            self._apply_changes()
        self.state = "running"

    def _apply_changes(self) -> None:
        while True:
            try:
                fields = self._changes.get_nowait()
            except Empty:
                return
            try:
                for trainer in self.trainers:
                    trainer.change(**fields)
            except InputError as error:
                self.warning = str(error)

    def _notify(self) -> None:
        try:
            if self.listener is not None:
                self.listener()
        except Exception as error:  # A failed display must not cost a run.
            self.warning = f"the display could not be updated ({type(error).__name__}: {error})"
