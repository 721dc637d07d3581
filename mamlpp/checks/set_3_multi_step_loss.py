"""Checks of set 3: the weights of the multi-step loss, and its cost (3.1, 3.2 and 3.4).

Antoniou et al. 2019, section 4, equation 3.
"""

import math
from collections.abc import Callable
from typing import Any

from mamlpp import schedules
from mamlpp.checks.core import Function, passed
from mamlpp.checks.inputs import check, generator, pick, uniform
from mamlpp.checks.judging import judge_trials


def _all_but_last(steps: int, weight: float) -> list[float]:
    """All but the last loss have this weight, and the last takes the rest."""
    return [weight] * (steps - 1) + [1 - (steps - 1) * weight]


def _wrong_sum(inputs: tuple[Any, ...], found: Any) -> str | None:
    """What to say of weights that do not sum to 1."""
    numbers = isinstance(found, list | tuple) and all(isinstance(v, float | int) for v in found)
    if not numbers or len(found) != inputs[0] or abs(sum(found) - 1) < 0.005:
        return None
    return (
        f"your weights sum to {sum(found):.2f} at epoch {inputs[-1]:g}, not to 1: the last step "
        f"must take what the others lose"
    )


def _weights(fall: Callable[[int, float, float], float]) -> Function:
    """Weights of which all but the last are made from (steps, E, epoch)."""
    return lambda steps, msl_epochs, epoch: _all_but_last(steps, fall(steps, msl_epochs, epoch))


def _right_weights(steps: int, msl_epochs: float, epoch: float) -> list[float]:
    return schedules.step_weights(steps, msl_epochs, 0.0, epoch)


_WEIGHT_MISTAKES: dict[str, Function] = {
    "the epoch may be a fraction: int(epoch) or // makes the weights fall in jumps": _weights(
        lambda n, e, epoch: (1 - min(int(epoch) / e, 1)) / n
    ),
    "the fall goes on below zero: it ends at epoch E": _weights(
        lambda n, e, epoch: (1 - epoch / e) / n
    ),
    "they are all forgotten before epoch E: the fall reaches 0 at epoch E, not one earlier": (
        _weights(lambda n, e, epoch: (1 - min(epoch / (e - 1), 1)) / n)
    ),
    "the fall ends one epoch late: it reaches 0 at epoch E": _weights(
        lambda n, e, epoch: (1 - min(epoch / (e + 1), 1)) / n
    ),
    "it starts with the last step alone and ends with all: the annealing goes the other way": (
        _weights(lambda n, e, epoch: min(epoch / e, 1) / n)
    ),
    "the first step takes what the others lose: it is the last that should": (
        lambda n, e, epoch: _right_weights(n, e, epoch)[::-1]
    ),
    "the weights stay at 1/N: they should move with the epoch": _weights(lambda n, e, epoch: 1 / n),
    "all weights fall together: the last one should take what the others lose": (
        lambda n, e, epoch: [(1 - min(epoch / e, 1)) / n] * n
    ),
    "the last weight is 1 from the start: at epoch 0 it is 1/N, too": (
        lambda n, e, epoch: [(1 - min(epoch / e, 1)) / n] * (n - 1) + [1.0]
    ),
    "nothing moves before epoch E, and all of it then: a straight line is asked for": _weights(
        lambda n, e, epoch: 1 / n if epoch < e else 0.0
    ),
    "only the last step counts from the start: at epoch 0 each step counts 1/N": _weights(
        lambda n, e, epoch: 0.0
    ),
    "each weight falls N times too fast: by 1/(N·E) an epoch, so that it reaches 0 at E": (
        _weights(lambda n, e, epoch: 1 / n - min(epoch / e, 1))
    ),
    "each weight falls N times too fast, and stops at 0: it should reach 0 only at epoch E": (
        _weights(lambda n, e, epoch: max(1 / n - epoch / e, 0.0))
    ),
    "`msl_epochs` is an argument: E is not always the same": _weights(
        lambda n, e, epoch: (1 - min(epoch / 10, 1)) / n
    ),
    "`msl_epochs` is an argument in both places: divide by it, too": _weights(
        lambda n, e, epoch: (1 - min(epoch, e) / 10) / n
    ),
    "it returns the weight of the earlier steps alone: a list of all N is asked for": (
        lambda n, e, epoch: (1 - min(epoch / e, 1)) / n
    ),
    "the weights do not fall in a straight line": _weights(
        lambda n, e, epoch: (1 - min(epoch / e, 1)) ** 2 / n
    ),
    "nothing moves until epoch E is over: a straight line from epoch 0 on is asked for": _weights(
        lambda n, e, epoch: 1 / n if epoch <= e else 0.0
    ),
    "it falls like an exponential: a straight line is asked for, which is 0 at epoch E": _weights(
        lambda n, e, epoch: math.exp(-epoch / e) / n
    ),
    "it falls like a cosine: a straight line is asked for": _weights(
        lambda n, e, epoch: (1 + math.cos(math.pi * min(epoch / e, 1))) / 2 / n
    ),
    "each weight falls N times too slowly: it reaches 0 at epoch E": _weights(
        lambda n, e, epoch: (1 - min(epoch / (e * n), 1)) / n
    ),
    "at epoch 0 each of the N steps counts 1/N, not 1/(N − 1)": _weights(
        lambda n, e, epoch: (1 - min(epoch / e, 1)) / (n - 1)
    ),
    "it rounds the epoch: the weights move between whole epochs too": _weights(
        lambda n, e, epoch: (1 - min(round(epoch) / e, 1)) / n
    ),
    "the step before the last takes what the others lose: the last one should": (
        lambda n, e, epoch: [
            (1 - min(epoch / e, 1)) / n + min(epoch / e, 1) * (i == n - 2) for i in range(n)
        ]
    ),
}


@check
def step_weights(student: Function, seed: int = 0) -> None:
    """Exercise 3.1: `step_weights(steps, msl_epochs, epoch)`: v_1 … v_N, annealed to the last."""
    draw = generator(seed)
    trials: list[tuple[Any, ...]] = [(3, 10, 0.0), (4, 10, 4.0), (3, 10, 10.0)]
    for progress in (0.93, 1.6, 0.37):
        steps, msl_epochs = pick(draw, [2, 3, 5]), pick(draw, [8, 15])
        trials.append((steps, msl_epochs, round(progress * msl_epochs, 2)))
    trials += [(5, 6, 2.75), (1, 10, 3.0)]
    judge_trials(student, trials, _right_weights, _WEIGHT_MISTAKES, _wrong_sum)
    passed(student)


def _with_floor(fall: Callable[[int, float, float, float], float]) -> Function:
    return lambda n, e, floor, epoch: _all_but_last(n, fall(n, e, floor, epoch))


def _to_zero(steps: int, msl_epochs: float, epoch: float) -> float:
    return (1 - min(epoch / msl_epochs, 1)) / steps


def _line(steps: int, msl_epochs: float, floor: float, epoch: float) -> float:
    return 1 / steps + epoch / msl_epochs * (floor - 1 / steps)


_FLOOR_MISTAKES: dict[str, Function] = {
    "the epoch may be a fraction: int(epoch) or // makes the weights fall in jumps": (
        lambda n, e, floor, epoch: schedules.step_weights(n, e, floor, int(epoch))
    ),
    "it falls to zero: from epoch E on, each earlier step still counts `floor`": _with_floor(
        lambda n, e, floor, epoch: _to_zero(n, e, epoch)
    ),
    "it clips a fall to zero at the floor, so the floor is reached before epoch E; a straight line "
    "from 1/N to the floor is asked for": _with_floor(
        lambda n, e, floor, epoch: max(_to_zero(n, e, epoch), floor)
    ),
    "the floor is added to a fall to zero, so at epoch 0 each step counts more than 1/N": (
        _with_floor(lambda n, e, floor, epoch: _to_zero(n, e, epoch) + floor)
    ),
    "it drops to the last step alone at epoch E, as published code does: the floor is never "
    "reached": _with_floor(
        lambda n, e, floor, epoch: 0.0 if epoch >= e else _line(n, e, floor, epoch)
    ),
    "the fall goes on after epoch E, below the floor": _with_floor(_line),
    "the earlier steps stand at the floor from the start: they fall to it from 1/N": _with_floor(
        lambda n, e, floor, epoch: floor
    ),
    "the line starts at 1, not at 1/N": _with_floor(
        lambda n, e, floor, epoch: 1 + min(epoch / e, 1) * (floor - 1)
    ),
    "the line ends at floor/N: it should end at `floor`": _with_floor(
        lambda n, e, floor, epoch: _line(n, e, floor / n, min(epoch, e))
    ),
    "the floor is reached one epoch early": _with_floor(
        lambda n, e, floor, epoch: _line(n, e - 1, floor, min(epoch, e - 1))
    ),
    "the floor is that of each earlier step, and is not shared by them": _with_floor(
        lambda n, e, floor, epoch: _line(n, e, floor / max(n - 1, 1), min(epoch, e))
    ),
    "the fall stops at floor/N: a straight line to the floor is asked for": _with_floor(
        lambda n, e, floor, epoch: max(_to_zero(n, e, epoch), floor / n)
    ),
    "`floor` is an argument: it is not always the same": _with_floor(
        lambda n, e, floor, epoch: _line(n, e, 0.03, min(epoch, e))
    ),
    "`msl_epochs` is an argument: E is not always the same": _with_floor(
        lambda n, e, floor, epoch: _line(n, 10, floor, min(epoch, 10))
    ),
    "the first step takes what the others lose: it is the last that should": (
        lambda n, e, floor, epoch: schedules.step_weights(n, e, floor, epoch)[::-1]
    ),
    "it rounds the epoch: the weights move between whole epochs too": (
        lambda n, e, floor, epoch: schedules.step_weights(n, e, floor, round(epoch))
    ),
    "the line runs the other way: it starts at 1/N and ends at the floor": _with_floor(
        lambda n, e, floor, epoch: _line(n, e, floor, e - min(epoch, e))
    ),
    "the line is too low by the floor: it falls from 1/N to `floor`, not from 1/N − floor to 0": (
        _with_floor(lambda n, e, floor, epoch: _line(n, e, floor, min(epoch, e)) - floor)
    ),
    "it falls towards 0, and at epoch E it jumps to the floor: go there in a straight line": (
        _with_floor(lambda n, e, floor, epoch: _to_zero(n, e, epoch) if epoch < e else floor)
    ),
    "nothing moves before epoch E: a straight line from epoch 0 on is asked for": _with_floor(
        lambda n, e, floor, epoch: 1 / n if epoch < e else floor
    ),
    "the weights fall by a share `floor` of themselves: they fall to `floor`": _with_floor(
        lambda n, e, floor, epoch: (1 - min(epoch / e, 1) * floor) / n
    ),
    "it begins above 1/N: (1 − done)/N + done · floor begins there": _with_floor(
        lambda n, e, floor, epoch: (1 - floor) * _to_zero(n, e, epoch) + floor
    ),
}


@check
def step_weights_floor(student: Function, seed: int = 0) -> None:
    """Exercise 3.2: the same, but the others fall linearly to `floor`, and stay there."""
    draw = generator(seed)
    trials: list[tuple[Any, ...]] = [(4, 10, 0.03, 0.0), (4, 10, 0.03, 5.0), (4, 10, 0.03, 10.0)]
    for progress in (0.93, 1.0, 2.0, 0.33):
        steps, msl_epochs = pick(draw, [2, 3, 5]), pick(draw, [8, 15])
        epoch = round(progress * msl_epochs, 2)
        trials.append((steps, msl_epochs, uniform(draw, 0.04, 0.15), epoch))
    trials.append((3, 6, 0.0, 4.5))
    judge_trials(student, trials, schedules.step_weights, _FLOOR_MISTAKES, _wrong_sum)
    passed(student)


def _count(epochs_with_all: Callable[[int, float, int], int]) -> Function:
    """How many losses there are, from how many epochs compute all N of them."""

    def count(steps: int, msl_epochs: int, floor: float, epochs: int) -> int:
        with_all = epochs_with_all(msl_epochs, floor, epochs)
        return with_all * steps + epochs - with_all

    return count


_COUNT_MISTAKES: dict[str, Function] = {
    "with a floor above 0 no weight ever becomes 0, so that all N losses are computed to the end": (
        _count(lambda e, floor, epochs: min(e, epochs))
    ),
    "from epoch E on only the last loss counts: without a floor the others are not computed any "
    "more": _count(lambda e, floor, epochs: epochs),
    "one epoch too many: at epoch E the weights of the others are 0 already": _count(
        lambda e, floor, epochs: epochs if floor else min(e + 1, epochs)
    ),
    "one epoch too few: epochs are counted from 0, so E of them come before epoch E": _count(
        lambda e, floor, epochs: epochs if floor else min(e - 1, epochs)
    ),
    "after epoch E one loss is still computed, the last": lambda n, e, floor, epochs: (
        n * (epochs if floor else min(e, epochs))
    ),
    "the training may end before epoch E": _count(lambda e, floor, epochs: epochs if floor else e),
    "before epoch E all N losses are computed, the last one too": lambda n, e, floor, epochs: (
        (n - 1) * (epochs if floor else min(e, epochs))
    ),
    "before epoch E all N losses are computed: the last of them is counted twice": (
        lambda n, e, floor, epochs: n * (epochs if floor else min(e, epochs)) + epochs
    ),
    "it counts one loss in each epoch: that is plain MAML": lambda n, e, floor, epochs: epochs,
    "it counts one epoch alone: count the whole training": lambda n, e, floor, epochs: n,
    "`msl_epochs` is an argument: E is not always 10": lambda n, e, floor, epochs: _count(
        lambda _, floor, epochs: epochs if floor else min(10, epochs)
    )(n, e, floor, epochs),
    "E epochs compute all losses only where the floor is 0 and the training is that long": (
        lambda n, e, floor, epochs: n * e + (epochs - e)
    ),
    "one epoch too many computes all losses, and the training may end before epoch E": (
        lambda n, e, floor, epochs: n * epochs if floor else n * (e + 1) + (epochs - e - 1)
    ),
    "this is the mean of an epoch: the number in the whole training is asked for": (
        lambda n, e, floor, epochs: (
            _count(lambda e, floor, epochs: epochs if floor else min(e, epochs))(
                n, e, floor, epochs
            )
            / epochs
        )
    ),
}


@check
def query_losses(student: Function, seed: int = 0) -> None:
    """Exercise 3.4: `query_losses(steps, msl_epochs, floor, epochs)`: how many a task computes.

    One meta-step an epoch, at epochs 0, 1, …; losses that count 0 are not computed.
    """
    draw = generator(seed)
    trials: list[tuple[Any, ...]] = [(3, 2, 0.0, 4), (3, 10, 0.0, 20)]
    for floor, epochs in ((0.01, 50), (0.0, 30), (0.0, 7), (0.02, 8)):
        trials.append((pick(draw, [3, 4, 5]), pick(draw, [9, 15]), floor, epochs))
    right = _count(lambda e, floor, epochs: epochs if floor else min(e, epochs))
    judge_trials(student, trials, right, _COUNT_MISTAKES)
    passed(student)
