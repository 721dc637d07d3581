"""The cards of the chapters: their minutes come from a walkthrough, their words from one file."""

import json

import cards
import pytest


@pytest.fixture
def kit(tmp_path, monkeypatch):
    """A kit of one chapter, without its cells."""
    monkeypatch.setattr(cards, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(cards, "README", tmp_path / "README.md")
    row = "| [03 MSL](notebooks/03_msl.ipynb) | after | every step | 5 min |"
    (tmp_path / "README.md").write_text(f"{row}\n(Minutes; 5 in all.)", encoding="utf-8")
    card = {"title": "03 · MSL", "can": ["do it"], "needs": [["01", "01.ipynb"], ["time", ""]]}
    card |= {"short": "It works. It does.", "try": "Do more.", "sets": ["03_multi"]}
    write(tmp_path / "cards.json", {"03_msl": card})
    write(tmp_path / "minutes.json", {})
    cells = [{"cell_type": "markdown", "id": "title", "source": ["# MSL\n", "two words"]}]
    cells += [{"cell_type": "code", "id": "a", "source": ["x = 1\n", "\n"] * 60}]
    write(tmp_path / "03_msl.ipynb", {"cells": cells})
    return tmp_path


def write(path, value):
    path.write_text(json.dumps(value), encoding="utf-8")


def cells(folder):
    return json.loads((folder / "03_msl.ipynb").read_text(encoding="utf-8"))["cells"]


def source(cell):
    return "".join(cell["source"])


def test_the_cells_are_written_once_and_then_are_up_to_date(kit, capsys):
    assert cards.main(check=True) == 1
    assert capsys.readouterr().out == "03_msl: not up to date\nREADME.md: not up to date\n"
    cards.main()
    assert [cell["id"] for cell in cells(kit)] == ["title", "card", "a", "in-short", "quiz"]
    assert cards.main(check=True) == 0
    cards.main()
    assert len(cells(kit)) == 5


def test_a_card_says_what_it_takes_and_where_one_is(kit):
    cards.main()
    _, card, _, closing, quiz = map(source, cells(kit))
    assert "> - do it" in card
    assert "**You need** [01](01.ipynb); time." in card
    assert "**▶ 03**" in card
    assert "**Time**" not in card
    assert "It works. It does." in closing
    assert "[set 03](exercises/03_multi.ipynb)" in closing
    assert quiz.endswith('quiz.show("03_msl")')


def test_minutes_come_from_an_executed_notebook(kit, tmp_path):
    executed = tmp_path / "build"
    executed.mkdir()
    write(executed / "03_msl.ipynb", {"metadata": {"papermill": {"duration": 150.0}}})
    cards.main(record=executed)
    minutes = json.loads((kit / "minutes.json").read_text(encoding="utf-8"))
    assert minutes == {"03_msl": {"computing": 2.5, "reading": 3}}  # 60 lines of code
    assert "about 3 minutes to read, and 2 of computing" in source(cells(kit)[1])
    row, total = (kit / "README.md").read_text(encoding="utf-8").splitlines()
    assert row == "| [03 MSL](notebooks/03_msl.ipynb) | after | every step | 2 min |"
    assert total == "(Minutes; 2 in all.)"
