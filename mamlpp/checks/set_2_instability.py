"""Checks of set 2: the size of the gradient on its way back (2.1 and 2.2)."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mamlpp.checks.core import Function, passed
from mamlpp.checks.inputs import check, generator, normal, pick, uniform
from mamlpp.checks.judging import judge_trials
from mamlpp.checks.problem import Weights, draw_problem, model, path_of

Path = list[Weights]


def _norm(tensors: Sequence[Tensor]) -> float:
    return math.sqrt(sum(tensor.square().sum().item() for tensor in tensors))


def _of_gradients(size: Callable[[Sequence[Tensor]], Any]) -> Function:
    """Put the gradients with respect to each θ_i on the path through `size`."""

    def sizes(loss: Tensor, path: Path) -> list[Any]:
        return [
            size(torch.autograd.grad(loss, list(weights.values()), retain_graph=True))
            for weights in path
        ]

    return sizes


_norms = _of_gradients(_norm)

_NORM_MISTAKES: dict[str, Function] = {
    "these are the squared norms: the square root is missing": _of_gradients(
        lambda tensors: _norm(tensors) ** 2
    ),
    "it adds the norms of the single tensors: the norm of all together is the root of the sum of "
    "their squares": _of_gradients(lambda tensors: sum(t.norm().item() for t in tensors)),
    "it takes the largest norm of the single tensors: put all their squares together": (
        _of_gradients(lambda tensors: max(t.norm().item() for t in tensors))
    ),
    "it takes the mean of the single tensors' norms: put all their squares together": (
        _of_gradients(lambda tensors: sum(t.norm().item() for t in tensors) / len(tensors))
    ),
    "it looks at the first tensor of each θ_i alone: all of them belong to θ_i": _of_gradients(
        lambda tensors: tensors[0].norm().item()
    ),
    "it looks at the last tensor of each θ_i alone: does `append` stand in the wrong loop?": (
        _of_gradients(lambda tensors: tensors[-1].norm().item())
    ),
    "it adds absolute values (the 1-norm): the 2-norm adds squares and takes the root": (
        _of_gradients(lambda tensors: sum(t.abs().sum().item() for t in tensors))
    ),
    "it takes the root of the mean of the squares: the norm is the root of their sum": (
        _of_gradients(lambda tensors: _norm(tensors) / math.sqrt(sum(t.numel() for t in tensors)))
    ),
    "it returns a norm for each tensor: one number for each θ_i is asked for": _of_gradients(
        lambda tensors: [t.norm().item() for t in tensors]
    ),
    "it differentiates with respect to θ_0 every time: use each θ_i of the path": (
        lambda loss, path: _norms(loss, path[:1] * len(path))
    ),
    "it adds the norms up on its way: one for each θ_i on its own is asked for": (
        lambda loss, path: list(accumulate(_norms(loss, path)))
    ),
    "the list ends after one θ_i: does `return` stand inside the loop?": (
        lambda loss, path: _norms(loss, path[:1])
    ),
    "it takes the largest number of the gradient: the norm counts all of them": _of_gradients(
        lambda tensors: max(t.abs().max().item() for t in tensors)
    ),
    "the order is the path's: θ_0 first, θ_N last": lambda loss, path: _norms(loss, path)[::-1],
    "the gradient with respect to θ_0 is missing: it is the meta-gradient": (
        lambda loss, path: _norms(loss, path)[1:]
    ),
    "the gradient with respect to θ_N is missing: the loss was computed there": (
        lambda loss, path: _norms(loss, path)[:-1]
    ),
    "it returns the meta-gradient's norm alone: one number for each θ_i is asked for": (
        lambda loss, path: _norms(loss, path)[0]
    ),
    "these are the norms of the weights, not of the gradients": lambda loss, path: [
        _norm(list(weights.values())) for weights in path
    ],
}


@check
def gradient_norms(student: Function, seed: int = 0) -> None:
    """Exercise 2.1: `gradient_norms(loss, path)`: the norm of d loss / dθ_i for each θ_i."""

    def inputs(steps: int) -> tuple[Any, ...]:
        weights, x, y, rate = draw_problem(10 * seed + steps)
        path = path_of(weights, x, y, rate, steps)
        query = normal(generator(seed + 100), *x.shape)
        return F.cross_entropy(model(path[-1], query), y), path

    trials = [partial(inputs, steps) for steps in (2, 1, 4)]
    judge_trials(student, trials, _norms, _NORM_MISTAKES, gradients=False)
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
