"""Every set of the kit: its solutions get all points, what students are handed gets none."""

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
by_name = pytest.mark.parametrize("path", SETS, ids=lambda path: path.stem)


def graded(notebook: NotebookNode, source: Path, folder: Path) -> tuple[Grade, set[str]]:
    """The grade of `notebook`, and the names of the errors in it."""
    submitted = folder / "submitted" / "ann" / source.name
    submitted.parent.mkdir(parents=True)
    nbformat.write(notebook, submitted)
    output = folder / "grades"
    (made,) = grade.grade_class(
        folder / "submitted",
        source.stem,
        versions.SOURCES,
        output,
        Limits(seconds_per_cell=300),
        workers=1,
        profile="smoke",
    )
    executed = nbformat.read(output / "executed" / "ann" / source.name, 4)
    return made, {error[0] for error in map(error_of, executed.cells) if error}


@by_name
def test_the_solutions_run_through_and_get_all_points(path: Path, course: Path, tmp_path: Path):
    source = read_source(path)
    notebook = nbformat.read(release(for_class(source), path.stem, course), 4)
    # A student's notebook with every answer as in the source, and the tests as handed out.
    answers = {cell.id: cell.source for cell in filter(versions.is_solution, source.cells)}
    for cell in notebook.cells:
        cell.source = answers.get(cell.id, cell.source)
    made, errors = graded(notebook, path, tmp_path)
    assert (errors, made.reason) == (set(), "")
    assert made.total == made.most > 0
    # Our own answers, and a wrong one fails each test.
    assert "every answer is the kit's own solution" in made.flags


@by_name
def test_untouched_it_gets_none_and_says_that_nothing_was_answered(
    path: Path, course: Path, tmp_path: Path
):
    notebook = nbformat.read(release(for_class(read_source(path)), path.stem, course), 4)
    made, errors = graded(notebook, path, tmp_path)
    assert (errors, made.reason) == ({"NotImplementedError"}, "Nothing was answered.")
    assert made.total == 0 < made.most
