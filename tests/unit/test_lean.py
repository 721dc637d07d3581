"""The lean way back is the same gradient in less memory."""

import re

import pytest
import torch

import mamlpp
from mamlpp.lean import backward, graph_bytes
from mamlpp.run import trainer as training

SHAPE, WAYS = (1, 16, 16), 3


def make(name, **changes):
    recipe = mamlpp.RECIPES[name].with_(filters=4, inner_steps=3, inner_rate=0.3, **changes)
    return mamlpp.MetaLearner(recipe, SHAPE, WAYS, seed=0).double()


@pytest.fixture
def task():
    draw = torch.Generator().manual_seed(1)
    y = torch.arange(WAYS)
    x = torch.rand(3 * WAYS, *SHAPE, generator=draw, dtype=torch.float64)
    return mamlpp.Task(x[:WAYS], y, x[WAYS:], y.repeat(2))


CHANGES = {
    "plain": {},
    "shared": {"norm_statistics": "shared"},
    "support": {"norm_statistics": "shared", "query_statistics": "support"},
    "floor": {"msl_epochs": 2.0, "msl_floor": 0.1},
}


@pytest.mark.parametrize("epoch", [0.0, 3.0, 60.0])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", list(mamlpp.RECIPES))
def test_it_is_the_same_as_the_definition(name, change, epoch, task):
    learners = fast, lean = make(name, **CHANGES[change]), make(name, **CHANGES[change])
    parts = [backward(learners[way], task, epoch, 4, lean=bool(way)) for way in (0, 1)]
    assert parts[1].loss.item() == pytest.approx(parts[0].loss.item(), rel=1e-12)
    assert parts[1].accuracy == parts[0].accuracy
    for (weight, one), other in zip(fast.named_parameters(), lean.parameters(), strict=True):
        assert (one.grad - other.grad).norm() <= 1e-9 * one.grad.norm(), weight
    for learner, part in zip(learners, parts, strict=True):
        learner.absorb([part])
    for (buffer, one), other in zip(fast.named_buffers(), lean.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12, msg=buffer)


def test_gradients_of_several_tasks_add_up(task):
    once, twice = make("maml++"), make("maml++")
    backward(once, task, 0.0, 1, lean=True)
    for _ in range(2):
        backward(twice, task, 0.0, 2, lean=True)
    for one, two in zip(once.parameters(), twice.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad)


def kept(name, steps, task, lean):
    """The most bytes that autograd keeps at once, on the way through `steps` inner steps."""
    learner = make(name, memory="lean" if lean else "fast").with_recipe(inner_steps=steps)
    now, most = [0], [0]

    class Kept:
        def __init__(self, tensor):
            self.tensor = tensor
            now[0] += tensor.nbytes
            most[0] = max(most[0], now[0])

        def __del__(self):
            now[0] -= self.tensor.nbytes

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        backward(learner.double(), task, 0.0, 1, lean)
    return most[0]


@pytest.mark.parametrize("name", ["maml", "fomaml", "maml+msl"])
def test_what_autograd_keeps_does_not_grow_with_the_steps(name, task):
    few, many = (kept(name, steps, task, lean=True) for steps in (2, 12))
    assert many < 1.3 * few
    if name != "fomaml":
        few, many = (kept(name, steps, task, lean=False) for steps in (2, 12))
        assert many > 3 * few


def noise_trainer(**changes):
    draw = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (6, 4, 1, 16, 16), generator=draw, dtype=torch.uint8)
    samplers = (
        mamlpp.TaskSampler(mamlpp.ImageSet(noise, (*"abcdef",), "noise", split), 3, 1, 2)
        for split in ("train", "validation")
    )
    recipe = mamlpp.RECIPES["maml"].with_(
        filters=4, inner_steps=2, meta_batch=2, epochs=1, iterations_per_epoch=2,
        validation_tasks=2, **changes,
    )  # fmt: skip
    return mamlpp.Trainer(recipe, *samplers)


@pytest.mark.parametrize("memory", ["fast", "lean"])
def test_the_recipe_chooses(memory, monkeypatch):
    ways = []
    monkeypatch.setattr("mamlpp.lean.backward", lambda *a: ways.append(a[-1]) or backward(*a))
    noise_trainer(memory=memory).fit()
    assert ways == [memory == "lean"] * 4


@pytest.mark.parametrize(("free", "choice"), [(10**12, "fast"), (10**5, "lean")])
def test_auto_looks_at_what_is_free_and_says_what_it_chose(free, choice, monkeypatch, capsys):
    monkeypatch.setattr(training, "_free_memory", lambda device: free)
    trainer = noise_trainer(memory="auto")
    trainer.fit()
    assert trainer.lean == (choice == "lean")
    said = re.search(r"memory: (\w+); .* about ([\d,]+) MB, and", capsys.readouterr().err)
    assert said[1] == choice


def test_the_estimate_is_near_what_the_whole_graph_keeps(task):
    learner = make("maml")
    assert graph_bytes(learner, task) == pytest.approx(kept("maml", 3, task, lean=False), rel=0.5)


@pytest.mark.parametrize(("lean", "count"), [(False, 1), (True, 2)])
def test_notes_lie_in_few_pieces_of_memory(lean, count, task):
    learner = make("maml++")
    seen = backward(learner, task, 0.0, 1, lean).seen
    assert len(seen) == 2 * 3 * len(learner.network.blocks)
    pieces = {mean.untyped_storage().data_ptr() for _, _, mean, _ in seen}
    assert len(pieces) == count, "lean: one for the support set's, one for the queries'"
