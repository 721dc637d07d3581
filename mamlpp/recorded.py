"""On a GPU the meta-gradient is recorded once, as a CUDA graph, and then replayed.

It is some thousand small kernels, and to start one takes the processor longer than the GPU needs to
run it. A graph starts them all together. It is the same operations on the same memory: tasks and
step weights, which change from one meta-step to the next, are copied to where it reads them.
"""

import threading
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mamlpp.data.tasks import TaskBatch
from mamlpp.maml import MetaLearner
from mamlpp.together import Gradient, Kind, wide_gradient


class Recorder:
    """`wide_gradient`, recorded anew where the meta-step has become one of another kind.

    The learner's parameters have to stay where they are in memory: they change in place.

    What a call gives is overwritten by the next one. Where the images are on no GPU, or its driver
    refuses to record, the operations are done one by one, on the same memory.
    """

    def __init__(self) -> None:
        self._fixed: tuple[Any, ...] | None = None
        self._inputs: list[Tensor] = []
        self._replay: Callable[[], Gradient] | None = None

    def __call__(
        self, learner: MetaLearner, batch: TaskBatch, weights: Tensor, kind: Kind
    ) -> Gradient:
        """As of `wide_gradient`."""
        new = [batch.support_x, batch.support_y, batch.query_x, batch.query_y, weights]
        # All else that a meta-step depends on: what would be fixed in the recording.
        shapes = tuple((x.shape, x.dtype, x.device) for x in new)
        fixed = learner, learner.recipe.inner_rate, kind, shapes
        if self._replay is None or fixed != self._fixed:
            self._replay = None  # Its memory is free before more is taken.
            self._inputs = [x.clone() for x in new]
            *parts, counts = self._inputs
            about = learner, TaskBatch(*parts), counts, kind
            self._replay = record(lambda: wide_gradient(*about), new[0].device)
            self._fixed = fixed
        for place, x in zip(self._inputs, new, strict=True):
            place.copy_(x)
        return self._replay()


ONE_AT_A_TIME = threading.Lock()  # A process can record one graph at a time.


def record(step: Callable[[], Gradient], device: torch.device) -> Callable[[], Gradient]:
    """A function that does what `step` does, on a GPU as one graph."""
    if device.type != "cuda":
        return step
    now, aside = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    graph = torch.cuda.CUDAGraph()
    # A recording that fails leaves its stream the current one: the outer context takes it back.
    with ONE_AT_A_TIME, torch.cuda.device(device), torch.cuda.stream(now):
        aside.wait_stream(now)
        with torch.cuda.stream(aside):
            step()  # Libraries choose their algorithms and take their memory before the recording.
        now.wait_stream(aside)
        try:
            with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
                result = step()
        except RuntimeError as error:
            warnings.warn(
                f"this GPU did not record the meta-step as one graph ({error}): its operations are "
                f"started one by one, which takes longer and gives the same",
                RuntimeWarning,
                stacklevel=2,
            )
            return step

    def replay() -> Gradient:
        graph.replay()
        return result

    return replay
