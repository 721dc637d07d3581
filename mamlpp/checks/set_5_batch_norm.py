"""Checks of set 5: batch norm per step, and the leak between queries (paper, section 4)."""

from collections.abc import Callable

import torch
from torch import Tensor

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

Classifier = Callable[[Tensor], Tensor]


def _scaled(
    x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    columns = (1, -1, 1, 1)
    return (x - mean) / torch.sqrt(variance + eps) * weight.view(columns) + bias.view(columns)


def normalise(student: Function, seed: int = 0) -> None:
    """Exercise 5.1: `normalise(x, weight, bias, eps)`: batch norm by the batch's own statistics."""
    draw = generator(seed)
    for _ in range(2):
        x = 0.3 * normal(draw, 4, 3, 2, 5) + 2 * normal(draw, 3).view(1, 3, 1, 1)
        weight, bias, eps = 1 + 0.3 * normal(draw, 3), normal(draw, 3), 0.05
        variance, mean = torch.var_mean(x, (0, 2, 3), correction=0, keepdim=True)
        own_variance, own_mean = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
        all_variance, all_mean = torch.var_mean(x, correction=0)
        first_variance, first_mean = torch.var_mean(x, 0, correction=0, keepdim=True)
        unbiased = x.var((0, 2, 3), correction=1, keepdim=True)
        plain = (x - mean) / torch.sqrt(variance + eps)
        affine = weight, bias
        judge(
            student,
            attempt(student, x, *affine, eps),
            _scaled(x, mean, variance, *affine, eps),
            {
                "the variance divides by the count, not by the count less one: correction=0": (
                    _scaled(x, mean, unbiased, *affine, eps)
                ),
                "each image is normalised by itself (that is instance norm): average over the "
                "images too": _scaled(x, own_mean, own_variance, *affine, eps),
                "one mean for all channels: each channel has its own": _scaled(
                    x, all_mean, all_variance, *affine, eps
                ),
                "each pixel has a mean of its own: average over height and width too": _scaled(
                    x, first_mean, first_variance, *affine, eps
                ),
                "it divides by the variance: take the square root": (
                    (x - mean) / (variance + eps) * weight.view(1, -1, 1, 1)
                    + bias.view(1, -1, 1, 1)
                ),
                "eps is outside of the root: √(variance + eps)": _scaled(
                    x, mean, (variance.sqrt() + eps) ** 2, *affine, 0.0
                ),
                "eps is missing: √(variance + eps)": _scaled(x, mean, variance, *affine, 0.0),
                "weight and bias are missing": plain,
            },
        )
    passed(student)


def absorb(student: Function, seed: int = 0) -> None:
    """Exercise 5.2: `absorb(running, step, batch, momentum)`: new statistics, one row moved."""
    draw = generator(seed)
    running, batch, momentum = normal(draw, 4, 3), normal(draw, 3), pick(draw, [0.05, 0.1])
    trials = [(running, step, batch, momentum) for step in (1, 0, 3, 5)]

    def moved(running: Tensor, rows: int | slice, batch: Tensor, momentum: float) -> Tensor:
        new = running.clone()
        new[rows] = (1 - momentum) * new[rows] + momentum * batch
        return new

    def last(running: Tensor, step: int) -> int:
        return min(step, len(running) - 1)

    judge_trials(
        student,
        trials,
        lambda r, i, b, m: moved(r, last(r, i), b, m).tolist(),
        {
            "all steps moved: per-step statistics move in one row, that of the step": (
                lambda r, i, b, m: moved(r, slice(None), b, m).tolist()
            ),
            "the momentum is the batch's share, and the old values keep the rest: yours forgets "
            "nearly all": lambda r, i, b, m: moved(r, last(r, i), b, 1 - m).tolist(),
            "the row is one too low: row i belongs to step i, and row 0 to the unadapted weights": (
                lambda r, i, b, m: moved(r, last(r, i) - 1, b, m).tolist()
            ),
            "steps beyond the last row start again from the first: they should use the last": (
                lambda r, i, b, m: moved(r, i % len(r), b, m).tolist()
            ),
            "the row becomes the batch's statistics: it should only move towards them": (
                lambda r, i, b, m: moved(r, last(r, i), b, 1.0).tolist()
            ),
            "it gives the moved row alone: all rows are asked, the others as they were": (
                lambda r, i, b, m: moved(r, last(r, i), b, m)[last(r, i)].tolist()
            ),
            "the old values do not shrink, so that the sum grows for ever: (1 − m)·old + m·new": (
                lambda r, i, b, m: torch.stack(
                    [row + m * b if k == last(r, i) else row for k, row in enumerate(r)]
                ).tolist()
            ),
        },
    )
    passed(student)


# Exercise 5.3: classifiers of 8 images `[M, 4]`, with and without a leak between them.


def _classifiers(seed: int) -> tuple[dict[str, Classifier], dict[str, Classifier], Tensor]:
    draw = generator(seed)
    w, images, support = normal(draw, 4, 3).float(), normal(draw, 8, 4).float(), normal(draw, 5, 4)
    support = support.float()

    def alone(x: Tensor) -> Tensor:
        return torch.tanh(x) @ w

    def by_support(x: Tensor) -> Tensor:
        return ((x - support.mean(0)) / support.std(0)) @ w

    def by_queries(x: Tensor) -> Tensor:
        return (x - x.mean(0)) / torch.sqrt(x.var(0, correction=0) + 1e-5) @ w

    def by_the_mean(x: Tensor) -> Tensor:
        return (x - x.mean(0)) @ w

    def by_the_largest(x: Tensor) -> Tensor:
        return x @ w / x.abs().max()

    def after_the_first(x: Tensor) -> Tensor:
        logits = x @ w
        return torch.cat([logits[:1], logits[1:] + 0.1 * logits[:1]])

    sealed: dict[str, Classifier] = {"one image at a time": alone, "by the support set": by_support}
    leaking: dict[str, Classifier] = {
        "batch norm by the queries": by_queries,
        "the queries' mean taken away": by_the_mean,
        "divided by the largest pixel of all queries": by_the_largest,
        "all but the first query look at the first": after_the_first,
    }
    return sealed, leaking, images


def leaks(student: Function, seed: int = 0) -> None:
    """Exercise 5.3: `leaks(classify, images)`: whether any image's logits depend on another's."""
    sealed, leaking, images = _classifiers(seed)
    for name, classify in sealed.items():
        calls: list[int] = []
        if _answer(student, classify, images, calls):
            raise Wrong(
                f"{student.__name__} accuses a classifier that is innocent ({name}): logits may "
                f"differ in their last digits, as sums of another size are rounded otherwise"
            )
        if not calls:
            raise Wrong(f"{student.__name__} never calls the classifier that it is given")
    missed = [n for n, classify in leaking.items() if not _answer(student, classify, images, [])]
    if len(missed) == len(leaking):
        raise Wrong(
            f"{student.__name__} finds no leak at all: ask for an image again in other company"
        )
    if missed == list(leaking)[:-1]:
        raise Wrong(
            f"{student.__name__} misses what depends on the company, not on its order: the same "
            f"images in another order are no other company"
        )
    if missed == list(leaking)[-1:]:
        raise Wrong(
            f"{student.__name__} misses a leak into all images but the first: compare the logits "
            f"of every image"
        )
    if missed:
        raise Wrong(f"{student.__name__} misses a leak: {missed[0]}")
    passed(student)


def _answer(student: Function, classify: Classifier, images: Tensor, calls: list[int]) -> bool:
    def counted(x: Tensor) -> Tensor:
        calls.append(len(x))
        # What no classifier gives twice alike on all machines: the last digits.
        return classify(x) * (1 + 3e-7 * len(x))

    found = attempt(student, counted, images)
    if isinstance(found, Tensor) and found.dtype == torch.bool and found.ndim == 0:
        found = bool(found)
    if not isinstance(found, bool):
        raise Wrong(f"{student.__name__} gave {found!r}: True or False is asked")
    return found


def sealed_logits(student: Function, seed: int = 0) -> None:
    """Exercise 5.4: `sealed_logits(query, support, filters, head)`: the leak in given code, closed.

    Features are a matrix product, batch norm by the *support* features' statistics, ReLU, a head.
    """
    draw = generator(seed)
    trials = []
    for _ in range(3):
        query, support = 2 + normal(draw, 6, 4), normal(draw, 5, 4)
        trials.append((query, support, normal(draw, 4, 7), normal(draw, 7, 3)))

    def logits(features: Tensor, mean: Tensor, variance: Tensor, head: Tensor) -> list:
        return (((features - mean) / torch.sqrt(variance + 1e-5)).relu() @ head).tolist()

    def by(reference: Tensor, q: Tensor, f: Tensor, h: Tensor) -> list:
        features = reference @ f
        return logits(q @ f, features.mean(0), features.var(0, correction=0), h)

    judge_trials(
        student,
        trials,
        lambda q, s, f, h: by(s, q, f, h),
        {
            "the queries are still normalised by each other": lambda q, s, f, h: by(q, q, f, h),
            "only the mean was replaced: the variance still comes from the queries": (
                lambda q, s, f, h: logits(q @ f, (s @ f).mean(0), (q @ f).var(0, correction=0), h)
            ),
            "only the variance was replaced: the mean still comes from the queries": (
                lambda q, s, f, h: logits(q @ f, (q @ f).mean(0), (s @ f).var(0, correction=0), h)
            ),
            "support and queries are normalised together, so the queries still see each other": (
                lambda q, s, f, h: by(torch.cat([s, q]), q, f, h)
            ),
            "without any normalisation there is no leak, but it is another network": (
                lambda q, s, f, h: ((q @ f).relu() @ h).tolist()
            ),
            "each query is normalised by itself, over its features: that is layer norm": (
                lambda q, s, f, h: logits(
                    q @ f,
                    (q @ f).mean(1, keepdim=True),
                    (q @ f).var(1, correction=0, keepdim=True),
                    h,
                )
            ),
            "it gives the logits of the support images": lambda q, s, f, h: by(s, s, f, h),
        },
    )
    passed(student)
