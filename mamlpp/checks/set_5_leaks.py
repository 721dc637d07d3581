"""Checks of set 5: the leak between queries (5.3 and 5.4)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mamlpp.checks.core import Function, Wrong, attempt, call_text, name_of, passed
from mamlpp.checks.inputs import check, generator, normal
from mamlpp.checks.judging import judge_trials

# Exercise 5.3: classifiers of images `[M, 4]`, with and without a leak between them.


Classifier = Callable[[Tensor], Tensor]


def _classifiers(seed: int) -> tuple[dict[str, Classifier], dict[str, Classifier], Tensor]:
    draw, kind = generator(seed), torch.float32
    w, images = normal(draw, 4, 3, dtype=kind), normal(draw, 8, 4, dtype=kind)
    # The largest pixel of all is neither in the first image nor in the last.
    images[3] *= 4 * images.abs().max() / images[3].abs().max()
    support = normal(draw, 5, 4, dtype=kind)

    def after_the_first(x: Tensor) -> Tensor:
        logits = x @ w
        return torch.cat([logits[:1], logits[1:] + 0.1 * logits[:1]])

    def before_the_last(x: Tensor) -> Tensor:
        return after_the_first(x.flip(0)).flip(0)

    sealed: dict[str, Classifier] = {
        "one that looks at one image at a time": lambda x: torch.tanh(x) @ w,
        "one that is normalised by the support set": lambda x: (
            ((x - support.mean(0)) / support.std(0)) @ w
        ),
    }
    leaking: dict[str, Classifier] = {
        "batch norm by the queries": lambda x: (
            (x - x.mean(0)) / torch.sqrt(x.var(0, correction=0) + 1e-5) @ w
        ),
        "the queries' mean is subtracted": lambda x: (x - x.mean(0)) @ w,
        "all queries are divided by the largest pixel of all": lambda x: x @ w / x.abs().max(),
        "all but the first query look at the first": after_the_first,
        "all but the last query look at the last": before_the_last,
    }
    return sealed, leaking, images


@check
def leaks(student: Function, seed: int = 0) -> None:
    """Exercise 5.3: `leaks(classify, images)`: whether any image's logits depend on another's."""
    sealed, leaking, images = _classifiers(seed)
    name = name_of(student)
    for kind, classify in sealed.items():
        calls: list[int] = []
        if _answer(student, classify, images, calls):
            if not any(_answer(student, leaky, images, []) for leaky in leaking.values()):
                raise Wrong(f"{name} answers the other way round: True stands for a leak")
            raise Wrong(
                f"{name} sees a leak where there is none: logits may differ in their last digits, "
                f"as sums of another size are rounded otherwise (torch.allclose)",
                [f"classify was {kind}", "it returned True", "expected False"],
            )
        if not calls:
            raise Wrong(f"{name} never calls the classifier that it is given")
    missed = [k for k, classify in leaking.items() if not _answer(student, classify, images, [])]
    if missed:
        shown = [f"classify leaked: {missed[0]}", "it returned False", "expected True"]
        raise Wrong(f"{name} {_blind_spot(missed, list(leaking))}", shown)
    passed(student)


def _blind_spot(missed: list[str], all_leaks: list[str]) -> str:
    """What the leaks that a detector misses have in common."""
    by_statistics, by_place = all_leaks[:3], all_leaks[3:]
    if missed == all_leaks:
        return "finds no leak at all: classify the same image once more, among other images"
    if missed == by_statistics:
        return (
            "misses what depends on which images there are, and not on their order: the same "
            "images in another order are still the same images"
        )
    if missed == by_place[:1]:
        return "misses a leak into all images but the first: compare the logits of every image"
    if missed == by_place[1:]:
        return "misses a leak into all images but the last: compare the logits of every image"
    if missed == by_statistics[2:]:
        return (
            "misses a leak that shows only when one particular image is away: compare each image "
            "with itself alone"
        )
    return "misses a leak: compare the logits of every image with those that it gets alone"


def _answer(student: Function, classify: Classifier, images: Tensor, calls: list[int]) -> bool:
    def counted(x: Tensor) -> Tensor:
        if x.ndim != images.ndim:
            raise Wrong(
                f"{name_of(student)}: the classifier takes several images, [M, pixels], also where "
                f"M is 1: image.unsqueeze(0), or images[i:i+1]",
                [f"classify was called with shape {list(x.shape)}"],
            )
        calls.append(len(x))
        # No classifier returns the same last digits for batches of another size.
        return classify(x) * (1 + 3e-7 * len(x))

    counted.__name__ = "classify"
    found = attempt(student, counted, images)
    if isinstance(found, Tensor) and found.dtype == torch.bool and found.ndim == 0:
        found = bool(found)
    if not isinstance(found, bool):
        raise Wrong(
            f"{name_of(student)} should return True or False",
            [call_text(student, (counted, images)), f"it returned a {type(found).__name__}"],
        )
    return found


Statistics = tuple[Tensor, Tensor]


def _logits(
    statistics: Callable[[Tensor, Tensor, Tensor], Statistics],
    finish: Callable[[Tensor, Tensor], Tensor] = lambda features, head: features.relu() @ head,
    eps: float = 1e-5,
) -> Function:
    """Logits of the queries, normalised by what `statistics` makes of (query, support, filters)."""

    def sealed_logits(query: Tensor, support: Tensor, filters: Tensor, head: Tensor) -> Tensor:
        mean, variance = statistics(query, support, filters)
        return finish((query @ filters - mean) / torch.sqrt(variance + eps), head)

    return sealed_logits


def _of(features: Tensor, correction: int = 0) -> Statistics:
    return features.mean(0), features.var(0, correction=correction)


def _by_support(query: Tensor, support: Tensor, filters: Tensor) -> Statistics:
    return _of(support @ filters)


def _layer_norm(query: Tensor, support: Tensor, filters: Tensor) -> Statistics:
    features = query @ filters
    return features.mean(1, keepdim=True), features.var(1, correction=0, keepdim=True)


def _of_the_images(q: Tensor, s: Tensor, f: Tensor, h: Tensor) -> Tensor:
    mean, variance = _of(s)
    return (((q - mean) / torch.sqrt(variance + 1e-5)) @ f).relu() @ h


def _of_all_numbers(query: Tensor, support: Tensor, filters: Tensor) -> Statistics:
    features = support @ filters
    return features.mean(), features.var(correction=0)


_SEAL_MISTAKES: dict[str, Function] = {
    "the queries are still normalised by each other": _logits(lambda q, s, f: _of(q @ f)),
    "only the mean was replaced: the variance still comes from the queries": _logits(
        lambda q, s, f: (_of(s @ f)[0], _of(q @ f)[1])
    ),
    "only the variance was replaced: the mean still comes from the queries": _logits(
        lambda q, s, f: (_of(q @ f)[0], _of(s @ f)[1])
    ),
    "support and queries are normalised together, so the queries still see each other": _logits(
        lambda q, s, f: _of(torch.cat([s, q]) @ f)
    ),
    "the variance divides by the count less one: the given code has correction=0": _logits(
        lambda q, s, f: _of(s @ f, correction=1)
    ),
    "the mean and the variance are those of the support images: take those of their features, "
    "support @ filters": _of_the_images,
    "one mean for all features: each feature has its own (.mean(0))": _logits(_of_all_numbers),
    "without any normalisation there is no leak, but it is another network": _logits(
        lambda q, s, f: (torch.zeros(()), torch.ones(()).double()), eps=0.0
    ),
    "each query is normalised by itself alone, which makes all its features 0": _logits(
        lambda q, s, f: (q @ f, torch.zeros(()).double())
    ),
    "each query is normalised by itself, over its features: that is layer norm": _logits(
        _layer_norm
    ),
    "the ReLU is missing": _logits(_by_support, lambda features, head: features @ head),
    "the head is missing: the logits are asked for": _logits(
        _by_support, lambda features, head: features.relu()
    ),
    "the 1e-5 below the root is missing": _logits(_by_support, eps=0.0),
    "the 1e-5 is outside of the root: √(variance + 1e-5)": lambda q, s, f, h: (
        ((q @ f - (s @ f).mean(0)) / ((s @ f).var(0, correction=0).sqrt() + 1e-5)).relu() @ h
    ),
    "these are probabilities: the logits are asked for": _logits(
        _by_support, lambda features, head: (features.relu() @ head).softmax(1)
    ),
    "these are the predicted classes: the logits are asked for": _logits(
        _by_support, lambda features, head: (features.relu() @ head).argmax(1)
    ),
    "it divides by the variance: the given code takes the square root": _logits(
        lambda q, s, f: (_of(s @ f)[0], (_of(s @ f)[1] + 1e-5) ** 2), eps=0.0
    ),
    "it returns the logits of the support images: those of the queries are asked for": (
        lambda q, s, f, h: _logits(_by_support)(s, s, f, h)
    ),
    "the numbers are right, but the support set's statistics entered as constants (.detach() or "
    "no_grad): a gradient must come back through them too": _logits(
        lambda q, s, f: _of((s @ f).detach())
    ),
    "it divides by .std() + 1e-5: the given code has √(variance + 1e-5) with correction=0": (
        lambda q, s, f, h: ((q @ f - (s @ f).mean(0)) / ((s @ f).std(0) + 1e-5)).relu() @ h
    ),
    "each query is counted among the support images: normalise by the support set alone": (
        lambda q, s, f, h: torch.cat(
            [_logits(lambda q, s, f: _of(torch.cat([s, q]) @ f))(each[None], s, f, h) for each in q]
        )
    ),
    "one variance for all features: each feature has its own (.var(0, …))": _logits(
        lambda q, s, f: (_of(s @ f)[0], (s @ f).var(correction=0))
    ),
    "the ReLU belongs to the features, before the head: yours is on the logits": _logits(
        _by_support, lambda features, head: (features @ head).relu()
    ),
    "the ReLU belongs to the features: yours is on the head": _logits(
        _by_support, lambda features, head: features @ head.relu()
    ),
    "the ReLU comes after the normalisation, not before": lambda q, s, f, h: (
        ((q @ f).relu() - (s @ f).relu().mean(0))
        / torch.sqrt((s @ f).relu().var(0, correction=0) + 1e-5)
        @ h
    ),
    "the number below the root is 1e-5, as in the given code": _logits(_by_support, eps=1e-3),
    "half of the statistics are the queries' own: use the support set's alone": _logits(
        lambda q, s, f: (
            (_of(s @ f)[0] + _of(q @ f)[0]) / 2,
            (_of(s @ f)[1] + _of(q @ f)[1]) / 2,
        )
    ),
}


@check
def sealed_logits(student: Function, seed: int = 0) -> None:
    """Exercise 5.4: `sealed_logits(query, support, filters, head)`: the leak in given code, closed.

    Features are a matrix product, batch norm by the *support* features' statistics, ReLU, a head.
    """

    def inputs(number: int, sizes: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
        draw, (queries, shots, pixels, features, ways) = generator(10 * seed + number), sizes
        shapes = ((queries, pixels), (shots, pixels), (pixels, features), (features, ways))
        query, *others = (normal(draw, *shape, dtype=dtype) for shape in shapes)
        return tuple(t.requires_grad_() for t in (2 + query, *others))

    kinds: list[Any] = [((6, 5, 4, 7, 3), torch.float64), ((2, 3, 2, 3, 2), torch.float64)]
    kinds.append(((4, 4, 4, 4, 4), torch.float32))
    trials = [partial(inputs, i, *kind) for i, kind in enumerate(kinds)]
    judge_trials(student, trials, _logits(_by_support), _SEAL_MISTAKES)
    passed(student)
