"""Two small sets for the tests: fast to grade, and with every kind of cell that a set has."""

from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from classroom.sets import ExerciseSet, Limits, load_sets
from classroom.versions import for_class, read_source, release

KERNEL = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}


def answer(name: str, before: str, solution: str) -> NotebookNode:
    source = f"{before}\n    ### BEGIN SOLUTION\n    {solution}\n    ### END SOLUTION"
    return new_code_cell(source, metadata={"nbgrader": kind(name, solution=True)})


def check(name: str, points: int, visible: str, hidden: str) -> NotebookNode:
    source = f"{visible}\n### BEGIN HIDDEN TESTS\n{hidden}\n### END HIDDEN TESTS"
    metadata = kind(name, grade=True, locked=True) | {"points": points}
    return new_code_cell(source, metadata={"nbgrader": metadata})


def kind(name: str, *, grade: bool = False, solution: bool = False, locked: bool = False) -> dict:
    flags = {"grade": grade, "solution": solution, "locked": locked, "task": False}
    return {"schema_version": 3, "grade_id": name} | flags


def remark(text: str) -> NotebookNode:
    return new_markdown_cell(text, metadata={"tags": ["solution"]})


def small_set() -> NotebookNode:
    cells = [
        new_markdown_cell(
            "# Sums\n\nSee [chapter 01](../notebooks/01_maml.ipynb), [signs](02_signs.ipynb)."
        ),
        new_code_cell("import math"),
        new_markdown_cell("## Exercise 1.1: double\n\nHand in `double`."),
        answer("double", "def double(x):", "return x + x"),
        remark("Another way is 2 * x."),
        check(
            "double-test", 2, "assert double(2) == 4, 'double of 2 is 4'", "assert double(7) == 14"
        ),
        new_markdown_cell("## Exercise 1.2: mean\n\nHand in `mean`."),
        answer("mean", "def mean(values):", "return math.fsum(values) / len(values)"),
        check("mean-test", 3, "assert mean([1, 2, 3]) == 2", "assert mean([7]) == 7, 'one number'"),
    ]
    return numbered(new_notebook(cells=cells, metadata={"kernelspec": KERNEL}))


def other_set() -> NotebookNode:
    cells = [
        new_markdown_cell("# Signs\n\n## Exercise 2.1: negate"),
        answer("negate", "def negate(x):", "return 0 - x"),
        check("negate-test", 1, "assert negate(2) == -2", "assert negate(0) == 0"),
    ]
    return numbered(new_notebook(cells=cells, metadata={"kernelspec": KERNEL}))


def numbered(notebook: NotebookNode) -> NotebookNode:
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
    return notebook


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the two sets' sources."""
    folder = tmp_path_factory.mktemp("sources")
    nbformat.write(small_set(), folder / "01_sums.ipynb")
    nbformat.write(other_set(), folder / "02_signs.ipynb")
    return folder


@pytest.fixture(scope="session")
def course(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which nbgrader makes the students' versions."""
    return tmp_path_factory.mktemp("course")


@pytest.fixture(scope="session")
def handed_out(sources: Path, course: Path) -> Callable[[], NotebookNode]:
    """From nothing to a new copy of what students get of the set 01_sums."""
    path = release(for_class(read_source(sources / "01_sums.ipynb")), "01_sums", course)
    text = path.read_text(encoding="utf-8")
    return lambda: nbformat.reads(text, 4)


@pytest.fixture(scope="session")
def sets(sources: Path, course: Path) -> dict[str, ExerciseSet]:
    """The two sets, ready for grading."""
    return load_sets(sources, course, Limits(), secret="")
