"""Checks of set 6: counting rates, and LSLR (6.1 and 6.2; the paper, section 4)."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from mamlpp.checks.compare import same
from mamlpp.checks.core import Function, passed
from mamlpp.checks.inputs import check, generator, normal, pick
from mamlpp.checks.judging import judge_trials
from mamlpp.inner_rates import LSLR, MetaSGD, layer_of

Weights = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]

# Names are nested, layers have one to three tensors, and not all of a layer's stand together.
NAMES = {
    "plain": {"body.weight": (4, 3), "body.bias": (4,), "head.weight": (2, 4), "head.bias": (2,)},
    "nested": {
        "blocks.0.conv.weight": (4, 1, 3, 3),
        "blocks.0.linear.weight": (5, 4),
        "blocks.0.linear.bias": (5,),
        "blocks.1.conv.weight": (4, 2),
        "blocks.1.conv.bias": (4,),
        "blocks.1.conv.gate": (4,),
        "head.weight": (3, 5),
    },
    "scattered": {
        "stem.weight": (4, 3),
        "head.weight": (2, 4),
        "stem.bias": (4,),
        "temperature.scale": (1,),
        "head.bias": (2,),
    },
}


def _layers(names: Any) -> list[str]:
    return list(dict.fromkeys(map(layer_of, names)))


def _numbers(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def _counts(
    lslr: Callable[[Shapes, int], int] = lambda s, n: len(_layers(s)) * n,
    meta_sgd: Callable[[Shapes, int], int] = lambda s, n: _numbers(s),
) -> Function:
    """How many rates the two learn, each in its own way."""

    def numbers_learned(shapes: Shapes, steps: int) -> tuple[int, int]:
        return lslr(shapes, steps), meta_sgd(shapes, steps)

    return numbers_learned


def _without_usual_ends(name: str) -> str:
    return name.replace(".weight", "").replace(".bias", "")


def _built(shapes: Shapes, steps: int) -> tuple[int, int]:
    """The right answer, by building both."""
    tensors = {name: torch.zeros(shape) for name, shape in shapes.items()}
    rules = LSLR(tensors, steps, 0.1), MetaSGD(tensors, 0.1)
    lslr, meta_sgd = (sum(p.numel() for p in rule.parameters()) for rule in rules)
    return lslr, meta_sgd


_COUNT_MISTAKES: dict[str, Function] = {
    "LSLR has one rate for a layer, which its tensors share: yours has one for each tensor, as "
    "published code does": _counts(lambda s, n: len(s) * n),
    "a layer may have one tensor or three: count the layers' names instead of halving the number "
    "of tensors": _counts(lambda s, n: len(s) // 2 * n),
    "a layer may have one tensor or three: count the layers' names instead of rounding up half of "
    "the number of tensors": _counts(lambda s, n: math.ceil(len(s) / 2) * n),
    "a layer may have no tensor called weight: count the layers' names": _counts(
        lambda s, n: sum(name.endswith("weight") for name in s) * n
    ),
    "the layer of 'blocks.0.conv.weight' is 'blocks.0.conv': yours ends at the first dot": _counts(
        lambda s, n: len({name.split(".")[0] for name in s}) * n
    ),
    "the layer of 'blocks.0.conv.weight' is 'blocks.0.conv': yours takes one word of it": _counts(
        lambda s, n: len({name.split(".")[-2] for name in s}) * n
    ),
    "a layer may have other tensors than weight and bias: its name is what comes before the last "
    "dot": _counts(lambda s, n: len({_without_usual_ends(name) for name in s}) * n),
    "LSLR learns rates for the N steps that are taken: yours has N + 1, as published code does": (
        _counts(lambda s, n: len(_layers(s)) * (n + 1))
    ),
    "LSLR has a rate for each layer AND step": _counts(lambda s, n: len(_layers(s))),
    "LSLR has a rate for each layer and step, which are multiplied, not added": _counts(
        lambda s, n: len(_layers(s)) + n
    ),
    "LSLR has one rate for each layer and step, not one for each weight and step": _counts(
        lambda s, n: _numbers(s) * n
    ),
    "Meta-SGD uses the same rates at all steps": _counts(meta_sgd=lambda s, n: _numbers(s) * n),
    "Meta-SGD has a rate for each single weight: multiply the sizes in a shape, do not add them": (
        _counts(meta_sgd=lambda s, n: sum(map(sum, s.values())))
    ),
    "Meta-SGD has a rate for each single weight, not for each tensor": _counts(
        meta_sgd=lambda s, n: len(s)
    ),
    "Meta-SGD has rates for biases too": _counts(
        meta_sgd=lambda s, n: _numbers({k: v for k, v in s.items() if not k.endswith("bias")})
    ),
    "the two are swapped: LSLR comes first": lambda s, n: _counts()(s, n)[::-1],
}


@check
def numbers_learned(student: Function, seed: int = 0) -> None:
    """Exercise 6.1: `numbers_learned(shapes, steps)`: how many rates LSLR and Meta-SGD learn."""
    draw = generator(seed)
    trials: list[tuple[Any, ...]] = [({"head.weight": (2, 3), "head.bias": (2,)}, 5)]
    trials += [(shapes, pick(draw, [2, 3, 4, 6])) for shapes in NAMES.values()]
    trials.append((NAMES["nested"], 1))
    trials.append(({"stem.weight": (3, 2), "middle.weight": (3, 3), "head.weight": (2, 3)}, 2))
    judge_trials(student, trials, _built, _COUNT_MISTAKES)
    passed(student)


def leaves(draw: torch.Generator, shapes: Shapes, dtype: torch.dtype) -> Weights:
    """Random tensors of these shapes that require a gradient."""
    return {n: normal(draw, *s, dtype=dtype, requires_grad=True) for n, s in shapes.items()}


def _lslr(
    rate: Callable[[Tensor, int, int], Any],
    change: Callable[[Tensor, Any, Tensor], Tensor] = lambda w, rate, g: w - rate * g,
    row: Callable[[list[str], str], int] = lambda names, name: _layers(names).index(layer_of(name)),
) -> Function:
    """A step whose rate is made from (rates, layer, step)."""

    def step(weights: Weights, gradients: Weights, rates: Tensor, step: int) -> Weights:
        picked = {name: rate(rates, row(list(weights), name), step) for name in weights}
        return {name: change(w, picked[name], gradients[name]) for name, w in weights.items()}

    return step


def _rate(rates: Tensor, layer: int, step: int) -> Tensor:
    return rates[layer, step]


_LSLR_MISTAKES: dict[str, Function] = {
    "the step goes up: subtract": _lslr(_rate, lambda w, rate, g: w + rate * g),
    "rows are layers and columns are steps: yours reads rates[step, layer]": _lslr(
        lambda rates, layer, step: rates[step, layer]
    ),
    "it always uses the rates of step 0: `step` says which column": _lslr(
        lambda rates, layer, step: rates[layer, 0]
    ),
    "it always uses the rates of the last step: `step` says which column": _lslr(
        lambda rates, layer, step: rates[layer, -1]
    ),
    "it uses the rates of the step before: steps are counted from 0, so `step` is the column": (
        _lslr(lambda rates, layer, step: rates[layer, step - 1])
    ),
    "it uses the rates of the step after: steps are counted from 0, so `step` is the column": (
        _lslr(lambda rates, layer, step: rates[layer, step + 1])
    ),
    "it averages the rates over the steps: each step has its own": _lslr(
        lambda rates, layer, step: rates[layer].mean()
    ),
    "it uses the first layer's rates for all layers": _lslr(
        lambda rates, layer, step: rates[0, step]
    ),
    "it counts tensors where it should count layers: the tensors of a layer share a row": _lslr(
        _rate, row=lambda names, name: names.index(name)
    ),
    "it takes two tensors for a layer: a layer may have one or three": _lslr(
        _rate, row=lambda names, name: names.index(name) // 2
    ),
    "it sorts the layers: the rows are in the order in which the layers first appear": _lslr(
        _rate, row=lambda names, name: sorted(_layers(names)).index(layer_of(name))
    ),
    "it loses the order of the layers: the rows are in the order in which the layers last appear": (
        _lslr(_rate, row=lambda names, name: _layers(names[::-1])[::-1].index(layer_of(name)))
    ),
    "the layer of 'blocks.0.conv.weight' is 'blocks.0.conv': yours ends at the first dot": _lslr(
        _rate,
        row=lambda names, name: list(dict.fromkeys(n.split(".")[0] for n in names)).index(
            name.split(".")[0]
        ),
    ),
    "the gradients are missing: the rate times the gradient is subtracted": _lslr(
        _rate, lambda w, rate, g: w - rate
    ),
    "it returns the change, not the changed weights": _lslr(_rate, lambda w, rate, g: -rate * g),
    "the numbers are right, but the rates entered as plain numbers (.item(), .tolist(), "
    ".detach()), so that no gradient reaches them and they never learn": _lslr(
        lambda rates, layer, step: rates[layer, step].item()
    ),
    "the numbers are right, but the weights entered as constants (.detach() or .data): nothing "
    "gets back to θ": _lslr(_rate, lambda w, rate, g: w.detach() - rate * g),
    "the numbers are right, but the gradients entered as constants (.detach() or .data): that is "
    "first-order MAML": _lslr(_rate, lambda w, rate, g: w - rate * g.detach()),
}


def _other_order(inputs: tuple[Any, ...], found: Any) -> str | None:
    """What to say where the rows belong to the layers in any other order."""
    weights, _, _, _ = inputs
    names = _layers(weights)
    for order in permutations(names):

        def row(_: list[str], name: str, order: Sequence[str] = order) -> int:
            return order.index(layer_of(name))

        if list(order) != names and same(found, _lslr(_rate, row=row)(*inputs)):
            return (
                "the layers are in another order than they first appear in: a set has no order, "
                "dict.fromkeys keeps it"
            )
    return None


@check
def lslr_step(student: Function, seed: int = 0) -> None:
    """Exercise 6.2: `lslr_step(weights, gradients, rates, step)`, rates `[L, S]`."""

    def inputs(names: str, step: int, steps: int, dtype: torch.dtype) -> tuple[Any, ...]:
        draw, shapes = generator(seed), NAMES[names]
        weights, gradients = leaves(draw, shapes, dtype), leaves(draw, shapes, dtype)
        size = len(_layers(shapes)), steps
        return weights, gradients, normal(draw, *size, dtype=dtype, requires_grad=True), step

    kinds: list[Any] = [
        ("plain", 1, 4, torch.float64),
        ("scattered", 2, 4, torch.float64),
        ("nested", 0, 3, torch.float32),
        ("plain", 2, 3, torch.float64),
    ]
    trials = [partial(inputs, *kind) for kind in kinds]
    judge_trials(student, trials, _lslr(_rate), _LSLR_MISTAKES, _other_order)
    passed(student)
