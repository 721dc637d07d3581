"""Put a submission in order, so that it can be run: its own answers, and our tests.

Every change that a student should hear of comes back in words.
"""

import ast

import nbformat
from nbformat import NotebookNode

from classroom.recognise import (
    defined,
    is_answered,
    names_of,
    parsed,
    same_text,
    without_shell,
)
from classroom.sets import ExerciseSet
from classroom.versions import cell_name, is_solution, is_test

PARTIAL = "partial"  # the tag of a test whose parts have an equal share of its points each
DEFINITIONS = (ast.Import, ast.ImportFrom, ast.Assign, ast.FunctionDef, ast.ClassDef)
SHOWN = 80  # characters of a line in a note


def repair(submission: NotebookNode, exercise_set: ExerciseSet) -> list[str]:
    """Turn `submission` into one that can be graded, and return what was changed, in words.

    Each cell of the set gets back its kind and its metadata, with the whole tests in the test
    cells; every other cell loses what it says of grading. Changes `submission`.
    """
    known = exercise_set.known
    name_cells(submission, exercise_set)
    notes = [
        *join_halves(submission),
        *drop_blank_copies(submission, known),
        *drop_shell(submission),
    ]
    present = {cell_name(cell): cell for cell in submission.cells if cell_name(cell)}
    changed = [
        name
        for name, cell in present.items()
        if is_test(known[name]) and not same_text(cell.source, known[name].source)
    ]
    missing = [name for name, cell in known.items() if is_test(cell) and name not in present]
    for name in missing:
        insert(submission, known, name)
    for cell in filter(is_test, submission.cells):
        cell.source = exercise_set.tests[cell_name(cell)]
    submission.cells = [part for cell in submission.cells for part in parts_of(cell)]
    absent = [n for n, cell in known.items() if is_solution(cell) and n not in present]
    return [
        *notes,
        *([f"changed test cells were put back ({', '.join(changed)})"] if changed else []),
        *([f"deleted test cells were put back ({', '.join(missing)})"] if missing else []),
        *([f"deleted answer cells ({', '.join(absent)})"] if absent else []),
    ]


def name_cells(submission: NotebookNode, exercise_set: ExerciseSet) -> None:
    """Give each cell the metadata and the kind of the cell of the set that it is.

    All metadata, since there are tags that keep a cell from being run. Of a test that occurs twice
    the last one counts, because then everything is defined.
    """
    known, last = exercise_set.known, dict[str, int]()
    names = names_of(submission, exercise_set)
    for index, name in enumerate(names):
        last[name] = index
    for index, (cell, name) in enumerate(zip(submission.cells, names, strict=True)):
        if not name or (is_test(known[name]) and last[name] != index):
            cell.metadata = NotebookNode()
            continue
        cell.metadata = nbformat.from_dict(known[name].metadata)
        if cell.cell_type != known[name].cell_type:
            source = cell.source
            cell.clear()
            cell.update(nbformat.from_dict(known[name]), source=source)
    submission.cells = [
        cell
        for index, (cell, name) in enumerate(zip(submission.cells, names, strict=True))
        if not (name and is_test(known[name]) and last[name] != index)
    ]


def join_halves(submission: NotebookNode) -> list[str]:
    """Join a function that was split over cells: each half alone is no Python."""
    notes, cells = [], list[NotebookNode]()
    for cell in submission.cells:
        before = cells[-1] if cells else None
        if before is not None and are_halves(before, cell):
            before.source = f"{before.source.rstrip()}\n{cell.source}"
            notes.append(f"an answer that was split over two cells was joined ({named(before)})")
        else:
            cells.append(cell)
    submission.cells = cells
    return list(dict.fromkeys(notes))


def are_halves(one: NotebookNode, other: NotebookNode) -> bool:
    """Whether two cells are one function: the second begins indented, and both together parse."""
    if {one.cell_type, other.cell_type} != {"code"} or is_test(one) or is_test(other):
        return False
    indented = other.source.lstrip("\n")[:1] in (" ", "\t")
    whole = f"{one.source.rstrip()}\n{other.source}"
    return indented and not parsed(other.source) and parsed(whole) is not None


def drop_blank_copies(submission: NotebookNode, known: dict[str, NotebookNode]) -> list[str]:
    """Remove an answer cell that is as it was handed out, where another cell has the answer."""
    written = [
        cell
        for cell in submission.cells
        if cell.cell_type == "code" and not is_test(cell) and not is_blank(cell, known)
    ]
    answered = set[str]().union(*(defined(cell.source) for cell in written))
    blank = [
        cell
        for cell in submission.cells
        if is_blank(cell, known) and defined(known[cell_name(cell)].source) & answered
    ]
    for cell in blank:
        submission.cells.remove(cell)
    names = {cell_name(cell) for cell in submission.cells}
    for cell in blank:  # the answer stands in a cell of no name: it takes this one
        wanted = defined(known[cell_name(cell)].source)
        if cell_name(cell) not in names:
            other = next(each for each in written if defined(each.source) & wanted)
            if not cell_name(other):
                other.metadata = cell.metadata
    found = ", ".join(map(named, blank))
    return [f"an empty copy of an answered cell was left out ({found})"] if blank else []


def is_blank(cell: NotebookNode, known: dict[str, NotebookNode]) -> bool:
    """Whether an answer cell is as it was handed out."""
    return is_solution(cell) and not is_answered(cell.source, known[cell_name(cell)])


def drop_shell(submission: NotebookNode) -> list[str]:
    """Leave out lines for a shell, such as `!pip list`: nothing is installed while grading."""
    left_out = []
    for cell in submission.cells:
        if cell.cell_type == "code":
            cell.source, lines = without_shell(cell.source)
            left_out += [line[:SHOWN] for line in lines]
    return [f"not run: {line}" for line in dict.fromkeys(left_out)]


def parts_of(cell: NotebookNode) -> list[NotebookNode]:
    """Return a cell for each part of a test with partial credit; any other cell as it is."""
    if not is_test(cell) or PARTIAL not in cell.metadata.get("tags", []):
        return [cell]
    parts = []
    for number, source in enumerate(checks_in(cell.source)):
        part = nbformat.from_dict(cell)
        part.source = source
        if "id" in part:
            part.id = f"{cell.id[:50]}-{number}"
        parts.append(part)
    return parts


def checks_in(test: str) -> list[str]:
    """Return the parts of a test: each statement, after the definitions that stand above it."""
    lines = test.splitlines()
    statements = [each for each in ast.parse(test).body if not isinstance(each, DEFINITIONS)]
    ends = [each.end_lineno or len(lines) for each in statements]
    starts = [0, *ends[:-1]]
    return ["\n".join(lines[start:end]) for start, end in zip(starts, ends, strict=True)]


def insert(notebook: NotebookNode, known: dict[str, NotebookNode], name: str) -> None:
    """Insert the known cell `name` after the last of its predecessors in `notebook`."""
    names = list(known)
    before = set(names[: names.index(name)])
    places = [i for i, cell in enumerate(notebook.cells) if cell_name(cell) in before]
    # With no predecessor left, behind everything: what it tests is defined somewhere above.
    place = places[-1] + 1 if places else len(notebook.cells)
    notebook.cells.insert(place, nbformat.from_dict(known[name]))


def named(cell: NotebookNode) -> str:
    """Return what a cell is called: its name, or what it defines."""
    return cell_name(cell) or ", ".join(sorted(defined(cell.source))) or "a cell"
