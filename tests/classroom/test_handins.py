"""Whose a file is, of which set, and which of several files counts."""

import os
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from classroom.handins import collect, read_submission
from classroom.records import folder_name
from classroom.sets import ExerciseSet, GradingError, Limits, load_set


@pytest.mark.parametrize(
    ("path", "student"),
    [
        ("ann/01_sums.ipynb", "ann"),
        ("Ann Lee [7]/homework/sums final (2).ipynb", "Ann Lee [7]"),
        ("01_sums_ann.ipynb", "ann"),
        ("ann_01_sums.ipynb", "ann"),
        ("leeann_123_456_01_sums-1.ipynb", "leeann_123_456"),
        ("my homework.ipynb", "my homework"),
    ],
)
def test_folder_or_name_tells_the_student_and_cells_the_set(
    path: str,
    student: str,
    tmp_path: Path,
    sets: dict[str, ExerciseSet],
    handed_out: Callable[[], NotebookNode],
):
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(handed_out(), file)
    (found,) = collect(tmp_path, sets, "")
    assert (found.student, found.set, found.path, found.fault) == (student, "01_sums", file, "")
    renamed = () if "01_sums" in path else (f"the file was named {file.name}",)
    assert found.notes == renamed


def test_a_wrong_name_is_noted_and_with_one_set_a_fault(
    tmp_path: Path, sets: dict[str, ExerciseSet], handed_out: Callable[[], NotebookNode]
):
    nbformat.write(handed_out(), tmp_path / "02_signs_ann.ipynb")
    (found,) = collect(tmp_path, sets, "")
    assert (found.set, found.notes) == ("01_sums", ("the file was named 02_signs_ann.ipynb",))
    (refused,) = collect(tmp_path, sets, "02_signs")
    assert (refused.student, refused.fault) == ("ann", "it holds 01_sums, not 02_signs")


def test_of_two_files_the_newer_one_counts(
    tmp_path: Path, sets: dict[str, ExerciseSet], handed_out: Callable[[], NotebookNode]
):
    (tmp_path / "ann").mkdir()
    for age, name in enumerate(["a 01_sums.ipynb", "01_sums.ipynb", "old 01_sums.ipynb"]):
        nbformat.write(handed_out(), tmp_path / "ann" / name)
        os.utime(tmp_path / "ann" / name, (age % 2, age % 2))
    (found,) = collect(tmp_path, sets, "")
    assert found.path == tmp_path / "ann" / "01_sums.ipynb"
    assert found.notes == ("01_sums.ipynb is newer than old 01_sums.ipynb",)


def test_copies_that_nobody_handed_in_are_passed_over(
    tmp_path: Path, sets: dict[str, ExerciseSet], handed_out: Callable[[], NotebookNode]
):
    for folder in ("ann/.ipynb_checkpoints", "__MACOSX/ann"):
        (tmp_path / folder).mkdir(parents=True)
        nbformat.write(handed_out(), tmp_path / folder / "01_sums.ipynb")
    (found,) = collect(tmp_path, sets, "")
    assert (found.student, found.fault) == ("ann", "no notebook was handed in")


def test_names_that_are_one_folder_to_some_systems_are_a_mistake(
    tmp_path: Path, sets: dict[str, ExerciseSet], handed_out: Callable[[], NotebookNode]
):
    (tmp_path / "ann").mkdir()
    nbformat.write(handed_out(), tmp_path / "ann" / "01_sums.ipynb")
    nbformat.write(handed_out(), tmp_path / "01_sums_Ann.ipynb")
    with pytest.raises(GradingError, match=r"'Ann' and 'ann' are one name"):
        collect(tmp_path, sets, "")


@pytest.mark.parametrize(
    ("student", "folder"),
    [
        ("ann", "ann"),
        ("Ann B. Lee", "Ann B. Lee"),
        ("con", "con_"),
        ("AUX.tar", "AUX.tar_"),
        ("Lpt1 ", "Lpt1_"),
        ("ann.", "ann_"),
        ("conrad", "conrad"),
        ("...", "__"),
    ],
)
def test_a_student_may_have_any_name(student: str, folder: str):
    assert folder_name(student) == folder


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}',
        '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [7]}',
        '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [{"metadata": 3}]}',
        "\x00\x01",
        "[" * 100_000,
    ],
)
def test_what_is_no_notebook_is_a_fault_in_words(text: str, tmp_path: Path):
    path = tmp_path / "a.ipynb"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(GradingError, match=r"^the (file is no notebook|notebook has no)"):
        read_submission(path)


def test_a_source_may_ask_for_more_time(sources: Path, course: Path, tmp_path: Path):
    notebook = nbformat.read(sources / "02_signs.ipynb", 4)
    notebook.metadata["grading"] = {"seconds_per_cell": 300, "seconds": 20}
    nbformat.write(notebook, tmp_path / "02_signs.ipynb")
    limits = load_set(tmp_path / "02_signs.ipynb", course, Limits()).limits
    assert limits == Limits(seconds_per_cell=300, seconds=600)
