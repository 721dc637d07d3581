"""Recorded results: what a sweep's finished runs came to, in one small file."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest

import mamlpp
from mamlpp.run import results
from mamlpp.run.history import COLUMNS, History
from mamlpp.run.sweep import read_sweep

ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted(path.stem for path in results.RESULTS.glob("*.json"))


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """The text of a result with one finished run of 500 meta-steps, among unfinished ones."""
    cells = read_sweep(ROOT / "sweeps/figure1.toml")
    folder = tmp_path / cells[0].name
    folder.mkdir(parents=True)
    accuracy = {"support": {"single": {"accuracy": 0.5}}}
    result = {"cell": asdict(cells[0]), "seconds": 1.5, "results": accuracy}
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    history = History(folder / "history.csv", COLUMNS)
    for i in range(1, 501):
        row = {"iteration": i, "accuracy": i / 1000, "gradient_norm": 2.0 + (i == 30)}
        history.append(row | ({"validation_accuracy": 0.5} if i % 250 == 0 else {}))
    monkeypatch.setattr(results, "ROWS", 50)
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    return results.record(cells, tmp_path, "mamlpp sweep x.toml")


def test_a_finished_run_is_recorded_in_windows_and_loaded_again(recorded, tmp_path):
    (tmp_path / "x.json").write_text(recorded, encoding="utf-8")
    found = mamlpp.load_result("x")
    [run] = found.runs
    assert (found.command, run.accuracy(), run.about["seconds"]) == (
        "mamlpp sweep x.toml",
        0.5,
        1.5,
    )
    assert run.history.column("iteration") == list(range(10, 501, 10))
    assert run.history.column("gradient_norm")[:4] == [2.0, 2.0, 3.0, 2.0]
    assert run.history.column("accuracy")[:2] == [0.0055, 0.0155]
    assert [row["iteration"] for row in run.history.rows if "validation_accuracy" in row] == [
        250,
        500,
    ]
    assert found.select(recipe="maml", seed=0) == [run]
    assert found.select(recipe="maml++") == []


def test_runs_of_another_machine_stay_in_the_file(recorded, tmp_path):
    cells = read_sweep(ROOT / "sweeps/figure1.toml")
    file = tmp_path / "x.json"
    file.write_text(recorded, encoding="utf-8")
    elsewhere = tmp_path / "elsewhere"
    folder = elsewhere / cells[1].name
    shutil.copytree(tmp_path / cells[0].name, folder)
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    (folder / "result.json").write_text(json.dumps(result | {"cell": asdict(cells[1])}))

    text = results.record(cells, elsewhere, "mamlpp sweep x.toml", file)
    file.write_text(text, encoding="utf-8")
    assert [run.cell for run in mamlpp.load_result("x").runs] == cells[:2]

    longer = replace(cells[0], settings=cells[0].settings.with_(epochs=3))
    text = results.record([longer, cells[1]], elsewhere, "mamlpp sweep x.toml", file)
    file.write_text(text, encoding="utf-8")
    assert [run.cell for run in mamlpp.load_result("x").runs] == [cells[1]], "another training"


def test_a_changed_or_missing_result_is_refused(recorded, tmp_path):
    (tmp_path / "x.json").write_text(recorded.replace("0.5", "0.9"), encoding="utf-8")
    with pytest.raises(mamlpp.InputError, match="was changed after it was recorded"):
        mamlpp.load_result("x")
    with pytest.raises(mamlpp.InputError, match="no recorded result 'y'; there are: x"):
        mamlpp.load_result("y")


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_result_is_whole(name):
    found = mamlpp.load_result(name)
    assert found.runs
    for run in found.runs:
        assert 0 < run.accuracy() <= 1
        if name != "laptop" or run.history.rows:  # some of its runs kept no history
            assert run.history.rows[-1]["iteration"] == run.cell.steps
            assert "validation_accuracy" in run.history.rows[-1]


def test_all_recorded_results_together_are_small():
    assert sum(path.stat().st_size for path in results.RESULTS.glob("*.json")) < 3e6
