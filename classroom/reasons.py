"""What came out of a submission that was run: its points, and in words why some are missing."""

import re
from collections import defaultdict

from nbformat import NotebookNode

from classroom.sets import ExerciseSet, exercises_of
from classroom.versions import cell_name, grading, is_test

ANSI_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
CELL_FILE = re.compile(r" \(\d+\.py, (line \d+)\)")  # how IPython calls a cell
LONGEST = 400  # characters of an error in the reason: with the call, its result, the right one
LONGEST_DEED = 200  # characters of what the audit hook refused


def points_of(graded: NotebookNode, exercise_set: ExerciseSet) -> dict[str, tuple[float, float]]:
    """Return points and most points of each exercise: a test earns its points by not failing.

    Only an error takes points: what a test prints, warns of or returns counts for nothing. Where a
    test was split into parts, each of them earns its share.
    """
    parts: dict[str, list[bool]] = defaultdict(list)
    for cell in filter(is_test, graded.cells):
        parts[cell_name(cell)].append(bool(cell.get("execution_count")) and error_of(cell) is None)
    points = {label: (0.0, most) for label, most in exercise_set.most.items()}
    for cell in filter(is_test, exercise_set.released.cells):
        if passed := parts[cell_name(cell)]:
            label = exercise_set.labels[cell_name(cell)]
            got, most = points[label]
            share = sum(passed) / len(passed)
            points[label] = round(got + share * float(grading(cell)["points"]), 2), most
    return points


def error_of(cell: NotebookNode) -> tuple[str, str] | None:
    """Return the name and the text, on one line, of the error in `cell`, or None."""
    for output in reversed(cell.get("outputs", [])):  # what stopped a cell comes last
        if output.output_type == "error":
            text = " ".join(ANSI_COLOUR.sub("", output.evalue).split())
            text = CELL_FILE.sub(r" (\1)", text)
            return output.ename, text if len(text) <= LONGEST else text[:LONGEST] + "…"
    return None


def in_words(error: tuple[str, str]) -> str:
    """Return what an error means, in words for a teacher."""
    name, text = error
    if name in ("NotImplementedError", "NotWrittenYet"):
        return "not answered"
    if name in ("CellTimeoutError", "NotRun"):
        return text
    if name in ("AssertionError", "Wrong"):
        return text or "a test failed"
    return f"{name}: {text}" if text else name


def failures(graded: NotebookNode, exercise_set: ExerciseSet, lost: set[str]) -> dict[str, str]:
    """Return why each exercise in `lost` lost points; "" stands for cells outside exercises."""
    errors: dict[str, tuple[str, str]] = {}
    labels = exercises_of(graded, exercise_set.labels)
    for cell, label in zip(graded.cells, labels, strict=True):
        error = error_of(cell)
        # A test fails for its own reason, but a missing name is missing for an earlier one.
        if error and (label not in errors or (is_test(cell) and error[0] != "NameError")):
            errors[label] = error
    return {label: in_words(errors[label]) for label in errors if not label or label in lost}


def sentence(parts: list[str]) -> str:
    """Return `parts` as one sentence."""
    text = "; ".join(part.rstrip(".") for part in parts)
    return text[:1].upper() + text[1:] + ("" if text.endswith("?") else ".") if text else ""


def summary(failed: dict[str, str], labels: set[str]) -> list[str]:
    """Return what `failures` found as parts of the teacher's sentence."""
    if set(failed) == labels and set(failed.values()) == {"not answered"}:
        return ["nothing was answered"]
    return [f"{label}: {text}".removeprefix(": ") for label, text in failed.items()]


def refusals(lines: list[str], said: list[str]) -> list[str]:
    """Return what the audit hook refused, each action once, except what was `said` already."""
    deeds = list(dict.fromkeys(line[:LONGEST_DEED] for line in lines))[:3]
    return [f"refused: {deed}" for deed in deeds if not any(deed in text for text in said)]
