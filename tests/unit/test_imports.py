"""Which modules may import which, and how long the definition and a class may be."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "mamlpp"
ALGORITHM = ("maml", "network", "inner_rates", "schedules", "recipe", "learner", "diagnostics")
DEFINITION = (
    *ALGORITHM,
    "recipes",
    "calls",
    "gradients",
    "task_result",
    "classifier",
    "naming",
    "precision",
    "input_checks",
    "errors",
)
MAY_IMPORT = {  # beside the definition
    "data": {"data", "files"},
    "engine": {"engine", "data.tasks"},
    "run": {
        "run",
        "engine",
        "data",
        "files",
        "show",
        "terminal",
    },  # `run` shows a table through `show`
    "show": {"show", "run", "data", "files"},
    "checks": {"checks", "run", "show", "data", "files"},
}


def imports(path):
    """Modules that a file imports, by their whole names; of a package, what it takes from it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}".removeprefix("mamlpp.")
                is_module = (PACKAGE / f"{whole.replace('.', '/')}.py").exists()
                is_module |= (PACKAGE / whole.replace(".", "/")).is_dir()
                yield f"{node.module}.{alias.name}" if is_module else node.module


def own(path):
    return {name.removeprefix("mamlpp.") for name in imports(path) if name.startswith("mamlpp.")}


@pytest.mark.parametrize("module", DEFINITION)
def test_the_definition_imports_torch_and_itself(module):
    path = PACKAGE / f"{module}.py"
    assert own(path) <= set(DEFINITION)
    standard = {
        "abc",
        "collections",
        "contextlib",
        "contextvars",
        "copy",
        "dataclasses",
        "inspect",
        "itertools",
    }
    standard |= {
        "ast",
        "textwrap",
        "math",
        "operator",
        "threading",
        "typing",
        "warnings",
        "torch",
        "mamlpp",
    }
    assert {name.partition(".")[0] for name in imports(path)} <= standard


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_each_folder_imports_what_it_may(folder):
    allowed = {*DEFINITION, *MAY_IMPORT[folder]}
    for path in (PACKAGE / folder).rglob("*.py"):
        for name in own(path):
            assert name in allowed or name.partition(".")[0] in allowed, (path.name, name)


def test_training_and_evaluation_alone_use_the_engine():
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if path.parent.name != "engine" and any(n.startswith("engine") for n in own(path))
    }
    assert users == {
        *("run/trainer.py", "run/evaluation.py"),  # the meta-gradient, the logits
        *("run/seeds.py", "run/sweep.py"),  # whether another process has the same definition
        "cli.py",  # processes that torchrun started
    }


def test_the_definition_stays_short():
    lines = {
        name: len((PACKAGE / f"{name}.py").read_text("utf-8").splitlines()) for name in ALGORITHM
    }
    assert lines["maml"] <= 120
    assert sum(lines.values()) <= 850, lines
    assert max(lines.values()) <= 250


def test_no_class_is_too_long():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                assert node.end_lineno - node.lineno <= 232, (path.name, node.name)


# The package's own face


def test_the_package_offers_its_public_names_and_modules_and_nothing_else():
    code = """
import mamlpp
assert mamlpp.schedules.second_order(0, 1)  # before anything else has imported it
assert {*mamlpp.public.__all__} <= {*dir(mamlpp)}
assert all(getattr(mamlpp, name) is getattr(mamlpp.public, name) for name in mamlpp.__all__)
from mamlpp import *
assert Trainer is mamlpp.Trainer
print(hasattr(mamlpp, "trainer"), hasattr(mamlpp, "import_module_"))
"""
    assert printed(code) == "False False\n"


def test_importing_the_package_alone_imports_nothing_that_takes_long():
    assert printed("import sys, mamlpp.__main__; print('torch' in sys.modules)") == "False\n"


def printed(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout


def test_the_command_line_needs_nothing_of_the_notebooks():
    """What `pip install mamlpp` alone brings is enough to train, and to draw a sweep's tables."""
    code = """
import sys
for name in ("IPython", "ipywidgets", "anywidget", "papermill", "jupyterlab", "ipykernel"):
    sys.modules[name] = None
import mamlpp.cli
from mamlpp import *
from mamlpp.show import plots, tables
plots.use_style()
tables.draw_tables(tables.recorded_tables(mamlpp.load_result("laptop")))
"""
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "MPLBACKEND": "agg"}
    )
