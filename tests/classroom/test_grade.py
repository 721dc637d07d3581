"""A class hands in all sorts of things; each gets a grade or a reason, and none stops the others.

Everything is graded once, in one go; then each test looks at one student.
"""

import csv
import errno
import os
import re
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import nbformat
import psutil
import pytest
from filelock import FileLock
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook

from classroom import grade, report
from classroom import grading as one
from classroom.handins import Submission
from classroom.kernels import Means
from classroom.records import Grade, Workplace
from classroom.sets import ExerciseSet
from classroom.versions import cell_name, grading, is_test

DOUBLE = "def double(x):\n    return 2 * x"
MEAN = "def mean(values):\n    return sum(values) / len(values)"
SYNTAX = "def double(x) return x"
HANG = "def double(x):\n    while True:\n        pass"
STUBBORN = """def mean(values):
    while True:
        try:
            while True:
                pass
        except KeyboardInterrupt:
            pass"""
EATER = """def mean(values):
    eaten = []
    while True:
        eaten.append(bytearray(50_000_000))"""
EXIT = "import os\nos._exit(0)"
LOUD = """def double(x):
    for _ in range(50):  # the tests call it twice
        print("x" * 1_000_000)
    return 2 * x"""
WARNING = "import warnings\n" + MEAN.replace("return", "warnings.warn('hm')\n    return")
# nbgrader takes a number that a test cell returns for its points.
CHEAT = "def double(x):\n    get_ipython().displayhook(2)\n    return 0"
LEFT_BEHIND = "import time; time.sleep(600.25)"
CHILD = f"""import subprocess, sys
subprocess.Popen([sys.executable, "-c", {LEFT_BEHIND!r}], start_new_session=True)"""

SLEEP = "import time\ndef double(x):\n    time.sleep(600)"
SHELL = f"!pip list\n{DOUBLE}\nfiles = !ls"
PATCHED = """from mamlpp import checks
checks.double = print
import builtins
shell = type(get_ipython())
run = shell.run_cell_async
async def passes(self, code, *rest, **more):
    code = "pass" if "assert" in code else code
    return await run(self, code, *rest, **more | {"transformed_cell": code})
shell.run_cell_async = passes
def double(x):
    return 0"""

OURS = "def mean(values):\n    return math.fsum(values) / len(values)"

SECONDS_PER_CELL = 3


def answers(notebook: NotebookNode, double: str = DOUBLE, mean: str = MEAN) -> NotebookNode:
    cells = {cell_name(cell): cell for cell in notebook.cells}
    cells["double"].source, cells["mean"].source = double, mean
    return notebook


def without(notebook: NotebookNode, *names: str) -> NotebookNode:
    notebook.cells = [cell for cell in notebook.cells if cell_name(cell) not in names]
    return notebook


def easier(notebook: NotebookNode) -> NotebookNode:
    for cell in filter(is_test, notebook.cells):
        cell.source = "assert True"
        grading(cell).update(points=100, locked=False)
        cell.metadata["tags"] = ["skip-execution"]
    return notebook


def split(notebook: NotebookNode) -> NotebookNode:
    """With the answer in two cells, as the menu of JupyterLab splits a cell."""
    place = next(i for i, cell in enumerate(notebook.cells) if cell_name(cell) == "mean")
    first = nbformat.from_dict(notebook.cells[place])
    first.source = "def mean(values):\n    total = sum(values)"
    notebook.cells[place].source = "    return total / len(values)"
    notebook.cells.insert(place, first)
    return notebook


def copied(notebook: NotebookNode) -> NotebookNode:
    """With the answer in a copy above the cell, which stays as it was handed out."""
    place = next(i for i, cell in enumerate(notebook.cells) if cell_name(cell) == "double")
    above = nbformat.from_dict(notebook.cells[place])
    above.source = DOUBLE
    notebook.cells.insert(place, above)
    return notebook


def stripped(notebook: NotebookNode) -> NotebookNode:
    """Without metadata and identifiers, as other programs save a notebook."""
    cells = [
        {"cell_type": cell.cell_type, "source": cell.source, "metadata": {}}
        | ({"outputs": [], "execution_count": None} if cell.cell_type == "code" else {})
        for cell in notebook.cells
    ]
    return nbformat.from_dict({"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": cells})


def with_set_2(notebook: NotebookNode, sources: Path) -> NotebookNode:
    other = nbformat.read(sources / "02_signs.ipynb", 4)
    for cell in other.cells:
        cell.id = f"second-{cell.id}"
        cell.source = re.sub(r"### BEGIN HIDDEN.*### END HIDDEN TESTS", "", cell.source, flags=re.S)
        cell.source = re.sub(r" *### .*\n?", "", cell.source)
    notebook.cells += other.cells
    return notebook


def reading(source: Path) -> str:
    return f"text = open({str(source)!r}).read()\n{MEAN}"


def writing(target: Path) -> str:
    return f"open({str(target)!r}, 'w').write('all points')\n{DOUBLE}"


@dataclass(frozen=True)
class Class:
    """What came out of grading the whole class once."""

    folder: Path
    sources: Path

    @property
    def table(self) -> dict[str, dict[str, str]]:
        with (self.folder / "grades" / "points.csv").open(encoding="utf-8", newline="") as file:
            return {row["student"]: row for row in csv.DictReader(file)}

    def feedback(self, student: str) -> str:
        (page,) = (self.folder / "grades" / "feedback" / student).glob("*.html")
        return page.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def graded(
    sources: Path,
    handed_out: Callable[[], NotebookNode],
    tmp_path_factory: pytest.TempPathFactory,
    worker_id: str,
) -> Class:
    """The class, graded once, also where two processes run the tests."""
    folder = tmp_path_factory.getbasetemp()
    folder = (folder if worker_id == "master" else folder.parent) / "class"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            hand_in(folder / "submitted", sources, handed_out)
            assert grade.main(**arguments(folder, sources)) == 0
    return Class(folder, sources)


def hand_in(folder: Path, sources: Path, new: Callable[[], NotebookNode]) -> None:
    folder.mkdir(parents=True)
    students = {
        "solved": answers(new()),
        "untouched": new(),
        "peeks": answers(new(), SYNTAX, reading(sources / "01_sums.ipynb")),
        "hangs": answers(new(), HANG, EATER),
        "stubborn": answers(new(), mean=STUBBORN),
        "deletes": without(answers(new(), mean=WARNING), "double-test", "mean-test"),
        "easier": easier(answers(new(), CHEAT)),
        "writes": answers(new(), writing(folder / "solved" / "01_sums.ipynb")),
        "exits": answers(new(), mean=EXIT),
        "loud": answers(new(), LOUD, f"{CHILD}\n{MEAN}"),
        "split": split(answers(new())),
        "copied": copied(answers(new(), new().cells[3].source)),
        "stripped": stripped(answers(new())),
        "both": with_set_2(answers(new()), sources),
        "shell": answers(new(), SHELL),
        "sleeps": answers(new(), SLEEP),
        "patches": answers(new(), PATCHED),
        "source": nbformat.read(sources / "01_sums.ipynb", 4),
        "ours": answers(new(), "def double(x):\n    return x + x", OURS),
        "course": new_notebook(cells=[new_code_cell("print('chemistry')")]),
    }
    for student, notebook in students.items():
        (folder / student).mkdir()
        name = "my homework.ipynb" if student == "writes" else "01_sums.ipynb"
        nbformat.write(notebook, folder / student / name)
    for student, text in {"broken": '{"cells": [', "nothing": ""}.items():
        (folder / f"01_sums_{student}.ipynb").write_text(text, encoding="utf-8")
    (folder / "absent").mkdir()
    other_ways(folder, sources, new)


def other_ways(folder: Path, sources: Path, new: Callable[[], NotebookNode]) -> None:
    """What course systems, other editors and people in a hurry make of a file."""
    text = nbformat.writes(answers(new()))
    (folder / "Lee Ann_71_assignsubmission_file_").mkdir()
    (folder / "Lee Ann_71_assignsubmission_file_" / "01_sums.IPYNB").write_text(text, "utf-8-sig")
    (folder / "Lee Ann_71_assignsubmission_onlinetext_").mkdir()
    (folder / "Lee Ann_71_assignsubmission_onlinetext_" / "onlinetext.html").touch()
    copies = {"01_sums": text, "01_sums-Copy1": nbformat.writes(new())}
    for age, (name, made) in enumerate(copies.items()):
        path = folder / "hurry" / f"{name}.ipynb"
        path.parent.mkdir(exist_ok=True)
        path.write_text(made, encoding="utf-8")
        os.utime(path, (age, age))
    kit = folder / "kit" / "mamlpp-main"
    for name in ("mamlpp", "exercises", "notebooks/exercises"):
        (kit / name).mkdir(parents=True)
    shutil.copy(sources / "01_sums.ipynb", kit / "exercises")
    nbformat.write(new(), kit / "notebooks" / "exercises" / "01_sums.ipynb")
    (folder / "links").mkdir()
    (folder / "links" / "01_sums.ipynb").symlink_to(folder / "solved" / "01_sums.ipynb")
    for student in ("late 1", "late 2"):
        (folder / "late ones" / student).mkdir(parents=True)
        (folder / "late ones" / student / "01_sums.ipynb").write_text(text, encoding="utf-8")


def arguments(folder: Path, sources: Path) -> dict:
    return {
        "submitted": folder / "submitted",
        "sources": sources,
        "output": folder / "grades",
        "seconds_per_cell": SECONDS_PER_CELL,
        "memory": 1,
        "set": "01_sums",
    }


# Points of the first and the second exercise, and the reason.
CAME_OUT = {
    "solved": ("2", "3", ""),
    "untouched": ("0", "0", "Nothing was answered."),
    "peeks": (
        "0",
        "0",
        "1.1: SyntaxError: expected ':' (line 1); 1.2: PermissionError: reading 01_sums.ipynb "
        "outside its own folder: not allowed while a submission is graded.",
    ),
    "hangs": ("0", "0", "1.1: stopped after 3 s; 1.2: MemoryError."),
    "stubborn": (
        "2",
        "0",
        "1.2: not run to its end, because its Python process could not be interrupted.",
    ),
    "deletes": ("2", "3", "Deleted test cells were put back (double-test, mean-test)."),
    "easier": (
        "0",
        "3",
        "Changed test cells were put back (double-test, mean-test); 1.1: double of 2 is 4.",
    ),
    "writes": (
        "0",
        "3",
        "The file was named my homework.ipynb; 1.1: PermissionError: writing 01_sums.ipynb outside "
        "its own folder: not allowed while a submission is graded.",
    ),
    "exits": ("2", "0", "1.2: not run to its end, because its Python process had died."),
    "loud": ("2", "3", ""),
    "split": ("2", "3", "An answer that was split over two cells was joined (mean)."),
    "copied": ("2", "3", "An empty copy of an answered cell was left out (double)."),
    "stripped": ("2", "3", ""),
    "both": ("2", "3", "01_sums.ipynb holds 2 sets: 01_sums, 02_signs."),
    "shell": ("2", "3", "Not run: !pip list; not run: files = !ls."),
    "sleeps": ("0", "3", "1.1: stopped after 3 s."),
    "patches": ("2", "3", ""),
    "source": ("2", "3", "Changed test cells were put back (double-test, mean-test)."),
    "ours": ("2", "3", ""),
    "Lee Ann_71": ("2", "3", ""),
    "hurry": ("2", "3", "01_sums-Copy1.ipynb is newer, but holds no answer: 01_sums.ipynb counts."),
    "kit": ("0", "0", "Nothing was answered."),
    "links": ("0", "0", "It is a link to a file, not a file."),
    "late 1": ("2", "3", ""),
    "late 2": ("2", "3", ""),
    "course": ("0", "0", "It has no cell of 01_sums: is it from another course?"),
    "broken": ("0", "0", "The file is no notebook, or it is damaged."),
    "nothing": ("0", "0", "The file is empty."),
    "absent": ("0", "0", "No notebook was handed in."),
}


@pytest.mark.parametrize("student", CAME_OUT)
def test_each_gets_points_or_a_reason(student: str, graded: Class):
    row = graded.table[student]
    reason = row["reason"]
    assert (row["1.1"], row["1.2"], reason) == CAME_OUT[student]
    assert row["total"] == str(int(row["1.1"]) + int(row["1.2"]))
    assert (row["set"], row["max"]) == ("01_sums", "5")


FLAGS = {
    "patches": (
        "it changes checks.double; a wrong answer passes the tests of 1.1, 1.2 in its kernel"
    ),
    "source": "the file is a source with the solutions; every answer is the kit's own solution",
    "ours": "every answer is the kit's own solution",
    "kit": "the whole kit was handed in",
}


@pytest.mark.parametrize("student", CAME_OUT)
def test_what_is_not_the_student_s_own_is_flagged(student: str, graded: Class):
    assert graded.table[student]["look"] == FLAGS.get(student, "")


def test_the_table_is_one_that_a_teacher_can_read(graded: Class):
    text = (graded.folder / "grades" / "points.csv").read_text(encoding="utf-8")
    first, *rest = text.splitlines()
    assert first == "student,set,1.1,1.2,total,max,reason,look"
    assert [line.split(",")[0] for line in rest] == sorted(CAME_OUT)


def test_the_page_of_feedback_says_what_happened(graded: Class):
    assert "<strong>5 of 5 points.</strong>" in graded.feedback("solved")
    page = graded.feedback("easier")
    assert "<strong>3 of 5 points.</strong>" in page
    assert '<td class="points">0 of 2</td><td>double of 2 is 4</td>' in page
    assert "### BEGIN HIDDEN TESTS" in page  # the student learns what was tested
    assert "0 of 5 points" in graded.feedback("nothing")
    assert "The file is empty." in graded.feedback("nothing")


def test_the_feedback_of_a_loud_submission_is_short(graded: Class):
    page = graded.feedback("loud")
    assert len(page) < 500_000
    assert "and more, not kept" in page


def test_what_a_submission_wrote_elsewhere_is_not_there(graded: Class):
    notebook = nbformat.read(graded.folder / "submitted" / "solved" / "01_sums.ipynb", 4)
    assert any(cell.source == DOUBLE for cell in notebook.cells)


def test_what_a_submission_started_has_ended(graded: Class):
    assert [process for process in psutil.process_iter() if LEFT_BEHIND in command(process)] == []


def command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_what_was_graded_is_not_graded_again_until_it_changes(
    graded: Class,
    handed_out: Callable[[], NotebookNode],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    ran = []

    def grade_anew(submission: Submission, *_: object) -> Grade:
        ran.append(submission.path)
        return Grade(submission.student, "01_sums", {}, "It was run again.")

    starts = []
    monkeypatch.setattr(grade, "kernels", lambda *_: starts.append(1) or nullcontext())
    monkeypatch.setattr(one, "grade_anew", grade_anew)
    folder = shutil.copytree(graded.folder, tmp_path / "class", symlinks=True)
    table = folder / "grades" / "points.csv"
    before = table.read_bytes()
    assert grade.main(**arguments(folder, graded.sources)) == 0
    assert ran == starts == []  # no kernel is started for it either
    assert table.read_bytes() == before

    path = folder / "submitted" / "untouched" / "01_sums.ipynb"
    nbformat.write(answers(handed_out()), path)
    assert grade.main(**arguments(folder, graded.sources)) == 0
    assert ran == [path]
    assert "untouched,01_sums,,,0,0,It was run again." in table.read_text(encoding="utf-8")


def test_another_set_is_another_table(graded: Class, tmp_path: Path):
    other = {"set": "02_signs", "output": tmp_path}
    assert grade.main(**arguments(graded.folder, graded.sources) | other) == 0
    # Of this set nobody has handed in anything, whoever else there is.
    lines = (tmp_path / "points.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "student,set,2.1,total,max,reason,look"
    assert "absent,02_signs,0,0,1,No notebook was handed in.," in lines
    assert 'both,02_signs,1,1,1,"01_sums.ipynb holds 2 sets: 01_sums, 02_signs.",' in lines


def test_words_of_a_student_are_no_formula_and_break_no_table(tmp_path: Path):
    reasons = ["=1+1", "\ud800", "fine"]
    grades = [Grade(str(n), "", reason=reason) for n, reason in enumerate(reasons)]
    report.write_points(grades, tmp_path / "points.csv")
    with (tmp_path / "points.csv").open(encoding="utf-8", newline="") as file:
        found = [row["reason"] for row in csv.DictReader(file)]
    assert found == ["'=1+1", "\\ud800", "fine"]


def test_a_table_that_is_open_elsewhere_is_told_in_a_sentence(
    graded: Class, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def refuses(*_: object) -> None:  # as Windows does
        raise PermissionError(13, "in use", "grades/points.csv")

    monkeypatch.setattr(report, "write_points", refuses)
    assert grade.main(**arguments(graded.folder, graded.sources)) == 1
    assert "points.csv cannot be written: close it where it is open" in capsys.readouterr().err


def test_a_fault_of_the_grader_is_the_reason_of_one_submission(
    tmp_path: Path, sets: dict[str, ExerciseSet], monkeypatch: pytest.MonkeyPatch
):
    def fails(*_: object) -> None:
        raise ValueError("of some kind")

    monkeypatch.setattr(one, "fingerprint", fails)
    place = Workplace(tmp_path, tmp_path, tmp_path, tmp_path, "")
    (tmp_path / "a.ipynb").touch()
    made = one.grade(Submission("ann", "01_sums", tmp_path / "a.ipynb"), sets, place, None)
    assert made.reason == "The grader failed on it (ValueError: of some kind)."
    assert (made.total, made.most) == (0, 5)


def test_where_nothing_forks_each_kernel_is_a_new_process_behind_the_hook(
    sets: dict[str, ExerciseSet], handed_out: Callable[[], NotebookNode], tmp_path: Path
):
    path = tmp_path / "submitted" / "01_sums.ipynb"
    path.parent.mkdir()
    nbformat.write(answers(handed_out(), f"open({str(path)!r}, 'w')\n{DOUBLE}"), path)
    with grade.workplace(tmp_path, path.parent, tmp_path / "grades", "smoke") as place:
        grade.copy_package(place)
        made = one.grade(Submission("ann", "01_sums", path), sets, place, None)
    assert made.points == {"1.1": (0.0, 2.0), "1.2": (3.0, 3.0)}
    assert "writing 01_sums.ipynb outside its own folder" in made.reason


@pytest.mark.parametrize("trust", [False, True])
def test_what_a_system_does_not_contain_is_said_and_needs_trust(
    trust: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(grade.sys, "platform", "darwin")
    place = Workplace(tmp_path, tmp_path, tmp_path, tmp_path, "")
    words = "does not keep submissions from your files, the network, your other programs"
    if trust:
        with grade.kernels(place, trust) as template:
            assert template is None
        assert f"{words}; you trust them." in capsys.readouterr().err
        return
    with pytest.raises(grade.GradingError, match=words), grade.kernels(place, trust):
        pass


@pytest.mark.parametrize(
    ("means", "words"),
    [
        (Means(7, True), ""),
        (Means(7, False, True), ""),
        (Means(4, False, True), "your other programs"),
        (Means(7, False), "UDP"),
        (Means(4, False), "UDP, your other programs"),
        (Means(1, False), "the network, your other programs"),
        (Means(0, False), "your files, the network, your other programs"),
    ],
)
def test_what_is_open_is_named(means: Means, words: str):
    assert means.left_open() == words


def test_a_full_disk_ends_grading_with_a_sentence(
    sets: dict[str, ExerciseSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(one, "fingerprint", full)
    place = Workplace(tmp_path, tmp_path, tmp_path, tmp_path, "")
    submissions = [Submission(name, "01_sums", tmp_path / "a.ipynb") for name in "ab"]
    with pytest.raises(grade.GradingError, match="The disk is full: make room"):
        list(grade.grade_all(submissions, sets, place, None, workers=1))


# What a teacher may get wrong


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "Which folder? Type 'make grade SUBMITTED=folder'."),
        ({"submitted": Path("no-such-folder")}, "There is no folder no-such-folder."),
        (
            {"submitted": Path("tests"), "set": "09_no"},
            "There is no set 09_no; there are: 01_sums, 02_signs.",
        ),
    ],
)
def test_a_mistake_of_the_teacher_is_told_in_one_sentence(
    arguments: dict, sentence: str, sources: Path, capsys: pytest.CaptureFixture[str]
):
    assert grade.main(**arguments, sources=sources) == 1
    assert capsys.readouterr().err == f"{sentence}\n"


def test_a_folder_without_notebooks_is_a_mistake(
    sources: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert grade.main(tmp_path, sources=sources, output=tmp_path / "grades") == 1
    assert capsys.readouterr().err == f"There is no notebook in {tmp_path}.\n"
    assert not (tmp_path / "grades").exists()
