"""Checks of set 6: Meta-SGD (Li et al. 2017), and what tells a rate to grow (6.3 and 6.4)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mamlpp.checks.core import Function, passed
from mamlpp.checks.inputs import check, generator, normal
from mamlpp.checks.judging import judge_trials
from mamlpp.checks.set_6_inner_rates import NAMES, Shapes, Weights, leaves


def _meta_sgd(change: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Function:
    """A step that makes each new weight from the weight, its rates and its gradient."""

    def step(weights: Weights, gradients: Weights, rates: Weights) -> Weights:
        return {name: change(w, rates[name], gradients[name]) for name, w in weights.items()}

    return step


_META_SGD_MISTAKES: dict[str, Function] = {
    "the step goes up: subtract": _meta_sgd(lambda w, rate, g: w + rate * g),
    "it uses one rate for a tensor, the mean: multiply number by number": _meta_sgd(
        lambda w, rate, g: w - rate.mean() * g
    ),
    "it uses one rate for a tensor, the first: multiply number by number": _meta_sgd(
        lambda w, rate, g: w - rate.flatten()[0] * g
    ),
    "it subtracts one inner product from all weights: multiply number by number, without a sum": (
        _meta_sgd(lambda w, rate, g: w - (rate * g).sum())
    ),
    "it takes the rates' absolute values: Meta-SGD's rates may be negative": _meta_sgd(
        lambda w, rate, g: w - rate.abs() * g
    ),
    "it clips the rates at zero: Meta-SGD's rates may be negative": _meta_sgd(
        lambda w, rate, g: w - rate.clamp(min=0) * g
    ),
    "it returns the change, not the changed weights": _meta_sgd(lambda w, rate, g: -rate * g),
    "the rates multiply the weights: they belong to the gradients": _meta_sgd(
        lambda w, rate, g: rate * w - g
    ),
    "the rates are missing": _meta_sgd(lambda w, rate, g: w - g),
    "the gradients are missing": _meta_sgd(lambda w, rate, g: w - rate),
    "the numbers are right, but the rates entered as plain numbers (.detach(), .data), so that no "
    "gradient reaches them and they never learn": _meta_sgd(
        lambda w, rate, g: w - rate.detach() * g
    ),
    "the numbers are right, but the weights entered as constants (.detach() or .data): nothing "
    "gets back to θ": _meta_sgd(lambda w, rate, g: w.detach() - rate * g),
    "the numbers are right, but the gradients entered as constants (.detach() or .data): that is "
    "first-order MAML": _meta_sgd(lambda w, rate, g: w - rate * g.detach()),
    "it returns a list: return a dict, each weight under its own name": (
        lambda weights, gradients, rates: [w - rates[n] * gradients[n] for n, w in weights.items()]
    ),
}


@check
def meta_sgd_step(student: Function, seed: int = 0) -> None:
    """Exercise 6.3: `meta_sgd_step(weights, gradients, rates)`, a rate for each single weight."""

    def inputs(names: str, dtype: torch.dtype) -> tuple[Any, ...]:
        draw = generator(seed)
        return tuple(leaves(draw, NAMES[names], dtype) for _ in range(3))

    kinds = (("plain", torch.float64), ("nested", torch.float32), ("scattered", torch.float64))
    trials = [partial(inputs, *kind) for kind in kinds]
    right = _meta_sgd(lambda w, rate, g: w - rate * g)
    judge_trials(student, trials, right, _META_SGD_MISTAKES)
    passed(student)


def _of_vectors(formula: Callable[[Tensor, Tensor], Any]) -> Function:
    """A number from the two gradients, each as one long vector."""

    def rate_gradient(query: Weights, support: Weights) -> Any:
        vectors = [torch.cat([g[name].flatten() for name in query]) for g in (query, support)]
        return float(formula(*vectors))

    return rate_gradient


def _products(query: Weights, support: Weights) -> dict[str, float]:
    return {name: -(query[name] * support[name]).sum().item() for name in query}


_RATE_GRADIENT_MISTAKES: dict[str, Function] = {
    "the sign: θ' = θ − α·g falls along g as α grows": _of_vectors(lambda q, s: q @ s),
    "it is the cosine of the angle: the lengths of both gradients count too": _of_vectors(
        lambda q, s: -(q @ s) / q.norm() / s.norm()
    ),
    "it divides by the length of one gradient: the lengths of both count": _of_vectors(
        lambda q, s: -(q @ s) / s.norm()
    ),
    "α is one number for all weights: add up over all tensors, not the first alone": (
        lambda q, s: next(iter(_products(q, s).values()))
    ),
    "α is one number for all weights: add up over all tensors, not the last alone": (
        lambda q, s: list(_products(q, s).values())[-1]
    ),
    "it returns a number for each tensor: α is one number for all, so add them up": _products,
    "it takes the mean over the weights: each adds its whole part": _of_vectors(
        lambda q, s: -(q * s).mean()
    ),
    "it multiplies the lengths: it is the products of the single numbers that are added": (
        _of_vectors(lambda q, s: -q.norm() * s.norm())
    ),
    "it multiplies the sums: multiply number by number first, then add up": _of_vectors(
        lambda q, s: -q.sum() * s.sum()
    ),
    "it takes absolute values: where the gradients disagree, the product is negative": _of_vectors(
        lambda q, s: -(q * s).abs().sum()
    ),
    "it is the square of the support gradient: the chain rule starts from the query gradient": (
        _of_vectors(lambda q, s: -(s @ s))
    ),
    "it is the square of the query gradient: dθ'/dα is minus the support gradient": _of_vectors(
        lambda q, s: -(q @ q)
    ),
    "it adds up the query gradient alone: dθ'/dα is minus the support gradient": _of_vectors(
        lambda q, s: -q.sum()
    ),
}


@check
def rate_gradient(student: Function, seed: int = 0) -> None:
    """Exercise 6.4: `rate_gradient(query, support)`: d query loss(θ − α·support) / dα.

    `query` and `support` are dicts of gradients, at θ' and at θ.
    """
    draw = generator(seed)
    shapes: list[Shapes] = [{"head.weight": (1, 2), "head.bias": (1,)}, *NAMES.values()]
    trials = [
        tuple({n: normal(draw, *s) for n, s in part.items()} for _ in range(2)) for part in shapes
    ]
    judge_trials(student, trials, _of_vectors(lambda q, s: -(q @ s)), _RATE_GRADIENT_MISTAKES)
    passed(student)
