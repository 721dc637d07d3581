"""A captured meta-gradient, replayed on other tasks, is the meta-gradient of those tasks.

Without a GPU a recording stands in for the CUDA graph: it repeats the same operations on the same
memory, whatever Python would have done instead.
"""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from mamlpp.engine import Engine, batched, cuda_graph
from mamlpp.run.changes import use_recipe
from tests.makers import (
    METHODS,
    SHAPE,
    assert_identical,
    assert_same_statistics,
    make_batch,
    make_perturbed_learner,
    noise_trainer,
    on,
)


class Recording(TorchDispatchMode):
    """Records every operation with the tensors that it reads and writes; `replay` repeats them."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, operation, types, given=(), named=None):
        result = operation(*given, **(named or {}))
        # The same memory, under shapes that no later operation can change.
        views = tree_map_only(torch.Tensor, torch.Tensor.detach, (given, named or {}, result))
        self.operations.append((operation, *views))
        return result

    def replay(self):
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
def recordings(monkeypatch):
    """All that were captured."""
    made = []

    def capture(step, device):
        with Recording() as recording:
            result = step()
        made.append(recording)
        tree_map_only(torch.Tensor, lambda x: x.fill_(7), result)  # Nobody has read it yet.
        return lambda: recording.replay() or result

    monkeypatch.setattr(cuda_graph, "capture", capture)
    return made


def check(learner, batch, epoch, engine):
    """Replayed or not: the same numbers (their last bits depend on where memory begins)."""
    arguments = learner, batch, *learner.schedule(epoch), 5
    expected, results = batched.task_gradients(*arguments)
    learner.zero_grad()
    found = engine.task_results(learner, batch, epoch, 5)
    for one, other in zip(expected, learner.parameters(), strict=True):
        assert (one is None) == (other.grad is None)
        assert one is None or (one - other.grad).norm() <= 1e-12 * one.norm()
    torch.testing.assert_close(results[:2], found[:2], rtol=1e-12, atol=0)
    assert_same_statistics(results.statistics, found.statistics)


@pytest.mark.parametrize(
    ("name", "pooling"), [*((name, "max") for name in METHODS), ("maml++", "stride")]
)
def test_every_recipe(recordings, name, pooling):
    learner = make_perturbed_learner(name, SHAPE, pooling=pooling)
    engine = Engine(batched=True)
    epochs = [0.0, 3.0, 20.0, 60.0, 61.0]  # with MSL up to 15, with DA from 50 on
    for seed, epoch in enumerate(epochs):
        with torch.no_grad():  # As Adam does, between two meta-steps.
            for parameter in learner.parameters():
                parameter += 0.01
        check(learner, make_batch(seed=seed), epoch, engine)
    kinds = {"maml+msl": 2, "maml+da": 2, "maml++": 3}
    assert len(recordings) == kinds.get(name, 1)


def test_captured_anew_where_something_else_is_asked_for(recordings):
    learner, engine = make_perturbed_learner("maml", SHAPE), Engine(batched=True)
    batch = make_batch()
    check(learner, batch, 0.0, engine)
    use_recipe(learner, learner.recipe.with_(inner_rate=0.2))
    check(learner, batch, 0.0, engine)
    use_recipe(learner, learner.recipe.with_(second_order_from=None))
    check(learner, batch, 0.0, engine)
    check(learner, batch.split(2)[0], 0.0, engine)
    check(make_perturbed_learner("maml", SHAPE, second_order_from=None), batch, 0.0, engine)
    assert len(recordings) == 5


def train(steps, batched, **changes):
    trainer = noise_trainer("maml++", epochs=3, second_order_from=1.0, msl_epochs=2.0, **changes)
    trainer.engine = Engine(batched=batched)
    rows = [trainer.step() for _ in range(steps)]
    return trainer.learner.state_dict(), rows


@pytest.mark.parametrize("changes", [{}, {"clip_norm": 0.1}, {"clip_value": 0.001}])
def test_a_training(recordings, monkeypatch, changes):
    state, rows = train(6, True, **changes)
    assert len(recordings) == 3
    monkeypatch.setattr(cuda_graph, "capture", lambda step, device: step)
    other_state, other_rows = train(6, True, **changes)
    assert_identical(state, other_state)
    _, one_by_one = train(1, False, **changes)
    for seen in ("loss", "accuracy", "gradient_norm"):
        assert [row[seen] for row in rows] == [row[seen] for row in other_rows]
        assert rows[0][seen] == pytest.approx(one_by_one[0][seen], rel=1e-3)


@pytest.mark.parametrize("name", METHODS)
def test_nothing_is_read_back_on_the_way(name):
    """Where Python would need to know a number, tensors without numbers raise."""
    learner, batch = make_perturbed_learner(name, SHAPE).to("meta"), on("meta", make_batch())
    for epoch in (0.0, 60.0):
        found, _ = batched.task_gradients(learner, batch, *learner.schedule(epoch), 3)
        assert {x.device.type for x in found if x is not None} == {"meta"}
        with pytest.raises(RuntimeError, match="meta"):
            found[0].norm().item()


class Cuda:
    """As much of `torch.cuda` as `capture` calls; a capture may be refused."""

    def __init__(self, refuses):
        self.refuses, self.log = refuses, []

    def current_stream(self, device):
        return SimpleNamespace(wait_stream=lambda _: None)

    Stream = current_stream

    def CUDAGraph(self):
        return SimpleNamespace(replay=lambda: self.log.append("replay"))

    @contextmanager
    def graph(self, graph, **_):
        assert cuda_graph.ONE_AT_A_TIME.locked()
        self.log.append("capturing")
        yield
        if self.refuses:
            raise RuntimeError("operation not permitted")
        self.log.append("captured")

    @contextmanager
    def device(self, _):
        yield

    stream = device


def test_capturing(monkeypatch):
    cuda = Cuda(refuses=False)
    monkeypatch.setattr(torch, "cuda", cuda)
    replay = cuda_graph.capture(lambda: cuda.log.append("step") or "result", torch.device("cuda"))
    assert cuda.log == ["step", "capturing", "step", "captured"]
    assert replay() == replay() == "result"
    assert cuda.log[4:] == ["replay", "replay"]


def test_a_gpu_that_refuses_to_capture(monkeypatch):
    cuda = Cuda(refuses=True)
    monkeypatch.setattr(torch, "cuda", cuda)

    def step():
        cuda.log.append("step")
        return "result"

    with pytest.warns(RuntimeWarning, match="not permitted.*one by one"):
        replay = cuda_graph.capture(step, torch.device("cuda"))
    cuda.log.clear()
    assert replay() == replay() == "result"
    assert cuda.log == ["step", "step"]
