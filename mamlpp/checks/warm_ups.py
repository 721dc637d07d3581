"""The first exercise of each set: two minutes with pencil and paper, or with a picture."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mamlpp.checks.compare import other_kind, same
from mamlpp.checks.core import Function, passed
from mamlpp.checks.inputs import check
from mamlpp.checks.judging import judge_trials
from mamlpp.checks.set_8_bug_hunt import kind_complaint


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
            "the second step is missing: it starts at the θ that the first one gave": (1.0, 1.0),
            "these are the changes of θ: its values are asked for": (-1.0, -0.5),
            "these are the values after two steps and after three": (0.5, 0.25),
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
            "this is the factor of one step: ten of them are asked for": 3,
            "this is one step more than in the list: ten are asked for": 243,
            "these are eight steps, twice those of the list: ten are asked for": 81 * 81,
            "3 to the power of 10 is asked for, not 10 to the power of 3": 1000,
            "it starts again at 1: the list's 81 is not a factor of its own": 81 * 3**10,
            "twice the steps give the square, not twice the factor": 81 * 10 / 4,
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
            "at the start all four count, not only the last": (0.5, 0.5),
            "at the start all four count, not only the first": (2.0, 0.5),
            "at the end the last weight is 1, and no longer 1/4": (1.0, 0.125),
            "at the end three of the weights are 0: the last one stays": (1.0, 0.0),
            "these are the weights of the last loss: the whole loss is asked for": (0.25, 1.0),
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
            "this is the second image: the first is asked for": (-1.0, 1.0),
            "these are the features: subtract the mean": (1.0, 1.0),
            "after the exchange a mean is subtracted too": (-2.0, 1.0),
            "an image whose value is 0 counts too: divide by three": (-2.0, -0.5),
            "subtract the mean, not the sum": (-8.0, -2.0),
            "this is the middle one of the three: the mean is their sum, divided by three": (
                -1.0,
                0.0,
            ),
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
            "α does not multiply its own step: β · derivative is all of it": 0.102,
            "the derivative is missing: β alone is not the step": 0.11,
            "this is the derivative: the new α is asked for": -2.0,
            "α is learned: it moves": 0.1,
            "these are two outer steps: one is asked for": 0.14,
            "the outer rate is missing, and so is a sign": -1.9,
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
            "the early weights go to 0, and that of the last step to 1": (0.0, True),
            "the weights sum to 1, so that none is larger": (5.0, True),
            "the multi-step loss ends at its own epoch, 15, and not with the training": (
                0.2 + 0.8 * 100 / 150,
                True,
            ),
        },
    ),
    8: WarmUp(
        ("flat schedule", "shared seed", "uncounted step"),
        {},
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


ORDINALS = ("first", "second", "third")


def _partly_right(right: Any, found: Any) -> str | None:
    """What to say of an answer that is none of the usual ones."""
    if isinstance(right, str) and isinstance(found, str):
        return f"answer by one of the letters {', '.join(curves())}"
    parts = isinstance(right, tuple) and isinstance(found, list | tuple)
    if not parts or len(found) != len(right):
        return None
    if right == WARM_UPS[8].right:
        return _wrong_kind(right, found)
    wrong = [i for i, pair in enumerate(zip(found, right, strict=True)) if not same(*pair)]
    clear = len(wrong) > 1 or other_kind(found[wrong[0]], right[wrong[0]])
    return None if clear else f"only the {ORDINALS[wrong[0]]} of the two is wrong"


def _wrong_kind(right: Sequence[str], found: Sequence[Any]) -> str | None:
    if sorted(map(str, found)) == sorted(right):
        return "the order is that of the three programs"
    said = [kind_complaint(*pair) for pair in zip(right, found, strict=True)]
    return next((f"the {ORDINALS[i]} one: {words}" for i, words in enumerate(said) if words), None)


@check
def warm_up(number: int, student: Function, seed: int = 0) -> None:
    """Exercise `number`.0: an answer that is the same whatever the `seed`."""
    right, mistakes = WARM_UPS[number]
    judge_trials(
        student,
        [()],
        lambda: right,
        {said: lambda x=x: x for said, x in mistakes.items()},
        lambda _, found: _partly_right(right, found),
    )
    passed(student)
