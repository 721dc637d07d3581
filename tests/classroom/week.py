"""Play a week of a class: hand out, hand in, grade, override, grade again, look at what came out.

    python -m tests.classroom.week --students 40 --keep build/week

It types the teacher's own commands, and draws what the students do: right answers, answers with a
slip, empty cells, nothing at all, late days. It prints the seconds of each part and the largest
memory. No test: 40 students take some minutes.
"""

import ast
import csv
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import nbformat
import psutil
import tyro

from classroom.versions import MARK, SOURCES, cell_name, is_solution

DAY = timedelta(days=1)
LATE = "10 % a day, at most 3"
SLIPS: dict[type[ast.AST], Callable[[], ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.Lt: ast.LtE,
    ast.GtE: ast.Gt,
    ast.IsNot: ast.Is,
}


class Slip(ast.NodeTransformer):
    """Changes one operator, the one with this number."""

    def __init__(self, number: int) -> None:
        self.number, self.seen = number, 0

    def generic_visit(self, node: ast.AST) -> ast.AST:
        if type(node) in SLIPS:
            self.seen += 1
            if self.seen == self.number:
                return SLIPS[type(node)]()
        return super().generic_visit(node)


def with_a_slip(answer: str, draw: random.Random) -> str:
    """The answer with one operator changed, or without its `return` where it has none."""
    counter = Slip(0)
    counter.visit(ast.parse(answer))
    if not counter.seen:
        return answer.replace("return ", "", 1)
    return ast.unparse(Slip(draw.randint(1, counter.seen)).visit(ast.parse(answer)))


def answered(blank: str, right: str, draw: random.Random) -> str:
    """What a student writes into a cell."""
    kind = draw.choices(("right", "slip", "blank", "stops"), (6, 2, 1, 1))[0]
    if kind == "slip":
        return with_a_slip(right, draw)
    if kind == "stops":
        return blank.replace("raise NotImplementedError", "raise ValueError")
    return right if kind == "right" else blank


def roster_of(students: int, path: Path) -> list[tuple[str, str]]:
    """Write a roster, and return the names and the numbers in it."""
    people = [(f"Student {chr(65 + n % 26)}{n}", str(7000 + n)) for n in range(students)]
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("name", "id"), *people])
    return people


def hand_in(name: str, people: list[tuple[str, str]], folder: Path, draw: random.Random) -> None:
    """Let every student but the last unzip, answer and hand in, some of them days late."""
    source = nbformat.read(SOURCES / f"{name}.ipynb", 4)
    right = {cell_name(c): MARK.sub("", c.source) for c in filter(is_solution, source.cells)}
    for student, number in people[:-1]:
        (archive,) = (folder / "handout").glob(f"*{number}*.zip")
        with zipfile.ZipFile(archive) as kit:
            text = kit.read(f"{name}/notebooks/exercises/{name}.ipynb").decode("utf-8")
        notebook = nbformat.reads(text, 4)
        for cell in filter(is_solution, notebook.cells):
            cell.source = answered(cell.source, right[cell_name(cell)], draw)
        path = folder / "submitted" / f"{student}_{number}_assignsubmission_file" / f"{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, path)
        days = draw.choices((-1, 0.5, 1.5, 5), (16, 2, 1, 1))[0]
        at = (due() + days * DAY).timestamp()
        os.utime(path, (at, at))


def due() -> datetime:
    """When the set was due: at the beginning of this day, ten days ago."""
    return datetime.now().replace(hour=0, minute=0, second=0, microsecond=0) - 10 * DAY


def override(name: str, people: list[tuple[str, str]], folder: Path) -> None:
    """Give the first student two points for a warm-up, and the last one an excuse."""
    rows = [
        ("student", "set", "exercise", "points", "extension", "excused", "reason"),
        (people[0][0], name, f"{int(name[:2])}.0", "0.5", "", "", "half of it was right"),
        (people[-1][0], name, "", "", "", "yes", "ill"),
    ]
    with (folder / "grades" / "overrides.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


def used_now() -> int:
    """Bytes of this process and of all below it, shared pages counted once where that is known."""
    total = 0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            memory = process.memory_full_info()
            total += getattr(memory, "pss", memory.rss)
        except psutil.Error:
            continue
    return total


@contextmanager
def measured(what: str) -> Iterator[None]:
    """Print the seconds and the memory of what is done inside: the most, and how it grew."""
    used, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            used.append(used_now())

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    start = time.monotonic()
    try:
        yield
    finally:
        seconds = time.monotonic() - start
        over.set()
        watching.join()
        print(f"{what:>15}: {seconds:7.1f} s, {max(used) / 1e9:5.2f} GB; {grown(used)}", flush=True)


def grown(used: list[int]) -> str:
    """The largest memory in each quarter of the time."""
    size = max(1, len(used) // 4)
    parts = [used[n * size : (n + 1) * size] or used for n in range(4)]
    return "in each quarter " + " ".join(f"{max(part) / 1e9:.2f}" for part in parts)


def command(name: str, *arguments: str) -> None:
    """Run one of the teacher's commands."""
    subprocess.run([sys.executable, "-m", f"classroom.{name}", *arguments], check=True)


def points_in(path: Path, column: str) -> dict[str, str]:
    """What each student has in a column of a table."""
    with path.open(encoding="utf-8", newline="") as file:
        return {row["name"]: row[column] for row in csv.DictReader(file)}


def main(
    students: int = 40, set: str = "01_inner_loop", workers: int = 2, seed: int = 0,
    trust: bool = False, keep: Path | None = None,
) -> None:  # fmt: skip
    """Play the week and measure it.

    Args:
        students: How many are on the roster; the last one hands in nothing.
        set: The set that is handed out.
        workers: How many submissions are graded at a time.
        seed: What the students do.
        trust: Grade although this system cannot contain what submissions do.
        keep: A new folder for everything that is made; by default it is deleted at the end.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        people, draw = roster_of(students, folder / "roster.csv"), random.Random(seed)
        roster = ("--roster", str(folder / "roster.csv"))
        grading = [
            *("--submitted", str(folder / "submitted"), "--output", str(folder / "grades")),
            *("--set", set, "--due", f"{due():%Y-%m-%d %H:%M}", "--late", LATE),
            *("--workers", str(workers), "--profile", "smoke", *roster),
            *(["--trust"] if trust else []),
        ]
        with measured("handout"):
            command("handout", "--set", set, "--output", str(folder / "handout"), *roster)
        with measured("hand in"):
            hand_in(set, people, folder, draw)
        with measured("grade"):
            command("grade", *grading)
        override(set, people, folder)
        with measured("grade again"):
            command("grade", *grading)
        points = points_in(folder / "grades" / "grades.csv", set)
        assert list(points) == [name for name, _ in people]
        assert points[people[-1][0]] == "", "who is excused has no points"
        assert all(points[name] for name, _ in people[:-1]), "everybody else has some, or 0"
        assert len(list((folder / "grades" / "feedback").glob("*/*.html"))) >= students - 1
        assert people[0][0] in (folder / "grades" / f"class_{set}.html").read_text("utf-8")
        print("points:", *sorted(map(float, filter(None, points.values()))))


if __name__ == "__main__":
    tyro.cli(main)
