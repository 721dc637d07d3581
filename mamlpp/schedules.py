"""What changes over a training, as pure functions of the epoch (fractions allowed)."""

import math
from typing import Any


def second_order(second_order_from: float | None, epoch: float) -> bool:
    """Whether the meta-gradient goes through the inner gradients (DA; paper, section 4).

    `second_order_from` is the first epoch that does: 0 for always, None for never.
    """
    return second_order_from is not None and epoch >= second_order_from


def step_weights(steps: int, msl_epochs: float, msl_floor: float, epoch: float) -> list[float]:
    """Weight of the query loss after each of the inner steps 1 … S (MSL; paper, section 4).

    At epoch 0 each weight is 1/S. All but the last fall linearly to `msl_floor`, which they reach
    at epoch `msl_epochs` and keep; the last takes the rest, so that they sum to 1 at every epoch.
    `msl_epochs` 0 means no multi-step loss: the last weight is 1, the others are 0.
    """
    if msl_epochs == 0:
        return [0.0] * (steps - 1) + [1.0]
    progress = min(epoch / msl_epochs, 1.0)
    other = (1 - progress) / steps + progress * min(msl_floor, 1 / steps)
    return [other] * (steps - 1) + [1 - other * (steps - 1)]


def outer_rate(rate: Any, minimum: float | None, epochs: float, epoch: float) -> Any:
    """Learning rate of the meta-optimizer: β = β_min + ½(β_max − β_min)(1 + cos(π·T/T_max)) (CA).

    T is the epoch, bounded by T_max = `epochs`: the rate never rises again. `minimum` None keeps it
    at `rate` throughout; `rate` None leaves it to the optimizer.
    """
    if rate is None or minimum is None:
        return rate
    turn = math.pi * min(epoch, epochs) / epochs
    return minimum + (rate - minimum) * (1 + math.cos(turn)) / 2
