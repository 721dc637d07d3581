"""A wrong answer to every exercise, tested last and in the submission's own kernel.

A submission that replaced a check, or made every cell succeed, passes it too; honest ones do not.
"""

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from classroom.reasons import error_of
from classroom.recognise import defined
from classroom.sets import ExerciseSet

TAG = "canary"
WRONG = "def {}(*arguments, **options):\n    return None\n"


def add(notebook: NotebookNode, exercise_set: ExerciseSet) -> None:
    """Append to `notebook` a cell for each test, in which the tested functions return None."""
    functions = set[str]().union(*map(defined, exercise_set.solutions.values()))
    for name, test in exercise_set.tests.items():
        tested = sorted(each for each in functions if each in test)
        source = "".join(map(WRONG.format, tested)) + test
        metadata = {"tags": [TAG], "exercise": exercise_set.labels[name]}
        notebook.cells.append(new_code_cell(source, metadata=metadata))


def remove(notebook: NotebookNode) -> list[str]:
    """Take these cells out of `notebook` again; return a flag for the exercises whose test passed.

    A cell that did not run has an error too, so that a dead kernel raises no flag.
    """
    added = [cell for cell in notebook.cells if TAG in cell.metadata.get("tags", [])]
    notebook.cells = [cell for cell in notebook.cells if cell not in added]
    passed = [
        cell.metadata["exercise"]
        for cell in added
        if cell.get("execution_count") and error_of(cell) is None
    ]
    labels = ", ".join(dict.fromkeys(passed))
    return [f"a wrong answer passes the tests of {labels} in its kernel"] if passed else []
