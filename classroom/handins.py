"""What a class handed in: which file is whose, and of which set.

A class hands in one folder a student, or files that are named for student and set, or what a
course system exports. Nobody's faulty file stops the others: it becomes a submission with a fault.
"""

import os
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from classroom.recognise import answered, held_sets
from classroom.sets import ExerciseSet, GradingError
from classroom.versions import BEGIN, cell_name, is_solution
from mamlpp.errors import InputError
from mamlpp.files import read_text

LARGEST = 50_000_000  # bytes of a submission
# What Moodle adds to the name of a student's folder.
MOODLE = re.compile(r"_assignsubmission_\w+?_?$|_onlinetext_?$|_file_?$", re.IGNORECASE)
KIT = "mamlpp"  # the folder that shows that somebody handed in the whole kit


@dataclass(frozen=True)
class Submission:
    """A file that was handed in, its student and set; `fault` says why it cannot be run, if so.

    `notes` go to the student and the teacher; `flags` ask the teacher to look.
    """

    student: str
    set: str
    path: Path | None
    fault: str = ""
    notes: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    answers: int = 0  # cells that hold an answer


def collect(
    folder: Path, sets: dict[str, ExerciseSet], only: str, skip: Collection[Path] = ()
) -> list[Submission]:
    """Return what was handed in below `folder` for the set `only`, or for any set if empty.

    What lies in one of the folders `skip`, the grades for one, nobody handed in.
    """
    roots = class_folders(folder, skip)
    found = [
        each
        for root in roots
        for path in notebooks(root, skip)
        if not (root == folder and any(path.is_relative_to(other) for other in roots[1:]))
        for each in identify(path, root, sets, only)
    ]
    found = refuse_shared(found)
    wanted = [each for each in found if not only or each.set == only]
    names = {each.student for each in found}
    check_names(names)
    empty = {
        name
        for root in roots
        for path in sorted(root.iterdir())
        if path.is_dir() and not hidden(path) and path not in [*roots, *skip]
        if (name := student_name(path.name)) not in names
    }
    missing = [Submission(name, only, None, "no notebook was handed in") for name in sorted(empty)]
    chosen = [note_kit(each, folder) for each in best(wanted)]
    return sorted([*chosen, *missing], key=lambda each: (each.student, each.set))


def class_folders(folder: Path, skip: Collection[Path]) -> list[Path]:
    """Return `folder`, and the folders in it that hold several students' rather than one's.

    A folder of many folders, each with a notebook of the same name, is an export that was unpacked
    into a folder of its own.
    """
    groups = []
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not hidden(path) and path not in skip and not path.is_symlink():
            inner = [each for each in path.iterdir() if each.is_dir() and not hidden(each)]
            names = [{p.name.casefold() for p in notebooks(each, skip)} for each in inner]
            shared = [name for own in names for name in own]
            twice = any(shared.count(name) > 1 for name in shared)
            if twice and not (path / KIT).is_dir() and not list(path.glob("*.ipynb")):
                groups.append(path)
    return [folder, *groups]


def check_names(students: Collection[str]) -> None:
    """Raise `GradingError` if two names would share a folder, as they may on Windows and macOS."""
    known: dict[str, str] = {}
    for name in sorted(students):
        other = known.setdefault(name.rstrip(". ").casefold(), name)
        if other != name:
            raise GradingError(
                f"'{other}' and '{name}' are one name to some systems: rename one of the two, or "
                f"put what they handed in into one folder."
            )


def notebooks(folder: Path, skip: Collection[Path] = ()) -> list[Path]:
    """Return all notebooks below `folder`, except checkpoints and other hidden ones."""
    found = []
    for name, folders, files in os.walk(folder):
        here = Path(name)
        folders[:] = [each for each in folders if here / each not in skip]
        folders[:] = [each for each in folders if not hidden(Path(each))]
        found += [
            here / file
            for file in files
            if file.lower().endswith(".ipynb") and not hidden(Path(file))
        ]
    return sorted(path for path in found if path.is_file() or path.is_symlink())


def hidden(path: Path) -> bool:
    """Whether a file or folder is one that nobody handed in on purpose."""
    return path.name.startswith((".", "__"))


def identify(path: Path, folder: Path, sets: dict[str, ExerciseSet], only: str) -> list[Submission]:
    """Find out the student and the sets of the notebook `path`, by its cells or else its name."""
    named = next((name for name in sets if name in path.stem), "")
    student = student_of(path, folder, named)
    if is_link(path, folder):
        return [Submission(student, named or only, path, "it is a link to a file, not a file")]
    try:
        notebook = read_submission(path)
    except GradingError as error:
        return [Submission(student, named or only, path, str(error))]
    held = held_sets(notebook, sets)
    if not held:
        fault = f"it has no cell of {named or only or 'any set'}: is it from another course?"
        return [Submission(student, named or only, path, fault)]
    if only and only not in held:
        return [Submission(student, named or only, path, f"it holds {held[0]}, not {only}")]
    flags = ("the file is a source with the solutions",) if is_source(notebook) else ()
    notes = () if named in held else (f"the file was named {path.name}",)
    if len(held) > 1:
        notes = (*notes, f"{path.name} holds {len(held)} sets: {', '.join(held)}")
    return [
        Submission(student, name, path, "", notes, flags, len(answered(notebook, sets[name])))
        for name in held
        if not only or name == only
    ]


def is_link(path: Path, folder: Path) -> bool:
    """Whether `path`, or a folder on the way to it, is a link."""
    steps = [path, *(each for each in path.parents if each.is_relative_to(folder))]
    return any(each.is_symlink() for each in steps if each != folder)


def refuse_shared(found: list[Submission]) -> list[Submission]:
    """Give a fault to each submission that is one and the same file as another student's."""
    owners: dict[tuple[int, int], set[str]] = {}
    for each in found:
        owners.setdefault(inode(each), set()).add(each.student)
    fault = "it is one file with another student's, by a hard link"
    return [replace(each, fault=fault) if len(owners[inode(each)]) > 1 else each for each in found]


def inode(submission: Submission) -> tuple[int, int]:
    """Return what the file system knows the file by."""
    assert submission.path is not None
    status = submission.path.lstat()
    return status.st_dev, status.st_ino or hash(submission.path)


def is_source(notebook: NotebookNode) -> bool:
    """Whether a notebook is a source of this kit, with the marks of its solutions."""
    return any(is_solution(cell) and BEGIN.search(cell.source) for cell in notebook.cells)


def student_of(path: Path, folder: Path, named: str) -> str:
    """Return the student: the name of the subfolder, or of the file without the name of the set."""
    parts = path.relative_to(folder).parts
    if len(parts) > 1:
        return student_name(parts[0])
    before, _, after = path.stem.partition(named) if named else (path.stem, "", "")
    return before.strip("_- ") or after.strip("_- ") or path.stem


def student_name(folder: str) -> str:
    """Return a student's name without what Moodle adds to the folder."""
    return MOODLE.sub("", folder) or folder


def read_submission(path: Path) -> NotebookNode:
    """Return the notebook `path`; raises `GradingError` if the file is not a notebook."""
    size = path.stat().st_size
    if size == 0:
        raise GradingError("the file is empty")
    if size > LARGEST:
        raise GradingError(f"the file is larger than {LARGEST // 1_000_000} MB")
    try:
        notebook = nbformat.reads(read_text(path), as_version=4)
        # Small faults of form do no harm, but cells there must be.
        if not [cell_name(cell) + cell.source + cell.cell_type for cell in notebook.cells]:
            raise GradingError("the notebook has no cells")
    except GradingError:
        raise
    except InputError as error:
        raise GradingError("the file is no notebook, or it is damaged") from error
    except Exception as error:  # nbformat raises many kinds, and JSON may hold anything
        raise GradingError("the file is no notebook, or it is damaged") from error
    return notebook


def best(submissions: list[Submission]) -> list[Submission]:
    """Return, for each student and set, the newest submission that holds an answer.

    Where none does, the newest that can be read; a source of the kit only where there is no other.
    """
    chosen: dict[tuple[str, str], Submission] = {}
    for each in sorted(submissions, key=changed):
        before = chosen.get((each.student, each.set))
        chosen[each.student, each.set] = better(before, each) if before else each
    return list(chosen.values())


def changed(submission: Submission) -> float:
    """Return when the file was changed."""
    return submission.path.lstat().st_mtime if submission.path else 0.0


def better(older: Submission, newer: Submission) -> Submission:
    """Return which of two submissions for one set counts, with a note that says so."""
    assert older.path is not None
    assert newer.path is not None
    counts, other = (newer, older) if rank(older) <= rank(newer) else (older, newer)
    if other.flags:
        return counts
    if counts is newer:
        note = f"{newer.path.name} is newer than {older.path.name}"
        return replace(newer, notes=(*newer.notes, note))
    note = f"{newer.path.name} is newer, but holds no answer: {older.path.name} counts"
    return replace(older, notes=(*older.notes, note))


def rank(submission: Submission) -> int:
    """Return how much a submission is worth reading."""
    own = not submission.flags
    return (2 if not submission.fault and own else 0) + (1 if submission.answers and own else 0)


def note_kit(submission: Submission, folder: Path) -> Submission:
    """Flag a submission that lies in a copy of the whole kit."""
    path = submission.path
    above = [each for each in path.parents if each.is_relative_to(folder)] if path else []
    if not any((each / KIT).is_dir() for each in above if each != folder):
        return submission
    return replace(submission, flags=(*submission.flags, "the whole kit was handed in"))
