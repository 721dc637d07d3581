"""Where the grades of a class are kept, and what one grade holds.

A submission that was graded is graded again only when it, its set, the package or the grader
changes: `state/` keeps each grade with the fingerprint of all of these.
"""

import json
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from classroom.handins import Submission
from classroom.sets import ExerciseSet, digest
from mamlpp.files import replacing

# Names that Windows keeps for devices, whatever follows after a dot.
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)\s*(\.|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Grade:
    """The points of a submission for each exercise, the most possible, and why some are missing.

    `failed` is the reason for each exercise that lost points; `flags` ask the teacher to look.
    """

    student: str
    set: str
    points: dict[str, tuple[float, float]] = field(default_factory=dict)
    reason: str = ""
    cpu_seconds: float = 0.0
    failed: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)
    open_answer: str = ""
    stamp: dict[str, Any] = field(default_factory=dict)
    executed: bool = False  # whether there is a notebook with outputs
    handed_in: float = 0.0  # when the file was changed, in seconds of the epoch

    @property
    def total(self) -> float:
        """The sum of all points."""
        return sum(got for got, _ in self.points.values())

    @property
    def most(self) -> float:
        """The highest possible sum."""
        return sum(most for _, most in self.points.values())


@dataclass(frozen=True)
class Workplace:
    """Where the grading of a class takes place."""

    folder: Path  # temporary: nbgrader's course, and a copy of the package for the submissions
    sources: Path
    submitted: Path
    output: Path
    key: str  # of the package and of the grader itself
    profile: str = "laptop"

    def state(self, submission: Submission) -> Path:
        """Return the file that keeps the grade of `submission` for the next run."""
        name = submission.set or "unknown"
        return self.output / "state" / folder_name(submission.student) / f"{name}.json"

    def feedback(self, submission: Submission) -> Path:
        """Return the page of feedback for `submission`."""
        name = submission.set or "unknown"
        return self.output / "feedback" / folder_name(submission.student) / f"{name}.html"

    def executed(self, submission: Submission) -> Path:
        """Return the notebook of `submission` as it came out of grading."""
        return (
            self.output / "executed" / folder_name(submission.student) / f"{submission.set}.ipynb"
        )


def folder_name(student: str) -> str:
    """Return `student` as a folder name that every system accepts."""
    name = student.rstrip(". ") or "_"
    return f"{name}_" if RESERVED.match(name) or name != student else name


def fingerprint(submission: Submission, exercise_set: ExerciseSet, place: Workplace) -> str:
    """Return a fingerprint of everything that the grade depends on."""
    assert submission.path is not None
    words = [exercise_set.key, place.key, place.profile, str(exercise_set.limits)]
    words += [*submission.notes, *submission.flags]
    return digest([submission.path.read_bytes(), *(word.encode() for word in words)])


def recall(submission: Submission, place: Workplace, key: str) -> Grade | None:
    """Return the grade that the same submission got before, or None."""
    kept = read_grade(place.state(submission))
    if kept is None or kept[1] != key or not place.executed(submission).exists():
        return None
    return kept[0]


def read_grade(path: Path) -> tuple[Grade, str] | None:
    """Return the grade in the file `path` and the fingerprint that it belongs to, or None."""
    try:
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        points = {name: (got, most) for name, (got, most) in kept.pop("points").items()}
        known = {each.name for each in fields(Grade)} - {"points"}
        own = {name: value for name, value in kept.items() if name in known}
        return Grade(points=points, **own), str(kept.get("key", ""))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def remember(made: Grade, path: Path, key: str) -> None:
    """Keep a grade in the file `path`."""
    with replacing(path) as part:
        part.write_text(json.dumps(asdict(made) | {"key": key}), encoding="utf-8")


def of_other_sets(output: Path, graded: set[str]) -> list[Grade]:
    """Return the grades of sets that were not `graded` now, but earlier, into the same folder."""
    found = [read_grade(path) for path in sorted((output / "state").glob("*/*.json"))]
    return [kept[0] for kept in found if kept and kept[0].set and kept[0].set not in graded]
