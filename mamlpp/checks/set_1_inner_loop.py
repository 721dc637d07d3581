"""Checks of set 1: the inner loop."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mamlpp.checks.core import Function, passed
from mamlpp.checks.inputs import check, generator, normal, pick
from mamlpp.checks.judging import judge_trials
from mamlpp.checks.problem import (
    Weights,
    cut_step,
    detached_weights_step,
    draw_problem,
    first_order_step,
    gradients_of,
    model,
    path_of,
    second_order_step,
)
from mamlpp.checks.testing import judge_test

_CUT = (
    "the new weights are cut off from the old ones (.detach(), .data, .item() or no_grad), so that "
    "no meta-gradient can come back through them"
)
_DETACHED_WEIGHTS = (
    "the old weight enters the step as a constant (weight.detach()): in θ − α·gradient both θ and "
    "the gradient must stay in the graph"
)
_FIRST_ORDER = (
    "the numbers are right, but the gradient entered the step as a constant: without "
    "create_graph=True this is first-order MAML"
)


def _each(change: Callable[[Tensor, Tensor, float], Tensor]) -> Function:
    """A step that makes each new weight from the weight, its gradient and the rate."""

    def step(loss: Tensor, weights: Weights, rate: float) -> Weights:
        gradients = gradients_of(loss, weights)
        return {name: change(w, gradients[name], rate) for name, w in weights.items()}

    return step


def _only_the_first(loss: Tensor, weights: Weights, rate: float) -> Weights:
    moved, first = second_order_step(loss, weights, rate), next(iter(weights))
    return weights | {first: moved[first]}


def _unit_gradient(loss: Tensor, weights: Weights, rate: float) -> Weights:
    gradients = gradients_of(loss, weights)
    norm = torch.stack([g.square().sum() for g in gradients.values()]).sum().sqrt()
    return {name: w - rate * gradients[name] / norm for name, w in weights.items()}


_STEP_MISTAKES: dict[str, Function] = {
    _FIRST_ORDER: first_order_step,
    _DETACHED_WEIGHTS: detached_weights_step,
    _CUT: cut_step,
    "the step goes up the loss: subtract the gradient, do not add it": _each(
        lambda w, g, rate: w + rate * g
    ),
    "the step is as long as the gradient: multiply the gradient by the rate": _each(
        lambda w, g, rate: w - g
    ),
    "it divides the gradient by the rate: multiply it": _each(lambda w, g, rate: w - g / rate),
    "the rate multiplies the weight as well: only the gradient is multiplied by it": _each(
        lambda w, g, rate: rate * (w - g)
    ),
    "`rate` is an argument: it is not always 0.1": _each(lambda w, g, rate: w - 0.1 * g),
    "it averages each gradient to one number: each number of a weight has its own": _each(
        lambda w, g, rate: w - rate * g.mean()
    ),
    "the weights shrink as well (weight decay): only the gradient moves them": _each(
        lambda w, g, rate: (1 - rate) * w - rate * g
    ),
    "it uses the sign of the gradient only: its size counts too": _each(
        lambda w, g, rate: w - rate * g.sign()
    ),
    "it makes each gradient one unit long: plain gradient descent uses it as it is": _each(
        lambda w, g, rate: w - rate * g / g.norm()
    ),
    "it returns the gradients, not the weights after a step along them": _each(
        lambda w, g, rate: g
    ),
    "it returns the change of the weights, not the changed weights": _each(
        lambda w, g, rate: -rate * g
    ),
    "it returns a list: return a dict, each weight under its own name": lambda *inputs: list(
        second_order_step(*inputs).values()
    ),
    "the weights come back as they were: the step is missing": lambda loss, weights, rate: weights,
    "only the first tensor takes the step: all of them should": _only_the_first,
    "it divides by the norm of the whole gradient: plain gradient descent uses it as it is": (
        _unit_gradient
    ),
}


@check
def inner_step(student: Function, seed: int = 0) -> None:
    """Exercise 1.1: `inner_step(loss, weights, rate)` is θ − α ∇θ loss, with its graph."""

    def inputs(number: int, dtype: torch.dtype) -> tuple[Any, ...]:
        weights, x, y, rate = draw_problem(10 * seed + number, dtype)
        return F.cross_entropy(model(weights, x), y), weights, rate

    dtypes = (torch.float64, torch.float32, torch.float64)
    trials = [partial(inputs, i, dtype) for i, dtype in enumerate(dtypes)]
    judge_trials(student, trials, second_order_step, _STEP_MISTAKES)
    passed(student)


def _right_path(
    classify: Function, weights: Weights, x: Tensor, y: Tensor, rate: float, steps: int
) -> list[Weights]:
    return path_of(weights, x, y, rate, steps)


def _path(change: Callable[[Any], Any] = lambda path: path, more: int = 0, **options: Any) -> Any:
    """An inner loop with a mistake: other steps, more of them, or a change of the whole path."""

    def loop(
        classify: Function, weights: Weights, x: Tensor, y: Tensor, rate: float, steps: int
    ) -> Any:
        return change(path_of(weights, x, y, rate, max(steps + more, 0), **options))

    return loop


def _first_gradient_again(path: list[Weights]) -> list[Weights]:
    start, first = path[0], path[1]
    return [{n: w + i * (first[n] - w) for n, w in start.items()} for i in range(len(path))]


def _cut_between(
    classify: Function, weights: Weights, x: Tensor, y: Tensor, rate: float, steps: int
) -> list[Weights]:
    path = [weights]
    for i in range(steps):
        here = path[-1] if i == 0 else {n: w.detach().requires_grad_() for n, w in path[-1].items()}
        path.append(second_order_step(F.cross_entropy(model(here, x), y), here, rate))
    return path


def _fading_rate(
    classify: Function, weights: Weights, x: Tensor, y: Tensor, rate: float, steps: int
) -> list[Weights]:
    path = [weights]
    for i in range(steps):
        loss = F.cross_entropy(model(path[-1], x), y)
        path.append(second_order_step(loss, path[-1], rate / (i + 1)))
    return path


def _squared_error(
    classify: Function, weights: Weights, x: Tensor, y: Tensor, rate: float, steps: int
) -> list[Weights]:
    path, wanted = [weights], F.one_hot(y, 3).to(x.dtype)
    for _ in range(steps):
        loss = F.mse_loss(model(path[-1], x), wanted)
        path.append(second_order_step(loss, path[-1], rate))
    return path


_LOOP_MISTAKES: dict[str, Function] = {
    _FIRST_ORDER: _path(step=first_order_step),
    _DETACHED_WEIGHTS: _path(step=detached_weights_step),
    "the path is cut between the steps: each starts from detached weights, so that nothing gets "
    "back from the later steps to θ_0": _cut_between,
    f"the path is cut: {_CUT}": _path(step=cut_step),
    "it takes one step more than `steps`": _path(more=1),
    "it takes one step less than `steps`, or leaves the last weights out": _path(more=-1),
    "θ_0, the weights before the first step, belongs on the path too": _path(lambda path: path[1:]),
    "it returns the last weights alone: keep all of θ_0 … θ_N in a list": _path(
        lambda path: path[-1]
    ),
    "all entries but the first are the same: make a new dict in each step": _path(
        lambda path: path[:1] + path[-1:] * (len(path) - 1)
    ),
    "the path ends after one step: does `return` stand inside the loop?": _path(
        lambda path: path[:2]
    ),
    "the path goes backwards: θ_0 comes first": _path(lambda path: path[::-1]),
    "every entry of the path holds the last weights: append a new dict after each step": _path(
        lambda path: path[-1:] * len(path)
    ),
    "every step uses the gradient at θ_0: compute the loss again in each step, with the weights "
    "after the step before": _path(_first_gradient_again),
    "every step starts again from θ_0: go on from the weights after the step before": _path(
        lambda path: path[:1] + path[1:2] * (len(path) - 1)
    ),
    "the loss is the sum over the images: cross_entropy averages them by default": _path(
        reduction="sum"
    ),
    "cross_entropy takes logits: it applies the softmax itself": _path(
        classify=lambda weights, x: model(weights, x).softmax(-1)
    ),
    "each step goes up the loss: is it your own inner_step that does?": _path(
        step=_each(lambda w, g, rate: w + rate * g)
    ),
    "each step is as long as the gradient, without the rate: is it your own inner_step?": _path(
        step=_each(lambda w, g, rate: w - g)
    ),
    "only the start and the end are on the path: `append` belongs into the loop": _path(
        lambda path: path[:1] + path[-1:]
    ),
    "the rate gets smaller from step to step: it is the same in each": _fading_rate,
    "the loss is the squared error: cross_entropy is asked for": _squared_error,
}


@check
def inner_loop(student: Function, seed: int = 0) -> None:
    """Exercise 1.2: `inner_loop(model, weights, x, y, rate, steps)` gives θ_0, θ_1, …, θ_N."""

    def inputs(number: int, steps: int, dtype: torch.dtype) -> tuple[Any, ...]:
        return model, *draw_problem(10 * seed + number, dtype), steps

    kinds = ((2, torch.float64), (3, torch.float32), (1, torch.float64), (4, torch.float64))
    trials = [partial(inputs, i, *kind) for i, kind in enumerate(kinds)]
    judge_trials(student, trials, _right_path, _LOOP_MISTAKES)
    passed(student)


def _by_hand(formula: Callable[[float, float, float, float, float], Any]) -> Function:
    """A pair of meta-gradients from (θ' − c, 1 − αa) and, if asked for, θ, α and a."""

    def pair(theta: float, rate: float, a: float, b: float, c: float) -> Any:
        slope = theta - rate * a * (theta - b) - c
        return formula(slope, 1 - rate * a, theta - c, rate, a)

    return pair


_PAIR_MISTAKES: dict[str, Function] = {
    "the two are swapped: create_graph=True comes first": _by_hand(
        lambda slope, factor, *_: (slope, factor * slope)
    ),
    "both ignore the adaptation: the query loss is taken at θ', not at θ": _by_hand(
        lambda slope, factor, unadapted, *_: (factor * unadapted, unadapted)
    ),
    "both are the same, but dθ'/dθ is 1 only where the gradient counts as a constant": _by_hand(
        lambda slope, *_: (slope, slope)
    ),
    "both have the factor 1 − αa: with create_graph=False the gradient is a constant": _by_hand(
        lambda slope, factor, *_: (factor * slope, factor * slope)
    ),
    "create_graph=False does not make the whole derivative 0: θ itself is still in "
    "θ' = θ − constant": _by_hand(lambda slope, factor, *_: (factor * slope, 0.0)),
    "the sign of the second derivative: θ' = θ − αa(θ − b) has the derivative 1 − αa": _by_hand(
        lambda slope, factor, *_: ((2 - factor) * slope, slope)
    ),
    "dθ'/dθ needs the rate: it is 1 − αa, not 1 − a": _by_hand(
        lambda slope, factor, unadapted, rate, a: ((1 - a) * slope, slope)
    ),
    "dθ'/dθ needs the curvature: it is 1 − αa, not 1 − α": _by_hand(
        lambda slope, factor, unadapted, rate, a: ((1 - rate) * slope, slope)
    ),
    "these are only the factors dθ'/dθ: the chain rule multiplies them by θ' − c": _by_hand(
        lambda slope, factor, *_: (factor, 1.0)
    ),
    "the sign: the derivative of ½(θ' − c)² is θ' − c, not c − θ'": _by_hand(
        lambda slope, factor, *_: (-factor * slope, -slope)
    ),
    "the ½ is lost: the derivative of ½(θ' − c)² is θ' − c, without a 2": _by_hand(
        lambda slope, factor, *_: (2 * factor * slope, 2 * slope)
    ),
    "the sign: dθ'/dθ is 1 − αa, not αa − 1": _by_hand(
        lambda slope, factor, *_: (-factor * slope, slope)
    ),
    "dθ'/dθ is 1 − αa: the 1, of θ itself, is missing": _by_hand(
        lambda slope, factor, *_: ((factor - 1) * slope, slope)
    ),
    "the query loss ½(θ' − c)² has no a: only the support loss has": _by_hand(
        lambda slope, factor, unadapted, rate, a: (a * factor * slope, a * slope)
    ),
    "the query loss has its minimum at c, not at b": lambda theta, rate, a, b, c: (
        (1 - rate * a) ** 2 * (theta - b),
        (1 - rate * a) * (theta - b),
    ),
    "the inner step goes down: θ' = θ − αa(θ − b)": lambda theta, rate, a, b, c: (
        (1 + rate * a) * (theta + rate * a * (theta - b) - c),
        theta + rate * a * (theta - b) - c,
    ),
    "these are the losses: their derivatives are asked for": _by_hand(
        lambda slope, *_: (slope**2 / 2, slope**2 / 2)
    ),
    "the factor dθ'/dθ counts once, not squared": _by_hand(
        lambda slope, factor, *_: (factor**2 * slope, slope)
    ),
    "the step goes along the gradient a(θ − b), not along the loss ½a(θ − b)²": (
        lambda theta, rate, a, b, c: (
            (1 - rate * a) * (theta - rate * a / 2 * (theta - b) ** 2 - c),
            theta - rate * a / 2 * (theta - b) ** 2 - c,
        )
    ),
    "θ' = θ − αa(θ − b): its rate is missing in the inner step": lambda theta, rate, a, b, c: (
        (1 - rate * a) * (theta - a * (theta - b) - c),
        theta - a * (theta - b) - c,
    ),
    "the second ignores the adaptation: without create_graph too the query loss is taken at θ'": (
        _by_hand(lambda slope, factor, unadapted, *_: (factor * slope, unadapted))
    ),
    "create_graph=False drops −αa and keeps the 1 of 1 − αa: yours keeps −αa": _by_hand(
        lambda slope, factor, *_: (factor * slope, (factor - 1) * slope)
    ),
    "both take the query loss's minimum at b: it is at c": lambda theta, rate, a, b, c: (
        (1 - rate * a) * (theta - rate * a * (theta - b) - b),
        theta - rate * a * (theta - b) - b,
    ),
}


@check
def meta_gradients(student: Function, seed: int = 0) -> None:
    """Exercise 1.3: the meta-gradient of two parabolas by hand, with `create_graph` and without.

    Support loss ½a(θ − b)², query loss ½(θ' − c)², one step with rate α: a pair of numbers.
    """
    draw, trials = generator(seed), []
    for a in (1.5, 0.5, 3.0, 7.0):
        theta, b, c = normal(draw, 3).tolist()
        trials.append((theta, pick(draw, [0.1, 0.2, 0.4]), a, b, c))
    right = _by_hand(lambda slope, factor, *_: (factor * slope, slope))
    judge_trials(student, trials, right, _PAIR_MISTAKES)
    passed(student)


# Exercise 1.4: implementations of a meta-gradient. Each takes two losses, θ `[n]` and the rate.

Loss = Callable[[Tensor], Tensor]


def exact(support_loss: Loss, query_loss: Loss, theta: Tensor, rate: float) -> Tensor:
    """d query_loss(θ − α ∇support_loss(θ)) / dθ, by autograd."""
    theta = theta.detach().requires_grad_()
    [gradient] = torch.autograd.grad(support_loss(theta).sum(), theta, create_graph=True)
    return torch.autograd.grad(query_loss(theta - rate * gradient).sum(), theta)[0]


def by_hessian(support_loss: Loss, query_loss: Loss, theta: Tensor, rate: float) -> Tensor:
    """The same: (I − αH) times the query gradient at θ'."""
    adapted = theta.detach() - rate * _gradient(support_loss, theta)
    return _through_step(support_loss, theta, rate, _gradient(query_loss, adapted))


def _through_step(loss: Loss, theta: Tensor, rate: float, gradient: Tensor) -> Tensor:
    hessian = torch.autograd.functional.hessian(lambda t: loss(t).sum(), theta.detach())
    return gradient - rate * hessian @ gradient


def first_order(support_loss: Loss, query_loss: Loss, theta: Tensor, rate: float) -> Tensor:
    """The inner gradient as a constant."""
    return _gradient(query_loss, theta.detach() - rate * _gradient(support_loss, theta))


def _wrong_sign(support_loss: Loss, query_loss: Loss, theta: Tensor, rate: float) -> Tensor:
    constant = first_order(support_loss, query_loss, theta, rate)
    return _through_step(support_loss, theta, -rate, constant)


def _without_rate(support_loss: Loss, query_loss: Loss, theta: Tensor, rate: float) -> Tensor:
    return _through_step(
        support_loss, theta, 1.0, first_order(support_loss, query_loss, theta, rate)
    )


def _not_adapted(support_loss: Loss, query_loss: Loss, theta: Tensor, rate: float) -> Tensor:
    return _through_step(support_loss, theta, rate, _gradient(query_loss, theta))


def _nothing(support_loss: Loss, query_loss: Loss, theta: Tensor, rate: float) -> Tensor:
    return torch.zeros_like(theta)


def _gradient(loss: Loss, theta: Tensor) -> Tensor:
    theta = theta.detach().requires_grad_()
    return torch.autograd.grad(loss(theta).sum(), theta)[0]


_BROKEN: dict[str, Function] = {
    "it lets first-order MAML pass: does your support loss have a second derivative, and is "
    "its part of the meta-gradient larger than your tolerance?": first_order,
    "it lets a meta-gradient with I + αH pass, where I − αH is right: compare with the number "
    "itself, not with 'differs from first order'": _wrong_sign,
    "it lets a meta-gradient pass that is always 0: choose numbers for which the right answer is "
    "not 0 (1 − αa must not be 0)": _nothing,
    "it lets a meta-gradient pass whose query loss is taken before the step: choose a query loss "
    "whose gradient changes along the step": _not_adapted,
    "it lets a meta-gradient with I − H pass, where I − αH is right: choose a rate other than 1": (
        _without_rate
    ),
}


@check
def second_order_test(student: Function, seed: int = 0) -> None:
    """Exercise 1.4: a test that passes on a right meta-gradient and fails on broken ones."""
    judge_test(student, {"one by autograd": exact, "one by the Hessian": by_hessian}, _BROKEN)
    passed(student)
