"""Judge a test that a student wrote, by what it does to right and to broken programs."""

import random
from collections.abc import Mapping
from typing import Any

import torch

from mamlpp.checks.core import Function, Wrong, check_call, is_stub, name_of, not_written, stopped


def judge_test(
    test: Function, right: Mapping[str, Function], broken: Mapping[str, Function]
) -> None:
    """Raise `Wrong` unless `test` passes on each right program and fails on each broken one.

    `right` is by name; `broken` by the sentence that a test deserves which lets it pass. Like in
    pytest, a test also fails on a broken program where that program stops with an error.
    """
    check_call(test, ["a program"])
    for name, program in right.items():
        complaint, calls = _complaint(test, program)
        if isinstance(complaint, AssertionError):
            words = str(complaint) or "its assertion has no message"
            raise Wrong(f"{name_of(test)} fails on {name}, which is right: {words}") from complaint
        if complaint is not None:
            raise stopped(test, f"called with {name}, which is right", complaint) from complaint
        if not calls:
            raise Wrong(f"{name_of(test)} never calls the function that it is given")
    for sentence, program in broken.items():
        missed = [_complaint(test, program, seed)[0] is None for seed in range(LUCK)]
        if all(missed):
            raise Wrong(f"{name_of(test)}: {sentence}")
        if any(missed):
            raise Wrong(
                f"{name_of(test)} fails on a broken program only by chance: draw from a generator "
                f"with a seed of its own, or choose the numbers yourself"
            )


LUCK = 5  # times that a test tries each broken program, with another seed each time


def _complaint(test: Function, program: Function, seed: int = 0) -> tuple[Exception | None, int]:
    """The error by which the test fails on a program (None: it passes), and its calls."""
    calls, state = 0, random.getstate()
    torch.manual_seed(seed)
    random.seed(seed)

    def counted(*inputs: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        return program(*inputs, **options)

    try:
        returned = test(counted)
    except Exception as error:
        if is_stub(error):
            raise not_written(error) from None
        return error, calls
    finally:
        random.setstate(state)
    if returned is not None:
        raise Wrong(
            f"{name_of(test)} returned {returned!r}: a test returns nothing; it says `assert …`"
        )
    return None, calls
