"""What may end a command early: Ctrl-C, a request to end, a terminal that is closed.

Each tool calls `listen(__name__, "…")` before it imports anything that takes long. From then on a
signal unwinds the program as `sys.exit` does, so that every `finally` is reached, and ends it with
one line and the exit code that shells expect: 130 for Ctrl-C. No process that it started is left.
"""

import atexit
import contextlib
import logging
import os
import signal
import sys
import time
from types import FrameType

import psutil

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # the last one is Ctrl-Break on Windows
SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
SAME_PRESS = 1.0  # seconds in which further signals count as the first one
stopped_at: list[float] = []  # empty until a signal comes


def listen(name: str, line: str = "", kill_first: bool = False) -> None:
    """Stop at a signal, and then say "Stopped." and `line`, where `name` is the program's.

    What it has started is killed in the end, or before any `finally` is reached (`kill_first`). A
    signal that whoever started the program told it to ignore, as `nohup` does, stays ignored.
    """
    if name != "__main__":
        return

    def stop(number: int, _frame: FrameType | None) -> None:
        started = psutil.Process().children(recursive=True)
        if not stopped_at:
            stopped_at.append(time.monotonic())
            logging.disable()  # libraries would tell of everything that is cut short
            atexit.register(finish, started, f"Stopped. {line}".strip())
            if kill_first:
                end(started)
            sys.exit(128 + number)
        if time.monotonic() - stopped_at[0] > SAME_PRESS:  # it hangs while it cleans up
            end(started)
            os._exit(128 + number)

    for each in SIGNALS:
        if signal.getsignal(each) is not signal.SIG_IGN:
            signal.signal(each, stop)


def finish(started: list[psutil.Process], line: str) -> None:
    """End what is left of the processes `started`, and print `line`."""
    end(started)
    with contextlib.suppress(OSError):  # the terminal is gone
        print(f"\n{line}", file=sys.stderr, flush=True)


def end(processes: list[psutil.Process]) -> None:
    """Kill those of `processes` that still run."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
