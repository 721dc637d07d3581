"""The network of MAML: four blocks of convolution, batch norm, ReLU, halving; a linear head.

Antoniou et al. 2019, section 5; first used by Vinyals et al. 2016. Letters: M images, F filters, S
inner steps, K batches.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mamlpp.inner_rates import learned_step
from mamlpp.input_checks import check_image_size

BLOCKS = 4
MOMENTUM = 0.05  # of the running statistics: how far each task moves them


class BatchNorm(nn.Module):
    """Batch normalisation that is told which statistics to use; `train()` and `eval()` do nothing.

    It has one weight and bias for each of `affine_sets` steps (BNWB; 1: all steps share them), and
    running statistics for each of `running_sets` steps (BNRS; 1: shared, 0: none), which only
    `update_running` changes. Step i is the network after i inner steps, 0 … S. The outer loop
    learns the weights and biases; the inner loop does not move them.
    """

    def __init__(self, features: int, affine_sets: int = 1, running_sets: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(affine_sets, features))
        self.bias = nn.Parameter(torch.zeros(affine_sets, features))
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("running_mean", torch.zeros(running_sets, features))
        self.register_buffer("running_var", torch.ones(running_sets, features))
        self.eps = 1e-5

    def forward(
        self, x: Tensor, step: int = 0, statistics: "Statistics | None" = None,
        collect: "list[BatchStatistics] | None" = None,
    ) -> Tensor:  # fmt: skip
        """`x` `[M, F, H, W]` normalised by this layer's `statistics`, or by its own if None.

        Its own are then appended to `collect`. A mean and variance are `[F]` each.
        """
        weight, bias = self.affine(step)
        if statistics is not None:
            mean, variance = statistics[self]
            scale = weight * torch.rsqrt(variance + self.eps)
            return (x - per_channel(mean)) * per_channel(scale) + per_channel(bias)
        if collect is not None:
            variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
            collect.append(BatchStatistics(self, step, mean, variance))
        return F.batch_norm(x, None, None, weight, bias, training=True, eps=self.eps)

    def affine(self, step: int) -> tuple[Tensor, Tensor]:
        """Weight and bias of a step, `[F]` each."""
        return _at(self.weight, step), _at(self.bias, step)

    def running(self, step: int) -> tuple[Tensor, Tensor]:
        """Running mean and variance of a step, `[F]` each."""
        return _at(self.running_mean, step), _at(self.running_var, step)

    @torch.no_grad()
    def update_running(self, step: int, means: Tensor, variances: Tensor) -> None:
        """Move a step's running statistics towards those of K batches, one after another.

        `means` and `variances` are `[K, F]`, or `[F]` of one batch.
        """
        for running, batch in ((self.running_mean, means), (self.running_var, variances)):
            batch = batch.view(-1, running.shape[1])
            age = torch.arange(len(batch) - 1, -1, -1, device=batch.device, dtype=batch.dtype)
            weights = MOMENTUM * (1 - MOMENTUM) ** age
            _at(running, step).mul_((1 - MOMENTUM) ** len(batch)).add_(weights @ batch)


Statistics = Mapping[BatchNorm, tuple[Tensor, Tensor]]  # a mean and a variance for each layer


class BatchStatistics(NamedTuple):
    """Mean and variance that a layer computed from a batch: `[F]`, or `[B, F]` of B tasks."""

    layer: BatchNorm
    step: int
    mean: Tensor
    variance: Tensor


def per_channel(numbers: Tensor) -> Tensor:
    """One number per channel `[F]`, shaped to broadcast over `[M, F, H, W]`."""
    return numbers[:, None, None]


def _at(sets: Tensor, step: int) -> Tensor:
    """The values `[F]` for a step, from `[1, F]` (shared) or `[S + 1, F]`."""
    return sets[0] if len(sets) == 1 else sets[learned_step(step, len(sets), len(sets) - 1)]


class Block(nn.Module):
    """Convolution, batch norm, ReLU; the maps are halved by max-pooling or by the stride.

    The convolution has no bias: batch norm would subtract it again.
    """

    def __init__(self, channels: int, filters: int, pooling: str, sets: tuple[int, int]) -> None:
        super().__init__()
        stride = 2 if pooling == "stride" else 1
        self.conv = nn.Conv2d(channels, filters, 3, stride, padding=1, bias=False)
        self.norm = BatchNorm(filters, *sets)
        self.halve = nn.MaxPool2d(2) if pooling == "max" else nn.Identity()

    def forward(self, x: Tensor, step: int = 0, **norm: Any) -> Tensor:
        """`[M, C, H, W]` to `[M, F, H/2, W/2]`; `norm` are options of `BatchNorm.forward`."""
        return self.halve(F.relu(self.norm(self.conv(x), step, **norm)))


class ConvNet(nn.Module):
    """The four-block network, for images of any size and number of channels.

    `pooling="max"` flattens the last maps; `pooling="stride"` averages them over space, as the
    paper's strided variant does. Weights are Xavier-uniform, biases zero. `norm_sets` are the
    `affine_sets` and `running_sets` of each `BatchNorm`. Raises `InputError` for images that are
    too small.
    """

    def __init__(
        self, image_shape: tuple[int, ...], ways: int, filters: int = 64, pooling: str = "max",
        norm_sets: tuple[int, int] = (1, 0),
    ) -> None:  # fmt: skip
        super().__init__()
        channels, height, width = image_shape
        check_image_size(height, width, 2**BLOCKS)
        widths = [channels] + [filters] * BLOCKS
        self.blocks = nn.ModuleList(
            Block(before, after, pooling, norm_sets) for before, after in pairwise(widths)
        )
        self.pooling = pooling
        cells = (height >> BLOCKS) * (width >> BLOCKS) if pooling == "max" else 1
        self.head = nn.Linear(filters * cells, ways)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, step: int = 0, **norm: Any) -> Tensor:
        """Logits `[M, ways]` of images `[M, C, H, W]` after `step` inner steps.

        Batch norm uses the images' own statistics and appends them to `collect`; or it uses the
        given `statistics`, and then no image's logits depend on another image.
        """
        return self.head(self.features(x, step, **norm))

    def features(self, x: Tensor, step: int = 0, **norm: Any) -> Tensor:
        """What the head is given: `[M, F]`, or `[M, F·h·w]` with the last maps flattened."""
        for block in self.blocks:
            x = block(x, step, **norm)
        return x.mean((2, 3)) if self.pooling == "stride" else x.flatten(1)
