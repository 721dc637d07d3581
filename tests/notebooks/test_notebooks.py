"""Every notebook runs in its smoke profile and follows the rules for stored notebooks.

Each rule is a function that returns a list of faults; the second half of this file breaks each rule
once.
"""

import ast
import json
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from cards import OURS, with_card
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from walkthrough import NOTEBOOKS, NotebookError, for_notebook, main, run_notebook

from book import alternative_text

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
CHAPTERS = [path for path in PATHS if path.name[0].isdigit()]
PARAMETERS = {"profile", "dataset", "seed"}
# The chapter that trains in as many processes as there are cores: they take seconds to start.
BY_SEVERAL_PROCESSES = "02_training_instability"
MAX_LINES, ONE_THING = 15, 20  # of a cell; of one that is a single definition or a figure

MACHINE_PATH = re.compile(r"(?<![\w.~])/(?:home|root|work|Users)/|\b[A-Za-z]:\\")
NOT_LINKS = re.compile(r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$\n]*\$", re.DOTALL)
LINK = re.compile(r"\]\(<?([^)\s>]+)|(?:src|href)=[\"']([^\"']+)")
EXTERNAL = re.compile(r"[a-z]+:|#")

by_name = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
by_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


@by_name
def test_runs_in_the_smoke_profile(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    if path.stem != BY_SEVERAL_PROCESSES:
        monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    parameters = for_notebook(path, {"profile": "smoke", "dataset": "glyphs"})
    try:
        run_notebook(path, tmp_path / path.name, parameters, seconds_per_cell=300)
    except NotebookError as error:
        pytest.fail(str(error), pytrace=False)
    executed = nbformat.read(tmp_path / path.name, 4)
    assert cells_without_words(executed) == []
    assert cells_with_a_bare_answer(executed) == []


def cells_without_words(notebook: NotebookNode) -> list[str]:
    """The cells whose pictures do not say what they show (`plots.show` gives them their words)."""
    return [
        cell.source
        for cell in code_cells(notebook)
        for output in cell.outputs
        if "image/png" in output.get("data", {}) and not alternative_text(output)
    ]


def cells_with_a_bare_answer(notebook: NotebookNode) -> list[str]:
    """The cells that end with a True, a False or an object which nobody asked to see."""
    unasked = re.compile(r"True|False|Text\(|<matplotlib|\[<matplotlib|\(?array\(")
    return [
        cell.source
        for cell in code_cells(notebook)
        for output in cell.outputs
        if output.output_type == "execute_result"
        and unasked.match(output.data.get("text/plain", ""))
    ]


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def assigned_names(source: str) -> set[str]:
    targets: list[ast.expr] = []
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign):
            targets += statement.targets
        elif isinstance(statement, ast.AnnAssign):
            targets.append(statement.target)
    return {target.id for target in targets if isinstance(target, ast.Name)}


def parameter_faults(notebook: NotebookNode, folder: Path) -> list[str]:
    tagged = [
        cell for cell in code_cells(notebook) if "parameters" in cell.metadata.get("tags", [])
    ]
    if len(tagged) != 1:
        return [f"{len(tagged)} cells are tagged 'parameters'; exactly one must be"]
    missing = PARAMETERS - assigned_names(tagged[0].source)
    return [f"the parameters cell does not set {name}" for name in sorted(missing)]


def output_faults(notebook: NotebookNode, folder: Path) -> list[str]:
    executed = [cell for cell in code_cells(notebook) if cell.outputs or cell.execution_count]
    return [f"a cell has an output or execution count: {cell.source!r}" for cell in executed]


def title_faults(notebook: NotebookNode, folder: Path) -> list[str]:
    first = notebook.cells[0] if notebook.cells else new_code_cell()
    titled = first.cell_type == "markdown" and first.source.startswith("# ")
    return [] if titled else ["the first cell is not a title ('# …')"]


def length_faults(notebook: NotebookNode, folder: Path) -> list[str]:
    long = [cell for cell in code_cells(notebook) if len(cell.source.splitlines()) > limit(cell)]
    return [f"a cell is longer than {limit(cell)} lines: {cell.source[:60]!r}" for cell in long]


def limit(cell: NotebookNode) -> int:
    """How many lines a cell may have: more if it cannot be cut."""
    if "plt.subplots(" in cell.source or len(ast.parse(cell.source.rstrip(";")).body) == 1:
        return ONE_THING
    return MAX_LINES


def machine_path_faults(notebook: NotebookNode, folder: Path) -> list[str]:
    lines = [line for cell in notebook.cells for line in cell.source.splitlines()]
    return [
        f"a path of a particular machine: {line!r}" for line in lines if MACHINE_PATH.search(line)
    ]


def link_faults(notebook: NotebookNode, folder: Path) -> list[str]:
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    links = [a or b for text in texts for a, b in LINK.findall(NOT_LINKS.sub("", text))]
    targets = [unquote(link.split("#")[0]) for link in links if not EXTERNAL.match(link)]
    return [f"a link is broken: {name}" for name in targets if not (folder / name).exists()]


def kernel_faults(notebook: NotebookNode, folder: Path) -> list[str]:
    kernel = notebook.metadata.get("kernelspec", {})
    actual = kernel.get("name"), kernel.get("language")
    return [] if actual == ("python3", "python") else [f"the kernel is {actual}, not python3"]


def identity_faults(notebook: NotebookNode, folder: Path) -> list[str]:
    identities = [cell.get("id") for cell in notebook.cells]
    unique = all(identities) and len(set(identities)) == len(identities)
    return [] if unique else ["a cell has no unique id (notebook format 4.5)"]


Rule = Callable[[NotebookNode, Path], list[str]]
RULES: list[Rule] = [
    output_faults,
    title_faults,
    length_faults,
    machine_path_faults,
    link_faults,
    kernel_faults,
    identity_faults,
]


CHAPTER_RULES: list[Rule] = [parameter_faults]


@by_name
def test_follows_the_rules_for_stored_notebooks(path: Path):
    rules = RULES + CHAPTER_RULES if path in CHAPTERS else RULES
    assert faults(stored(path), path.parent, rules) == {}


@pytest.mark.parametrize("path", [*CHAPTERS, NOTEBOOKS / "primer.ipynb"], ids=lambda p: p.stem)
def test_has_its_card_take_away_and_quiz_as_the_command_writes_them(path: Path):
    expected = with_card(path.stem)
    assert json.loads(path.read_text(encoding="utf-8")) == expected, "run tools/cards.py"
    assert [expected["cells"][at]["id"] for at in (1, -2, -1)] == list(OURS)


def stored(path: Path) -> NotebookNode:
    # Read the raw JSON, because `nbformat.read` would add missing cell ids.
    notebook = nbformat.from_dict(json.loads(path.read_text(encoding="utf-8")))
    for cell in notebook.cells:
        cell.source = "".join(cell.source)
    return notebook


@by_chapter
def test_has_the_parts_of_a_chapter(path: Path):
    notebook = nbformat.read(path, 4)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    code = "\n".join(cell.source for cell in code_cells(notebook))
    parts = ["## What to try", "## Two questions", "<details>", "|---|"]
    assert [part for part in parts if part not in text] == []
    assert "assert " in code, "a chapter must assert its claims"


def test_each_chapter_links_to_the_previous_and_next_one():
    for before, after in pairwise(CHAPTERS):
        texts = [path.read_text(encoding="utf-8") for path in (before, after)]
        assert f"]({after.name})" in texts[0], f"{before.name} has no link to the next chapter"
        assert f"]({before.name})" in texts[1], f"{after.name} has no link to the previous chapter"


# Tests of the rules


def good_notebook(*extra: NotebookNode) -> NotebookNode:
    title = new_markdown_cell("# A title\n\nSee [the next](next.md#part) and <img src='next.md'>.")
    values = 'profile = "smoke"\ndataset: str = "glyphs"\nseed = 0'
    parameters = new_code_cell(values, metadata={"tags": ["parameters"]})
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=[title, parameters, *extra], metadata={"kernelspec": kernel})


def faults(
    notebook: NotebookNode, folder: Path, rules: Sequence[Rule] = (*RULES, *CHAPTER_RULES)
) -> dict[str, list[str]]:
    found = {rule.__name__: rule(notebook, folder) for rule in rules}
    return {name: texts for name, texts in found.items() if texts}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "next.md").touch()
    return tmp_path


def test_a_good_notebook_breaks_no_rule(folder: Path):
    links = new_markdown_cell(
        "`[a](b)`, $f[a](b)$, [web](https://example.org/home/x), [here](#part), <a href='next.md'>"
    )
    one_thing = new_code_cell("def f():\n" + "    x = 1\n" * 19)
    cells = links, new_code_cell("x = 1\n" * 15), one_thing
    assert faults(good_notebook(*cells), folder) == {}


ONE_FAULT = {
    "length_faults": new_code_cell("x = 1\n" * 16),
    "link_faults": new_markdown_cell("![a figure](../figures/none.svg)"),
    "machine_path_faults": new_code_cell('open("/home/me/data.zip")'),
    "output_faults": new_code_cell("1", outputs=[new_output("stream", text="1")]),
    "parameter_faults": new_code_cell("x = 1", metadata={"tags": ["parameters"]}),
}


@pytest.mark.parametrize("rule", ONE_FAULT)
def test_each_rule_detects_a_cell_that_breaks_it(rule: str, folder: Path):
    notebook = good_notebook(ONE_FAULT[rule])
    assert list(faults(notebook, folder)) == [rule]


@pytest.mark.parametrize(
    "path", [r"C:\Users\me", "see /root/data", "(/home/you/kit)", "'/Users/me/x'"]
)
def test_machine_paths_are_detected_in_text_too(path: str, folder: Path):
    assert "machine_path_faults" in faults(good_notebook(new_markdown_cell(path)), folder)


def test_an_execution_count_is_detected(folder: Path):
    notebook = good_notebook(new_code_cell("1", execution_count=3))
    assert list(faults(notebook, folder)) == ["output_faults"]


def test_a_missing_parameter_is_named(folder: Path):
    notebook = good_notebook()
    notebook.cells[1].source = 'profile = "smoke"\ndataset = "glyphs"'
    assert faults(notebook, folder)["parameter_faults"] == ["the parameters cell does not set seed"]


def test_a_missing_title_is_detected(folder: Path):
    notebook = good_notebook()
    del notebook.cells[0]
    assert list(faults(notebook, folder)) == ["title_faults"]


def test_missing_and_repeated_cell_ids_are_detected(folder: Path):
    missing, repeated = good_notebook(), good_notebook()
    del missing.cells[0]["id"]
    repeated.cells[1]["id"] = repeated.cells[0]["id"]
    assert list(faults(missing, folder)) == ["identity_faults"]
    assert list(faults(repeated, folder)) == ["identity_faults"]


def test_another_kernel_is_detected(folder: Path):
    notebook = good_notebook()
    notebook.metadata.kernelspec.name = "my-course"
    assert list(faults(notebook, folder)) == ["kernel_faults"]


def test_a_picture_without_words_is_detected():
    silent = new_output("display_data", {"image/png": "…"})
    telling = new_output("display_data", {"image/png": "…"}, metadata={"image/png": {"alt": "a"}})
    cells = [new_code_cell("ax.plot(x)", outputs=[silent]), new_code_cell("2", outputs=[telling])]
    assert cells_without_words(new_notebook(cells=cells)) == ["ax.plot(x)"]


# Tests of the notebook runner


def test_an_answer_that_nobody_asked_for_is_detected():
    bare = new_output("execute_result", {"text/plain": "True"}, execution_count=1)
    cells = [new_code_cell("claims.expect(1)", outputs=[bare]), new_code_cell("2", outputs=[])]
    assert cells_with_a_bare_answer(new_notebook(cells=cells)) == ["claims.expect(1)"]


def write(notebook: NotebookNode, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


def test_a_failure_names_notebook_cell_line_and_reason_and_others_still_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    source, built = tmp_path / "source", tmp_path / "built"
    failing = new_code_cell("accuracy = 0.2\nassert accuracy > 0.5, f'only {accuracy}'\n")
    write(good_notebook(failing), source / "00_fails.ipynb")
    for name in ("01_passes", "02_left_out"):
        write(good_notebook(new_code_cell("print(profile)")), source / f"{name}.ipynb")

    status = main(profile="laptop", notebooks=source, output=built, only=("00", "01"))

    printed, _ = capfd.readouterr()
    assert status == 1
    assert "00_fails.ipynb, cell In [3]\n    assert accuracy > 0.5" in printed
    assert "    AssertionError: only 0.2\n" in printed
    assert "Traceback" not in printed
    assert "What the chapters claim:" in printed
    assert re.search(r"00_fails.ipynb +\d+\.\d  FAILED\n01_passes.ipynb +\d+\.\d  passed", printed)
    assert not (built / "02_left_out.ipynb").exists()
    failed = nbformat.read(built / "00_fails.ipynb", 4).cells[-1].outputs[-1]
    assert failed.evalue == "only 0.2"
    assert nbformat.read(built / "01_passes.ipynb", 4).cells[-1].outputs[0].text == "laptop\n"


def test_an_unknown_parameter_is_an_error(tmp_path: Path):
    path = write(good_notebook(), tmp_path / "a.ipynb")
    with pytest.raises(NotebookError, match=r"a.ipynb has no parameter speed \(it has: profile"):
        run_notebook(path, tmp_path / "b.ipynb", {"speed": 1})


def test_a_dead_kernel_fails_its_notebook(tmp_path: Path):
    path = write(good_notebook(new_code_cell("import os\nos._exit(3)")), tmp_path / "a.ipynb")
    with pytest.raises(NotebookError, match=r"a.ipynb, DeadKernelError"):
        run_notebook(path, tmp_path / "b.ipynb", {})


def test_an_empty_folder_is_a_failure(tmp_path: Path):
    assert main(notebooks=tmp_path) == 1
