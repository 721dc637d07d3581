"""The open question of a set: asked in the handout, read by the teacher, kept by grading.

`questions.toml` holds each set's question, points and rubric. The teacher writes points and a
comment into `open.csv`, with a spreadsheet or with the page `open.html`, which saves the same file.
Grading adds rows for new answers and changes nothing that is filled in.
"""

import csv
import io
import secrets
import tomllib
from dataclasses import dataclass
from pathlib import Path

from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from classroom import pages
from classroom.exports import as_text
from classroom.flags import OPEN_ANSWER
from classroom.records import Grade
from classroom.sets import GradingError
from mamlpp.files import read_text, replacing

QUESTIONS = Path(__file__).parent / "questions.toml"
PROMPT = "*Write your answer here, in about ten lines.*"
HEADER = ["student", "set", "points", "comment", "answer"]


@dataclass(frozen=True)
class Question:
    """An open question: the text, the most points, and what earns them."""

    ask: str
    points: float
    rubric: tuple[str, ...]


@dataclass(frozen=True)
class Mark:
    """What the teacher gave for an answer; `points` is None as long as nothing was filled in."""

    points: float | None = None
    comment: str = ""


def read_questions() -> dict[str, Question]:
    """Return the open question of each set."""
    table = tomllib.loads(QUESTIONS.read_text(encoding="utf-8"))
    return {
        name: Question(each["ask"].strip(), float(each["points"]), tuple(each["rubric"]))
        for name, each in table.items()
    }


def ask(notebook: NotebookNode, question: Question | None) -> None:
    """Append the question, and a cell for the answer, to a notebook that is handed out."""
    if question is None:
        return
    text = (
        f"## Open question\n\n{question.points:g} points, read by your teacher.\n\n{question.ask}"
    )
    answer = new_markdown_cell(PROMPT, id=OPEN_ANSWER, metadata={"tags": [OPEN_ANSWER]})
    notebook.cells += [new_markdown_cell(text, id="open-question"), answer]


def read_marks(path: Path) -> dict[tuple[str, str], Mark]:
    """Return what the teacher filled in, by student and set; `GradingError` if it is wrong."""
    if not path.exists():
        return {}
    rows = csv.DictReader(io.StringIO(read_text(path)))
    if not {"student", "set", "points"} <= set(rows.fieldnames or []):
        raise GradingError(f"{path.name} has lost its first line: {','.join(HEADER)}.")
    marks = {}
    for number, row in enumerate(rows, start=2):
        text = (row["points"] or "").strip().replace(",", ".")
        try:
            points = float(text) if text else None
        except ValueError as error:
            raise GradingError(f"{path.name}, row {number}: {text!r} is no number.") from error
        marks[row["student"].removeprefix("'"), row["set"]] = Mark(points, row.get("comment") or "")
    return marks


def update(grades: list[Grade], output: Path) -> dict[tuple[str, str], Mark]:
    """Add new answers to `open.csv`, draw the page to mark them, and return what is marked."""
    questions = read_questions()
    marks = read_marks(output / "open.csv")
    answers = [
        each
        for each in sorted(grades, key=lambda each: (each.set, each.student))
        if each.set in questions and each.open_answer and each.open_answer != PROMPT
    ]
    if not answers:
        return marks
    filled = [(each, marks.get((each.student, each.set), Mark())) for each in answers]
    gone = [key for key in marks if key not in {(e.student, e.set) for e in answers}]
    with (
        replacing(output / "open.csv") as part,
        part.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        table = csv.writer(file)
        table.writerow(HEADER)
        for each, mark in filled:
            table.writerow(row_of(each.student, each.set, mark, each.open_answer))
        for student, name in gone:  # marked once, and not handed in this time
            table.writerow(row_of(student, name, marks[student, name], ""))
    nonce = secrets.token_urlsafe(16)
    text = pages.page("open.html", answers=filled, questions=questions, nonce=nonce)
    pages.write(output / "open.html", text)
    return marks


def row_of(student: str, name: str, mark: Mark, answer: str) -> list[str]:
    """Return a row of `open.csv`."""
    points = "" if mark.points is None else f"{mark.points:g}"
    return [as_text(student), name, points, as_text(mark.comment), as_text(answer)]
