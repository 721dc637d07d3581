"""The meta-gradient of a meta-batch, and the logits of a batch of tasks, by the fast network.

The losses of B tasks are summed in the inner step, so that the gradient is, row by row, each task's
own: inner loop and task loss are those of `maml.py`, called once for all tasks.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from mamlpp import maml
from mamlpp.data.tasks import TaskBatch
from mamlpp.engine.fast_network import FastNetwork, expand
from mamlpp.engine.recompute import recomputed_gradient
from mamlpp.learner import MetaLearner, Reading
from mamlpp.maml import Task, Weights, cross_entropy
from mamlpp.network import BatchStatistics, Statistics
from mamlpp.task_result import TaskResult, as_statistics

Gradients = tuple[Tensor | None, ...]  # of each parameter of a learner


class StatisticsBuffer(list[BatchStatistics]):
    """Batch statistics, copied to one piece of memory of their own.

    Small tensors that stay would lie scattered between the large ones of a graph, and keep the
    allocator from using their space again.
    """

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls, self._room = calls, torch.empty(0)

    def append(self, seen: BatchStatistics) -> None:
        """Copy the statistics of one layer, and keep the copy."""
        if not self:
            self._room = seen.mean.new_empty(self.calls, 2, *seen.mean.shape)
        mean, variance = self._room[len(self)]
        mean.copy_(seen.mean)
        variance.copy_(seen.variance)
        super().append(seen._replace(mean=mean, variance=variance))


def task_gradients(
    learner: MetaLearner, batch: TaskBatch, step_weights: Sequence[float | Tensor],
    second_order: bool, tasks: int,
) -> tuple[Gradients, TaskResult]:  # fmt: skip
    """What these of `tasks` tasks give the meta-gradient, for each parameter; and their results."""
    network, task, collect = _prepare(learner, batch)
    losses, logits = maml.task_loss(
        partial(network.logits, collect=collect), expand(learner.weights(), len(batch)), task,
        step_weights, learner.rule, second_order,
    )  # fmt: skip
    gradients = torch.autograd.grad(
        losses.sum() / tasks, list(learner.parameters()), allow_unused=True
    )
    return gradients, TaskResult(losses.detach(), _accuracy(logits, batch), collect or [])


def add_recomputed_gradients(
    learner: MetaLearner, batch: TaskBatch, step_weights: Sequence[float], second_order: bool,
    tasks: int,
) -> TaskResult:  # fmt: skip
    """The same, added to every `.grad`, in the memory of one inner step."""
    network, task, collect = _prepare(learner, batch)
    queried = None if collect is None else StatisticsBuffer(collect.calls)
    models = (
        partial(network.logits, collect=collect),
        partial(network.logits, collect=queried),
        network.logits,
    )
    losses, logits = recomputed_gradient(
        models, expand(learner.weights(), len(batch)), task, step_weights, learner.rule,
        second_order, 1 / tasks, cross_entropy,
    )  # fmt: skip
    statistics = (collect or []) + sorted(queried or [], key=lambda seen: seen.step)
    return TaskResult(losses, _accuracy(logits, batch), statistics)


def _prepare(
    learner: MetaLearner, batch: TaskBatch
) -> tuple[FastNetwork, Task, StatisticsBuffer | None]:
    """The fast network, the tasks with their images cut into patches, and what collects."""
    network = FastNetwork(learner.network, len(batch))  # type: ignore[arg-type]
    support, query = network.patches(batch.support_x), network.patches(batch.query_x)
    task = Task(support, batch.support_y, query, batch.query_y)
    calls = 2 * learner.recipe.inner_steps * len(network.blocks)  # on support and query set
    return network, task, StatisticsBuffer(calls) if learner.has_running else None


def _accuracy(logits: Tensor, batch: TaskBatch) -> Tensor:
    return (logits.argmax(-1) == batch.query_y).float().mean(-1)


def batch_logits(
    learner: MetaLearner, batch: TaskBatch, steps: int, readings: Sequence[Reading],
    every_step: bool,
) -> Tensor:  # fmt: skip
    """Query logits `[R, S + 1, B, M, N]`, or `[R, 1, B, M, N]` of the last step alone.

    For each of R readings, as `MetaLearner.classifier` gives them.
    """
    network = FastNetwork(learner.network, len(batch))  # type: ignore[arg-type]
    patches = network.patches(batch.support_x)
    path = _adapted_path(learner, network, patches, batch.support_y, steps)
    query = network.patches(batch.query_x) if "queries" in readings else None
    with torch.no_grad():
        logits = []
        for reading in readings:
            for step in range(0 if every_step else steps, steps + 1):
                if reading == "queries":
                    logits.append(network.logits(path[step], query, step))  # type: ignore[arg-type]
                    continue
                statistics = _statistics(learner, network, path[step], patches, step, reading)
                logits.append(network.classify(path[step], batch.query_x, step, statistics))
        return torch.stack(logits).unflatten(0, (len(readings), -1))


def _adapted_path(
    learner: MetaLearner, network: FastNetwork, patches: object, labels: Tensor, steps: int
) -> list[Weights]:
    weights = expand(learner.weights(), network.tasks)
    start = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
    with torch.enable_grad():
        path = maml.inner_loop(
            network.logits, start, (patches, labels), steps, learner.rule, second_order=False
        )
    return [{name: w.detach() for name, w in weights.items()} for weights in path]


def _statistics(
    learner: MetaLearner, network: FastNetwork, weights: Weights, patches: object, step: int,
    reading: Reading,
) -> Statistics:  # fmt: skip
    if reading == "running":
        return {norm: norm.running(step) for norm in learner.norms()}
    collect: list[BatchStatistics] = []
    network.logits(weights, patches, step, collect)  # type: ignore[arg-type]
    return as_statistics(collect)


def graph_bytes(learner: MetaLearner, batch: TaskBatch) -> int:
    """Bytes that the graph of all inner steps would keep of such tasks, estimated from one step."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    network, task, _ = _prepare(learner, batch)
    weights = expand(learner.weights(), len(batch))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        graph = maml.task_loss(
            network.logits, weights, task, [1.0], learner.rule, second_order=True
        )
        del graph
    return sum(kept.values()) * learner.recipe.inner_steps
