"""A teacher who stops `make exercises` or `make grade` finds whole files and no process left."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
import psutil
import pytest

from classroom.versions import cell_name

PATIENCE = 120  # seconds; the machine may be busy
WAITS = """import pathlib, subprocess, sys, time
def double(x):
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    pathlib.Path("started").touch()
    time.sleep(600)"""

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has other signals")


def stopped(
    command: list[object], when: Callable[[], object], number: int, temporary: Path
) -> tuple[int, str]:
    """Start a tool, send it a signal when it is time; return its exit code and what it said."""
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", *map(str, command)],
        env=os.environ | {"TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    below = []
    try:
        ends = time.monotonic() + PATIENCE
        while not when():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < ends, "it never happened"
            time.sleep(0.1)
        below = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        printed, errors = process.communicate(timeout=PATIENCE)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    _, alive = psutil.wait_procs(below, timeout=10)
    assert alive == []
    assert list(temporary.iterdir()) == []
    assert "Traceback" not in printed + errors
    last = [line for line in errors.splitlines() if line.strip()][-1]
    return process.returncode, last


def test_exercises(sources: Path, tmp_path: Path):
    many, output = tmp_path / "sources", tmp_path / "built"
    many.mkdir()
    for number in range(10, 30):
        shutil.copy(sources / "01_sums.ipynb", many / f"{number}_sums.ipynb")
    command = ["classroom.versions", "--sources", many, "--output", output]
    began = output.exists
    assert stopped(command, began, signal.SIGINT, tmp_path / "t") == (
        130,
        "Stopped. Each notebook that is there is whole; the same command makes them all.",
    )
    files = [path for path in output.rglob("*") if path.is_file()]
    assert [path for path in files if not nbformat.read(path, 4).cells] == []
    assert list(output.rglob(".part-*")) == []


@pytest.mark.slow
def test_grade(sources: Path, handed_out, tmp_path: Path):
    submitted, output = tmp_path / "submitted" / "ann", tmp_path / "grades"
    submitted.mkdir(parents=True)
    notebook = handed_out()
    for cell in notebook.cells:
        cell.source = WAITS if cell_name(cell) == "double" else cell.source
    nbformat.write(notebook, submitted / "01_sums.ipynb")
    earlier = {output / "points.csv", output / "feedback" / "ann" / "01_sums.html"}
    for path in earlier:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("of an earlier submission", encoding="utf-8")

    command = ["classroom.grade", "--submitted", submitted.parent, "--sources", sources]
    temporary = tmp_path / "t"
    assert stopped(
        [*command, "--output", output],
        lambda: list(temporary.glob("grading-*/work/started")),
        signal.SIGINT,
        temporary,
    ) == (130, "Stopped. What has been graded is kept: the same command goes on from here.")

    left = {path for path in output.rglob("*") if path.is_file()} - {output / "secret.txt"}
    assert left == earlier
    assert {path.read_text(encoding="utf-8") for path in left} == {"of an earlier submission"}
