"""The floor, a lower bound on the time of a meta-step: the time of its convolutions alone.

It is the number of operations (multiplications and additions) of a meta-step by the definition,
divided by the rate at which this machine computes the same convolutions, forward and backward.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import mamlpp
from benchmarks.race import Contender, Step
from benchmarks.workloads import Workload
from mamlpp.network import BLOCKS

FORMATS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
MIN_OPERATIONS, MAX_PASSES = 20e9, 50  # per turn: enough to time it, but not too long


def operations(step: Step) -> int:
    """Operations of all convolutions and matrix products in one call of `step`."""
    with _Counter() as counter:
        step()
    return counter.total


class _Counter(TorchDispatchMode):
    """Uses PyTorch's formulas. PyTorch's own counter does not see into `torch.autograd.grad`."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in flop_registry:
            formula = flop_registry[func.overloadpacket]
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


def meta_step_operations(workload: Workload) -> int:
    """Operations of one meta-step as the definition computes it, forward and backward."""
    learner = mamlpp.MetaLearner(workload.recipe, workload.image_shape, workload.ways)
    task = next(iter(workload.sampler().sample(1)))
    return workload.recipe.meta_batch * operations(lambda: learner.task_loss(task).loss.backward())


def convolutions(workload: Workload, layout: str) -> Step:
    """Repeated forward and backward convolutions of the network, for a support and a query set."""
    layers = _layers(workload, FORMATS[layout])
    passes = _passes(layers)

    def step() -> None:
        for _ in range(passes):
            _pass(layers)

    return step


def contenders(workload: Workload, cores: int) -> list[Contender]:
    """One contender for each memory layout, with one process per core."""
    return [
        Contender(f"convolutions, {layout}", convolutions, workload, layout, processes=cores)
        for layout in FORMATS
    ]


def rate(workload: Workload, cores: int, seconds: dict[str, float]) -> float:
    """Operations per second of all cores together, in the faster memory layout."""
    layers = _layers(workload, torch.contiguous_format)
    turn = cores * _passes(layers) * operations(lambda: _pass(layers))
    return turn / min(seconds[f"convolutions, {layout}"] for layout in FORMATS)


Layer = tuple[
    Tensor, Tensor, Tensor, bool
]  # input, weight, output gradient, whether to compute the input gradient


def _layers(workload: Workload, layout: torch.memory_format) -> list[Layer]:
    return [
        _layer(workload, block, examples * workload.ways, layout)
        for examples in (workload.shots, workload.queries)
        for block in range(BLOCKS)
    ]


def _layer(workload: Workload, block: int, images: int, layout: torch.memory_format) -> Layer:
    channels, height, width = workload.image_shape
    filters, size = workload.recipe.filters, (height >> block, width >> block)
    before = filters if block else channels
    x = torch.rand(images, before, *size).to(memory_format=layout)
    weight = torch.rand(filters, before, 3, 3).to(memory_format=layout)
    gradient = torch.rand(images, filters, *size).to(memory_format=layout)
    return x, weight, gradient, block > 0


def _passes(layers: list[Layer]) -> int:
    return min(MAX_PASSES, math.ceil(MIN_OPERATIONS / operations(lambda: _pass(layers))))


def _pass(layers: list[Layer]) -> None:
    options: tuple[Any, ...] = [1, 1], [1, 1], [1, 1], False, [0, 0], 1
    for x, weight, gradient, input_gradient in layers:
        torch.ops.aten.convolution(x, weight, None, *options)
        mask = [input_gradient, True, False]
        torch.ops.aten.convolution_backward(gradient, x, weight, None, *options, mask)
