"""Partial credit: each part of a test that declares it has its share of the points."""

from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from classroom import grade, versions
from classroom.records import Grade
from classroom.repair import PARTIAL, checks_in
from classroom.sets import Limits
from tests.classroom.conftest import small_set

TEST = """case = [1, 2, 3]
assert mean(case) == 2
### BEGIN HIDDEN TESTS
assert mean([7]) == 7, 'one number'
for n in range(3):
    assert mean([n] * 4) == n, 'equal numbers'
### END HIDDEN TESTS"""


def test_a_part_is_a_statement_with_what_is_defined_above_it():
    first, second, third = checks_in(TEST)
    assert first == "case = [1, 2, 3]\nassert mean(case) == 2"
    assert second.endswith("'one number'")
    assert third.startswith("for n in range(3):")


def set_with_partial_credit() -> NotebookNode:
    notebook = small_set()
    test = next(cell for cell in notebook.cells if versions.cell_name(cell) == "mean-test")
    test.source = TEST
    test.metadata["tags"] = [PARTIAL]
    return notebook


def graded(answers: dict[str, str], folder: Path) -> dict[str, Grade]:
    """The grade of each answer to 1.2; nobody answers 1.1."""
    source = folder / "sources" / "01_sums.ipynb"
    source.parent.mkdir()
    nbformat.write(set_with_partial_credit(), source)
    handed_out = versions.for_students(source, source.parent, folder / "course")
    for student, answer in answers.items():
        notebook = nbformat.from_dict(handed_out)
        cell = next(cell for cell in notebook.cells if versions.cell_name(cell) == "mean")
        cell.source = answer
        path = folder / "submitted" / student / source.name
        path.parent.mkdir(parents=True)
        nbformat.write(notebook, path)
    made = grade.grade_class(
        folder / "submitted", "01_sums", source.parent, folder / "grades", Limits(), 1, "smoke"
    )
    return {each.student: each for each in made}


def test_points_are_in_proportion_to_the_parts_that_pass(tmp_path: Path):
    grades = graded(
        {
            "all": "def mean(values):\n    return sum(values) / len(values)",
            "two": "def mean(values):\n    return {1: 7, 3: 2}.get(len(values))",
            "one": "def mean(values):\n    return 2",
            "none": "def mean(values):\n    return None",
        },
        tmp_path,
    )
    assert {name: each.points["1.2"] for name, each in grades.items()} == {
        "all": (3.0, 3.0),
        "two": (2.0, 3.0),
        "one": (1.0, 3.0),
        "none": (0.0, 3.0),
    }
    assert "equal numbers" in grades["two"].reason
    assert [each.points["1.1"] for each in grades.values()] == [(0.0, 2.0)] * 4


@pytest.mark.parametrize("test", ["assert f(1)", "import math\nassert f(math.pi)"])
def test_a_test_of_one_statement_is_one_part(test: str):
    assert checks_in(test) == [test]
