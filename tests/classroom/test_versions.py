"""Students open the sources without solutions and hidden tests, and nothing else."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from classroom import versions
from classroom.versions import (
    SourceError,
    cell_name,
    for_students,
    grading,
    is_remark,
    is_test,
    read_source,
)

REAL = sorted(versions.SOURCES.glob("*.ipynb"))
REGION = re.compile(
    r"^( *)### BEGIN SOLUTION\n.*?^ *### END SOLUTION$|"
    r"^ *### BEGIN HIDDEN TESTS\n.*?^ *### END HIDDEN TESTS\n?",
    re.DOTALL | re.MULTILINE,
)


def without_regions(source: str) -> str:
    return REGION.sub(
        lambda found: found[1] + versions.STUB if found[1] is not None else "", source
    )


@pytest.fixture(scope="session")
def source(sources: Path) -> Path:
    return sources / "01_sums.ipynb"


def assert_no_drift(path: Path, made: NotebookNode) -> None:
    source = nbformat.read(path, 4)
    wanted = [cell for cell in source.cells if not is_remark(cell)]
    assert [cell.id for cell in made.cells] == [cell.id for cell in wanted]
    for old, new in zip(wanted, made.cells, strict=True):
        expected, found = (without_folders(text) for text in (old.source, new.source))
        assert found.rstrip("\n") == without_regions(expected).rstrip("\n")
        assert bool(grading(new).get("checksum")) == bool(grading(new))
        assert grading(new).get("points") == grading(old).get("points")


def without_folders(text: str) -> str:
    """The text with every link as the mere name of a file: the notebooks lie elsewhere."""
    return re.sub(r"(\]\(<?|(?:src|href)=[\"'])(?:[^)\s:/]+/)+(?=\w)", r"\1", text)


def assert_nothing_given_away(path: Path, text: str) -> None:
    """No line of a solution, of a hidden test or of a remark on one is anywhere in the file."""
    source = nbformat.read(path, 4)
    shown = "\n".join(without_regions(cell.source) for cell in source.cells if not is_remark(cell))
    secret = {line for cell in source.cells for line in secret_lines(cell)}
    secret = {line for line in secret if line not in shown}
    assert secret
    assert [line for line in secret if json.dumps(line, ensure_ascii=False)[1:-1] in text] == []


def secret_lines(cell: NotebookNode) -> set[str]:
    regions = [match[0].splitlines()[1:-1] for match in REGION.finditer(cell.source)]
    regions += [cell.source.splitlines()] if is_remark(cell) else []
    return {line.strip() for region in regions for line in region if len(line.strip()) > 4}


@pytest.fixture(scope="session")
def made(course: Path) -> Callable[[Path], NotebookNode]:
    """From a source to what students open."""
    return lambda path: for_students(path, versions.STUDENTS, course)


def test_students_get_the_source_without_the_regions(source: Path, made):
    assert_no_drift(source, made(source))
    assert_nothing_given_away(source, nbformat.writes(made(source)))


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_what_students_open_is_the_source_without_the_regions(path: Path, made):
    opened = (versions.STUDENTS / path.name).read_text(encoding="utf-8")
    assert_nothing_given_away(path, opened)
    assert_no_drift(path, nbformat.reads(opened, 4))
    assert opened.rstrip() == nbformat.writes(made(path)), "out of date: type 'make exercises'"


def test_students_open_no_set_that_has_no_source():
    assert [path.name for path in sorted(versions.STUDENTS.glob("*"))] == [p.name for p in REAL]


def test_solutions_are_whole_and_unmarked(source: Path, tmp_path: Path):
    assert versions.main(source.parent, tmp_path, solutions=True) == 0
    code = (tmp_path / source.name).read_text(encoding="utf-8")
    assert "return x + x" in code
    assert "assert double(7) == 14" in code
    assert "Another way is 2 * x." in code
    assert "###" not in code


def test_the_same_source_gives_the_same_bytes(source: Path, made):
    assert nbformat.writes(made(source)) == nbformat.writes(made(source))


@pytest.mark.parametrize("solutions", [False, True])
def test_links_are_right_where_the_notebooks_go(sources: Path, tmp_path: Path, solutions: bool):
    for folder in ("notebooks", "exercises"):
        (tmp_path / folder).mkdir()
    (tmp_path / "notebooks" / "01_maml.ipynb").touch()
    for name in ("01_sums.ipynb", "02_signs.ipynb"):
        shutil.copy(sources / name, tmp_path / "exercises")
    place = tmp_path / "notebooks" / "exercises"
    assert versions.main(tmp_path / "exercises", place, solutions=solutions) == 0
    text = nbformat.read(place / "01_sums.ipynb", 4).cells[0].source
    assert re.findall(r"\]\((.*?)\)", text) == ["../01_maml.ipynb", "02_signs.ipynb"]


def test_names_of_test_cells_are_unique_among_the_real_sets():
    names = [cell_name(cell) for path in REAL for cell in read_source(path).cells if is_test(cell)]
    assert sorted(set(names)) == sorted(names)


# Faults of a source


def edited(source: Path, folder: Path, edit: Callable[[dict[str, NotebookNode]], object]) -> Path:
    notebook = nbformat.read(source, 4)
    edit({cell_name(cell): cell for cell in notebook.cells})
    folder.mkdir(exist_ok=True)
    nbformat.write(notebook, folder / source.name)
    return folder / source.name


def set_grading(cell: str, **values: object) -> Callable[[dict[str, NotebookNode]], object]:
    return lambda cells: grading(cells[cell]).update(values)


def replace(cell: str, old: str, new: str) -> Callable[[dict[str, NotebookNode]], object]:
    return lambda cells: cells[cell].update(source=cells[cell].source.replace(old, new))


FAULTS = {
    "grade_id 'double' is used twice": set_grading("mean", grade_id="double"),
    "'a mean' is no grade_id": set_grading("mean", grade_id="a mean"),
    "test cell 'mean-test' has no points": set_grading("mean-test", points=0),
    "test cell 'mean-test' is not locked code": set_grading("mean-test", locked=False),
    "cell 'mean-test' would have to be graded by hand": set_grading("mean-test", solution=True),
    "solution cell 'mean' is not code that students can change": set_grading("mean", locked=True),
    "cell 'mean' is not of nbgrader's schema_version 3": set_grading("mean", schema_version=2),
    "cell 'mean': BEGIN and END do not pair": replace("mean", "### END", "### THE END OF THE"),
    "cell 'mean' holds a solution but is no solution cell": set_grading("mean", solution=False),
    "cell 'mean-test' holds hidden tests but is no test cell": set_grading(
        "mean-test", grade=False
    ),
    "solution cell 'mean' marks no solution that a stub could replace": replace(
        "mean", "SOLUTION", "ANSWER"
    ),
    "outputs are stored, which may give solutions away": lambda cells: cells["mean"].update(
        outputs=[nbformat.v4.new_output("stream", text="7")]
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_source_is_named(fault: str, source: Path, tmp_path: Path):
    path = edited(source, tmp_path, FAULTS[fault])
    with pytest.raises(SourceError, match=re.escape(f"{path.name}: {fault}")):
        read_source(path)


def test_a_test_cell_without_points_is_a_fault(source: Path, tmp_path: Path):
    path = edited(source, tmp_path, lambda cells: grading(cells["mean-test"]).pop("points"))
    with pytest.raises(SourceError, match="test cell 'mean-test' has no points"):
        read_source(path)


def test_a_set_without_tests_is_a_fault(source: Path, tmp_path: Path):
    def drop(cells: dict[str, NotebookNode]) -> None:
        for name in ("double-test", "mean-test"):
            cells[name].update(source="", metadata={})

    with pytest.raises(SourceError, match="there is no solution cell, or no test cell"):
        read_source(edited(source, tmp_path, drop))


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("sums.ipynb", "{}", "a set is named like 01_inner_loop.ipynb"),
        ("01_sums.ipynb", "", "is no notebook"),
        ("01_sums.ipynb", "{}", "is no notebook"),
    ],
)
def test_what_is_no_source_is_refused(name: str, text: str, fault: str, tmp_path: Path):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SourceError, match=fault):
        read_source(path)


def test_all_faults_of_all_sources_are_printed_and_the_good_ones_made(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "sources"
    edited(source, folder, set_grading("mean-test", points=0, locked=False))
    shutil.copy(source, folder / "02_good.ipynb")
    assert versions.main(folder, tmp_path / "built") == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first == "01_sums.ipynb: test cell 'mean-test' has no points"
    assert second == "01_sums.ipynb: test cell 'mean-test' is not locked code"
    assert [path.stem for path in tmp_path.glob("built/*.ipynb")] == ["02_good"]


def test_no_source_at_all_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert versions.main(tmp_path, tmp_path / "built") == 1
    assert "No exercise set in" in capsys.readouterr().out
