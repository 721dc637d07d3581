"""Checks of set 3: the multi-step loss itself (3.3; the paper, section 4, equation 3)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mamlpp import schedules
from mamlpp.checks.core import Function, passed
from mamlpp.checks.inputs import check, generator, normal
from mamlpp.checks.judging import judge_trials
from mamlpp.checks.problem import Weights, draw_problem, model, path_of

Losses = list[Tensor]


def _total(
    combine: Callable[[list[float], Losses], Any], where: slice = slice(1, None)
) -> Function:
    """A meta-loss from the weights v_i and the query losses of a part of the path."""

    def loss(
        classify: Function, path: list[Weights], x: Tensor, y: Tensor, step_weights: list[float]
    ) -> Any:
        return combine(
            step_weights, [F.cross_entropy(model(weights, x), y) for weights in path[where]]
        )

    return loss


def _weighted(step_weights: list[float], losses: Losses) -> Tensor:
    return torch.stack([v * loss for v, loss in zip(step_weights, losses, strict=True)]).sum()


def _averaged(what: str) -> Function:
    """The loss of averaged weights, or of averaged logits."""

    def loss(
        classify: Function, path: list[Weights], x: Tensor, y: Tensor, step_weights: list[float]
    ) -> Tensor:
        pairs = list(zip(step_weights, path[1:], strict=True))
        if what == "logits":
            return F.cross_entropy(torch.stack([v * model(w, x) for v, w in pairs]).sum(0), y)
        middle = {n: torch.stack([v * w[n] for v, w in pairs]).sum(0) for n in path[0]}
        return F.cross_entropy(model(middle, x), y)

    return loss


def _each_image(
    classify: Function, path: list[Weights], x: Tensor, y: Tensor, step_weights: list[float]
) -> Tensor:
    pairs = zip(step_weights, path[1:], strict=True)
    return torch.stack(
        [v * F.cross_entropy(model(w, x), y, reduction="none") for v, w in pairs]
    ).sum(0)


def _of_leaves(
    classify: Function, path: list[Weights], x: Tensor, y: Tensor, step_weights: list[float]
) -> Tensor:
    leaves = [{n: w.detach().requires_grad_() for n, w in weights.items()} for weights in path]
    return _total(_weighted)(classify, leaves, x, y, step_weights)


def _scaled_logits(change: Callable[[float, Tensor], tuple[float, Tensor]]) -> Function:
    """The weighted losses of changed logits; `change` gives the weight and the logits."""

    def loss(
        classify: Function, path: list[Weights], x: Tensor, y: Tensor, step_weights: list[float]
    ) -> Tensor:
        pairs = zip(step_weights, path[1:], strict=True)
        changed = [change(v, model(w, x)) for v, w in pairs]
        return torch.stack([v * F.cross_entropy(logits, y) for v, logits in changed]).sum()

    return loss


_META_LOSS_MISTAKES: dict[str, Function] = {
    "the number is right, but it is cut off from θ_0 (.detach(), .item() or no_grad), so that "
    "backward() gives no meta-gradient": _of_leaves,
    "it returns a plain number (.item() or float) without a graph: backward() needs a tensor": (
        _total(lambda v, losses: _weighted(v, losses).item())
    ),
    "v_1 belongs to θ_1: yours counts θ_0, and leaves out θ_N": _total(_weighted, slice(None, -1)),
    "it divides by N, but the weights sum to 1 already": _total(
        lambda v, losses: _weighted(v, losses) / len(losses)
    ),
    "it takes the last loss alone: that is plain MAML": _total(lambda v, losses: losses[-1]),
    "it takes the last loss alone, times its weight: add up all of them": _total(
        lambda v, losses: v[-1] * losses[-1]
    ),
    "it returns inside the loop: only the first loss is counted": _total(
        lambda v, losses: v[0] * losses[0]
    ),
    "it adds the losses unweighted": _total(lambda v, losses: torch.stack(losses).sum()),
    "the loss is the sum over the images: cross_entropy averages them by default": _total(
        lambda v, losses: 6 * _weighted(v, losses)
    ),
    "the losses of the steps before the last entered as constants (.detach() or .item())": _total(
        lambda v, losses: _weighted(v, [*(each.detach() for each in losses[:-1]), losses[-1]])
    ),
    "it averages the losses: their weights v_i are missing": _total(
        lambda v, losses: torch.stack(losses).mean()
    ),
    "it returns the losses step by step: the meta-loss is their sum": _total(
        lambda v, losses: [weight * loss for weight, loss in zip(v, losses, strict=True)]
    ),
    "it returns a vector, one number for each step: the meta-loss is their sum": _total(
        lambda v, losses: torch.stack(
            [weight * loss for weight, loss in zip(v, losses, strict=True)]
        )
    ),
    "it returns a vector, one number for each image: cross_entropy averages over the images by "
    "default": _each_image,
    "it counts the steps in the opposite order: step_weights[0] belongs to θ_1": _total(
        lambda v, losses: _weighted(v[::-1], losses)
    ),
    "it averages the logits and takes one loss: take a loss at each θ_i, and average the losses": (
        _averaged("logits")
    ),
    "it averages the weights θ_i and takes one loss: take a loss at each θ_i, and average the "
    "losses": _averaged("weights"),
    "cross_entropy takes logits: it applies the softmax itself": _scaled_logits(
        lambda v, logits: (v, logits.softmax(-1))
    ),
    "v_i multiplies the loss, not the logits": _scaled_logits(lambda v, logits: (1.0, v * logits)),
    "the last step is missing: v_N and θ_N count too": _total(
        lambda v, losses: _weighted(v[1:], losses[:-1])
    ),
    "the last step is missing: the sum ends with v_N · L(θ_N)": _total(
        lambda v, losses: _weighted(v[:-1], losses[:-1])
    ),
}


@check
def meta_loss(student: Function, seed: int = 0) -> None:
    """Exercise 3.3: `meta_loss(model, path, x, y, step_weights)` is Σ v_i L(θ_i), i = 1 … N."""

    def inputs(steps: int, epoch: float, dtype: torch.dtype) -> tuple[Any, ...]:
        weights, x, y, rate = draw_problem(10 * seed + steps, dtype)
        query = normal(generator(seed + 100), 6, 4, dtype=dtype)
        step_weights = schedules.step_weights(steps, 10, 0.0, epoch)
        return model, path_of(weights, x, y, rate, steps), query, y, step_weights

    kinds = ((2, 4.0, torch.float64), (3, 6.0, torch.float32), (5, 2.0, torch.float64))
    trials = [partial(inputs, *kind) for kind in kinds]
    judge_trials(student, trials, _total(_weighted), _META_LOSS_MISTAKES)
    passed(student)
