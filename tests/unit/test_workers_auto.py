"""`workers="auto"`: as many processes as pay, the same number whenever a run is resumed."""

import json

import pytest

import mamlpp
from mamlpp.run import trainer, worker_count
from tests.makers import noise_sampler, noise_trainer


def chosen(monkeypatch, cores=8, free=64e9, **changes):
    recipe = mamlpp.RECIPES["maml++"].with_(**changes)
    learner = mamlpp.MetaLearner(recipe, (1, 16, 16), 3)
    memory = type("Memory", (), {"available": free})
    monkeypatch.setattr(worker_count, "available_cores", lambda: cores)
    monkeypatch.setattr(worker_count.psutil, "virtual_memory", lambda: memory)
    return worker_count.choose_workers(learner, noise_sampler(ways=3))


def test_a_long_training_takes_every_core_but_no_more_than_tasks_or_memory(monkeypatch):
    assert chosen(monkeypatch) == 8
    assert chosen(monkeypatch, cores=2) == 2
    assert chosen(monkeypatch, meta_batch=3) == 3
    assert chosen(monkeypatch, free=5e9) == 3
    assert chosen(monkeypatch, free=1e6) == 1


def test_a_short_training_or_meta_step_takes_one(monkeypatch):
    assert chosen(monkeypatch, epochs=1, iterations_per_epoch=10) == 1
    assert chosen(monkeypatch, filters=2, inner_steps=1, meta_batch=2) == 1


@pytest.fixture
def two_pay(monkeypatch):
    monkeypatch.setattr(trainer, "choose_workers", lambda *_: 2)


def test_the_number_is_written_down_and_kept(tmp_path, two_pay, monkeypatch):
    first = noise_trainer(directory=tmp_path, workers="auto")
    assert first.workers == 2
    assert json.loads((tmp_path / "run.json").read_text("utf-8"))["workers"] == 2
    monkeypatch.setattr(trainer, "choose_workers", lambda *_: 1)
    monkeypatch.setattr(trainer, "available_cores", lambda: 1)
    with pytest.warns(mamlpp.InputWarning, match="began with 2 processes, and this machine has 1"):
        assert noise_trainer(directory=tmp_path, workers="auto").workers == 2
    assert noise_trainer(directory=tmp_path, workers=1).workers == 1


def test_a_run_of_an_earlier_version_had_one(tmp_path, two_pay):
    noise_trainer(directory=tmp_path, workers=1)
    about = json.loads((tmp_path / "run.json").read_text("utf-8"))
    del about["workers"]
    (tmp_path / "run.json").write_text(json.dumps(about), encoding="utf-8")
    assert noise_trainer(directory=tmp_path, workers="auto").workers == 1


@pytest.mark.parametrize("workers", ["many", 1.5, None])
def test_anything_else_is_refused(workers):
    with pytest.raises(mamlpp.InputError, match="workers must be a whole number or 'auto'"):
        noise_trainer(workers=workers)
