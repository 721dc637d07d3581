"""The memory that a meta-step frees stays with the process for the next one.

By default glibc returns it to Linux, which clears every page before it lends it again. In a small
meta-step, such as that of `maml++-quick`, this takes about a sixth of the time.
"""

import ctypes
from contextlib import suppress

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_LARGEST = 2**31 - 1, 2**25  # what glibc accepts for them


def keep_memory() -> None:
    """Let this process keep the memory that it frees; without effect where there is no glibc."""
    with suppress(AttributeError, OSError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_TRIM_THRESHOLD, _LARGEST[0])
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST[1])


def return_memory() -> None:
    """Return to the system what is free now."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
