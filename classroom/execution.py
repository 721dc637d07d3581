"""Run a submission's cells, one after the other, and go on after failures.

What runs for too long is interrupted. Where the kernel has died, does not answer, or has used up
the time of the whole notebook, the cells that are left count as failed. Beside it a watch looks
twice a second at what the submission uses, and ends it where it breaks a limit.
"""

import asyncio
import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from nbformat.v4 import new_output
from traitlets import Any as AnyTrait

from classroom.kernels import processes
from classroom.sets import Limits

POLL_SECONDS = 0.5
PATIENCE = 3  # times the limit, at most, for a cell that waits for its turn on a busy machine
MOST_OUTPUT = 200_000  # characters of one cell's output
MOST_FILES = 20_000  # in a submission's folder


class Run(NotebookClient):
    """Execute a notebook within `limits`; `stopped` says why it ended early, if it did."""

    limits = AnyTrait()

    def __init__(self, notebook: NotebookNode, manager: AsyncKernelManager, limits: Limits):
        super().__init__(
            notebook,
            km=manager,
            limits=limits,
            timeout=limits.seconds_per_cell,
            allow_errors=True,
            interrupt_on_timeout=True,
            raise_on_iopub_timeout=True,
            iopub_timeout=max(5, limits.seconds_per_cell // 2),  # to answer an interruption
            shutdown_kernel="immediate",
            store_widget_state=False,
        )
        self.owns_km, self.own = True, manager
        self.timeout_func = self.seconds_left
        self.on_cell_executed = keep_error
        self.ends = time.monotonic() + limits.seconds
        self.stopped = ""
        self.kept: Counter[int] = Counter()

    def seconds_left(self, cell: NotebookNode) -> int:
        """Return how many seconds the next cell may take: at least one."""
        seconds = int(max(1, min(self.limits.seconds_per_cell, self.ends - time.monotonic())))
        text = f"stopped after {seconds} s"
        error = {"ename": "CellTimeoutError", "evalue": text, "traceback": [text.capitalize()]}
        self.error_on_timeout = error
        return seconds

    async def async_execute_cell(
        self, cell: NotebookNode, cell_index: int, *arguments: Any, **options: Any
    ) -> NotebookNode:
        """Run `cell`, or mark it as failed if the notebook has been stopped."""
        if not self.stopped and time.monotonic() > self.ends:
            self.stopped = f"the notebook had used up its {self.limits.seconds} s"
        if not self.stopped:
            self.began = time.monotonic(), self.queued()
            try:
                return await super().async_execute_cell(cell, cell_index, *arguments, **options)
            except DeadKernelError:
                self.stopped = "its Python process had died"
            except CellTimeoutError:
                self.stopped = "its Python process could not be interrupted"
        if cell.cell_type == "code":
            text = f"not run to its end, because {self.stopped}"
            cell.outputs.append(new_output("error", ename="NotRun", evalue=text, traceback=[text]))
        return cell

    def queued(self) -> float:
        """Return the seconds that the kernel has waited for its turn on a busy machine.

        0 where the system does not tell.
        """
        pid = getattr(self.own.provisioner, "pid", None)
        try:
            text = Path(f"/proc/{pid}/schedstat").read_text(encoding="utf-8")
            return int(text.split()[1]) / 1e9
        except (OSError, ValueError, IndexError):
            return 0.0

    async def _async_handle_timeout(self, timeout: int, cell: Any = None) -> Any:
        """Interrupt the cell, unless it was only waiting for its turn: then as long again."""
        waited, queued = time.monotonic() - self.began[0], self.queued() - self.began[1]
        patient = waited < PATIENCE * self.limits.seconds_per_cell and time.monotonic() < self.ends
        if patient and queued > waited / 2:
            return None
        return await super()._async_handle_timeout(timeout, cell)

    def handle_comm_msg(self, outs: Any, msg: Any, cell_index: int) -> None:
        """Pass over what widgets say to each other: nobody sees them, and it may be without end."""

    def output(self, outs: Any, msg: Any, display_id: Any, cell_index: int) -> Any:
        """Keep the output of a cell up to a limit, and errors in a shortened form."""
        if msg["msg_type"] == "error":
            msg["content"] = shortened(msg["content"])
            return super().output(outs, msg, display_id, cell_index)
        size = sum(len(str(value)) for value in msg["content"].values())
        full = self.kept[cell_index] > MOST_OUTPUT
        self.kept[cell_index] += size
        if self.kept[cell_index] <= MOST_OUTPUT:
            return super().output(outs, msg, display_id, cell_index)
        return None if full else outs.append(new_output("stream", text="… and more, not kept\n"))


def shortened(error: dict[str, Any]) -> dict[str, Any]:
    """Return an error message that is short enough to read, whatever the submission put into it."""
    traceback = [str(line)[:5000] for line in error.get("traceback") or []]
    traceback = traceback if len(traceback) < 20 else [*traceback[:10], "…", *traceback[-8:]]
    text = str(error.get("evalue", ""))[:2000]
    return {"ename": str(error.get("ename", "Error"))[:200], "evalue": text, "traceback": traceback}


def keep_error(cell: NotebookNode, cell_index: int, execute_reply: dict[str, Any]) -> None:
    """Add the error that ended a cell to its outputs where the kernel did not show it."""
    content = execute_reply.get("content", {})
    if content.get("status") != "error":
        return
    error = shortened(content)
    shown = [each.ename for each in cell.outputs if each.output_type == "error"]
    if error["ename"] not in shown:
        cell.outputs.append(new_output("error", **error))


def run(
    notebook: NotebookNode,
    manager: AsyncKernelManager,
    limits: Limits,
    folder: Path,
    environment: dict[str, str],
    interrupted: Callable[[], bool],
) -> tuple[str, float]:
    """Run all cells of `notebook` in `folder`; return the limit that it broke, and its CPU seconds.

    The outputs go into `notebook`. `environment` is for a kernel that is not forked; `interrupted`
    says whether the grader is to end.
    """
    client = Run(notebook, manager, limits)
    client.resources = {"metadata": {"path": str(folder)}}
    watch = Watch(limits, folder.parent, interrupted)

    async def both() -> None:
        watching = asyncio.create_task(watch.over(manager))
        try:
            await client.async_execute(env=environment)
        finally:
            watch.done = True
            await watching

    asyncio.run(both())
    return watch.excess, watch.cpu_seconds


class Watch:
    """Looks at what a kernel uses, and ends it where it breaks a limit; `excess` says which."""

    def __init__(self, limits: Limits, folder: Path, interrupted: Callable[[], bool]):
        self.limits, self.folder, self.interrupted = limits, folder, interrupted
        self.excess, self.done, self.cpu_seconds = "", False, 0.0

    async def over(self, manager: AsyncKernelManager) -> None:
        """Watch until it is done."""
        while not self.done:
            kernel = getattr(manager.provisioner, "process", None)
            if kernel is not None and kernel.poll() is None:
                running = processes(kernel)
                self.cpu_seconds = max(self.cpu_seconds, sum(map(seconds, running)))
                self.excess = self.excess or self.too_much(running)
                if self.excess or self.interrupted():
                    kernel.kill()
            await asyncio.sleep(POLL_SECONDS if kernel is not None else POLL_SECONDS / 10)

    def too_much(self, running: list[psutil.Process]) -> str:
        """Return which limit is broken, in words; empty if none."""
        if len(running) > self.limits.processes:
            return f"it was stopped when it ran more than {self.limits.processes} processes"
        if sum(map(memory, running)) > self.limits.bytes:
            amount = f"{self.limits.bytes / 1e9:g} GB of memory"
            return f"it was stopped when it used more than {amount}"
        size, files = contents(self.folder)
        size += sum(map(deleted, running))
        if size > self.limits.disk or files > MOST_FILES:
            amount = f"{self.limits.disk // 1_000_000} MB or {MOST_FILES} files"
            return f"it was stopped when it wrote more than {amount}"
        return ""


def memory(process: psutil.Process) -> int:
    """Return the bytes of memory that `process` uses, 0 if it has ended."""
    try:
        return process.memory_info().rss
    except psutil.Error:
        return 0


def seconds(process: psutil.Process) -> float:
    """Return the processor seconds of `process`, 0 if it has ended."""
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return times.user + times.system + times.children_user + times.children_system


def deleted(process: psutil.Process) -> int:
    """Return the bytes of the files that `process` holds open and that are in no folder any more.

    0 where the system does not tell.
    """
    size = 0
    with contextlib.suppress(OSError):
        for opened in Path(f"/proc/{process.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if opened.readlink().name.endswith("(deleted)"):
                    size += opened.stat().st_blocks * 512
    return size


def contents(folder: Path) -> tuple[int, int]:
    """Return the bytes and the number of files below `folder`."""
    size = files = 0
    for name, _, found in os.walk(folder):
        files += len(found)
        for file in found:
            with contextlib.suppress(OSError):
                size += Path(name, file).lstat().st_blocks * 512
        if files > MOST_FILES:
            break
    return size, files
