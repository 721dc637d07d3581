"""Every set of the kit: its solutions get all points, what students are handed has none of them.

All sets are graded in one go. That an unwritten answer fails each test, test_checks.py shows.
"""

from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from classroom import grade, versions
from classroom.reasons import error_of
from classroom.records import Grade
from classroom.sets import Limits
from classroom.versions import for_class, read_source, release

SETS = sorted(versions.SOURCES.glob("*.ipynb"))
Graded = dict[str, tuple[Grade, set[str]]]

pytestmark = pytest.mark.xdist_group("real sets")  # one worker, so that all are graded once
by_name = pytest.mark.parametrize("path", SETS, ids=lambda path: path.stem)


def solved(source: NotebookNode, released: NotebookNode) -> NotebookNode:
    """A student's notebook with every answer as in the source, and the tests as handed out."""
    answers = {cell.id: cell.source for cell in filter(versions.is_solution, source.cells)}
    notebook = nbformat.from_dict(released)
    for cell in notebook.cells:
        cell.source = answers.get(cell.id, cell.source)
    return notebook


@pytest.fixture(scope="module")
def released(course: Path) -> dict[str, NotebookNode]:
    """What students are handed of each set."""
    paths = {path.stem: release(for_class(read_source(path)), path.stem, course) for path in SETS}
    return {name: nbformat.read(path, 4) for name, path in paths.items()}


@pytest.fixture(scope="module")
def graded(released: dict[str, NotebookNode], tmp_path_factory: pytest.TempPathFactory) -> Graded:
    """The grade of each set with our answers, and the names of the errors in it."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "submitted" / "solved").mkdir(parents=True)
    for path in SETS:
        notebook = solved(read_source(path), released[path.stem])
        nbformat.write(notebook, folder / "submitted" / "solved" / path.name)
    limits, output = Limits(seconds_per_cell=300), folder / "grades"
    made = grade.grade_class(
        folder / "submitted", "", versions.SOURCES, output, limits, workers=2, profile="smoke"
    )
    found = {}
    for each in made:
        executed = nbformat.read(output / "executed" / each.student / f"{each.set}.ipynb", 4)
        errors = {error[0] for error in map(error_of, executed.cells) if error}
        found[each.set] = each, errors
    return found


@pytest.mark.slow
@by_name
def test_the_solutions_run_through_and_get_all_points(path: Path, graded: Graded):
    made, errors = graded[path.stem]
    assert (errors, made.reason) == (set(), "")
    assert made.total == made.most > 0
    # Our own answers, and a wrong one fails each test.
    assert "every answer is the kit's own solution" in made.flags


@by_name
def test_every_answer_is_left_to_the_students(path: Path, released: dict[str, NotebookNode]):
    source = {
        cell.id: cell.source for cell in filter(versions.is_solution, read_source(path).cells)
    }
    blank = {cell.id: cell.source for cell in released[path.stem].cells if cell.id in source}
    assert blank.keys() == source.keys() != set()
    for name, text in blank.items():
        assert "raise NotImplementedError" in text
        assert "SOLUTION" in source[name]
        assert "SOLUTION" not in text
