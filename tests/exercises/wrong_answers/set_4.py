import math

from mamlpp import checks
from tests.exercises.wrong_answers import all_wrong, wrong


def training_time(first_order_epochs):
    """Seconds, where `first_order_epochs(epochs, switch)` of the epochs are of first order."""

    def seconds(epochs, second_order_from, first_order_seconds, second_order_seconds):
        switch = epochs if second_order_from is None else second_order_from
        first = first_order_epochs(epochs, switch)
        return first * first_order_seconds + (epochs - first) * second_order_seconds

    return seconds


def is_first(epoch, switch):
    return switch is None or epoch < switch


all_wrong(
    checks.training_time,
    {
        "it is no number, so handle it first": lambda n, switch, first, second: sum(
            first if epoch < switch else second for epoch in range(n)
        ),
        "all are of first order": lambda n, switch, first, second: training_time(min)(
            n, switch or 0, first, second
        ),
        "it may end before the switch": training_time(lambda n, switch: switch),
        "the two times are swapped": lambda n, switch, first, second: training_time(min)(
            n, switch, second, first
        ),
        "one epoch too many is of first order": lambda n, switch, first, second: sum(
            first if is_first(epoch - 1, switch) else second for epoch in range(n)
        ),
        "one epoch too few is of first order": lambda n, switch, first, second: sum(
            first if is_first(epoch, switch) else second for epoch in range(1, n + 1)
        ),
        "it counts the second-order epochs alone": lambda n, switch, first, second: sum(
            second for epoch in range(n) if not is_first(epoch, switch)
        ),
        "it counts the first-order epochs alone": lambda n, switch, first, second: sum(
            first for epoch in range(n) if is_first(epoch, switch)
        ),
        "of an average epoch": lambda n, switch, first, second: (
            sum(first if is_first(epoch, switch) else second for epoch in range(n)) / n
        ),
        "not seconds": lambda n, switch, first, second: sum(
            is_first(epoch, switch) for epoch in range(n)
        ),
        "one epoch too many: `epochs`": lambda n, switch, first, second: sum(
            first if is_first(epoch, switch) else second for epoch in range(n + 1)
        ),
        "one epoch too few: `epochs`": lambda n, switch, first, second: sum(
            first if is_first(epoch, switch) else second for epoch in range(n - 1)
        ),
        "is not always 150": lambda n, switch, first, second: sum(
            first if is_first(epoch, switch) else second for epoch in range(150)
        ),
        "second order is forgotten": lambda n, switch, first, second: n * first,
    },
)


def seconds_of(epochs, switch, first, second):
    return switch * first + (epochs - switch) * second


def tried(switches):
    """The first of some switches with which the training fits, or none of the epochs."""

    def earliest_switch(epochs, seconds, first, second):
        for switch in switches(epochs):
            if seconds_of(epochs, switch, first, second) <= seconds:
                return switch
        return epochs

    return earliest_switch


def counted(how_many):
    """The switch, where so many epochs are of second order."""

    def earliest_switch(epochs, seconds, first, second):
        return max(epochs - how_many((seconds - epochs * first) / (second - first)), 0)

    return earliest_switch


right_switch = tried(range)


@wrong(checks.earliest_switch, "a training that takes exactly `seconds` is allowed")
def does_not_use_all_the_time(epochs, seconds, first, second):
    for switch in range(epochs):
        if seconds_of(epochs, switch, first, second) < seconds:
            return switch
    return epochs


@wrong(checks.earliest_switch, "returned None")
def gives_up_where_no_epoch_fits(epochs, seconds, first, second):
    for switch in range(epochs):
        if seconds_of(epochs, switch, first, second) <= seconds:
            return switch


@wrong(checks.earliest_switch, "the switch is never below 0")
def goes_below_zero(epochs, seconds, first, second):
    return epochs - (seconds - epochs * first) // (second - first)


@wrong(checks.earliest_switch, "costs only the difference more")
def adds_epochs(epochs, seconds, first, second):
    return max(epochs - (seconds - epochs * first) // second, 0)


@wrong(checks.earliest_switch, "the epochs of first order take time too")
def forgets_first_order(epochs, seconds, first, second):
    return max(epochs - seconds // second, 0)


@wrong(checks.earliest_switch, "or are the two times swapped?")
def swaps_the_times(epochs, seconds, first, second):
    for switch in range(epochs + 1):
        if seconds_of(epochs, switch, second, first) <= seconds:
            return switch


all_wrong(
    checks.earliest_switch,
    {
        "0 would mean always": lambda epochs, *given: right_switch(epochs, *given) % epochs,
        "that comes after the last": lambda epochs, *given: min(
            right_switch(epochs, *given), epochs - 1
        ),
        "it returns -1 where": lambda *given: next(
            (n for n in range(given[0]) if right_switch(*given) == n), -1
        ),
        "where there is time to spare": lambda epochs, seconds, first, second: (
            epochs if seconds > epochs * second else right_switch(epochs, seconds, first, second)
        ),
        "this is how many epochs are of second order": lambda epochs, seconds, first, second: min(
            (seconds - epochs * first) // (second - first), epochs
        ),
        "it rounds up": counted(math.ceil),
        "it rounds to the nearest": counted(round),
        "a whole epoch is asked for": counted(float),
        "one epoch too early": counted(lambda extra: math.floor(extra + 1)),
        "one epoch too late": lambda *given: right_switch(*given) + 1,
        "it is the latest switch": tried(lambda epochs: range(epochs, -1, -1)),
        "it is either 0 or `epochs`": lambda epochs, seconds, first, second: (
            0 if epochs * second <= seconds else epochs
        ),
        "0 is a switch too": tried(lambda epochs: range(1, epochs)),
        "the last epoch, epochs − 1": tried(lambda epochs: range(epochs - 1)),
        "it returns the seconds": lambda epochs, seconds, first, second: seconds_of(
            epochs, right_switch(epochs, seconds, first, second), first, second
        ),
        "it returns the time that is left": lambda epochs, seconds, first, second: (
            seconds
            - seconds_of(epochs, right_switch(epochs, seconds, first, second), first, second)
        ),
        "it returns a share": lambda epochs, *given: right_switch(epochs, *given) / epochs,
        "`epochs` is an argument": lambda epochs, *given: right_switch(150, *given),
        "it is the paper's switch": lambda *given: 50,
    },
)


def turned(angle, rate, minimum):
    return minimum + (rate - minimum) * (1 + math.cos(angle)) / 2


RANGE = 1e-3, 1e-5, 100


@wrong(checks.bounded_test, "rises again after the last epoch")
def looks_at_the_end_alone(schedule):
    assert math.isclose(schedule(*RANGE, 0), 1e-3)
    assert math.isclose(schedule(*RANGE, 100), 1e-5)


@wrong(checks.bounded_test, "starts again after the last epoch")
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


@wrong(checks.bounded_test, "at the minimum from the start")
def looks_after_the_end_alone(schedule):
    assert all(math.isclose(schedule(*RANGE, epoch), 1e-5) for epoch in (100, 130, 150, 200))


@wrong(checks.bounded_test, "reaches the minimum too late")
def does_not_look_at_the_end(schedule):
    assert math.isclose(schedule(*RANGE, 0), 1e-3)
    assert all(math.isclose(schedule(*RANGE, epoch), 1e-5) for epoch in (120, 150, 210))


@wrong(checks.bounded_test, "a test returns nothing")
def returns_a_truth(schedule):
    return math.isclose(schedule(*RANGE, 150), 1e-5)


all_wrong(
    checks.training_time,
    {
        "None stands for a switch at epoch 150": lambda n, switch, first, second: training_time(
            min
        )(n, 150 if switch is None else switch, first, second),
        "takes 0 for None": lambda n, switch, first, second: training_time(min)(
            n, switch or n, first, second
        ),
        "None is no number": lambda n, switch, first, second: (
            switch * first + (n - switch) * second
        ),
    },
)


@wrong(checks.bounded_test, "rises again after the last epoch")
def asks_after_whole_trainings(schedule):
    assert math.isclose(schedule(*RANGE, 0), 1e-3)
    assert all(math.isclose(schedule(*RANGE, epoch), 1e-5) for epoch in (100, 300, 500))


@wrong(checks.bounded_test, "is 0 after the last epoch")
def has_a_wide_tolerance(schedule):
    assert abs(schedule(*RANGE, 0) - 1e-3) < 1e-4
    assert all(abs(schedule(*RANGE, epoch) - 1e-5) < 1e-4 for epoch in (100, 101, 130, 150))


@wrong(checks.bounded_test, "rises again after the last epoch")
def asks_only_whether_it_falls(schedule):
    assert schedule(*RANGE, 0) > schedule(*RANGE, 50) > schedule(*RANGE, 100)
    assert schedule(*RANGE, 250) < 1e-3


@wrong(checks.bounded_test, "fails on the package's schedule")
def expects_zero(schedule):
    assert schedule(*RANGE, 150) == 0


@wrong(checks.bounded_test, "stopped: ")
def passes_too_little(schedule):
    assert schedule(1e-3, 1e-5, 150) == 1e-5


def stretched(planned, extended, decided, epoch):
    return decided + (epoch - decided) / (extended - decided) * (planned - decided)


def continued(go_on):
    """As planned until the decision, and `go_on` after it."""

    def schedule_epoch(planned, extended, decided, epoch):
        return epoch if epoch <= decided else go_on(planned, extended, decided, epoch)

    return schedule_epoch


def bounded(go_on):
    return continued(lambda p, x, d, epoch: go_on(p, x, d, min(epoch, x)))


all_wrong(
    checks.schedule_epoch,
    {
        "it stretches what is past": lambda p, x, d, epoch: min(epoch, x) * p / x,
        "the rest is trained at the minimum": lambda p, x, d, epoch: min(epoch, p),
        "the plan goes on unchanged": lambda p, x, d, epoch: min(epoch, x),
        "it runs on after the last epoch": continued(stretched),
        "it starts again at 0": bounded(lambda p, x, d, epoch: (epoch - d) / (x - d) * p),
        "is not added": bounded(lambda p, x, d, epoch: stretched(p, x, d, epoch) - d),
        "not planned / extended": bounded(lambda p, x, d, epoch: d + (epoch - d) * p / x),
        "it stands still": continued(lambda p, x, d, epoch: d),
        "it jumps to the end": continued(lambda p, x, d, epoch: p),
        "do not round it": lambda p, x, d, epoch: bounded(stretched)(p, x, d, int(epoch)),
        "it returns a rate, or a part": lambda p, x, d, e: bounded(stretched)(p, x, d, e) / p,
        "it is not always 100": lambda p, x, d, epoch: bounded(stretched)(100, x, d, epoch),
        "returned None": lambda p, x, d, epoch: print(bounded(stretched)(p, x, d, epoch)),
        "division by zero": lambda p, x, d, epoch: d + (p - d) / max(epoch - d, 0),
    },
)


def bounded_wrongly(bound):
    def training_time(epochs, start, first, second):
        start = epochs if start is None else start
        return start * first + bound(epochs - start) * second

    return training_time


all_wrong(
    checks.training_time,
    {
        "those of first order go beyond the training": bounded_wrongly(lambda left: max(left, 0)),
        "instead of taking abs()": bounded_wrongly(abs),
        "it returns minutes": lambda epochs, start, first, second: (
            sum(second if start is not None and e >= start else first for e in range(epochs)) / 60
        ),
        "the mean of the two times": lambda epochs, start, first, second: (
            epochs * (first + second) / 2
        ),
    },
)


def after(decided_on):
    def schedule_epoch(planned, extended, decided, epoch):
        rest = min(epoch, extended) - decided
        return epoch if epoch <= decided else decided_on(planned, extended, decided, rest)

    return schedule_epoch


all_wrong(
    checks.schedule_epoch,
    {
        "extended − decided, not extended": after(lambda p, e, d, rest: d + rest * (p - d) / e),
        "the schedule goes backwards": after(lambda p, e, d, rest: d - rest * (p - d) / (e - d)),
        "use / instead of //": after(lambda p, e, d, rest: d + rest * (p - d) // (e - d)),
    },
)


@wrong(checks.bounded_test, "is 0 after the last epoch")
def asks_only_that_it_falls(schedule):
    rates = [schedule(1e-3, 1e-5, 100, epoch) for epoch in range(200)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > rates[-1]


@wrong(checks.bounded_test, "is 0 after the last epoch")
def takes_a_minimum_of_zero(schedule):
    assert schedule(1.0, 0.0, 100, 0) == 1.0
    for epoch in (100, 120, 150, 300):
        assert abs(schedule(1.0, 0.0, 100, epoch)) < 1e-9


all_wrong(
    checks.training_time,
    {
        "0 is taken for None, and": lambda n, start, first, second: (
            start * first + (n - start) * second if start else n * first
        ),
        "all of it is of first order": lambda n, start, first, second: (
            n * first
            if start is None
            else n * second
            if start > n
            else start * first + (n - start) * second
        ),
        "yours are 1, 2": lambda n, start, first, second: sum(
            first if epoch < (n if start is None else start) else second
            for epoch in range(1, n + 1)
        ),
        "not those of first order on top": lambda n, start, first, second: (
            n * first + max(n - (n if start is None else start), 0) * second
        ),
        "takes time too": lambda n, start, first, second: (
            0 if start is None else min(start, n) * first + max(n - start, 0) * second
        ),
        "wrong only where epochs is above second_order_from": (
            lambda epochs, second_order_from, first, second: (
                epochs * first + (second_order_from is not None and second_order_from < epochs)
            )
        ),
    },
)


def after(change):
    def schedule_epoch(planned, extended, decided, epoch):
        return epoch if epoch <= decided else change(planned, extended, decided, epoch)

    return schedule_epoch


all_wrong(
    checks.schedule_epoch,
    {
        "the ratio is upside down": after(
            lambda planned, extended, decided, epoch: min(
                decided + (epoch - decided) * (extended - decided) / (planned - decided), planned
            )
        ),
        "not all of it": after(
            lambda planned, extended, decided, epoch: (
                decided + min((epoch - decided) / (extended - decided), 1) * planned
            )
        ),
        "begin at `decided`, not at": after(
            lambda planned, extended, decided, epoch: (
                decided + min((epoch - decided) / (extended - planned), 1) * (planned - decided)
            )
        ),
        "holds only after the decision": lambda planned, extended, decided, epoch: (
            decided + min((epoch - decided) / (extended - decided), 1) * (planned - decided)
        ),
        "it rounds: an epoch": after(
            lambda planned, extended, decided, epoch: round(
                decided + min((epoch - decided) / (extended - decided), 1) * (planned - decided)
            )
        ),
    },
)
