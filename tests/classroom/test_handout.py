"""What students get: everything that they need, a stamp, numbers of their own, and no solution."""

import io
import zipfile
from pathlib import Path

import nbformat
import pytest

from classroom import handout, stamps, versions
from classroom.questions import open_answer, question_of
from classroom.sets import Limits, load_set

NAME = "01_inner_loop"
ROSTER = "name,id\nAnn Lee,71\nBob Ray,72\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("handout")
    assert handout.main(NAME, output=folder, course="ML, spring 2027") == 0
    return folder / f"{NAME}.zip"


def unpacked(path: Path, folder: Path) -> Path:
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    return folder / NAME


def test_it_holds_what_a_student_needs(made: Path, tmp_path: Path):
    kit = unpacked(made, tmp_path)
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "mamlpp/maml.py"):
        assert (kit / name).is_file(), name
    assert (kit / "notebooks" / "01_maml.ipynb").is_file()  # the chapter of the set
    text = (kit / "READ_ME_FIRST.txt").read_text(encoding="utf-8")
    assert f"Hand in this one file, under its name:  notebooks/exercises/{NAME}.ipynb" in text
    assert text.startswith(f"ML, spring 2027: {NAME}\n")


def test_it_gives_no_solution_and_no_test_of_the_teacher_away(made: Path, tmp_path: Path):
    kit = unpacked(made, tmp_path)
    names = {path.name for path in kit.iterdir()}
    assert names & {"exercises", "classroom", "tests", "build", "runs"} == set()
    source = nbformat.read(versions.SOURCES / f"{NAME}.ipynb", 4)
    solutions = [cell.source for cell in filter(versions.is_solution, source.cells)]
    texts = [path.read_text(encoding="utf-8") for path in kit.rglob("*.ipynb")]
    assert solutions
    assert [one for one in solutions for text in texts if one in text] == []
    notebook = (kit / "notebooks" / "exercises" / f"{NAME}.ipynb").read_text(encoding="utf-8")
    assert "HIDDEN" not in notebook
    assert "SOLUTION" not in notebook


def test_every_link_of_the_set_leads_somewhere(made: Path, tmp_path: Path):
    path = unpacked(made, tmp_path) / "notebooks" / "exercises" / f"{NAME}.ipynb"
    notebook = nbformat.read(path, 4)
    links = [
        one or other
        for cell in notebook.cells
        if cell.cell_type == "markdown"
        for one, other in handout.LINK.findall(cell.source)
    ]
    inside = [link for link in links if not link.startswith(("http", "#"))]
    assert inside
    assert [link for link in inside if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("path", sorted(versions.STUDENTS.glob("*.ipynb")), ids=lambda p: p.stem)
def test_every_set_has_an_open_question_with_points_and_a_cell_for_the_answer(path: Path):
    notebook = nbformat.read(path, 4)
    question = question_of(notebook)
    assert question is not None
    assert question.ask
    assert question.points > 0
    assert open_answer(notebook, notebook) == ""
    for cell in notebook.cells:
        if cell.source == question.prompt:
            cell.source = "Because."
            cell.metadata.clear()  # as other programs save it
    assert open_answer(notebook, nbformat.read(path, 4)) == "Because."


def test_each_person_gets_numbers_of_their_own(tmp_path: Path, course: Path):
    (tmp_path / "roster.csv").write_text(ROSTER, encoding="utf-8")
    roster = tmp_path / "roster.csv"
    assert handout.main(NAME, output=tmp_path, course="ML", roster=roster) == 0
    found = {}
    for path in sorted(tmp_path.glob("*.zip")):
        with zipfile.ZipFile(path) as archive:
            text = archive.read(f"{NAME}/notebooks/exercises/{NAME}.ipynb").decode()
        notebook = nbformat.read(io.StringIO(text), 4)
        found[path.stem] = [c.source for c in filter(versions.is_test, notebook.cells)]
        assert stamps.stamp_of(notebook)["student"] in ("71", "72")
    assert list(found) == [f"{NAME}_annlee_71", f"{NAME}_bobray_72"]
    ann, bob = found.values()
    assert ann != bob
    # What is graded is what they saw, and the hidden tests.
    exercise_set = load_set(versions.SOURCES / f"{NAME}.ipynb", course, Limits(), "secret")
    tests = stamps.variant(exercise_set, "71").tests
    assert [test.startswith(seen.strip()) for test, seen in zip(tests.values(), ann, strict=True)]


@pytest.mark.parametrize(("other", "alone"), [("Ann-Lee", False), ("نور الهدى", True)])
def test_nobody_s_zip_replaces_another_s(
    other: str, alone: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    roster = tmp_path / "roster.csv"
    roster.write_text(f"name,id\nAnn Lee,\n{other},\nClé,\n", encoding="utf-8")
    assert handout.main(NAME, output=tmp_path, roster=roster) == (0 if alone else 1)
    assert len(list(tmp_path.glob("*.zip"))) == (3 if alone else 0)
    said = capsys.readouterr().err
    assert alone or "'Ann Lee' and 'Ann-Lee' are one name without accents and signs" in said


def test_a_stamp_tells_what_has_changed_since(course: Path, tmp_path: Path):
    exercise_set = load_set(versions.SOURCES / f"{NAME}.ipynb", course, Limits())
    notebook = handout.notebook_of(exercise_set, "ML", "")
    assert stamps.changes(notebook, exercise_set) == []
    source = nbformat.read(versions.SOURCES / f"{NAME}.ipynb", 4)
    test = next(filter(versions.is_test, source.cells))
    test.source += "\n# and one more"
    nbformat.write(source, tmp_path / f"{NAME}.ipynb")
    [note] = stamps.changes(notebook, load_set(tmp_path / f"{NAME}.ipynb", course, Limits()))
    assert note.endswith("since then these exercises have changed: 1.0")


def test_a_stamp_of_another_course_or_student_is_flagged():
    stamp = {"course": "ML, fall", "student": "72"}
    assert stamps.misplaced(stamp, "ML, spring", {"71", "annlee"}) == [
        "it was handed out for ML, fall",
        "it is the variant of 72",
    ]
    assert stamps.misplaced(stamp, "ML, fall", {"72"}) == []
    assert stamps.misplaced(stamp, "", None) == []
    assert stamps.misplaced({}, "ML", {"72"}) == []


def test_a_set_that_is_not_there_is_told_in_a_sentence(capsys: pytest.CaptureFixture[str]):
    assert handout.main("09_no") == 1
    assert capsys.readouterr().err.startswith(f"Which set? Type 'make handout SET={NAME}'; there")
