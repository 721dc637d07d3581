"""Ctrl-C while a training runs: it ends the current meta-step, then the training."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")


@contextmanager
def interrupts() -> Iterator[list[int]]:
    """A list that is no longer empty after Ctrl-C; a second Ctrl-C does what it did before.

    The same for each signal that this process has learned to end on, as the command has.
    """
    pressed: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield pressed  # Only the main thread may listen.
        return
    numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    before = {
        number: handler
        for number in numbers
        if callable(handler := signal.getsignal(number))  # A process may ignore one.
    }

    def note(number: int, _: object) -> None:
        pressed.append(number)
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, note)
    try:
        yield pressed
    finally:
        restore()
