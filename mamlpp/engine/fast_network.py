"""`ConvNet` for B tasks at once, each with weights of its own: the same numbers, sooner.

`network.py` is the definition, and this must equal it, first and second derivatives too. The
weights of B tasks have one more dimension in front, B. Their maps lie side by side, as the channels
of one network whose convolutions are in B groups, so that no task sees another. A GPU takes a
whole meta-batch, a CPU a few small tasks or one large. What makes it fast, above all on a CPU:

- Images are cut into patches once per task. The first convolution is then a matrix product over a
  few images at a time, so that its large maps stay in the processor's cache and only what
  max-pooling chooses is kept. Batch norm needs no pass over these maps either: their mean and
  variance follow from those of the patches.
- ReLU comes after max-pooling instead of before: the same values, on a quarter of the numbers.
- Convolution, batch norm and pooling have second derivatives in closed form (`operations.py`).
- Channels come last in memory, which suits pooling.

It is also more exact: the patches' mean, which batch norm would subtract in any case, is subtracted
first. The weight gradient of the first layer then sums small terms, not large ones that cancel.

Letters: B tasks, M images, F filters, C channels, P pixels of a map, N ways.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from mamlpp.engine.operations import batch_norm, convolution, max_pool, pixels
from mamlpp.maml import Weights
from mamlpp.network import BatchStatistics, Block, ConvNet, Statistics, per_channel

IN_CACHE = 2**18  # numbers, 1 MB of float32: what the cache of a core holds


class FastNetwork:
    """A `ConvNet` under B sets of weights `[B, …]`, whose names are those of the network.

    What is not among the weights comes from the network itself.
    """

    def __init__(self, network: ConvNet, tasks: int) -> None:
        self.pooling, self.tasks = network.pooling, tasks
        self.blocks: list[Block] = list(network.blocks)  # type: ignore[arg-type]
        self._own = expand(dict(network.named_parameters()), tasks)

    def patches(self, images: Tensor) -> "Patches":
        """What `logits` needs of images `[B, M, C, H, W]`; one cut serves all inner steps."""
        convolution = self.blocks[0].conv
        return cut(images, convolution.stride[0], len(convolution.weight))

    def logits(
        self, weights: Weights, patches: "Patches", step: int,
        collect: list[BatchStatistics] | None = None,
    ) -> Tensor:  # fmt: skip
        """Logits `[B, M, N]`; batch norm uses the images' own statistics, appended to `collect`.

        Can be differentiated twice with respect to the weights, once to those of batch norm.
        """
        weights = self._own | weights
        maps = self._first_block(weights["blocks.0.conv.weight"], patches, step, collect)
        for i, block in enumerate(self.blocks[1:], start=1):
            kernel = weights[f"blocks.{i}.conv.weight"].flatten(0, 1)  # [B·F, F, 3, 3]
            maps = convolution(maps, kernel, block.conv.stride[0], 1, self.tasks)
            weight, bias = (self._repeat(x) for x in block.norm.affine(step))
            maps, mean, variance = batch_norm(maps, weight, bias, block.norm.eps)
            self._collect(collect, block, step, mean, variance)
            maps = F.relu(max_pool(maps) if self.pooling == "max" else maps, inplace=True)
        return self._head(weights, maps)

    def classify(
        self, weights: Weights, images: Tensor, step: int, statistics: Statistics
    ) -> Tensor:
        """Logits `[B, M, N]` of images `[B, M, C, H, W]`, none of which depend on another image.

        Batch norm uses the given statistics, `[B, F]` or the same for all tasks, `[F]`: it becomes
        a part of the convolution before it.
        """
        weights, maps = self._own | weights, images.transpose(0, 1).flatten(1, 2)
        for i, block in enumerate(self.blocks):
            (weight, bias), (mean, variance) = block.norm.affine(step), statistics[block.norm]
            scale = weight * (variance + block.norm.eps).rsqrt()
            shift = self._repeat(bias - mean * scale)
            scale = self._repeat(scale).unflatten(0, (self.tasks, -1))
            kernel = weights[f"blocks.{i}.conv.weight"] * scale[..., None, None, None]
            stride = block.conv.stride[0]
            if i:
                maps = F.conv2d(maps, kernel.flatten(0, 1), None, stride, 1, groups=self.tasks)
            else:  # A product of patches: on a CPU, convolutions of few channels are slow.
                columns, size = windows(images, stride)
                maps = _as_maps(columns.mT @ kernel.flatten(2).mT, len(images[0]), size)
            maps = F.max_pool2d(maps, 2) if self.pooling == "max" else maps
            maps = F.relu(maps + per_channel(shift))
        return self._head(weights, maps)

    def _first_block(
        self, kernel: Tensor, patches: "Patches", step: int, collect: list[BatchStatistics] | None
    ) -> Tensor:
        """Maps are linear in their patches: the kernel turns the patches' moments into theirs.

        Batch norm is then a factor for each map and a bias. They come after max-pooling, which must
        choose the minimum where the factor is negative.
        """
        block = self.blocks[0]
        weight, bias = block.norm.affine(step)
        sign = torch.where(weight < 0, -1.0, 1.0).to(kernel.dtype)
        flat = kernel.flatten(2)  # [B, F, 9C]
        exact = flat.double()
        variance = (torch.bmm(exact, patches.covariance) * exact).sum(2).to(flat.dtype)
        mean = torch.bmm(exact, patches.mean[..., None]).squeeze(2).to(flat.dtype)
        self._collect(collect, block, step, mean, variance)
        factor = ((variance + block.norm.eps).rsqrt() * weight * sign).flatten()
        maps = _FirstConvolution.apply(flat * sign[:, None], patches, self.pooling == "max")
        maps = torch.addcmul(per_channel(self._repeat(bias)), maps, per_channel(factor))
        return F.relu(maps, inplace=True)

    def _head(self, weights: Weights, maps: Tensor) -> Tensor:
        """Maps `[M, B·F, h, w]` to logits `[B, M, N]`."""
        maps = maps.unflatten(1, (self.tasks, -1)).transpose(0, 1)
        features = maps.flatten(2) if self.pooling == "max" else maps.mean((3, 4))
        return torch.baddbmm(weights["head.bias"][:, None], features, weights["head.weight"].mT)

    def _repeat(self, numbers: Tensor) -> Tensor:
        """`[F]` or `[B, F]` to `[B·F]`."""
        if self.tasks == 1:
            return numbers.flatten()  # An expanded tensor's derivative would be summed.
        return numbers.expand(self.tasks, -1).flatten()

    def _collect(
        self, collect: list[BatchStatistics] | None, block: Block, step: int, *moments: Tensor
    ) -> None:
        if collect is not None:
            mean, variance = (x.detach().view(self.tasks, -1) for x in moments)
            collect.append(BatchStatistics(block.norm, step, mean, variance))


def expand(weights: Weights, tasks: int) -> Weights:
    """The same weights for each of B tasks: `[B, …]`, without a copy."""
    return {name: weight.expand(tasks, *weight.shape) for name, weight in weights.items()}


# The first block -----------------------------------------------------------------------------


class Patches(NamedTuple):
    """Images cut into what a 3x3 convolution sees: 9C numbers for each of the P pixels of a map.

    A column for each pixel: cut and multiplied as rows they take several times as long.
    """

    portions: tuple[Tensor, ...]
    """`[B, 9C, m·P]` of m images each, as many as the cache holds the maps of; mean subtracted."""
    mean: Tensor
    """`[B, 9C]`, over all images and pixels, float64."""
    covariance: Tensor
    """`[B, 9C, 9C]`, float64."""
    size: tuple[int, int]
    """Height and width of the maps."""


def cut(images: Tensor, stride: int, features: int) -> Patches:
    """The patches of images `[B, M, C, H, W]` for a first convolution to so many features."""
    pixels_of_map = -(-images.shape[3] // stride) * -(-images.shape[4] // stride)
    portion = images.shape[1]
    if images.device.type == "cpu":
        portion = max(1, IN_CACHE // (pixels_of_map * features * len(images)))
    portions = [windows(part, stride) for part in images.split(portion, 1)]  # [B, 9C, m·P]
    count = images.shape[1] * pixels_of_map
    sums = [columns.sum(2, dtype=torch.float64) for columns, _ in portions]
    mean = torch.stack(sums).sum(0) / count
    covariance = mean.new_zeros(*mean.shape, mean.shape[1])
    centred = []
    for columns, _ in portions:
        exact = columns.double() - mean[..., None]
        covariance += exact @ exact.mT
        centred.append(exact.to(images.dtype))
    return Patches(tuple(centred), mean, covariance / count, portions[0][1])


def windows(images: Tensor, stride: int) -> tuple[Tensor, tuple[int, int]]:
    """The 3x3 windows of images `[B, M, C, H, W]`, `[B, 9C, M·P]`; height and width of the maps."""
    cells = F.pad(images, (1, 1, 1, 1)).unfold(3, 3, stride).unfold(4, 3, stride)
    size = cells.shape[3], cells.shape[4]  # of [B, M, C, h, w, 3, 3]
    return cells.permute(0, 2, 5, 6, 1, 3, 4).flatten(1, 3).flatten(2), size


def _as_maps(rows: Tensor, images: int, size: tuple[int, int]) -> Tensor:
    """`[B, m·P, F]` to `[m, B·F, h, w]`, channels last."""
    maps = rows.unflatten(1, (images, *size)).permute(1, 2, 3, 0, 4)  # [m, h, w, B, F]
    return maps.flatten(3).permute(0, 3, 1, 2)


def _as_rows(maps: Tensor, tasks: int) -> Tensor:
    """`[m, B·F, h, w]` to `[B, m, h·w, F]`."""
    return pixels(maps).unflatten(2, (tasks, -1)).permute(2, 0, 1, 3)


class _FirstConvolution(Function):
    """The maps `[M, B·F, h, w]` of patches under kernels `[B, F, 9C]`, max-pooled if `pools`."""

    @staticmethod
    def forward(ctx: Any, kernel: Tensor, patches: Patches, pools: bool) -> Tensor:
        parts, choices = [], []
        for columns in patches.portions:
            images = columns.shape[2] // (patches.size[0] * patches.size[1])
            maps = _as_maps(torch.bmm(columns.mT, kernel.mT), images, patches.size)
            if pools:
                maps, chosen = F.max_pool2d(maps, 2, return_indices=True)
                choices.append(_as_rows(chosen, len(kernel)).int())  # Half the memory of int64.
            parts.append(maps)
        ctx.patches = patches
        ctx.save_for_backward(*choices)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        given = ctx.patches, *ctx.saved_tensors
        return _FirstConvolutionBackward.apply(gradient, *given), None, None


class _FirstConvolutionBackward(Function):
    """The kernels' gradient; it is linear in that of the maps, `[M, B·F, h, w]`."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, patches: Patches, *choices: Tensor) -> Tensor:
        ctx.patches, ctx.size = patches, gradient.shape[2:]
        ctx.save_for_backward(*choices)
        tasks, cells = len(patches.mean), patches.size[0] * patches.size[1]
        total = gradient.new_zeros(*patches.mean.shape, gradient.shape[1] // tasks)  # [B, 9C, F]
        counts = [columns.shape[2] // cells for columns in patches.portions]
        for i, part in enumerate(gradient.split(counts)):
            given = _as_rows(part, tasks)  # [B, m, p, F]
            if choices:
                maps = given.new_zeros(*given.shape[:2], cells, given.shape[3])
                given = maps.scatter_(2, choices[i].long(), given)
            total.baddbmm_(patches.portions[i], given.flatten(1, 2))
        return total.mT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, kernel: Tensor) -> Any:
        patches, parts = ctx.patches, []
        for i, columns in enumerate(patches.portions):
            images = columns.shape[2] // (patches.size[0] * patches.size[1])
            maps = torch.bmm(columns.mT, kernel.mT).unflatten(1, (images, -1))  # [B, m, P, F]
            if ctx.saved_tensors:
                maps = maps.gather(2, ctx.saved_tensors[i].long())
            parts.append(_as_maps(maps.flatten(1, 2), images, ctx.size))
        none = (None,) * (1 + len(ctx.saved_tensors))
        return torch.cat(parts), *none
