"""Time contenders in turn: each runs in its own worker process and takes a step when asked.

So a busy machine slows all of them equally, and the memory of each can be measured.
"""

import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import torch

Step = Callable[[], object]
Build = Callable[..., Step]  # picklable, so defined at the top level of a module

PAUSE = 0.3  # seconds before a turn, until the previous contender's threads stop spinning


class ContenderLost(Exception):
    """A contender's worker process has ended: it printed an error, or ran out of memory."""


class Contender:
    """Worker processes that take steps when asked: `processes` of them, with `threads` each.

    Each calls `build(*arguments)` once to get its step. They start in the background, so that
    several contenders start in parallel; call `wait_until_ready` before the first turn.
    """

    def __init__(
        self, name: str, build: Build, *arguments: Any, threads: int = 1, processes: int = 1
    ) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self.pipes: list[Connection] = []
        for _ in range(processes):
            ours, theirs = context.Pipe()
            options = theirs, threads, build, arguments
            context.Process(target=_worker_main, args=options, daemon=True).start()
            theirs.close()  # So that reading from `ours` fails if the process dies.
            self.pipes.append(ours)

    def wait_until_ready(self) -> None:
        """Wait until all its processes can take a step; raises `ContenderLost`."""
        for pipe in self.pipes:
            self._receive(pipe)

    def take_turn(self) -> float:
        """One step in all processes at once: seconds of the slowest; raises `ContenderLost`."""
        time.sleep(PAUSE)
        return max(self._request(True))

    def stop(self) -> float | None:
        """End its processes; return their peak memory in MB above that before the first step.

        Summed over processes, their children included; None if the system does not report it.
        """
        memory = self._request(False)
        return None if None in memory else sum(memory)

    def _request(self, another_step: bool) -> list[Any]:
        for pipe in self.pipes:
            pipe.send(another_step)
        return [self._receive(pipe) for pipe in self.pipes]

    def _receive(self, pipe: Connection) -> Any:
        try:
            return pipe.recv()
        except (EOFError, OSError) as error:
            raise ContenderLost(self.name) from error


def race(
    contenders: Sequence[Contender], rounds: int
) -> tuple[dict[str, list[float]], dict[str, float | None]]:
    """Seconds of every turn, and peak memory in MB; both by the contender's name.

    One warm-up round comes first and is not returned. A contender whose process ends early is
    reported on standard error and left out.
    """
    seconds: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    memory: dict[str, float | None] = {}
    running = _for_each(contenders, Contender.wait_until_ready)
    for _ in range(rounds + 1):
        running = _for_each(running, lambda each: seconds[each.name].append(each.take_turn()))
    _for_each(running, lambda each: memory.update({each.name: each.stop()}))
    return {name: seconds[name][1:] for name in memory}, memory


def _for_each(contenders: Sequence[Contender], act: Callable[[Contender], None]) -> list[Contender]:
    """Call `act` with each contender; return those whose processes are still running."""
    running = []
    for contender in contenders:
        try:
            act(contender)
            running.append(contender)
        except ContenderLost:
            print(f"{contender.name}: its process has ended; left out", file=sys.stderr)
    return running


def _worker_main(pipe: Connection, threads: int, build: Build, arguments: tuple[Any, ...]) -> None:
    """What a contender's worker process runs."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    with open(os.devnull, "w") as devnull, redirect_stdout(devnull):
        step = build(*arguments)
        memory = PeakMemory()
        pipe.send("ready")
        while pipe.recv():
            start = time.perf_counter()
            step()
            pipe.send(time.perf_counter() - start)
    pipe.send(memory.megabytes())


class PeakMemory:
    """Peak memory of this process and its children from now on (Linux only)."""

    def __init__(self) -> None:
        this = psutil.Process()
        self.processes = [this, *this.children(recursive=True)]
        self.idle = sum(process.memory_info().rss for process in self.processes)
        self.known = all(_reset_peak(process.pid) for process in self.processes)

    def megabytes(self) -> float | None:
        """Sum of the peaks above the memory at the start, in MB; None if it is unknown."""
        if not self.known:
            return None
        return (sum(_peak(process.pid) for process in self.processes) - self.idle) / 1e6


def _reset_peak(pid: int) -> bool:
    """Reset the peak that the kernel records for a process; whether that is possible."""
    try:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _peak(pid: int) -> int:
    """Peak resident memory in bytes, recorded by the kernel, so that no short peak is missed."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])
