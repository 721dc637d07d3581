"""Checks of set 6: learned rates, Meta-SGD (Li et al. 2017) and LSLR (the paper, section 4)."""

import math
from typing import Any

import torch
from torch import Tensor

from mamlpp.checks.core import (
    Function,
    Wrong,
    attempt,
    generator,
    judge,
    judge_trials,
    name_of,
    normal,
    passed,
    pick,
)
from mamlpp.inner_rates import LSLR, MetaSGD, layer_of

Weights = dict[str, Tensor]


def _shapes(filters: int, ways: int) -> dict[str, tuple[int, ...]]:
    return {
        "body.weight": (filters, 3),
        "middle.weight": (filters, filters),
        "middle.bias": (filters,),
        "head.weight": (ways, filters),
        "head.bias": (ways,),
    }


def numbers_learned(student: Function, seed: int = 0) -> None:
    """Exercise 6.1: `numbers_learned(shapes, steps)`: how many rates LSLR and Meta-SGD learn."""
    draw = generator(seed)
    trials = [(_shapes(pick(draw, [4, 5]), pick(draw, [5, 6])), steps) for steps in (1, 3, 5)]

    def layers(shapes: dict) -> int:
        return len({layer_of(name) for name in shapes})

    def weights(shapes: dict) -> int:
        return sum(math.prod(shape) for shape in shapes.values())

    judge_trials(
        student,
        trials,
        _counted,
        {
            "LSLR has one rate for a layer, which its weight and bias share: yours has one for "
            "each tensor, as published code does": lambda s, n: (len(s) * n, weights(s)),
            "LSLR learns rates for the N steps that are taken: yours has N + 1, as published code "
            "does": lambda s, n: (layers(s) * (n + 1), weights(s)),
            "LSLR has a rate for each layer AND step": lambda s, n: (layers(s), weights(s)),
            "Meta-SGD uses the same rates at all steps": lambda s, n: (
                layers(s) * n,
                weights(s) * n,
            ),
            "Meta-SGD has a rate for each single weight: multiply a shape, do not add it": (
                lambda s, n: (layers(s) * n, sum(map(sum, s.values())))
            ),
            "Meta-SGD has a rate for each single weight, not for each tensor": (
                lambda s, n: (layers(s) * n, len(s))
            ),
            "the two are swapped: LSLR first": lambda s, n: (weights(s), layers(s) * n),
        },
    )
    passed(student)


def _counted(shapes: dict[str, tuple[int, ...]], steps: int) -> tuple[int, int]:
    """By building them."""
    tensors = {name: torch.zeros(shape) for name, shape in shapes.items()}
    rules = LSLR(tensors, steps, 0.1), MetaSGD(tensors, 0.1)
    lslr, meta_sgd = (sum(p.numel() for p in rule.parameters()) for rule in rules)
    return lslr, meta_sgd


def _weights_and_gradients(draw: torch.Generator) -> tuple[Weights, Weights]:
    shapes = _shapes(4, 5)
    weights = {name: normal(draw, *shape) for name, shape in shapes.items()}
    return weights, {name: normal(draw, *shape) for name, shape in shapes.items()}


def _moved(weights: Weights, gradients: Weights, rates: dict[str, Any]) -> Weights:
    return {n: w - rates[n] * gradients[n] for n, w in weights.items()}


def _check_learns(student: Function, found: Weights, rates: list[Tensor]) -> None:
    """A gradient must reach the rates."""
    total = torch.stack([w.square().sum() for w in found.values()]).sum()
    if not total.requires_grad or not any(
        g is not None and g.any()
        for g in torch.autograd.grad(total, rates, allow_unused=True, retain_graph=True)
    ):
        raise Wrong(
            f"{name_of(student)}: the numbers are right, but the rates entered as plain numbers "
            f"(.item(), .tolist(), detach), so no gradient reaches them and they never learn"
        )


def lslr_step(student: Function, seed: int = 0) -> None:
    """Exercise 6.2: `lslr_step(weights, gradients, rates, step)`, rates `[L, S]`."""
    draw = generator(seed)
    layers = ["body", "middle", "head"]
    for step in (2, 1, 0):
        weights, gradients = _weights_and_gradients(draw)
        rates = normal(draw, 3, 3, requires_grad=True)

        def by(picked: Tensor, names: tuple[str, ...] = tuple(weights)) -> dict[str, Tensor]:
            return {n: picked[layers.index(layer_of(n))] for n in names}

        right = by(rates[:, step])
        by_tensor = {n: rates[i % 3, step] for i, n in enumerate(weights)}
        found = attempt(student, weights, gradients, rates, step)
        mistakes = {
            "the step goes up: subtract": _moved(
                weights, gradients, {n: -r for n, r in right.items()}
            ),
            "rows are layers and columns are steps: yours reads rates[step, layer]": _moved(
                weights, gradients, by(rates[step])
            ),
            "it always uses the rates of step 0": _moved(weights, gradients, by(rates[:, 0])),
            "it uses the rates of another step: steps are counted from 0": _moved(
                weights, gradients, by(rates[:, step - 1])
            ),
            "it averages the rates over the steps: each step has its own": _moved(
                weights, gradients, by(rates.mean(1))
            ),
            "it counts tensors where it should count layers: a layer's weight and bias share a "
            "row": _moved(weights, gradients, by_tensor),
            "the gradients are missing: α times the gradient is subtracted": {
                n: w - right[n] for n, w in weights.items()
            },
        }
        judge(student, found, _moved(weights, gradients, right), mistakes)
        _check_learns(student, found, [rates])
    passed(student)


def meta_sgd_step(student: Function, seed: int = 0) -> None:
    """Exercise 6.3: `meta_sgd_step(weights, gradients, rates)`, a rate for each single weight."""
    draw = generator(seed)
    for _ in range(2):
        weights, gradients = _weights_and_gradients(draw)
        rates = {n: normal(draw, *w.shape, requires_grad=True) for n, w in weights.items()}
        found = attempt(student, weights, gradients, rates)
        mistakes = {
            "the step goes up: subtract": _moved(
                weights, gradients, {n: -r for n, r in rates.items()}
            ),
            "it uses one rate a tensor, the mean: multiply number by number": _moved(
                weights, gradients, {n: r.mean() for n, r in rates.items()}
            ),
            "it takes the rates' absolute values: Meta-SGD's rates may be negative": _moved(
                weights, gradients, {n: r.abs() for n, r in rates.items()}
            ),
            "it clips the rates at zero: Meta-SGD's rates may be negative": _moved(
                weights, gradients, {n: r.clamp(min=0) for n, r in rates.items()}
            ),
            "it is the change, not the changed weights": {
                n: -rates[n] * gradients[n] for n in weights
            },
            "the rates multiply the weights: they belong to the gradients": {
                n: rates[n] * w - gradients[n] for n, w in weights.items()
            },
        }
        judge(student, found, _moved(weights, gradients, rates), mistakes)
        _check_learns(student, found, list(rates.values()))
    passed(student)


def rate_gradient(student: Function, seed: int = 0) -> None:
    """Exercise 6.4: `rate_gradient(query, support)`: d query loss(θ − α·support) / dα.

    `query` and `support` are dicts of gradients, at θ' and at θ.
    """
    draw = generator(seed)
    trials = [_weights_and_gradients(draw) for _ in range(3)]

    def products(q: Weights, s: Weights) -> dict[str, Tensor]:
        return {n: (q[n] * s[n]).sum() for n in q}

    def length(g: Weights) -> float:
        return math.sqrt(sum(part.square().sum().item() for part in g.values()))

    def inner(q: Weights, s: Weights) -> float:
        return sum(part.item() for part in products(q, s).values())

    judge_trials(
        student,
        trials,
        lambda q, s: -inner(q, s),
        {
            "the sign: θ' = θ − α·g falls along g as α grows": inner,
            "it is the cosine of the angle: the lengths of both gradients count too": (
                lambda q, s: -inner(q, s) / length(q) / length(s)
            ),
            "α is one number for all weights: add up over all tensors, not the first alone": (
                lambda q, s: -next(iter(products(q, s).values())).item()
            ),
            "it gives a number for each tensor: α is one number for all, so add them up": (
                lambda q, s: {n: -part.item() for n, part in products(q, s).items()}
            ),
            "it takes the mean over the weights: each adds its whole part": lambda q, s: (
                -inner(q, s) / sum(part.numel() for part in q.values())
            ),
            "it multiplies the lengths: it is the products of the single numbers that are added": (
                lambda q, s: -length(q) * length(s)
            ),
        },
    )
    passed(student)
