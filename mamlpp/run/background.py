"""Training on a thread of its own, to be paused, changed and stopped from any other.

Nothing here knows a notebook: `mamlpp.show.live` draws what happens here. Only the training thread
touches a trainer; all others leave a word, which it reads between two meta-steps.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread
from weakref import WeakValueDictionary

from mamlpp.errors import InputError
from mamlpp.run.changes import changed
from mamlpp.run.run import Run
from mamlpp.run.trainer import Trainer

# By the id of its trainer, which lives as long as what is found here: that holds it.
_KNOWN: "WeakValueDictionary[int, Background]" = WeakValueDictionary()


class Background:
    """Trains one or several trainers on a thread: in turn, or `together`, a meta-step each.

    `state` is `"ready"`, then `"running"` or `"paused"`, then `"finished"`, `"stopped"` or
    `"failed"`; from the last two `start` goes on. `listener` is called on the training thread after
    each meta-step and each change of state. All methods return at once, but for `result`; they
    raise `InputError` where they cannot act, and say why.
    """

    def __init__(self, trainers: Sequence[Trainer], together: bool = False) -> None:
        self.trainers, self.together = list(trainers), together
        self.state = "ready"
        self.error: BaseException | None = None
        self.note = ""  # what else went wrong, and did not end the training
        self.seconds = 0.0  # spent training, pauses left out
        self.listener: Callable[[], None] | None = None
        self._runs: list[Run] = []
        self._thread: Thread | None = None
        self._starting = Lock()
        self._pause, self._stop, self._wake = Event(), Event(), Event()
        self._changes: SimpleQueue[dict[str, float | None]] = SimpleQueue()

    @classmethod
    def of(cls, trainer: Trainer) -> "Background":
        """The one that has this trainer, so that all who ask share it; a new one at first."""
        return _KNOWN.setdefault(id(trainer), cls([trainer]))

    @property
    def alive(self) -> bool:
        """Whether there is a training to pause, to change or to stop."""
        return self.state in ("running", "paused")

    @property
    def wish(self) -> str:
        """What was asked for and not yet done: `"pause"`, `"stop"`, or nothing."""
        if self.alive and self._stop.is_set():
            return "stop"
        return "pause" if self.state == "running" and self._pause.is_set() else ""

    def start(self) -> None:
        """Begin, or go on after a stop or an error."""
        with self._starting:
            if self.alive:
                raise InputError("it cannot be started: it is training already")
            if self.state == "finished":
                raise InputError("it cannot be started: the training is done")
            if self._thread is not None:
                self._thread.join()  # It has said its last word, and is about to end.
            for event in (self._pause, self._stop, self._wake):
                event.clear()
            self.state, self.error, self.note = "running", None, ""
            self._thread = Thread(target=self._work, name="mamlpp training", daemon=True)
            self._thread.start()

    def pause(self) -> None:
        """Rest after this meta-step, until `resume`; in a folder, with a checkpoint."""
        self._must_be_alive("paused")
        if self._pause.is_set():
            raise InputError("it cannot be paused: it is already")
        self._pause.set()

    def resume(self) -> None:
        """Go on after a pause."""
        self._must_be_alive("resumed")
        if not self._pause.is_set():
            raise InputError("it cannot be resumed: it is not paused")
        self._pause.clear()
        self._wake.set()

    def stop(self) -> None:
        """End after this meta-step; in a folder, with a checkpoint."""
        self._must_be_alive("stopped")
        self._stop.set()
        self._wake.set()

    def change(self, **fields: float | None) -> None:
        """`Trainer.change` of each trainer, from its next meta-step on."""
        if self.state == "finished":
            raise InputError("nothing can be changed: the training is done")
        for trainer in self.trainers:
            changed(trainer.recipe, fields)
        self._changes.put(fields)
        self._wake.set()

    def result(self) -> list[Run]:
        """Wait for the end, and return the runs; starts and resumes what only waits for that.

        After a stop these are the runs so far. Raises what the training raised. Interrupting it
        ends the waiting, not the training.
        """
        if self.state == "ready":
            self.start()
        if self.alive and self._pause.is_set():
            self.resume()
        while self._thread is not None and self._thread.is_alive():
            self._thread.join(0.2)  # In short waits, so that an interrupt gets through everywhere.
        if self.error is not None:
            raise self.error
        return self._runs

    def _must_be_alive(self, what: str) -> None:
        if not self.alive:
            why = "has not begun" if self.state == "ready" else "is over"
            raise InputError(f"it cannot be {what}: the training {why}")

    # On the training thread

    def _work(self) -> None:
        try:
            with ExitStack() as stack:
                for trainer in self.trainers:
                    stack.enter_context(trainer.alone())
                self._tell()
                self._train()
                self._runs = [trainer.result() for trainer in self.trainers]
            done = all(trainer.done for trainer in self.trainers)
            self.state = "finished" if done else "stopped"
        except BaseException as error:  # It shall be said by `result`, on another thread.
            self.error, self.state = error, "failed"
        self._tell()

    def _train(self) -> None:
        while (trainer := self._next()) is not None:
            self._rest()
            if self._stop.is_set():
                break
            start = time.monotonic()
            trainer.advance()
            self.seconds += time.monotonic() - start
            self._tell()
        for trainer in self.trainers:
            trainer.save()

    def _next(self) -> Trainer | None:
        waiting = [trainer for trainer in self.trainers if not trainer.done]
        if not self.together:
            return next(iter(waiting), None)
        return min(waiting, key=lambda trainer: trainer.iteration, default=None)

    def _rest(self) -> None:
        """Make the changes that were asked for, also in a pause."""
        self._make_changes()
        if not self._pause.is_set() or self._stop.is_set():
            return
        for trainer in self.trainers:
            trainer.save()
        self.state = "paused"
        while self._pause.is_set() and not self._stop.is_set():
            self._tell()
            self._wake.wait()
            self._wake.clear()
            self._make_changes()
        self.state = "running"

    def _make_changes(self) -> None:
        while True:
            try:
                fields = self._changes.get_nowait()
            except Empty:
                return
            try:
                for trainer in self.trainers:
                    trainer.change(**fields)
            except InputError as error:
                self.note = str(error)

    def _tell(self) -> None:
        try:
            if self.listener is not None:
                self.listener()
        except Exception as error:  # A picture that fails is no reason to lose a run.
            self.note = f"the picture could not be drawn ({type(error).__name__}: {error})"
