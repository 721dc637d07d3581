"""What a sweep's finished runs came to, kept in one small file."""

import hashlib
import json
import re
from pathlib import Path

import pytest
import record

from mamlpp.run.history import COLUMNS, History
from mamlpp.run.sweep import read_sweep

ROOT = Path(__file__).resolve().parents[2]
RESULTS = sorted((ROOT / "results").glob("*.json"))


def checked(path):
    text = path.read_text(encoding="utf-8")
    checksum, result = re.fullmatch(r'{"checksum": "(\w+)",\n"result": (.*)}\n', text).groups()
    assert hashlib.sha256(result.encode()).hexdigest() == checksum
    return json.loads(result)


def test_a_finished_run_is_kept_and_an_unfinished_one_is_not(tmp_path):
    sweep = ROOT / "sweeps/figure1.toml"
    cell = read_sweep(sweep)[0]
    folder = tmp_path / cell.name
    folder.mkdir(parents=True)
    result = {"cell": {**cell.__dict__, "settings": cell.settings.as_dict()}, "seconds": 1.5}
    result["results"] = {}
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    history = History(folder / "history.csv", COLUMNS)
    for i in range(1, 61):
        row = {"iteration": i, "accuracy": i / 100, "gradient_norm": 2.0 + (i == 30)}
        history.append(row | ({"validation_accuracy": 0.5} if i == 60 else {}))
    assert record.record(sweep, tmp_path, tmp_path / "out.json") == 1
    [run] = checked(tmp_path / "out.json")["runs"]
    assert (run["name"], run["seconds"], run["validation"]) == (cell.name, 1.5, [[60, 0.5]])
    assert run["windows"]["max_norm"] == [2.0, 3.0, 2.0]
    assert run["windows"]["accuracy"] == pytest.approx([0.13, 0.38, 0.555])


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_kept_result_is_whole(path):
    found = checked(path)
    for run in found["runs"]:
        assert run["results"]["support"]["single"]["accuracy"] > 0
        assert len(run["windows"]["max_norm"]) == len(run["windows"]["median_norm"])
