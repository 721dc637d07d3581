"""A class hands in all sorts of things; each gets a grade or a reason, and none stops the others.

Everything is graded once, in one go; then each test looks at one student.
"""

import csv
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import grade
import nbformat
import psutil
import pytest
from exercises import cell_name, for_class, grading, is_test, read_source, release
from filelock import FileLock
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook

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

SECONDS_PER_CELL = 6


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
def handed_out(sources: Path, course: Path) -> Callable[[], NotebookNode]:
    path = release(for_class(read_source(sources / "01_sums.ipynb")), "01_sums", course)
    text = path.read_text(encoding="utf-8")
    return lambda: nbformat.reads(text, 4)


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
        "course": new_notebook(cells=[new_code_cell("print('chemistry')")]),
    }
    for student, notebook in students.items():
        (folder / student).mkdir()
        name = "my homework.ipynb" if student == "writes" else "01_sums.ipynb"
        nbformat.write(notebook, folder / student / name)
    for student, text in {"broken": '{"cells": [', "nothing": ""}.items():
        (folder / f"01_sums_{student}.ipynb").write_text(text, encoding="utf-8")
    (folder / "absent").mkdir()


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
        "1.1: SyntaxError: expected ':'; 1.2: PermissionError: reading 01_sums.ipynb outside its "
        "own folder: not allowed while a submission is graded.",
    ),
    "hangs": ("0", "0", "1.1: stopped after 6 s; 1.2: MemoryError."),
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
    "course": ("0", "0", "It has no cell of 01_sums: is it from another course?"),
    "broken": ("0", "0", "The file is no notebook, or it is damaged."),
    "nothing": ("0", "0", "The file is empty."),
    "absent": ("0", "0", "No notebook was handed in."),
}


@pytest.mark.parametrize("student", CAME_OUT)
def test_each_gets_points_or_a_reason(student: str, graded: Class):
    row = graded.table[student]
    reason = re.sub(r" \(\d+.py, line 1\)", "", row["reason"])  # where the SyntaxError is
    assert (row["1.1"], row["1.2"], reason) == CAME_OUT[student]
    assert row["total"] == str(int(row["1.1"]) + int(row["1.2"]))
    assert (row["set"], row["max"]) == ("01_sums", "5")


def test_the_table_is_one_that_a_teacher_can_read(graded: Class):
    text = (graded.folder / "grades" / "points.csv").read_text(encoding="utf-8")
    first, *rest = text.splitlines()
    assert first == "student,set,1.1,1.2,total,max,reason"
    assert [line.split(",")[0] for line in rest] == sorted(CAME_OUT)


def test_the_page_of_feedback_says_what_happened(graded: Class):
    assert "<strong>5 of 5 points.</strong>" in graded.feedback("solved")
    page = graded.feedback("easier")
    assert "<strong>3 of 5 points.</strong>" in page
    assert "<td>0 of 2</td>\n<td>double of 2 is 4</td>" in page
    assert "### BEGIN HIDDEN TESTS" in page  # the student learns what was tested
    assert "0 points. The file is empty." in graded.feedback("nothing")


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

    def run(job: dict, limits: grade.Limits) -> dict:
        ran.append(job["submission"])
        return {"reason": "it was run again"}

    monkeypatch.setattr(grade, "run", run)
    folder = shutil.copytree(graded.folder, tmp_path / "class")
    table = folder / "grades" / "points.csv"
    before = table.read_bytes()
    assert grade.main(**arguments(folder, graded.sources)) == 0
    assert ran == []
    assert table.read_bytes() == before

    path = folder / "submitted" / "untouched" / "01_sums.ipynb"
    nbformat.write(answers(handed_out()), path)
    assert grade.main(**arguments(folder, graded.sources)) == 0
    assert ran == [str(path)]
    assert "untouched,01_sums,0,0,0,5,It was run again." in table.read_text(encoding="utf-8")


def test_another_set_is_another_table(graded: Class, tmp_path: Path):
    other = {"set": "02_signs", "output": tmp_path}
    assert grade.main(**arguments(graded.folder, graded.sources) | other) == 0
    # Of this set nobody has handed in anything, whoever else there is.
    assert (tmp_path / "points.csv").read_text(encoding="utf-8").splitlines() == [
        "student,set,2.1,total,max,reason",
        "absent,02_signs,0,0,1,No notebook was handed in.",
    ]


def test_words_of_a_student_are_no_formula_and_break_no_table(tmp_path: Path):
    reasons = ["=1+1", "\ud800", "fine"]
    grades = [grade.Grade(str(n), "", reason=reason) for n, reason in enumerate(reasons)]
    grade.write_table(grades, {}, tmp_path / "points.csv")
    with (tmp_path / "points.csv").open(encoding="utf-8", newline="") as file:
        found = [row["reason"] for row in csv.DictReader(file)]
    assert found == ["'=1+1", "\\ud800", "fine"]


def test_a_table_that_is_open_elsewhere_is_told_in_a_sentence(
    graded: Class, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def refuses(*_: object) -> None:  # as Windows does
        raise PermissionError

    monkeypatch.setattr(grade, "write_table", refuses)
    assert grade.main(**arguments(graded.folder, graded.sources)) == 1
    assert "points.csv cannot be written: close it where it is open" in capsys.readouterr().err


def test_a_fault_of_the_grader_is_the_reason_of_one_submission(
    tmp_path: Path, sets: dict[str, grade.ExerciseSet], monkeypatch: pytest.MonkeyPatch
):
    def fails(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(grade, "fingerprint", fails)
    place = grade.Workplace(tmp_path, tmp_path, tmp_path, tmp_path, "")
    made = grade.grade(grade.Submission("ann", "01_sums", tmp_path / "a.ipynb"), sets, place)
    assert made.reason == "The grader failed on it (OSError: no space left)."
    assert (made.total, made.most) == (0, 5)


# Whose a file is, and of which set


@pytest.fixture(scope="session")
def sets(sources: Path, course: Path) -> dict[str, grade.ExerciseSet]:
    return grade.load_sets(sources, course, grade.Limits())


@pytest.mark.parametrize(
    ("path", "student"),
    [
        ("ann/01_sums.ipynb", "ann"),
        ("Ann Lee [7]/homework/sums final (2).ipynb", "Ann Lee [7]"),
        ("01_sums_ann.ipynb", "ann"),
        ("ann_01_sums.ipynb", "ann"),
        ("leeann_123_456_01_sums-1.ipynb", "leeann_123_456"),
        ("my homework.ipynb", "my homework"),
    ],
)
def test_folder_or_name_tells_the_student_and_cells_the_set(
    path: str,
    student: str,
    tmp_path: Path,
    sets: dict[str, grade.ExerciseSet],
    handed_out: Callable[[], NotebookNode],
):
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(handed_out(), file)
    (found,) = grade.collect(tmp_path, sets, "")
    assert (found.student, found.set, found.path, found.fault) == (student, "01_sums", file, "")
    renamed = () if "01_sums" in path else (f"the file was named {file.name}",)
    assert found.notes == renamed


def test_a_wrong_name_is_noted_and_with_one_set_a_fault(
    tmp_path: Path, sets: dict[str, grade.ExerciseSet], handed_out: Callable[[], NotebookNode]
):
    nbformat.write(handed_out(), tmp_path / "02_signs_ann.ipynb")
    (found,) = grade.collect(tmp_path, sets, "")
    assert (found.set, found.notes) == ("01_sums", ("the file was named 02_signs_ann.ipynb",))
    (refused,) = grade.collect(tmp_path, sets, "02_signs")
    assert (refused.student, refused.fault) == ("ann", "it holds 01_sums, not 02_signs")


def test_of_two_files_the_newer_one_counts(
    tmp_path: Path, sets: dict[str, grade.ExerciseSet], handed_out: Callable[[], NotebookNode]
):
    (tmp_path / "ann").mkdir()
    for age, name in enumerate(["a 01_sums.ipynb", "01_sums.ipynb", "old 01_sums.ipynb"]):
        nbformat.write(handed_out(), tmp_path / "ann" / name)
        os.utime(tmp_path / "ann" / name, (age % 2, age % 2))
    (found,) = grade.collect(tmp_path, sets, "")
    assert found.path == tmp_path / "ann" / "01_sums.ipynb"
    assert found.notes == ("01_sums.ipynb is newer than old 01_sums.ipynb",)


def test_copies_that_nobody_handed_in_are_passed_over(
    tmp_path: Path, sets: dict[str, grade.ExerciseSet], handed_out: Callable[[], NotebookNode]
):
    for folder in ("ann/.ipynb_checkpoints", "__MACOSX/ann"):
        (tmp_path / folder).mkdir(parents=True)
        nbformat.write(handed_out(), tmp_path / folder / "01_sums.ipynb")
    (found,) = grade.collect(tmp_path, sets, "")
    assert (found.student, found.fault) == ("ann", "no notebook was handed in")


def test_names_that_are_one_folder_to_some_systems_are_a_mistake(
    tmp_path: Path, sets: dict[str, grade.ExerciseSet], handed_out: Callable[[], NotebookNode]
):
    (tmp_path / "ann").mkdir()
    nbformat.write(handed_out(), tmp_path / "ann" / "01_sums.ipynb")
    nbformat.write(handed_out(), tmp_path / "01_sums_Ann.ipynb")
    with pytest.raises(grade.GradingError, match=r"'Ann' and 'ann' are one name"):
        grade.collect(tmp_path, sets, "")


@pytest.mark.parametrize(
    ("student", "folder"),
    [
        ("ann", "ann"),
        ("Ann B. Lee", "Ann B. Lee"),
        ("con", "con_"),
        ("AUX.tar", "AUX.tar_"),
        ("Lpt1 ", "Lpt1_"),
        ("ann.", "ann_"),
        ("conrad", "conrad"),
        ("...", "__"),
    ],
)
def test_a_student_may_have_any_name(student: str, folder: str):
    assert grade.folder_name(student) == folder


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}',
        '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [7]}',
        '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [{"metadata": 3}]}',
        "\x00\x01",
        "[" * 100_000,
    ],
)
def test_what_is_no_notebook_is_a_fault_in_words(text: str, tmp_path: Path):
    path = tmp_path / "a.ipynb"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(grade.GradingError, match=r"^the (file is no notebook|notebook has no)"):
        grade.read_submission(path)


def test_a_source_may_ask_for_more_time(sources: Path, course: Path, tmp_path: Path):
    notebook = nbformat.read(sources / "02_signs.ipynb", 4)
    notebook.metadata["grading"] = {"seconds_per_cell": 300, "seconds": 20}
    nbformat.write(notebook, tmp_path / "02_signs.ipynb")
    limits = grade.load_set(tmp_path / "02_signs.ipynb", course, grade.Limits()).limits
    assert limits == grade.Limits(seconds_per_cell=300, seconds=600)


# What a submission may use


def watched(code: str, folder: Path, **limits: int) -> str:
    mark = f"watched-{uuid4()}"  # Other tests run at the same time.
    environment = os.environ | {grade.MARK: mark}
    command = [sys.executable, "-c", f"import subprocess, sys\n{code}"]
    process = subprocess.Popen(command, env=environment, cwd=folder)
    try:
        return grade.watch(process, grade.Limits(**limits))
    finally:
        grade.stop([process.pid])
        process.wait()
        grade.stop(grade.marked(mark))


START = (
    "child = subprocess.Popen([sys.executable, '-c', {0!r}])\nopen('ended', 'w').write(str({1}))"
)


def test_what_uses_too_much_memory_is_stopped_but_not_who_started_it(tmp_path: Path):
    code = START.format("x = bytearray(10**9); import time; time.sleep(600)", "child.wait()")
    found = watched(code, tmp_path, bytes=200_000_000)
    assert found == "it was stopped when it used more than 0.2 GB of memory"
    assert (tmp_path / "ended").read_text() == "-9"


def test_what_starts_too_many_processes_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(grade, "MOST_PROCESSES", 2)
    many = "[subprocess.Popen(['sleep', '600']) for _ in range(3)][0].wait()"
    assert watched(many, tmp_path) == "it was stopped when it ran more than 2 processes"


def test_what_does_not_end_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(grade, "GRACE_SECONDS", 0)
    assert watched("import time; time.sleep(600)", tmp_path, seconds=1) == "it took more than 1 s"


def test_an_interruption_stops_what_runs_and_what_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    ended: list[str] = []

    def slow(submission: grade.Submission, *_: object) -> grade.Grade:
        if submission.student != "first":
            ended.append(watched("import time; time.sleep(600)", tmp_path))
        return grade.Grade(submission.student, "")

    monkeypatch.setattr(grade, "grade", slow)
    students = [grade.Submission(name, "", None) for name in ("first", "second", "third")]
    grades = grade.grade_all(students, {}, None, workers=1)
    assert next(grades).student == "first"
    grades.close()
    assert ended in ([], ["it was interrupted"])
    assert not grade.INTERRUPTED.is_set()


def test_processes_left_behind_are_found_by_their_mark(tmp_path: Path):
    code = "subprocess.Popen(['sleep', '600'], start_new_session=True)"
    assert watched(code, tmp_path) == ""
    ends = time.monotonic() + 20
    while grade.marked("watched") and time.monotonic() < ends:
        time.sleep(0.1)  # a process that was killed takes a moment to end
    assert grade.marked("watched") == []


def test_a_submission_sees_no_secret_of_the_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SECRET_TOKEN", "1234")
    assert "1234" not in grade.environment(tmp_path, "mark", "laptop").values()


def test_a_submission_gets_what_windows_needs_and_a_home_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SYSTEMROOT", "C:\\Windows")
    monkeypatch.setenv("APPDATA", "C:\\Users\\teacher\\AppData\\Roaming")
    made = grade.environment(tmp_path, "mark", "laptop")
    assert made["SYSTEMROOT"] == "C:\\Windows"
    assert {made[name] for name in ("HOME", "APPDATA", "LOCALAPPDATA")} == {str(tmp_path / ".home")}


def test_the_backend_and_the_settings_of_the_teacher_stay_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PYTHONSTARTUP", "mine.py")
    monkeypatch.setenv("MPLBACKEND", "nowhere")
    made = grade.environment(tmp_path, "mark", "laptop")
    assert "PYTHONSTARTUP" not in made
    assert made["MPLBACKEND"] == "agg"
    assert Path(made["MATPLOTLIBRC"]).is_file()


# The fence


def behind_fence(code: str, folder: Path, *more: Path) -> tuple[str, str]:
    """Run `code` with `work` to write in and `solutions` not to read; return its last words."""
    for name in ("work", "solutions"):
        (folder / name).mkdir()
    (folder / "solutions" / "01.ipynb").write_text("secret", encoding="utf-8")
    (folder / "work" / "link").symlink_to(folder / "solutions" / "01.ipynb")
    rules = {
        "write": [str(folder / "work"), os.devnull],
        "unread": [str(folder)],
        "read": [str(folder / "work")],
        "bytes": 4_000_000_000,
        "log": str(folder / "work" / "log"),
        "spare": [os.getpid()],
    }
    path = os.pathsep.join(map(str, [grade.TOOLS / "fence", *more]))
    environment = {"PYTHONPATH": path, "MAMLPP_FENCE": json.dumps(rules)}
    before = "import os, pathlib, shutil, socket, sqlite3, subprocess, sys\n"
    done = subprocess.run(
        [sys.executable, "-c", before + code],
        env=os.environ | environment,
        cwd=folder / "work",
        capture_output=True,
        text=True,
        check=False,
    )
    log = folder / "work" / "log"
    return (done.stderr or done.stdout).strip(), log.read_text() if log.exists() else ""


REFUSED = {
    "open('../solutions/01.ipynb')": "reading 01.ipynb outside its own folder",
    "open(b'../solutions/01.ipynb')": "reading 01.ipynb outside its own folder",
    "os.open(pathlib.Path('link'), os.O_RDONLY)": "reading 01.ipynb outside its own folder",
    "list(pathlib.Path('..').iterdir())": "outside its own folder",
    "shutil.copy('../solutions/01.ipynb', '.')": "reading 01.ipynb outside its own folder",
    "open('../mine', 'w')": "writing mine outside its own folder",
    "open('../solutions/01.ipynb', 'r+')": "writing 01.ipynb outside its own folder",
    "os.remove('../solutions/01.ipynb')": "writing 01.ipynb outside its own folder",
    "os.rename('../solutions/01.ipynb', 'x')": "writing 01.ipynb outside its own folder",
    "os.link('../solutions/01.ipynb', 'x')": "writing 01.ipynb outside its own folder",
    "shutil.rmtree('../solutions')": "outside its own folder",
    "sqlite3.connect('../solutions/01.ipynb')": "writing 01.ipynb outside its own folder",
    "subprocess.run(['cat', '../solutions/01.ipynb'])": "starting the program cat",
    "os.system('cat ../solutions/01.ipynb')": "starting the program cat",
    "os.execvp('cat', ['cat', 'link'])": "starting the program",
    "os.kill(os.getppid(), 9)": "stopping the grader",
    "subprocess.run([sys.executable, '-c', 'open(\"link\")'], check=True)": "reading 01.ipynb",
}


@pytest.mark.parametrize("code", REFUSED)
def test_the_fence_refuses_and_notes(code: str, tmp_path: Path):
    words, log = behind_fence(code, tmp_path)
    assert "PermissionError" in words
    assert REFUSED[code] in words
    assert REFUSED[code] in log
    assert (tmp_path / "solutions" / "01.ipynb").read_text(encoding="utf-8") == "secret"


ALLOWED = [
    "open('mine', 'w').write('x'); os.rename('mine', 'yours'); os.remove('yours')",
    "os.mkdir('a'); shutil.rmtree('a'); open(os.devnull, 'w')",
    "sqlite3.connect(':memory:')",
    "os.makedirs('..', exist_ok=True)",
    "subprocess.run([sys.executable, '-c', 'import json'], check=True)",
    "import platform; platform.processor()",
    "os.kill(os.getpid(), 0)",
]


@pytest.mark.parametrize("code", ALLOWED)
def test_the_fence_lets_the_rest_pass(code: str, tmp_path: Path):
    assert behind_fence(code, tmp_path) == ("", "")


def fence(monkeypatch: pytest.MonkeyPatch, **changes: object) -> types.ModuleType:
    """The fence as a module that guards nothing, with some of its names changed."""
    monkeypatch.delenv("MAMLPP_FENCE", raising=False)
    path = grade.TOOLS / "fence" / "sitecustomize.py"
    spec = importlib.util.spec_from_file_location("fence", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, value in changes.items():
        monkeypatch.setattr(module, name, value)
    return module


@pytest.mark.parametrize(
    ("command", "program"),
    [
        ("C:\\Python\\python.exe -c pass", "C:\\Python\\python.exe"),
        ('"C:\\My Kit\\python.exe" -c "x y"', "C:\\My Kit\\python.exe"),
        (["my program", "-c"], "my program"),
        ([], ""),
    ],
)
def test_the_program_of_a_command_in_one_string_is_found(
    command: object, program: str, monkeypatch: pytest.MonkeyPatch
):
    assert fence(monkeypatch, WINDOWS=True).first_word(command) == program


@pytest.mark.parametrize(("any_case", "found"), [(True, True), (False, False)])
def test_case_counts_where_it_counts_for_the_file_system(
    any_case: bool, found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    module = fence(monkeypatch, ANY_CASE=any_case)
    folder = module.real(str(tmp_path / "Solutions"))
    assert module.inside(module.real(str(tmp_path / "SOLUTIONS" / "01.ipynb")), [folder]) is found


def test_the_root_of_a_drive_is_a_folder_too(monkeypatch: pytest.MonkeyPatch):
    assert fence(monkeypatch).inside(f"{os.sep}a", [os.sep])


@pytest.mark.parametrize("hidden", ["import os; os.environ['SEEN'] = '1'", "raise OSError('mine')"])
def test_the_sitecustomize_that_the_fence_hides_runs_and_the_fence_stands(
    hidden: str, tmp_path: Path
):
    other = tmp_path / "other"
    other.mkdir()
    (other / "sitecustomize.py").write_text(hidden, encoding="utf-8")
    code = "print(os.environ.get('SEEN')); open('../solutions/01.ipynb')"
    words, log = behind_fence(code, tmp_path, other)
    assert "reading 01.ipynb" in log
    assert ("mine" in words) == ("mine" in hidden)


def test_memory_has_an_end_behind_the_fence(tmp_path: Path):
    words, _ = behind_fence("bytearray(5_000_000_000)", tmp_path)
    assert words.endswith("MemoryError")


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
