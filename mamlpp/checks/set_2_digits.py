"""Checks of set 2: how many digits of a gradient are true (2.3 to 2.5)."""

import math
from collections.abc import Callable
from operator import le, lt
from typing import Any

import torch
from torch import Tensor

from mamlpp.checks.core import Function, passed
from mamlpp.checks.inputs import check, generator, normal, pick, uniform
from mamlpp.checks.judging import judge_trials


def _error(x: Tensor, exact: Tensor) -> float:
    return ((x.double() - exact).norm() / exact.norm()).item()


def _in_float32(x: Tensor, exact: Tensor) -> float:
    error = ((x - exact.float()).norm() / exact.float().norm()).item()
    return -math.log10(error) if error else math.inf


_DIGIT_MISTAKES: dict[str, Function] = {
    "the sign: an error of 10⁻³ is 3 digits, not −3": lambda x, exact: math.log10(_error(x, exact)),
    "it uses the natural logarithm: decimal digits need math.log10": lambda x, exact: (
        -math.log(_error(x, exact))
    ),
    "these are binary digits: use the logarithm to base 10": lambda x, exact: (
        -math.log2(_error(x, exact))
    ),
    "the error is absolute: divide it by the norm of the exact tensor": lambda x, exact: (
        -math.log10((x.double() - exact).norm().item())
    ),
    "the error is relative to x: divide it by the norm of the exact tensor": lambda x, exact: (
        -math.log10(((x.double() - exact).norm() / x.double().norm()).item())
    ),
    "the error is squared, which doubles the digits: take the norm, not its square": (
        lambda x, exact: -2 * math.log10(_error(x, exact))
    ),
    "it compares in float32, which rounds the exact numbers: compare in float64": _in_float32,
    "this is the relative error itself: its digits are asked for": _error,
    "it rounds to whole digits: return the number as it is": lambda x, exact: math.floor(
        -math.log10(_error(x, exact))
    ),
    "it stops at 0: an error above the number itself leaves fewer than 0 digits": (
        lambda x, exact: max(-math.log10(_error(x, exact)), 0.0)
    ),
    "it takes the largest relative error of a single number: take norms of the whole tensors": (
        lambda x, exact: -math.log10(((x.double() - exact) / exact).abs().max().item())
    ),
    "it averages the digits of the single numbers: take norms of the whole tensors first": (
        lambda x, exact: -((x.double() - exact) / exact).abs().log10().mean().item()
    ),
    "it divides number by number and takes the norm of that: take the norms first, then divide": (
        lambda x, exact: -math.log10(((x.double() - exact) / exact).norm().item())
    ),
    "it compares the lengths of the two tensors: take the length of their difference": (
        lambda x, exact: -math.log10((x.double().norm() - exact.norm()).abs() / exact.norm())
    ),
    "it takes the mean of the differences, in which they cancel: take their norm": (
        lambda x, exact: -math.log10((x.double() - exact).mean().abs() / exact.norm())
    ),
    "it divides the 1-norms (.abs().sum()): a norm is the root of the sum of squares": (
        lambda x, exact: -math.log10(((x.double() - exact).abs().sum() / exact.abs().sum()).item())
    ),
    "it divides a root of a mean by a norm: use norms above and below": lambda x, exact: (
        -math.log10((x.double() - exact).square().mean().sqrt() / exact.norm())
    ),
    "it compares the largest error with the largest number: take norms of the whole tensors": (
        lambda x, exact: -math.log10((x.double() - exact).abs().max() / exact.abs().max())
    ),
    "it averages the relative errors of the single numbers: divide norm by norm": (
        lambda x, exact: -math.log10(((x.double() - exact) / exact).abs().mean())
    ),
    "it counts equal digits of the printed number: take the size of the error instead": (
        lambda x, exact: len(
            [1 for a, b in zip(str(x[0].item()), str(exact[0].item()), strict=False) if a == b]
        )
    ),
}


@check
def digits(student: Function, seed: int = 0) -> None:
    """Exercise 2.3: `digits(x, exact)` is −log₁₀ of the relative error, computed in float64."""
    draw, trials = generator(seed), []
    for size, length in ((1e-2, 2), (1e-4, 7), (3e-8, 7), (3.0, 5)):
        exact = 20 * normal(draw, length)
        x = (exact * (1 + size * normal(draw, length))).float()
        trials.append((x, exact))
    judge_trials(student, trials, lambda x, exact: -math.log10(_error(x, exact)), _DIGIT_MISTAKES)
    passed(student)


def _steps_until(growth: float, bits: float) -> int:
    """Not by logarithms, so that no rounding can make it one too many."""
    return next(n for n in range(10_000) if growth**n >= 2.0**bits)


_PREDICTION_MISTAKES: dict[str, Function] = {
    "one step short: after that many steps a little is still left; round up": lambda g, bits: (
        math.floor(bits / math.log2(g))
    ),
    "rounding down and adding 1 is one too many where growth**N is exactly 2**bits: round up": (
        lambda g, bits: math.floor(bits / math.log2(g)) + 1
    ),
    "it rounds to the nearest whole number: round up": lambda g, bits: round(bits / math.log2(g)),
    "steps are whole: round up": lambda g, bits: bits / math.log2(g),
    "it takes bits for decimal digits: 24 bits are 2²⁴, not 10²⁴": lambda g, bits: math.ceil(
        bits / math.log10(g)
    ),
    "the two logarithms differ in their base: use the same one on both sides of "
    "growth^N = 2^bits": lambda g, bits: math.ceil(bits / math.log(g)),
    "growth multiplies: N is a ratio of logarithms, not bits divided by the growth": (
        lambda g, bits: math.ceil(bits / g)
    ),
    "the ratio is upside down: N = log(2^bits) / log(growth)": lambda g, bits: math.ceil(
        math.log2(g) / bits
    ),
    "it multiplies the logarithms: N is their ratio": lambda g, bits: math.ceil(
        bits * math.log2(g)
    ),
    "it counts one bit less: 2^bits is to be reached, not half of it": lambda g, bits: math.ceil(
        (bits - 1) / math.log2(g)
    ),
    "`bits` is an argument: the answer is not always that for 24": lambda g, bits: math.ceil(
        24 / math.log2(g)
    ),
    "`growth` is an argument: the answer is not always that for 3": lambda g, bits: math.ceil(
        bits / math.log2(3)
    ),
    "2^bits is to be reached, not `bits`: its logarithm is bits · log(2)": lambda g, bits: (
        math.ceil(math.log(bits) / math.log(g))
    ),
    "N is an exponent of the growth: it is no quotient of 2^bits": lambda g, bits: math.ceil(
        2**bits / g
    ),
    "this is how far `bits` steps get: the number of steps is asked for": lambda g, bits: math.ceil(
        g**bits
    ),
}


@check
def predicted_steps(student: Function, seed: int = 0) -> None:
    """Exercise 2.4: `predicted_steps(growth, bits)`: the first whole N with growth^N ≥ 2^bits."""
    draw = generator(seed)
    drawn = [(uniform(draw, 1.3, 4.3), bits) for bits in (24, 53, 11)]
    exact = pick(draw, [8, 12, 16, 20, 32])  # bits for which no way of writing it rounds up
    trials = [(3.0, 24), (7.0, 24), *drawn, (4.0, 24), (2.0, exact)]
    judge_trials(student, trials, _steps_until, _PREDICTION_MISTAKES)
    passed(student)


def _agreement(gradient: Function, steps: int) -> float:
    return -math.log10(_error(gradient(steps, torch.float32), gradient(steps, torch.float64)))


def _search(
    find: Callable[[list[int], list[bool]], Any], is_bad: Callable[[float, float], bool] = lt
) -> Function:
    """An answer from the depths and whether each of them is bad."""

    def first_lost(gradient: Function, depths: list[int], minimum: float) -> Any:
        return find(depths, [is_bad(_agreement(gradient, steps), minimum) for steps in depths])

    return first_lost


def _first(depths: list[int], bad: list[bool]) -> int:
    return next((n for n, is_bad in zip(depths, bad, strict=True) if is_bad), 0)


def _last_good(depths: list[int], bad: list[bool]) -> int:
    place = bad.index(True) if any(bad) else 0
    return depths[place - 1] if place else 0


def _start_of_the_end(depths: list[int], bad: list[bool]) -> int:
    good = [i for i, is_bad in enumerate(bad) if not is_bad]
    after = good[-1] + 1 if good else 0
    return depths[after] if after < len(depths) else 0


def _swapped(gradient: Function, depths: list[int], minimum: float) -> int:
    def other(steps: int, dtype: torch.dtype) -> Tensor:
        return gradient(steps, torch.float64 if dtype == torch.float32 else torch.float32)

    return _search(_first)(other, depths, minimum)


_SEARCH_MISTAKES: dict[str, Function] = {
    "it stops after the first depth: `return 0` belongs behind the loop, not into it": _search(
        lambda depths, bad: depths[0] if bad[0] else 0
    ),
    "it sorts the depths: go through them in the order in which they come": _search(
        lambda depths, bad: min((n for n, b in zip(depths, bad, strict=True) if b), default=0)
    ),
    "it returns the place in the list of depths, not the depth itself": _search(
        lambda depths, bad: bad.index(True) if any(bad) else 0
    ),
    "it returns the last N that is still good: the first that is not is asked for": _search(
        _last_good
    ),
    "it returns the N from which all later ones are bad; the first bad one is asked for, and the "
    "digits may recover in between": _search(_start_of_the_end),
    "it returns the last bad N: stop at the first one": _search(
        lambda depths, bad: _first(depths[::-1], bad[::-1])
    ),
    "it returns the first N that has enough digits: the other way round": _search(
        lambda depths, bad: _first(depths, [not is_bad for is_bad in bad])
    ),
    "where every depth keeps enough digits the answer is 0": _search(
        lambda depths, bad: _first(depths, bad) or depths[-1]
    ),
    "it returns all bad depths: only the first one is asked for": _search(
        lambda depths, bad: [n for n, b in zip(depths, bad, strict=True) if b]
    ),
    "it returns True or False: the depth itself is asked for": _search(
        lambda depths, bad: any(bad)
    ),
    "it never finds a bad depth: is one gradient computed in float32, and the other in float64?": (
        _search(lambda depths, bad: 0)
    ),
    "exactly `min_digits` digits are enough: compare by <, not by <=": _search(_first, le),
    "it rounds the digits before it compares them": _search(
        _first, lambda found, minimum: round(found) < minimum
    ),
    "the two gradients are swapped: the one in float64 is the exact one": _swapped,
    "where no depth loses them, return 0 and not −1": _search(
        lambda depths, bad: _first(depths, bad) or -1
    ),
    "it ignores the minimum that it is given": lambda gradient, depths, minimum: _search(_first)(
        gradient, depths, 3.0
    ),
    "it returns the N with the fewest digits: the first that has too few is asked for": (
        lambda gradient, depths, minimum: min(depths, key=lambda n: _agreement(gradient, n))
    ),
    "it counts the bad depths: the first of them is asked for": _search(
        lambda depths, bad: sum(bad)
    ),
    "it returns the digits: the depth at which they are lost is asked for": (
        lambda gradient, depths, minimum: next(
            (d for n in depths if (d := _agreement(gradient, n)) < minimum), 0
        )
    ),
    "int() cuts the digits off before they are compared: compare them as they are": _search(
        _first, lambda found, minimum: int(found) < minimum
    ),
}


@check
def first_lost(student: Function, seed: int = 0) -> None:
    """Exercise 2.5: `first_lost(gradient, depths, min_digits)`: where digits first fall below it.

    The digits of the made-up gradients fall, recover once, and fall again. A gradient of 0 has
    exactly 0 digits.
    """
    fall = [6.5, 5.2, 2.7, 4.5, 2.0, 1.0]
    cases: list[tuple[list[int], list[float], int]] = [
        ([3, 5, 7, 9, 11, 13], fall, 3),
        ([2, 4, 6], [1.5, 6.0, 6.0], 3),
        ([9, 3, 8, 7, 2, 12], fall, 3),
        ([4, 5, 6], [6.0, 6.0, 6.0], 3),
        ([3, 5, 7, 9, 11, 13], fall, 6),
        ([5, 6, 8, 9], [0.2, 0.0, 1.0, -1.0], 0),
    ]
    trials = []
    for depths, true_digits, minimum in cases:
        digits_of = dict(zip(depths, true_digits, strict=True))
        trials.append((_made_up(digits_of, seed), depths, minimum))
    judge_trials(student, trials, _search(_first), _SEARCH_MISTAKES)
    passed(student)


def _made_up(digits_of: dict[int, float], seed: int) -> Function:
    """A gradient whose float32 version agrees with the exact one in so many digits at each N."""

    def gradient(steps: int, dtype: torch.dtype) -> Tensor:
        # Four equal numbers, whose norm no way of computing it rounds.
        exact = (1 + normal(generator(1000 * seed + steps), 1).abs()).repeat(4)
        error = exact * 10 ** -digits_of[steps]
        return exact if dtype == torch.float64 else (exact - error).to(dtype)

    return gradient
