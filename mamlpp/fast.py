"""The network of `network.py` as training runs it: the same numbers in less time and memory.

`ConvNet` is the definition; tests hold this one equal to it, first and second derivatives too. What
makes it fast, on a CPU above all:

- Images are cut into patches once a task. The first convolution is then a product of matrices, made
  a few images at a time, so that its large maps stay in the processor's cache and only what
  max-pooling chooses of them is kept. Nor does batch norm need a pass over them: mean and variance
  of the maps are those of the patches, turned by the weights.
- ReLU comes after max-pooling, not before it: the same, on a quarter of the numbers.
- Convolution, batch norm and pooling say their second derivatives in closed form (`operations.py`).
- Channels come last in memory, as pooling likes it.

And what makes it more exact: patches lose their mean, which batch norm takes away in any case. The
first layer's weight gradient, a sum whose terms would nearly cancel, is small term by term.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from mamlpp.network import BatchNorm, Block, ConvNet, Seen
from mamlpp.operations import batch_norm, convolution, max_pool, over, pixels

Statistics = Mapping[BatchNorm, tuple[Tensor, Tensor]]  # mean and variance `[F]` of each layer
IN_CACHE = 2**18  # numbers, 1 MB of float32: what a core's cache holds


def fast_model(
    network: ConvNet, seen: list[Seen] | None = None
) -> Callable[[dict[str, Tensor], Tensor, int], Tensor]:
    """A function (weights, images `[M, C, H, W]`, steps taken) to logits `[M, ways]`.

    It is `network` under those weights, its batch norm using the images' own statistics, noted in
    `seen`. Patches are kept: call it with the same few image tensors again and again, then drop it.
    Good for two derivatives with respect to the weights, one to those of batch norm.
    """
    known: list[tuple[Tensor, Patches]] = []
    own = dict(network.named_parameters())
    blocks = cast("list[Block]", list(network.blocks))

    def model(weights: dict[str, Tensor], x: Tensor, step: int) -> Tensor:
        if not any(images is x for images, _ in known):
            known.append((x, Patches.of(x, blocks[0].conv)))
        patches = next(patches for images, patches in known if images is x)
        given = own | weights  # ANIL, say, adapts only some.
        maps = _first_block(blocks[0], given["blocks.0.conv.weight"], patches, step, seen)
        for i, block in enumerate(blocks[1:], start=1):
            maps = _block(block, given[f"blocks.{i}.conv.weight"], maps, step, seen)
        maps = maps.flatten(1) if network.pooling == "max" else maps.mean((2, 3))
        return F.linear(maps, given["head.weight"], given["head.bias"])

    return model


def _block(block: Block, kernel: Tensor, x: Tensor, step: int, seen: list[Seen] | None) -> Tensor:
    maps = convolution(x, kernel, block.conv.stride[0], padding=1)
    maps, mean, variance = batch_norm(maps, *block.norm.affine(step), block.norm.eps)
    _note(seen, block.norm, step, mean, variance)
    return F.relu(max_pool(maps) if block.pools else maps, inplace=True)


def _note(
    seen: list[Seen] | None, norm: BatchNorm, step: int, mean: Tensor, variance: Tensor
) -> None:
    if seen is not None:
        seen.append((norm, step, mean.detach(), variance.detach()))


@torch.no_grad()
def classify(
    network: ConvNet,
    weights: dict[str, Tensor],
    images: Tensor,
    step: int,
    statistics: Statistics,
) -> Tensor:
    """Logits `[M, ways]` of images `[M, C, H, W]`, none of which depend on another image.

    Batch norm uses the mean and variance `[F]` that each layer is given: it is part of the
    convolution before it.
    """
    maps, given = images, dict(network.named_parameters()) | weights
    for i, block in enumerate(cast("list[Block]", list(network.blocks))):
        (weight, bias), (mean, variance) = block.norm.affine(step), statistics[block.norm]
        scale, stride = weight * (variance + block.norm.eps).rsqrt(), block.conv.stride[0]
        kernel = given[f"blocks.{i}.conv.weight"] * over(scale)[..., None]
        # A product of patches: of few channels, convolutions are slow on a CPU.
        maps = F.conv2d(maps, kernel, None, stride, 1) if i else _by_patches(maps, kernel, stride)
        maps = F.max_pool2d(maps, 2) if block.pools else maps
        maps = F.relu(maps + over(bias - mean * scale))
    maps = maps.flatten(1) if network.pooling == "max" else maps.mean((2, 3))
    return F.linear(maps, given["head.weight"], given["head.bias"])


def _by_patches(images: Tensor, kernel: Tensor, stride: int) -> Tensor:
    rows = F.unfold(images, 3, padding=1, stride=stride).transpose(1, 2)
    return (rows @ kernel.flatten(1).T).unflatten(1, _size(images, stride)).permute(0, 3, 1, 2)


def _size(images: Tensor, stride: int) -> tuple[int, int]:
    """Height and width of the maps."""
    return (images.shape[2] - 1) // stride + 1, (images.shape[3] - 1) // stride + 1


# The first block -----------------------------------------------------------------------------


class Patches(NamedTuple):
    """Images cut into what a 3x3 convolution sees: P pixels of the maps, 9C numbers each."""

    portions: tuple[Tensor, ...]
    """`[m, P, 9C]` of so many images that the cache holds their maps; without the mean."""
    mean: Tensor
    """`[9C]`, over all images and pixels, float64."""
    covariance: Tensor
    """`[9C, 9C]`, float64."""
    size: tuple[int, int]
    """Height and width of the maps: P = height · width."""

    @classmethod
    def of(cls, images: Tensor, convolution: nn.Conv2d) -> "Patches":
        """The patches of images `[M, C, H, W]`, for the first convolution."""
        stride, features = convolution.stride[0], convolution.out_channels
        size = _size(images, stride)
        portion = max(1, IN_CACHE // (size[0] * size[1] * features))
        portions = [
            F.unfold(part, 3, padding=1, stride=stride).mT for part in images.split(portion)
        ]
        count = len(images) * size[0] * size[1]
        mean = torch.stack([rows.double().sum((0, 1)) for rows in portions]).sum(0) / count
        covariance = torch.zeros_like(mean).expand(len(mean), -1).clone()
        for i, rows in enumerate(portions):
            exact = (rows.double() - mean).flatten(0, 1)
            covariance += exact.T @ exact
            portions[i] = exact.view(rows.shape).to(images.dtype)
        return cls(tuple(portions), mean, covariance / count, size)


def _first_block(
    block: Block, kernel: Tensor, patches: Patches, step: int, seen: list[Seen] | None
) -> Tensor:
    """Maps are linear in their patches: `kernel` turns the patches' moments into theirs.

    Batch norm is then one factor for each map, of patches without their mean, and the bias. They
    come after the choice of the maximum: of the minimum, where the factor is negative.
    """
    weight, bias = block.norm.affine(step)
    sign = torch.where(weight < 0, -1.0, 1.0).to(kernel.dtype)
    flat = kernel.flatten(1)
    exact = flat.double()
    variance = ((exact @ patches.covariance) * exact).sum(1)
    _note(seen, block.norm, step, (exact @ patches.mean).to(flat.dtype), variance.to(flat.dtype))
    factor = (variance + block.norm.eps).rsqrt().to(flat.dtype) * weight * sign
    maps = _FirstConvolution.apply(flat * sign[:, None], patches, block.pools)
    return F.relu(torch.addcmul(over(bias), maps, over(factor)), inplace=True)


class _FirstConvolution(Function):
    """The maps of given patches under a flat kernel `[F, 9C]`, pooled if so asked."""

    @staticmethod
    def forward(ctx: Any, kernel: Tensor, patches: Patches, pools: bool) -> Tensor:
        parts, choices = [], []
        for rows in patches.portions:
            maps = (rows @ kernel.T).unflatten(1, patches.size).permute(0, 3, 1, 2)
            if pools:
                maps, chosen = F.max_pool2d(maps, 2, return_indices=True)
                choices.append(pixels(chosen).int())  # Half the memory.
            parts.append(maps)
        ctx.patches = patches
        ctx.save_for_backward(*choices)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        given = ctx.patches, *ctx.saved_tensors
        return _FirstConvolutionBackward.apply(gradient, *given), None, None


class _FirstConvolutionBackward(Function):
    """The kernel's gradient; linear in that of the maps, `[M, F, h, w]`."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, patches: Patches, *choices: Tensor) -> Tensor:
        ctx.patches, ctx.size = patches, gradient.shape[2:]
        ctx.save_for_backward(*choices)
        total = gradient.new_zeros(gradient.shape[1], len(patches.mean))
        portions = pixels(gradient).split(len(patches.portions[0]))
        for i, (rows, given) in enumerate(zip(patches.portions, portions, strict=True)):
            if choices:
                maps = given.new_zeros(*rows.shape[:2], given.shape[2])
                given = maps.scatter_(1, choices[i].long(), given)
            total += given.flatten(0, 1).T @ rows.flatten(0, 1)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, kernel: Tensor) -> Any:
        parts = [rows @ kernel.T for rows in ctx.patches.portions]
        if ctx.saved_tensors:
            choices = zip(parts, ctx.saved_tensors, strict=True)
            parts = [part.gather(1, chosen.long()) for part, chosen in choices]
        none = (None,) * (1 + len(ctx.saved_tensors))
        return torch.cat(parts).unflatten(1, ctx.size).permute(0, 3, 1, 2), *none
