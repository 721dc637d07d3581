"""What the bug hunt (set 8) knows about one of its programs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mamlpp.checks.core import Function
from mamlpp.checks.judging import Trial


def call(program: Function, *inputs: Any) -> Any:
    """Observe nothing but the result."""
    return program(*inputs)


@dataclass(frozen=True)
class Bug:
    """A program with a defect that published code had. `observe` as in `judge_trials`."""

    kind: str
    broken: Function
    right: Function
    defect: str
    """What a repair is told that changes nothing."""
    test_hint: str
    """What a test is told that lets the broken program pass."""
    trials: Callable[[int], Sequence[Trial]]
    """The inputs on which a repair is tried, from the seed."""
    mistakes: Mapping[str, Function] = field(default_factory=dict)
    observe: Function = call
    witness: Function = call
    """What tells a call that shows the defect, observed like `observe`."""
    also_right: Function | None = None
    may_change: bool = False
