"""Checks of set 3: the multi-step loss, of which one loss is drawn (3.3)."""

from collections.abc import Callable
from functools import partial, wraps
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mamlpp.checks.compare import Observed
from mamlpp.checks.core import Function, passed
from mamlpp.checks.inputs import check, generator, normal
from mamlpp.checks.judging import judge_trials
from mamlpp.checks.problem import Weights, draw_problem, model, path_of

Path = list[Weights]
Loss = Callable[[Tensor, Tensor], Tensor]


def _step(step_weights: list[float], u: float) -> int:
    """The step, from 1, whose part of the line from 0 to 1 holds u."""
    ends = accumulate(step_weights)
    return next((i for i, end in enumerate(ends, start=1) if u < end), len(step_weights))


def _first_end_reached(step_weights: list[float], u: float) -> int:
    ends = accumulate(step_weights)
    return next((i for i, end in enumerate(ends, start=1) if u <= end), len(step_weights))


def _first_weight_above(step_weights: list[float], u: float) -> int:
    return next((i for i, v in enumerate(step_weights, 1) if u < v), len(step_weights))


def _sampled(
    choose: Callable[[list[float], float], int] = _step,
    scale: Callable[[float, int], float] = lambda v, steps: 1.0,
    loss: Loss = F.cross_entropy,
) -> Function:
    """The loss at the entry of the path that is chosen; `scale` has its weight v and N."""

    def sampled(
        classify: Function, path: Path, x: Tensor, y: Tensor, step_weights: list[float], u: float
    ) -> Tensor:
        factor = scale(step_weights[_step(step_weights, u) - 1], len(step_weights))
        return factor * loss(classify(path[choose(step_weights, u)], x), y)

    return sampled


def _of_all(combine: Callable[[list[float], list[Tensor], int], Any]) -> Function:
    """From the weights, all losses and the step that is drawn."""

    def total(
        classify: Function, path: Path, x: Tensor, y: Tensor, step_weights: list[float], u: float
    ) -> Any:
        losses = [F.cross_entropy(classify(weights, x), y) for weights in path[1:]]
        return combine(step_weights, losses, _step(step_weights, u))

    return total


def _of_leaves(classify: Function, path: Path, *rest: Any) -> Tensor:
    leaves = [{n: w.detach().requires_grad_() for n, w in weights.items()} for weights in path]
    return _sampled()(classify, leaves, *rest)


def _most_likely(step_weights: list[float], u: float) -> int:
    return 1 + max(range(len(step_weights)), key=lambda i: step_weights[i])


_LOSS_MISTAKES: dict[str, Function] = {
    "the loss is right, but all N are computed: find the step first, then call the model once": (
        _of_all(lambda v, losses, step: losses[step - 1])
    ),
    "this is the multi-step loss itself, with N losses: draw a step, and compute its loss alone": (
        _of_all(
            lambda v, losses, step: torch.stack(
                [weight * loss for weight, loss in zip(v, losses, strict=True)]
            ).sum()
        )
    ),
    "the loss is multiplied by v_i, but v_i is already how often the step is drawn: with both, the "
    "mean is Σ v_i² L(θ_i)": _sampled(scale=lambda v, steps: v),
    "the loss is divided by v_i: then the mean counts each step alike": _sampled(
        scale=lambda v, steps: 1 / v
    ),
    "the loss is multiplied by N: the weights sum to 1, so the mean is right without it": _sampled(
        scale=lambda v, steps: float(steps)
    ),
    "the loss is divided by N: the weights sum to 1, so the mean is right without it": _sampled(
        scale=lambda v, steps: 1 / steps
    ),
    "the loss is multiplied by N · v_i: that is right where each step is drawn equally often": (
        _sampled(scale=lambda v, steps: steps * v)
    ),
    "v_1 belongs to θ_1, which is path[1]: yours is one entry too early": _sampled(
        lambda v, u: _step(v, u) - 1
    ),
    "it is one step too far: the first step whose sum of weights is above u is drawn": _sampled(
        lambda v, u: min(_step(v, u) + 1, len(v))
    ),
    "a step with the weight 0 is drawn at u = 0: a step begins at its lower end, so compare by <, "
    "not by <=": _sampled(_first_end_reached),
    "it compares u with the single weights: compare it with their sums v_1, v_1 + v_2, …": _sampled(
        _first_weight_above
    ),
    "it draws each step equally often: step i should be drawn with probability v_i": _sampled(
        lambda v, u: 1 + int(u * len(v))
    ),
    "it goes through the steps from the last to the first: step 1 has the first part of the line": (
        _sampled(lambda v, u: len(v) + 1 - _step(v[::-1], u))
    ),
    "it takes the last step every time: that is plain MAML": _sampled(lambda v, u: len(v)),
    "it takes the first step every time: is the sum of the weights compared with u?": _sampled(
        lambda v, u: 1
    ),
    "it takes the step with the largest weight every time: u decides": _sampled(_most_likely),
    "it takes the weights before the first step, θ_0, every time": _sampled(lambda v, u: 0),
    "the number is right, but it is cut off from θ_0 (.detach(), .item() or no_grad), so that "
    "backward() gives no meta-gradient": _of_leaves,
    "the loss is the sum over the images: cross_entropy averages them by default": _sampled(
        loss=partial(F.cross_entropy, reduction="sum")
    ),
    "it returns one number for each image: cross_entropy averages over the images by default": (
        _sampled(loss=partial(F.cross_entropy, reduction="none"))
    ),
    "cross_entropy takes logits: it applies the softmax itself": _sampled(
        loss=lambda logits, y: F.cross_entropy(logits.softmax(-1), y)
    ),
}


def _with_calls(program: Function, classify: Function, *rest: Any) -> Observed:
    """What the program returns, and how often it calls the model."""
    calls = 0

    @wraps(classify)
    def counted(*inputs: Any) -> Tensor:
        nonlocal calls
        calls += 1
        return classify(*inputs)

    found = program(counted, *rest)
    return Observed({"result": found, "number of calls of the model": calls})


@check
def sampled_loss(student: Function, seed: int = 0) -> None:
    """Exercise 3.3: `sampled_loss(model, path, x, y, step_weights, u)`: L(θ_i), i drawn by u.

    Each step is drawn at least once; at u = 0 the first step that has a weight is.
    """

    def inputs(step_weights: list[float], u: float, dtype: torch.dtype) -> tuple[Any, ...]:
        steps = len(step_weights)
        weights, x, y, rate = draw_problem(10 * seed + steps, dtype)
        query = normal(generator(seed + 100), 6, 4, dtype=dtype)
        return model, path_of(weights, x, y, rate, steps), query, y, step_weights, u

    share = (0.25, 0.5, 0.75)[seed % 3]  # where in its part of the line u lies
    kinds = (
        ([0.2, 0.5, 0.3], 0.2 + 0.5 * share, torch.float64),
        ([0.3, 0.1, 0.2, 0.4], 0.6 + 0.4 * share, torch.float32),
        ([0.3, 0.1, 0.2, 0.4], 0.4 + 0.2 * share, torch.float64),
        ([0.4, 0.5, 0.1], 0.4 * share, torch.float64),
        ([0.0, 0.7, 0.3], 0.0, torch.float64),
    )
    trials = [partial(inputs, v, round(u, 3), dtype) for v, u, dtype in kinds]
    judge_trials(student, trials, _sampled(), _LOSS_MISTAKES, observe=_with_calls)
    passed(student)
