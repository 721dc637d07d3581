"""Three hints for each exercise, from a question to nearly everything; none is the answer."""

import json
from pathlib import Path

from mamlpp.checks.core import Wrong

HINTS: dict[str, list[str]] = json.loads(
    Path(__file__).with_name("hints.json").read_text(encoding="utf-8")
)


def hint(exercise: str, level: int = 1) -> None:
    """Print the hint of an exercise, such as "1.1"; levels 1, 2 and 3 say more and more.

    Raises `Wrong` where there is no such exercise or level.
    """
    hints = HINTS.get(str(exercise))
    if hints is None:
        raise Wrong(f'there is no exercise {exercise!r}: write its number, as in hint("1.1", 1)')
    if level not in range(1, len(hints) + 1):
        raise Wrong(f"there is no hint {level!r}: the levels are 1 to {len(hints)}")
    print(f"Hint {level} of {len(hints)}: {hints[level - 1]}")
