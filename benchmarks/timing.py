"""The timer that the smaller benchmarks use."""

import time
from collections.abc import Callable


def seconds(function: Callable[[], object]) -> float:
    """Wall time of one call, in seconds."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
