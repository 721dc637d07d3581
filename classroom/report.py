"""What a teacher gets when a class is graded: tables, pages of feedback, the class page.

Everything is made anew from the grades that are kept, so that an override, a mark for an open
question or another due date costs no grading.
"""

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import nbformat

from classroom import class_page, exports, pages, questions, rules
from classroom.exports import as_text
from classroom.handins import Submission
from classroom.pages import shown
from classroom.records import Grade, Workplace
from classroom.roster import Roster
from classroom.rules import OPEN, Result
from classroom.sets import ExerciseSet, GradingError
from classroom.stamps import misplaced
from mamlpp.files import replacing

DUE = "due.json"  # when each set was due, and what late days cost


@dataclass(frozen=True)
class Report:
    """Writes everything into the folder of grades."""

    place: Workplace
    sets: dict[str, ExerciseSet]
    roster: Roster
    course: str

    def write(self, graded: list[Grade], others: list[Grade]) -> list[Result]:
        """Write the tables of all sets, and the pages of those that were `graded` now."""
        output = self.place.output
        marks = questions.update([*graded, *others], self.open_questions, output)
        grades = [self.marked(self.flagged(each), marks) for each in [*graded, *others]]
        overrides = rules.read_overrides(output / "overrides.csv")
        results = self.decided(grades, overrides)
        names = {each.set for each in graded if each.set}
        try:
            write_points(grades, output / "points.csv")
            exports.write_grades(results, self.roster, output / "grades.csv")
        except PermissionError as error:
            name = Path(str(error.filename or "a table")).name
            raise GradingError(
                f"{name} cannot be written: close it where it is open, and type the same command "
                f"again; what has been graded is kept."
            ) from error
        for each in results:
            if each.grade.set in names or not each.grade.set:
                self.write_feedback(each)
        for name in sorted(names):
            titles = self.sets[name].titles if name in self.sets else {}
            class_page.write_page(results, name, titles, output, self.place.submitted)
        return results

    @property
    def open_questions(self) -> dict[str, questions.Question]:
        """The open questions of the sets that have one."""
        found = {name: questions.question_of(each.released) for name, each in self.sets.items()}
        return {name: question for name, question in found.items() if question}

    def flagged(self, grade: Grade) -> Grade:
        """Return a grade with flags for a stamp that is not this course's or this student's."""
        person = self.roster.find(grade.student)
        flags = misplaced(grade.stamp, self.course, person.keys if person else None)
        if self.roster.people and not person:
            flags = [*flags, "nobody on the roster has this name"]
        return replace(grade, flags=[*grade.flags, *flags])

    def marked(self, grade: Grade, marks: dict[tuple[str, str], questions.Mark]) -> Grade:
        """Return a grade with the points and the comment that the teacher gave for the answer."""
        mark = marks.get((grade.student, grade.set))
        question = self.open_questions.get(grade.set)
        if question is None or mark is None or mark.points is None:
            return grade
        most = question.points
        failed = grade.failed | ({OPEN: mark.comment} if mark.comment else {})
        return replace(grade, points=grade.points | {OPEN: (mark.points, most)}, failed=failed)

    def decided(self, grades: list[Grade], overrides: list[rules.Override]) -> list[Result]:
        """Return what each grade comes to, by the rule of its set, and a row for who is missing."""
        kept = read_rules(self.place.output)
        results: list[Result] = []
        for name in dict.fromkeys(each.set for each in grades):
            own = [each for each in grades if each.set == name]
            rule = rules.lateness(*kept.get(name, ("", "")))
            mine = [each for each in overrides if each.set == name]
            results += rules.decide(own, self.roster, rule, mine)
            if name:
                most = sum(self.sets[name].most.values()) if name in self.sets else 0.0
                results += rules.missing(results, self.roster, {name: most}, mine)
        return results

    def write_feedback(self, result: Result) -> None:
        """Write the page for a student."""
        grade = result.grade
        submission = Submission(grade.student, grade.set, None)
        executed, path = self.place.executed(submission), self.place.feedback(submission)
        if not grade.executed or not executed.exists():
            pages.write(path, pages.refusal(result))
            return
        notebook = nbformat.read(executed, 4)
        pages.write(path, pages.feedback(result, notebook, self.sets[grade.set]))


def read_rules(output: Path) -> dict[str, tuple[str, str]]:
    """Return when each set was due, and what late days cost, as the teacher stated it last."""
    try:
        kept = json.loads((output / DUE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {name: (str(due), str(late)) for name, (due, late) in kept.items()}


def keep_rules(output: Path, sets: Iterable[str], due: str, late: str) -> None:
    """Keep what was stated for `sets` for the next time that grades are written."""
    if not due:
        return
    with replacing(output / DUE) as part:
        kept = read_rules(output) | {name: (due, late) for name in sets}
        part.write_text(json.dumps(kept, indent=1), encoding="utf-8")


def write_points(grades: list[Grade], path: Path) -> None:
    """Write one line per submission: points by exercise, total, maximum, reason, what to look at.

    These are the points of the tests and of the open question, before late days and overrides.
    """
    ordered = sorted(grades, key=lambda each: (each.set, each.student))
    exercises = list(dict.fromkeys(label for each in ordered for label in each.points))
    with (
        replacing(path) as part,
        part.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        table = csv.writer(file)
        table.writerow(["student", "set", *exercises, "total", "max", "reason", "look"])
        for each in sorted(grades, key=lambda each: (each.student, each.set)):
            points = [
                shown(each.points[name][0]) if name in each.points else "" for name in exercises
            ]
            row = [each.student, each.set, *points, shown(each.total), shown(each.most)]
            table.writerow(map(as_text, [*row, each.reason, "; ".join(each.flags)]))
