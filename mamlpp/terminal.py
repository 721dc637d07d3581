"""What a command says, and how it ends: closed pipes, narrow encodings, signals."""

import os
import signal
import sys
import threading
from types import FrameType

_unheard = False


def prepare() -> None:
    """Let characters that a terminal lacks be replaced; let SIGTERM and SIGHUP act like Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        main = threading.current_thread() is threading.main_thread()
        if main and number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _like_ctrl_c)


def _like_ctrl_c(number: int, frame: FrameType | None) -> None:
    signal.raise_signal(signal.SIGINT)


def say(text: str) -> None:
    """Print; where nobody can read it any more, go on: what a command computes must not be lost."""
    global _unheard
    try:
        print(text, flush=True)
    except OSError as error:
        if not _unheard:
            print(f"mamlpp: what it says cannot be written ({error}); it goes on", file=sys.stderr)
        _unheard = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def exit_code() -> int:
    """1 where something could not be said, else 0."""
    return int(_unheard)
