"""All tasks at once is one by one: the same gradient, losses, accuracies, notes."""

import pytest
import torch

import mamlpp
from mamlpp import together
from mamlpp.network import MOMENTUM, BatchNorm
from tests.unit.test_fast import PER_CLASS, SHAPES, WAYS, make

TASKS = 3


@pytest.fixture(params=SHAPES)
def shape(request):
    return SHAPES[request.param]


def make_batch(shape, dtype=torch.float64):
    draw = torch.Generator().manual_seed(2)
    x = torch.rand(2, TASKS, WAYS * PER_CLASS, *shape, generator=draw, dtype=dtype)
    y = torch.stack([torch.randperm(WAYS * PER_CLASS, generator=draw) % WAYS for _ in range(TASKS)])
    return mamlpp.TaskBatch(x[0], y, x[1], y.flip(0))


def both_ways(learner, batch, epoch):
    """(gradients by name, parts) one by one, then at once, of the tasks of a larger meta-batch."""
    for way in (
        lambda: together.backward(learner, batch, epoch, 5, lean=False),
        lambda: together.wide_backward(learner, batch, epoch, 5),
    ):
        learner.zero_grad()
        parts = way()
        yield {name: p.grad for name, p in learner.named_parameters() if p.grad is not None}, parts


@pytest.mark.parametrize("pooling", ["max", "stride"])
@pytest.mark.parametrize("epoch", [0.0, 60.0])
@pytest.mark.parametrize("name", list(mamlpp.RECIPES))
def test_every_recipe(name, epoch, pooling, shape):
    learner = make(name, shape, pooling=pooling)
    (one, parts), (two, wide) = both_ways(learner, make_batch(shape), epoch)
    assert one.keys() == two.keys()
    for weight in one:
        error = (one[weight] - two[weight]).norm()
        assert error <= 1e-9 * one[weight].norm() + 1e-14, weight
    for part, other in zip(parts, wide, strict=True):
        torch.testing.assert_close(part.loss, other.loss, rtol=1e-10, atol=0)
        assert part.accuracy == other.accuracy
        for (norm, step, *notes), (same, at, *others) in zip(part.seen, other.seen, strict=True):
            assert (norm, step) == (same, at)
            torch.testing.assert_close(notes, others, rtol=1e-9, atol=1e-12)


def test_float32_differs_by_rounding_alone(shape):
    learner = make("maml++", shape).float()
    (one, _), (two, _) = both_ways(learner, make_batch(shape, torch.float32), 0.0)
    for weight in one:
        assert (one[weight] - two[weight]).norm() <= 1e-3 * one[weight].norm(), weight


def test_a_trainer_that_takes_them_at_once(monkeypatch):
    calls = []

    def train(one_by_one):
        images = mamlpp.load_images("glyphs", "train")
        sampler = mamlpp.TaskSampler(images, ways=5, shots=1)
        recipe = mamlpp.RECIPES["maml++"].with_(filters=4, meta_batch=3, inner_steps=2)
        trainer = mamlpp.Trainer(recipe, sampler, sampler)
        rows = [trainer.step() for _ in range(2)]
        assert len(calls) == (0 if one_by_one else 2)
        return trainer.learner.state_dict(), rows

    state, rows = train(one_by_one=True)
    monkeypatch.setattr(together, "at_once", lambda *_: True)
    monkeypatch.setattr(together, "wide_backward", _counted(calls))
    wide_state, wide_rows = train(one_by_one=False)
    assert rows[0]["loss"] == pytest.approx(wide_rows[0]["loss"], rel=1e-5)
    for name in state:
        torch.testing.assert_close(state[name], wide_state[name], rtol=1e-3, atol=1e-3)


def _counted(calls, wide=together.wide_backward):
    def count(*given):
        calls.append(given)
        return wide(*given)

    return count


def test_not_at_once_where_queries_follow_the_support():
    learner = make("maml", SHAPES["even"], query_statistics="support")
    cuda = torch.device("cuda")
    assert not together.at_once(learner, cuda)
    assert together.at_once(make("maml", SHAPES["even"]), cuda)
    assert not together.at_once(make("maml", SHAPES["even"]), torch.device("cpu"))


def test_statistics_of_several_tasks_are_absorbed_one_after_another():
    at_once, in_turn = BatchNorm(4, 1, 2), BatchNorm(4, 1, 2)
    means, variances = torch.rand(2, 5, 4)
    at_once.absorb(1, means, variances)
    for mean, variance in zip(means, variances, strict=True):
        in_turn.absorb(1, mean, variance)
        reference = in_turn.running_mean[1].clone()
    torch.testing.assert_close(at_once.running_mean, in_turn.running_mean)
    torch.testing.assert_close(at_once.running_var, in_turn.running_var)
    expected = torch.zeros(4)
    for mean in means:
        expected.lerp_(mean, MOMENTUM)
    torch.testing.assert_close(reference, expected)
    assert (at_once.running_mean[0] == 0).all()
