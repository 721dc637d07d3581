"""Checks of the exercises in `notebooks/exercises/`: each tries a student's own function.

A check draws small inputs from its `seed`, and prints one line if the function does what the
exercise asks; otherwise it raises `Wrong`, with a sentence that names the likely mistake.
"""

from mamlpp.checks.core import Wrong
from mamlpp.checks.set_1_inner_loop import inner_loop, inner_step, meta_gradients, second_order_test

__all__ = ["Wrong", "inner_loop", "inner_step", "meta_gradients", "second_order_test"]
