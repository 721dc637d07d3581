"""Checks of set 4: derivative-order annealing and cosine annealing (paper, section 4)."""

import math
import operator
from collections.abc import Callable, Iterable
from typing import Any

from mamlpp import schedules
from mamlpp.checks.core import Function, passed
from mamlpp.checks.inputs import check, generator, pick, uniform
from mamlpp.checks.judging import judge_trials
from mamlpp.checks.testing import judge_test


def _seconds(first_order_epochs: Callable[[int, int], int], for_none: Any = None) -> Function:
    """The seconds of a training, from how many of its epochs are of first order."""

    def seconds(epochs: int, start: int | None, first: float, second: float) -> float:
        count = epochs if start is None else first_order_epochs(epochs, start)
        if start is None and for_none is not None:
            count = for_none
        return count * first + (epochs - count) * second

    return seconds


_right_seconds = _seconds(lambda epochs, start: min(start, epochs))


def _over_the_end(second_order_epochs: Callable[[int, int], int]) -> Function:
    """The seconds of a training that has as many epochs of first order as the switch says."""

    def seconds(epochs: int, start: int | None, first: float, second: float) -> float:
        count = epochs if start is None else start
        return count * first + second_order_epochs(epochs - count, 0) * second

    return seconds


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
    "the epochs of second order stop at 0, but those of first order go beyond the training": (
        _over_the_end(max)
    ),
    "the epochs of second order become negative: bound them, instead of taking abs()": (
        _over_the_end(lambda left, _: abs(left))
    ),
    "it returns minutes: seconds are asked for": lambda n, start, first, second: (
        _right_seconds(n, start, first, second) / 60
    ),
    "it takes the mean of the two times for all epochs: the switch says how many are of each": (
        lambda n, start, first, second: n * (first + second) / 2
    ),
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
    "0 is taken for None, and a training may end before the switch": (
        lambda n, start, first, second: start * first + (n - start) * second if start else n * first
    ),
    "where the training ends before the switch, all of it is of first order": (
        lambda n, start, first, second: (
            n * second
            if start is not None and start > n
            else _right_seconds(n, start, first, second)
        )
    ),
    "epochs are counted from 0: yours are 1, 2, … up to `epochs`": (
        lambda n, start, first, second: sum(
            first if epoch < (n if start is None else start) else second
            for epoch in range(1, n + 1)
        )
    ),
    "an epoch of second order takes its own seconds, not those of first order on top": (
        lambda n, start, first, second: _right_seconds(n, start, first, first + second)
    ),
    "None means never, and a training of first order takes time too": (
        lambda n, start, first, second: (
            0.0 if start is None else _right_seconds(n, start, first, second)
        )
    ),
}


@check
def training_time(student: Function, seed: int = 0) -> None:
    """Exercise 4.1: `training_time(epochs, second_order_from, …, …)`, in seconds."""
    draw, trials = generator(seed), []
    for epochs, start in ((150, 50), (4, 1), (60, 0), (80, 80), (30, 400), (400, None)):
        first = pick(draw, [1.5, 2.0, 3.0])
        trials.append((epochs, start, first, pick(draw, [4.5, 5.0, 7.0])))
    judge_trials(student, trials, _right_seconds, _TIME_MISTAKES)
    passed(student)


def _extra(epochs: int, seconds: int, first: int, second: int) -> float:
    """How many epochs of second order there is time for, not rounded and not bounded."""
    return (seconds - epochs * first) / (second - first)


def _by_count(
    second_order_epochs: Callable[[int, int, int, int], float], lowest: int | None = 0
) -> Function:
    """The switch, from how many epochs of second order there is time for."""

    def switch(epochs: int, seconds: int, first: int, second: int) -> float:
        start = epochs - max(second_order_epochs(epochs, seconds, first, second), 0)
        return start if lowest is None else max(start, lowest)

    return switch


_right_switch = _by_count(lambda *given: math.floor(_extra(*given)))


def _searched(
    places: Callable[[int], Iterable[int]], too_long: Callable[[float, float], bool] = operator.gt
) -> Function:
    """The first switch, of those in these places, with which the training is not too long."""

    def switch(epochs: int, seconds: int, first: int, second: int) -> int:
        for start in places(epochs):
            if not too_long(_right_seconds(epochs, start, first, second), seconds):
                return start
        return epochs

    return switch


def _changed(change: Callable[[Any, int], Any]) -> Function:
    """What `change` makes of the right switch and the number of epochs."""
    return lambda epochs, *given: change(_right_switch(epochs, *given), epochs)


_SWITCH_MISTAKES: dict[str, Function] = {
    "where no epoch of second order fits, the switch is `epochs`: 0 would mean always": _changed(
        lambda start, epochs: start % epochs
    ),
    "where no epoch of second order fits, the switch is `epochs`: that comes after the last": (
        _changed(lambda start, epochs: min(start, epochs - 1))
    ),
    "it returns -1 where no epoch of second order fits: `epochs` is asked for": _changed(
        lambda start, epochs: -1 if start == epochs else start
    ),
    "there can be more time than all epochs need: the switch is never below 0": _by_count(
        lambda *given: math.floor(_extra(*given)), lowest=None
    ),
    "where there is time to spare, all epochs are of second order: the switch is 0": (
        lambda epochs, *given: (
            epochs if _extra(epochs, *given) > epochs else _right_switch(epochs, *given)
        )
    ),
    "this is how many epochs are of second order: the epoch at which they begin is asked for": (
        _changed(lambda start, epochs: epochs - start)
    ),
    "it rounds up, so that the training takes longer than it may": _by_count(
        lambda *given: math.ceil(_extra(*given))
    ),
    "it rounds to the nearest: then the training can take longer than it may": _by_count(
        lambda *given: round(_extra(*given))
    ),
    "a whole epoch is asked for: how many epochs of second order fit entirely?": _by_count(_extra),
    "one epoch too early: the training takes longer than it may": _by_count(
        lambda *given: math.floor(_extra(*given)) + 1
    ),
    "one epoch too late: there is time for one more epoch of second order": _changed(
        lambda start, epochs: start + 1
    ),
    "a training that takes exactly `seconds` is allowed (<=, not <)": _searched(range, operator.ge),
    "an epoch of second order replaces one of first order: it costs only the difference more": (
        _by_count(lambda n, seconds, first, second: (seconds - n * first) // second)
    ),
    "the epochs of first order take time too": _by_count(
        lambda n, seconds, first, second: seconds // second
    ),
    "it is the latest switch: second order should begin as early as there is time for": _changed(
        lambda start, epochs: epochs
    ),
    "it returns 0 whatever the time: compare the time of each switch with `seconds`; or are the "
    "two times swapped?": lambda *given: 0,
    "it is either 0 or `epochs`: a switch in the middle is possible too": _changed(
        lambda start, epochs: epochs if start else 0
    ),
    "0 is a switch too: try it first": _searched(lambda epochs: range(1, epochs)),
    "the last epoch, epochs − 1, can be the switch too": _searched(
        lambda epochs: range(epochs - 1)
    ),
    "it returns the seconds of the training: the switch is asked for": (
        lambda n, seconds, first, second: _right_seconds(
            n, _right_switch(n, seconds, first, second), first, second
        )
    ),
    "it returns the time that is left over: the switch is asked for": (
        lambda n, seconds, first, second: (
            seconds - _right_seconds(n, _right_switch(n, seconds, first, second), first, second)
        )
    ),
    "it returns a share of the training: the epoch is asked for": _changed(
        lambda start, epochs: start / epochs
    ),
    "`epochs` is an argument: it is not always 150": lambda n, *given: _right_switch(150, *given),
    "it is the paper's switch, 50, whatever the time": lambda *given: 50,
}


@check
def earliest_switch(student: Function, seed: int = 0) -> None:
    """Exercise 4.2: `earliest_switch(epochs, seconds, …, …)`: second order as early as it fits."""
    draw = generator(seed)
    trials = [
        *((150, seconds, 10, 16) for seconds in (2100, 1500, 1505, 2400, 9000, 1506)),
        *((40, seconds, 3, 8) for seconds in (160, 161, 163, 315, 319)),
    ]
    for epochs in (20, 60, 200):
        first = pick(draw, [5, 7, 11])
        more = pick(draw, [2, 3, 9])
        count = pick(draw, [1, 4, 13])
        trials.append((epochs, epochs * first + count * more + 1, first, first + more))
    judge_trials(student, trials, _right_switch, _SWITCH_MISTAKES)
    passed(student)


Epoch = Callable[[float, float, float, float], float]


def _from_the_decision(go_on: Epoch) -> Function:
    """As planned up to the decision; `go_on` says which epoch comes after it."""

    def schedule_epoch(planned: float, extended: float, decided: float, epoch: float) -> float:
        return epoch if epoch <= decided else go_on(planned, extended, decided, epoch)

    return schedule_epoch


def _stretched(planned: float, extended: float, decided: float, epoch: float) -> float:
    done = min((epoch - decided) / (extended - decided), 1)
    return decided + done * (planned - decided)


_STRETCH_MISTAKES: dict[str, Function] = {
    "it stretches what is past as well, so that the rate jumps at the decision: only the epochs "
    "after it can still change": lambda planned, extended, decided, epoch: (
        min(epoch, extended) * planned / extended
    ),
    "the schedule ends when it was planned to, and the rest is trained at the minimum": (
        lambda planned, extended, decided, epoch: min(epoch, planned)
    ),
    "the plan goes on unchanged after the decision": lambda planned, extended, decided, epoch: min(
        epoch, extended
    ),
    "it runs on after the last epoch: the schedule ends at `planned`": _from_the_decision(
        lambda planned, extended, decided, epoch: (
            decided + (epoch - decided) / (extended - decided) * (planned - decided)
        )
    ),
    "it starts again at 0 after the decision: go on from where the schedule was": (
        _from_the_decision(
            lambda planned, extended, decided, epoch: (
                min((epoch - decided) / (extended - decided), 1) * planned
            )
        )
    ),
    "what was done before the decision is not added: go on from `decided`": _from_the_decision(
        lambda planned, extended, decided, epoch: (
            _stretched(planned, extended, decided, epoch) - decided
        )
    ),
    "the last epoch of the schedule is `planned`, however long the training is": (
        _from_the_decision(
            lambda planned, extended, decided, epoch: (
                decided + min((epoch - decided) / (planned - decided), 1) * (extended - decided)
            )
        )
    ),
    "the epochs that are left are stretched: the ratio is (planned − decided) / (extended − "
    "decided), not planned / extended": _from_the_decision(
        lambda planned, extended, decided, epoch: (
            decided + (min(epoch, extended) - decided) * planned / extended
        )
    ),
    "the epochs that are left to train are extended − decided, not extended": _from_the_decision(
        lambda planned, extended, decided, epoch: (
            decided + (min(epoch, extended) - decided) * (planned - decided) / extended
        )
    ),
    "the schedule goes backwards after the decision: add, do not subtract": _from_the_decision(
        lambda planned, extended, decided, epoch: (
            2 * decided - _stretched(planned, extended, decided, epoch)
        )
    ),
    "these are whole epochs of the schedule: use / instead of //": _from_the_decision(
        lambda planned, extended, decided, epoch: (
            decided + (min(epoch, extended) - decided) * (planned - decided) // (extended - decided)
        )
    ),
    "it stands still from the decision on": _from_the_decision(
        lambda planned, extended, decided, epoch: decided
    ),
    "it jumps to the end at the decision": _from_the_decision(
        lambda planned, extended, decided, epoch: planned
    ),
    "the epoch may be a fraction: do not round it": lambda planned, extended, decided, epoch: (
        _from_the_decision(_stretched)(planned, extended, decided, int(epoch))
    ),
    "it returns a rate, or a part of the way: the epoch of the schedule is asked for": (
        lambda planned, extended, decided, epoch: (
            _from_the_decision(_stretched)(planned, extended, decided, epoch) / planned
        )
    ),
    "`planned` is an argument: it is not always 100": lambda planned, extended, decided, epoch: (
        _from_the_decision(_stretched)(100, extended, decided, epoch)
    ),
    "the ratio is upside down: (planned − decided) / (extended − decided)": _from_the_decision(
        lambda planned, extended, decided, epoch: min(
            decided + (epoch - decided) * (extended - decided) / (planned - decided), planned
        )
    ),
    "it jumps at the decision: only the epochs that are left are stretched": (
        lambda planned, extended, decided, epoch: (
            epoch if epoch < decided else min(epoch * planned / extended, planned)
        )
    ),
    "what is left of the schedule is planned − decided, not all of it": _from_the_decision(
        lambda planned, extended, decided, epoch: (
            decided + min((epoch - decided) / (extended - decided), 1) * planned
        )
    ),
    "the epochs that are left to train begin at `decided`, not at `planned`": (
        _from_the_decision(
            lambda planned, extended, decided, epoch: (
                decided + min((epoch - decided) / (extended - planned), 1) * (planned - decided)
            )
        )
    ),
    "it rounds: an epoch of the schedule may be a fraction": _from_the_decision(
        lambda planned, extended, decided, epoch: round(
            _stretched(planned, extended, decided, epoch)
        )
    ),
    "the schedule ends with the training, at `extended`, not at the epoch `planned`": (
        _from_the_decision(
            lambda planned, extended, decided, epoch: (
                planned
                if epoch >= planned
                else decided + (epoch - decided) / (extended - decided) * (planned - decided)
            )
        )
    ),
    "the line holds only after the decision: before it the schedule is read at `epoch`": _stretched,
}


@check
def schedule_epoch(student: Function, seed: int = 0) -> None:
    """Exercise 4.3: `schedule_epoch(planned, extended, decided, epoch)`: a plan, stretched."""
    draw = generator(seed)
    trials: list[tuple[Any, ...]] = [(100, 150, 60, epoch) for epoch in (20, 60, 105, 150, 200)]
    for planned, extended in ((80, 200), (60, 90), (120, 70), (40, 50)):
        decided = pick(draw, [10, 20, 30])
        trials.append((planned, extended, decided, decided + uniform(draw, 3.1, 9.9)))
        trials.append((planned, extended, decided, uniform(draw, 0.6, 8.9)))
    trials.append((120, 70, 30, 90))
    judge_trials(student, trials, _from_the_decision(_stretched), _STRETCH_MISTAKES)
    passed(student)


# Exercise 4.4: schedules (rate, minimum, epochs, epoch) for a test of the bounded T.


def _folded(rate: float, minimum: float, epochs: float, epoch: float) -> float:
    """Right as well, written otherwise: cos² of half the angle."""
    angle = math.pi / 2 * min(epoch / epochs, 1.0)
    return minimum + (rate - minimum) * math.cos(angle) ** 2


def _unbounded(rate: float, minimum: float, epochs: float, epoch: float) -> float:
    return minimum + (rate - minimum) * (1 + math.cos(math.pi * epoch / epochs)) / 2


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
    "the epochs for example": _unbounded,
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
