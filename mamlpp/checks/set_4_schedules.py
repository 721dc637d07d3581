"""Checks of set 4: derivative-order annealing and cosine annealing (paper, section 4)."""

import math

from mamlpp import schedules
from mamlpp.checks.core import Function, generator, judge_test, judge_trials, passed, pick


def second_order(student: Function, seed: int = 0) -> None:
    """Exercise 4.1: `second_order(second_order_from, epoch)`: from that epoch on; None: never."""
    switch = 10 + seed
    trials = [
        *((switch, epoch) for epoch in (0, switch - 0.5, switch, switch + 3)),
        *((0, 0), (0, 7), (None, 0), (None, 500)),
    ]
    judge_trials(
        student,
        trials,
        schedules.second_order,
        {
            "one epoch late: the switch's own epoch is of second order already (>=, not >)": (
                lambda start, epoch: start is not None and epoch > start
            ),
            "the other way round: the first epochs are of first order": (
                lambda start, epoch: start is None or epoch < start
            ),
            "0 means always, None means never: `if not second_order_from` takes 0 for None": (
                lambda start, epoch: bool(start) and epoch >= start
            ),
            "None means never, not always": lambda start, epoch: start is None or epoch >= start,
            "it is of second order in one epoch alone: it stays so from then on": (
                lambda start, epoch: start is not None and epoch == start
            ),
        },
    )
    passed(student)


def training_time(student: Function, seed: int = 0) -> None:
    """Exercise 4.2: `training_time(epochs, second_order_from, cheap, dear)`, in seconds."""
    draw = generator(seed)
    cheap, dear = pick(draw, [2.0, 3.0]), pick(draw, [4.5, 7.0])
    trials = [(150, start, cheap, dear) for start in (50, 0, 150, 400, None)]

    def bill(epochs: int, first: int, cheap: float, dear: float) -> float:
        return first * cheap + (epochs - first) * dear

    def first_epochs(epochs: int, start: int | None) -> int:
        return epochs if start is None else min(start, epochs)

    judge_trials(
        student,
        trials,
        lambda n, start, cheap, dear: bill(n, first_epochs(n, start), cheap, dear),
        {
            "None means that no epoch is of second order: all are cheap": (
                lambda n, start, cheap, dear: bill(n, min(start or 0, n), cheap, dear)
            ),
            "a training of 150 epochs cannot have 400 of first order: it ends before the switch": (
                lambda n, start, cheap, dear: bill(n, n if start is None else start, cheap, dear)
            ),
            "the two prices are swapped: first order is the cheap one": (
                lambda n, start, cheap, dear: bill(n, first_epochs(n, start), dear, cheap)
            ),
            "one epoch too many is cheap: epochs are counted from 0, so that the switch's own is "
            "dear": lambda n, start, cheap, dear: bill(
                n, n if start is None else min(start + 1, n), cheap, dear
            ),
            "one epoch too few is cheap: the epochs 0, 1, … before the switch are": (
                lambda n, start, cheap, dear: bill(
                    n, n if start is None else max(min(start - 1, n), 0), cheap, dear
                )
            ),
            "it leaves out the first-order epochs: they cost something too": (
                lambda n, start, cheap, dear: (n - first_epochs(n, start)) * dear
            ),
        },
    )
    passed(student)


def cosine_rate(student: Function, seed: int = 0) -> None:
    """Exercise 4.3: `cosine_rate(rate, minimum, epochs, epoch)` within the training."""
    draw = generator(seed)
    rate, minimum, epochs = pick(draw, [1e-3, 3e-3]), pick(draw, [1e-5, 1e-4]), 100
    trials = [(rate, minimum, epochs, epochs * share) for share in (0.0, 1.0, 0.25, 0.4, 0.5)]

    def turned(angle: float, high: float, low: float) -> float:
        return low + (high - low) * (1 + math.cos(angle)) / 2

    judge_trials(
        student,
        trials,
        schedules.outer_rate,
        {
            "the half is missing: 1 + cos goes from 2 to 0": lambda high, low, n, t: (
                low + (high - low) * (1 + math.cos(math.pi * t / n))
            ),
            "it rises where it should fall: 1 + cos, not 1 − cos": lambda high, low, n, t: turned(
                math.pi * (1 - t / n), high, low
            ),
            "π is missing: at the end of the training the cosine should be −1": (
                lambda high, low, n, t: turned(t / n, high, low)
            ),
            "a whole turn of 2π comes up again: the training lasts half a turn": (
                lambda high, low, n, t: turned(2 * math.pi * t / n, high, low)
            ),
            "it starts above the rate: only the difference to the minimum is annealed": (
                lambda high, low, n, t: low + high * (1 + math.cos(math.pi * t / n)) / 2
            ),
            "it ends at zero: the minimum is missing": lambda high, low, n, t: turned(
                math.pi * t / n, high, 0.0
            ),
            "it falls in a straight line: where is the cosine?": lambda high, low, n, t: (
                high - (high - low) * t / n
            ),
        },
        otherwise=lambda trial, found: _wrong_end(trial, found),
    )
    passed(student)


def _wrong_end(trial: tuple[float, float, float, float], found: object) -> str | None:
    rate, minimum, epochs, epoch = trial
    if not isinstance(found, float | int) or epoch not in (0, epochs):
        return None
    where, right = ("start", rate) if epoch == 0 else ("end", minimum)
    return f"it should {where} at {right:g}, but is {found:g} there"


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


def _flat(rate: float, minimum: float, epochs: float, epoch: float) -> float:
    return minimum


def bounded_test(student: Function, seed: int = 0) -> None:
    """Exercise 4.4: a test of the bounded T; a `seed` other than 0 adds a broken schedule."""
    broken: dict[str, Function] = {
        "it lets a schedule pass that rises again after the last epoch: look there, at 1.5 times "
        "the epochs for example": _unbounded,
        "it lets a schedule pass that starts anew after the last epoch: look just behind it, not "
        "only a whole training later": _restarted,
        "it lets a schedule pass that is 0 after the last epoch: there it should be the minimum, "
        "not just small": _switched_off,
    }
    if seed:
        broken[
            "it lets a schedule pass that is at the minimum from the start: look at epoch 0 too"
        ] = _flat
    right = {"the package's schedule": schedules.outer_rate, "one with cos²": _folded}
    judge_test(student, right, broken)
    passed(student)
