"""Every set of the kit: its solutions get all points, what students are handed gets none.

All sets are graded in one go, once with our answers and once untouched.
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
Graded = dict[tuple[str, str], tuple[Grade, set[str]]]

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
def graded(course: Path, tmp_path_factory: pytest.TempPathFactory) -> Graded:
    """The grade of each set, solved and untouched, and the names of the errors in it."""
    folder = tmp_path_factory.mktemp("real")
    for path in SETS:
        source = read_source(path)
        released = nbformat.read(release(for_class(source), path.stem, course), 4)
        for student, notebook in {
            "solved": solved(source, released),
            "untouched": released,
        }.items():
            submitted = folder / "submitted" / student / path.name
            submitted.parent.mkdir(parents=True, exist_ok=True)
            nbformat.write(notebook, submitted)
    limits, output = Limits(seconds_per_cell=300), folder / "grades"
    made = grade.grade_class(
        folder / "submitted", "", versions.SOURCES, output, limits, workers=2, profile="smoke"
    )
    found = {}
    for each in made:
        executed = nbformat.read(output / "executed" / each.student / f"{each.set}.ipynb", 4)
        errors = {error[0] for error in map(error_of, executed.cells) if error}
        found[each.set, each.student] = each, errors
    return found


@by_name
def test_the_solutions_run_through_and_get_all_points(path: Path, graded: Graded):
    made, errors = graded[path.stem, "solved"]
    assert (errors, made.reason) == (set(), "")
    assert made.total == made.most > 0
    # Our own answers, and a wrong one fails each test.
    assert "every answer is the kit's own solution" in made.flags


@by_name
def test_untouched_it_gets_none_and_says_that_nothing_was_answered(path: Path, graded: Graded):
    made, errors = graded[path.stem, "untouched"]
    assert (errors, made.reason) == ({"NotImplementedError"}, "Nothing was answered.")
    assert made.total == 0 < made.most
