"""The engine's interface: the meta-gradient of a meta-batch, the logits of a batch of tasks."""

import sys
from collections.abc import Sequence

import psutil
import torch
from torch import Tensor
from tqdm.auto import tqdm

from mamlpp import maml
from mamlpp.data.tasks import TaskBatch
from mamlpp.engine import batched
from mamlpp.engine.agreement import adapts_itself, engine_agrees
from mamlpp.engine.allocator import keep_memory, return_memory
from mamlpp.engine.cuda_graph import CapturedGradients
from mamlpp.engine.threads import one_thread
from mamlpp.engine.workers import Workers, start_workers
from mamlpp.input_checks import check_reading, check_task
from mamlpp.learner import MetaLearner, Reading
from mamlpp.maml import Report, Task
from mamlpp.precision import full_precision, gradients_on
from mamlpp.task_result import TaskResult, stack

# Numbers in the first maps of the tasks that a CPU takes at once: a pass has some fixed costs, but
# the graph of many large tasks takes memory. One task at the paper's size has 2e6.
MAPS = 4e6


class Engine:
    """How a training or an evaluation computes: by the fast network where it equals the definition.

    `memory` is the recipe's: "store", "recompute" or "auto". `workers` processes share the tasks of
    a meta-batch: a number, or `Workers` that torchrun started. `batched` takes all tasks at once,
    or one after the other; by default all on a GPU, which one task alone would leave idle, and on a
    CPU as many as are small enough together.
    """

    def __init__(
        self, memory: str = "store", workers: "int | Workers" = 1, batched: bool | None = None
    ) -> None:
        self.recompute = {"store": False, "recompute": True}.get(memory)
        self.workers, self._batched = workers, batched
        self._captured = CapturedGradients()
        keep_memory()

    @one_thread()
    @full_precision()
    @gradients_on()
    def meta_gradient(self, learner: MetaLearner, batch: TaskBatch, epoch: float) -> Report:
        """`maml.meta_gradient`. Raises `InputError` where a worker process has been lost."""
        check_task(learner, batch.support_x[0], batch.support_y)
        if self.recompute is None:
            self.recompute = self._choose_memory(learner, batch)
        if self.workers != 1 and self._start_workers(learner, batch):
            return self.workers.meta_gradient(self, learner, batch, epoch)  # type: ignore[union-attr]
        if not engine_agrees(learner, self.recompute):
            return maml.meta_gradient(learner, batch, epoch)
        result = self.task_results(learner, batch, epoch, len(batch))
        learner.update_running(result.statistics)
        return Report(result.loss.mean(), result.accuracy.mean())

    def task_results(
        self, learner: MetaLearner, batch: TaskBatch, epoch: float, tasks: int
    ) -> TaskResult:
        """Add to every `.grad` what these of `tasks` tasks give the meta-gradient; their results.

        Running statistics stay as they are.
        """
        if not engine_agrees(learner, bool(self.recompute)):
            return self._by_definition(learner, batch, epoch, tasks)
        at_once = self.takes_tasks_at_once(batch)
        parts = batch.split(self._tasks_at_once(learner, batch, MAPS))
        step_weights, second_order = learner.schedule(epoch)
        results = []
        for part in parts:
            arguments = learner, part, step_weights, second_order, tasks
            if self.recompute:
                results.append(batched.add_recomputed_gradients(*arguments))
                continue
            gradients, result = (self._captured if at_once else batched.task_gradients)(*arguments)
            _add(learner, gradients)
            results.append(result)
        return _concatenate(results)

    def takes_tasks_at_once(self, batch: TaskBatch) -> bool:
        """Whether one pass through the network serves all tasks of the batch."""
        if self._batched is None:
            return batch.support_x.device.type == "cuda" and not self.recompute
        return self._batched

    def _tasks_at_once(self, learner: MetaLearner, batch: TaskBatch, maps: float) -> int:
        """How many tasks one pass serves; on a CPU, those with `maps` numbers in the first maps."""
        if self.takes_tasks_at_once(batch):
            return len(batch)
        if self._batched is not None or self.recompute:
            return 1
        images = batch.support_x.shape[1] + batch.query_x.shape[1]
        convolution = learner.network.blocks[0].conv  # type: ignore[index,union-attr]
        pixels = batch.support_x[0, 0, 0].numel() / convolution.stride[0] ** 2
        return max(1, min(len(batch), int(maps / (images * pixels * convolution.out_channels))))

    @one_thread()
    @full_precision()
    @gradients_on()
    def logits(
        self, learner: MetaLearner, batch: TaskBatch, steps: int | None,
        readings: Sequence[Reading], every_step: bool,
    ) -> Tensor:  # fmt: skip
        """Query logits `[R, S + 1, B, M, N]`; or `[R, 1, B, M, N]`, of the last step alone.

        For each of R readings, after 0 … `steps` inner steps.
        """
        for reading in readings:
            check_reading(learner, reading)
        check_task(learner, batch.support_x[0], batch.support_y)
        batch = _in_dtype(batch, next(learner.parameters()).dtype)
        steps = learner.recipe.inner_steps if steps is None else steps
        if engine_agrees(learner, bool(self.recompute)) and not adapts_itself(learner):
            at_once = self._tasks_at_once(learner, batch, 2 * MAPS)  # One step's graph is kept.
            each = [
                batched.batch_logits(learner, part, steps, readings, every_step)
                for part in batch.split(at_once)
            ]
            return torch.cat(each, 2)
        training = learner.network.training
        learner.network.eval()  # A network of the user's own may have dropout.
        try:
            each = [
                _definition_logits(learner, task, steps, readings, every_step) for task in batch
            ]
        finally:
            learner.network.train(training)
        return torch.stack(each, 2)

    def dismiss(self) -> None:
        """Let worker processes end, and return free memory: the training is over."""
        if isinstance(self.workers, Workers):
            self.workers.dismiss()
        return_memory()

    def _by_definition(
        self, learner: MetaLearner, batch: TaskBatch, epoch: float, tasks: int
    ) -> TaskResult:
        results = []
        for task in batch:
            result = learner.task_loss(task, epoch)
            (result.loss / tasks).backward()
            results.append(result)
        return stack(results)

    def _start_workers(self, learner: MetaLearner, batch: TaskBatch) -> bool:
        """Whether worker processes share the tasks: not where they compute something else."""
        if isinstance(self.workers, int):
            self.workers = start_workers(self.workers)
        if not self.workers.agree(learner, batch):
            self.workers.dismiss()
            self.workers = 1
        return self.workers != 1

    def _choose_memory(self, learner: MetaLearner, batch: TaskBatch) -> bool:
        """Whether to recompute: the graphs of all inner steps would take half of free memory."""
        if not engine_agrees(learner):
            return False  # Only the fast network takes a step again.
        processes = self.workers if isinstance(self.workers, int) else self.workers.size
        share = batch.split(-(-len(batch) // processes))[0]
        at_once = self._tasks_at_once(learner, share, MAPS)
        graphs = at_once if share.support_x.device.type == "cuda" else at_once * processes
        need = graphs * batched.graph_bytes(learner, batch.split()[0])
        free = _free_memory(batch.support_x.device)
        recompute = need > free / 2
        tqdm.write(
            f"memory: {'recompute' if recompute else 'store'}; the graph of all inner steps would "
            f"take about {need / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free",
            file=sys.stderr,
        )
        return recompute


def _in_dtype(batch: TaskBatch, dtype: torch.dtype) -> TaskBatch:
    """The batch with inputs of a learner's own precision."""
    parts = (batch.support_x, batch.support_y, batch.query_x, batch.query_y)
    if not batch.support_x.is_floating_point() or batch.support_x.dtype == dtype:
        return batch
    return TaskBatch.unchecked(*(x.to(dtype) if x.is_floating_point() else x for x in parts))


def _definition_logits(
    learner: MetaLearner, task: Task, steps: int, readings: Sequence[Reading], every_step: bool
) -> Tensor:
    """`[R, S + 1, M, N]`, or `[R, 1, M, N]`."""
    numbers = range(0 if every_step else steps, steps + 1)
    if adapts_itself(learner):
        logits = [
            learner.adapt(task.support_x, task.support_y, step, reading)(task.query_x)
            for reading in readings
            for step in numbers
        ]
        return torch.stack(logits).unflatten(0, (len(readings), -1))
    path = learner.adapted_path(task.support_x, task.support_y, steps)
    logits = [
        learner.classifier(path, step, task.support_x, reading)(task.query_x)
        for reading in readings
        for step in numbers
    ]
    return torch.stack(logits).unflatten(0, (len(readings), -1))


def _add(learner: MetaLearner, gradients: batched.Gradients) -> None:
    for parameter, gradient in zip(learner.parameters(), gradients, strict=True):
        if gradient is not None:
            before = parameter.grad
            parameter.grad = gradient if before is None else before + gradient


def _concatenate(results: list[TaskResult]) -> TaskResult:
    """The results of several batches of tasks as one."""
    if len(results) == 1:
        return results[0]
    losses, accuracies, each = zip(*results, strict=True)
    statistics = [
        same[0]._replace(
            mean=torch.cat([one.mean for one in same]),
            variance=torch.cat([one.variance for one in same]),
        )
        for same in zip(*each, strict=True)
    ]
    return TaskResult(torch.cat(losses), torch.cat(accuracies), statistics)


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available
