"""Several processes share a meta-batch: the same gradient, the same bits, and no orphan."""

import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

import mamlpp
from mamlpp import cli
from mamlpp.engine import Engine, workers
from mamlpp.run.changes import use_recipe
from tests.makers import (
    METHODS,
    advance,
    assert_identical,
    flat_weights,
    make_learner,
    noise_sampler,
    noise_trainer,
)

ROOT = Path(__file__).resolve().parents[2]
make_trainer = partial(noise_trainer, "maml++", epochs=3)


@pytest.fixture(scope="module")
def two():
    """An engine whose meta-gradients are taken by two processes."""
    two = Engine(workers=2)
    yield two
    two.dismiss()


@pytest.fixture(scope="module")
def trained_by_two():
    """A run that two processes trained, without interruption."""
    return make_trainer(workers=2).fit()


def workers_of(pid):
    return [child for child in psutil.Process(pid).children() if is_worker(child)]


def new_workers(before):
    return [worker for worker in workers_of(os.getpid()) if worker not in before]


def is_worker(process):
    try:
        return "mamlpp.engine import workers" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # Ended: joblib's own workers do so when they have long been idle.
        return False


def gone(processes, seconds=30):
    return not psutil.wait_procs(processes, timeout=seconds)[1]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("epoch", [0.0, 60.0])
def test_the_gradient_of_two_processes_is_that_of_one(two, name, epoch):
    batch = noise_sampler().sample(3)
    alone, shared = make_learner(name), make_learner(name)
    loss, report = alone.meta_loss(batch, epoch)
    loss.backward()
    ours = two.meta_gradient(shared, batch, epoch)
    torch.testing.assert_close(ours.loss, report.loss)
    assert ours.accuracy == report.accuracy
    for (name, one), other in zip(alone.named_parameters(), shared.parameters(), strict=True):
        assert (one.grad - other.grad).norm() <= 1e-5 * one.grad.norm() + 1e-7, name
    for (name, one), other in zip(alone.named_buffers(), shared.buffers(), strict=True):
        torch.testing.assert_close(one, other, msg=name)


def test_workers_hear_of_a_changed_recipe(two):
    batch, learner, same = noise_sampler().sample(3), make_learner(), make_learner()
    for rate in (0.1, 0.3):
        for one in (learner, same):
            use_recipe(one, one.recipe.with_(inner_rate=rate))
        report = two.meta_gradient(learner, batch, 0.0)
        torch.testing.assert_close(report.loss, same.meta_loss(batch)[1].loss)


@pytest.mark.parametrize("name", ["torch.py", "random.py"])
def test_a_worker_that_cannot_start_ends_in_a_sentence(name, tmp_path, monkeypatch):
    (tmp_path / name).write_text("raise ImportError('a file of the same name')", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    before = workers_of(os.getpid())
    with pytest.raises(mamlpp.InputError, match=r"could not start .*same name.*; train with"):
        workers.start_workers(2)
    assert gone(new_workers(before))


def test_a_worker_that_ends_while_it_joins_ends_in_a_sentence(monkeypatch):
    dies = workers._WORKER.replace("workers.serve_as(", "workers._join = exit\nworkers.serve_as(")
    monkeypatch.setattr(workers, "_WORKER", dies)
    before = workers_of(os.getpid())
    with pytest.raises(mamlpp.InputError, match=r"could not start .*; train with workers=1"):
        workers.start_workers(2)
    assert gone(new_workers(before))


def test_two_trainings_with_as_many_workers_are_the_same_bit_by_bit(trained_by_two):
    before = workers_of(os.getpid())
    run = make_trainer(workers=2).fit()
    assert gone(new_workers(before))
    assert_identical(run.learner.state_dict(), trained_by_two.learner.state_dict())
    assert run.history.column("loss") == trained_by_two.history.column("loss")


@pytest.mark.parametrize("workers", [0, 4])
def test_more_workers_than_tasks_are_refused(workers):
    with pytest.raises(mamlpp.InputError, match="workers must be 1 to 3"):
        make_trainer(workers=workers)


@pytest.mark.slow
def test_a_worker_that_is_killed_ends_in_a_sentence_and_a_run_that_goes_on(
    trained_by_two, tmp_path
):
    before = workers_of(os.getpid())
    trainer = make_trainer(tmp_path / "two", workers=2)
    advance(trainer, 3)
    [worker] = new_workers(before)
    worker.kill()
    for _ in range(2):  # Whoever tries again hears the same.
        with pytest.raises(mamlpp.InputError, match="a process that shares the tasks has ended"):
            advance(trainer, 1)
    losses = trainer.history.column("loss")
    del trainer
    shutil.copytree(tmp_path / "two", tmp_path / "one")
    run = make_trainer(tmp_path / "two", workers=2).fit()
    assert_identical(run.learner.state_dict(), trained_by_two.learner.state_dict())

    with_another_number = make_trainer(tmp_path / "one", workers=1).fit().history.column("loss")
    assert with_another_number == pytest.approx(trained_by_two.history.column("loss"), rel=1e-3)
    assert with_another_number[:2] == losses[:2]  # An epoch: what the run had saved.


MAIN_PROCESS = """
import sys, time
sys.path.insert(0, sys.argv[1])
import test_workers
trainer = test_workers.make_trainer(sys.argv[2] or None, workers=2, epochs=1000)
test_workers.advance(trainer, 1)
print("begun", flush=True)
trainer.fit()
"""


def start_training(directory=""):
    here = Path(__file__).parent
    main = subprocess.Popen(
        [sys.executable, "-c", MAIN_PROCESS, *map(str, (here, directory))],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert main.stdout.readline() == "begun\n", main.stderr.read()
    [worker] = workers_of(main.pid)
    return main, worker


@pytest.mark.slow
def test_workers_die_with_the_main_process():
    main, worker = start_training()
    main.kill()
    main.communicate()
    assert gone([worker])


@pytest.mark.slow
def test_ctrl_c_ends_the_step_saves_it_and_leaves_no_orphan(tmp_path):
    main, worker = start_training(tmp_path)
    time.sleep(0.2)
    main.send_signal(signal.SIGINT)
    _, words = main.communicate(timeout=60)
    assert "stopped after iteration" in words
    assert gone([worker])
    saved = sorted(tmp_path.glob("checkpoint-*"))[-1].stem
    lines = (tmp_path / "history.csv").read_text().splitlines()
    assert int(saved.split("-")[1]) == len(lines) - 1


@pytest.mark.slow
def test_torchrun_trains_the_same(tmp_path, capsys):
    words = [
        *("train", "--recipe", "maml++", "--dataset", "glyphs", "--device", "cpu"),
        *("--ways", "3", "--filters", "4", "--inner-steps", "2", "--meta-batch", "3"),
        *("--epochs", "1", "--iterations-per-epoch", "2", "--validation-tasks", "2"),
    ]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    by_two = subprocess.run(
        [sys.executable, *launcher, "-m", "mamlpp", *words, "--directory", tmp_path / "two"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert by_two.returncode == 0, by_two.stderr
    cli.main([*words, "--directory", str(tmp_path / "one")])
    said = capsys.readouterr().out
    assert by_two.stdout.replace("two", "one") == said, "only the main process speaks"
    shared, alone = (mamlpp.Run.load(tmp_path / name).history for name in ("two", "one"))
    for name in ("loss", "gradient_norm"):
        assert shared.column(name)[0] == pytest.approx(alone.column(name)[0], rel=1e-4)
    assert len(shared.column("loss")) == 2


def test_a_worker_s_weights_stay_where_they_are():
    """A captured meta-step would go on reading the old place."""
    learner = make_learner("maml++")
    places = [parameter.data_ptr() for parameter in learner.parameters()]
    count = sum(parameter.numel() for parameter in learner.parameters())

    def broadcast(numbers, _):
        numbers.copy_(torch.arange(numbers.numel()).view_as(numbers))
        return SimpleNamespace(wait=lambda: None)

    worker = workers.Workers(SimpleNamespace(broadcast=broadcast), 1, 2, torch.device("cpu"))
    worker._send_numbers(learner, mamlpp.TaskBatch(*(torch.zeros(1, 1) for _ in range(4))))
    assert [parameter.data_ptr() for parameter in learner.parameters()] == places
    assert torch.equal(flat_weights(learner), torch.arange(count).float())
