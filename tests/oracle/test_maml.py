"""The meta-gradient, compared with independent references in float64."""

from collections import Counter

import higher
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mamlpp
from mamlpp.inner_rates import FixedRate
from mamlpp.maml import inner_loop, task_loss

SHAPE = (1, 16, 16)
WAYS = 3


def small_batch(tasks=2, seed=0):
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(WAYS)
    x = torch.rand(tasks, 3 * WAYS, *SHAPE, generator=draw, dtype=torch.float64)
    y = labels.expand(tasks, WAYS)
    return mamlpp.TaskBatch(x[:, :WAYS], y, x[:, WAYS:], y.repeat(1, 2))


def small_learner(name="maml", **changes):
    recipe = mamlpp.RECIPES[name].with_(filters=4, inner_steps=3, **changes)
    return mamlpp.MetaLearner(recipe, SHAPE, WAYS).double()


def meta_gradient(learner, batch, epoch=0.0):
    learner.zero_grad()
    loss, _ = learner.meta_loss(batch, epoch)
    loss.backward()
    return {name: p.grad.clone() for name, p in learner.named_parameters()}


def final_step_only(steps):
    return [0.0] * (steps - 1) + [1.0]


def count_nodes(loss):
    """Number of nodes of each type in the autograd graph of `loss`."""
    seen, stack = set(), [loss.grad_fn]
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            stack += [parent for parent, _ in node.next_functions]
    return Counter(type(node).__name__ for node in seen)


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("second_order", [True, False])
def test_scalar_model_by_hand(steps, second_order):
    # Model y = θx, loss (θx − y)²/2. One inner step is θ' = θ − α x_s (θ x_s − y_s), so
    # dθ'/dθ = 1 − α x_s² =: c, which first order replaces by 1. After S steps, dθ_S/dθ = c^S and
    # θ_S − t = c^S (θ − t) with t = y_s / x_s. The meta-gradient is x_q (θ_S x_q − y_q) · dθ_S/dθ.
    theta, alpha, x_s, y_s, x_q, y_q = 0.7, 0.1, 1.3, -0.4, 0.9, 1.1
    c, target = 1 - alpha * x_s**2, y_s / x_s
    adapted = target + c**steps * (theta - target)
    expected = x_q * (adapted * x_q - y_q) * (c**steps if second_order else 1)

    weights = {"w": torch.tensor(theta, dtype=torch.float64, requires_grad=True)}
    task = mamlpp.Task(*(torch.tensor(v, dtype=torch.float64) for v in (x_s, y_s, x_q, y_q)))
    loss, output = task_loss(
        lambda w, x, step: w["w"] * x,
        weights,
        task,
        final_step_only(steps),
        FixedRate(alpha),
        second_order,
        lambda out, y: (out - y) ** 2 / 2,
    )
    loss.backward()
    assert output.item() == pytest.approx(adapted * x_q, rel=1e-12)
    assert weights["w"].grad.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("pooling", ["max", "stride"])
@pytest.mark.parametrize("query_statistics", ["query", "support"])
def test_finite_differences(pooling, query_statistics):
    check_every_parameter(
        small_learner(pooling=pooling, query_statistics=query_statistics), epoch=0.0
    )


@pytest.mark.parametrize("inner_rule", ["lslr", "meta-sgd"])
@pytest.mark.parametrize("epoch", [0.0, 7.5, 20.0])  # MSL: start, annealing, ended
def test_finite_differences_of_all_improvements(inner_rule, epoch):
    learner = small_learner("maml++", inner_rule=inner_rule, second_order_from=0.0)
    with torch.no_grad():  # so that no two steps or layers are equal
        draw = torch.Generator().manual_seed(5)
        for parameter in learner.parameters():
            noise = torch.rand(parameter.shape, generator=draw, dtype=torch.float64)
            parameter += 0.05 * (noise - 0.5)
    check_every_parameter(learner, epoch)


def check_every_parameter(learner, epoch):
    batch = small_batch()
    gradient = meta_gradient(learner, batch, epoch)
    draw = torch.Generator().manual_seed(1)
    for name, parameter in learner.named_parameters():
        noise = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
        direction = gradient[name] / gradient[name].norm() + noise / noise.norm()
        slope = central_difference(learner, batch, parameter, direction, epoch)
        expected = (gradient[name] * direction).sum().item()
        assert slope == pytest.approx(expected, rel=1e-5), name


def central_difference(
    learner, batch, parameter, direction, epoch, h=2e-8
):  # small enough not to cross a kink of ReLU
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            parameter += sign * h * direction
        values.append(learner.meta_loss(batch, epoch)[0].item())
        with torch.no_grad():
            parameter -= sign * h * direction
    return (values[0] - values[1]) / (2 * h)


@pytest.mark.parametrize("pooling", ["max", "stride"])
@pytest.mark.parametrize("second_order", [True, False])
def test_agrees_with_higher(pooling, second_order):
    learner = small_learner(pooling=pooling, second_order_from=0 if second_order else None)
    batch = small_batch()
    ours = meta_gradient(learner, batch)
    our_loss = learner.meta_loss(batch)[0].item()

    network = learner.network
    network.zero_grad()
    adapted = list(learner.weights().values())
    frozen = [p for p in network.parameters() if not any(p is a for a in adapted)]
    groups = [
        {"params": adapted, "lr": learner.recipe.inner_rate},
        {"params": frozen, "lr": 0.0},
    ]
    total = 0.0
    for task in batch:
        with higher.innerloop_ctx(
            network,
            torch.optim.SGD(groups),
            copy_initial_weights=False,
            track_higher_grads=second_order,
        ) as (fast, optimizer):
            for _ in range(learner.recipe.inner_steps):
                optimizer.step(F.cross_entropy(fast(task.support_x), task.support_y))
            loss = F.cross_entropy(fast(task.query_x), task.query_y) / len(batch)
            if second_order:
                loss.backward()
            else:  # untracked: the gradient at the adapted weights is first-order
                gradients = torch.autograd.grad(loss, list(fast.parameters()))
                for p, g in zip(network.parameters(), gradients, strict=True):
                    p.grad = g if p.grad is None else p.grad + g
        total += loss.item()
    assert total == pytest.approx(our_loss, rel=1e-8)
    for name, parameter in network.named_parameters():
        theirs, mine = parameter.grad, ours[f"network.{name}"]
        assert (theirs - mine).norm() <= 1e-8 * theirs.norm(), name


def test_first_order_drops_the_inner_hessian():
    # By the chain rule, dL/dθ = Π (I − α H_s) ∇L(θ_S). First order sets every H_s to 0.
    model, task, weights = tanh_task()
    rate, steps, mse = 0.05, 3, F.mse_loss
    start = {name: w.detach().requires_grad_() for name, w in weights.items()}
    support = task.support_x, task.support_y
    path = inner_loop(model, start, support, steps, FixedRate(rate), False, mse)
    last = {name: w.detach().requires_grad_() for name, w in path[-1].items()}
    outer = torch.autograd.grad(mse(model(last, task.query_x, steps), task.query_y), last.values())
    first = torch.cat([g.flatten() for g in outer])
    second = first.clone()
    for theta in reversed(path[:-1]):
        second = second - rate * hessian(model, theta, support, mse) @ second

    for second_order, expected in ((False, first), (True, second)):
        loss, _ = task_loss(
            model, weights, task, final_step_only(steps), FixedRate(rate), second_order, mse
        )
        gradients = torch.autograd.grad(loss, list(weights.values()))
        gradient = torch.cat([g.flatten() for g in gradients])
        torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)
    assert (first - second).norm() > 1e-3 * second.norm()


def tanh_task():
    """A small tanh network, whose Hessian is not zero, and one regression task."""
    draw = torch.Generator().manual_seed(3)
    shapes = {"a": (1, 6), "b": (6,), "c": (6, 1)}
    weights = {
        name: torch.randn(shape, generator=draw, dtype=torch.float64).requires_grad_()
        for name, shape in shapes.items()
    }
    task = mamlpp.Task(
        *(torch.randn(7, 1, generator=draw, dtype=torch.float64) for _ in range(4)),
    )

    def model(w, x, step):
        return torch.tanh(x @ w["a"] + w["b"]) @ w["c"]

    return model, task, weights


def hessian(model, weights, support, loss):
    names, sizes = list(weights), [w.numel() for w in weights.values()]

    def flat_loss(vector):
        parts = vector.split(sizes)
        w = {n: p.view_as(weights[n]) for n, p in zip(names, parts, strict=True)}
        return loss(model(w, support[0], 0), support[1])

    flat = torch.cat([w.detach().flatten() for w in weights.values()])
    return torch.autograd.functional.hessian(flat_loss, flat)


def test_orders_differ_in_gradient_and_in_graph():
    learner, batch = small_learner(second_order_from=5), small_batch()
    first, second = meta_gradient(learner, batch, 4.9), meta_gradient(learner, batch, 5.0)
    weight = "network.blocks.0.conv.weight"
    assert (first[weight] - second[weight]).norm() > 1e-3 * second[weight].norm()

    counts = {epoch: count_nodes(learner.meta_loss(batch, epoch)[0]) for epoch in (4.9, 5.0)}
    double_backward = [name for name in counts[5.0] if "BackwardBackward" in name]
    assert double_backward
    assert not [name for name in counts[4.9] if "BackwardBackward" in name]
    # Batch norm has one double-backward node per task, inner step and block.
    batch_norm = [counts[5.0][name] for name in double_backward if "BatchNorm" in name]
    assert batch_norm == [len(batch) * learner.recipe.inner_steps * len(learner.network.blocks)]


def test_the_gradient_of_a_batch_is_the_mean_over_its_tasks():
    learner, batch = small_learner(), small_batch(tasks=4)
    whole = meta_gradient(learner, batch)
    alone = [meta_gradient(learner, one) for one in batch.split()]
    for name, gradient in whole.items():
        mean = torch.stack([g[name] for g in alone]).mean(0)
        torch.testing.assert_close(gradient, mean, rtol=1e-10, atol=1e-12)


def test_any_model_can_be_adapted():
    # An MLP, called functionally, fits its support set.
    network = nn.Sequential(nn.Linear(1, 20), nn.Tanh(), nn.Linear(20, 1))
    task = next(iter(mamlpp.SinusoidSampler(seed=1).sample(1)))

    def model(weights, x, step):
        return torch.func.functional_call(network, weights, (x,))

    start = dict(network.named_parameters())
    support = task.support_x, task.support_y
    path = inner_loop(model, start, support, 20, FixedRate(0.02), False, F.mse_loss)
    before, after = (F.mse_loss(model(w, support[0], 0), support[1]) for w in (path[0], path[-1]))
    assert after < 0.7 * before
