"""Checks of set 4: derivative-order annealing and cosine annealing (paper, section 4)."""

import math
from collections.abc import Callable
from typing import Any

from mamlpp import schedules
from mamlpp.checks.core import Function, passed
from mamlpp.checks.inputs import check, generator, pick, uniform
from mamlpp.checks.judging import judge_trials
from mamlpp.checks.testing import judge_test

_ORDER_MISTAKES: dict[str, Function] = {
    "None means never: it cannot be compared with an epoch, so ask `is not None` first": (
        lambda start, epoch: epoch >= start
    ),
    "one epoch late: the switch's own epoch is of second order already (>=, not >)": (
        lambda start, epoch: start is not None and epoch > start
    ),
    "one epoch early: the first epoch of second order is `second_order_from` itself": (
        lambda start, epoch: start is not None and epoch >= start - 1
    ),
    "the epoch may be a fraction: do not round it": lambda start, epoch: (
        start is not None and int(epoch) >= start
    ),
    "the switch may be a fraction: do not round it": lambda start, epoch: (
        start is not None and epoch >= int(start)
    ),
    "the other way round: the epochs before the switch are of first order": (
        lambda start, epoch: start is None or epoch < start
    ),
    "0 means always, None means never: `if not second_order_from` takes 0 for None": (
        lambda start, epoch: bool(start) and epoch >= start
    ),
    "None means never, not always": lambda start, epoch: start is None or epoch >= start,
    "it is of second order in one epoch alone: it stays so from then on": (
        lambda start, epoch: start is not None and epoch == start
    ),
    "it is always of second order: look at the epoch": lambda start, epoch: start is not None,
    "it returns 1 or 2: True or False is asked for": lambda start, epoch: (
        1 + schedules.second_order(start, epoch)
    ),
    "it returns 0 or 1: True or False is asked for": lambda start, epoch: int(
        schedules.second_order(start, epoch)
    ),
    "it returns a string: True or False is asked for": lambda start, epoch: str(
        schedules.second_order(start, epoch)
    ),
}


@check
def second_order(student: Function, seed: int = 0) -> None:
    """Exercise 4.1: `second_order(second_order_from, epoch)`: from that epoch on; None: never."""
    switch = pick(generator(seed), [7, 12, 20])
    trials = [
        *((switch, epoch) for epoch in (0, switch - 0.5, switch, switch + 3)),
        *((switch + 0.5, epoch) for epoch in (switch, switch + 0.25, switch + 0.75)),
        *((0, 0), (0, 7), (None, 0), (None, 500)),
    ]
    judge_trials(student, trials, schedules.second_order, _ORDER_MISTAKES)
    passed(student)


def _seconds(first_order_epochs: Callable[[int, int], int], for_none: Any = None) -> Function:
    """The seconds of a training, from how many of its epochs are of first order."""

    def seconds(epochs: int, start: int | None, first: float, second: float) -> float:
        count = epochs if start is None else first_order_epochs(epochs, start)
        if start is None and for_none is not None:
            count = for_none
        return count * first + (epochs - count) * second

    return seconds


_right_seconds = _seconds(lambda epochs, start: min(start, epochs))

_TIME_MISTAKES: dict[str, Function] = {
    "None means that no epoch is of second order: it is no number, so handle it first": (
        lambda n, start, first, second: min(start, n) * first + (n - min(start, n)) * second
    ),
    "None means that no epoch is of second order: all are of first order": _seconds(
        lambda epochs, start: min(start, epochs), for_none=0
    ),
    "0 means always, None means never: `if not second_order_from` takes 0 for None": (
        lambda n, start, first, second: _right_seconds(n, start or None, first, second)
    ),
    "None stands for a switch at epoch 150: a training may be longer": (
        lambda n, start, first, second: _right_seconds(
            n, 150 if start is None else start, first, second
        )
    ),
    "it counts wrongly where the training ends before the switch, and None is no number": (
        lambda n, start, first, second: start * first + (n - start) * second
    ),
    "a training cannot have more epochs of first order than it has epochs: it may end before the "
    "switch": _seconds(lambda epochs, start: start),
    "the two times are swapped: the epochs before the switch are of first order": (
        lambda n, start, first, second: _right_seconds(n, start, second, first)
    ),
    "one epoch too many is of first order: epochs are counted from 0, and the switch's own is of "
    "second order": _seconds(lambda epochs, start: min(start + 1, epochs)),
    "one epoch too few is of first order: 0, 1, … up to the switch are": _seconds(
        lambda epochs, start: max(min(start - 1, epochs), 0)
    ),
    "it counts the second-order epochs alone: the first-order epochs take time too": (
        lambda n, start, first, second: _right_seconds(n, start, 0.0, second)
    ),
    "it counts the first-order epochs alone: the second-order epochs take time too": (
        lambda n, start, first, second: _right_seconds(n, start, first, 0.0)
    ),
    "it returns the seconds of an average epoch: those of the whole training are asked for": (
        lambda n, start, first, second: _right_seconds(n, start, first, second) / n
    ),
    "it returns how many epochs are of first order, not seconds": lambda n, start, first, second: (
        n if start is None else min(start, n)
    ),
    "`epochs` is an argument: it is not always 150": (
        lambda n, start, first, second: _right_seconds(150, start, first, second)
    ),
    "it has one epoch too many: `epochs` epochs are numbered from 0 to epochs − 1": (
        lambda n, start, first, second: _right_seconds(n + 1, start, first, second)
    ),
    "it has one epoch too few: `epochs` epochs are numbered from 0 to epochs − 1": (
        lambda n, start, first, second: _right_seconds(n - 1, start, first, second)
    ),
    "second order is forgotten: only the epochs before the switch are of first order": (
        lambda n, start, first, second: n * first
    ),
}


@check
def training_time(student: Function, seed: int = 0) -> None:
    """Exercise 4.2: `training_time(epochs, second_order_from, …, …)`, in seconds."""
    draw, trials = generator(seed), []
    for epochs, start in ((150, 50), (4, 1), (60, 0), (80, 80), (30, 400), (400, None)):
        first = pick(draw, [1.5, 2.0, 3.0])
        trials.append((epochs, start, first, pick(draw, [4.5, 5.0, 7.0])))
    judge_trials(student, trials, _right_seconds, _TIME_MISTAKES)
    passed(student)


def _cosine(
    angle: Callable[[float, float], float] = lambda n, t: math.pi * t / n,
    rate: Callable[[float, float, float], float] = lambda high, low, share: (
        low + (high - low) * share
    ),
) -> Function:
    """A rate from the share (1 + cos angle) / 2 of the way that is still to go."""

    def cosine_rate(high: float, low: float, epochs: float, epoch: float) -> float:
        return rate(high, low, (1 + math.cos(angle(epochs, epoch))) / 2)

    return cosine_rate


_COSINE_MISTAKES: dict[str, Function] = {
    "the epoch may be a fraction: do not round it": _cosine(lambda n, t: math.pi * int(t) / n),
    "the half is missing: 1 + cos goes from 2 to 0": _cosine(
        rate=lambda high, low, share: low + (high - low) * 2 * share
    ),
    "it rises where it should fall: 1 + cos, not 1 − cos": _cosine(
        rate=lambda high, low, share: low + (high - low) * (1 - share)
    ),
    "π is missing: at the end of the training the cosine should be −1": _cosine(lambda n, t: t / n),
    "a whole turn of 2π comes up again: the training lasts half a turn": _cosine(
        lambda n, t: 2 * math.pi * t / n
    ),
    "a quarter of a turn, π/2, ends half way: the training lasts half a turn": _cosine(
        lambda n, t: math.pi / 2 * t / n
    ),
    "the angle is in degrees: math.cos takes radians": _cosine(lambda n, t: 180 * t / n),
    "the fraction is upside down: T / T_max": _cosine(lambda n, t: math.pi * n / t if t else 0.0),
    "it starts above the rate: only the difference to the minimum is annealed": _cosine(
        rate=lambda high, low, share: low + high * share
    ),
    "it ends at zero: the minimum is missing": _cosine(rate=lambda high, low, share: high * share),
    "it starts below the rate and ends at zero: the minimum is not added again": _cosine(
        rate=lambda high, low, share: (high - low) * share
    ),
    "it stops the fall with max(…, minimum): the curve itself should end there": _cosine(
        rate=lambda high, low, share: max(high * share, low)
    ),
    "it falls in a straight line: where is the cosine?": lambda high, low, n, t: (
        high - (high - low) * t / n
    ),
    "`minimum` is an argument: it is not always 1e-5": lambda high, low, n, t: _cosine()(
        high, 1e-5, n, t
    ),
    "`epochs` is an argument: it is not always 100": lambda high, low, n, t: _cosine()(
        high, low, 100, t
    ),
    "`rate` is an argument: it is not always 1e-3": lambda high, low, n, t: _cosine()(
        1e-3, low, n, t
    ),
    "the last epoch is `epochs`, not epochs − 1": _cosine(lambda n, t: math.pi * t / (n - 1)),
}


def _wrong_end(inputs: tuple[Any, ...], found: Any) -> str | None:
    rate, minimum, epochs, epoch = inputs
    if not isinstance(found, float | int) or epoch not in (0, epochs):
        return None
    where, right = ("start", rate) if epoch == 0 else ("end", minimum)
    return f"it should {where} at {right:g}, but it is {found:g} there"


@check
def cosine_rate(student: Function, seed: int = 0) -> None:
    """Exercise 4.3: `cosine_rate(rate, minimum, epochs, epoch)` within the training."""
    draw = generator(seed)
    trials: list[tuple[Any, ...]] = [(1e-3, 1e-5, 100, epoch) for epoch in (0, 100, 50, 20)]
    for share in (0.0, 1.0, 0.3, 0.77):
        epochs, rate = pick(draw, [50, 150, 60]), pick(draw, [2e-3, 3e-3, 0.1])
        epoch = round(share * epochs + (0.25 if 0 < share < 1 else 0), 2)
        trials.append((rate, pick(draw, [1e-4, 3e-4, 1e-6]), epochs, epoch))
    trials.append((uniform(draw, 0.1, 0.2), 0.0, 10, 2.5))
    judge_trials(student, trials, schedules.outer_rate, _COSINE_MISTAKES, _wrong_end)
    passed(student)


# Exercise 4.4: schedules (rate, minimum, epochs, epoch) for a test of the bounded T.


def _folded(rate: float, minimum: float, epochs: float, epoch: float) -> float:
    """Right as well, written otherwise: cos² of half the angle."""
    angle = math.pi / 2 * min(epoch / epochs, 1.0)
    return minimum + (rate - minimum) * math.cos(angle) ** 2


def _restarted(rate: float, minimum: float, epochs: float, epoch: float) -> float:
    return schedules.outer_rate(rate, minimum, epochs, epoch % epochs)


def _switched_off(rate: float, minimum: float, epochs: float, epoch: float) -> float:
    return schedules.outer_rate(rate, minimum, epochs, epoch) if epoch <= epochs else 0.0


def _too_long(rate: float, minimum: float, epochs: float, epoch: float) -> float:
    return schedules.outer_rate(rate, minimum, 1.1 * epochs, epoch)


def _flat(rate: float, minimum: float, epochs: float, epoch: float) -> float:
    return minimum


_BROKEN: dict[str, Function] = {
    "it lets a schedule pass that rises again after the last epoch: look there, at 1.5 times "
    "the epochs for example": _cosine(),
    "it lets a schedule pass that starts again after the last epoch: look just behind it, not "
    "only a whole training later": _restarted,
    "it lets a schedule pass that is 0 after the last epoch: there it should be the minimum, "
    "not just small": _switched_off,
    "it lets a schedule pass that reaches the minimum too late: look at the last epoch itself": (
        _too_long
    ),
    "it lets a schedule pass that is at the minimum from the start: look at epoch 0 too": _flat,
}


@check
def bounded_test(student: Function, seed: int = 0) -> None:
    """Exercise 4.4: a test that the schedule ends at its minimum, and stays there."""
    right = {"the package's schedule": schedules.outer_rate, "one with cos²": _folded}
    judge_test(student, right, _BROKEN)
    passed(student)
