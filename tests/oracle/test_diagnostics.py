"""The gradient norms of the backward pass, compared with independent code in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

import mamlpp
from mamlpp.diagnostics import diagnose

SHAPE, WAYS, STEPS = (1, 16, 16), 3, 3


def small_learner(name="maml", **changes):
    recipe = mamlpp.RECIPES[name].with_(filters=4, inner_steps=STEPS, **changes)
    learner = mamlpp.MetaLearner(recipe, SHAPE, WAYS, seed=0).double()
    with torch.no_grad():  # so that no two steps or layers are equal
        draw = torch.Generator().manual_seed(5)
        for parameter in learner.parameters():
            noise = torch.rand(parameter.shape, generator=draw, dtype=torch.float64)
            parameter += 0.05 * (noise - 0.5)
    return learner


def one_task():
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(1, 3 * WAYS, *SHAPE, generator=draw, dtype=torch.float64)
    y = torch.arange(WAYS).expand(1, WAYS)
    return mamlpp.TaskBatch(x[:, :WAYS], y, x[:, WAYS:], y.repeat(1, 2))


def inner_rate(learner, name, step):
    """α of a weight at a step, read directly from the parameters."""
    if learner.recipe.inner_rule == "lslr":
        row = {"0": 0, "1": 1, "2": 2, "3": 3}.get(name.split(".")[1], 4)
        return learner.rule.rates[row, step].detach()
    if learner.recipe.inner_rule == "meta-sgd":
        return learner.rule.rates[list(learner.weights()).index(name)].detach()
    return learner.recipe.inner_rate


def remaining_loss(learner, task, weights, start, step_weights):
    """The weighted sum of the query losses from step `start` on, with θ_start = `weights`."""
    total = 0.0
    for step in range(start, STEPS + 1):
        if step > 0 and step_weights[step - 1]:
            logits = functional_call(learner.network, weights, (task.query_x,), {"step": step})
            total = total + step_weights[step - 1] * F.cross_entropy(logits, task.query_y)
        if step < STEPS:
            logits = functional_call(learner.network, weights, (task.support_x,), {"step": step})
            loss = F.cross_entropy(logits, task.support_y)
            gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
            weights = {
                name: weights[name] - inner_rate(learner, name, step) * gradient
                for name, gradient in zip(weights, gradients, strict=True)
            }
    return total


@pytest.mark.parametrize(
    ("name", "step_weights"),
    [
        ("maml", [0, 0, 1]),
        ("meta-sgd", [0, 0, 1]),
        ("maml+lslr", [0, 0, 1]),
        ("maml+bnrs+bnwb", [0, 0, 1]),
        ("maml+msl", [1 / 3, 1 / 3, 1 / 3]),
    ],
)
def test_norms_equal_those_of_restarting_the_inner_loop_at_each_step(name, step_weights):
    # The gradient with respect to θ_i: detach θ_i from its history, then continue from it.
    learner, batch = small_learner(name), one_task()
    [task] = batch
    norms = diagnose(learner, batch).norms
    weights = learner.weights()
    for step in range(STEPS + 1):
        leaves = {name: w.detach().requires_grad_() for name, w in weights.items()}
        loss = remaining_loss(learner, task, leaves, step, step_weights)
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        layers = [*gradients[:4], torch.cat([g.flatten() for g in gradients[4:]])]
        assert list(leaves)[4:] == ["head.weight", "head.bias"]
        expected = torch.stack([gradient.norm() for gradient in layers])
        assert expected.min() > 0
        torch.testing.assert_close(norms[step], expected, rtol=1e-9, atol=0)
        weights = next_weights(learner, task, leaves, step)


def next_weights(learner, task, weights, step):
    if step == STEPS:
        return weights
    logits = functional_call(learner.network, weights, (task.support_x,), {"step": step})
    gradients = torch.autograd.grad(F.cross_entropy(logits, task.support_y), list(weights.values()))
    return {
        name: weights[name].detach() - inner_rate(learner, name, step) * gradient
        for name, gradient in zip(weights, gradients, strict=True)
    }


@pytest.mark.parametrize("name", ["fomaml", "maml+da", "maml++"])
def test_in_first_order_the_gradient_is_the_same_at_every_step(name):
    # dθ_{i+1}/dθ_i = I, and only the last query loss has weight: MSL ends at epoch 15.
    learner = small_learner(name)
    norms = diagnose(learner, one_task(), epoch=15.0).norms
    assert norms.min() > 0
    for row in norms[:-1]:
        assert torch.equal(row, norms[-1])
    second = diagnose(small_learner(name, second_order_from=0.0), one_task(), epoch=15.0).norms
    assert torch.equal(second[-1], norms[-1])
    assert not torch.allclose(second[0], norms[0])


def test_in_first_order_msl_adds_one_query_gradient_per_step():
    # The gradient at step i is the sum of the query gradients from i on; step 0 adds none.
    learner, batch = small_learner("maml+msl", second_order_from=None), one_task()
    norms = diagnose(learner, batch).norms
    assert torch.equal(norms[0], norms[1])
    assert not torch.allclose(norms[1], norms[2])
    assert not torch.allclose(norms[2], norms[3])
