"""The programs 5 and 6 of the bug hunt: each broken, repaired, and repaired in wrong ways."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import torch

from mamlpp.checks.bug import Bug
from mamlpp.checks.bugs_3_and_4 import all_but_last
from mamlpp.checks.compare import Observed, Words, kind
from mamlpp.checks.core import Function
from mamlpp.checks.inputs import generator

# 5: an iteration taken for an epoch.


def _by(epochs: Callable[[int, int], float], length: Callable[[int], float] = float) -> Function:
    """Weights that fall by 1/(N·E) for each of what `epochs` makes of (iteration, an epoch's)."""

    def weights(steps: int, msl_epochs: int, per_epoch: int, iteration: int) -> list[float]:
        fall = epochs(iteration, per_epoch) / (steps * length(msl_epochs))
        return all_but_last(steps, max(1 / steps - fall, 0.0))

    return weights


def _below_zero(steps: int, msl_epochs: int, per_epoch: int, iteration: int) -> list[float]:
    return all_but_last(steps, 1 / steps - iteration // per_epoch / (steps * msl_epochs))


def _iterations(seed: int) -> list[tuple[int, ...]]:
    trials = [(4, 10, 50, i) for i in (0, 7, 30, 49, 50, 260, 499, 500, 900)]
    e = 4 + seed % 20
    trials += [(3, e, 20, i) for i in (19, 20, 45, 20 * e - 1, 200)]
    return [*trials, (2, 15, 500, 4000), (5, 3, 7, 13)]


ITERATION_FOR_EPOCH = Bug(
    kind="iteration for epoch",
    broken=_by(lambda iteration, per_epoch: iteration),
    right=_by(lambda iteration, per_epoch: iteration // per_epoch),
    defect="it still falls in every iteration by what a whole epoch should take",
    test_hint="two iterations of one epoch should give the same; E epochs are many iterations",
    trials=_iterations,
    mistakes={
        "whole epochs count: within an epoch nothing moves (// and not /)": _by(
            lambda iteration, per_epoch: iteration / per_epoch
        ),
        "it begins again in each epoch: // counts epochs, % the iterations within one": _by(
            lambda iteration, per_epoch: iteration % per_epoch
        ),
        "an epoch counts when it is over: round down, not up": _by(
            lambda iteration, per_epoch: -(-iteration // per_epoch)
        ),
        "an epoch begins one iteration too late: iterations are counted from 0": _by(
            lambda iteration, per_epoch: (iteration - 1) // per_epoch
        ),
        "the number of epochs is a ratio, not a product": _by(
            lambda iteration, per_epoch: iteration * per_epoch
        ),
        "epochs are counted from 0: the first iteration belongs to epoch 0": _by(
            lambda iteration, per_epoch: iteration // per_epoch + 1
        ),
        "it rounds the number of epochs: an epoch counts when it is over (//)": _by(
            lambda iteration, per_epoch: round(iteration / per_epoch)
        ),
        "an epoch begins one iteration too early: iterations are counted from 0": _by(
            lambda iteration, per_epoch: (iteration + 1) // per_epoch
        ),
        "the ratio is upside down: iteration // iterations_per_epoch": _by(
            lambda iteration, per_epoch: per_epoch // iteration if iteration else 0
        ),
        "`iterations_per_epoch` is an argument: it is not always 50": _by(
            lambda iteration, per_epoch: iteration // 50
        ),
        "`msl_epochs` is an argument: it is not always 10": _by(
            lambda iteration, per_epoch: iteration // per_epoch, lambda msl_epochs: 10
        ),
        "the fall goes on below 0: keep the max": _below_zero,
        "nothing moves any more": _by(lambda iteration, per_epoch: 0),
    },
)


# 6: classes that come twice.

Draw = torch.Generator


def _with_replacement(classes: int, ways: int, draw: Draw) -> list[int]:
    return torch.randint(classes, (ways,), generator=draw).tolist()


def _without_replacement(classes: int, ways: int, draw: Draw) -> list[int]:
    return torch.randperm(classes, generator=draw)[:ways].tolist()


def _by_sorting(classes: int, ways: int, draw: Draw) -> list[int]:
    return torch.rand(classes, generator=draw).argsort()[:ways].tolist()


def _as_a_set(classes: int, ways: int, draw: Draw) -> list[int]:
    return list(set(_with_replacement(classes, ways, draw)))


def _the_first(classes: int, ways: int, draw: Draw) -> list[int]:
    return list(range(ways))


def _neighbours(classes: int, ways: int, draw: Draw) -> list[int]:
    start = int(torch.randint(classes, (), generator=draw))
    return [(start + i) % classes for i in range(ways)]


def _in_a_row(classes: int, ways: int, draw: Draw) -> list[int]:
    start = int(torch.randint(classes - ways + 1, (), generator=draw))
    return list(range(start, start + ways))


def _into_a_set(classes: int, ways: int, draw: Draw) -> list[int]:
    task: set[int] = set()
    while len(task) < ways:
        task.add(int(torch.randint(classes, (), generator=draw)))
    return list(task)


def _moved_apart(classes: int, ways: int, draw: Draw) -> list[int]:
    """A class that comes twice is exchanged for the next one that is free."""
    task: list[int] = []
    for c in _with_replacement(classes, ways, draw):
        while c in task:
            c = (c + 1) % classes
        task.append(c)
    return task


def _shuffled(classes: Callable[[int, int], int], start: int = 0, more: int = 0) -> Function:
    def deal(n: int, ways: int, draw: Draw) -> list[int]:
        drawn = torch.randperm(classes(n, ways), generator=draw)[: ways + more] + start
        return drawn.tolist()

    return deal


def _its_own_draw(classes: int, ways: int, draw: Draw) -> list[int]:
    return torch.randperm(classes)[:ways].tolist()


def _always_the_same(classes: int, ways: int, draw: Draw) -> list[int]:
    return _without_replacement(classes, ways, generator(1))


def _deal(program: Function, classes: int, ways: int, draw: Draw) -> Observed:
    """What one sees in many tasks."""
    start = draw.get_state()
    tasks = [program(classes, ways, draw) for _ in range(75 * classes)]
    draw.set_state(start)
    again = [program(classes, ways, draw) for _ in range(5)]
    if not all(isinstance(task, list | tuple) for task in tasks):
        return Observed({"a task": Words(kind(tasks[0]))})
    drawn = [c for task in tasks for c in task]
    if not all(isinstance(c, int) for c in drawn):
        return Observed({"a class in a task": Words(kind(drawn[0]))})
    return Observed(
        {
            "a task": Words("a list"),
            "a class in a task": Words("a number"),
            "the number of entries in a task": _unless_all(ways, map(len, tasks)),
            "the number of different classes in a task": _unless_all(
                ways, (len(set(task)) for task in tasks)
            ),
            "of many tasks, [the smallest class, the largest class]": [min(drawn), max(drawn)],
            "whether, with the same generator, the same tasks come again": again == tasks[:5],
            "whether with one generator, the tasks differ": any(task != tasks[0] for task in tasks),
            "whether the classes come in any order": any(task != sorted(task) for task in tasks),
            "whether all classes come equally often": _evenly(drawn, range(classes)),
            "whether all pairs of classes come equally often": _evenly(
                [pair for task in tasks for pair in combinations(sorted(task), 2)],
                list(combinations(range(classes), 2)),
            ),
        }
    )


def _how_many_classes(program: Function, classes: int, ways: int, draw: Draw) -> int:
    return len(set(program(classes, ways, draw)))


def _unless_all(right: int, found: Any) -> int:
    """The right number, or the first other one that was found."""
    return next((n for n in found if n != right), right)


def _evenly(drawn: Sequence[Any], choices: Sequence[Any]) -> bool:
    """Whether χ² is within eight standard deviations of what chance gives."""
    counts, expected = Counter(drawn), len(drawn) / len(choices)
    chi_squared = sum((counts[choice] - expected) ** 2 / expected for choice in choices)
    freedom = len(choices) - 1
    return bool(chi_squared < freedom + 8 * math.sqrt(2 * freedom))


REPEATED_CLASS = Bug(
    kind="repeated class",
    broken=_with_replacement,
    right=_without_replacement,
    also_right=_by_sorting,
    defect="a class still comes twice in a task",
    test_hint="one draw may be lucky: draw often, or as many ways as there are classes",
    trials=lambda seed: [
        lambda: (20, 5, generator(seed)),
        lambda: (6, 6, generator(seed + 1)),
        lambda: (12, 2, generator(seed + 2)),
    ],
    mistakes={
        "sorting changes nothing: a class still comes twice": lambda classes, ways, draw: sorted(
            _with_replacement(classes, ways, draw)
        ),
        "leaving out what comes twice leaves too few classes": _as_a_set,
        "the classes are sorted: the label of a class would say something about it": (
            lambda classes, ways, draw: sorted(_without_replacement(classes, ways, draw))
        ),
        "`unique` leaves out what comes twice, so that the task is too small": (
            lambda classes, ways, draw: sorted(_as_a_set(classes, ways, draw))
        ),
        "it always takes the first classes": _the_first,
        "the classes are in a row: any classes may come together": _in_a_row,
        "a set puts its numbers into an order of its own, so that a class keeps its label: use a "
        "list": _into_a_set,
        "the classes are neighbours: any classes may come together": _neighbours,
        "exchanging a class that comes twice for the next one makes neighbours more likely: "
        "shuffle all classes instead": _moved_apart,
        "it shuffles the first `ways` classes alone: shuffle all of them": _shuffled(
            lambda classes, ways: ways
        ),
        "the last class never comes: shuffle all classes": _shuffled(
            lambda classes, ways: max(classes - 1, ways)
        ),
        "classes are counted from 0, and end at classes − 1": _shuffled(
            lambda classes, ways: classes, start=1
        ),
        "it returns all classes: take the first `ways` of them": lambda classes, ways, draw: (
            torch.randperm(classes, generator=draw).tolist()
        ),
        "it returns a tensor: a list is asked for (.tolist())": lambda classes, ways, draw: (
            torch.randperm(classes, generator=draw)[:ways]
        ),
        "the same generator should give the same tasks: draw from the one that is given": (
            _its_own_draw
        ),
        "every task is the same: draw from the generator that is given, do not seed a new one": (
            _always_the_same
        ),
        "it returns one class less than `ways`": _shuffled(lambda classes, ways: classes, more=-1),
    },
    observe=_deal,
    witness=_how_many_classes,
)
