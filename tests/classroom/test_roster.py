"""The roster of a course system comes back with the points in it, and nothing else changed."""

import csv
import io
from pathlib import Path

import pytest

from classroom.exports import write_grades
from classroom.records import Grade
from classroom.roster import read_roster
from classroom.rules import Result
from classroom.sets import GradingError

PLAIN = "name,id,email\nAnn Lee,71,ann.lee@example.org\nBob Ôzil,72,bo@example.org\n"
# As Moodle's grading worksheet, Moodle's grade book and Canvas's grade book write them.
WORKSHEET = (
    'Identifier,"Full name","Email address",Status,Grade,"Maximum grade",'
    '"Grade can be changed","Last modified (submission)","Feedback comments"\n'
    '"Participant 71","Ann Lee",ann.lee@example.org,"Submitted for grading",,10.00,Yes,'
    '"Friday, 5 March 2027, 5:01 PM",\n'
    '"Participant 72","Bob Ôzil",bo@example.org,"No submission",,10.00,Yes,-,\n'
)
GRADE_BOOK = (
    '"First name",Surname,"ID number",Institution,Department,"Email address",'
    '"Assignment: 01_sums (Real)","Last downloaded from this course"\n'
    "Ann,Lee,71,,,ann.lee@example.org,-,1804000000\n"
    "Bob,Ôzil,72,,,bo@example.org,-,1804000000\n"
)
CANVAS = (
    "Student,ID,SIS User ID,SIS Login ID,Section,01_sums (4711),Final Score\n"
    "    Points Possible,,,,,5,(read only)\n"
    '"Lee, Ann",1001,71,alee,ML,,\n'
    '"Ôzil, Bob",1002,72,bozil,ML,,\n'
    '"Student, Test",1003,,test,ML,,\n'
)


def result(roster, student: str, points: float, **more: object) -> Result:
    grade = Grade(student, "01_sums", {"1.1": (points, 5.0)}, "1.1: off by one.")
    return Result(grade, roster.find(student), **more)


def exported(text: str, folder: Path, *, excused: bool = False) -> tuple[list, list]:
    path = folder / "roster.csv"
    path.write_text(text, encoding="utf-8")
    roster = read_roster(path)
    results = [result(roster, "Ann Lee_71", 3.5), result(roster, "bob ozil", 0, excused=excused)]
    assert [each.person is not None for each in results] == [True, True]
    write_grades(results, roster, folder / "grades.csv")
    before = list(csv.reader(io.StringIO(text)))
    after = list(csv.reader(io.StringIO((folder / "grades.csv").read_text(encoding="utf-8"))))
    return before, after


def changed(before: list[list[str]], after: list[list[str]]) -> dict[tuple[int, str], str]:
    """What is new, by row and title of the column."""
    return {
        (row, after[0][column]): value
        for row, values in enumerate(after)
        for column, value in enumerate(values)
        if column >= len(before[row]) or before[row][column] != value
    }


def test_a_plain_roster_gets_a_column(tmp_path: Path):
    found = changed(*exported(PLAIN, tmp_path))
    assert found == {(0, "01_sums"): "01_sums", (1, "01_sums"): "3.5", (2, "01_sums"): "0"}


def test_moodles_worksheet_gets_grades_and_comments(tmp_path: Path):
    found = changed(*exported(WORKSHEET, tmp_path))
    assert found == {
        (1, "Grade"): "3.5",
        (1, "Feedback comments"): "1.1: off by one.",
        (2, "Grade"): "0",
        (2, "Feedback comments"): "1.1: off by one.",
    }


def test_moodles_grade_book_gets_points_in_the_column_of_the_set(tmp_path: Path):
    title = "Assignment: 01_sums (Real)"
    assert changed(*exported(GRADE_BOOK, tmp_path)) == {(1, title): "3.5", (2, title): "0"}


def test_canvas_gets_points_and_excuses_in_the_column_with_its_number(tmp_path: Path):
    found = changed(*exported(CANVAS, tmp_path, excused=True))
    assert found == {(2, "01_sums (4711)"): "3.5", (3, "01_sums (4711)"): "EX"}


def test_a_new_column_of_canvas_says_how_many_points_there_are(tmp_path: Path):
    text = CANVAS.replace("01_sums (4711)", "Essay (4712)")
    found = changed(*exported(text, tmp_path))
    assert found[1, "01_sums"] == "5"
    assert found[2, "01_sums"] == "3.5"


def test_a_table_that_is_written_can_be_read_as_a_roster_again(tmp_path: Path):
    for name, text in {"a": PLAIN, "b": WORKSHEET, "c": GRADE_BOOK, "d": CANVAS}.items():
        folder = tmp_path / name
        folder.mkdir()
        exported(text, folder)
        again = read_roster(folder / "grades.csv")
        assert again.people == read_roster(folder / "roster.csv").people


@pytest.mark.parametrize(
    "student",
    [
        *("Ann Lee_71", "ann lee", "Lee Ann", "71", "ann.lee@example.org", "ann.lee"),
        *("leeann_1001_998", "Lee_Ann_1234567"),
    ],
)
def test_a_file_is_found_by_name_number_or_address(student: str, tmp_path: Path):
    (tmp_path / "roster.csv").write_text(PLAIN, encoding="utf-8")
    person = read_roster(tmp_path / "roster.csv").find(student)
    assert person is not None
    assert person.name == "Ann Lee"


@pytest.mark.parametrize(
    ("name", "student"),
    [
        *[("Müller, Jörg", "Jörg Müller_71"), ("Müller, Jörg", "mullerjorg_123_456")],
        *[('O"Neil "Kit"', 'O"Neil "Kit"_5'), ("D'Arcy; Eve", "Eve D'Arcy")],
        *[("نور الهدى", "نور الهدى_71"), ("李小龙", "李小龙"), ("نور الهدى", "نورالهدى_1_2")],
    ],
)
def test_names_of_all_scripts_and_with_all_signs_are_found(name: str, student: str, tmp_path: Path):
    with (tmp_path / "roster.csv").open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, delimiter=";").writerows([("name", "id"), (name, ""), ("Ann Lee", "9")])
    person = read_roster(tmp_path / "roster.csv").find(student)
    assert person is not None
    assert person.name == name


@pytest.mark.parametrize("student", ["Ann", "Lee", "Eve", "7", "01_sums"])
def test_nobody_is_guessed(student: str, tmp_path: Path):
    (tmp_path / "roster.csv").write_text(PLAIN, encoding="utf-8")
    assert read_roster(tmp_path / "roster.csv").find(student) is None


def test_a_name_that_two_have_belongs_to_neither(tmp_path: Path):
    text = PLAIN + "Ann Lee,73,a3@example.org\n"
    (tmp_path / "roster.csv").write_text(text, encoding="utf-8")
    roster = read_roster(tmp_path / "roster.csv")
    assert roster.find("Ann Lee") is None
    assert roster.find("Ann Lee_73").label == "73"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("﻿Vorname;Nachname;Matrikelnummer\nAnn;Lee;71\n", "Ann Lee"),
        ("Student name\tE-mail address\nAnn Lee\ta@b.org\n", "Ann Lee"),
    ],
)
def test_other_columns_and_separators_are_understood(text: str, name: str, tmp_path: Path):
    (tmp_path / "roster.csv").write_text(text, encoding="utf-8")
    assert [each.name for each in read_roster(tmp_path / "roster.csv").people] == [name]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no column for names, numbers or addresses"),
        ("a,b\n1,2\n", "no column for names, numbers or addresses"),
        ("name,id\nAnn,71\nBob,71\n", "has '71' in two rows"),
    ],
)
def test_a_faulty_roster_is_told_in_a_sentence(text: str, words: str, tmp_path: Path):
    (tmp_path / "roster.csv").write_text(text, encoding="utf-8")
    with pytest.raises(GradingError, match=words):
        read_roster(tmp_path / "roster.csv")


def test_without_a_roster_there_is_a_row_for_each_student(tmp_path: Path):
    roster = read_roster(None)
    write_grades([result(roster, "=ann", 3.5)], roster, tmp_path / "grades.csv")
    assert (tmp_path / "grades.csv").read_text("utf-8").split() == ["student,01_sums", "'=ann,3.5"]
