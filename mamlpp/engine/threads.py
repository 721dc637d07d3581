"""One thread for torch while the kit computes; and the priority of its processes.

A second thread gains little on maps of this size, and costs much on a busy machine: the threads of
OpenMP spin while they wait for one that is not scheduled. More cores serve as more processes.
"""

import os
import threading
from contextlib import ContextDecorator, suppress
from pathlib import Path

import torch


class one_thread(ContextDecorator):
    """While it is active, torch uses one thread for an operation; then as many as before."""

    _lock, _inside, _before = threading.Lock(), 0, 1

    def __enter__(self) -> None:
        with one_thread._lock:
            if not one_thread._inside:
                one_thread._before = torch.get_num_threads()
            one_thread._inside += 1
            torch.set_num_threads(1)  # Each thread of Python has a number of its own.

    def __exit__(self, *_: object) -> None:
        with one_thread._lock:
            one_thread._inside -= 1
            torch.set_num_threads(one_thread._before)


def keep_priority() -> None:
    """Let `nice` act on this process, which has a session of its own.

    Linux shares the cores out among sessions first, and weighs only the processes within one by
    their niceness; a session has a niceness of its own, which starts at 0.
    """
    if hasattr(os, "getpriority"):
        with suppress(OSError):
            niceness = os.getpriority(os.PRIO_PROCESS, 0)
            Path("/proc/self/autogroup").write_text(str(niceness), encoding="ascii")
