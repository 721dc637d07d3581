"""Everything to measure on a GPU, in order, with a report: `python -m benchmarks gpu-report`.

Each step is a command with a time limit. What fails or takes too long is written into the report,
and the next one goes on. The same command again continues the table where it stopped.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

import mamlpp
from benchmarks import gpu, report

FOLDER = report.ROOT / "build" / "gpu"
GRACE = 60.0  # seconds in which a program that is told to end may save what it has
LAST_LINES = 40  # of what a step says, in the report


@dataclass(frozen=True)
class Step:
    """A command: what follows the name of Python, and the seconds that it may take."""

    name: str
    command: tuple[str, ...]
    limit: float


@dataclass(frozen=True)
class Outcome:
    """How a step ended."""

    name: str
    command: str
    result: str
    seconds: float
    said: str


def steps(folder: Path, table_seconds: float) -> list[Step]:
    """The steps in order: about half an hour in all."""
    sweep = ("-m", "mamlpp", "sweep", "sweeps/omniglot_20way.toml")
    kept = {name: ("--output", str(folder / f"{name}.json")) for name in GOALS}
    quick = ("accuracy", f"{mamlpp.default_dataset()}-5way", "--contenders", "maml++-quick")
    length = ("--device", "cuda", "--seeds", "0", "--meta-steps", "10000", "--budget", "120")
    chapters = ("--profile", "gpu", "--output", str(folder / "notebooks"), "--only", *CHAPTERS)
    panel = ("--device", "cuda", "--sizes", "gpu")
    rounded = ("--device", "cuda", "--output", str(folder / "precision.json"))
    return [
        Step("GPU tests", ("-m", "pytest", "-q", "-m", "gpu", "tests/unit/test_gpu.py"), 240),
        Step("W1", ("-m", "benchmarks.gpu", "--workloads", "W1", *kept["meta_step"]), 120),
        Step("Plan of the tables", ("-m", "benchmarks.plan", str(folder / "meta_step.json")), 120),
        Step("Rounding", ("-m", "benchmarks.precision", *rounded), 180),
        Step("Live panel", ("-m", "benchmarks.live", *panel, *kept["live"]), 120),
        Step("Chapters", ("tools/walkthrough.py", *chapters), 480),
        Step("Quick recipe", ("-m", "benchmarks", *quick, *length, *kept["accuracy"]), 180),
        Step("Paper's table", sweep, table_seconds),
        Step("Paper's table so far", (*sweep, "--status"), 60),
    ]


CHAPTERS = ("02", "04", "08")


def main(folder: Path = FOLDER, table_seconds: float = 480.0) -> int:
    """Take all steps and write report.md and report.json.

    Args:
        folder: Where they go, and what the steps write.
        table_seconds: How long to train rows of the paper's table, which a later call continues.

    Returns:
        The exit status: 1 without a GPU, or if a step failed.
    """
    if gpu.no_gpu():
        return 1
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    about = report.provenance("benchmarks", 1, "cuda")
    outcomes: list[Outcome] = []
    for name in GOALS:  # What an earlier call measured is not of this one.
        (folder / f"{name}.json").unlink(missing_ok=True)
    for step in steps(folder, table_seconds):
        print(f"{step.name}, at most {step.limit:.0f} s …", flush=True)
        outcomes.append(take(step, folder))
        print(f"  {outcomes[-1].result} after {outcomes[-1].seconds:.0f} s", flush=True)
        write(folder, about, outcomes)  # After each step, so that an interruption loses one.
    print(f"The report is {folder / 'report.md'}.")
    return int(any(outcome.result.startswith("failed") for outcome in outcomes))


def take(step: Step, folder: Path) -> Outcome:
    """Run a step's command in the kit's folder, with what it says in a file of its own."""
    said = folder / f"{step.name.lower().replace(' ', '_')}.txt"
    start = time.perf_counter()
    with said.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, *step.command], cwd=report.ROOT, stdout=file,
            stderr=subprocess.STDOUT, env=os.environ | {"PYTHONIOENCODING": "utf-8"},
        )  # fmt: skip
        try:
            code = process.wait(step.limit)
            result = f"failed with exit code {code}" if code else "passed"
        except subprocess.TimeoutExpired:
            result = "stopped at its time limit"
        finally:
            end(process)
    seconds = round(time.perf_counter() - start, 1)
    words = (word.replace(f"{folder}{os.sep}", "") for word in step.command)
    return Outcome(step.name, " ".join(["python", *words]), result, seconds, last_lines(said))


def end(process: subprocess.Popen) -> None:
    """End a process that is still running, and all that it has started."""
    if process.poll() is not None:
        return
    family = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in (child for child in family if child.is_running()):
        child.kill()


def last_lines(path: Path) -> str:
    """The last lines of a file; of a progress bar, what it showed at the end."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join([line.rpartition("\r")[2] for line in lines if line.strip()][-LAST_LINES:])


def write(folder: Path, about: dict[str, Any], outcomes: Sequence[Outcome]) -> None:
    """Write report.json and report.md."""
    found = list(goals(folder))
    plain = about | {"goals": found, "steps": [asdict(outcome) for outcome in outcomes]}
    report.write(folder / "report.json", plain)
    lines = ["# On a GPU", "", *(f"- {name}: {value}" for name, value in about.items()), ""]
    lines += [*(f"- {sentence}" for sentence in found), "", "| step | result | seconds |"]
    lines += ["|---|---|---|", *(f"| {o.name} | {o.result} | {o.seconds:.0f} |" for o in outcomes)]
    for o in outcomes:
        lines += ["", f"## {o.name}", "", f"`{o.command}`", "", "```text", o.said, "```"]
    (folder / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def goals(folder: Path) -> Iterator[str]:
    """A sentence for each result that is there: what was measured, and the goal."""
    for name, say in GOALS.items():
        path = folder / f"{name}.json"
        if path.exists():
            yield say(json.loads(path.read_text(encoding="utf-8")))


def _meta_step(stored: dict[str, Any]) -> str:
    row = next(row for row in stored["rows"] if row["way"] == "CUDA graph")
    minutes = gpu.PAPER_STEPS * row["milliseconds"] / 60e3
    return (
        f"W1 as a CUDA graph: {row['milliseconds']:.2f} ms (goal: at most 10), "
        f"{row['ratio']:.1f} times as fast as task by task (goal: 10); 75,000 of them in "
        f"{minutes:.0f} minutes (goal: 15)"
    )


def _live(stored: dict[str, Any]) -> str:
    return f"With the live panel: {stored['rows'][0]['ratio']:.2f} times as long (goal: 1.10)"


def _accuracy(stored: dict[str, Any]) -> str:
    best = max(point["accuracy"]["support"] for point in stored["points"])
    return f"The quick recipe reaches {best:.1%} by support (goal: 98 % on Omniglot 5-way)"


GOALS: dict[str, Callable[[dict[str, Any]], str]] = {
    "meta_step": _meta_step,
    "live": _live,
    "accuracy": _accuracy,
}
