"""Contenders take turns: each lives in a process of its own and takes a meta-step when told to.

So a machine that is busy with something else slows all of them alike, and memory is known of each.
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
Build = Callable[..., Step]  # picklable: a function at the top of a module

PAUSE = 0.3  # s between turns, in which the threads of the one before cease to spin


class Lost(Exception):
    """A contender's process has ended, by an error that it printed or killed for want of memory."""


class Player:
    """A contender: `processes` of them at once, with `threads` each, that call what `build` gives.

    It is starting when it is made, so that several start side by side; `wait` until it is ready.
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
            context.Process(target=_play, args=options, daemon=True).start()
            theirs.close()  # Ours alone stays open, so that a process that dies is noticed.
            self.pipes.append(ours)

    def wait(self) -> None:
        """Until it can begin; raises `Lost`."""
        for pipe in self.pipes:
            self._hear(pipe)

    def turn(self) -> float:
        """One step of all its processes at the same time: seconds of the slowest; raises `Lost`."""
        time.sleep(PAUSE)
        return max(self._ask(True))

    def leave(self) -> float | None:
        """End it: MB of memory at its peak above what it held before its first step.

        Of several processes the sum, children included; None where the system does not tell.
        """
        memory = self._ask(False)
        return None if None in memory else sum(memory)

    def _ask(self, more: bool) -> list[Any]:
        for pipe in self.pipes:
            pipe.send(more)
        return [self._hear(pipe) for pipe in self.pipes]

    def _hear(self, pipe: Connection) -> Any:
        try:
            return pipe.recv()
        except (EOFError, OSError) as error:
            raise Lost(self.name) from error


def race(
    players: Sequence[Player], rounds: int
) -> tuple[dict[str, list[float]], dict[str, float | None]]:
    """Seconds of every turn, after one that does not count, and memory, both by contender's name.

    A contender that is lost on the way is reported on standard error and left out.
    """
    seconds: dict[str, list[float]] = {player.name: [] for player in players}
    memory: dict[str, float | None] = {}
    running = _go_on(players, Player.wait)
    for _ in range(rounds + 1):
        running = _go_on(running, lambda player: seconds[player.name].append(player.turn()))
    _go_on(running, lambda player: memory.update({player.name: player.leave()}))
    return {name: seconds[name][1:] for name in memory}, memory


def _go_on(players: Sequence[Player], act: Callable[[Player], None]) -> list[Player]:
    """Let each of them act; those that are still there."""
    there = []
    for player in players:
        try:
            act(player)
            there.append(player)
        except Lost:
            print(f"{player.name}: its process has ended; left out", file=sys.stderr)
    return there


def _play(pipe: Connection, threads: int, build: Build, arguments: tuple[Any, ...]) -> None:
    """The life of a contender's process."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        step = build(*arguments)
        memory = Memory()
        pipe.send("ready")
        while pipe.recv():
            start = time.perf_counter()
            step()
            pipe.send(time.perf_counter() - start)
    pipe.send(memory.above())


class Memory:
    """How much this process and its children come to hold, from now on (on Linux)."""

    def __init__(self) -> None:
        here = psutil.Process()
        self.processes = [here, *here.children(recursive=True)]
        self.idle = sum(process.memory_info().rss for process in self.processes)
        self.known = all(_forget_peak(process.pid) for process in self.processes)

    def above(self) -> float | None:
        """MB, the peak of each summed, above what they held; None where it is not known."""
        if not self.known:
            return None
        return (sum(_peak(process.pid) for process in self.processes) - self.idle) / 1e6


def _forget_peak(pid: int) -> bool:
    """Let the kernel's peak of a process begin anew; whether there is such a thing."""
    try:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _peak(pid: int) -> int:
    """Bytes: the kernel's own record, which no short peak escapes."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])
