"""The programs 3 and 4 of the bug hunt: each broken, repaired, and repaired in wrong ways."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mamlpp.checks.bug import Bug
from mamlpp.checks.compare import Observed
from mamlpp.checks.core import Function
from mamlpp.checks.inputs import generator, normal

# 3: a backup that is the thing itself.

Statistics = dict[str, Tensor]


def _copy_back(statistics: Statistics, backup: Statistics) -> None:
    for name, tensor in backup.items():
        statistics[name].copy_(tensor)


def _restoring(
    back_up: Callable[[Statistics], Statistics],
    restore: Callable[[Statistics, Statistics], Any] = _copy_back,
    result: Callable[[Any, Statistics], Any] = lambda result, statistics: result,
) -> Function:
    def evaluated(statistics: Statistics, evaluate: Function) -> Any:
        backup = back_up(statistics)
        found = evaluate(statistics)
        restore(statistics, backup)
        return result(found, statistics)

    return evaluated


def _clones(statistics: Statistics) -> Statistics:
    return {name: tensor.clone() for name, tensor in statistics.items()}


def _on_a_copy(statistics: Statistics, evaluate: Function) -> Any:
    return evaluate(_clones(statistics))


def _on_zeros(statistics: Statistics, evaluate: Function) -> Any:
    return evaluate({name: torch.zeros_like(tensor) for name, tensor in statistics.items()})


def _twice(statistics: Statistics, evaluate: Function) -> Any:
    evaluate(_clones(statistics))
    return evaluate(_clones(statistics))


def _first_alone(statistics: Statistics) -> Statistics:
    name = next(iter(statistics))
    return {name: statistics[name].clone()}


def _with_statistics_after(program: Function, statistics: Statistics, evaluate: Function) -> Any:
    originals, calls = dict(statistics), []

    def counted(given: Statistics) -> Any:
        calls.append(given)
        return evaluate(given)

    result = program(statistics, counted)
    return Observed(
        {
            "the number of calls of `evaluate`": len(calls),
            "the returned value": result,
            "after the call, statistics": dict(statistics),
            "after the call, the tensor that was statistics": originals,
        }
    )


def change_in_place(statistics: Statistics) -> float:
    """An evaluation that changes the tensors that it is given."""
    for tensor in statistics.values():
        tensor.mul_(2.0).add_(1.5)
    return float(sum(tensor.sum() for tensor in statistics.values()))


def only_read(statistics: Statistics) -> float:
    """An evaluation that changes nothing."""
    return float(next(iter(statistics.values())).sum())


def _tables(seed: int) -> list[Callable[[], tuple[Any, ...]]]:
    def inputs(names: tuple[str, ...], evaluate: Function) -> tuple[Any, ...]:
        draw = generator(seed)
        return {name: normal(draw, 2) for name in names}, evaluate

    tables = (("mean",), ("mean", "variance"), ("block1.mean", "block1.variance", "block2.mean"))
    trials = [partial(inputs, names, change_in_place) for names in tables]
    return [*trials, partial(inputs, tables[1], only_read)]


ALIAS = Bug(
    kind="alias",
    broken=_restoring(lambda statistics: statistics),
    right=_restoring(_clones),
    also_right=_on_a_copy,
    defect=(
        "the statistics still come out changed: the backup must hold clones, since a copy of the "
        "dict alone (dict(…), .copy()) holds the same tensors; make it before the evaluation, and "
        "copy it back afterwards"
    ),
    test_hint="let `evaluate` change the tensors in place, and compare them with clones",
    trials=_tables,
    mistakes={
        "the dict holds clones now, but the tensors that it held before are changed: copy the "
        "numbers back into them (copy_)": _restoring(
            _clones, lambda statistics, backup: statistics.update(backup)
        ),
        "only the first tensor is copied back": _restoring(_first_alone),
        "the result of the evaluation is lost": _restoring(
            _clones, result=lambda found, statistics: 0.0
        ),
        "it returns the statistics: the result of `evaluate` is asked for": _restoring(
            _clones, result=lambda found, statistics: statistics
        ),
        "it evaluates twice": _twice,
        "`evaluate` is never called: its result is asked for": lambda statistics, _: statistics,
        "`evaluate` should see the statistics as they are": _on_zeros,
    },
    observe=_with_statistics_after,
    witness=_with_statistics_after,
    may_change=True,
)


# 4: a schedule that leaves its line too early.


def all_but_last(steps: int, weight: float) -> list[float]:
    """Weights of the multi-step loss: all but the last are `weight`, and the last is the rest."""
    return [weight] * (steps - 1) + [1 - (steps - 1) * weight]


def _line(
    share: Callable[[float, float], float] = lambda epoch, e: min(epoch / e, 1),
    end: Callable[[float], float] = lambda floor: floor,
    jump: Callable[[float, float], bool] = lambda epoch, e: False,
) -> Function:
    """Weights on the line from 1/N to the floor, of which a share is done; 0 after a jump."""

    def weights(steps: int, msl_epochs: int, floor: float, epoch: float) -> list[float]:
        if jump(epoch, msl_epochs):
            return all_but_last(steps, 0.0)
        done = share(epoch, msl_epochs)
        return all_but_last(steps, 1 / steps + done * (end(floor) - 1 / steps))

    return weights


def _one_too_many(steps: int, msl_epochs: int, floor: float, epoch: float) -> list[float]:
    weights = _line()(steps, msl_epochs, floor, epoch)
    return [*weights[:-1], 1.0] if epoch >= msl_epochs else weights


def _epochs(seed: int) -> list[tuple[Any, ...]]:
    trials: list[tuple[Any, ...]] = [(4, 10, 0.02, epoch) for epoch in (0, 5, 10, 11, 20)]
    e = 6 + seed % 20
    trials += [(3, e, 0.05, epoch) for epoch in (2.5, 5.75, e, e + 0.5, 40)]
    return [*trials, (5, 15, 0.0, 7.5), (2, 15, 0.1, 30)]


EARLY_JUMP = Bug(
    kind="early jump",
    broken=_line(jump=lambda epoch, e: epoch >= e),
    right=_line(),
    defect="it still jumps to the last step alone, at epoch E",
    test_hint="look at epoch E and after it, with a floor above 0",
    trials=_epochs,
    mistakes={
        "after epoch E the fall now goes on, below the floor": _line(lambda epoch, e: epoch / e),
        "the jump now comes an epoch later": _line(jump=lambda epoch, e: epoch >= e + 1),
        "the jump now comes just after epoch E": _line(jump=lambda epoch, e: epoch > e),
        "after epoch E the others are at the floor, but the last must take the rest": _one_too_many,
        "the line is bounded by 0: it should stop at the floor": (
            lambda n, e, floor, epoch: all_but_last(
                n, max(1 / n + epoch / e * (floor - 1 / n), 0.0)
            )
        ),
        "it clips a fall to zero at the floor: the line goes from 1/N to the floor": (
            lambda n, e, floor, epoch: all_but_last(n, max((1 - epoch / e) / n, floor))
        ),
        "the last weight falls with the others: it should take the rest": (
            lambda n, e, floor, epoch: _line()(n, e, floor, epoch)[:1] * n
        ),
        "it falls to 0, and not to the floor": _line(end=lambda floor: 0.0),
        "the epoch may be a fraction: do not round it": _line(
            lambda epoch, e: min(int(epoch) / e, 1)
        ),
        "the fall ends an epoch too early": _line(lambda epoch, e: min(epoch / (e - 1), 1)),
        "the fall ends an epoch too late": _line(lambda epoch, e: min(epoch / (e + 1), 1)),
        "`msl_epochs` is an argument: it is not always 10": _line(
            lambda epoch, e: min(epoch / 10, 1)
        ),
        "`msl_epochs` is an argument in both places: divide by it, too": _line(
            lambda epoch, e: min(epoch, e) / 10
        ),
        "`floor` is an argument: it is not always 0.02": _line(end=lambda floor: 0.02),
        "it is at the floor from the start": _line(lambda epoch, e: 1.0),
        "after epoch E all steps count 1/N again": lambda n, e, floor, epoch: (
            all_but_last(n, 1 / n) if epoch >= e else _line()(n, e, floor, epoch)
        ),
    },
)
