"""A process that has imported everything a submission needs, and forks a kernel for each.

`classroom.kernels` starts it once for a class and writes requests to it, one JSON line each. It
knows nothing of the class: no test, no answer, no secret is in the memory that a kernel inherits.
Each kernel is the child of a guard, which ends with it, and takes along what it left running.
"""

import contextlib
import gc
import importlib
import json
import os
import runpy
import signal
import sys
import traceback

import calls
import psutil
import wall

HERE = os.path.dirname(os.path.realpath(__file__))
NEEDED = (
    *("IPython.core.completer", "ipykernel.ipkernel", "ipykernel.kernelapp", "debugpy"),
    *("matplotlib.pyplot", "matplotlib.font_manager", "seaborn", "pandas"),
    *("mamlpp", "mamlpp.checks", "mamlpp.show.plots", "mamlpp.run.evaluation", "torch.func"),
)


def main() -> None:
    """Import what kernels need, say what this system can contain, and fork on request."""
    for name in NEEDED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    can = {"landlock": wall.landlock_version(), "namespaces": wall.has_namespaces(sys.argv[1])}
    can["filters"] = calls.has_filters()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # guards need nobody to wait for them
    gc.collect()
    gc.freeze()
    answer(can)
    for line in sys.stdin:
        answer(start(json.loads(line)))


def answer(words: dict) -> None:
    """Write one line to whoever asks."""
    print(json.dumps(words), flush=True)


def start(job: dict) -> dict:
    """Fork a guard with a kernel in it; return the process numbers of both."""
    reading, writing = os.pipe()
    guard = os.fork()
    if guard == 0:
        try:
            os.close(reading)
            watch_over(job, writing)
        except BaseException:
            os.write(writing, json.dumps({"error": traceback.format_exc()[-500:]}).encode())
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        return {"guard": guard} | json.loads(pipe.read() or "{}")


def watch_over(job: dict, pipe: int) -> None:
    """Be the guard: start the kernel, wait for its end, and end what it leaves behind."""
    wall.end_with_parent()
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    wall.adopt_orphans()
    if job["namespaces"]:
        wall.leave_namespaces()
        wall.end_with_parent()
    kernel = os.fork()
    if kernel == 0:
        os.close(pipe)
        be_kernel(job)
    os.write(pipe, json.dumps({"kernel": kernel}).encode())
    os.close(pipe)
    for number in (0, 1):
        os.close(number)
    os.waitpid(kernel, 0)
    while left := psutil.Process().children(recursive=True):
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, 0)


def be_kernel(job: dict) -> None:
    """Become the kernel of one submission, behind the wall; never returns."""
    try:
        wall.end_with_parent()
        nothing = os.open(os.devnull, os.O_RDWR)
        errors = os.open(job["errors"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for number, opened in enumerate((nothing, nothing, errors)):
            os.dup2(opened, number)
        os.closerange(3, 4096)
        sys.stdin, sys.stdout = os.fdopen(0), os.fdopen(1, "w")
        os.environ.clear()
        os.environ.update(job["environment"])
        os.chdir(job["write"][0])
        enclose(job)
        serve(job)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def enclose(job: dict) -> None:
    """Put the wall around this process."""
    read = wall.readable(job["read"])
    here = os.getcwd()
    if job["namespaces"]:
        wall.enter_root(job["root"], read, job["write"])
        wall.open_loopback()
    wall.limit(job["bytes"], job["disk"], job["processes"] if job["namespaces"] else None)
    wall.drop_privileges()
    wall.restrict(read, job["write"], network=job["namespaces"])
    calls.refuse(alone=not job["namespaces"])
    os.chdir(here)


def serve(job: dict) -> None:
    """Run a kernel on the sockets that `job["connection"]` names, behind the audit hook too."""
    from ipykernel.kernelapp import IPKernelApp

    runpy.run_path(os.path.join(HERE, "sitecustomize.py"))
    gc.unfreeze()
    arguments = [f"--IPKernelApp.connection_file={job['connection']}", "--HistoryManager.enabled=0"]
    IPKernelApp.launch_instance(arguments)
    os._exit(0)


if __name__ == "__main__":
    main()
