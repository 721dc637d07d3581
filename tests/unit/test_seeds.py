"""Several recipes and seeds, trained in parallel."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

import mamlpp
from mamlpp import InputError, train_seeds
from mamlpp.run import seeds
from tests.makers import flat_weights, noise_sampler

BASE = mamlpp.Recipe(
    filters=4, inner_steps=1, meta_batch=2, epochs=1, iterations_per_epoch=3, validation_tasks=2
)


@pytest.fixture
def samplers():
    return noise_sampler("train"), noise_sampler("validation")


def test_two_processes_train_every_recipe_and_seed_as_if_alone(samplers):
    train, validation = samplers
    recipes = {"one": BASE, "two": BASE.with_(inner_steps=2)}
    runs = train_seeds(recipes, train, validation, seeds=(0, 7), workers=2)
    assert list(runs) == ["one", "two"]
    assert [run.recipe.inner_steps for name in runs for run in runs[name]] == [1, 1, 2, 2]
    assert [run.recipe.seed for name in runs for run in runs[name]] == [0, 7, 0, 7]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = mamlpp.Trainer(BASE.with_(seed=7), train.with_seed(7), validation).fit()
    torch.set_num_threads(threads)
    assert torch.equal(flat_weights(alone.learner), flat_weights(runs["one"][1].learner))
    assert alone.history.column("loss") == runs["one"][1].history.column("loss")


def test_the_seed_determines_initial_weights_and_tasks(samplers):
    short = BASE.with_(outer_rate=1e-30)  # keeps the initial weights
    first, second = train_seeds({"a": short}, *samplers, seeds=(0, 1), workers=1)["a"]
    assert not torch.equal(flat_weights(first.learner), flat_weights(second.learner))
    assert (first.data.training_seed, second.data.training_seed) == (0, 1)


def test_one_process_gives_the_same_weights_as_two(samplers):
    one, two = (
        train_seeds({"a": BASE}, *samplers, seeds=(0, 1), workers=workers)["a"][1].learner
        for workers in (1, 2)
    )
    assert torch.equal(flat_weights(one), flat_weights(two))


@pytest.mark.parametrize(
    ("recipes", "seeds", "message"),
    [
        ({}, (0,), "at least one recipe"),
        ({"a": BASE}, (), "at least one recipe"),
        ({"a": BASE}, (1, 1), "seeds must all be different"),
    ],
)
def test_invalid_recipes_and_seeds_are_rejected(samplers, recipes, seeds, message):
    with pytest.raises(InputError, match=message):
        train_seeds(recipes, *samplers, seeds=seeds)


WATCHES = """
import sys, time
from mamlpp.run import seeds
seeds._exit_with_parent(int(sys.argv[1]))
print("watching", flush=True)
time.sleep(600)
"""
SLEEPS = [sys.executable, "-c", "import time; time.sleep(600)"]


def test_a_worker_watches_the_process_itself_and_not_the_number_of_its_parent():
    # On Windows the number of a parent that has ended stays.
    with subprocess.Popen(SLEEPS) as watched:
        words = [sys.executable, "-c", WATCHES, str(watched.pid)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as watching:
            try:
                assert watching.stdout.readline() == "watching\n"
                time.sleep(1)
                assert watching.poll() is None, "what it watches is alive"
                watched.kill()
                assert watching.wait(60) == 1
            finally:
                watched.kill()
                watching.kill()


def test_a_process_that_nobody_has_waited_for_has_ended():
    with subprocess.Popen(SLEEPS) as process:
        seen = psutil.Process(process.pid)
        assert seeds._lives(seen)
        process.kill()
        until = time.monotonic() + 60
        while seeds._lives(seen) and time.monotonic() < until:
            time.sleep(0.05)
        assert not seeds._lives(seen)
        process.wait()
        assert not seeds._lives(seen)


PARENT = """
import sys
sys.path.insert(0, sys.argv[1])
import test_seeds, mamlpp
samplers = [test_seeds.noise_sampler(split) for split in ("train", "validation")]
long = test_seeds.BASE.with_(epochs=100000)
mamlpp.train_seeds({"a": long}, *samplers, seeds=(0, 1), workers=2)
"""


@pytest.mark.slow
def test_workers_exit_when_their_parent_is_killed():
    here = Path(__file__)
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(here.parent)],
        env=os.environ | {"PYTHONPATH": str(here.parents[2])},
        stderr=subprocess.DEVNULL,
    )
    deadline, busy = time.monotonic() + 60, []
    while len(busy) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
        children = psutil.Process(parent.pid).children(recursive=True)
        busy = [child for child in children if child.cpu_times().user > 4]
    parent.kill()
    parent.wait()
    assert len(busy) == 2
    assert not psutil.wait_procs(busy, timeout=20)[1]


def test_processes_start_for_long_work_alone(monkeypatch):
    monkeypatch.setattr(seeds, "cpu_count", lambda: 4)
    train = noise_sampler()

    def chosen(**size):
        recipe = mamlpp.RECIPES["maml"].with_(**size)
        learner = mamlpp.MetaLearner(recipe, train.images.shape, train.ways)
        return seeds._worker_count([learner, learner], train, 3)

    assert chosen(filters=4, meta_batch=2, epochs=1, iterations_per_epoch=20) == 1
    assert chosen() == 4
