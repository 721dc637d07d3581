"""`grades.csv`: the roster as the course system wrote it, with the points filled in.

Moodle's grading worksheet gets its columns Grade and Feedback comments, an export of Moodle's or
Canvas's grade book a column for each set (one whose title names the set is filled in, with Canvas's
number in it and all), and a plain roster columns of the sets' names. Nothing else of it changes.
"""

import csv
from pathlib import Path

from classroom.pages import shown
from classroom.roster import POINTS_POSSIBLE, Roster, plain
from classroom.rules import Result
from mamlpp.files import replacing

GRADE, COMMENT = "grade", "feedbackcomments"


def as_text(value: str) -> str:
    """Return `value` in a form that no spreadsheet reads as a formula."""
    return f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def write_grades(results: list[Result], roster: Roster, path: Path) -> None:
    """Write the points of each set into a copy of the roster; without one, a row a student."""
    sets = sorted({each.grade.set for each in results if each.grade.set})
    header, rows = filled(results, roster, sets) if roster.people else plain_table(results, sets)
    with (
        replacing(path) as part,
        part.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        table = csv.writer(file, delimiter=roster.separator)
        table.writerows([header, *rows])


def filled(
    results: list[Result], roster: Roster, sets: list[str]
) -> tuple[list[str], list[list[str]]]:
    """Return the roster's columns and rows with the points in them."""
    header = list(roster.header)
    rows = [[*row, *[""] * (len(header) - len(row))] for row in roster.rows]
    by_row = {(each.person.row, each.grade.set): each for each in results if each.person}
    plain_names = [plain(name) for name in header]
    worksheet = GRADE in plain_names and len(sets) == 1
    people = {person.row for person in roster.people}
    canvas = any(POINTS_POSSIBLE in row[0].casefold() for row in rows if row)
    for name in sets:
        column = plain_names.index(GRADE) if worksheet else column_of(header, rows, name)
        for number, row in enumerate(rows):
            found = by_row.get((number, name))
            if found:
                row[column] = "EX" if found.excused and canvas else points_of(found)
                if worksheet and COMMENT in plain_names:
                    row[plain_names.index(COMMENT)] = as_text(comment(found))
            elif number not in people and not row[column] and POINTS_POSSIBLE in row[0].casefold():
                most = max((e.grade.most for e in results if e.grade.set == name), default=0)
                row[column] = shown(most)
    return header, rows


def column_of(header: list[str], rows: list[list[str]], name: str) -> int:
    """Return the column of a set, which is added where there is none."""
    for number, title in enumerate(header):
        if plain(name) in plain(title):
            return number
    header.append(name)
    for row in rows:
        row.append("")
    return len(header) - 1


def points_of(result: Result) -> str:
    """Return the points as the course system reads them; nothing for somebody who is excused."""
    return "" if result.excused else shown(result.points)


def comment(result: Result) -> str:
    """Return what the student reads beside the points."""
    return " ".join([f"{text}." for text in result.decisions] + [result.grade.reason]).strip()


def plain_table(results: list[Result], sets: list[str]) -> tuple[list[str], list[list[str]]]:
    """Return a row for each student and a column for each set, for a class without a roster."""
    points = {(each.grade.student, each.grade.set): points_of(each) for each in results}
    students = sorted({each.grade.student for each in results})
    rows = [[as_text(one), *(points.get((one, name), "") for name in sets)] for one in students]
    return ["student", *sets], rows
