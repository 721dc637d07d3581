"""Checks of set 2: the gradient on its way back, and how long it gets (2.1 and 2.2)."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mamlpp.checks.core import Function, passed
from mamlpp.checks.inputs import check, generator, pick, uniform
from mamlpp.checks.judging import judge_trials
from mamlpp.checks.problem import Weights, draw_problem, gradients_of, model

Gradients = list[Tensor]


def _norm(gradients: Gradients) -> Tensor:
    return torch.stack([g.square().sum() for g in gradients]).sum().sqrt()


def _shortened(
    size: Callable[[Gradients], Tensor] = _norm,
    share: Callable[[Tensor, float], Any] = lambda size, limit: (limit / size).clamp(max=1),
) -> Callable[[Gradients, float], Gradients]:
    """Multiply all gradients by the share that `share(their size, the limit)` says."""

    def shorten(gradients: Gradients, limit: float) -> Gradients:
        factor = share(size(gradients), limit)
        return [factor * g for g in gradients]

    return shorten


def _clipped(
    shorten: Callable[[Gradients, float], Gradients] = _shortened(),  # noqa: B008
    change: Callable[[Tensor, Tensor, float], Tensor] = lambda w, g, rate: w - rate * g,
    create_graph: bool = True,
) -> Function:
    """A step along shortened gradients; `change` makes a weight from itself, its gradient, α."""

    def step(loss: Tensor, weights: Weights, rate: float, limit: float) -> Weights:
        gradients = list(gradients_of(loss, weights, create_graph).values())
        pairs = zip(weights.items(), shorten(gradients, limit), strict=True)
        return {name: change(w, g, rate) for (name, w), g in pairs}

    return step


def _of_each_tensor(gradients: Gradients, limit: float) -> Gradients:
    return [_shortened()([g], limit)[0] for g in gradients]


def _of_the_weights(loss: Tensor, weights: Weights, rate: float, limit: float) -> Weights:
    size = _norm(list(weights.values()))
    return _clipped(_shortened(lambda gradients: size))(loss, weights, rate, limit)


_CLIP_MISTAKES: dict[str, Function] = {
    "the numbers are right, but the length of the gradient entered as a constant (.item(), float() "
    "or .detach()): it depends on θ, too": _clipped(
        _shortened(share=lambda size, limit: min(1.0, limit / size.item()))
    ),
    "the numbers are right, but the gradient entered as a constant: the outer loop needs "
    "create_graph=True": _clipped(create_graph=False),
    "the old weight enters the step as a constant (weight.detach())": _clipped(
        change=lambda w, g, rate: w.detach() - rate * g
    ),
    "the new weights are cut off from the old ones (.detach(), .data or no_grad)": _clipped(
        change=lambda w, g, rate: (w - rate * g).detach().requires_grad_()
    ),
    "a short gradient is made longer: leave it as it is if it is not longer than `limit`": _clipped(
        _shortened(share=lambda size, limit: limit / size)
    ),
    "the other way round: it lengthens short gradients, and leaves long ones as they are": _clipped(
        _shortened(share=lambda size, limit: (limit / size).clamp(min=1))
    ),
    "the gradient is never shortened: if it is longer than `limit`, multiply it by limit / its "
    "length": _clipped(_shortened(share=lambda size, limit: 1.0)),
    "a long gradient is dropped: shorten it to `limit`": _clipped(
        _shortened(share=lambda size, limit: (size <= limit).to(size))
    ),
    "it shortens each tensor on its own, which turns the gradient: take one length of all of them, "
    "and one factor": _clipped(_of_each_tensor),
    "it clips each number on its own, which turns the gradient: take the length of all of them": (
        _clipped(lambda gradients, limit: [g.clamp(-limit, limit) for g in gradients])
    ),
    "it adds the lengths of the single tensors: the length of all is the root of the sum of all "
    "squares": _clipped(_shortened(lambda g: torch.stack([t.norm() for t in g]).sum())),
    "it takes the longest of the single tensors: put all their squares together": _clipped(
        _shortened(lambda g: torch.stack([t.norm() for t in g]).max())
    ),
    "it takes the length of the first tensor alone: put the squares of all of them together": (
        _clipped(_shortened(lambda g: g[0].norm()))
    ),
    "it takes the length of the last tensor alone: put the squares of all of them together": (
        _clipped(_shortened(lambda g: g[-1].norm()))
    ),
    "it takes the squared length: the square root is missing": _clipped(
        _shortened(lambda g: _norm(g) ** 2)
    ),
    "it adds absolute values (the 1-norm): the length is the root of the sum of squares": _clipped(
        _shortened(lambda g: torch.stack([t.abs().sum() for t in g]).sum())
    ),
    "it takes the largest number of the gradient: the length counts all of them": _clipped(
        _shortened(lambda g: torch.stack([t.abs().max() for t in g]).max())
    ),
    "it takes the root of the mean of the squares: the length is the root of their sum": _clipped(
        _shortened(lambda g: _norm(g) / math.sqrt(sum(t.numel() for t in g)))
    ),
    "it measures the weights: the gradient is what is shortened": _of_the_weights,
    "it limits rate · gradient: the gradient itself is limited, and then multiplied by the rate": (
        lambda loss, weights, rate, limit: _clipped()(loss, weights, rate, limit / rate)
    ),
    "`limit` is an argument: it is not always 1": lambda loss, weights, rate, limit: _clipped()(
        loss, weights, rate, 1.0
    ),
    "the step goes up the loss: subtract the gradient, do not add it": _clipped(
        change=lambda w, g, rate: w + rate * g
    ),
    "the step is as long as the gradient: multiply the gradient by the rate": _clipped(
        change=lambda w, g, rate: w - g
    ),
    "it returns the gradients, not the weights after a step along them": _clipped(
        change=lambda w, g, rate: g
    ),
    "it returns a list: return a dict, each weight under its own name": lambda *inputs: list(
        _clipped()(*inputs).values()
    ),
}


@check
def clipped_step(student: Function, seed: int = 0) -> None:
    """Exercise 2.1: `clipped_step(loss, weights, rate, limit)`: the gradient is at most so long.

    Of the four gradients one is shorter than the limit. The others are in float32, so that what
    is added to the length against a division by 0 makes no difference.
    """

    def inputs(number: int, share: float, dtype: torch.dtype) -> tuple[Any, ...]:
        weights, x, y, rate = draw_problem(10 * seed + number, dtype)
        loss = F.cross_entropy(model(weights, x), y)
        length = _norm(list(gradients_of(loss, weights).values())).item()
        return loss, weights, rate, round(share * length, 3)

    kinds = (
        (0.4, torch.float32),
        (2.5, torch.float64),
        (0.9, torch.float32),
        (0.02, torch.float32),
    )
    trials = [partial(inputs, i, *kind) for i, kind in enumerate(kinds)]
    judge_trials(student, trials, _clipped(), _CLIP_MISTAKES)
    passed(student)


def _growth(
    total: Callable[[list[float], int], float] = lambda sizes, steps: max(sizes) ** steps,
    factor: Callable[[float, float], float] = lambda rate, curvature: abs(1 - rate * curvature),
    choose: Callable[[list[float]], list[float]] = lambda curvatures: curvatures,
) -> Function:
    """The growth from each direction's factor, of those curvatures that are chosen."""

    def growth(curvatures: list[float], rate: float, steps: int) -> float:
        return total([factor(rate, curvature) for curvature in choose(curvatures)], steps)

    return growth


_GROWTH_MISTAKES: dict[str, Function] = {
    "it never goes below 1: if all factors are below 1, the gradient shrinks": _growth(
        lambda sizes, steps: max(1.0, max(sizes)) ** steps
    ),
    "the power is one too low: N steps multiply N times": _growth(
        lambda sizes, steps: max(sizes) ** (steps - 1)
    ),
    "the power is one too high: N steps multiply N times": _growth(
        lambda sizes, steps: max(sizes) ** (steps + 1)
    ),
    "it takes the direction that shrinks the most: the largest factor is asked for": _growth(
        lambda sizes, steps: min(sizes) ** steps
    ),
    "it looks at the curvature of largest size alone, but 1 − αλ may be larger for another one": (
        _growth(choose=lambda curvatures: [max(curvatures, key=abs)])
    ),
    "it looks at the largest curvature alone: a negative one makes the gradient grow too": (
        _growth(choose=lambda curvatures: [max(curvatures)])
    ),
    "it looks at the smallest curvature alone (is abs() outside of max()?): a large one makes the "
    "gradient grow too": (_growth(choose=lambda curvatures: [min(curvatures)])),
    "it looks at the first curvature alone: compare all of them": _growth(
        choose=lambda curvatures: curvatures[:1]
    ),
    "1 − αλ below −1 makes the gradient grow as well: take absolute values": _growth(
        factor=lambda rate, curvature: 1 - rate * curvature
    ),
    "the factor of a step is |1 − αλ|: check the sign of αλ": _growth(
        factor=lambda rate, curvature: abs(1 + rate * curvature)
    ),
    "the factor of a step is |1 − αλ|, not |αλ|": _growth(
        factor=lambda rate, curvature: abs(rate * curvature)
    ),
    "the rate is missing: the factor is 1 − αλ, not 1 − λ": _growth(
        factor=lambda rate, curvature: abs(1 - curvature)
    ),
    "N steps multiply: raise the factor to the power of N, do not multiply it by N": _growth(
        lambda sizes, steps: max(sizes) * steps
    ),
    "this is the growth over a single step: raise it to the power of N": _growth(
        lambda sizes, steps: max(sizes)
    ),
    "it squares the factor: a norm grows by the factor itself": _growth(
        lambda sizes, steps: max(sizes) ** (2 * steps)
    ),
    "it averages the directions: the worst one alone is asked for": _growth(
        lambda sizes, steps: (sum(sizes) / len(sizes)) ** steps
    ),
    "take the absolute value of 1 − αλ, not of λ": _growth(
        factor=lambda rate, curvature: 1 - rate * abs(curvature)
    ),
    "it adds up all directions: the worst one alone is asked for": _growth(
        lambda sizes, steps: sum(size**steps for size in sizes)
    ),
    "it multiplies the directions with each other: each stays on its own, and the worst one wins": (
        _growth(lambda sizes, steps: math.prod(sizes) ** steps)
    ),
    "the absolute value belongs to the factor 1 − αλ, not to λ": lambda curvatures, rate, steps: (
        max(abs(1 - rate * abs(c)) for c in curvatures) ** steps
    ),
    "the rate multiplies the curvature: do not divide by it": lambda curvatures, rate, steps: (
        max(abs(1 - c / rate) for c in curvatures) ** steps
    ),
}


@check
def growth(student: Function, seed: int = 0) -> None:
    """Exercise 2.2: `growth(curvatures, rate, steps)` is the largest |1 − αλ|^N."""
    draw = generator(seed)
    trials: list[tuple[Any, ...]] = [([2.0, -0.5], 0.3, 2), ([4.0, 6.0], 0.4, 3)]
    for low, high, steps in ((-0.5, 9.0, 3), (-4.0, 3.0, 5), (0.5, 2.5, 3), (0.5, 8.5, 1)):
        middle = [uniform(draw, 0.2, 0.9), uniform(draw, 1.0, 1.9)]
        trials.append(([*middle, high, low], pick(draw, [0.3, 0.35, 0.38]), steps))
    judge_trials(student, trials, _growth(), _GROWTH_MISTAKES)
    passed(student)
