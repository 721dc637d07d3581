"""The stamp of a handout: which set it is, in which version, for which course and whom.

It lies in the notebook's metadata. With it, grading can say what has changed since the handout, and
run a student's variant on the numbers that this student saw.
"""

import hashlib
import re
from dataclasses import replace
from datetime import date
from typing import Any

import nbformat
from nbformat import NotebookNode

from classroom.roster import plain
from classroom.sets import SEED, SEEDS, ExerciseSet, digest
from classroom.versions import cell_name, is_test

STAMP = "mamlpp_handout"
CALL = re.compile(r"^(checks\.\w+\([^()]*)\)$", re.MULTILINE)
SHORT = 12  # characters of a fingerprint


def fingerprints(exercise_set: ExerciseSet) -> dict[str, str]:
    """Return a fingerprint of each cell of a set, with the hidden part of its tests.

    Seeds do not count: they are secret in one place, and a student's own in another.
    """
    texts = {name: cell.source for name, cell in exercise_set.known.items()} | exercise_set.tests
    plain_texts = {name: SEED.sub("", text).strip() for name, text in texts.items()}
    return {name: digest([text.encode()])[:SHORT] for name, text in plain_texts.items()}


def stamp(notebook: NotebookNode, exercise_set: ExerciseSet, course: str, student: str) -> None:
    """Write the stamp into a notebook that is handed out; `student` is empty for all alike."""
    cells = fingerprints(exercise_set)
    notebook.metadata[STAMP] = {
        "set": exercise_set.name,
        "version": digest([str(sorted(cells.items())).encode()])[:SHORT],
        "made": date.today().isoformat(),
        "course": course,
        "student": student,
        "cells": cells,
    }


def stamp_of(notebook: NotebookNode) -> dict[str, Any]:
    """Return a notebook's stamp; empty where it has none that is whole."""
    found = notebook.metadata.get(STAMP)
    whole = isinstance(found, dict) and isinstance(found.get("cells"), dict)
    return dict(found) if whole else {}


def changes(notebook: NotebookNode, exercise_set: ExerciseSet) -> list[str]:
    """Return which exercises are not what they were when the notebook was handed out, in words."""
    found = stamp_of(notebook)
    if not found or found.get("set") != exercise_set.name:
        return []
    now = fingerprints(exercise_set)
    labels = [exercise_set.labels[name] for name in now if found["cells"].get(name) != now[name]]
    if not labels:
        return []
    which, made = ", ".join(dict.fromkeys(labels)), str(found.get("made"))[:10]
    return [f"handed out on {made}, since then these exercises have changed: {which}"]


def misplaced(found: dict[str, Any], course: str, keys: set[str] | None) -> list[str]:
    """Return a flag where a stamp, `found`, is another course's, or another student's variant.

    `keys` are what the student is called on the roster, None where that is not known.
    """
    flags = []
    if course and found.get("course") and found["course"] != course:
        flags.append(f"it was handed out for {found['course']}")
    if keys is not None and found.get("student") and plain(str(found["student"])) not in keys:
        flags.append(f"it is the variant of {found['student']}")
    return flags


def variant(exercise_set: ExerciseSet, student: str) -> ExerciseSet:
    """Return the set as `student` gets it: the tests that they see draw numbers of their own."""
    if not student:
        return exercise_set
    released = nbformat.from_dict(exercise_set.released)
    tests = dict(exercise_set.tests)
    for cell in filter(is_test, released.cells):
        name = cell_name(cell)
        if "seed=" in tests[name]:
            seed = int(hashlib.sha256(f"{student}\n{name}".encode()).hexdigest(), 16) % SEEDS + 2
            before = cell.source
            cell.source = CALL.sub(rf"\1, seed={seed})", before)
            tests[name] = tests[name].replace(before.strip(), cell.source.strip(), 1)
    return replace(exercise_set, released=released, tests=tests)
