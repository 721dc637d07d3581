"""Kernels for submissions: forked from one warm process, behind the wall, or started plainly.

On Linux `classroom/inside/template.py` is started once and forks a kernel in a few hundredths of a
second. On other systems each kernel is a new process with the audit hook alone.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import zmq
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner

INSIDE = Path(__file__).resolve().parent / "inside"
END = 10.0  # seconds that a kernel may take to end once it was killed
LARGEST_MESSAGE = 200_000_000  # bytes; a kernel that sends more is not listened to any more


class Forked:
    """A kernel that the template forked, with the face of a `subprocess.Popen`."""

    stdin = stdout = stderr = None

    def __init__(self, kernel: int, guard: int):
        self.pid, self.guard = kernel, psutil.Process(guard)

    def poll(self) -> int | None:
        """Return None while it runs, afterwards a number."""
        return None if self.guard.is_running() else -signal.SIGKILL

    def wait(self, timeout: float = END) -> int:
        """Wait for its end."""
        with contextlib.suppress(psutil.TimeoutExpired):
            self.guard.wait(timeout)
        return -signal.SIGKILL

    def send_signal(self, number: int) -> None:
        """Send a signal to the kernel, whose end is the end of all that it started."""
        if self.guard.is_running():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End the kernel."""
        self.send_signal(signal.SIGKILL)

    terminate = kill


@dataclass(frozen=True)
class Means:
    """What the system can contain: Landlock's version; whether it has namespaces, and filters."""

    landlock: int = 0
    namespaces: bool = False
    filters: bool = False

    def left_open(self) -> str:
        """Return what is not contained, in words; empty if all of it is."""
        if self.namespaces:
            return ""
        open_ = [] if self.landlock else ["your files"]
        if not self.filters:
            open_ += ["the network" if self.landlock < 4 else "UDP"]
        open_ += [] if self.landlock >= 6 else ["your other programs"]
        return ", ".join(open_)


class Template:
    """The warm process; `fork` may be called by several threads. Ends with the context."""

    def __init__(self, environment: dict[str, str], folder: Path):
        self.folder = folder  # empty, for trying
        self.lock = threading.Lock()
        self.process = subprocess.Popen(
            [sys.executable, str(INSIDE / "template.py"), str(folder)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.means = Means(**self.read())

    def read(self) -> dict[str, Any]:
        """Return its next answer."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            _, errors = self.process.communicate()
            raise RuntimeError(f"the template of the kernels ended: {errors.strip()[-500:]}")
        return json.loads(line)

    def fork(self, job: dict[str, Any]) -> Forked:
        """Return a new kernel for `job`."""
        assert self.process.stdin is not None
        job = job | {"namespaces": self.means.namespaces}
        with self.lock:
            print(json.dumps(job), file=self.process.stdin, flush=True)
            found = self.read()
        if "kernel" not in found:
            raise RuntimeError(f"no kernel started: {found.get('error', 'it ended at once')}")
        return Forked(found["kernel"], found["guard"])

    def __enter__(self) -> "Template":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


class Provisioner(LocalProvisioner):
    """Starts a kernel by `fork`, or, where that is None, as a new process."""

    template: Template | None = None
    job: dict[str, Any]

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        """Start the kernel."""
        if self.template is None:
            return await super().launch_kernel(cmd, **kwargs)
        kernel = await asyncio.to_thread(self.template.fork, self.job)
        self.process, self.pid = kernel, kernel.pid  # type: ignore[assignment]
        return self.connection_info


class Manager(AsyncKernelManager):
    """A manager whose client reads no message that would fill this process's memory."""

    def client(self, **options: Any) -> Any:
        """Return a client of the kernel."""
        made = super().client(**options)
        made.context.setsockopt(zmq.MAXMSGSIZE, LARGEST_MESSAGE)
        return made


def manager(job: dict[str, Any], template: Template | None) -> AsyncKernelManager:
    """Return a manager of the kernel for `job`, which it has not started yet."""
    made = Manager(kernel_name="python3", connection_file=job["connection"])
    if template is not None:
        made.transport, made.ip = "ipc", job["sockets"]
    made.provisioner = Provisioner(
        kernel_id="submission", kernel_spec=made.kernel_spec, parent=made
    )
    made.provisioner.template, made.provisioner.job = template, job
    return made


def processes(kernel: Any) -> list[psutil.Process]:
    """Return the kernel's process and all that it started."""
    root = getattr(kernel, "guard", None)
    try:
        top = root or psutil.Process(kernel.pid)
        below = top.children(recursive=True)
    except (psutil.Error, AttributeError):
        return []
    return below if root else [top, *below]
