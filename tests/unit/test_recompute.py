"""Recomputing the inner steps gives the same gradient in less memory."""

import re

import pytest
import torch

import mamlpp
from mamlpp.engine import Engine, batched, engine
from tests.makers import (
    assert_same_gradients,
    gradients,
    make_batch,
    make_learner,
    noise_trainer,
    stages,
)

CHANGES = {
    "plain": {},
    "shared": {"norm_statistics": "shared"},
    "floor": {"msl_epochs": 2.0, "msl_floor": 0.1},
}


def take(memory, name, batch, epoch=0.0, tasks=4, **changes):
    learner = make_learner(name, inner_rate=0.3, **changes).double()
    result = Engine(memory).task_results(learner, batch, epoch, tasks)
    learner.update_running(result.statistics)
    return learner, result


@pytest.mark.parametrize(
    ("change", "name", "epoch"), [(c, *stage) for c in CHANGES for stage in stages(**CHANGES[c])]
)
def test_it_is_the_same_as_storing(name, change, epoch):
    batch = make_batch(tasks=1)
    (stored, one), (recomputed, other) = (
        take(memory, name, batch, epoch, **CHANGES[change]) for memory in ("store", "recompute")
    )
    torch.testing.assert_close(one.loss, other.loss, rtol=1e-12, atol=0)
    assert torch.equal(one.accuracy, other.accuracy)
    assert_same_gradients(gradients(stored), gradients(recomputed))
    buffers = (dict(learner.named_buffers()) for learner in (stored, recomputed))
    torch.testing.assert_close(*buffers, rtol=1e-12, atol=1e-12)


def test_gradients_of_several_tasks_add_up():
    batch = make_batch(tasks=1)
    once, _ = take("recompute", "maml++", batch, tasks=1)
    twice, _ = take("recompute", "maml++", batch, tasks=2)
    Engine("recompute").task_results(twice, batch, 0.0, 2)
    assert_same_gradients(gradients(once), gradients(twice))


def kept(name, steps, memory):
    """The most bytes that autograd keeps at any time, on the way through `steps` inner steps."""
    learner = make_learner(name, inner_steps=steps).double()
    taking, now, most = Engine(memory), [0], [0]
    batch = make_batch(tasks=1)
    taking.task_results(learner, batch, 0.0, 1)  # The comparison with the definition is done.

    class Kept:
        def __init__(self, tensor):
            self.tensor = tensor
            now[0] += tensor.nbytes
            most[0] = max(most[0], now[0])

        def __del__(self):
            now[0] -= self.tensor.nbytes

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        taking.task_results(learner, batch, 0.0, 1)
    return most[0]


@pytest.mark.parametrize("name", ["maml", "fomaml", "maml+msl"])
def test_what_autograd_keeps_does_not_grow_with_the_steps(name):
    few, many = (kept(name, steps, "recompute") for steps in (2, 12))
    assert many < 1.3 * few
    if name != "fomaml":
        few, many = (kept(name, steps, "store") for steps in (2, 12))
        assert many > 3 * few


@pytest.mark.parametrize("memory", ["store", "recompute"])
def test_the_recipe_chooses(memory, monkeypatch):
    trainer, calls = noise_trainer(memory=memory), []
    for name in ("task_gradients", "add_recomputed_gradients"):
        original = getattr(batched, name)
        monkeypatch.setattr(batched, name, lambda *a, n=name, o=original: calls.append(n) or o(*a))
    trainer.fit()
    calls = calls[1:]  # The first was the comparison with the definition.
    used = {"store": "task_gradients", "recompute": "add_recomputed_gradients"}[memory]
    assert set(calls) == {used}


@pytest.mark.parametrize(("free", "choice"), [(10**12, "store"), (10**5, "recompute")])
def test_auto_looks_at_what_is_free_and_says_what_it_chose(free, choice, monkeypatch, capsys):
    monkeypatch.setattr(engine, "_free_memory", lambda device: free)
    trainer = noise_trainer(memory="auto")
    trainer.fit()
    assert trainer.engine.recompute == (choice == "recompute")
    said = re.search(r"memory: (\w+); .* about ([\d,]+) MB, and", capsys.readouterr().err)
    assert said[1] == choice


def test_the_estimate_is_near_what_the_whole_graph_keeps():
    learner = make_learner("maml").double()
    estimate = batched.graph_bytes(learner, make_batch(tasks=1))
    assert estimate == pytest.approx(kept("maml", 3, "store"), rel=0.5)


@pytest.mark.parametrize(("earlier", "now"), [("fast", "store"), ("lean", "recompute")])
def test_names_of_earlier_versions(earlier, now):
    assert mamlpp.RECIPES["maml"].with_(memory=earlier).memory == now
    assert mamlpp.Recipe(memory=earlier) == mamlpp.Recipe(memory=now)
