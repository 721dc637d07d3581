"""What earlier versions wrote loads, is evaluated and resumed under today's names."""

import json
import math
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

import mamlpp
from mamlpp.run.sweep import Cell, read_result, read_sweep
from tests.makers import noise_images, noise_sampler

RUN = Path(__file__).with_name("run_of_an_earlier_version")


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(RUN, tmp_path / "run"))


def test_a_run_loads_and_is_evaluated(folder):
    run = mamlpp.Run.load(folder)
    assert (run.recipe.memory, run.data.dataset, run.data.ways) == ("recompute", "noise", 3)
    assert len(run.history.rows) == 4
    latest = mamlpp.Run.load(folder, "latest").learner
    assert latest.recipe.outer_rate == 2e-3, "changed by hand before the fourth meta-step"
    assert run.selected_by == "running"
    assert len(mamlpp.evaluate(run, noise_images("test"), tasks=3).accuracies) == 3


def test_a_run_resumes(folder):
    recipe, train = mamlpp.Run.load(folder).recipe, noise_sampler()
    trainer = mamlpp.Trainer(recipe, train, noise_sampler("validation", drawn=0), folder)
    assert (trainer.iteration, trainer.workers, trainer.selected_by) == (4, 1, "running")
    run = trainer.fit()
    assert [row["iteration"] for row in run.history.rows] == [1, 2, 3, 4, 5, 6]
    assert all(math.isfinite(row["loss"]) for row in run.history.rows)
    assert list(folder.glob("checkpoint-00000006.safetensors"))


def test_results_get_the_names_of_the_readings(tmp_path):
    [cell, *_] = read_sweep(Path(__file__).parents[2] / "sweeps/laptop.toml")
    names = ("inductive", "transductive", "inductive, support's statistics")
    for count, expected in ((2, ("support", "queries")), (3, ("running", "queries", "support"))):
        (tmp_path / cell.name).mkdir(parents=True, exist_ok=True)
        written = {"cell": asdict(cell), "results": {name: name for name in names[:count]}}
        (tmp_path / cell.name / "result.json").write_text(json.dumps(written), encoding="utf-8")
        found = read_result(cell, tmp_path)["results"]
        assert found == dict(zip(expected, names, strict=False))


def test_a_sweep_with_the_earlier_names_is_read(tmp_path):
    text = (Path(__file__).parents[2] / "sweeps/laptop.toml").read_text(encoding="utf-8")
    path = tmp_path / "earlier.toml"
    path.write_text(text.replace("[profile]\n", '[profile]\nmemory = "lean"\n'), encoding="utf-8")
    cells = read_sweep(path)
    assert {cell.settings.memory for cell in cells} == {"recompute"}
    plain = {**cells[0].__dict__, "settings": cells[0].settings.as_dict() | {"memory": "lean"}}
    assert Cell.from_dict(plain) == cells[0]
