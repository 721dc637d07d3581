"""Checks of the exercises in `notebooks/exercises/`: each tries a student's own function.

A check draws small inputs from its `seed`, and prints one line if the function does what the
exercise asks; otherwise it raises `Wrong`, with a sentence that names the likely mistake.
"""

from mamlpp.checks.core import Wrong
from mamlpp.checks.set_1_inner_loop import inner_loop, inner_step, meta_gradients, second_order_test
from mamlpp.checks.set_2_instability import (
    digits,
    first_lost,
    gradient_norms,
    growth,
    predicted_steps,
)
from mamlpp.checks.set_3_multi_step_loss import (
    meta_loss,
    query_losses,
    step_weights,
    step_weights_floor,
)
from mamlpp.checks.set_4_schedules import bounded_test, cosine_rate, second_order, training_time
from mamlpp.checks.set_5_batch_norm import absorb, leaks, normalise, sealed_logits
from mamlpp.checks.set_6_inner_rates import (
    lslr_step,
    meta_sgd_step,
    numbers_learned,
    rate_gradient,
)
from mamlpp.checks.set_7_mamlpp import reaches, task_loss
from mamlpp.checks.set_8_bug_hunt import fixed, found, shown

__all__ = [
    "Wrong",
    "absorb",
    "bounded_test",
    "cosine_rate",
    "digits",
    "first_lost",
    "fixed",
    "found",
    "gradient_norms",
    "growth",
    "inner_loop",
    "inner_step",
    "leaks",
    "lslr_step",
    "meta_gradients",
    "meta_loss",
    "meta_sgd_step",
    "normalise",
    "numbers_learned",
    "predicted_steps",
    "query_losses",
    "rate_gradient",
    "reaches",
    "sealed_logits",
    "second_order",
    "second_order_test",
    "shown",
    "step_weights",
    "step_weights_floor",
    "task_loss",
    "training_time",
]
