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
from mamlpp.checks.problem import Weights, draw_problem, gradients_of, model
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


def _cut(weight: Tensor) -> Tensor:
    """A new leaf with the same numbers."""
    return weight.detach().requires_grad_()


def _layer_step(
    change: Callable[[Tensor, Tensor, float], Tensor] = lambda w, g, rate: w - rate * g,
    moves: Callable[[str, str], bool] = str.startswith,
    rest: Callable[[Tensor], Tensor] = lambda w: w,
    create_graph: bool = True,
) -> Function:
    """A step that changes the weights of which `moves(name, layer)` says so.

    `change` makes each of them from the weight, its gradient and the rate, `rest` all others.
    """

    def step(loss: Tensor, weights: Weights, rate: float, layer: str) -> Weights:
        gradients = gradients_of(loss, weights, create_graph)
        return {
            name: change(w, gradients[name], rate) if moves(name, layer) else rest(w)
            for name, w in weights.items()
        }

    return step


_right_step = _layer_step()


def _only_the_layer(loss: Tensor, weights: Weights, rate: float, layer: str) -> Weights:
    after = _right_step(loss, weights, rate, layer)
    return {name: w for name, w in after.items() if name.startswith(layer)}


def _only_the_first(loss: Tensor, weights: Weights, rate: float, layer: str) -> Weights:
    first = next(name for name in weights if name.startswith(layer))
    return weights | {first: _right_step(loss, weights, rate, layer)[first]}


def _unit_gradient(loss: Tensor, weights: Weights, rate: float, layer: str) -> Weights:
    gradients = gradients_of(loss, weights)
    squares = [g.square().sum() for name, g in gradients.items() if name.startswith(layer)]
    norm = torch.stack(squares).sum().sqrt()
    return _layer_step(lambda w, g, rate: w - rate * g / norm)(loss, weights, rate, layer)


_STEP_MISTAKES: dict[str, Function] = {
    _FIRST_ORDER: _layer_step(create_graph=False),
    _DETACHED_WEIGHTS: _layer_step(lambda w, g, rate: w.detach() - rate * g),
    _CUT: _layer_step(lambda w, g, rate: _cut(w - rate * g), rest=_cut),
    "the weights of the layer are cut off from the old ones (.detach(), .data, .item() or "
    "no_grad)": _layer_step(lambda w, g, rate: _cut(w - rate * g)),
    "the other layers come back as constants (.detach()): they do not move, but the outer loop "
    "learns them": _layer_step(rest=Tensor.detach),
    "every weight takes the step: only those whose name begins with `layer` should": _layer_step(
        moves=lambda name, layer: True
    ),
    "the weights of the layer stay, and all others move: the other way round": _layer_step(
        moves=lambda name, layer: not name.startswith(layer)
    ),
    "the other layers are missing: they do not move, but they belong into the dict too": (
        _only_the_layer
    ),
    "the other layers come back as zeros: they stay as they are": _layer_step(
        rest=torch.zeros_like
    ),
    "`layer` is an argument: it is not always the head": _layer_step(
        moves=lambda name, layer: name.startswith("head")
    ),
    "no weight moves: which names begin with `layer`? (no name is equal to it)": _layer_step(
        moves=lambda name, layer: False
    ),
    "only the first tensor of the layer takes the step: each of them should, the bias too": (
        _only_the_first
    ),
    "the step goes up the loss: subtract the gradient, do not add it": _layer_step(
        lambda w, g, rate: w + rate * g
    ),
    "the step is as long as the gradient: multiply the gradient by the rate": _layer_step(
        lambda w, g, rate: w - g
    ),
    "it divides the gradient by the rate: multiply it": _layer_step(
        lambda w, g, rate: w - g / rate
    ),
    "the rate multiplies the weight as well: only the gradient is multiplied by it": _layer_step(
        lambda w, g, rate: rate * (w - g)
    ),
    "`rate` is an argument: it is not always 0.1": _layer_step(lambda w, g, rate: w - 0.1 * g),
    "it averages each gradient to one number: each number of a weight has its own": _layer_step(
        lambda w, g, rate: w - rate * g.mean()
    ),
    "the weights shrink as well (weight decay): only the gradient moves them": _layer_step(
        lambda w, g, rate: (1 - rate) * w - rate * g
    ),
    "it uses the sign of the gradient only: its size counts too": _layer_step(
        lambda w, g, rate: w - rate * g.sign()
    ),
    "it makes each gradient one unit long: plain gradient descent uses it as it is": _layer_step(
        lambda w, g, rate: w - rate * g / g.norm()
    ),
    "it returns the gradients of the layer, not its weights after a step along them": _layer_step(
        lambda w, g, rate: g
    ),
    "it returns the change of the weights, not the changed weights": _layer_step(
        lambda w, g, rate: -rate * g
    ),
    "it returns a list: return a dict, each weight under its own name": lambda *inputs: list(
        _right_step(*inputs).values()
    ),
    "it divides by the norm of the layer's gradient: plain gradient descent uses it as it is": (
        _unit_gradient
    ),
}


@check
def layer_step(student: Function, seed: int = 0) -> None:
    """Exercise 1.1: `layer_step(loss, weights, rate, layer)` moves one layer, and keeps the graph.

    The other layers come back as they are: the meta-gradient must reach them too.
    """

    def inputs(number: int, layer: str, dtype: torch.dtype) -> tuple[Any, ...]:
        weights, x, y, rate = draw_problem(10 * seed + number, dtype)
        return F.cross_entropy(model(weights, x), y), weights, rate, layer

    kinds = (("head", torch.float64), ("body", torch.float32), ("head", torch.float64))
    trials = [partial(inputs, i, *kind) for i, kind in enumerate(kinds)]
    judge_trials(student, trials, _right_step, _STEP_MISTAKES)
    passed(student)


Path = list[Weights]


def _momentum(
    speed: Callable[[float, Tensor, Tensor], Tensor] = lambda mu, v, g: mu * v + g,
    move: Callable[[Tensor, Tensor, float], Tensor] = lambda w, v, rate: w - rate * v,
    keep: Callable[[Path], Any] = lambda path: path,
    more: int = 0,
    start: Callable[[Path], Weights] = lambda path: path[-1],
    judged: Callable[[Path, Weights], Weights] = lambda path, here: here,
    memory: Callable[[Tensor, Tensor], Tensor] = lambda v, g: v,
    before: Callable[[Tensor], Tensor] = torch.zeros_like,
    criterion: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    create_graph: bool = True,
) -> Function:
    """An inner loop with momentum, of which each part may have a mistake.

    `speed` makes the velocity from the momentum, what the step remembers and the gradient; `move`
    the weight from the weight, the velocity and the rate; `memory` what the next step remembers,
    and `before` what the first one does. Each step begins at `start`, with the gradient of the
    weights `judged`. `keep` changes the path.
    """

    def loop(
        classify: Function,
        weights: Weights,
        x: Tensor,
        y: Tensor,
        rate: float,
        momentum: float,
        steps: int,
    ) -> Any:
        path, remembered = [weights], None
        for _ in range(max(steps + more, 0)):
            here = start(path)
            at = judged(path, here)
            gradients = gradients_of(criterion(classify(at, x), y), at, create_graph)
            remembered = remembered or {name: before(g) for name, g in gradients.items()}
            speeds = {n: speed(momentum, remembered[n], g) for n, g in gradients.items()}
            remembered = {name: memory(v, gradients[name]) for name, v in speeds.items()}
            path.append({name: move(w, speeds[name], rate) for name, w in here.items()})
        return keep(path)

    return loop


def _leaves_after_the_first(path: Path) -> Weights:
    return path[0] if len(path) == 1 else {name: _cut(w) for name, w in path[-1].items()}


def _rate_twice(
    classify: Function, weights: Weights, x: Tensor, y: Tensor, rate: float, *rest: Any
) -> Any:
    wrong = _momentum(lambda mu, v, g: mu * v + rate * g)
    return wrong(classify, weights, x, y, rate, *rest)


_LOOP_MISTAKES: dict[str, Function] = {
    _FIRST_ORDER: _momentum(create_graph=False),
    "the numbers are right, but the velocity of the step before entered as a constant: it was "
    "made of gradients, which depend on θ_0": _momentum(lambda mu, v, g: mu * v.detach() + g),
    _DETACHED_WEIGHTS: _momentum(move=lambda w, v, rate: w.detach() - rate * v),
    "the path is cut between the steps: each starts from detached weights, so that nothing gets "
    "back from the later steps to θ_0": _momentum(start=_leaves_after_the_first),
    f"the path is cut: {_CUT}": _momentum(move=lambda w, v, rate: _cut(w - rate * v)),
    "the velocity is only the gradient: momentum · (the velocity before) is missing": _momentum(
        lambda mu, v, g: g
    ),
    "it remembers the last gradient alone: the velocity holds those of all steps before": _momentum(
        memory=lambda v, g: g
    ),
    "it averages: the gradient enters the velocity whole, not times 1 − momentum": _momentum(
        lambda mu, v, g: mu * v + (1 - mu) * g
    ),
    "it keeps the share 1 − momentum of the velocity: the share `momentum` is kept": _momentum(
        lambda mu, v, g: (1 - mu) * v + g
    ),
    "it multiplies the gradient by the momentum: the velocity before is multiplied by it": (
        _momentum(lambda mu, v, g: v + mu * g)
    ),
    "the momentum multiplies the new velocity: only the one before is multiplied by it": _momentum(
        lambda mu, v, g: mu * (v + g)
    ),
    "nothing is forgotten: multiply the velocity before by the momentum": _momentum(
        lambda mu, v, g: v + g
    ),
    "the velocity before is subtracted: momentum goes on, it does not go back": _momentum(
        lambda mu, v, g: g - mu * v
    ),
    "the first step counts its gradient twice: the velocity starts at 0": _momentum(
        before=lambda g: g
    ),
    "`momentum` is an argument: it is not always 0.9": _momentum(lambda mu, v, g: 0.9 * v + g),
    "the rate counts twice: it belongs into the velocity or before it, not into both": _rate_twice,
    "it takes one step more than `steps`": _momentum(more=1),
    "it takes one step less than `steps`, or leaves the last weights out": _momentum(more=-1),
    "θ_0, the weights before the first step, belongs on the path too": _momentum(
        keep=lambda path: path[1:]
    ),
    "it returns the last weights alone: keep all of θ_0 … θ_N in a list": _momentum(
        keep=lambda path: path[-1]
    ),
    "all entries but the first are the same: make a new dict in each step": _momentum(
        keep=lambda path: path[:1] + path[-1:] * (len(path) - 1)
    ),
    "the path ends after one step: does `return` stand inside the loop?": _momentum(
        keep=lambda path: path[:2]
    ),
    "the path goes backwards: θ_0 comes first": _momentum(keep=lambda path: path[::-1]),
    "every entry of the path holds the last weights: append a new dict after each step": _momentum(
        keep=lambda path: path[-1:] * len(path)
    ),
    "only the start and the end are on the path: `append` belongs into the loop": _momentum(
        keep=lambda path: path[:1] + path[-1:]
    ),
    "every step uses the gradient at θ_0: compute the loss again in each step, with the weights "
    "after the step before": _momentum(judged=lambda path, here: path[0]),
    "every step starts again from θ_0: go on from the weights after the step before": _momentum(
        start=lambda path: path[0]
    ),
    "the loss is the sum over the images: cross_entropy averages them by default": _momentum(
        criterion=partial(F.cross_entropy, reduction="sum")
    ),
    "cross_entropy takes logits: it applies the softmax itself": _momentum(
        criterion=lambda logits, y: F.cross_entropy(logits.softmax(-1), y)
    ),
    "the loss is the squared error: cross_entropy is asked for": _momentum(
        criterion=lambda logits, y: F.mse_loss(logits, F.one_hot(y, 3).to(logits.dtype))
    ),
    "each step goes up the loss: subtract rate · velocity": _momentum(
        move=lambda w, v, rate: w + rate * v
    ),
    "each step is as long as the velocity: multiply it by the rate": _momentum(
        move=lambda w, v, rate: w - v
    ),
}


@check
def momentum_loop(student: Function, seed: int = 0) -> None:
    """Exercise 1.2: `momentum_loop(model, weights, x, y, rate, momentum, steps)`: θ_0, …, θ_N."""

    def inputs(number: int, steps: int, dtype: torch.dtype) -> tuple[Any, ...]:
        momentum = pick(generator(10 * seed + number), [0.4, 0.6, 0.8])
        return model, *draw_problem(10 * seed + number, dtype), momentum, steps

    kinds = ((2, torch.float64), (3, torch.float32), (1, torch.float64), (4, torch.float64))
    trials = [partial(inputs, i, *kind) for i, kind in enumerate(kinds)]
    judge_trials(student, trials, _momentum(), _LOOP_MISTAKES)
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
