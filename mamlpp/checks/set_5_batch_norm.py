"""Checks of set 5: batch norm per step (5.1 and 5.2; the paper, section 4)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mamlpp.checks.core import Function, passed
from mamlpp.checks.inputs import check, generator, normal, pick
from mamlpp.checks.judging import judge_trials


def _batch_norm(
    dims: int | tuple[int, ...] = (0, 2, 3),
    correction: int = 0,
    scale: Callable[[Tensor, float], Tensor] = lambda variance, eps: torch.sqrt(variance + eps),
    use: str = "weight bias",
    constant: str = "",
) -> Function:
    """Batch norm; each option is a mistake: other dimensions, another scale, parts left out."""

    def normalised(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        variance, mean = torch.var_mean(x, dims, correction=correction, keepdim=True)
        mean = mean.detach() if "mean" in constant else mean
        variance = variance.detach() if "variance" in constant else variance
        y = (x - mean) / scale(variance, eps)
        y = y * weight.view(1, -1, 1, 1) if "weight" in use else y
        return y + bias.view(1, -1, 1, 1) if "bias" in use else y

    return normalised


def _bias_first(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    shifted = _batch_norm(use="bias")(x, torch.ones_like(weight), bias, eps)
    return shifted * weight.view(1, -1, 1, 1)


def _swapped(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return _batch_norm()(x, bias, weight, eps)


def _along_width(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return _batch_norm(use="")(x, weight, bias, eps) * weight + bias


def _without_keepdim(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    y = (x - mean) / torch.sqrt(variance + eps)
    return y * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)


def _without_mean(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    variance = x.var((0, 2, 3), correction=0, keepdim=True)
    y = x / torch.sqrt(variance + eps)
    return y * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)


_NORM_MISTAKES: dict[str, Function] = {
    "the statistics lost their keepdim=True, so that their shape [F] does not line up with the "
    "channels": _without_keepdim,
    "weight and bias [F] do not line up with the channels: use weight.view(1, -1, 1, 1)": (
        _along_width
    ),
    "the variance divides by the count, not by the count less one: correction=0": _batch_norm(
        correction=1
    ),
    "each image is normalised by itself (that is instance norm): average over the images too": (
        _batch_norm(dims=(2, 3))
    ),
    "each image is normalised over all its channels (that is layer norm): average over the images, "
    "and not over the channels": _batch_norm(dims=(1, 2, 3)),
    "one mean for all channels: each channel has its own": _batch_norm(dims=(0, 1, 2, 3)),
    "each pixel has a mean of its own: average over height and width too": _batch_norm(dims=0),
    "it averages over images and channels: average over dimensions 0, 2 and 3": _batch_norm(
        dims=(0, 1)
    ),
    "each place of an image is normalised over its channels: average over all but the channels": (
        _batch_norm(dims=1)
    ),
    "it divides by the variance: take the square root": _batch_norm(
        scale=lambda variance, eps: variance + eps
    ),
    "it multiplies by the deviation: divide by it": _batch_norm(
        scale=lambda variance, eps: 1 / torch.sqrt(variance + eps)
    ),
    "eps is outside of the root: √(variance + eps)": _batch_norm(
        scale=lambda variance, eps: variance.sqrt() + eps
    ),
    "eps is missing: √(variance + eps)": _batch_norm(scale=lambda variance, eps: variance.sqrt()),
    "`eps` is an argument: it is not always 1e-5": _batch_norm(
        scale=lambda variance, eps: torch.sqrt(variance + 1e-5)
    ),
    "the mean is not subtracted": _without_mean,
    "weight and bias are missing": _batch_norm(use=""),
    "the weight is missing": _batch_norm(use="bias"),
    "the bias is missing": _batch_norm(use="weight"),
    "weight and bias are swapped: the weight multiplies, the bias is added": _swapped,
    "the bias is added before the weight multiplies: scale first, then shift": _bias_first,
    "the numbers are right, but mean and variance entered as constants (.detach() or no_grad): a "
    "gradient must come back through them too": _batch_norm(constant="mean variance"),
}


@check
def normalise(student: Function, seed: int = 0) -> None:
    """Exercise 5.1: `normalise(x, weight, bias, eps)`: batch norm by the batch's own statistics."""

    def inputs(shape: tuple[int, ...], eps: float, dtype: torch.dtype) -> tuple[Any, ...]:
        draw, channels = generator(seed), shape[1]
        x = 0.3 * normal(draw, *shape) + 2 * normal(draw, channels).view(1, -1, 1, 1)
        weight, bias = 1 + 0.3 * normal(draw, channels), normal(draw, channels)
        return *(t.to(dtype).requires_grad_() for t in (x, weight, bias)), eps

    kinds: list[Any] = [((4, 3, 2, 5), 0.05, torch.float64), ((5, 4, 4, 4), 0.1, torch.float64)]
    trials = [partial(inputs, *kind) for kind in (*kinds, ((2, 1, 3, 2), 0.2, torch.float32))]
    judge_trials(student, trials, _batch_norm(), _NORM_MISTAKES)
    passed(student)


def _moved(
    row: Callable[[int, int], int] = lambda step, rows: min(step, rows - 1),
    blend: Callable[[Tensor, Tensor, float], Tensor] = lambda old, new, m: (1 - m) * old + m * new,
) -> Function:
    """Running statistics of which one row has moved."""

    def moved(running: Tensor, step: int, batch: Tensor, momentum: float) -> Tensor:
        new, place = running.clone(), row(step, len(running))
        new[place] = blend(running[place], batch, momentum)
        return new

    return moved


def _all_rows(running: Tensor, step: int, batch: Tensor, momentum: float) -> Tensor:
    return (1 - momentum) * running + momentum * batch


def _column(running: Tensor, step: int, batch: Tensor, momentum: float) -> Tensor:
    new, place = running.clone(), min(step, len(running) - 1)
    new[:, place] = (1 - momentum) * running[:, place] + momentum * batch
    return new


def _one_row(running: Tensor, step: int, batch: Tensor, momentum: float) -> Tensor:
    return _moved()(running, step, batch, momentum)[min(step, len(running) - 1)]


def _nothing_beyond(running: Tensor, step: int, batch: Tensor, momentum: float) -> Tensor:
    return _moved()(running, step, batch, momentum) if step < len(running) else running.clone()


_UPDATE_MISTAKES: dict[str, Function] = {
    "a step beyond the last row has no row of its own: use the last one, min(step, len(running) − "
    "1)": _moved(row=lambda step, rows: step),
    "steps beyond the last row are ignored: they should move the last row": _nothing_beyond,
    "steps beyond the last row start again from the first: they should use the last": _moved(
        row=lambda step, rows: step % rows
    ),
    "steps beyond the last row use the one before the last: min(step, len(running) − 1)": _moved(
        row=lambda step, rows: step if step < rows else rows - 2
    ),
    "the row is one too low: row i belongs to step i, and row 0 to the unadapted weights": _moved(
        row=lambda step, rows: min(step, rows - 1) - 1
    ),
    "the row is one too high: row i belongs to step i, and row 0 to the unadapted weights": _moved(
        row=lambda step, rows: min(step + 1, rows - 1)
    ),
    "it always moves the first row: `step` says which one": _moved(row=lambda step, rows: 0),
    "it always moves the last row: `step` says which one": _moved(row=lambda step, rows: -1),
    "it moves a column: the rows are the steps, running[step] and not running[:, step]": _column,
    "all rows moved: only the row of the step should": _all_rows,
    "old and new are swapped: `momentum` is the batch's share, and the old values keep the rest": (
        _moved(blend=lambda old, new, m: m * old + (1 - m) * new)
    ),
    "`momentum` is an argument: it is not always 0.1": _moved(
        blend=lambda old, new, m: 0.9 * old + 0.1 * new
    ),
    "the row becomes the batch's statistics: it should only move towards them": _moved(
        blend=lambda old, new, m: new
    ),
    "it returns the moved row alone: all rows are asked for, the others as they were": _one_row,
    "the old values do not shrink, so that the sum grows for ever: (1 − m)·old + m·new": _moved(
        blend=lambda old, new, m: old + m * new
    ),
    "the row moves away from the batch: (1 − m)·old + m·new": _moved(
        blend=lambda old, new, m: old - m * (new - old)
    ),
    "the running statistics come back as they were": lambda running, *_: running.clone(),
}


@check
def update_running(student: Function, seed: int = 0) -> None:
    """Exercise 5.2: `update_running(running, step, batch, momentum)`: one row has moved."""
    draw, trials = generator(seed), []
    kinds = [(3, 1, 2, 0.1), (4, 0, 3, 0.25), (4, 2, 3, 0.05), (6, 5, 2, 0.3), (3, 3, 2, 0.2)]
    for rows, step, features, momentum in [*kinds, (4, 6, 3, pick(draw, [0.15, 0.4]))]:
        running, batch = normal(draw, rows, features), normal(draw, features)
        trials.append((running, step, batch, momentum))
    running, step, batch, momentum = trials[0]
    trials.append((running.float(), step, batch.float(), momentum))
    judge_trials(student, trials, _moved(), _UPDATE_MISTAKES)
    passed(student)
