"""The floor: no meta-step can be faster than its convolutions.

Its multiplications and additions, counted on the definition, over the rate at which this machine
does the same convolutions, forward and back, when nothing else is to be done.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import mamlpp
from benchmarks.race import Player, Step
from benchmarks.workloads import Workload
from mamlpp.network import BLOCKS

FORMATS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
TURN, PASSES = 20e9, 50  # operations of one turn, so that it can be timed; passes at the most


def operations(step: Step) -> int:
    """Multiplications and additions of the convolutions and matrix products in one call."""
    with _Counter() as counter:
        step()
    return counter.total


class _Counter(TorchDispatchMode):
    """PyTorch's own formulas; its own counter cannot look into `torch.autograd.grad`."""

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
    """Those of one meta-step by the definition, forward and backward."""
    learner = mamlpp.MetaLearner(workload.recipe, workload.image_shape, workload.ways)
    task = next(iter(workload.sampler().sample(1)))
    return workload.recipe.meta_batch * operations(lambda: learner.task_loss(task).loss.backward())


def convolutions(workload: Workload, layout: str) -> Step:
    """The network's convolutions for a support set and a query set, forward and back, repeated."""
    layers = _layers(workload, FORMATS[layout])
    passes = _passes(layers)

    def step() -> None:
        for _ in range(passes):
            _pass(layers)

    return step


def players(workload: Workload, cores: int) -> list[Player]:
    """One for each layout in memory, a process a core."""
    return [
        Player(f"convolutions, {layout}", convolutions, workload, layout, processes=cores)
        for layout in FORMATS
    ]


def rate(workload: Workload, cores: int, seconds: dict[str, float]) -> float:
    """Operations a second of all cores together, in the layout that was faster."""
    layers = _layers(workload, torch.contiguous_format)
    turn = cores * _passes(layers) * operations(lambda: _pass(layers))
    return turn / min(seconds[f"convolutions, {layout}"] for layout in FORMATS)


Layer = tuple[Tensor, Tensor, Tensor, bool]  # images, weights, gradient, whether images have one


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
    out = torch.rand(images, filters, *size).to(memory_format=layout)
    return x, weight, out, block > 0


def _passes(layers: list[Layer]) -> int:
    return min(PASSES, math.ceil(TURN / operations(lambda: _pass(layers))))


def _pass(layers: list[Layer]) -> None:
    how: tuple[Any, ...] = [1, 1], [1, 1], [1, 1], False, [0, 0], 1
    for x, weight, out, inner in layers:
        torch.ops.aten.convolution(x, weight, None, *how)
        wanted = [inner, True, False]
        torch.ops.aten.convolution_backward(out, x, weight, None, *how, wanted)
