"""What a teacher should look at first: answers that are ours, the package's or somebody else's.

A flag takes no point. Whether it means anything is for the teacher to say.
"""

import ast
import hashlib
from collections import Counter, defaultdict
from itertools import combinations

from nbformat import NotebookNode

from classroom.recognise import defined, parsed
from classroom.records import Grade
from classroom.sets import ExerciseSet
from classroom.versions import cell_name, is_solution, is_test

PACKAGE, CHECKS = "mamlpp", "mamlpp.checks"
SHORTEST = 12  # nodes of a syntax tree; shorter answers are the same by chance
RARE = 0.2  # of a class: an answer that more of them wrote says nothing


class Normal(ast.NodeTransformer):
    """Takes out of a syntax tree what a copier changes first: names, docstrings, annotations."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}

    def renamed(self, name: str) -> str:
        """Return the same new name for the same old one."""
        return self.names.setdefault(name, f"n{len(self.names)}")

    def visit_Name(self, node: ast.Name) -> ast.AST:
        """Rename a variable."""
        node.id = self.renamed(node.id)
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        """Rename an argument, and drop its annotation."""
        node.arg, node.annotation = self.renamed(node.arg), None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Drop a function's docstring and annotations."""
        if ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        node.returns = None
        return self.generic_visit(node)


def normal_form(source: str) -> str:
    """Return a fingerprint of what `source` does; empty where it is short or is no Python."""
    tree = parsed(source)
    if tree is None:
        return ""
    tree = Normal().visit(tree)
    if sum(1 for _ in ast.walk(tree)) < SHORTEST:
        return ""
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


def answers_of(notebook: NotebookNode, exercise_set: ExerciseSet) -> dict[str, str]:
    """Return the normal form of each answer that is not as it was handed out."""
    known = exercise_set.known
    return {
        cell_name(cell): form
        for cell in filter(is_solution, notebook.cells)
        if (form := normal_form(cell.source)) and form != normal_form(known[cell_name(cell)].source)
    }


def in_notebook(notebook: NotebookNode, exercise_set: ExerciseSet) -> list[str]:
    """Return what in a submission asks for a look, in words."""
    own = [cell.source for cell in notebook.cells if cell.cell_type == "code" and not is_test(cell)]
    handed_out = {cell.source for cell in exercise_set.released.cells}
    trees = [tree for source in own if source not in handed_out if (tree := parsed(source))]
    given = [tree for source in handed_out if (tree := parsed(source))]
    given += [tree for source in exercise_set.solutions.values() if (tree := parsed(source))]
    taken = from_package(trees) - from_package(given)
    touched = sorted({name for tree in trees for name in overwritten(tree)})
    flags = [f"an answer uses {', '.join(sorted(taken))}"] if taken else []
    flags += [f"it changes {', '.join(touched)}"] if touched else []
    return flags + are_ours(notebook, exercise_set)


def from_package(trees: list[ast.Module]) -> set[str]:
    """Return what of the package these cells import or call by its whole name."""
    found = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} - {CHECKS}
        elif isinstance(node, ast.Attribute) and ast.unparse(node).startswith(f"{PACKAGE}."):
            found.add(ast.unparse(node))
    return found


def overwritten(tree: ast.Module) -> list[str]:
    """Return which names of `checks`, of `sys.modules` and of IPython a cell assigns to."""
    found = []
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else []
        found += [ast.unparse(each) for each in targets if not isinstance(each, ast.Name)]
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "setattr" and node.args:
            found.append(ast.unparse(node.args[0]))
    watched = ("checks", "mamlpp", "sys.modules", "get_ipython", "builtins", "__builtins__")
    return [name[:60] for name in found if name.startswith(watched)]


def are_ours(notebook: NotebookNode, exercise_set: ExerciseSet) -> list[str]:
    """Return a flag where all answers, and more than one, are the kit's own, letter for letter."""
    ours = {name: parsed(source) for name, source in exercise_set.solutions.items()}
    answers = {cell_name(cell): parsed(cell.source) for cell in notebook.cells if is_solution(cell)}
    same = [
        name
        for name, tree in answers.items()
        if tree and (own := ours.get(name)) and ast.dump(tree) == ast.dump(own)
        if defined(exercise_set.solutions[name])
    ]
    alike = len(same) == len(ours) > 1
    return ["every answer is the kit's own solution"] if alike else []


def similar(grades: list[Grade]) -> list[tuple[str, str, str, int, int]]:
    """Return pairs that share answers which few others wrote: set, students, how many of how many.

    The pairs that share most come first. Some worked together, and some are chance.
    """
    by_set = defaultdict(list)
    for each in grades:
        by_set[each.set].append(each)
    pairs = []
    for name, members in by_set.items():
        wrote = Counter(answer for each in members for answer in each.answers.items())
        rare = {answer for answer, n in wrote.items() if n <= max(2, RARE * len(members))}
        for one, other in combinations(members, 2):
            shared = one.answers.items() & other.answers.items() & rare
            if len(shared) >= 2:
                most = min(len(one.answers), len(other.answers))
                pairs.append((name, one.student, other.student, len(shared), most))
    return sorted(pairs, key=lambda pair: (-pair[3] / pair[4], -pair[3], pair))
