"""Checks of set 5: what batch norm's statistics leave out, and what they remember (5.1 and 5.2)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mamlpp.checks.core import Function, passed
from mamlpp.checks.inputs import check, generator, normal
from mamlpp.checks.judging import judge_trials

Pair = tuple[Tensor, Tensor]


def _pooled(
    variance: Callable[[Tensor, Tensor], Tensor],
    mean: Callable[[Tensor], Tensor] = lambda means: means.mean(0),
) -> Function:
    """The mean and the variance of all images, each from those of the tasks."""

    def pooled(means: Tensor, variances: Tensor) -> Pair:
        return mean(means), variance(means, variances)

    return pooled


def _apart(means: Tensor, correction: int = 0) -> Tensor:
    """How far the tasks' means lie apart."""
    return means.var(0, correction=correction)


_right_pooled = _pooled(lambda means, variances: variances.mean(0) + _apart(means))

_POOL_MISTAKES: dict[str, Function] = {
    "it averages the variances, and forgets how far the tasks' means lie apart": _pooled(
        lambda means, variances: variances.mean(0)
    ),
    "it counts only how far the means lie apart, and forgets the variances within the tasks": (
        _pooled(lambda means, variances: _apart(means))
    ),
    "the variance of the means divides by the count, not by the count less one: correction=0": (
        _pooled(lambda means, variances: variances.mean(0) + _apart(means, correction=1))
    ),
    "it adds the square of the mean: add how far the means lie from the mean of all": _pooled(
        lambda means, variances: variances.mean(0) + means.mean(0) ** 2
    ),
    "this is the mean of the squares: subtract the square of the mean": _pooled(
        lambda means, variances: (variances + means**2).mean(0)
    ),
    "it subtracts how far the means lie apart: all images together vary more than those of a "
    "task": _pooled(lambda means, variances: variances.mean(0) - _apart(means)),
    "variances of tasks are averaged, not added": _pooled(
        lambda means, variances: variances.sum(0) + _apart(means)
    ),
    "it adds the deviation of the means: add their variance": _pooled(
        lambda means, variances: variances.mean(0) + _apart(means).sqrt()
    ),
    "it averages deviations: average variances": _pooled(
        lambda means, variances: variances.sqrt().mean(0) ** 2 + _apart(means)
    ),
    "it returns the deviation: the variance is asked for": _pooled(
        lambda means, variances: (variances.mean(0) + _apart(means)).sqrt()
    ),
    "the means are compared with the mean of all numbers: each channel has its own mean": _pooled(
        lambda means, variances: variances.mean(0) + ((means - means.mean()) ** 2).mean(0)
    ),
    "all channels are put together: each has statistics of its own": lambda means, variances: (
        means.mean(),
        variances.mean() + means.var(correction=0),
    ),
    "the tasks' dimension is still there: [F] is asked for, not [1, F]": lambda means, variances: (
        means.mean(0, keepdim=True),
        variances.mean(0, keepdim=True) + means.var(0, correction=0, keepdim=True),
    ),
    "it averages over the channels: average over the tasks, dimension 0": lambda means, variances: (
        _right_pooled(means.T, variances.T)
    ),
    "the means are averaged over the tasks, not added": _pooled(
        lambda means, variances: variances.mean(0) + _apart(means), lambda means: means.sum(0)
    ),
    "mean and variance are swapped: the mean comes first": lambda means, variances: _right_pooled(
        means, variances
    )[::-1],
    "it looks at the first task alone": lambda means, variances: (means[0], variances[0]),
    "the numbers are right, but the means entered as constants (.detach())": (
        lambda means, variances: _right_pooled(means.detach(), variances)
    ),
    "it squares the mean of the deviations, and what lies between the tasks is missing": _pooled(
        lambda means, variances: variances.sqrt().mean(0) ** 2
    ),
    "average the variances: how much they vary is not asked for": _pooled(
        lambda means, variances: variances.var(0, correction=0) + _apart(means)
    ),
    "it takes the median of the means: their mean is asked for": _pooled(
        lambda means, variances: variances.mean(0) + _apart(means),
        lambda means: means.median(0).values,
    ),
}


@check
def pooled(student: Function, seed: int = 0) -> None:
    """Exercise 5.1: `pooled(means, variances)`, each `[K, F]`: the statistics of all images."""

    def inputs(number: int, size: tuple[int, int], dtype: torch.dtype) -> tuple[Tensor, ...]:
        draw = generator(10 * seed + number)
        means, deviations = (normal(draw, *size, dtype=dtype) for _ in range(2))
        return tuple(t.requires_grad_() for t in (2 + means, 0.5 + deviations**2))

    kinds: list[Any] = [((3, 2), torch.float64), ((5, 4), torch.float64), ((2, 2), torch.float32)]
    trials = [partial(inputs, i, *kind) for i, kind in enumerate(kinds)]
    judge_trials(student, trials, _right_pooled, _POOL_MISTAKES)
    passed(student)


def _right_shares(momentum: float, batches: int) -> list[float]:
    """The share of the start, and of each batch."""
    kept = [(1 - momentum) ** n for n in range(batches, -1, -1)]
    return [kept[0], *(momentum * share for share in kept[1:])]


_SHARE_MISTAKES: dict[str, Function] = {
    "the order is the other way round: the start comes first, the last batch last": (
        lambda m, n: _right_shares(m, n)[::-1]
    ),
    "the start has a share too: what is left of it comes first": lambda m, n: _right_shares(m, n)[
        1:
    ],
    "every batch fades as others come after it: only the last one has the whole share m": (
        lambda m, n: [1 - n * m] + [m] * n
    ),
    "every batch fades as others come after it, and so does the start": lambda m, n: (
        [(1 - m) ** n] + [m] * n
    ),
    "an average would give all the same share: a running mean does not": lambda m, n: (
        [1 / (n + 1)] * (n + 1)
    ),
    "`momentum` is the new batch's share: the old values keep 1 − momentum": lambda m, n: (
        _right_shares(1 - m, n)
    ),
    "each batch fades once too often: the last one has not faded yet": lambda m, n: [
        (1 - m) ** n,
        *(share * (1 - m) for share in _right_shares(m, n)[1:]),
    ],
    "the start fades with each batch, also with the last": lambda m, n: [
        (1 - m) ** (n - 1),
        *_right_shares(m, n)[1:],
    ],
    "the start's share is not what one batch leaves of it: every batch takes its part": (
        lambda m, n: [1 - m, *_right_shares(m, n)[1:]]
    ),
    "the two shares are swapped for the batches: a batch comes in with m and keeps 1 − m": (
        lambda m, n: [(1 - m) ** n, *((1 - m) * m**k for k in range(n - 1, -1, -1))]
    ),
    "it counts one batch too few": lambda m, n: _right_shares(m, n)[: max(n, 1)],
    "this is how far each has faded: a batch came in with the share m": lambda m, n: [
        (1 - m) ** n,
        *((1 - m) ** k for k in range(n - 1, -1, -1)),
    ],
    "the oldest batch has the largest share here: the newest has": lambda m, n: [
        (1 - m) ** n,
        *_right_shares(m, n)[:0:-1],
    ],
    "it counts one batch too many": lambda m, n: _right_shares(m, n + 1),
    "`momentum` is an argument: it is not always 0.1": lambda m, n: _right_shares(0.1, n),
    "it returns the share of the start alone: a list is asked for": lambda m, n: (1 - m) ** n,
}


def _wrong_sum(inputs: tuple[Any, ...], found: Any) -> str | None:
    numbers = isinstance(found, list | tuple) and all(isinstance(v, float | int) for v in found)
    if not numbers or len(found) != inputs[1] + 1 or abs(sum(found) - 1) < 1e-6:
        return None
    return f"your shares sum to {sum(found):.3f}, not to 1"


@check
def shares(student: Function, seed: int = 0) -> None:
    """Exercise 5.2: `shares(momentum, batches)`: what a running mean is made of."""
    trials = [(0.1, 3), (0.25, 4), (0.5, 2), (0.05, 10 + seed % 20), (0.3, 1), (0.2, 0)]
    judge_trials(student, trials, _right_shares, _SHARE_MISTAKES, _wrong_sum)
    passed(student)
