import math

from mamlpp import checks
from tests.exercises.wrong_answers import wrong


@wrong(checks.second_order, "one epoch late")
def is_late(second_order_from, epoch):
    return second_order_from is not None and epoch > second_order_from


@wrong(checks.second_order, "the other way round")
def turns_round(second_order_from, epoch):
    return second_order_from is None or epoch < second_order_from


@wrong(checks.second_order, "takes 0 for None")
def takes_zero_for_none(second_order_from, epoch):
    return bool(second_order_from) and epoch >= second_order_from


@wrong(checks.second_order, "None means never, not always")
def takes_none_for_always(second_order_from, epoch):
    return second_order_from is None or epoch >= second_order_from


@wrong(checks.second_order, "in one epoch alone")
def switches_back(second_order_from, epoch):
    return epoch == second_order_from


@wrong(checks.second_order, "stopped: TypeError")
def forgets_none(second_order_from, epoch):
    return epoch >= second_order_from


def bill(epochs, first, cheap, dear):
    return first * cheap + (epochs - first) * dear


@wrong(checks.training_time, "None means that no epoch")
def pays_for_none(epochs, second_order_from, cheap, dear):
    return bill(epochs, min(second_order_from or 0, epochs), cheap, dear)


@wrong(checks.training_time, "it ends before the switch")
def trains_on(epochs, second_order_from, cheap, dear):
    return bill(epochs, epochs if second_order_from is None else second_order_from, cheap, dear)


@wrong(checks.training_time, "the two prices are swapped")
def swaps_prices(epochs, second_order_from, cheap, dear):
    first = epochs if second_order_from is None else min(second_order_from, epochs)
    return bill(epochs, first, dear, cheap)


@wrong(checks.training_time, "one epoch too many is cheap")
def switches_late(epochs, second_order_from, cheap, dear):
    first = epochs if second_order_from is None else min(second_order_from + 1, epochs)
    return bill(epochs, first, cheap, dear)


@wrong(checks.training_time, "one epoch too few is cheap")
def counts_from_one(epochs, second_order_from, cheap, dear):
    start = epochs + 1 if second_order_from is None else second_order_from
    return sum(cheap if epoch < start else dear for epoch in range(1, epochs + 1))


@wrong(checks.training_time, "leaves out the first-order epochs")
def gives_first_order_away(epochs, second_order_from, cheap, dear):
    first = epochs if second_order_from is None else min(second_order_from, epochs)
    return (epochs - first) * dear


def turned(angle, rate, minimum):
    return minimum + (rate - minimum) * (1 + math.cos(angle)) / 2


@wrong(checks.cosine_rate, "the half is missing")
def forgets_the_half(rate, minimum, epochs, epoch):
    return minimum + (rate - minimum) * (1 + math.cos(math.pi * epoch / epochs))


@wrong(checks.cosine_rate, "it rises where it should fall")
def rises(rate, minimum, epochs, epoch):
    return minimum + (rate - minimum) * (1 - math.cos(math.pi * epoch / epochs)) / 2


@wrong(checks.cosine_rate, "π is missing")
def forgets_pi(rate, minimum, epochs, epoch):
    return turned(epoch / epochs, rate, minimum)


@wrong(checks.cosine_rate, "a whole turn of 2π")
def turns_twice(rate, minimum, epochs, epoch):
    return turned(2 * math.pi * epoch / epochs, rate, minimum)


@wrong(checks.cosine_rate, "it starts above the rate")
def anneals_everything(rate, minimum, epochs, epoch):
    return minimum + rate * (1 + math.cos(math.pi * epoch / epochs)) / 2


@wrong(checks.cosine_rate, "it ends at zero")
def forgets_the_minimum(rate, minimum, epochs, epoch):
    return turned(math.pi * epoch / epochs, rate, 0)


@wrong(checks.cosine_rate, "in a straight line")
def falls_straight(rate, minimum, epochs, epoch):
    return rate - (rate - minimum) * epoch / epochs


@wrong(checks.cosine_rate, "it should end at")
def divides_by_one_more(rate, minimum, epochs, epoch):
    return turned(math.pi * epoch / (epochs + 1), rate, minimum)


RANGE = 1e-3, 1e-5, 100


@wrong(checks.bounded_test, "rises again after the last epoch")
def looks_at_the_end_alone(schedule):
    assert math.isclose(schedule(*RANGE, 0), 1e-3)
    assert math.isclose(schedule(*RANGE, 100), 1e-5)


@wrong(checks.bounded_test, "starts anew after the last epoch")
def looks_not_to_rise_above_half(schedule):
    assert all(schedule(*RANGE, epoch) < 5.2e-4 for epoch in (150, 151))


@wrong(checks.bounded_test, "is 0 after the last epoch")
def finds_it_small(schedule):
    assert all(schedule(*RANGE, epoch) < 2e-5 for epoch in range(100, 300))


@wrong(checks.bounded_test, "one with cos², which is right")
def compares_exactly(schedule):
    half = schedule(*RANGE, 20)
    assert half == 1e-5 + (1e-3 - 1e-5) * (1 + math.cos(math.pi * 20 / 100)) / 2


@wrong(checks.bounded_test, "never calls the function")
def calls_nothing(schedule):
    assert schedule
