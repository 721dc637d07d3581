"""Late days and overrides: what counts, what is said, and what a teacher may get wrong."""

from datetime import datetime
from pathlib import Path

import pytest

from classroom.records import Grade
from classroom.roster import read_roster
from classroom.rules import HEADER, Lateness, Override, decide, lateness, missing, read_overrides
from classroom.sets import GradingError

DUE = "2027-03-05 18:00"
EMPTY = read_roster(None)


def handed_in(moment: str) -> Grade:
    points = {"1.1": (2.0, 2.0), "1.2": (2.0, 3.0)}
    return Grade("ann", "01_sums", points, handed_in=datetime.fromisoformat(moment).timestamp())


@pytest.mark.parametrize(
    ("moment", "points", "words"),
    [
        ("2027-03-05 17:59", 4, ()),
        ("2027-03-05 18:01", 3.6, ("1 day late: 90% of the points",)),
        ("2027-03-07 18:00", 3.2, ("2 days late: 80% of the points",)),
        ("2027-03-09 12:00", 0, ("4 days late: 0% of the points",)),
    ],
)
def test_each_begun_day_costs_a_share(moment: str, points: float, words: tuple):
    rule = lateness(DUE, "10 % a day, at most 3")
    [result] = decide([handed_in(moment)], EMPTY, rule, [])
    assert (result.points, result.decisions) == (points, words)


def test_a_day_without_a_time_ends_at_midnight():
    [result] = decide(
        [handed_in("2027-03-05 23:59:58")], EMPTY, lateness("2027-03-05", "50% a day"), []
    )
    assert result.days_late == 0


@pytest.mark.parametrize(
    ("due", "late", "words"),
    [
        ("", "10 % a day", "LATE needs DUE"),
        ("Friday", "", "DUE is 'Friday': write a day"),
        (DUE, "ten percent", "LATE is 'ten percent': write it as '10 % a day, at most 3'"),
    ],
)
def test_a_rule_that_nobody_understands_is_refused(due: str, late: str, words: str):
    with pytest.raises(GradingError, match=words):
        lateness(due, late)


def test_overrides_change_what_counts_and_say_why():
    late = handed_in("2027-03-07 12:00")
    rule = lateness(DUE, "10 % a day")
    own = {
        "two days more": [Override("ann", "01_sums", extension=2, reason="ill")],
        "points": [Override("ANN", "01_sums", "1.2", 3.0, reason="the check was wrong")],
        "all": [Override("ann", "01_sums", points=5.0, reason="shown in class")],
        "excused": [Override("ann", "01_sums", excused=True, reason="ill")],
    }
    found = {name: decide([late], EMPTY, rule, rows)[0] for name, rows in own.items()}
    assert (found["two days more"].points, found["two days more"].days_late) == (4, 0)
    assert found["points"].points == 4.0  # (2 + 3) · 80 %
    assert found["points"].decisions[1] == "1.2: 3 points, the check was wrong"
    assert found["all"].points == 5
    assert found["excused"].excused
    assert found["excused"].decisions[-1] == "excused, ill"


def test_an_override_of_nobody_or_of_no_exercise_is_a_mistake():
    grade = handed_in("2027-03-05 12:00")
    with pytest.raises(GradingError, match="decides about 'eve' in 01_sums, but nobody"):
        decide([grade], EMPTY, Lateness(), [Override("eve", "01_sums", excused=True, reason="x")])
    with pytest.raises(GradingError, match=r"has no exercise '1\.7'; it has 1\.1, 1\.2"):
        decide([grade], EMPTY, Lateness(), [Override("ann", "01_sums", "1.7", 1, reason="x")])


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("ann,01_sums,,5,,,", "row 2: every override has a reason"),
        ("ann,01_sums,,,,,ill", "row 2: it gives no points, no extension and no excuse"),
        ("ann,01_sums,,five,,,ill", "row 2: points and extension are numbers"),
    ],
)
def test_a_row_that_decides_nothing_is_a_mistake(row: str, words: str, tmp_path: Path):
    (tmp_path / "overrides.csv").write_text(f"{HEADER}\n{row}\n", encoding="utf-8")
    with pytest.raises(GradingError, match=words):
        read_overrides(tmp_path / "overrides.csv")


def test_a_file_without_its_columns_is_a_mistake(tmp_path: Path):
    (tmp_path / "overrides.csv").write_text("student,points\nann,3\n", encoding="utf-8")
    with pytest.raises(GradingError, match="has no column"):
        read_overrides(tmp_path / "overrides.csv")


def test_who_handed_in_nothing_has_a_row_and_may_be_excused(tmp_path: Path):
    (tmp_path / "roster.csv").write_text("name,id\nAnn Lee,71\nBob Ray,72\n", encoding="utf-8")
    roster = read_roster(tmp_path / "roster.csv")
    results = decide([handed_in("2027-03-05 12:00")], roster, Lateness(), [])
    rows = [Override("Bob Ray", "01_sums", excused=True, reason="ill")]
    found = missing(results, roster, {"01_sums": 5.0}, rows)
    assert [(each.name, each.points, each.excused) for each in found] == [
        ("Ann Lee", 0, False),  # "ann" alone could be anybody
        ("Bob Ray", 0, True),
    ]
