"""A recorded meta-gradient, replayed on other tasks, is the meta-gradient of those tasks.

Without a GPU a tape plays the part of a CUDA graph: it does the same operations once more on the
same memory, whatever Python would have done instead.
"""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

import mamlpp
from mamlpp import recorded, together
from tests.unit.test_fast import SHAPES, make
from tests.unit.test_together import make_batch


class Tape(TorchDispatchMode):
    """Notes every operation with the tensors that it reads and writes; `play` does them again."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, operation, types, given=(), named=None):
        result = operation(*given, **(named or {}))
        # The same memory, under shapes that no later operation can change.
        views = tree_map_only(torch.Tensor, torch.Tensor.detach, (given, named or {}, result))
        self.operations.append((operation, *views))
        return result

    def play(self):
        with torch.no_grad():
            for operation, given, named, result in self.operations:
                again = operation(*given, **named)
                if not any(returned.alias_info for returned in operation._schema.returns):
                    _copy(result, again)


def _copy(places, numbers):
    if isinstance(places, torch.Tensor):
        places.copy_(numbers)
    elif isinstance(places, tuple | list):
        for place, number in zip(places, numbers, strict=True):
            _copy(place, number)


@pytest.fixture
def tapes(monkeypatch):
    """All that were recorded."""
    made = []

    def record(step, device):
        with Tape() as tape:
            result = step()
        made.append(tape)
        tree_map_only(torch.Tensor, lambda x: x.fill_(7), result)  # Nobody has read it yet.
        return lambda: tape.play() or result

    monkeypatch.setattr(recorded, "record", record)
    monkeypatch.setattr(together, "at_once", lambda *_: True)
    return made


def gradient(learner, batch, epoch, recorder):
    """(gradients by name, parts)."""
    learner.zero_grad()
    parts = together.backward(learner, batch, epoch, 5, False, recorder)
    return {name: p.grad for name, p in learner.named_parameters() if p.grad is not None}, parts


def check(learner, batch, epoch, recorder):
    (one, parts), (two, others) = (gradient(learner, batch, epoch, way) for way in (None, recorder))
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name
    for part, other in zip(parts, others, strict=True):
        assert torch.equal(part.loss, other.loss)
        assert torch.equal(part.accuracy, other.accuracy)
        for (norm, step, *notes), (same, at, *more) in zip(part.seen, other.seen, strict=True):
            assert (norm, step) == (same, at)
            assert all(map(torch.equal, notes, more))


@pytest.mark.parametrize("pooling", ["max", "stride"])
@pytest.mark.parametrize("name", list(mamlpp.RECIPES))
def test_every_recipe(tapes, name, pooling):
    shape = SHAPES["even"]
    learner, recorder = make(name, shape, pooling=pooling), recorded.Recorder()
    epochs = [0.0, 3.0, 20.0, 60.0, 61.0]  # with MSL up to 15, with DA from 50 on
    for seed, epoch in enumerate(epochs):
        with torch.no_grad():  # As Adam does, between two meta-steps.
            for parameter in learner.parameters():
                parameter += 0.01
        check(learner, make_batch(shape, seed=seed), epoch, recorder)
    kinds = {"maml+msl": 2, "maml+da": 2, "maml++": 3}
    assert len(tapes) == kinds.get(name, 1)


def test_recorded_anew_where_something_else_is_asked_for(tapes):
    shape = SHAPES["even"]
    learner, recorder = make("maml", shape), recorded.Recorder()
    batch = make_batch(shape)
    check(learner, batch, 0.0, recorder)
    learner.update_recipe(learner.recipe.with_(inner_rate=0.2))
    check(learner, batch, 0.0, recorder)
    learner.update_recipe(learner.recipe.with_(second_order_from=None))
    check(learner, batch, 0.0, recorder)
    check(learner, batch.split(2)[0], 0.0, recorder)
    check(make("maml", shape, second_order_from=None), batch, 0.0, recorder)
    assert len(tapes) == 5


def train(recipe, steps):
    sampler = mamlpp.TaskSampler(mamlpp.load_images("glyphs", "train"), ways=5, shots=1)
    trainer = mamlpp.Trainer(recipe, sampler, sampler)
    rows = [trainer.step() for _ in range(steps)]
    return trainer.learner.state_dict(), rows


@pytest.mark.parametrize("changes", [{}, {"clip_norm": 0.1}, {"clip_value": 0.001}])
def test_a_training(tapes, monkeypatch, changes):
    recipe = mamlpp.RECIPES["maml++"].with_(
        filters=4, meta_batch=3, inner_steps=2, iterations_per_epoch=2, second_order_from=1.0,
        msl_epochs=2.0, **changes,
    )  # fmt: skip
    state, rows = train(recipe, steps=6)
    assert len(tapes) == 3
    monkeypatch.setattr(recorded, "record", lambda step, device: step)
    other_state, other_rows = train(recipe, steps=6)
    for name in state:
        assert torch.equal(state[name], other_state[name]), name
    monkeypatch.setattr(together, "at_once", lambda *_: False)
    _, one_by_one = train(recipe, steps=1)
    for seen in ("loss", "accuracy", "gradient_norm"):
        assert [row[seen] for row in rows] == [row[seen] for row in other_rows]
        assert rows[0][seen] == pytest.approx(one_by_one[0][seen], rel=1e-3)


@pytest.mark.parametrize("name", list(mamlpp.RECIPES))
def test_nothing_is_read_back_on_the_way(name, monkeypatch):
    """Where a number would have to be known to Python, tensors without numbers raise."""
    monkeypatch.setattr(together, "at_once", lambda *_: True)
    learner, batch = make(name, SHAPES["even"]).to("meta"), make_batch(SHAPES["even"])
    parts = (batch.support_x, batch.support_y, batch.query_x, batch.query_y)
    batch = mamlpp.TaskBatch(*(part.to("meta") for part in parts))
    for epoch in (0.0, 60.0):
        found, _ = gradient(learner, batch, epoch, None)
        assert {x.device.type for x in found.values()} == {"meta"}
        with pytest.raises(RuntimeError, match="meta"):
            next(iter(found.values())).norm().item()


class Cuda:
    """As much of `torch.cuda` as `record` calls; a recording may be refused."""

    def __init__(self, refuses):
        self.refuses, self.log = refuses, []

    def current_stream(self, device):
        return SimpleNamespace(wait_stream=lambda _: None)

    Stream = current_stream

    def CUDAGraph(self):
        return SimpleNamespace(replay=lambda: self.log.append("replay"))

    @contextmanager
    def graph(self, graph, **_):
        assert recorded.ONE_AT_A_TIME.locked()
        self.log.append("recording")
        yield
        if self.refuses:
            raise RuntimeError("operation not permitted")
        self.log.append("recorded")

    @contextmanager
    def device(self, _):
        yield

    stream = device


def test_recording(monkeypatch):
    cuda = Cuda(refuses=False)
    monkeypatch.setattr(torch, "cuda", cuda)
    replay = recorded.record(lambda: cuda.log.append("step") or "result", torch.device("cuda"))
    assert cuda.log == ["step", "recording", "step", "recorded"]
    assert replay() == replay() == "result"
    assert cuda.log[4:] == ["replay", "replay"]


def test_a_gpu_that_refuses_to_record(monkeypatch):
    cuda = Cuda(refuses=True)
    monkeypatch.setattr(torch, "cuda", cuda)
    with pytest.warns(RuntimeWarning, match="not permitted.*one by one"):
        replay = recorded.record(lambda: cuda.log.append("step") or "result", torch.device("cuda"))
    cuda.log.clear()
    assert replay() == replay() == "result"
    assert cuda.log == ["step", "step"]
