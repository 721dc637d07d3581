"""What wrong numbers have in common with the right ones, whatever the exercise.

Where none of an exercise's own mistakes explains an answer, this is what can still be said of it.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from mamlpp.checks.compare import Observed, same

Pair = tuple[Any, Any]
"""A result, and what it should be."""

MANY = 3  # numbers; a pattern in fewer may be chance


def suggested(
    results: Sequence[Pair], inputs: Iterable[tuple[Any, ...]], names: Sequence[str]
) -> str | None:
    """What to say of the results of all calls, whose inputs have these names; None if nothing."""
    if not results or isinstance(results[0][0], Observed):
        return None
    return _of_all_calls(results) or _of_the_wrong_calls(results, list(inputs), names)


def _of_all_calls(results: Sequence[Pair]) -> str | None:
    """What the results of all calls have in common."""
    first, *others = [found for found, _ in results]
    if len(others) > 1 and all(same(other, first) for other in others):
        return "it gives the same answer to every call: does it use all of its arguments?"
    if all(isinstance(f, list | tuple) and same(f[::-1], e) for f, e in results):
        return "the order is the other way round"
    pairs = [(numbers_in(found), numbers_in(expected)) for found, expected in results]
    if any(len(a) != len(b) for a, b in pairs):
        return None
    a, b = (torch.tensor([n for pair in pairs for n in pair[i]]).double() for i in (0, 1))
    enough = len(a) >= MANY and b.unique().numel() > 2
    return (_in_common(a, b) or _scaled(pairs) if enough else None) or _entries(pairs)


def numbers_in(value: Any) -> list[float]:
    """All numbers in nested dicts, lists and tensors, in order."""
    if isinstance(value, Tensor):
        return value.detach().double().flatten().tolist()
    if isinstance(value, Mapping):
        return [n for name in sorted(value, key=str) for n in numbers_in(value[name])]
    if isinstance(value, list | tuple):
        return [n for part in value for n in numbers_in(part)]
    return [float(value)] if isinstance(value, int | float) else []


def _in_common(a: Tensor, b: Tensor) -> str | None:
    """How all numbers `a` differ from all numbers `b`, if there is one way in which they do."""
    ratio, shift = a[b != 0] / b[b != 0], a - b
    if not a.any():
        return "every number is 0"
    if torch.allclose(a, -b):
        return "the sign: every number is minus what it should be"
    if torch.allclose(ratio, ratio[0].expand_as(ratio)) and not a[b == 0].any():
        return f"every number is {ratio[0]:.3g} times what it should be"
    if torch.allclose(shift, shift[0].expand_as(shift)):
        side = "large" if shift[0] > 0 else "small"
        return f"every number is too {side} by {abs(shift[0]):.3g}"
    if torch.equal(a, a.round()) and bool(((a - b).abs() <= 1).all()):
        if torch.equal(b, b.round()):
            return "some of the numbers are off by one: count again"
        return "these are whole numbers: do not round, and use / instead of //"
    for said, change in CHANGES.items():
        if torch.allclose(a, change(b), rtol=1e-5, atol=1e-8):
            return said
    if torch.allclose(a, b, rtol=0.01, atol=0.01):
        return "the numbers are close, but not exact: is something rounded on the way?"
    return None


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "it rounds the result: return the number as it is": lambda b: b.round(decimals=1),
    "it rounds to two decimals: return the numbers as they are": lambda b: b.round(decimals=2),
    "it rounds to three decimals: return the numbers as they are": lambda b: b.round(decimals=3),
    "every number is the square of what it should be": torch.square,
    "every number is the square root of what it should be": torch.sqrt,
    "every number is 1 divided by what it should be": torch.reciprocal,
    "the signs are lost: some numbers should be below 0": torch.abs,
    "numbers below 0 are cut off (max, clamp or relu)": torch.relu,
    "every number is 1 minus what it should be": lambda b: 1 - b,
    "every number is the logarithm (base 10) of what it should be": torch.log10,
    "every number is the natural logarithm of what it should be": torch.log,
    "every number is the logarithm (base 2) of what it should be": torch.log2,
    "every number is e to the power of what it should be": torch.exp,
}


def _scaled(pairs: Sequence[tuple[list[float], list[float]]]) -> str | None:
    """What to say where each call's numbers have the right ratios among each other."""
    if any(len(b) < 2 or not all(b) for _, b in pairs):
        return None
    for a, b in pairs:
        ratio = [x / y for x, y in zip(a, b, strict=True)]
        if not all(math.isclose(each, ratio[0], rel_tol=1e-5) for each in ratio):
            return None
    return (
        "the numbers of one call have the right ratios, but all are multiplied or divided by "
        "something that is not always the same"
    )


def _entries(pairs: Sequence[tuple[list[float], list[float]]]) -> str | None:
    """Which of several numbers are wrong, if they are the same in each call."""
    if len(pairs) < 2 or any(len(b) < 2 for _, b in pairs):
        return None
    wrong = [[not math.isclose(*each, rel_tol=1e-5, abs_tol=1e-8) for each in zip(*p, strict=True)]
             for p in pairs]  # fmt: skip
    wrong = [each for each in wrong if any(each)]
    for said, test in PLACES.items():
        if all(map(test, wrong)):
            return said if any(len(each) > 2 for each in wrong) else _of_two(said)
    return None


PLACES: dict[str, Callable[[list[bool]], bool]] = {
    "only the first number is wrong": lambda w: w[0] and not any(w[1:]),
    "only the last number is wrong": lambda w: w[-1] and not any(w[:-1]),
    "the first number is right, and all others are wrong": lambda w: not w[0] and all(w[1:]),
    "the last number is right, and all others are wrong": lambda w: not w[-1] and all(w[:-1]),
}


def _of_two(said: str) -> str:
    """The same of two numbers."""
    first = said in list(PLACES)[::3]
    return "the second of the two is right, the first is not" if first else (
        "the first of the two is right, the second is not"
    )  # fmt: skip


def _of_the_wrong_calls(
    results: Sequence[Pair], inputs: Sequence[tuple[Any, ...]], names: Sequence[str]
) -> str | None:
    """What the wrong calls have in common that no right one has; None if all are wrong."""
    right = [same(*pair) for pair in results]
    if not any(right) or len(names) != len(inputs[0]):
        return None
    conditions = [(OF_ONE, [i]) for i in range(len(names))]
    conditions += [(OF_TWO, list(pair)) for pair in permutations(range(len(names)), 2)]
    for tests, places in conditions:
        for said, test in tests.items():
            held = [bool(test(*(each[i] for i in places))) for each in inputs]
            if all(holds is not fine for holds, fine in zip(held, right, strict=True)):
                where = said.format(*(names[i] for i in places))
                return f"it is right for other calls, and wrong only where {where}"
    count = sum(right)
    return f"it is right for {count} of {len(right)} calls: what is special about this one?"


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _above(one: Any, other: Any) -> bool:
    return _number(one) and _number(other) and one > other


def _equal(one: Any, other: Any) -> bool:
    return _number(one) and _number(other) and one == other


# What may be special about the inputs of a call: about one of them, or about two.
OF_ONE: dict[str, Callable[..., bool]] = {
    "{} is None": lambda x: x is None,
    "{} is 0": lambda x: _number(x) and x == 0,
    "{} is above 0": lambda x: _number(x) and x > 0,
    "{} is 1": lambda x: _number(x) and x == 1,
    "{} is no whole number": lambda x: _number(x) and x % 1 != 0,
}
OF_TWO: dict[str, Callable[..., bool]] = {
    "{} is above {}": _above,
    "{} equals {}": _equal,
    "{} is not {}": lambda one, other: not _equal(one, other),
}
