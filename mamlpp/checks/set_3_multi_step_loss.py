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
    normal,
    passed,
    pick,
    plain,
)
from mamlpp.checks.set_1_inner_loop import Weights, draw_problem, linear, path_of


def _fall(steps: int, other: float) -> list[float]:
    """All but the last count `other`, and the last takes the rest."""
    return [other] * (steps - 1) + [1 - (steps - 1) * other]


def _lost(found: Any, epoch: float) -> str | None:
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
    for progress in (0.0, 0.4, 1.0, 1.6):
        steps, length = pick(draw, [3, 4, 5]), pick(draw, [10, 15])
        epoch = progress * length
        done = min(progress, 1.0)
        found = plain(attempt(student, steps, length, epoch))
        mistakes = {
            f"at epoch {epoch:g} of {length} the fall goes on below zero: it ends at epoch "
            f"{length}": _fall(steps, (1 - progress) / steps),
            "it starts with the last step alone and ends with all: the annealing goes the other "
            "way": _fall(steps, done / steps),
            "the first step takes what the others lose: it is the last that should": _fall(
                steps, (1 - done) / steps
            )[::-1],
            "the weights stay at 1/N: they should move with the epoch": _fall(steps, 1 / steps),
            "only the last step counts from the start: at epoch 0 all count 1/N": _fall(steps, 0),
            "each falls by 1/(N·E) an epoch, N times as slowly as yours: 1/N − epoch/(N·E)": _fall(
                steps, 1 / steps - done
            ),
        }
        expected = schedules.step_weights(steps, length, 0.0, epoch)
        judge(student, found, expected, mistakes, otherwise=_lost(found, epoch))
    passed(student)


def step_weights_floor(student: Function, seed: int = 0) -> None:
    """Exercise 3.2: the same, but the others fall linearly to `floor`, and stay there."""
    draw = generator(seed)
    for progress in (0.5, 0.9, 1.0, 2.0):
        steps, length = pick(draw, [3, 4, 5]), pick(draw, [10, 15])
        floor, epoch, done = pick(draw, [0.01, 0.02]), progress * length, min(progress, 1.0)
        found = plain(attempt(student, steps, length, floor, epoch))
        start = 1 / steps
        mistakes = {
            "it falls to zero: from epoch E on, each earlier step still counts `floor`": _fall(
                steps, (1 - done) * start
            ),
            "it clips a fall to zero at the floor, so the floor is reached before epoch E; a "
            "straight line from 1/N to the floor is asked": _fall(
                steps, max((1 - done) * start, floor)
            ),
            "the floor is added to a fall to zero, so at epoch 0 each counts more than 1/N": _fall(
                steps, (1 - done) * start + floor
            ),
            "it drops to the last step alone at epoch E, as published code does: the floor is "
            "never reached": _fall(steps, 0.0 if done == 1 else (1 - done) * start + done * floor),
            "the fall goes on after epoch E, below the floor": _fall(
                steps, start + progress * (floor - start)
            ),
        }
        expected = schedules.step_weights(steps, length, floor, epoch)
        judge(student, found, expected, mistakes, otherwise=_lost(found, epoch))
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
    for floor in (0.0, 0.01, 0.0):
        steps, length = pick(draw, [3, 4, 5]), pick(draw, [10, 15])
        epochs = pick(draw, [20, 50]) if floor or seed % 2 == 0 else length - 3
        short = min(length, epochs)
        judge(
            student,
            attempt(student, steps, length, floor, epochs),
            epochs * steps if floor else short * steps + epochs - short,
            {
                "with a floor no loss ever counts 0, so that all N are computed to the end": (
                    short * steps + epochs - short
                ),
                "from epoch E on only the last loss counts: without a floor the others are not "
                "computed any more": epochs * steps,
                "one epoch too many: at epoch E the others count 0 already": (
                    (short + 1) * steps + epochs - short - 1
                ),
                "one epoch too few: epochs are counted from 0, so E of them come before epoch E": (
                    (short - 1) * steps + epochs - short + 1
                ),
                "after epoch E one loss is still computed, the last": short * steps,
                "the training may end before epoch E": length * steps + epochs - length,
            },
        )
    passed(student)
