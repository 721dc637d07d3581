"""The pages that students and teachers read, and the form for the open question."""

import csv
import json
import re
from pathlib import Path

import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook, new_output

from classroom import class_page, flags, pages, questions
from classroom.records import Grade
from classroom.rules import Result
from classroom.sets import ExerciseSet

NASTY = "<script>alert(1)</script><img src=https://example.org/x onerror=alert(2)>"
OUTSIDE = re.compile(r"(?:src|href|action)\s*=\s*[\"']?(?!data:image/png)", re.IGNORECASE)


def graded(student: str, *, failed: str = "", got: float = 2.0, **more: object) -> Result:
    points = {"1.1": (got, 2.0), "1.2": (3.0, 3.0)}
    reasons = {"1.1": failed} if failed else {}
    return Result(Grade(student, "01_sums", points, failed=reasons, handed_in=1.8e9, **more))


def nasty_notebook() -> NotebookNode:
    outputs = [
        new_output("stream", text=NASTY),
        new_output("display_data", data={"text/html": NASTY, "text/plain": "shown"}),
        new_output("display_data", data={"image/png": f'" onerror="{NASTY}'}),
        new_output("error", ename="E", evalue=NASTY, traceback=[NASTY]),
    ]
    return new_notebook(cells=[new_code_cell(f"# {NASTY}", outputs=outputs)])


def test_a_page_of_feedback_runs_nothing_and_loads_nothing(sets: dict[str, ExerciseSet]):
    result = graded(NASTY, failed=NASTY, got=0.0, notes=[NASTY])
    text = pages.feedback(result, nasty_notebook(), sets["01_sums"])
    assert "script-src" not in pages.POLICY
    assert pages.POLICY.startswith("default-src 'none'")
    assert (
        f'http-equiv="Content-Security-Policy" content="{pages.POLICY}"'.replace("'", "&#39;")
        in text
    )
    assert "<script" not in text
    assert OUTSIDE.findall(re.sub(r"&lt;.*?&gt;", "", text)) == []
    assert "shown" in text


def test_the_class_page_counts_wrong_answers_by_their_diagnosis(tmp_path: Path):
    results = [
        graded("ann", failed="double: off by one (double(x=3), result 7, expected 6)", got=0.0),
        graded("bob", failed="double: off by one (double(x=5), result 11, expected 10)", got=0.0),
        graded("cem", failed="double: returns None (double(x=3))", got=0.0),
        graded("dan", failed="not answered", got=0.0),
        graded("eve", flags=["every answer is the kit's own solution"]),
    ]
    found = class_page.mistakes("1.1", results)
    assert [each.students for each in found] == [["ann", "bob"], ["cem"]]
    assert found[0].text == "double: off by one"
    assert found[0].example == "double(x=3), result 7, expected 6"
    exercise = class_page.exercise_of("1.1", results, {"1.1": "double"})
    assert dict(exercise["parts"]) == {"full": 1, "some": 0, "wrong": 3, "blank": 1}

    path = class_page.write_page(results, "01_sums", {"1.1": "double"}, tmp_path, tmp_path)
    text = path.read_text(encoding="utf-8")
    assert "1.1 double" in text
    assert "Every answer is the kit&#39;s own solution." in text
    assert "<script" not in text
    assert OUTSIDE.findall(text) == []


def test_quizzes_that_were_handed_in_are_counted(tmp_path: Path):
    asked = [{"ask": "Why?", "choices": [{"says": "so", "right": True}, {"says": "no"}]}]
    (tmp_path / "quizzes").mkdir()
    (tmp_path / "quizzes" / "01_maml.json").write_text(json.dumps(asked), encoding="utf-8")
    for student, text in {
        "ann": '{"quiz": {"01_maml": {"0": 0}}}',
        "bob": '{"quiz": {"01_maml": {"0": 1}}}',
        "cem": '{"quiz": {"01_maml": {"0": 7}}}',
        "dan": "[broken",
    }.items():
        (tmp_path / student).mkdir()
        (tmp_path / student / "progress.json").write_text(text, encoding="utf-8")
    [quiz] = class_page.quizzes(tmp_path, tmp_path / "quizzes")
    assert quiz["students"] == 3
    assert quiz["rows"] == [("Why?", 2, 1, "no")]


# Who wrote the same


FIRST = (
    "def mean(values):\n    total = 0\n    for v in values:\n        total += v\n    return total"
)
RENAMED = '''def mean(numbers: list) -> float:
    """Mine."""
    s = 0
    for each in numbers:
        s += each
    return s'''


def test_names_docstrings_and_annotations_do_not_make_an_answer_another():
    assert flags.normal_form(FIRST) == flags.normal_form(RENAMED) != ""
    assert flags.normal_form(FIRST) != flags.normal_form(FIRST.replace("+=", "-="))
    assert flags.normal_form("def f(x):\n    return x") == ""  # the same by chance
    assert flags.normal_form("def f(") == ""


def test_pairs_that_share_what_few_wrote_are_listed():
    common = {"a": "everybody's", "b": "everybody's"}
    grades = [Grade(str(n), "01_sums", answers=common) for n in range(20)]
    grades += [Grade(name, "01_sums", answers={"a": "x", "b": "y", "c": name}) for name in "pq"]
    assert flags.similar(grades) == [("01_sums", "p", "q", 2, 3)]


# The open question


ASKED = {"01_sums": questions.Question("Why?", ((4.0, "a reason"),), "*Write here.*")}


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "open.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_marks_are_kept_when_answers_come_in_later(tmp_path: Path):
    grades = [Grade("ann", "01_sums", open_answer="=cmd()"), Grade("bob", "01_sums")]
    assert questions.update(grades, ASKED, tmp_path) == {}
    [row] = rows(tmp_path)
    assert row == {
        "student": "ann",
        "set": "01_sums",
        "points": "",
        "comment": "",
        "answer": "'=cmd()",
    }

    text = (tmp_path / "open.csv").read_text(encoding="utf-8")
    (tmp_path / "open.csv").write_text(text.replace(",,,", ',"2,5","good, but short",'), "utf-8")
    grades[1] = Grade("bob", "01_sums", open_answer="Because.")
    marks = questions.update(grades, ASKED, tmp_path)
    assert marks == {("ann", "01_sums"): questions.Mark(2.5, "good, but short")}
    assert [each["points"] for each in rows(tmp_path)] == ["2.5", ""]
    assert questions.update([], ASKED, tmp_path) == marks | {("bob", "01_sums"): questions.Mark()}


def test_a_mark_that_is_no_number_is_told(tmp_path: Path):
    (tmp_path / "open.csv").write_text("student,set,points\nann,01_sums,good\n", "utf-8")
    with pytest.raises(questions.GradingError, match=r"open\.csv, row 2: 'good' is no number"):
        questions.update([], ASKED, tmp_path)


def test_an_answer_runs_nothing_on_the_page_that_marks_it(tmp_path: Path):
    questions.update([Grade("ann", "01_sums", open_answer=NASTY)], ASKED, tmp_path)
    text = (tmp_path / "open.html").read_text(encoding="utf-8")
    nonce = re.search(r"script-src &#39;nonce-([\w-]+)&#39;|script-src 'nonce-([\w-]+)'", text)
    assert nonce
    assert text.count("<script") == text.count("<script nonce=") == 1
    assert "&lt;script&gt;alert(1)" in text


# The package


PACKAGE = Path(pages.__file__).parent


def test_no_file_is_longer_than_300_lines():
    lengths = {
        path.name: len(path.read_text(encoding="utf-8").splitlines())
        for path in PACKAGE.rglob("*.py")
    }
    assert {name: n for name, n in lengths.items() if n > 300} == {}


def test_nothing_imports_the_teacher_s_side():
    root = PACKAGE.parent
    files = [*(root / "mamlpp").rglob("*.py"), *(root / "tools").glob("*.py")]
    found = [
        path.name
        for path in files
        if re.search(r"^\s*(from|import) classroom", path.read_text("utf-8"), re.M)
    ]
    assert files
    assert found == []
