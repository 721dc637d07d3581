"""What changes over a training, as pure functions of the epoch (fractions allowed)."""


def second_order(second_order_from: float | None, epoch: float) -> bool:
    """Whether the meta-gradient of this epoch goes through the inner gradients (paper, section 4).

    `second_order_from` is the first epoch that does: 0 for always, None for never.
    """
    return second_order_from is not None and epoch >= second_order_from
