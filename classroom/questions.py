"""The open question of a set: the teacher reads the answers, and grading keeps the marks.

The question, with a table of points, and the cell for the answer are part of the set. The teacher
writes points and a comment into `open.csv`, with a spreadsheet or with the page `open.html`, which
saves the same file. Grading adds rows for new answers and changes nothing that is filled in.
"""

import csv
import io
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from nbformat import NotebookNode

from classroom import pages
from classroom.exports import as_text
from classroom.records import Grade
from classroom.sets import GradingError
from mamlpp.files import read_text, replacing

OPEN_ANSWER = "open-answer"  # the tag of the cell for the answer
HEADING = re.compile(r"^##+ Open question\b.*\n", re.MULTILINE)
ROW = re.compile(r"^\| *(\d+(?:\.\d+)?) *\| *(.*?) *\|$", re.MULTILINE)
HEADER = ["student", "set", "points", "comment", "answer"]


@dataclass(frozen=True)
class Question:
    """An open question: the text, and what earns how many points."""

    ask: str
    rubric: tuple[tuple[float, str], ...]
    prompt: str  # what stands in the cell for the answer at first

    @property
    def points(self) -> float:
        """The most points."""
        return sum(points for points, _ in self.rubric)


@dataclass(frozen=True)
class Mark:
    """What the teacher gave for an answer; `points` is None as long as nothing was filled in."""

    points: float | None = None
    comment: str = ""


def question_of(released: NotebookNode) -> Question | None:
    """Return the open question of a set as it was handed out, None where it has none."""
    texts = [cell.source for cell in released.cells if HEADING.search(cell.source)]
    if not texts:
        return None
    ask = HEADING.sub("", texts[0]).partition("\n|")[0].strip()
    rubric = tuple((float(points), words) for points, words in ROW.findall(texts[0]))
    return Question(ask, rubric, answer_in(released))


def answer_in(notebook: NotebookNode) -> str:
    """Return what stands in the answer's cell: the tagged one, or what follows the heading."""
    cells = notebook.cells
    tagged = [cell.source for cell in cells if OPEN_ANSWER in cell.metadata.get("tags", ())]
    after = [
        cell.source
        for before, cell in pairwise(cells)
        if HEADING.search(before.source) and cell.cell_type != "code"
    ]
    return "\n\n".join(text.strip() for text in tagged or after)


def open_answer(notebook: NotebookNode, released: NotebookNode) -> str:
    """Return the answer to the set's open question; empty where nothing was written."""
    question, found = question_of(released), answer_in(notebook)
    return found if question and found != question.prompt else ""


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


def update(
    grades: list[Grade], questions: Mapping[str, Question], output: Path
) -> dict[tuple[str, str], Mark]:
    """Add new answers to `open.csv`, draw the page to mark them, and return what is marked.

    `questions` are those of the sets that have one.
    """
    marks = read_marks(output / "open.csv")
    answers = [
        each
        for each in sorted(grades, key=lambda each: (each.set, each.student))
        if each.set in questions and each.open_answer
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
