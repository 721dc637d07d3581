"""Stop cleanly on Ctrl-C, on a request to end, and when the terminal is closed.

Each tool calls `listen(__name__, "…")` before its slow imports. From then on, a signal ends the
program the way `sys.exit` does, so that every `finally` block runs. The program prints one line,
kills the processes that it started, and exits with the code that shells expect: 130 for Ctrl-C.
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
SAME_PRESS = 1.0  # seconds; a further signal within them is the same press of a key
stopped_at: list[float] = []  # empty until a signal comes


def listen(name: str, line: str = "", kill_first: bool = False) -> None:
    """If `name` is "__main__", stop on a signal and print "Stopped." and then `line`.

    Child processes are killed at the end, or, with `kill_first`, before any `finally` block runs. A
    signal that is ignored when the program starts, as under `nohup`, stays ignored.
    """
    if name != "__main__":
        return

    def stop(number: int, _frame: FrameType | None) -> None:
        started = [child for child in psutil.Process().children(recursive=True) if _ours(child)]
        if not stopped_at:
            stopped_at.append(time.monotonic())
            logging.disable()  # libraries would report everything that is cut short
            atexit.register(finish, started, f"Stopped. {line}".strip())
            if kill_first:
                end(started)
            sys.exit(128 + number)
        if time.monotonic() - stopped_at[0] > SAME_PRESS:  # cleaning up takes too long
            end(started)
            os._exit(128 + number)

    for each in SIGNALS:
        if signal.getsignal(each) is not signal.SIG_IGN:
            signal.signal(each, stop)


def _ours(child: psutil.Process) -> bool:
    """Whether to kill it: not this process's own tracker of semaphores, which ends with it.

    Without it, the semaphores that are given back at the end would be an error each.
    """
    with contextlib.suppress(psutil.Error):
        tracker = any("multiprocessing.resource_tracker" in word for word in child.cmdline())
        return not (tracker and child.ppid() == os.getpid())
    return True


def finish(started: list[psutil.Process], line: str) -> None:
    """Kill the processes in `started` that still run, and print `line`."""
    end(started)
    with contextlib.suppress(OSError):  # the terminal is closed
        print(f"\n{line}", file=sys.stderr, flush=True)


def end(processes: list[psutil.Process]) -> None:
    """Kill those of `processes` that still run."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
