"""Checks of the exercises in `notebooks/exercises/`: each tries a student's own function.

A check calls the function on small inputs, drawn from its `seed`. It prints one line if the
function does what the exercise asks; otherwise it raises `Wrong`, which names the likely mistake
and shows the call, its result and what was expected.

Imports the definition, the data and evaluation. Only the exercises import it.
"""

from mamlpp.checks.core import Wrong
from mamlpp.checks.hints import hint
from mamlpp.checks.set_1_inner_loop import (
    layer_step,
    meta_gradients,
    momentum_loop,
    second_order_test,
)
from mamlpp.checks.set_2_digits import digits, first_lost, predicted_steps
from mamlpp.checks.set_2_instability import clipped_step, growth
from mamlpp.checks.set_3_multi_step_loss import curriculum, lifted, query_losses
from mamlpp.checks.set_3_sampled_loss import sampled_loss
from mamlpp.checks.set_4_schedules import (
    bounded_test,
    earliest_switch,
    schedule_epoch,
    training_time,
)
from mamlpp.checks.set_5_batch_norm import pooled, shares
from mamlpp.checks.set_5_leaks import leaks, sealed_logits
from mamlpp.checks.set_6_inner_rates import (
    best_rate,
    numbers_learned,
    spread,
    steps_that_learn,
)
from mamlpp.checks.set_7_mamlpp import reaches, task_loss
from mamlpp.checks.set_8_bug_hunt import fixed, found, shown
from mamlpp.checks.warm_ups import curves, warm_up

__all__ = [
    "Wrong",
    "best_rate",
    "bounded_test",
    "clipped_step",
    "curriculum",
    "curves",
    "digits",
    "earliest_switch",
    "first_lost",
    "fixed",
    "found",
    "growth",
    "hint",
    "layer_step",
    "leaks",
    "lifted",
    "meta_gradients",
    "momentum_loop",
    "numbers_learned",
    "pooled",
    "predicted_steps",
    "query_losses",
    "reaches",
    "sampled_loss",
    "schedule_epoch",
    "sealed_logits",
    "second_order_test",
    "shares",
    "shown",
    "spread",
    "steps_that_learn",
    "task_loss",
    "training_time",
    "warm_up",
]
