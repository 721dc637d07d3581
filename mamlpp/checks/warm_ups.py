"""The first exercise of each set: two minutes with pencil and paper, or with a picture."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from mamlpp.checks.core import Function, passed
from mamlpp.checks.inputs import check
from mamlpp.checks.judging import judge_trials


class WarmUp(NamedTuple):
    """What should be returned, and wrong answers by the sentence that each deserves."""

    right: Any
    mistakes: Mapping[str, Any]


WARM_UPS = {
    1: WarmUp(
        (1.0, 0.5),
        {
            "the derivative of θ² is 2θ, not θ": (1.5, 1.125),
            "the step goes down: subtract": (3.0, 4.5),
            "the second step starts where the first one ended, with the gradient there": (1.0, 0.0),
            "these are the losses: the values of θ are asked for": (1.0, 0.25),
            "the rate is missing: it multiplies the gradient": (-2.0, 2.0),
            "these are the gradients: the values of θ after each step are asked for": (4.0, 2.0),
            "the start is known: the values after the first and the second step are asked for": (
                2.0,
                1.0,
            ),
        },
    ),
    2: WarmUp(
        59049,
        {
            "ten factors of 3, one for each step, not nine": 19683,
            "ten factors of 3, one for each step, not eleven": 177147,
            "the factors multiply: they are not added": 30,
            "the factor of one step is 3: read two neighbours in the list": 81**10,
            "this is the list's own end: go on to ten steps": 81,
            "it grows on its way back: multiply": 1 / 59049,
        },
    ),
    3: WarmUp(
        (1.0, 0.5),
        {
            "the four weights sum to 1: the mean is asked for, not the sum": (4.0, 0.5),
            "at the end only the last loss counts": (1.0, 1.0),
            "at the end it is the last loss that counts, not the first": (1.0, 2.0),
            "the start comes first": (0.5, 1.0),
            "the losses are those after each step: all four count at the start, also the first": (
                2 / 3,
                0.5,
            ),
        },
    ),
    4: WarmUp(
        "B",
        {
            "A rises again after epoch 100": "A",
            "C is at its minimum only at the end of the picture, long after epoch 100": "C",
            "D falls in a straight line: a cosine starts and ends flat": "D",
            "return the letter as it is in the picture, a capital": "b",
        },
    ),
    5: WarmUp(
        (-2.0, 0.0),
        {
            "subtract the mean from the feature, not the feature from the mean": (2.0, 0.0),
            "the first image has not changed, but the mean of all three has": (-2.0, -2.0),
            "the mean is taken over all three images, also over the one that is looked at": (
                -3.0,
                0.0,
            ),
            "these are the means: subtract them from the first feature": (3.0, 1.0),
            "before comes first, after second": (0.0, -2.0),
            "this is the third image: the first is asked for": (3.0, -1.0),
        },
    ),
    6: WarmUp(
        0.12,
        {
            "gradient descent goes against the derivative: minus a negative number is plus": 0.08,
            "the derivative is multiplied by the outer rate, 0.01": 2.1,
            "this is the change of the rate: add it to the old one": 0.02,
            "the outer loop moves α by β times the derivative, not by α times it": 0.3,
            "a rate is not multiplied, it is moved: α − β · derivative": 0.002,
        },
    ),
    7: WarmUp(
        (1.0, True),
        {
            "the multi-step loss is over by epoch 15: all the weight is on the last step": (
                0.2,
                True,
            ),
            "second order begins at epoch 50, and stays": (1.0, False),
            "read both lines again: MSL ends at epoch 15, and second order begins at 50": (
                0.2,
                False,
            ),
            "return the weight first, then True or False": (True, 1.0),
        },
    ),
    8: WarmUp(
        ("flat schedule", "shared seed", "uncounted step"),
        {
            "the first one ends with the rate with which it begins": (
                "early stop",
                "shared seed",
                "uncounted step",
            ),
            "the second one draws the same numbers twice": (
                "flat schedule",
                "repeated class",
                "uncounted step",
            ),
            "count how often the third one steps: range(1, N) has N − 1 numbers": (
                "flat schedule",
                "shared seed",
                "early stop",
            ),
            "the order is that of the three programs": (
                "uncounted step",
                "shared seed",
                "flat schedule",
            ),
        },
    ),
}


def curves() -> dict[str, list[float]]:
    """The curves of the warm-up of set 4, at the epochs from 0 to 200."""

    def half_turn(epoch: float) -> float:
        return 0.1 + 0.9 * (1 + math.cos(math.pi * epoch / 100)) / 2

    epochs = range(201)
    return {
        "A": [half_turn(epoch) for epoch in epochs],
        "B": [half_turn(min(epoch, 100)) for epoch in epochs],
        "C": [half_turn(epoch / 2) for epoch in epochs],
        "D": [1 - 0.9 * min(epoch / 100, 1) for epoch in epochs],
    }


@check
def warm_up(number: int, student: Function, seed: int = 0) -> None:
    """Exercise `number`.0: an answer that is the same whatever the `seed`."""
    right, mistakes = WARM_UPS[number]
    judge_trials(
        student, [()], lambda: right, {said: lambda x=x: x for said, x in mistakes.items()}
    )
    passed(student)
