"""The programs 7 and 8 of the bug hunt: each broken, repaired, and repaired in wrong ways."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mamlpp.checks.bug import Bug
from mamlpp.checks.core import Function
from mamlpp.checks.inputs import generator, normal

# 7: images that see each other.

Scale = Callable[[Tensor], Tensor]


def _by_running(
    scale: Scale = lambda variance: (variance + 1e-5).sqrt(),
    statistics: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] = lambda x, m, v: (m, v),
) -> Function:
    def normalised(images: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        mean, variance = (s.view(1, -1, 1, 1) for s in statistics(images, mean, variance))
        return (images - mean) / scale(variance)

    return normalised


def _by_each_other(images: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return F.batch_norm(images, mean.clone(), variance.clone(), training=True)


def _by_momentum(images: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    mean, variance = mean.clone(), variance.clone()
    F.batch_norm(images, mean, variance, training=True)
    return F.batch_norm(images, mean, variance, training=False)


def _own(images: Tensor) -> tuple[Tensor, Tensor]:
    return images.mean((0, 2, 3)), images.var((0, 2, 3), correction=0)


def _test_images(seed: int) -> list[tuple[Tensor, ...]]:
    draw = generator(seed)
    trials: list[tuple[Tensor, ...]] = []
    kinds = ((1, 2, torch.float64), (4, 3, torch.float64), (7, 3, torch.float32))
    for images, channels, dtype in kinds:
        x = 2 + normal(draw, images, channels, 2, 2, dtype=dtype)
        variance = 0.1 + normal(draw, channels, dtype=dtype) ** 2
        trials.append((x, normal(draw, channels, dtype=dtype), variance))
    return trials


TRANSDUCTIVE = Bug(
    kind="transductive",
    broken=_by_each_other,
    right=_by_running(),
    also_right=lambda images, mean, variance: F.batch_norm(images, mean, variance, training=False),
    defect="the images are still normalised by each other",
    test_hint=(
        "ask for the same image alone and among others, or compare with the running statistics"
    ),
    trials=_test_images,
    mistakes={
        "only the mean is the running one: the variance is still the batch's": _by_running(
            statistics=lambda x, mean, variance: (mean, _own(x)[1])
        ),
        "only the variance is the running one: the mean is still the batch's": _by_running(
            statistics=lambda x, mean, variance: (_own(x)[0], variance)
        ),
        "the batch first moves the running statistics: in a test nothing should move them": (
            _by_momentum
        ),
        "mean and variance are swapped": _by_running(
            lambda s: (s.abs() + 1e-5).sqrt(),
            statistics=lambda x, mean, variance: (variance, mean),
        ),
        "it divides by the variance: take the square root": _by_running(
            lambda variance: variance + 1e-5
        ),
        "mean and variance line up with the width of the images: view them as [1, F, 1, 1]": (
            lambda images, mean, variance: (images - mean) / torch.sqrt(variance + 1e-5)
        ),
        "eps is missing below the root: 1e-5, as in F.batch_norm": _by_running(Tensor.sqrt),
        "eps is outside of the root: √(variance + eps)": _by_running(
            lambda variance: variance.sqrt() + 1e-5
        ),
        "the mean is subtracted, but nothing is divided by the deviation": _by_running(
            torch.ones_like
        ),
        "each image is normalised by itself: the running statistics are not read at all": (
            lambda images, mean, variance: F.instance_norm(images)
        ),
        "each image has a mean and a deviation of its own: that is layer norm": (
            lambda images, mean, variance: F.layer_norm(images, images.shape[1:])
        ),
        "without any normalisation nothing leaks, but these are not the features that are asked "
        "for": lambda images, mean, variance: images.clone(),
        "it returns images without their dimension of height and width": (
            lambda images, mean, variance: _by_running()(images, mean, variance).mean((2, 3))
        ),
    },
)


# 8: a deviation over the wrong things.


def _interval(width: Callable[[Tensor], Any], accuracy: Function = torch.mean) -> Function:
    def accuracy_and_interval(hits: Tensor) -> tuple[float, float]:
        return float(accuracy(hits)), float(width(hits))

    return accuracy_and_interval


def _over_hits(hits: Tensor) -> float:
    return 1.96 * hits.flatten().std().item() / math.sqrt(hits.numel())


def _of_tasks(hits: Tensor, correction: int = 1) -> float:
    """The deviation of the tasks' accuracies."""
    return hits.mean(1).std(correction=correction).item()


def _over_tasks(hits: Tensor) -> float:
    return 1.96 * _of_tasks(hits) / math.sqrt(len(hits))


def _easy_and_hard_tasks(seed: int) -> list[tuple[Tensor]]:
    draw, trials = generator(seed), []
    for tasks, queries in ((3, 2), (12, 5), (10, 25), (30, 4)):
        level = torch.rand(tasks, 1, generator=draw, dtype=torch.float64)
        answers = torch.rand(tasks, queries, generator=draw, dtype=torch.float64)
        trials.append(((answers < level).double(),))
    return trials


DEVIATION_OVER_HITS = Bug(
    kind="deviation over hits",
    broken=_interval(_over_hits),
    right=_interval(_over_tasks),
    defect="the deviation is still that of single hits",
    test_hint=(
        "take tasks that are all right or all wrong: their queries say nothing new, so that "
        "the interval is far wider than over hits"
    ),
    trials=_easy_and_hard_tasks,
    mistakes={
        "the deviation over tasks is divided by the root of the number of tasks, not of hits": (
            _interval(lambda hits: 1.96 * _of_tasks(hits) / math.sqrt(hits.numel()))
        ),
        "the deviation over tasks is divided by the root of the number of tasks, not of queries": (
            _interval(lambda hits: 1.96 * _of_tasks(hits) / math.sqrt(hits.shape[1]))
        ),
        "it divides by the number of tasks: divide by its square root": _interval(
            lambda hits: 1.96 * _of_tasks(hits) / len(hits)
        ),
        "it divides by the root of T − 1: .std() has taken care of that already": _interval(
            lambda hits: 1.96 * _of_tasks(hits) / math.sqrt(len(hits) - 1)
        ),
        "it is the deviation of a task, not of the mean: divide by the root of their number": (
            _interval(lambda hits: 1.96 * _of_tasks(hits))
        ),
        "the deviation divides by T: `.std()` as it is divides by T − 1": _interval(
            lambda hits: 1.96 * _of_tasks(hits, correction=0) / math.sqrt(len(hits))
        ),
        "it takes the variance: .std() is its root": _interval(
            lambda hits: 1.96 * _of_tasks(hits) ** 2 / math.sqrt(len(hits))
        ),
        "it takes the deviation over queries, of means over the tasks: the other way round": (
            _interval(lambda hits: 1.96 * hits.mean(0).std() / math.sqrt(hits.shape[1]))
        ),
        "it averages the deviations within the tasks: the deviation between the tasks is asked "
        "for": _interval(lambda hits: 1.96 * hits.std(1).mean() / math.sqrt(len(hits))),
        "it is the deviation of a coin, √(p(1 − p)): take .std() of the tasks' accuracies": (
            _interval(lambda hits: 1.96 * math.sqrt(hits.mean() * (1 - hits.mean()) / len(hits)))
        ),
        "it takes the median of the tasks: their mean is asked for": _interval(
            _over_tasks, lambda hits: hits.mean(1).median()
        ),
        "it counts the hits of a task: the accuracy is their mean": lambda hits: _interval(
            _over_tasks
        )(hits * hits.shape[1]),
        "the factor 1.96 is missing": _interval(lambda hits: _over_tasks(hits) / 1.96),
        "it is the whole width: half of it is asked for": _interval(
            lambda hits: 2 * _over_tasks(hits)
        ),
        "the two are swapped: accuracy comes first": lambda hits: (
            _over_tasks(hits),
            hits.mean().item(),
        ),
        "both are in percent: the accuracy is a number from 0 to 1": _interval(
            lambda hits: 100 * _over_tasks(hits), lambda hits: 100 * hits.mean()
        ),
    },
)
