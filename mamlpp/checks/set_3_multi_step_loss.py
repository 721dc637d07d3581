"""Checks of set 3: other weights of the multi-step loss, and its cost (3.1, 3.2 and 3.4).

Antoniou et al. 2019, section 4, equation 3.
"""

import math
from collections.abc import Callable
from typing import Any

from mamlpp import schedules
from mamlpp.checks.core import Function, passed
from mamlpp.checks.inputs import check, generator, pick, uniform
from mamlpp.checks.judging import judge_trials


def _wrong_sum(inputs: tuple[Any, ...], found: Any) -> str | None:
    """What to say of weights that do not sum to 1."""
    numbers = isinstance(found, list | tuple) and all(isinstance(v, float | int) for v in found)
    if not numbers or abs(sum(found) - 1) < 0.005:
        return None
    return f"your weights sum to {sum(found):.2f}, not to 1"


def _around(steps: int, place: float) -> list[float]:
    """1 at a place between the steps, shared by the two steps beside it."""
    return [max(0.0, 1 - abs(i - place)) for i in range(1, steps + 1)]


def _spot(place: Callable[[int, float], float]) -> Function:
    """Weights around a place, made from N and from how much is done."""

    def weights(steps: int, msl_epochs: float, epoch: float) -> list[float]:
        return _around(steps, place(steps, min(epoch / msl_epochs, 1)))

    return weights


def _place(steps: int, done: float) -> float:
    return 1 + (steps - 1) * done


_right_curriculum = _spot(_place)


def _in_time(change: Callable[[float, float], tuple[float, float]]) -> Function:
    """The right weights, with another E or at another epoch."""
    return lambda n, e, epoch: _right_curriculum(n, *change(e, epoch))


def _only(step: int, steps: int) -> list[float]:
    return [float(i == step) for i in range(1, steps + 1)]


def _ends_alone(steps: int, msl_epochs: float, epoch: float) -> list[float]:
    done = min(epoch / msl_epochs, 1)
    return [1 - done, *[0.0] * (steps - 2), done] if steps > 1 else [1.0]


def _shares_swapped(steps: int, msl_epochs: float, epoch: float) -> list[float]:
    place = _place(steps, min(epoch / msl_epochs, 1))
    share, below = place % 1, math.floor(place)
    if not share:
        return _only(below, steps)
    return [share * (i == below) + (1 - share) * (i == below + 1) for i in range(1, steps + 1)]


def _more_and_more(steps: int, msl_epochs: float, epoch: float) -> list[float]:
    count = math.floor(_place(steps, min(epoch / msl_epochs, 1)))
    return [1 / count * (i < count) for i in range(steps)]


_CURRICULUM_MISTAKES: dict[str, Function] = {
    "the epoch may be a fraction: int(epoch) or // makes the weights move in jumps": _in_time(
        lambda e, epoch: (e, int(epoch))
    ),
    "it rounds the epoch: the weights move between whole epochs too": _in_time(
        lambda e, epoch: (e, round(epoch))
    ),
    "after epoch E it goes on, beyond the last step: it stays there": lambda n, e, epoch: _around(
        n, _place(n, epoch / e)
    ),
    "the last step is reached before epoch E: at E, and not one epoch earlier": _in_time(
        lambda e, epoch: (e - 1, epoch)
    ),
    "the last step is reached one epoch late: at epoch E": _in_time(
        lambda e, epoch: (e + 1, epoch)
    ),
    "`msl_epochs` is an argument: E is not always 10": _in_time(lambda e, epoch: (10, epoch)),
    "it begins with the last step and ends with the first: the other way round": (
        lambda n, e, epoch: _right_curriculum(n, e, epoch)[::-1]
    ),
    "from step 1 to step N there are N − 1 steps to go: yours goes N, and arrives too early": _spot(
        lambda n, done: min(1 + n * done, n)
    ),
    "it begins before the first step, where no step is: at epoch 0 step 1 has the weight 1": _spot(
        lambda n, done: n * done
    ),
    "it waits at the first step: from epoch 0 on it moves towards the second": _spot(
        lambda n, done: max(1.0, n * done)
    ),
    "only one step counts at a time, the nearest: between two steps both have a share": _spot(
        lambda n, done: round(_place(n, done))
    ),
    "only one step counts at a time, then the next: between two steps both have a share": (
        _spot(lambda n, done: math.floor(_place(n, done)))
    ),
    "the two shares are swapped: the nearer step has the larger one": _shares_swapped,
    "this is the paper's annealing, in which all steps count at first: here step 1 begins alone": (
        lambda n, e, epoch: schedules.step_weights(n, e, 0.0, epoch)
    ),
    "it goes from the first step to the last at once: the steps between have their turn too": (
        _ends_alone
    ),
    "earlier steps keep their share: only the two steps beside the place count": _more_and_more,
    "nothing moves: the first step counts alone at every epoch": _spot(lambda n, done: 1.0),
    "the last step counts alone at every epoch: that is plain MAML": _spot(lambda n, done: n),
    "each step has the same weight at every epoch: begin with step 1 alone": lambda n, e, epoch: (
        [1 / n] * n
    ),
    "it returns the place between the steps: the weights of all N steps are asked for": (
        lambda n, e, epoch: _place(n, min(epoch / e, 1))
    ),
    "it moves like a cosine, slowly at both ends: it should move evenly": _spot(
        lambda n, done: _place(n, (1 - math.cos(math.pi * done)) / 2)
    ),
    "it moves faster and faster: it should move evenly": _spot(lambda n, done: _place(n, done**2)),
}


@check
def curriculum(student: Function, seed: int = 0) -> None:
    """Exercise 3.1: `curriculum(steps, msl_epochs, epoch)`: a weight that wanders from 1 to N."""
    draw = generator(seed)
    trials: list[tuple[Any, ...]] = [(3, 10, 0.0), (3, 10, 2.0), (4, 10, 4.0), (3, 10, 10.0)]
    for progress in (0.93, 1.6, 0.37):
        steps, msl_epochs = pick(draw, [2, 3, 5]), pick(draw, [8, 15])
        trials.append((steps, msl_epochs, round(progress * msl_epochs, 2)))
    trials += [(5, 6, 2.75), (1, 10, 3.0)]
    judge_trials(student, trials, _right_curriculum, _CURRICULUM_MISTAKES, _wrong_sum)
    passed(student)


def _blend(
    floor_of: Callable[[int, float], float], left: Callable[[int, float], float]
) -> Function:
    """Each weight gets a floor and a share of what is left, both made from N and the floor."""

    def blend(step_weights: list[float], floor: float) -> list[float]:
        n = len(step_weights)
        return [floor_of(n, floor) + left(n, floor) * v for v in step_weights]

    return blend


_right_lift = _blend(lambda n, floor: floor, lambda n, floor: 1 - n * floor)


def _raised(pay: Callable[[list[float]], list[float]] = lambda raised: raised) -> Function:
    """The weights below the floor are raised to it, and `pay` sees to the sum."""
    return lambda v, floor: pay([max(weight, floor) for weight in v])


def _largest_pays(raised: list[float]) -> list[float]:
    place = raised.index(max(raised))
    return [v - (sum(raised) - 1) * (i == place) for i, v in enumerate(raised)]


def _the_others_pay(step_weights: list[float], floor: float) -> list[float]:
    high = [v for v in step_weights if v >= floor]
    left = 1 - floor * (len(step_weights) - len(high))
    return [floor if v < floor else v / sum(high) * left for v in step_weights]


_LIFT_MISTAKES: dict[str, Function] = {
    "it raises the small weights, but nobody pays for it: the weights sum to more than 1": (
        _raised()
    ),
    "dividing by the sum lowers the raised weights again: they end below `floor`": _raised(
        lambda raised: [v / sum(raised) for v in raised]
    ),
    "the last step alone pays: what is left after the floors is shared by all, in the old "
    "proportions": _raised(lambda raised: [*raised[:-1], 1 - sum(raised[:-1])]),
    "the largest weight alone pays: what is left after the floors is shared by all, in the old "
    "proportions": _raised(_largest_pays),
    "only the weights above the floor pay: every weight gets the floor, and then a share of what "
    "is left": _the_others_pay,
    "each weight gets the floor on top of all it had: first take N · floor away from what is dealt "
    "out": _blend(lambda n, floor: floor, lambda n, floor: 1.0),
    "the sum is right, but dividing by 1 + N · floor leaves a weight of 0 below `floor`": _blend(
        lambda n, floor: floor / (1 + n * floor), lambda n, floor: 1 / (1 + n * floor)
    ),
    "it takes the floor away once: there are N floors, one for each step": _blend(
        lambda n, floor: floor, lambda n, floor: 1 - floor
    ),
    "it takes N − 1 floors away: the last step gets one too": _blend(
        lambda n, floor: floor, lambda n, floor: 1 - (n - 1) * floor
    ),
    "the steps share one floor: each of them has its own": _blend(
        lambda n, floor: floor / n, lambda n, floor: 1 - floor
    ),
    "this is only what is left after the floors: add the floor": _blend(
        lambda n, floor: 0.0, lambda n, floor: 1 - n * floor
    ),
    "every weight is the floor: what is left is to be dealt out": _blend(
        lambda n, floor: floor, lambda n, floor: 0.0
    ),
    "each step gets the same: what is left is dealt out in the old proportions": _blend(
        lambda n, floor: 1 / n, lambda n, floor: 0.0
    ),
    "the weights come back as they were": _blend(lambda n, floor: 0.0, lambda n, floor: 1.0),
    "the order is the other way round": lambda v, floor: _right_lift(v, floor)[::-1],
    "`floor` is an argument: it is not always 0.02": lambda v, floor: _right_lift(v, 0.02),
    "N is the number of weights: it is not always 5": _blend(
        lambda n, floor: floor, lambda n, floor: 1 - 5 * floor
    ),
}


@check
def lifted(student: Function, seed: int = 0) -> None:
    """Exercise 3.2: `lifted(step_weights, floor)`: floor + (1 − N·floor)·v for each weight v."""
    draw = generator(seed)
    trials: list[tuple[Any, ...]] = [([0.0, 0.0, 1.0], 0.1), ([0.02, 0.7, 0.23, 0.05], 0.06)]
    for v in ([0.5, 0.01, 0.09, 0.4], [0.3, 0.7], [0.8, 0.05, 0.05, 0.05, 0.05], [0.2] * 5):
        trials.append((v, uniform(draw, 0.03, 0.12)))
    trials.append(([0.6, 0.4, 0.0], 0.0))
    judge_trials(student, trials, _right_lift, _LIFT_MISTAKES, _wrong_sum)
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
