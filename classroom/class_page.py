"""The class page: what a class got right, what it misunderstood, and whom to look at first.

One static file for each set, without scripts, that is read and printed without a network.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import mean, median
from typing import Any

from classroom import pages
from classroom.flags import similar
from classroom.rules import Result
from classroom.versions import ROOT

NUMBER = re.compile(r"[-+]?\d[\d_]*\.?\d*(?:e[-+]?\d+)?")
QUIZZES = ROOT / "notebooks" / "quizzes"
PROGRESS = "progress.json"
BINS = 10
MOST_NAMES = 12  # of students beside a wrong answer


@dataclass(frozen=True)
class Mistake:
    """A diagnosis of the checks, a call that shows it, and who got it."""

    text: str
    example: str
    students: list[str]


def write_page(
    results: list[Result], name: str, titles: dict[str, str], folder: Path, submitted: Path
) -> Path:
    """Write the page of the set `name` into `folder`, and return its path.

    `titles` are those of the exercises, by their numbers.
    """
    own = [each for each in results if each.grade.set == name]
    graded = [each for each in own if each.grade.handed_in]
    path = folder / f"class_{name}.html"
    values: dict[str, Any] = {
        "set": name,
        "now": datetime.now().strftime("%d %B %Y, %H:%M"),
        "graded": graded,
        "missing": [each.name for each in own if not each.grade.handed_in],
        "most": max((each.grade.most for each in graded), default=0),
        "figures": figures(graded),
        "bars": histogram(graded),
        "exercises": [exercise_of(label, graded, titles) for label in labels_of(graded)],
        "days": days(graded),
        "looks": [each for each in graded if each.grade.flags],
        "pairs": similar([each.grade for each in graded]),
        "decided": [each for each in own if each.decisions],
        "quizzes": quizzes(submitted, QUIZZES),
        "most_names": MOST_NAMES,
    }
    pages.write(path, pages.page("class.html", **values))
    return path


def figures(graded: list[Result]) -> str:
    """Return the middle of the points in words."""
    points = [each.points for each in graded]
    if not points:
        return "Nobody has handed it in."
    middle = f"mean {mean(points):.1f}, median {median(points):g}"
    return f"{middle}, from {min(points):g} to {max(points):g}"


def histogram(graded: list[Result]) -> list[tuple[str, int, float]]:
    """Return each tenth of the points: in words, how many students, as a share of the most."""
    most = max((each.grade.most for each in graded), default=0)
    counts = [0] * BINS
    for each in graded:
        counts[min(BINS - 1, int(BINS * each.points / most)) if most else 0] += 1
    top = max(counts, default=0) or 1
    edges = [f"{100 * n // BINS} to {100 * (n + 1) // BINS} %" for n in range(BINS)]
    return [(edge, n, n / top) for edge, n in zip(edges, counts, strict=True)]


def labels_of(graded: list[Result]) -> list[str]:
    """Return the exercises of a set, in their order."""
    return list(dict.fromkeys(label for each in graded for label in each.grade.points))


def exercise_of(label: str, graded: list[Result], titles: dict[str, str]) -> dict[str, Any]:
    """Return what the page says of one exercise: shares, mean, and the mistakes by frequency."""
    points = [each.grade.points[label] for each in graded if label in each.grade.points]
    unanswered = sum(each.grade.failed.get(label) == "not answered" for each in graded)
    full = sum(got >= most for got, most in points)
    some = sum(0 < got < most for got, most in points)
    none = len(points) - full - some - unanswered
    return {
        "label": label,
        "title": titles.get(label, "").replace("`", ""),
        "most": max((most for _, most in points), default=0),
        "mean": mean(got for got, _ in points) if points else 0.0,
        "parts": [("full", full), ("some", some), ("wrong", none), ("blank", unanswered)],
        "count": len(points) or 1,
        "mistakes": mistakes(label, graded),
    }


def mistakes(label: str, graded: list[Result]) -> list[Mistake]:
    """Return the diagnoses of an exercise, the most frequent first, whatever numbers they name."""
    found: dict[str, list[Result]] = defaultdict(list)
    for each in graded:
        got, most = each.grade.points.get(label, (0.0, 0.0))
        text = each.grade.failed.get(label, "") if got < most else ""
        if text and text != "not answered":
            found[NUMBER.sub("#", text.partition(" (")[0])].append(each)
    by_number = sorted(found.values(), key=lambda group: (-len(group), group[0].name))
    return [
        Mistake(*with_example(group[0].grade.failed[label]), [each.name for each in group])
        for group in by_number
    ]


def with_example(text: str) -> tuple[str, str]:
    """Return a diagnosis, and the call of the student's function that follows in brackets."""
    name = re.match(r"\w*", text)
    call = re.search(rf" \((?:called |after )?{name[0]}\(", text) if name and name[0] else None
    if not call:
        return text, ""
    return text[: call.start()], text[call.start() + 2 :].removesuffix(")")


def days(graded: list[Result]) -> list[tuple[str, int, float]]:
    """Return how many handed in on each day: the day, the number, the share of the most."""
    counts: dict[str, int] = defaultdict(int)
    for each in sorted(graded, key=lambda each: each.grade.handed_in):
        counts[datetime.fromtimestamp(each.grade.handed_in).strftime("%a %d %b %Y")] += 1
    top = max(counts.values(), default=1)
    return [(day, n, n / top) for day, n in counts.items()]


def quizzes(submitted: Path, folder: Path) -> list[dict[str, Any]]:
    """Return each chapter's quiz: who answered, and how many were right at each question.

    Students hand in `progress.json`, which the quizzes write on their own machines.
    """
    asked = {
        path.stem: json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))
    }
    choices: dict[str, list[dict[str, int]]] = defaultdict(list)
    for path in sorted(submitted.rglob(PROGRESS)):
        for name, chosen in progress_of(path).items():
            choices[name].append(chosen)
    return [
        {
            "name": name,
            "students": len(choices[name]),
            "rows": list(rows_of(asked[name], choices[name])),
        }
        for name in asked
        if choices[name]
    ]


def progress_of(path: Path) -> dict[str, dict[str, int]]:
    """Return the choices in a student's file, by quiz; empty where it is damaged."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8")).get("quiz", {})
        return {
            str(name): {str(q): int(c) for q, c in chosen.items()} for name, chosen in kept.items()
        }
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def rows_of(
    questions: list[dict[str, Any]], chosen: list[dict[str, int]]
) -> Iterable[tuple[str, int, int, str]]:
    """Yield each question, how many answered, how many right, and the likeliest wrong choice."""
    for number, question in enumerate(questions):
        options = question["choices"]
        answers = [
            own[str(number)] for own in chosen if own.get(str(number), -1) in range(len(options))
        ]
        right = [each for each in answers if options[each].get("right")]
        wrong = [options[each]["says"] for each in answers if not options[each].get("right")]
        yield question["ask"], len(answers), len(right), max(wrong, key=wrong.count, default="")
