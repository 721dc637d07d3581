"""Ctrl-C, a request to end and a closed terminal: one line, the right exit code, nothing left."""

import ast
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from walkthrough import NOTEBOOKS

import figures

ROOT = NOTEBOOKS.parent
TOOLS = ROOT / "tools"
PATIENCE = 120  # seconds; the machine may be busy

needs_signals = pytest.mark.skipif(os.name == "nt", reason="Windows has other signals")
needs_make = pytest.mark.skipif(
    os.name == "nt" or shutil.which("make") is None or Path(sys.prefix) != ROOT / ".venv",
    reason="there is no make, or it did not install this Python's packages",
)
each_signal = pytest.mark.parametrize(
    ("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)]
)


def wait_for(happened: Callable[[], object], process: subprocess.Popen[str]) -> None:
    ends = time.monotonic() + PATIENCE
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < ends, "it never happened"
        time.sleep(0.1)


@contextmanager
def started(*command: object, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A program with pipes on its outputs, killed at the end where it still runs."""
    process = subprocess.Popen(
        list(map(str, command)),
        env=os.environ | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
        process.communicate()


def assert_stopped(process: subprocess.Popen[str], name: str, code: int) -> None:
    """Send the signal, and look at how the program ends and at what it leaves running."""
    below = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(getattr(signal, name))
    printed, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == code
    assert "Traceback" not in printed + errors
    last = [line for line in errors.splitlines() if line.strip()][-1]
    assert last.startswith("Stopped.")
    assert gone(below)


def gone(processes: list[psutil.Process]) -> bool:
    ended, alive = psutil.wait_procs(processes, timeout=10)
    return bool(ended or not processes) and not alive


CLASSROOM = [f"classroom/{name}" for name in ("grade", "handout", "versions")]


@pytest.mark.parametrize("tool", [*CLASSROOM, "tools/figures", "tools/walkthrough"])
def test_each_tool_listens_before_it_imports_what_takes_long(tool: str):
    tree = ast.parse((ROOT / f"{tool}.py").read_text(encoding="utf-8"))
    text = [ast.unparse(statement) for statement in tree.body[1:3]]
    assert text[0] == "from mamlpp import stopping"
    assert text[1].startswith("stopping.listen(__name__, ")


# The listener alone


PROGRAM = "import sys, time\nsys.path.insert(0, {!r})\nfrom mamlpp import stopping\n{}\n"
SLEEP = "print('ready', flush=True)\ntime.sleep(600)"


@needs_signals
@each_signal
def test_a_program_ends_with_one_line(name: str, code: int):
    program = PROGRAM.format(str(ROOT), f"stopping.listen('__main__', 'So it is.')\n{SLEEP}")
    with started(sys.executable, "-c", program) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(getattr(signal, name))
        printed, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, printed, errors.strip()) == (code, "", "Stopped. So it is.")


@needs_signals
def test_a_module_that_is_imported_does_not_listen():
    program = PROGRAM.format(str(ROOT), f"stopping.listen('figures')\n{SLEEP}")
    with started(sys.executable, "-c", program) as process:
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.wait(PATIENCE) == -signal.SIGTERM


@needs_signals
def test_what_was_told_to_ignore_a_closed_terminal_goes_on():
    ignore = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    rest = f"{ignore}stopping.listen('__main__')\nprint('ready', flush=True)\nprint(input())"
    with started(sys.executable, "-c", PROGRAM.format(str(ROOT), rest)) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGHUP)
        printed, _ = process.communicate("still here\n", timeout=PATIENCE)
    assert (process.returncode, printed) == (0, "still here\n")


@needs_signals
def test_a_second_signal_ends_what_hangs_while_it_cleans_up():
    rest = f"""
stopping.listen('__main__')
stopping.SAME_PRESS = 0
try:
    {SLEEP.splitlines()[0]}
    time.sleep(600)
finally:
    print('cleaning', flush=True)
    time.sleep(600)"""
    with started(sys.executable, "-c", PROGRAM.format(str(ROOT), rest)) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "cleaning\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130


# The tools


WAITS = """import pathlib, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path("started").touch()
time.sleep(600)"""


@pytest.fixture
def notebooks(tmp_path: Path) -> Path:
    """A folder with one notebook, which starts a program and then waits."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    values = 'profile = "smoke"\ndataset = "glyphs"\nseed = 0'
    cells = [new_code_cell(values, metadata={"tags": ["parameters"]}), new_code_cell(WAITS)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(
        new_notebook(cells=cells, metadata={"kernelspec": kernel}), folder / "00_waits.ipynb"
    )
    return folder


@pytest.mark.slow
@needs_signals
def test_the_walkthrough_leaves_no_kernel_and_no_half_a_notebook(notebooks: Path, tmp_path: Path):
    output = tmp_path / "executed"
    command = [TOOLS / "walkthrough.py", "--notebooks", notebooks, "--output", output]
    with started(sys.executable, *command) as process:
        wait_for((notebooks / "started").exists, process)
        assert_stopped(process, "SIGTERM", 143)
    assert list(output.iterdir()) == []


@pytest.mark.slow
@needs_signals
def test_figures_are_whole(tmp_path: Path):
    before = {path: path.read_bytes() for path in figures.FIGURES.iterdir()}
    with started(sys.executable, "-u", figures.__file__) as process:
        assert process.stdout.readline().startswith("figures/")
        assert_stopped(process, "SIGINT", 130)
    assert {path: path.read_bytes() for path in figures.FIGURES.iterdir()} == before


# In a terminal, where Ctrl-C reaches make and all that it started.


TERMINAL = """import os, pty, sys
code = os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:]))
sys.exit(code if code >= 0 else 128 - code)"""


@contextmanager
def make_in_terminal(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    make = ["make", "-C", ROOT, *arguments, f"PYTHON={sys.executable}"]
    home = {"HOME": str(folder), "JUPYTER_RUNTIME_DIR": str(folder / "runtime")}
    with started(sys.executable, "-c", TERMINAL, *make, **home) as process:
        yield process


def press(key: str, process: subprocess.Popen[str]) -> None:
    process.stdin.write(key)
    process.stdin.flush()


def read_until(text: str, process: subprocess.Popen[str]) -> None:
    read = ""
    while text not in read:
        character = process.stdout.read(1)
        assert character, f"{text!r} never came: {read}"
        read += character


@pytest.mark.slow
@needs_make
def test_ctrl_c_ends_make_walkthrough(notebooks: Path, tmp_path: Path):
    profile = f"PROFILE=smoke --notebooks {notebooks} --output {tmp_path / 'out'}"
    with make_in_terminal(tmp_path, "walkthrough", profile) as process:
        wait_for((notebooks / "started").exists, process)
        below = psutil.Process(process.pid).children(recursive=True)
        press("\x03", process)
        printed, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "Stopped." in printed
    assert "Traceback" not in printed
    assert gone(below)


@pytest.mark.slow
@needs_make
def test_ctrl_c_ends_make_lab_after_a_question(tmp_path: Path):
    with make_in_terminal(tmp_path, "lab", "LAB_ARGS=--no-browser --allow-root") as process:
        read_until("Use Control-C to stop this server", process)
        below = psutil.Process(process.pid).children(recursive=True)
        press("\x03", process)
        read_until("(y/[n])?", process)
        press("y\n", process)
        printed, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "Traceback" not in printed
    assert gone(below)


def test_only_its_own_tracker_of_semaphores_is_spared(run_code):
    assert run_code("resource_tracker.ensure_running()") == "[False]"
    assert run_code("subprocess.Popen([sys.executable, '-c', 'input()'], stdin=-1)") == "[True]"


@pytest.fixture
def run_code():
    """What `_ours` says of the processes that some code has started, in a process of its own."""

    def run(code: str) -> str:
        program = f"""
import subprocess, sys
from multiprocessing import resource_tracker
import psutil
from mamlpp import stopping
kept = {code}
children = psutil.Process().children()
print([stopping._ours(child) for child in children])
for child in children:
    child.kill()
"""
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    return run
