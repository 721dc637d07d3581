"""Checks of set 1: the inner loop. A model here is a small linear classifier in float64."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mamlpp.checks.core import (
    Function,
    Wrong,
    attempt,
    generator,
    judge,
    judge_test,
    normal,
    passed,
    pick,
)

Weights = dict[str, Tensor]


def linear(weights: Weights, x: Tensor) -> Tensor:
    """Logits `[M, 3]` of inputs `[M, 4]`."""
    return torch.tanh(x @ weights["body.weight"]) @ weights["head.weight"] + weights["head.bias"]


def draw_problem(draw: torch.Generator) -> tuple[Weights, Tensor, Tensor, float]:
    """Weights, inputs, labels and an inner rate."""
    shapes = {"body.weight": (4, 5), "head.weight": (5, 3), "head.bias": (3,)}
    weights = {name: normal(draw, *shape, requires_grad=True) for name, shape in shapes.items()}
    x, y = normal(draw, 6, 4), torch.randint(3, (6,), generator=draw)
    return weights, x, y, pick(draw, [0.05, 0.1, 0.2, 0.4])


def step_from(loss: Tensor, weights: Weights, rate: float, create_graph: bool = True) -> Weights:
    """One gradient step."""
    gradients = torch.autograd.grad(
        loss, list(weights.values()), create_graph=create_graph, retain_graph=True
    )
    return {n: w - rate * g for (n, w), g in zip(weights.items(), gradients, strict=True)}


def second_order_fault(name: str, adapted: Weights, weights: Weights) -> str | None:
    """Whether a gradient comes back through the adapted weights, and through their gradients."""
    if not all(isinstance(w, Tensor) and w.requires_grad for w in adapted.values()):
        return (
            f"{name}: the new weights have lost their graph (detach, .data or no_grad), so no "
            f"meta-gradient can come back through them"
        )
    total = torch.stack([w.sum() for w in adapted.values()]).sum()
    through = torch.autograd.grad(total, list(weights.values()), retain_graph=True)
    if all(torch.equal(g, torch.ones_like(g)) for g in through):
        return (
            f"{name}: the numbers are right, but the gradient entered them as a constant: without "
            f"create_graph=True this is first-order MAML"
        )
    return None


def inner_step(student: Function, seed: int = 0) -> None:
    """Exercise 1.1: `inner_step(loss, weights, rate)` is θ − α ∇θ loss, with its graph."""
    draw = generator(seed)
    for _ in range(3):
        weights, x, y, rate = draw_problem(draw)
        loss = F.cross_entropy(linear(weights, x), y)
        gradients = torch.autograd.grad(loss, list(weights.values()), retain_graph=True)
        pairs = dict(zip(weights, zip(weights.values(), gradients, strict=True), strict=True))
        expected = {n: w - rate * g for n, (w, g) in pairs.items()}
        found = attempt(student, loss, weights, rate)
        judge(
            student,
            found,
            expected,
            {
                "the step goes up the loss: subtract the gradient, do not add it": {
                    n: w + rate * g for n, (w, g) in pairs.items()
                },
                "the step is as long as the gradient: multiply it by the rate": {
                    n: w - g for n, (w, g) in pairs.items()
                },
                "it gives the gradients, not the weights after a step along them": {
                    n: g for n, (_, g) in pairs.items()
                },
                "it gives the change of the weights, not the changed weights": {
                    n: -rate * g for n, (_, g) in pairs.items()
                },
                "it gives a list: keep the names, each weight under its own": list(
                    expected.values()
                ),
                "the weights come back as they were: nothing has moved": weights,
            },
        )
        if fault := second_order_fault(student.__name__, found, weights):
            raise Wrong(fault)
    passed(student)


def inner_loop(student: Function, seed: int = 0) -> None:
    """Exercise 1.2: `inner_loop(model, weights, x, y, rate, steps)` gives θ_0, θ_1, …, θ_N."""
    draw = generator(seed)
    for steps in (2, 3, 4):
        weights, x, y, rate = draw_problem(draw)
        path = path_of(weights, x, y, rate, steps + 1)
        stuck = _stuck_path(weights, x, y, rate, steps)
        found = attempt(student, linear, weights, x, y, rate, steps)
        judge(
            student,
            found,
            path[:-1],
            {
                f"it took {steps + 1} steps where {steps} were asked": path,
                f"it took {steps - 1} steps where {steps} were asked": path[:-2],
                "θ_0, the weights before the first step, belong on the path too": path[1:-1],
                "it gives the last weights alone: keep all of θ_0 … θ_N in a list": path[-2],
                "every step uses the gradient at θ_0: compute the loss anew, at the weights that "
                "the step before has left": stuck,
                "every step starts again from θ_0: go on from the weights that the step before "
                "has left": [weights] + [path[1]] * steps,
            },
        )
        if fault := second_order_fault(student.__name__, found[1], weights):
            raise Wrong(fault)
        if not _reaches(found[-1], weights):
            raise Wrong(f"{student.__name__}: the path is cut: θ_N does not depend on θ_0 any more")
    passed(student)


def path_of(weights: Weights, x: Tensor, y: Tensor, rate: float, steps: int) -> list[Weights]:
    """θ_0, θ_1, …, θ_N."""
    path = [weights]
    for _ in range(steps):
        path.append(step_from(F.cross_entropy(linear(path[-1], x), y), path[-1], rate))
    return path


def _stuck_path(weights: Weights, x: Tensor, y: Tensor, rate: float, steps: int) -> list[Weights]:
    """What comes out where each step goes along the gradient at θ_0."""
    first = step_from(F.cross_entropy(linear(weights, x), y), weights, rate)
    return [{n: w + i * (first[n] - w) for n, w in weights.items()} for i in range(steps + 1)]


def _reaches(end: Weights, start: Weights) -> bool:
    total = torch.stack([w.square().sum() for w in end.values()]).sum()
    gradients = torch.autograd.grad(
        total, list(start.values()), retain_graph=True, allow_unused=True
    )
    return all(g is not None for g in gradients)


def meta_gradients(student: Function, seed: int = 0) -> None:
    """Exercise 1.3: the meta-gradient of two parabolas by hand, with `create_graph` and without.

    Support loss ½a(θ − b)², query loss ½(θ' − c)², one step with rate α: a pair of numbers.
    """
    draw = generator(seed)
    for _ in range(5):
        theta, b, c = normal(draw, 3).tolist()
        a, rate = pick(draw, [0.5, 1.5, 3.0]), pick(draw, [0.1, 0.2, 0.4])
        adapted = theta - rate * a * (theta - b)
        first, factor = adapted - c, 1 - rate * a
        judge(
            student,
            attempt(student, theta, rate, a, b, c),
            (factor * first, first),
            {
                "the two are swapped: create_graph=True comes first": (first, factor * first),
                "both ignore the adaptation: the query loss is judged at θ', not at θ": (
                    factor * (theta - c),
                    theta - c,
                ),
                "both are the same, but dθ'/dθ is 1 only where the gradient counts as a constant": (
                    first,
                    first,
                ),
                "create_graph=False does not make the chain rule vanish altogether: θ itself is "
                "still in θ' = θ − constant": (factor * first, 0.0),
                "the sign of the second derivative: θ' = θ − α·a(θ − b) changes by 1 − αa": (
                    (1 + rate * a) * first,
                    first,
                ),
                "dθ'/dθ needs the rate: it is 1 − αa, not 1 − a": ((1 - a) * first, first),
            },
        )
    passed(student)


# Exercise 1.4: implementations of a meta-gradient. Each takes two losses, θ `[n]` and the rate.

Scalar = Callable[[Tensor], Tensor]


def exact(support_loss: Scalar, query_loss: Scalar, theta: Tensor, rate: float) -> Tensor:
    """d query_loss(θ − α ∇support_loss(θ)) / dθ."""
    theta = theta.detach().requires_grad_()
    [gradient] = torch.autograd.grad(_sum(support_loss(theta)), theta, create_graph=True)
    return torch.autograd.grad(_sum(query_loss(theta - rate * gradient)), theta)[0]


def exact_forward(support_loss: Scalar, query_loss: Scalar, theta: Tensor, rate: float) -> Tensor:
    """The same by Hessian and matrix product."""
    adapted = theta.detach() - rate * _gradient(support_loss, theta)
    hessian = torch.autograd.functional.hessian(lambda t: _sum(support_loss(t)), theta.detach())
    gradient = _gradient(query_loss, adapted)
    return gradient - rate * hessian @ gradient


def first_order(support_loss: Scalar, query_loss: Scalar, theta: Tensor, rate: float) -> Tensor:
    """The inner gradient as a constant."""
    return _gradient(query_loss, theta.detach() - rate * _gradient(support_loss, theta))


def wrong_sign(support_loss: Scalar, query_loss: Scalar, theta: Tensor, rate: float) -> Tensor:
    """With (I + αH) where (I − αH) belongs."""
    plain = first_order(support_loss, query_loss, theta, rate)
    return 2 * plain - exact_forward(support_loss, query_loss, theta, rate)


def not_adapted(support_loss: Scalar, query_loss: Scalar, theta: Tensor, rate: float) -> Tensor:
    """Second order, but the query loss is judged at θ."""
    gradient = _gradient(query_loss, theta)
    hessian = torch.autograd.functional.hessian(lambda t: _sum(support_loss(t)), theta.detach())
    return gradient - rate * hessian @ gradient


def _gradient(loss: Scalar, theta: Tensor) -> Tensor:
    theta = theta.detach().requires_grad_()
    return torch.autograd.grad(_sum(loss(theta)), theta)[0]


def _sum(loss: Tensor) -> Tensor:
    """A scalar also of a loss that kept a dimension of size one."""
    return loss.sum()


def second_order_test(student: Function, seed: int = 0) -> None:
    """Exercise 1.4: a test that passes on a right meta-gradient and fails on broken ones.

    `seed` other than 0 adds a third broken one.
    """
    broken: dict[str, Function] = {
        "it lets first-order MAML pass: does your support loss have a second derivative, and is "
        "its part of the meta-gradient larger than your tolerance?": first_order,
        "it lets a meta-gradient with I + αH pass, where I − αH is right: compare with the number "
        "itself, not with 'differs from first order'": wrong_sign,
    }
    if seed:
        broken[
            "it lets a meta-gradient pass whose query loss is judged before the step: take a query "
            "loss whose gradient changes along the step"
        ] = not_adapted
    judge_test(student, {"one by autograd": exact, "one by the Hessian": exact_forward}, broken)
    passed(student)
