"""Make the students' notebooks of the exercises, and the solutions, from their sources.

make exercises    # notebooks/exercises/, which is committed: what a student opens
make solutions    # build/solutions/: the same with every answer and every hidden test

A source, `exercises/NN_name.ipynb`, holds the text of each exercise, its solution, and its visible
and hidden tests, in nbgrader's format. nbgrader's own converter makes the students' notebook of it.
"""

from mamlpp import stopping

stopping.listen(__name__, "Each notebook that is there is whole; the same command makes them all.")

import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import nbformat
import tyro
from nbformat import NotebookNode

from mamlpp.files import replacing

try:
    from nbgrader.converters import GenerateAssignment
    from nbgrader.coursedir import CourseDirectory
    from nbgrader.preprocessors import SaveCells
    from traitlets.config import Config
except ImportError:
    sys.exit("nbgrader is not installed: pip install -c constraints.txt -e '.[classroom]'")

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "exercises"
STUDENTS = ROOT / "notebooks" / "exercises"
SOLUTIONS = ROOT / "build" / "solutions"

REMARK = "solution"  # the tag of a text cell that students do not see
STUB = 'raise NotImplementedError("Your code goes here.")'
BEGIN, END = (
    re.compile(r"BEGIN (SOLUTION|HIDDEN TESTS)"),
    re.compile(r"END (SOLUTION|HIDDEN TESTS)"),
)
MARK = re.compile(r"^ *### (?:BEGIN|END) (?:SOLUTION|HIDDEN TESTS)\n?", re.MULTILINE)
SET_NAME = re.compile(r"\d\d_\w+")
CELL_NAME = re.compile(r"[\w-]+")
LINK_OUT = re.compile(r"(\]\(<?|(?:src|href)=[\"'])(\.\./[^)\s>\"'#]+)")  # of the sources' folder


class SourceError(Exception):
    """A source has faults, so no notebook can be made of it; the message lists one per line."""


def grading(cell: NotebookNode) -> NotebookNode:
    """Return nbgrader's metadata of `cell`; empty if nbgrader does not manage the cell."""
    return cell.metadata.get("nbgrader", NotebookNode())


def is_test(cell: NotebookNode) -> bool:
    """Whether `cell` earns points."""
    return bool(grading(cell).get("grade"))


def is_solution(cell: NotebookNode) -> bool:
    """Whether `cell` is one that students fill in."""
    return bool(grading(cell).get("solution"))


def cell_name(cell: NotebookNode) -> str:
    """Return the `grade_id` of `cell`, empty where it has none."""
    return str(grading(cell).get("grade_id", ""))


def is_remark(cell: NotebookNode) -> bool:
    """Whether `cell` says something about a solution."""
    return REMARK in cell.metadata.get("tags", [])


# What can be wrong with a source: each rule returns the faults that it finds, in words.


def name_faults(notebook: NotebookNode) -> list[str]:
    """Each cell that nbgrader manages has a unique name."""
    names = [cell_name(cell) for cell in notebook.cells if grading(cell)]
    bad = [f"{name!r} is no grade_id" for name in names if not CELL_NAME.fullmatch(name)]
    return bad + [f"grade_id {name!r} is used twice" for name, n in Counter(names).items() if n > 1]


def point_faults(notebook: NotebookNode) -> list[str]:
    """Each test cell has points."""
    faults = []
    for cell in filter(is_test, notebook.cells):
        points = grading(cell).get("points")
        if not isinstance(points, int | float) or not points > 0:
            faults.append(f"test cell {cell_name(cell)!r} has no points")
    return faults


def kind_faults(notebook: NotebookNode) -> list[str]:
    """A test cell is locked code without an answer; a solution cell is code that is not locked."""
    faults = []
    for cell in filter(grading, notebook.cells):
        name, locked = repr(cell_name(cell)), bool(grading(cell).get("locked"))
        if grading(cell).get("schema_version") != 3:
            faults.append(f"cell {name} is not of nbgrader's schema_version 3")
        if is_test(cell) and is_solution(cell):
            faults.append(f"cell {name} would have to be graded by hand")
        elif is_test(cell) and not (locked and cell.cell_type == "code"):
            faults.append(f"test cell {name} is not locked code")
        elif is_solution(cell) and (locked or cell.cell_type != "code"):
            faults.append(f"solution cell {name} is not code that students can change")
    return faults


def region_faults(notebook: NotebookNode) -> list[str]:
    """Solutions and hidden tests stand between BEGIN and END, in the right kind of cell."""
    faults = []
    for cell in notebook.cells:
        name = repr(cell_name(cell) or cell.source[:40])
        marks = BEGIN.findall(cell.source), END.findall(cell.source)
        if marks[0] != marks[1]:
            faults.append(f"cell {name}: BEGIN and END do not pair")
        if "SOLUTION" in marks[0] and not is_solution(cell):
            faults.append(f"cell {name} holds a solution but is no solution cell")
        if "HIDDEN TESTS" in marks[0] and not is_test(cell):
            faults.append(f"cell {name} holds hidden tests but is no test cell")
        if is_solution(cell) and "SOLUTION" not in marks[0]:
            faults.append(f"solution cell {name} marks no solution that a stub could replace")
    return faults


def content_faults(notebook: NotebookNode) -> list[str]:
    """The set has a solution cell and a test cell, and no stored output."""
    faults = []
    if not any(map(is_test, notebook.cells)) or not any(map(is_solution, notebook.cells)):
        faults.append("there is no solution cell, or no test cell")
    if any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells):
        faults.append("outputs are stored, which may give solutions away: clear them")
    return faults


Rule = Callable[[NotebookNode], list[str]]
RULES: list[Rule] = [name_faults, point_faults, kind_faults, region_faults, content_faults]


def read_source(path: Path) -> NotebookNode:
    """Return the source `path`; raises `SourceError` with every fault that it has."""
    if not SET_NAME.fullmatch(path.stem):
        raise SourceError(f"{path.name}: a set is named like 01_inner_loop.ipynb")
    try:
        notebook = nbformat.read(path, as_version=4)
    except Exception as error:  # not JSON, or not a notebook: nbformat raises many kinds
        raise SourceError(f"{path.name} is no notebook: {error}") from error
    faults = [fault for rule in RULES for fault in rule(notebook)]
    if faults:
        raise SourceError("\n".join(f"{path.name}: {fault}" for fault in faults))
    return notebook


# nbgrader


def course(folder: Path, name: str) -> tuple[CourseDirectory, Config]:
    """Return nbgrader's course in `folder`, and its settings, for the assignment `name`."""
    config = Config()
    config.CourseDirectory.root = str(folder)
    config.CourseDirectory.assignment_id = name
    config.ClearSolutions.code_stub = {"python": STUB}
    return CourseDirectory(config=config), config


def release(notebook: NotebookNode, name: str, folder: Path) -> Path:
    """Make the students' version of `notebook` in the course `folder`, and return its path.

    nbgrader's own database is left out: nothing reads it, and it takes seconds to make.
    """
    source = folder / "source" / name / f"{name}.ipynb"
    source.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, source)
    directory, config = course(folder, name)
    converter = GenerateAssignment(directory, config=config, force=True, no_database=True)
    converter.preprocessors = [each for each in converter.preprocessors if each is not SaveCells]
    converter.start()
    return folder / "release" / name / f"{name}.ipynb"


def for_class(notebook: NotebookNode) -> NotebookNode:
    """Return a copy of `notebook` without the remarks on solutions."""
    copy = nbformat.from_dict(notebook)
    copy.cells = [cell for cell in copy.cells if not is_remark(cell)]
    return copy


# The two versions of a set


def moved(notebook: NotebookNode, old: Path, new: Path) -> NotebookNode:
    """Return a copy of a set of the folder `old` with links that work in the folder `new`."""

    def link(found: re.Match[str]) -> str:
        return found[1] + Path(os.path.relpath(old / found[2], new)).as_posix()

    copy = nbformat.from_dict(notebook)
    for cell in copy.cells:
        if cell.cell_type == "markdown":
            cell.source = LINK_OUT.sub(link, cell.source)
    return copy


def for_students(path: Path, place: Path, folder: Path) -> NotebookNode:
    """Return the source `path` as it goes to students, into the folder `place`.

    `folder` is the course in which nbgrader works.
    """
    notebook = nbformat.read(release(for_class(read_source(path)), path.stem, folder), 4)
    return moved(notebook, path.parent.resolve(), place)


def solved(path: Path, place: Path) -> NotebookNode:
    """Return the source `path` with its answers and hidden tests, as a notebook to read and run."""
    notebook = moved(read_source(path), path.parent.resolve(), place)
    for cell in notebook.cells:
        cell.source = MARK.sub("", cell.source).rstrip("\n")
    return notebook


def write_all(paths: list[Path], place: Path, make: Callable[[Path], NotebookNode]) -> list[str]:
    """Write what `make` makes of each source into the folder `place`; return the faults found."""
    faults = []
    for path in paths:
        try:
            notebook = make(path)
        except SourceError as error:
            faults.append(str(error))
            continue
        with replacing(place / path.name) as part:
            nbformat.write(notebook, part)
    return faults


def main(sources: Path = SOURCES, output: Path | None = None, *, solutions: bool = False) -> int:
    """Make the students' notebooks of every set, or the solutions.

    Args:
        sources: The folder of the sources.
        output: Where the notebooks go; by default notebooks/exercises, or build/solutions.
        solutions: Make the solutions.

    Returns:
        The exit status: 1 where a source has a fault.
    """
    place = (output or (SOLUTIONS if solutions else STUDENTS)).resolve()
    paths = sorted(sources.glob("*.ipynb"))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:

        def make(path: Path) -> NotebookNode:
            return solved(path, place) if solutions else for_students(path, place, Path(folder))

        faults = write_all(paths, place, make) if paths else [f"No exercise set in {sources}."]
    print("\n".join(faults) or f"{len(paths)} sets are in {place}.")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
