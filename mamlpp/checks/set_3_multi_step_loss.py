"""Checks of set 3: the multi-step loss (Antoniou et al. 2019, section 4, equation 3)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mamlpp import schedules
from mamlpp.checks.core import (
    Function,
    Wrong,
    attempt,
    generator,
    judge,
    judge_trials,
    normal,
    passed,
    pick,
)
from mamlpp.checks.set_1_inner_loop import Weights, draw_problem, linear, path_of


def _fall(steps: int, other: float) -> list[float]:
    """All but the last count `other`, and the last takes the rest."""
    return [other] * (steps - 1) + [1 - (steps - 1) * other]


def _lost(epoch: float, found: Any) -> str | None:
    """What to say of weights that do not sum to 1."""
    if not isinstance(found, list | tuple) or not all(isinstance(v, float | int) for v in found):
        return None
    if abs(sum(found) - 1) < 1e-6:
        return None
    return (
        f"your weights sum to {sum(found):.2f} at epoch {epoch:g}: the final step must take what "
        f"the others lose"
    )


def step_weights(student: Function, seed: int = 0) -> None:
    """Exercise 3.1: `step_weights(steps, msl_epochs, epoch)`: v_1 … v_N, annealed to the last."""
    draw = generator(seed)
    lengths = [(pick(draw, [3, 4, 5]), pick(draw, [10, 15])) for _ in range(4)]
    progress = (0.0, 0.4, 1.0, 1.6)
    trials = [(n, e, p * e) for (n, e), p in zip(lengths, progress, strict=True)]
    judge_trials(
        student,
        trials,
        lambda n, e, epoch: schedules.step_weights(n, e, 0.0, epoch),
        {
            "the fall goes on below zero: it ends at epoch E": lambda n, e, epoch: _fall(
                n, (1 - epoch / e) / n
            ),
            "it starts with the last step alone and ends with all: the annealing goes the other "
            "way": lambda n, e, epoch: _fall(n, min(epoch / e, 1) / n),
            "the first step takes what the others lose: it is the last that should": (
                lambda n, e, epoch: schedules.step_weights(n, e, 0.0, epoch)[::-1]
            ),
            "the weights stay at 1/N: they should move with the epoch": lambda n, e, epoch: _fall(
                n, 1 / n
            ),
            "only the last step counts from the start: at epoch 0 all count 1/N": (
                lambda n, e, epoch: _fall(n, 0.0)
            ),
            "each falls by 1/(N·E) an epoch, N times as slowly as yours": lambda n, e, epoch: _fall(
                n, 1 / n - min(epoch / e, 1)
            ),
        },
        otherwise=lambda trial, found: _lost(trial[-1], found),
    )
    passed(student)


def step_weights_floor(student: Function, seed: int = 0) -> None:
    """Exercise 3.2: the same, but the others fall linearly to `floor`, and stay there."""
    draw = generator(seed)
    trials = []
    for progress in (0.0, 0.5, 0.9, 1.0, 2.0):
        steps, length = pick(draw, [3, 4, 5]), pick(draw, [10, 15])
        trials.append((steps, length, pick(draw, [0.03, 0.04]), progress * length))

    def line(steps: int, length: int, floor: float, epoch: float) -> float:
        return 1 / steps + epoch / length * (floor - 1 / steps)

    def to_zero(steps: int, length: int, epoch: float) -> float:
        return (1 - min(epoch / length, 1)) / steps

    judge_trials(
        student,
        trials,
        schedules.step_weights,
        {
            "it falls to zero: from epoch E on, each earlier step still counts `floor`": (
                lambda n, e, floor, epoch: _fall(n, to_zero(n, e, epoch))
            ),
            "it clips a fall to zero at the floor, so the floor is reached before epoch E; a "
            "straight line from 1/N to the floor is asked": (
                lambda n, e, floor, epoch: _fall(n, max(to_zero(n, e, epoch), floor))
            ),
            "the floor is added to a fall to zero, so at epoch 0 each counts more than 1/N": (
                lambda n, e, floor, epoch: _fall(n, to_zero(n, e, epoch) + floor)
            ),
            "it drops to the last step alone at epoch E, as published code does: the floor is "
            "never reached": lambda n, e, floor, epoch: _fall(
                n, 0.0 if epoch >= e else line(n, e, floor, epoch)
            ),
            "the fall goes on after epoch E, below the floor": (
                lambda n, e, floor, epoch: _fall(n, line(n, e, floor, epoch))
            ),
        },
        otherwise=lambda trial, found: _lost(trial[-1], found),
    )
    passed(student)


def meta_loss(student: Function, seed: int = 0) -> None:
    """Exercise 3.3: `meta_loss(model, path, x, y, counts)` is Σ v_i L(θ_i), i = 1 … N."""
    draw = generator(seed)
    for steps in (2, 3, 5):
        weights, x, y, rate = draw_problem(draw)
        path = path_of(weights, x, y, rate, steps)
        query = normal(draw, 6, 4)
        counts = schedules.step_weights(steps, 10, 0.0, pick(draw, [2, 4, 6]))
        losses = [F.cross_entropy(linear(w, query), y) for w in path]
        terms = [v * loss for v, loss in zip(counts, losses[1:], strict=True)]
        total = torch.stack(terms).sum()
        shifted = [v * loss for v, loss in zip(counts, losses[:-1], strict=True)]
        found = attempt(student, linear, path, query, y, counts)
        judge(
            student,
            found,
            total,
            {
                "v_1 belongs to θ_1: yours counts θ_0, and leaves out θ_N": torch.stack(
                    shifted
                ).sum(),
                "it divides by N, but the weights sum to 1 already": total / steps,
                "it counts the last step alone: that is plain MAML": losses[-1],
                "it adds the losses unweighted": torch.stack(losses[1:]).sum(),
                "it gives the losses step by step: the meta-loss is their sum": terms,
                "it counts the steps in the opposite order: counts[0] belongs to θ_1": sum(
                    v * loss for v, loss in zip(counts[::-1], losses[1:], strict=True)
                ),
                "it averages the weights and judges once: the losses are what is averaged": (
                    _loss_of_average(linear, path, query, y, counts)
                ),
            },
        )
        if not getattr(found, "requires_grad", False):
            raise Wrong(
                f"{student.__name__}: the number is right, but its graph is gone (.item(), float "
                f"or no_grad), so there is nothing to call backward() on"
            )
    passed(student)


def _loss_of_average(
    model: Function, path: list[Weights], x: Tensor, y: Tensor, counts: list[float]
) -> Tensor:
    middle = {
        n: torch.stack([v * w[n] for v, w in zip(counts, path[1:], strict=True)]).sum(0)
        for n in path[0]
    }
    return F.cross_entropy(model(middle, x), y)


def query_losses(student: Function, seed: int = 0) -> None:
    """Exercise 3.4: `query_losses(steps, msl_epochs, floor, epochs)`: how many a task computes.

    One meta-step an epoch, at epochs 0, 1, …; losses that count 0 are not computed.
    """
    draw = generator(seed)
    trials = [
        (pick(draw, [3, 4, 5]), pick(draw, [10, 15]), floor, epochs)
        for floor, epochs in ((0.0, 20), (0.01, 50), (0.0, 8), (0.01, 8))
    ]

    def total(steps: int, with_all: int, epochs: int) -> int:
        return with_all * steps + epochs - with_all

    judge_trials(
        student,
        trials,
        lambda n, e, floor, epochs: total(n, epochs if floor else min(e, epochs), epochs),
        {
            "with a floor no loss ever counts 0, so that all N are computed to the end": (
                lambda n, e, floor, epochs: total(n, min(e, epochs), epochs)
            ),
            "from epoch E on only the last loss counts: without a floor the others are not "
            "computed any more": lambda n, e, floor, epochs: epochs * n,
            "one epoch too many: at epoch E the others count 0 already": (
                lambda n, e, floor, epochs: total(
                    n, epochs if floor else min(e + 1, epochs), epochs
                )
            ),
            "one epoch too few: epochs are counted from 0, so E of them come before epoch E": (
                lambda n, e, floor, epochs: total(
                    n, epochs if floor else min(e - 1, epochs), epochs
                )
            ),
            "after epoch E one loss is still computed, the last": (
                lambda n, e, floor, epochs: n * (epochs if floor else min(e, epochs))
            ),
            "the training may end before epoch E": (
                lambda n, e, floor, epochs: epochs * n if floor else total(n, e, epochs)
            ),
        },
    )
    passed(student)
