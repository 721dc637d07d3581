"""What comes out of a task, or of several: loss, accuracy, batch-norm statistics."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from mamlpp.network import BatchStatistics, Statistics


class Report(NamedTuple):
    """Query loss and accuracy of a meta-batch: means over its tasks, detached scalars.

    The accuracy is NaN where the tasks have no classes.
    """

    loss: Tensor
    accuracy: Tensor


class TaskResult(NamedTuple):
    """Weighted query loss, query accuracy after the last step, and batch-norm statistics, of one
    task; or of B tasks, with one more dimension in front.
    """

    loss: Tensor
    accuracy: Tensor
    statistics: list[BatchStatistics]


def stack(results: list[TaskResult]) -> TaskResult:
    """The results of B tasks as one, detached: `[B]`, `[B]`, and statistics `[B, F]`."""
    losses, accuracies, each = zip(*results, strict=True)
    statistics = []
    for same in zip(*each, strict=True):
        layers, steps, means, variances = zip(*same, strict=True)
        both = (torch.stack(numbers).detach() for numbers in (means, variances))
        statistics.append(BatchStatistics(layers[0], steps[0], *both))
    return TaskResult(torch.stack(losses).detach(), torch.stack(accuracies), statistics)


def as_statistics(collected: Iterable[BatchStatistics]) -> Statistics:
    """What one pass through the network collected, by layer."""
    return {layer: (mean, variance) for layer, _, mean, variance in collected}
