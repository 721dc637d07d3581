"""The pages of the book: what becomes of links, results, explorers and docstrings."""

import ast
import json
import re
from pathlib import Path

import frozen_explorers
import nbformat
import pytest
from frozen_explorers import EXPLORERS, Frozen
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import book
from mamlpp.show import widgets


@pytest.mark.parametrize(
    ("page", "link", "leads_to"),
    [
        ("README.md", "notebooks/01_maml.ipynb", "notebooks/01_maml.ipynb"),
        ("notebooks/01_maml.ipynb", "../README.md", "../index.md"),
        ("notebooks/01_maml.ipynb", "../mamlpp/maml.py", "../api/mamlpp.maml.md"),
        ("book/library.md", "../mamlpp/show/plots.py", "../api/mamlpp.show.plots.md"),
        ("TEACHING.md", "notebooks/exercises", "notebooks/exercises/index.md"),
        ("TEACHING.md", "exercises", "notebooks/exercises/index.md"),
        ("notebooks/09_the_tables.ipynb", "../results", "../book/results.md"),
        ("TEACHING.md", "CONTRIBUTING.md#an-exercise", "CONTRIBUTING.md#an-exercise"),
        ("TEACHING.md", "https://example.org/x.py", "https://example.org/x.py"),
    ],
)
def test_links_lead_to_pages(page: str, link: str, leads_to: str):
    assert book.relink(f"see [it]({link})", page) == f"see [it]({leads_to})"


def test_a_link_to_another_file_takes_the_file_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(book, "PAGES", tmp_path)
    assert book.relink("[x](../sweeps/cures.toml)", "book/a.md") == "[x](../sweeps/cures.toml)"
    assert (tmp_path / "sweeps" / "cures.toml").is_file()


def test_code_is_not_searched_for_links():
    text = "`[x](README.md)`\n```python\n[x](README.md)\n```\n"
    assert book.relink(text, "TEACHING.md") == text


def test_every_page_of_the_kit_has_only_links_to_what_is_there():
    pages = [*(book.KIT / "book").glob("*.md"), *(book.KIT / name for name in book.TEXTS)]
    for page in pages:
        links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
        local = [link for link in links if not re.match("[a-z]+:", link)]
        assert [link for link in local if not (page.parent / link).exists()] == [], page.name


@pytest.fixture
def chapter(tmp_path: Path) -> Path:
    """A chapter, and in `run/` its executed copy."""
    path = tmp_path / "01_x.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("print(1)")]), path)
    printed = new_output("stream", name="stdout", text="1\n")
    added = new_code_cell("profile = 'smoke'", metadata={"tags": ["injected-parameters"]})
    copy = new_notebook(cells=[added, new_code_cell("print(1)", outputs=[printed])])
    copy.metadata["papermill"] = {"parameters": {"profile": "smoke"}}
    copy.metadata["kit"] = frozen_explorers.kit_digest()
    (tmp_path / "run").mkdir()
    nbformat.write(copy, tmp_path / "run" / path.name)
    return path


def test_results_are_those_of_the_executed_copy_and_the_page_says_which(chapter: Path):
    notebook = book.with_results(chapter, chapter.parent / "run")
    assert notebook.cells[0].outputs[0].text == "1\n"
    assert "`profile = 'smoke'`" in notebook.cells[1].source


def test_results_of_other_code_are_stale(chapter: Path):
    nbformat.write(new_notebook(cells=[new_code_cell("print(2)")]), chapter)
    assert book.executed(chapter, chapter.parent / "run") is None
    notebook = book.with_results(chapter, chapter.parent / "run")
    assert notebook.cells[0].outputs == []
    assert "has not been run" in notebook.cells[1].source


def test_results_of_another_state_of_the_package_are_stale(chapter: Path):
    folder = chapter.parent / "run"
    assert book.is_fresh(chapter, folder)
    copy = nbformat.read(folder / chapter.name, 4)
    copy.metadata["kit"] = "another"
    nbformat.write(copy, folder / chapter.name)
    assert not book.is_fresh(chapter, folder)
    notebook = book.with_results(chapter, folder)
    assert notebook.cells[0].outputs[0].text == "1\n", "better than none"
    assert "an earlier state of the kit" in notebook.cells[1].source


def test_words_about_the_code_make_no_results_stale():
    plain = frozen_explorers._without_docstrings("def f():\n    return 1\n")
    worded = frozen_explorers._without_docstrings('def f():\n    """One."""\n    return 1  # 1\n')
    other = frozen_explorers._without_docstrings("def f():\n    return 2\n")
    assert ast.dump(plain) == ast.dump(worded) != ast.dump(other)


def test_a_run_that_failed_gives_no_results(chapter: Path):
    copy = nbformat.read(chapter.parent / "run" / chapter.name, 4)
    copy.metadata["papermill"]["exception"] = True
    nbformat.write(copy, chapter.parent / "run" / chapter.name)
    assert book.executed(chapter, chapter.parent / "run") is None


def test_long_text_is_folded_and_pictures_get_their_words():
    long = new_output("stream", name="stdout", text="x\n" * (book.LONG + 1))
    picture = new_output("display_data", {"image/png": "…"}, metadata={"image/png": {"alt": "a"}})
    cell = new_code_cell("1", outputs=[long, picture])
    book._prepare(cell)
    assert cell.metadata["tags"] == ["hide-output"]
    assert cell.metadata["mystnb"]["image"]["alt"] == "a"


def test_set_up_before_the_first_text_is_folded(tmp_path: Path):
    cells = [new_code_cell("import math"), new_markdown_cell("## One"), new_code_cell("math.pi")]
    nbformat.write(
        new_notebook(cells=[new_markdown_cell("# Title"), *cells]), tmp_path / "99.ipynb"
    )
    page = book.chapter(tmp_path / "99.ipynb")
    folded = ["hide-input" in cell.metadata.get("tags", []) for cell in page.cells]
    assert folded == [cell.source == "import math" for cell in page.cells]


def test_commands_fit_a_laptop_s_column():
    root = book.NOTEBOOKS.parent
    pages = [root / f"{name}.md" for name in ("README", "TEACHING", "CONTRIBUTING")]
    blocks = [
        block
        for path in [*pages, *(root / "book").glob("*.md")]
        for block in re.findall(r"```sh\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    ]
    assert len(blocks) > 5
    assert [line for block in blocks for line in block.splitlines() if len(line) > 86] == []


def test_no_set_of_exercises_shows_a_solution():
    for path in book.exercise_sets():
        assert "### BEGIN SOLUTION" not in path.read_text(encoding="utf-8")


def test_each_module_has_a_page():
    assert {"mamlpp.maml", "mamlpp.show.plots", "mamlpp"} <= set(book.modules())
    assert "/mamlpp/maml.py" in book.module_page("mamlpp.maml")


def test_the_ledger_has_a_row_for_each_of_our_numbers():
    claims = json.loads(book.claims.RECORDED.read_text(encoding="utf-8"))
    assert book.ledger_page().count("\n| ") == len(claims) + 2  # and its head


# Explorers


def test_an_explorer_is_frozen_once_for_each_version_of_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    values = {"steps": (4, 5), "msl": (False, True), "second_order": (True,), "per_step": (False,)}
    monkeypatch.setitem(EXPLORERS, "small", Frozen(widgets.graph_explorer, values))
    frozen_explorers.freeze("small", tmp_path)
    about = json.loads((tmp_path / "states.json").read_text(encoding="utf-8"))
    assert len(list(tmp_path.glob("*.webp"))) == len(about["captions"]) == 4
    assert [control["start"] for control in about["controls"]] == [1, 0, 0, 0]
    # The last control moves fastest, as the page's script counts.
    assert [("after step 5" in words, "1 of" in words) for words in about["captions"]] == [
        (False, True), (False, False), (True, True), (True, False),
    ]  # fmt: skip
    (tmp_path / "3.webp").unlink()
    frozen_explorers.freeze("small", tmp_path)
    assert not (tmp_path / "3.webp").exists()
    page = frozen_explorers.as_html("small", tmp_path, "url")
    assert 'src="url/2.webp"' in page
    assert page.count("data-count") == 2  # a control with one value is text


def test_the_first_state_of_an_explorer_must_be_one_that_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    values = {"steps": (2, 3), "msl": (False,), "second_order": (True,), "per_step": (False,)}
    monkeypatch.setitem(EXPLORERS, "small", Frozen(widgets.graph_explorer, values))
    with pytest.raises(ValueError, match="not in"):
        frozen_explorers.freeze("small", tmp_path)


def test_each_explorer_is_in_a_chapter():
    text = "".join(path.read_text(encoding="utf-8") for path in book.NOTEBOOKS.glob("*.ipynb"))
    assert [name for name in EXPLORERS if name not in text] == []
