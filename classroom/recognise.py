"""Which cell of a submission is which cell of a set, also where its metadata is gone or doubled.

Programs that open a notebook may drop what nbgrader wrote into it, and students split cells and
copy them. So a cell is known by its name, by its identifier, or by what it defines or tests.
"""

import ast
import re

from nbformat import NotebookNode

from classroom.sets import ExerciseSet
from classroom.versions import cell_name, is_solution, is_test

BLANK = re.compile(r"\s+")
SHELL = re.compile(r"^(\s*)((?:\w+\s*=\s*)?[!%].*|\?.*|\w[\w.]*\?{1,2})$", re.MULTILINE)


def parsed(source: str) -> ast.Module | None:
    """Return the syntax tree of `source`, or None if it is no Python."""
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def defined(source: str) -> set[str]:
    """Return the functions that `source` defines at its top; empty if it is no Python."""
    tree = parsed(source)
    functions = tree.body if tree else []
    return {each.name for each in functions if isinstance(each, ast.FunctionDef)}


def same_text(one: str, other: str) -> bool:
    """Whether two cells say the same, but for blanks."""
    return BLANK.sub("", one) == BLANK.sub("", other)


def names_of(notebook: NotebookNode, exercise_set: ExerciseSet) -> list[str]:
    """Return, for each cell of `notebook`, the name of the cell of the set that it is, or ""."""
    known = exercise_set.known
    named = {cell_name(cell) for cell in notebook.cells}
    stripped = not any(named)
    ids = {cell.get("id"): name for name, cell in known.items() if stripped}
    names = []
    for cell in notebook.cells:
        name = cell_name(cell)
        if not name and cell.cell_type == "code":
            name = ids.get(cell.get("id"), "") or by_content(cell.source, exercise_set)
            name = name if name not in named else ""
        names.append(name if name in known else "")
    return names


def by_content(source: str, exercise_set: ExerciseSet) -> str:
    """Return the cell of the set that defines the same function or is the same test, or ""."""
    functions = defined(source)
    for name, cell in exercise_set.known.items():
        if is_solution(cell) and functions & defined(cell.source):
            return name
        if is_test(cell) and same_text(source, cell.source):
            return name
    return ""


def is_answered(source: str, original: NotebookNode) -> bool:
    """Whether an answer cell holds anything but what was handed out."""
    return bool(source.strip()) and not same_text(source, original.source)


def answered(notebook: NotebookNode, exercise_set: ExerciseSet) -> set[str]:
    """Return the names of the answer cells that hold an answer."""
    known = exercise_set.known
    pairs = zip(notebook.cells, names_of(notebook, exercise_set), strict=True)
    return {
        name
        for cell, name in pairs
        if name and is_solution(known[name]) and is_answered(cell.source, known[name])
    }


def held_sets(notebook: NotebookNode, sets: dict[str, ExerciseSet]) -> list[str]:
    """Return the sets that `notebook` holds: at least half of the cells, or more than any other."""
    shares = {}
    for each in sets.values():
        found = {name for name in names_of(notebook, each) if name}
        shares[each.name] = len(found) / len(each.known)
    best = max(shares.values(), default=0)
    return [name for name, share in shares.items() if share and (share >= 0.5 or share == best)]


def without_shell(source: str) -> tuple[str, list[str]]:
    """Return `source` without its lines for a shell or for IPython, and those lines."""
    if parsed(source) or not SHELL.search(source):
        return source, []
    if source.lstrip().startswith("%%"):
        return "pass  # not run while grading", [source.strip().splitlines()[0]]
    lines = [found[2] for found in SHELL.finditer(source)]
    return SHELL.sub(r"\1pass  # not run while grading: \2", source), lines
