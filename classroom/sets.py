"""A set that is ready for grading: what was handed out, all its tests, its points and its limits.

The hidden tests draw their inputs from seeds that the teacher's secret decides: whoever has read
this kit knows every test, but not on which numbers it will be run.
"""

import hashlib
import re
import secrets
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from nbformat import NotebookNode

from classroom.versions import (
    STUDENTS,
    SourceError,
    cell_name,
    for_students,
    grading,
    is_solution,
    is_test,
    read_source,
)
from mamlpp.files import replacing

EXERCISE = re.compile(r"^##+ Exercise (\d+\.\d+)(?:: *(.*))?", re.MULTILINE)
HIDDEN = re.compile(r"### BEGIN HIDDEN TESTS\n.*?### END HIDDEN TESTS", re.DOTALL)
SEED = re.compile(r"\bseed=\d+")
SEEDS = 1_000_000  # how many there are, from 2 on


class GradingError(Exception):
    """Nothing can be graded; the message says why, in one sentence."""


@dataclass(frozen=True)
class Limits:
    """What a submission may use: seconds per cell and in all, bytes of memory and of disk."""

    seconds_per_cell: int = 60
    seconds: int = 600
    bytes: int = 3_000_000_000
    disk: int = 200_000_000
    processes: int = 60


@dataclass(frozen=True)
class ExerciseSet:
    """A set: the cells as handed out, and what grading knows of them, all by the cells' names.

    `labels` is each cell's exercise, such as "1.2"; `most` the highest points of each exercise;
    `tests` the whole text of each test cell, `solutions` our answers.
    """

    name: str
    released: NotebookNode
    labels: dict[str, str]
    most: dict[str, float]
    tests: dict[str, str]
    solutions: dict[str, str]
    limits: Limits
    key: str

    @property
    def titles(self) -> dict[str, str]:
        """The titles of the exercises, by their numbers."""
        found = [EXERCISE.search(cell.source) for cell in self.released.cells]
        return {each[1]: each[2] or "" for each in found if each}

    @property
    def known(self) -> dict[str, NotebookNode]:
        """The cells that have a name."""
        return {cell_name(cell): cell for cell in self.released.cells if grading(cell)}


def load_sets(sources: Path, folder: Path, limits: Limits, secret: str) -> dict[str, ExerciseSet]:
    """Return every set of the folder `sources`; `folder` is for nbgrader to work in."""
    paths = sorted(sources.glob("*.ipynb"))
    if not paths:
        raise GradingError(f"There is no exercise set in {sources}.")
    try:
        return {path.stem: load_set(path, folder, limits, secret) for path in paths}
    except SourceError as error:
        raise GradingError(f"A source is faulty, see 'make exercises': {error}") from error


def load_set(path: Path, folder: Path, limits: Limits, secret: str = "") -> ExerciseSet:
    """Return the set of the source `path`.

    A source may ask for more time, in its metadata: `"grading": {"seconds_per_cell": 300}`.
    """
    source = read_source(path)
    released = for_students(path, STUDENTS, folder)
    labels, most = exercises_by_name(released), dict[str, float]()
    for cell in filter(is_test, released.cells):
        label = labels[cell_name(cell)]
        most[label] = most.get(label, 0.0) + float(grading(cell)["points"])
    own = source.metadata.get("grading", {})
    allowed = {name: max(value, own.get(name, 0)) for name, value in asdict(limits).items()}
    tests = {
        cell_name(cell): with_secret_seeds(cell.source, secret) if secret else cell.source
        for cell in filter(is_test, source.cells)
    }
    solutions = {cell_name(cell): cell.source for cell in filter(is_solution, source.cells)}
    key = digest([path.read_bytes(), secret.encode()])
    return ExerciseSet(path.stem, released, labels, most, tests, solutions, Limits(**allowed), key)


def with_secret_seeds(test: str, secret: str) -> str:
    """Return a test cell whose hidden part draws its inputs from seeds that nobody can guess."""
    seed = int(hashlib.sha256(f"{secret}\n{test}".encode()).hexdigest(), 16) % SEEDS + 2
    return HIDDEN.sub(lambda found: SEED.sub(f"seed={seed}", found[0]), test)


def secret_of(path: Path) -> str:
    """Return the teacher's secret, which the file `path` keeps; a new one where there is none."""
    if not path.exists():
        with replacing(path) as part:
            part.write_text(secrets.token_hex(16), encoding="utf-8")
            part.chmod(0o600)
    return path.read_text(encoding="utf-8").strip()


def digest(contents: Iterable[bytes]) -> str:
    """Return a fingerprint of some contents, in their order."""
    sums = [hashlib.sha256(content).hexdigest() for content in contents]
    return hashlib.sha256("".join(sums).encode()).hexdigest()


def exercises_of(notebook: NotebookNode, known: dict[str, str]) -> list[str]:
    """Return the exercise of each cell, such as "1.2", from the heading above or from `known`."""
    label, labels = "", []
    for cell in notebook.cells:
        heading = EXERCISE.search(cell.source) if cell.cell_type == "markdown" else None
        label = heading[1] if heading else known.get(cell_name(cell), label)
        labels.append(label)
    return labels


def exercises_by_name(released: NotebookNode) -> dict[str, str]:
    """Return the exercise of each cell that nbgrader manages, or the cell's own name."""
    labels = exercises_of(released, {})
    pairs = zip(released.cells, labels, strict=True)
    return {cell_name(cell): label or cell_name(cell) for cell, label in pairs if grading(cell)}
