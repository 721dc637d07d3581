"""What a command says, and how it ends: closed pipes, narrow encodings, signals."""

import os
import signal
import sys
import threading
import warnings
from contextlib import suppress
from types import FrameType
from typing import Any

from mamlpp.errors import InputWarning

STOPPED = 130  # the exit code that shells expect of a program that Ctrl-C ended
_NAMES = ("SIGTERM", "SIGHUP", "SIGBREAK")  # The last one is Ctrl-Break, on Windows.
_LIKE_CTRL_C = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
_format = warnings.formatwarning
_unheard = False


def end_on_signals() -> None:
    """Until `prepare`, end on Ctrl-C and the like: at once, since there is nothing to save yet.

    An exception instead would come out of the middle of an import, as some other error or not at
    all. A signal that is ignored, as under `nohup`, stays ignored.
    """
    for number in (signal.SIGINT, *_LIKE_CTRL_C):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    with suppress(OSError):  # Nobody may be reading.
        os.write(2, b"mamlpp: stopped\n")
    os._exit(STOPPED)


def prepare() -> None:
    """Let characters that a terminal lacks be replaced; let SIGTERM and SIGHUP act like Ctrl-C.

    An `InputWarning` is shown as one line.
    """
    warnings.formatwarning = _in_one_line
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    if threading.current_thread() is not threading.main_thread():
        return  # Only the main thread may listen.
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in _LIKE_CTRL_C:
        if signal.getsignal(number) in (signal.SIG_DFL, _end):
            signal.signal(number, _like_ctrl_c)


def _in_one_line(message: Warning | str, category: type[Warning], *where: Any, **line: Any) -> str:
    """What a user should know needs no place in the code, and no line of it."""
    if issubclass(category, InputWarning):
        return f"mamlpp: {message}\n"
    return _format(message, category, *where, **line)


def _like_ctrl_c(number: int, frame: FrameType | None) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        raise KeyboardInterrupt  # of a script's background job, which hears no Ctrl-C
    signal.raise_signal(signal.SIGINT)


def say(text: str) -> None:
    """Print; where nobody can read it any more, go on: what a command computes must not be lost."""
    global _unheard
    try:
        print(printable(text), flush=True)
    except OSError as error:
        if not _unheard:
            print(f"mamlpp: what it says cannot be written ({error}); it goes on", file=sys.stderr)
        _unheard = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def printable(text: str) -> str:
    """The text, with a question mark for each character that standard output cannot encode."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def exit_code() -> int:
    """1 where something could not be said, else 0."""
    return int(_unheard)
