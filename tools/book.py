"""Build the book, static pages in build/book/, from the executed notebooks.

make book                  run the notebooks whose results are missing or stale, then build
make book EXECUTE=never    build with the results that are there
"""

from mamlpp import stopping

stopping.listen(__name__, "The book in build/book is incomplete: give the same command again.")

import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import unquote

import frozen_explorers
import nbformat
import tyro
from clean_outputs import clean
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell, new_output
from walkthrough import run_all

from mamlpp.show import claims
from mamlpp.terminal import say

KIT = Path(__file__).resolve().parents[1]
NOTEBOOKS = KIT / "notebooks"
PROGRESS = NOTEBOOKS / "progress.ipynb"  # about one reader alone: a page without results
EXECUTED = KIT / "build" / "notebooks"
PAGES = KIT / "build" / "book-pages"  # what Sphinx reads
FOLDERS = {
    **dict.fromkeys(("exercises", "notebooks/exercises"), "notebooks/exercises/index.md"),
    **dict.fromkeys(("results", "sweeps"), "book/results.md"),
}  # the page that a link to a folder leads to
LONG = 15  # lines of text output; more are folded

TEXTS = {"README.md": "index.md", "TEACHING.md": "", "CONTRIBUTING.md": "", "CHANGELOG.md": ""}
USING = ["ways_in", "data", "library", "your_own", "command_line"]

LEDGER = """# The ledger of claims

What the chapters state, and check where they run. Of each claim: the paper's words, and the two
numbers that we measured, the larger one first where the claim holds. Where you run the chapters,
`mamlpp.show.claims.ledger()` puts your numbers beside ours.
"""

FENCE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)
LINK = re.compile(r"(\]\(<?)([^)\s>]+)")
EXTERNAL = re.compile(r"[a-z]+:|#")


# Results: which there are, and which belong to the notebook as it is now


def chapters() -> list[Path]:
    """Return the notebooks that are shown with results, in the order of the README."""
    numbered = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))
    primer = NOTEBOOKS / "primer.ipynb"
    last = sorted({*NOTEBOOKS.glob("*.ipynb")} - {*numbered, primer, PROGRESS})
    return [*numbered[:1], primer, *numbered[1:], *last]


def code(notebook: NotebookNode) -> list[str]:
    """Return the code of a notebook, without the cell of parameters that a run adds."""
    return [
        cell.source
        for cell in notebook.cells
        if cell.cell_type == "code" and "injected-parameters" not in cell.metadata.get("tags", [])
    ]


def executed(path: Path, folder: Path = EXECUTED) -> NotebookNode | None:
    """Return the executed copy of a notebook in `folder`; None if it failed or the code changed."""
    copy = folder / path.name
    if not copy.exists():
        return None
    notebook = nbformat.read(copy, 4)
    if notebook.metadata.get("papermill", {}).get("exception"):
        return None
    return notebook if code(notebook) == code(nbformat.read(path, 4)) else None


def is_fresh(path: Path, folder: Path = EXECUTED) -> bool:
    """Whether there are results of the notebook, and of the kit, as they are now."""
    run = executed(path, folder)
    return run is not None and run.metadata.get("kit") == frozen_explorers.kit_digest()


def with_results(path: Path, folder: Path = EXECUTED) -> NotebookNode:
    """Return the notebook as it is now, with the cleaned outputs of its executed copy."""
    notebook, run = nbformat.read(path, 4), executed(path, folder)
    if run is None:
        notebook.cells.insert(
            1, new_markdown_cell("*This chapter has not been run for this book.*")
        )
        return notebook
    chosen = run.metadata.get("papermill", {}).get("parameters", {})
    outputs = iter([cell.outputs for cell in clean(run).cells if cell.cell_type == "code"])
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = next(outputs)
    words = ", ".join(f"`{name} = {value!r}`" for name, value in sorted(chosen.items()))
    older = "" if is_fresh(path, folder) else ", made with an earlier state of the kit"
    said = f"*The results on this page are those of {words}{older}.*"
    notebook.cells.insert(1, new_markdown_cell(said))
    return notebook


# Pages


def chapter(path: Path) -> NotebookNode:
    """Return a chapter as a page: live explorers, set-up and long text folded, pictures told."""
    notebook = with_results(path)
    begun = False  # after title, note and card stand the imports, and then the first text
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and not cell.source.startswith(("# ", "*", ">")):
            begun = True
        elif cell.cell_type == "code":
            if not begun:
                cell.metadata.setdefault("tags", []).append("hide-input")
            _prepare(cell)
    return notebook


def _prepare(cell: NotebookNode) -> None:
    name = frozen_explorers.find(cell.source)
    if name is not None:
        url = f"../_static/explorers/{frozen_explorers.slug(name)}"
        folder = frozen_explorers.FOLDER / frozen_explorers.slug(name)
        texts = [output for output in cell.outputs if output.output_type == "stream"]
        page = {"text/html": frozen_explorers.as_html(name, folder, url)}
        cell.outputs = [*texts, new_output("display_data", page)]
    lines = sum(output.get("text", "").count("\n") for output in cell.outputs)
    if lines > LONG:
        cell.metadata.setdefault("tags", []).append("hide-output")
    words = [alt for output in cell.outputs if (alt := alternative_text(output))]
    if words:
        cell.metadata["mystnb"] = {"image": {"alt": " ".join(words)}}


def alternative_text(output: NotebookNode) -> str:
    """Return the words that an output gives its picture, or ""."""
    return output.get("metadata", {}).get("image/png", {}).get("alt", "")


def exercise_sets() -> list[Path]:
    """Return the sets of exercises; one that shows a solution is left out."""
    sets = sorted((NOTEBOOKS / "exercises").glob("*.ipynb"))
    return [path for path in sets if "### BEGIN SOLUTION" not in path.read_text(encoding="utf-8")]


def ledger_page() -> str:
    """Return the page of what the chapters claim, with our numbers."""
    rows = [row for row in claims.ledger().to_dict("records") if row["ours"] != "–"]
    columns = ["chapter", "claim", "the paper", "ours"]
    lines = [[row[column] for column in columns] for row in rows]
    table = [" | ".join(cells) for cells in (columns, ["---"] * len(columns), *lines)]
    return "\n".join([LEDGER, *(f"| {line} |" for line in table), ""])


def modules() -> Iterator[str]:
    """Yield the modules that have a page: those of the checks would give answers away."""
    for path in sorted((KIT / "mamlpp").rglob("*.py")):
        parts = path.relative_to(KIT).with_suffix("").parts
        if parts[-1] != "__main__" and parts[:2] != ("mamlpp", "checks"):
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def module_page(name: str) -> str:
    """Return the page of a module: what its docstrings say, then its source."""
    path = Path(importlib.import_module(name).__file__ or "").relative_to(KIT)
    gathers = path.name in ("__init__.py", "public.py")  # names that have a page elsewhere
    return f"""# {name}

```{{eval-rst}}
.. automodule:: {name}
{"   :no-members:" if gathers else ""}
```

## Source of {path.name}

```{{literalinclude}} /{path.as_posix()}
:language: python
```
"""


def module_index() -> str:
    """Return the page that leads to all modules."""
    lines = []
    for name in modules():
        first = (importlib.import_module(name).__doc__ or "").strip().splitlines()
        lines.append(f"| [`{name}`]({name}.md) | {first[0] if first else ''} |")
    table = "\n".join(["| module | |", "|---|---|", *lines])
    start = "Start with [`mamlpp.maml`](mamlpp.maml.md), the paper on a page."
    return f"# Reference\n\n{start}\n\n{table}\n\n{toctree('', list(modules()))}"


def toctree(caption: str, pages: list[str]) -> str:
    """Return the directive that puts `pages` into the table of contents."""
    options = [":hidden:", *([f":caption: {caption}"] if caption else [])]
    return "\n".join(["```{toctree}", *options, "", *pages, "```", ""])


# Links


def relink(text: str, page: str) -> str:
    """Make the links of a text in the kit, at the place `page`, lead to the book's pages."""
    parts = FENCE.split(text)
    parts[::2] = [LINK.sub(lambda m: m[1] + _target(m[2], page), part) for part in parts[::2]]
    return "".join(parts)


def _target(link: str, page: str) -> str:
    if EXTERNAL.match(link):
        return link
    name, hash_, anchor = link.partition("#")
    path = os.path.normpath(PurePosixPath(page).parent / unquote(name)).replace(os.sep, "/")
    if path == "README.md":
        path = "index.md"
    elif path.startswith("mamlpp/") and path.endswith(".py"):
        path = f"api/{path.removesuffix('.py').removesuffix('/__init__').replace('/', '.')}.md"
    elif path in FOLDERS:
        path = FOLDERS[path]
    elif (KIT / path).is_file() and path.rpartition(".")[2] not in ("md", "ipynb"):
        _copy(path)
    start = "index.md" if page == "README.md" else page
    return os.path.relpath(path, PurePosixPath(start).parent).replace(os.sep, "/") + hash_ + anchor


def _copy(path: str) -> None:
    target = PAGES / path
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(KIT / path, target)


# The whole


def write_pages() -> None:
    """Write everything that Sphinx reads into `PAGES`."""
    shutil.rmtree(PAGES, ignore_errors=True)
    sets = exercise_sets()
    for path in chapters():
        _write_notebook(chapter(path), path)
    for path in [*sets, PROGRESS]:
        _write_notebook(nbformat.read(path, 4), path)
    for name in TEXTS:
        _write(TEXTS[name] or name, relink((KIT / name).read_text(encoding="utf-8"), name))
    for path in sorted((KIT / "book").glob("*.md")):
        page = f"book/{path.name}"
        _write(page, relink(path.read_text(encoding="utf-8"), page))
    _write("notebooks/exercises/index.md", exercises_page(sets))
    _write("book/ledger.md", ledger_page())
    for name in modules():
        _copy(Path(importlib.import_module(name).__file__ or "").relative_to(KIT).as_posix())
        _write(f"api/{name}.md", module_page(name))
    _write("api/index.md", module_index())
    with (PAGES / "index.md").open("a", encoding="utf-8") as file:
        file.write(contents(sets))


def exercises_page(sets: list[Path]) -> str:
    """Return the page that leads to the sets."""
    titles = [nbformat.read(path, 4).cells[0].source.splitlines()[0].strip("# ") for path in sets]
    lines = [f"- [{title}]({path.name})" for title, path in zip(titles, sets, strict=True)]
    words = "Each set is a notebook in `notebooks/exercises/` that checks your answers as you go."
    return "\n".join(["# Exercises", "", words, "", *lines, ""])


def contents(sets: list[Path]) -> str:
    """Return the table of contents, for the end of the first page."""
    exercises = [f"notebooks/exercises/{path.stem}" for path in sets]
    return "\n" + "\n".join(
        [
            toctree("The chapters", [f"notebooks/{path.stem}" for path in chapters()]),
            toctree("Exercises", ["notebooks/exercises/index", *exercises, "notebooks/progress"]),
            toctree("Results", ["book/results", "book/ledger", "book/speed"]),
            toctree("Use it", ["TEACHING", *(f"book/{name}" for name in USING)]),
            toctree("Inside", ["api/index", "CONTRIBUTING", "CHANGELOG"]),
        ]
    )


def _write(page: str, text: str) -> None:
    target = PAGES / page
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")


def _write_notebook(notebook: NotebookNode, path: Path) -> None:
    page = path.relative_to(KIT).as_posix()
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = relink(cell.source, page)
    _write(page, nbformat.writes(notebook))


def build(output: Path) -> int:
    """Call Sphinx, and put the explorers' pictures beside its pages; return its exit status."""
    command = [sys.executable, "-m", "sphinx", "-q", "-E", "-j", "2", "-b", "html"]
    command += ["-c", str(KIT / "book"), "-d", str(PAGES.with_name("book-doctrees"))]
    shutil.rmtree(output, ignore_errors=True)
    status = subprocess.run([*command, str(PAGES), str(output)], check=False).returncode
    shutil.copytree(frozen_explorers.FOLDER, output / "_static" / "explorers", dirs_exist_ok=True)
    return status


def main(
    execute: Literal["stale", "never"] = "stale",
    profile: str = "laptop",
    dataset: str = "auto",
    output: Path = KIT / "build" / "book",
) -> int:
    """Build the book.

    Args:
        execute: Whether chapters run first whose results are missing or older than the kit.
        profile: How long those train, such as smoke or laptop.
        dataset: The images they train on.
        output: Where the pages go.

    Returns:
        The exit status.
    """
    if find_spec("sphinx") is None:
        print("The book needs its extra packages: type 'make book', or install '.[book]'.")
        return 1
    stale = [path for path in chapters() if not is_fresh(path)]
    if stale and execute == "stale":
        results = run_all(stale, EXECUTED, {"profile": profile, "dataset": dataset})
        if any(result.error for result in results):
            return 1
    frozen_explorers.freeze_all()
    write_pages()
    status = build(output)
    say(f"{output / 'index.html'}")
    return status


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
