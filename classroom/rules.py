"""What becomes of points after the tests: late days, overrides and the open question.

    overrides.csv    student,set,exercise,points,extension,excused,reason

A row gives points for one exercise, or for the set where no exercise is named, or an extension in
days, or excuses the student from the set. Each has a reason, which the student reads. Grading reads
this file and never writes it, so that nothing is lost when it runs again.
"""

import csv
import io
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from classroom.records import Grade
from classroom.roster import Person, Roster, names_in
from classroom.sets import GradingError
from mamlpp.files import read_text

LATE = re.compile(r"(?P<share>\d+(\.\d+)?) ?% a day(, at most (?P<most>\d+)( days?)?)?")
HEADER = "student,set,exercise,points,extension,excused,reason"
DAY = 24 * 3600
OPEN = "open"  # the exercise that the open question is


@dataclass(frozen=True)
class Lateness:
    """When a set was due, what a day costs (a share of the points), and how many are allowed."""

    due: float | None = None
    share: float = 0.0
    most: int | None = None

    def days(self, handed_in: float, extension: float = 0.0) -> int:
        """Return how many days late something is, each begun day a whole one."""
        if self.due is None or not handed_in:
            return 0
        return max(0, math.ceil((handed_in - self.due) / DAY - extension))

    def kept(self, days: int) -> float:
        """Return the share of the points that is left after `days`."""
        if self.most is not None and days > self.most:
            return 0.0
        return max(0.0, 1 - self.share * days)


def lateness(due: str, late: str) -> Lateness:
    """Return the rule that `DUE` and `LATE` state; raises `GradingError` if they do not."""
    if not due:
        if late:
            raise GradingError("LATE needs DUE: when is the set due, as in DUE='2027-03-05 18:00'?")
        return Lateness()
    try:
        moment = datetime.fromisoformat(due)
    except ValueError as error:
        raise GradingError(
            f"DUE is {due!r}: write a day, or a day and a time, as in '2027-03-05 18:00'."
        ) from error
    if len(due.strip()) <= len("2027-03-05"):
        moment = moment.replace(hour=23, minute=59, second=59)
    rule = LATE.fullmatch(late.strip()) if late else None
    if late and not rule:
        raise GradingError(f"LATE is {late!r}: write it as '10 % a day, at most 3'.")
    share = float(rule["share"]) / 100 if rule else 0.0
    most = int(rule["most"]) if rule and rule["most"] else None
    return Lateness(moment.timestamp(), share, most)


@dataclass(frozen=True)
class Override:
    """One decision of the teacher's."""

    student: str
    set: str
    exercise: str = ""
    points: float | None = None
    extension: float = 0.0
    excused: bool = False
    reason: str = ""


def read_overrides(path: Path) -> list[Override]:
    """Return the teacher's decisions; raises `GradingError` with the row that is wrong."""
    if not path.exists():
        return []
    rows = csv.DictReader(io.StringIO(read_text(path)))
    missing = set(HEADER.split(",")) - set(rows.fieldnames or [])
    if missing:
        raise GradingError(f"{path.name} has no column {', '.join(sorted(missing))}: {HEADER}.")
    return [override_of(row, f"{path.name}, row {n}") for n, row in enumerate(rows, start=2)]


def override_of(row: dict[str, str], where: str) -> Override:
    """Return the decision in a row."""
    value = {name: (text or "").strip() for name, text in row.items() if name}
    try:
        points = float(value["points"]) if value["points"] else None
        extension = float(value["extension"] or 0)
    except ValueError as error:
        raise GradingError(f"{where}: points and extension are numbers ({error}).") from error
    excused = value["excused"].casefold() not in ("", "no", "0", "false")
    if not value["reason"]:
        raise GradingError(f"{where}: every override has a reason, which the student reads.")
    if points is None and not extension and not excused:
        raise GradingError(f"{where}: it gives no points, no extension and no excuse.")
    return Override(
        value["student"], value["set"], value["exercise"], points, extension, excused,
        value["reason"],
    )  # fmt: skip


@dataclass(frozen=True)
class Result:
    """A grade with everything that was decided about it; `points` is what counts."""

    grade: Grade
    person: Person | None = None
    days_late: int = 0
    kept: float = 1.0
    excused: bool = False
    decisions: tuple[str, ...] = ()
    fixed: float | None = None

    @property
    def points(self) -> float:
        """The points that count."""
        if self.fixed is not None:
            return self.fixed
        return round(self.grade.total * self.kept, 2)

    @property
    def name(self) -> str:
        """The student's name on the roster, or else what the file was called."""
        return self.person.name if self.person else self.grade.student


def decide(
    grades: Iterable[Grade], roster: Roster, rule: Lateness, overrides: list[Override]
) -> list[Result]:
    """Return what each grade of one set comes to, by the overrides of this set.

    Raises `GradingError` for an override of nobody's grade.
    """
    grades = list(grades)
    people = [roster.find(each.student) for each in grades]
    for one in overrides:
        known = any(is_of(one, each, person) for each, person in zip(grades, people, strict=True))
        if not known and not roster.find(one.student):
            raise GradingError(
                f"overrides.csv decides about {one.student!r} in {one.set}, but nobody of that "
                f"name is in the class or has handed it in."
            )
    return [
        decide_one(each, person, rule, [one for one in overrides if is_of(one, each, person)])
        for each, person in zip(grades, people, strict=True)
    ]


def is_of(override: Override, grade: Grade, person: Person | None) -> bool:
    """Whether a decision is about this student."""
    named = names_in(override.student)
    same = override.student.casefold() == grade.student.casefold()
    return same or bool(person and person.keys & named)


def decide_one(grade: Grade, person: Person | None, rule: Lateness, own: list[Override]) -> Result:
    """Return what one grade comes to."""
    fixed = None
    decisions = []
    points, failed = dict(grade.points), dict(grade.failed)
    for each in own:
        if each.points is not None and each.exercise:
            if each.exercise not in points:
                raise GradingError(
                    f"overrides.csv: {each.set} has no exercise {each.exercise!r}; it has "
                    f"{', '.join(points)}."
                )
            points[each.exercise] = each.points, points[each.exercise][1]
            failed[each.exercise] = each.reason
            decisions.append(f"{each.exercise}: {each.points:g} points, {each.reason}")
        elif each.points is not None:
            fixed = each.points
            decisions.append(f"{each.points:g} points in all, {each.reason}")
        if each.extension:
            decisions.append(f"{each.extension:g} more days, {each.reason}")
        if each.excused:
            decisions.append(f"excused, {each.reason}")
    days = rule.days(grade.handed_in, sum(each.extension for each in own))
    kept = rule.kept(days)
    if days:
        decisions.insert(
            0, f"{days} {'day' if days == 1 else 'days'} late: {kept:.0%} of the points"
        )
    excused = any(each.excused for each in own)
    made = replace(grade, points=points, failed=failed)
    return Result(made, person, days, kept, excused, tuple(decisions), fixed)


def missing(
    results: list[Result], roster: Roster, sets: dict[str, float], overrides: list[Override]
) -> list[Result]:
    """Return a result without points for everybody on the roster who handed in nothing of a set."""
    there = {(each.person.row, each.grade.set) for each in results if each.person}
    empty = [
        (person, Grade(person.name, name, {"all": (0.0, most)}, "No notebook was handed in."))
        for name, most in sets.items()
        for person in roster.people
        if (person.row, name) not in there
    ]
    return [
        decide_one(each, person, Lateness(), [o for o in overrides if is_of(o, each, person)])
        for person, each in empty
    ]
