"""On a GPU the meta-gradient is captured once, as a CUDA graph, and then replayed.

It consists of some thousand small kernels, and the processor takes longer to launch one than the
GPU to run it. A graph launches them all together: the same operations on the same memory. Tasks and
step weights, which change from one meta-step to the next, are copied to where the graph reads them.
"""

import threading
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mamlpp.data.tasks import TaskBatch
from mamlpp.engine.batched import Gradients, task_gradients
from mamlpp.learner import MetaLearner
from mamlpp.task_result import TaskResult

Result = tuple[Gradients, TaskResult]
ONE_AT_A_TIME = threading.Lock()  # A process can capture one graph at a time.


class CapturedGradients:
    """`task_gradients`, captured again where the meta-step differs in more than its numbers.

    The parameters of the learner must stay where they are in memory: they change in place. Each
    call overwrites the result of the one before. Where the images are on no GPU, or its driver
    refuses to capture, the operations are launched one by one on the same memory.
    """

    def __init__(self) -> None:
        self._key: tuple[Any, ...] | None = None
        self._inputs: list[Tensor] = []
        self._replay: Callable[[], Result] | None = None

    def __call__(
        self, learner: MetaLearner, batch: TaskBatch, step_weights: list[float],
        second_order: bool, tasks: int,
    ) -> Result:  # fmt: skip
        """The same as `task_gradients`."""
        queried = tuple(weight > 0 for weight in step_weights)
        weights = batch.support_x.new_tensor([weight for weight in step_weights if weight > 0])
        new = [batch.support_x, batch.support_y, batch.query_x, batch.query_y, weights]
        # Everything else that the operations depend on, and that a graph would hold fixed.
        shapes = tuple((x.shape, x.dtype, x.device) for x in new)
        key = learner, learner.recipe.inner_rate, queried, second_order, tasks, shapes
        if self._replay is None or key != self._key:
            self._replay = None  # Frees its memory before more is taken.
            self._inputs = [x.clone() for x in new]
            *parts, given = self._inputs
            numbers = iter(given.unbind())
            places = [next(numbers) if asked else 0.0 for asked in queried]
            arguments = learner, TaskBatch.unchecked(*parts), places, second_order, tasks
            self._replay = capture(lambda: task_gradients(*arguments), new[0].device)
            self._key = key
        for place, x in zip(self._inputs, new, strict=True):
            place.copy_(x)
        return self._replay()


def capture(step: Callable[[], Result], device: torch.device) -> Callable[[], Result]:
    """A function that does what `step` does; on a GPU as one graph."""
    if device.type != "cuda":
        return step
    now, aside = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    graph = torch.cuda.CUDAGraph()
    # A capture that fails leaves its stream as the current one; the outer context undoes that.
    with ONE_AT_A_TIME, torch.cuda.device(device), torch.cuda.stream(now):
        aside.wait_stream(now)
        with torch.cuda.stream(aside):
            step()  # Libraries choose their algorithms and allocate memory before the capture.
        now.wait_stream(aside)
        try:
            with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
                result = step()
        except RuntimeError as error:
            warnings.warn(
                f"this GPU could not capture the meta-step as one graph ({error}): its operations "
                f"are launched one by one, which takes longer and gives the same result",
                RuntimeWarning,
                stacklevel=2,
            )
            return step

    def replay() -> Result:
        graph.replay()
        return result

    return replay
