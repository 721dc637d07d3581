"""The fast network is the definition: the same logits, gradients, second derivatives, notes."""

import pytest
import torch

import mamlpp
from mamlpp.fast import fast_model
from mamlpp.lean import backward
from mamlpp.maml import inner_loop, task_loss

SHAPES = {"even": (1, 16, 16), "odd": (3, 21, 19)}
WAYS, PER_CLASS = 3, 2


@pytest.fixture(params=SHAPES)
def shape(request):
    return SHAPES[request.param]


def make(name, shape, **changes):
    recipe = mamlpp.RECIPES[name].with_(filters=4, inner_steps=3, inner_rate=0.3, **changes)
    learner = mamlpp.MetaLearner(recipe, shape, WAYS, seed=0).double()
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():  # Batch norm weights of both signs: the smallest becomes the largest.
        for name, parameter in learner.named_parameters():
            if "norm" in name:
                parameter += torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
    return learner


def make_task(shape, count=WAYS * PER_CLASS):
    draw = torch.Generator().manual_seed(2)
    x = torch.rand(2, count, *shape, generator=draw, dtype=torch.float64)
    y = torch.arange(count) % WAYS
    return mamlpp.Task(x[0], y, x[1], y)


def plain_model(learner, seen):
    return lambda weights, x, step: learner(weights, x, step, seen=seen)


def loss_of(learner, task, epoch, model):
    return task_loss(model, learner.weights(), task, *_order(learner, epoch))[0]


def _order(learner, epoch):
    counts, second_order = learner.schedule(epoch)
    return counts, learner.rule, second_order


@pytest.mark.parametrize("pooling", ["max", "stride"])
@pytest.mark.parametrize("epoch", [0.0, 3.0, 60.0])
@pytest.mark.parametrize("name", list(mamlpp.RECIPES))
def test_the_meta_gradient_of_every_recipe(name, epoch, pooling, shape):
    learner, task = make(name, shape, pooling=pooling), make_task(shape)
    notes = [], []
    losses = [
        loss_of(learner, task, epoch, model)
        for model in (plain_model(learner, notes[0]), learner.task_model(task, notes[1], fast=True))
    ]
    torch.testing.assert_close(*losses, rtol=1e-12, atol=0)
    plain, fast = (torch.autograd.grad(loss, list(learner.parameters())) for loss in losses)
    for (weight, _), one, two in zip(learner.named_parameters(), plain, fast, strict=True):
        assert (one - two).norm() <= 1e-9 * one.norm() + 1e-14, weight
    assert (len(notes[0]) > 0) == ("bnrs" in name or name == "maml++")
    for (norm, step, *one), (other, at, *two) in zip(*notes, strict=True):
        assert (norm, step) == (other, at)
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


def test_float32_differs_by_rounding_alone(shape):
    learner, task = make("maml", shape).float(), make_task(shape)
    weights = learner.weights()
    logits = [
        model(weights, task.query_x.float(), 0)
        for model in (plain_model(learner, None), fast_model(learner.network))
    ]
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-5)


def test_many_images_go_a_few_at_a_time(shape, monkeypatch):
    learner, task = make("maml++", shape), make_task(shape)
    whole = loss_of(learner, task, 0.0, fast_model(learner.network))
    monkeypatch.setattr("mamlpp.fast.IN_CACHE", 1)
    single = loss_of(learner, task, 0.0, fast_model(learner.network))
    plain, fast = (torch.autograd.grad(x, list(learner.parameters())) for x in (whole, single))
    for one, two in zip(plain, fast, strict=True):
        torch.testing.assert_close(one, two)


def test_an_image_without_ink_has_finite_second_derivatives(shape):
    learner, task = make("maml", shape), make_task(shape)
    blank = task._replace(support_x=torch.zeros_like(task.support_x))
    loss_of(learner, blank, 0.0, fast_model(learner.network)).backward()
    assert all(p.grad.isfinite().all() for p in learner.parameters())


def test_training_and_adaptation_use_it(shape, monkeypatch):
    learner, task = make("maml", shape), make_task(shape)
    calls = []
    monkeypatch.setattr("mamlpp.maml.fast_model", lambda *a: calls.append(a) or fast_model(*a))
    backward(learner, task, 0.0, 1, lean=False)
    learner.adapt(task.support_x, task.support_y)
    assert len(calls) == 3  # once more for the support set's statistics
    backward(learner, task, 0.0, 1, lean=True)
    assert len(calls) == 6
    learner.part(task)  # what a reader looks into is the definition
    assert len(calls) == 6


def test_an_adapted_path_is_the_definition_s(shape):
    learner, task = make("maml++", shape), make_task(shape)
    support = task.support_x, task.support_y
    model = plain_model(learner, None)
    expected = inner_loop(model, learner.weights(), support, 3, learner.rule, False)
    for one, two in zip(expected, learner.adapted_path(*support), strict=True):
        for name in one:
            torch.testing.assert_close(one[name].detach(), two[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("transductive", [False, True])
@pytest.mark.parametrize("pooling", ["max", "stride"])
@pytest.mark.parametrize("name", ["maml", "maml++"])
def test_a_classifier_is_the_definition_s(name, pooling, transductive, shape):
    learner, task = make(name, shape, pooling=pooling), make_task(shape)
    learner.absorb([learner.part(task)])
    path = learner.adapted_path(task.support_x, task.support_y)
    norm = {"running": True} if name == "maml++" else {"reference": task.support_x}
    for step in (0, 3):
        logits = learner.classifier(path, step, task.support_x, transductive)(task.query_x)
        expected = learner(path[step], task.query_x, step, **({} if transductive else norm))
        torch.testing.assert_close(logits, expected.detach(), rtol=1e-9, atol=1e-12)
        assert not logits.requires_grad


def test_a_classifier_takes_what_was_not_adapted_from_the_network(shape):  # as in ANIL
    learner, task = make("maml", shape), make_task(shape)
    path = learner.adapted_path(task.support_x, task.support_y, 0)
    head = {name: weight for name, weight in path[0].items() if name.startswith("head")}
    logits = (
        learner.classifier([each], 0, task.support_x)(task.query_x) for each in (path[0], head)
    )
    torch.testing.assert_close(*logits)
