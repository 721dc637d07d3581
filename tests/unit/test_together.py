"""All tasks at once is one by one: the same gradient, losses, accuracies, notes."""

import pytest
import torch

import mamlpp
from mamlpp import together
from mamlpp.network import MOMENTUM, BatchNorm
from mamlpp.run import evaluation
from tests.unit.test_evaluation import Dealt
from tests.unit.test_fast import PER_CLASS, SHAPES, WAYS, make

TASKS = 3


@pytest.fixture(params=SHAPES)
def shape(request):
    return SHAPES[request.param]


def make_batch(shape, dtype=torch.float64, seed=2):
    draw = torch.Generator().manual_seed(seed)
    x = torch.rand(2, TASKS, WAYS * PER_CLASS, *shape, generator=draw, dtype=dtype)
    y = torch.stack([torch.randperm(WAYS * PER_CLASS, generator=draw) % WAYS for _ in range(TASKS)])
    return mamlpp.TaskBatch(x[0], y, x[1], y.flip(0))


def both_ways(learner, batch, epoch):
    """(gradients by name, parts) one by one, then at once, of the tasks of a larger meta-batch."""
    for at_once in (False, True):
        learner.zero_grad()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(together, "at_once", lambda *_, answer=at_once: answer)
            parts = together.backward(learner, batch, epoch, 5, lean=False)
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


@pytest.mark.parametrize("pooling", ["max", "stride"])
@pytest.mark.parametrize("name", list(mamlpp.RECIPES))
def test_evaluation(monkeypatch, name, pooling, shape):
    learner, batch = make(name, shape, pooling=pooling), make_batch(shape)
    with torch.no_grad():  # Running statistics that differ from layer to layer and step to step.
        for buffer in learner.buffers():
            buffer.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(3))
    for steps, transductive in ((None, False), (None, True), (0, False), (2, True)):
        results = []
        for gains in (False, True):
            monkeypatch.setattr(evaluation, "gains", lambda _, answer=gains: answer)
            results.append(
                evaluation.evaluate_tasks(
                    learner, Dealt(batch), TASKS, steps, transductive, every_step=True
                )
            )
        one, two = results
        assert torch.equal(one.accuracies, two.accuracies)
        assert torch.equal(one.hits, two.hits)
        torch.testing.assert_close(one.losses, two.losses, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(one.confidences, two.confidences, rtol=1e-9, atol=1e-12)


def test_evaluation_refuses_images_of_another_size(monkeypatch):
    monkeypatch.setattr(evaluation, "gains", lambda _: True)
    with pytest.raises(mamlpp.InputError, match="made for images"):
        evaluation.evaluate_tasks(
            make("maml", SHAPES["even"]), Dealt(make_batch(SHAPES["odd"])), TASKS
        )


def test_what_there_is_of_a_gradient_stays(monkeypatch, shape):
    monkeypatch.setattr(together, "at_once", lambda *_: True)
    learner, batch = make("maml++", shape), make_batch(shape)
    together.backward(learner, batch, 0.0, 5, lean=False)
    twice = [2 * parameter.grad for parameter in learner.parameters()]
    together.backward(learner, batch, 0.0, 5, lean=False)
    for parameter, expected in zip(learner.parameters(), twice, strict=True):
        torch.testing.assert_close(parameter.grad, expected)


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
