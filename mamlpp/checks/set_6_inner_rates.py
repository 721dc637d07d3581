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


# Names that are cut short where somebody strips letters off them.
_NORM = {"norm.scale": (3,), "norm.shift": (3,)}


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
    "both count tensors: Meta-SGD has a rate for each single weight": _counts(
        meta_sgd=lambda s, n: len(s) * n
    ),
    "Meta-SGD has rates for all tensors, not only for the first": _counts(
        meta_sgd=lambda s, n: math.prod(next(iter(s.values())))
    ),
    "Meta-SGD's rates take the place of LSLR's: they are not added to them": _counts(
        meta_sgd=lambda s, n: len(_layers(s)) * n + _numbers(s)
    ),
    "LSLR has a rate for each of the N steps: yours has N − 1": _counts(
        lambda s, n: len(_layers(s)) * (n - 1)
    ),
    "Meta-SGD has rates for biases too": _counts(
        meta_sgd=lambda s, n: _numbers({k: v for k, v in s.items() if not k.endswith("bias")})
    ),
    "the two are swapped: LSLR comes first": lambda s, n: _counts()(s, n)[::-1],
    "strip() and rstrip() take away single letters, not a word: use rpartition('.')": _counts(
        lambda s, n: len({name.rstrip(".weight").rstrip(".bias") for name in s}) * n
    ),
    "strip() and rstrip() take away any of these letters, not a word: use rpartition('.')": _counts(
        lambda s, n: len({name.rstrip("weightbias") for name in s}) * n  # noqa: B005
    ),
    "it cuts off seven letters: names end in .bias and others too, so use rpartition('.')": _counts(
        lambda s, n: len({name[:-7] for name in s}) * n
    ),
    "it counts the words after the last dot: the layer is what stands before it": _counts(
        lambda s, n: len({name.rpartition(".")[2] for name in s}) * n
    ),
    "LSLR has layers times steps rates, not layers to the power of steps": _counts(
        lambda s, n: len(_layers(s)) ** n
    ),
    "LSLR has a rate for each layer AND step: yours has one for each step": _counts(lambda s, n: n),
    "Meta-SGD: add the numbers of the tensors, do not multiply them": _counts(
        meta_sgd=lambda s, n: math.prod(map(math.prod, s.values()))
    ),
    "Meta-SGD has a rate for each single weight: yours counts dimensions": _counts(
        meta_sgd=lambda s, n: sum(map(len, s.values()))
    ),
    "Meta-SGD has a rate for each single weight: yours counts the first dimension alone": _counts(
        meta_sgd=lambda s, n: sum(shape[0] for shape in s.values())
    ),
}


@check
def numbers_learned(student: Function, seed: int = 0) -> None:
    """Exercise 6.1: `numbers_learned(shapes, steps)`: how many rates LSLR and Meta-SGD learn."""
    draw = generator(seed)
    trials: list[tuple[Any, ...]] = [({"head.weight": (2, 3), "head.bias": (2,)}, 5)]
    trials += [(shapes, pick(draw, [2, 3, 4, 6])) for shapes in NAMES.values()]
    trials.append((NAMES["nested"], 1))
    trials.append(({"conv_h.weight": (3, 1), "conv_w.weight": (1, 3), **_NORM}, 3))
    trials.append(({"stem.weight": (3, 2), "middle.weight": (3, 3), "head.weight": (2, 3)}, 2))
    judge_trials(student, trials, _built, _COUNT_MISTAKES)
    passed(student)


Counted = list[float]


def _up_to(last: Callable[[list[int], int], int]) -> Function:
    """All steps before a last one, which is made of the places of weights above 0, and N."""

    def learn(step_weights: Counted) -> list[bool]:
        counted = [step for step, v in enumerate(step_weights) if v > 0]
        end = last(counted, len(step_weights))
        return [step < end for step in range(len(step_weights))]

    return learn


_right_learn = _up_to(lambda counted, n: counted[-1] + 1)

_LEARN_MISTAKES: dict[str, Function] = {
    "a rate learns from every later loss too: step 0 comes before all of them": (
        lambda step_weights: [v > 0 for v in step_weights]
    ),
    "a step after the last loss that counts changes nothing that is counted": _up_to(
        lambda counted, n: n
    ),
    "one step too few: the loss after a step depends on that step's rate": _up_to(
        lambda counted, n: counted[-1]
    ),
    "one step too many: the loss with the place `step` in the list is taken after that step": (
        _up_to(lambda counted, n: counted[-1] + 2)
    ),
    "it stops at the first loss that counts: later losses teach later steps": _up_to(
        lambda counted, n: counted[0] + 1
    ),
    "it stops at the largest weight: any loss that counts teaches the steps before it": (
        lambda step_weights: [
            step <= step_weights.index(max(step_weights)) for step in range(len(step_weights))
        ]
    ),
    "the first step learns too: every loss comes after it": lambda step_weights: [
        False,
        *_right_learn(step_weights)[1:],
    ],
    "the last step learns only if the loss after it counts": lambda step_weights: [
        *_right_learn(step_weights)[:-1],
        True,
    ],
    "only the steps from the first loss on learn here: those before it learn from it": (
        lambda step_weights: [
            any(v > 0 for v in step_weights[: step + 1]) for step in range(len(step_weights))
        ]
    ),
    "the other way round: True stands for a rate that learns": lambda step_weights: [
        not learns for learns in _right_learn(step_weights)
    ],
    "the last step alone learns here: the gradient goes on to the steps before it": (
        lambda step_weights: [step == len(step_weights) - 1 for step in range(len(step_weights))]
    ),
    "only the step of the last loss learns here: the gradient goes on to the steps before it": (
        lambda step_weights: [
            learns and not after
            for learns, after in zip(
                _right_learn(step_weights), [*_right_learn(step_weights)[1:], False], strict=True
            )
        ]
    ),
    "a small weight is a weight: compare with 0": lambda step_weights: _right_learn(
        [v if v > 0.01 else 0.0 for v in step_weights]
    ),
    "it returns 0 or 1: True or False is asked for": lambda step_weights: list(
        map(int, _right_learn(step_weights))
    ),
    "it returns how many learn: say of each step whether it does": lambda step_weights: sum(
        _right_learn(step_weights)
    ),
    "it returns the steps that learn: say True or False for each step": lambda step_weights: [
        step for step, learns in enumerate(_right_learn(step_weights)) if learns
    ],
    "it counts the weights above 0: where the last of them stands is what matters": (
        lambda step_weights: [
            step < sum(v > 0 for v in step_weights) for step in range(len(step_weights))
        ]
    ),
    "a rate learns from later losses, not from those before its step": lambda step_weights: [
        any(v > 0 for v in step_weights[:step]) for step in range(len(step_weights))
    ],
    "a rate learns from every later loss, not from its own and the next alone": (
        lambda step_weights: [
            any(v > 0 for v in step_weights[step : step + 2]) for step in range(len(step_weights))
        ]
    ),
    "it looks at the last weight alone: any loss that counts teaches the steps before it": (
        lambda step_weights: [step_weights[-1] > 0] * len(step_weights)
    ),
}


@check
def steps_that_learn(student: Function, seed: int = 0) -> None:
    """Exercise 6.2: `steps_that_learn(step_weights)`: which steps' rates get a gradient."""
    lists: list[Counted] = [[0.0, 1.0, 0.0], [0.2, 0.2, 0.6], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0]]
    lists += [[0.5, 0.0, 0.5, 0.0], [0.0, 0.0, 0.999, 0.001, 0.0], [0.0, 0.3, 0.7], [1.0]]
    trials = [(step_weights + [0.0] * (seed % 20),) for step_weights in lists]
    judge_trials(student, trials, _right_learn, _LEARN_MISTAKES)
    passed(student)


def leaves(draw: torch.Generator, shapes: Shapes, dtype: torch.dtype) -> Weights:
    """Random tensors of these shapes that require a gradient."""
    return {n: normal(draw, *s, dtype=dtype, requires_grad=True) for n, s in shapes.items()}


def _spread(
    rate: Callable[[Tensor, int, int], Tensor] = lambda rates, layer, step: rates[layer, step],
    row: Callable[[list[str], str], int] = lambda names, name: _layers(names).index(layer_of(name)),
    change: Callable[[Tensor, Tensor], Tensor] = lambda w, rate: rate.expand_as(w),
) -> Function:
    """The rates of all weights, each made from (rates, layer, step) and changed by its weights."""

    def spread(weights: Weights, rates: Tensor, step: int) -> Weights:
        names = list(weights)
        return {n: change(w, rate(rates, row(names, n), step)) for n, w in weights.items()}

    return spread


def _first_word(names: list[str], name: str) -> int:
    return list(dict.fromkeys(n.split(".")[0] for n in names)).index(name.split(".")[0])


_SPREAD_MISTAKES: dict[str, Function] = {
    "rows are layers and columns are steps: yours reads rates[step, layer]": _spread(
        lambda rates, layer, step: rates[step, layer]
    ),
    "it always takes the rates of step 0: `step` says which column": _spread(
        lambda rates, layer, step: rates[layer, 0]
    ),
    "it always takes the rates of the last step: `step` says which column": _spread(
        lambda rates, layer, step: rates[layer, -1]
    ),
    "it takes the rates of the step before: steps are counted from 0, so `step` is the column": (
        _spread(lambda rates, layer, step: rates[layer, step - 1])
    ),
    "it takes the rates of the step after: steps are counted from 0, so `step` is the column": (
        _spread(lambda rates, layer, step: rates[layer, step + 1])
    ),
    "it averages the rates over the steps: each step has its own": _spread(
        lambda rates, layer, step: rates[layer].mean()
    ),
    "it takes the first layer's rate for all layers": _spread(
        lambda rates, layer, step: rates[0, step]
    ),
    "it counts tensors where it should count layers: the tensors of a layer share a row": _spread(
        row=lambda names, name: names.index(name)
    ),
    "it takes two tensors for a layer: a layer may have one or three": _spread(
        row=lambda names, name: names.index(name) // 2
    ),
    "it sorts the layers: the rows are in the order in which the layers first appear": _spread(
        row=lambda names, name: sorted(_layers(names)).index(layer_of(name))
    ),
    "the layer of 'blocks.0.conv.weight' is 'blocks.0.conv': yours ends at the first dot": _spread(
        row=_first_word
    ),
    "it gives one number for each tensor: Meta-SGD has a rate for each single weight": _spread(
        change=lambda w, rate: rate
    ),
    "it gives each layer's rates of all steps: `step` says which one": _spread(
        lambda rates, layer, step: rates[layer], change=lambda w, rate: rate
    ),
    "the rates have the numbers of their weight, but not its shape": _spread(
        change=lambda w, rate: rate.repeat(w.numel())
    ),
    "each weight is multiplied by its rate: the rates themselves are asked for": _spread(
        change=lambda w, rate: rate * w
    ),
    "the numbers are right, but the rates entered as plain numbers (.item(), full_like), so that "
    "no gradient reaches them and they never learn": _spread(
        change=lambda w, rate: torch.full_like(w, rate.item()).detach()
    ),
    "it returns a list: return a dict, each tensor of rates under its weight's name": (
        lambda *inputs: list(_spread()(*inputs).values())
    ),
    "it adds up the rates of all steps so far: each step has its own": _spread(
        lambda rates, layer, step: rates[layer, : step + 1].sum()
    ),
}


def _other_order(inputs: tuple[Any, ...], found: Any) -> str | None:
    """What to say where the rows belong to the layers in any other order."""
    names = _layers(inputs[0])
    for order in permutations(names):

        def row(_: list[str], name: str, order: Sequence[str] = order) -> int:
            return order.index(layer_of(name))

        if list(order) != names and same(found, _spread(row=row)(*inputs)):
            return (
                "the layers are in another order than they first appear in: a set has no order, "
                "dict.fromkeys keeps it"
            )
    return None


@check
def spread(student: Function, seed: int = 0) -> None:
    """Exercise 6.3: `spread(weights, rates, step)`: LSLR's rates `[L, S]` as Meta-SGD's."""

    def inputs(names: str, step: int, steps: int, dtype: torch.dtype) -> tuple[Any, ...]:
        draw, shapes = generator(seed), NAMES[names]
        size = len(_layers(shapes)), steps
        rates = normal(draw, *size, dtype=dtype, requires_grad=True)
        return leaves(draw, shapes, dtype), rates, step

    kinds: list[Any] = [
        ("plain", 1, 4, torch.float64),
        ("scattered", 2, 4, torch.float64),
        ("nested", 0, 3, torch.float32),
        ("plain", 2, 3, torch.float64),
    ]
    trials = [partial(inputs, *kind) for kind in kinds]
    judge_trials(student, trials, _spread(), _SPREAD_MISTAKES, _other_order)
    passed(student)


def _line_search(
    rate: Callable[[Tensor, Tensor, Tensor], Any],
    without_minimum: float = math.inf,
    always: bool = False,
) -> Function:
    """A rate from the query gradient, the support gradient and H times it, each a long vector."""

    def best_rate(query: Weights, support: Weights, curved: Weights) -> float:
        parts = [torch.cat([p[n].flatten() for n in query]) for p in (query, support, curved)]
        if not always and parts[1] @ parts[2] <= 0:
            return without_minimum
        return float(rate(*parts))

    return best_rate


def _of_the_first(query: Weights, support: Weights, curved: Weights) -> float:
    first = next(iter(query))
    return _line_search(_best)(*({first: part[first]} for part in (query, support, curved)))


def _best(q: Tensor, g: Tensor, b: Tensor) -> Tensor:
    return (q @ g) / (g @ b)


def _each_tensor(query: Weights, support: Weights, curved: Weights) -> float:
    pairs = [((query[n] * support[n]).sum(), (support[n] * curved[n]).sum()) for n in query]
    if sum(bend.item() for _, bend in pairs) <= 0:
        return math.inf
    return sum((slope / bend).item() for slope, bend in pairs)


_BEST_MISTAKES: dict[str, Function] = {
    "where the parabola opens downwards, or is a line, there is no best rate: return math.inf": (
        _line_search(_best, always=True)
    ),
    "where there is no best rate, math.inf is asked for, not 0": _line_search(_best, 0.0),
    "a best rate may be negative, if the step should go up: no abs()": _line_search(
        lambda q, g, b: _best(q, g, b).abs()
    ),
    "a best rate may be negative, if the step should go up: do not stop at 0": _line_search(
        lambda q, g, b: _best(q, g, b).clamp(min=0)
    ),
    "where there is no best rate, math.inf is asked for, not nan": _line_search(_best, math.nan),
    "it finds a rate for each tensor and adds them up: α is one number, so add up first": (
        _each_tensor
    ),
    "the sign: the slope at α = 0 is minus ⟨query, support⟩, and it is solved for 0": _line_search(
        lambda q, g, b: -_best(q, g, b)
    ),
    "it is upside down: slope divided by curvature": _line_search(
        lambda q, g, b: (g @ b) / (q @ g)
    ),
    "a 2 too many: the derivative of ½α²⟨g, Hg⟩ is α⟨g, Hg⟩": _line_search(
        lambda q, g, b: _best(q, g, b) / 2
    ),
    "a 2 too few: the ½ before the square cancels": _line_search(
        lambda q, g, b: 2 * _best(q, g, b)
    ),
    "the slope is along the support gradient, not along the query gradient: ⟨query, support⟩": (
        _line_search(lambda q, g, b: (q @ q) / (g @ b))
    ),
    "the query gradient is missing: it says how fast the query loss falls": _line_search(
        lambda q, g, b: (g @ g) / (g @ b)
    ),
    "the step is along the support gradient: divide by ⟨support, curved⟩, not ⟨query, curved⟩": (
        _line_search(lambda q, g, b: (q @ g) / (q @ b))
    ),
    "`curved` is H times the support gradient already: one more product with it is asked for, not "
    "its square": _line_search(lambda q, g, b: (q @ g) / (b @ b)),
    "the curvature is missing: divide by ⟨support, curved⟩": _line_search(lambda q, g, b: q @ g),
    "it divides number by number and adds up: α is one number, so add up first": _line_search(
        lambda q, g, b: ((q * g) / (g * b)).sum()
    ),
    "it looks at the first tensor alone: α is one number for all": _of_the_first,
    "it divides lengths: inner products are asked for": _line_search(
        lambda q, g, b: q.norm() / b.norm()
    ),
    "a curvature below 0 has no lowest point: do not take its absolute value": _line_search(
        lambda q, g, b: (q @ g) / (g @ b).abs(), always=True
    ),
    "the curvature decides whether there is a lowest point, not the slope": lambda q, g, b: (
        _line_search(lambda q, g, b: (q @ g) / (g @ b), always=True)(q, g, b)
        if sum((q[name] * g[name]).sum() for name in q) > 0
        else math.inf
    ),
    "it adds up a quotient for each tensor: add up first, then divide once": lambda q, g, b: float(
        sum((q[n] * g[n]).sum() / (g[n] * b[n]).sum() for n in q)
    ),
    "it averages over each tensor, so that small tensors count more: add up all products": (
        lambda q, g, b: (
            sum((q[n] * g[n]).mean().item() for n in q)
            / sum((g[n] * b[n]).mean().item() for n in q)
        )
    ),
}


@check
def best_rate(student: Function, seed: int = 0) -> None:
    """Exercise 6.4: `best_rate(query, support, curved)`: the lowest point of a parabola along g."""
    draw, trials = generator(seed), []
    shapes: list[Shapes] = [{"head.weight": (1, 2), "head.bias": (1,)}, *NAMES.values()]
    for part, bends in zip(shapes, (1.0, 1.0, -1.0, 1.0), strict=True):
        query, support = ({n: normal(draw, *s) for n, s in part.items()} for _ in range(2))
        curved = {n: bends * (0.5 + normal(draw, *g.shape) ** 2) * g for n, g in support.items()}
        trials.append((query, support, curved))
    judge_trials(student, trials, _line_search(_best), _BEST_MISTAKES, gradients=False)
    passed(student)
