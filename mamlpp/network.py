"""The network of MAML: four blocks of convolution, batch norm, ReLU, halving; a linear head.

Antoniou et al. 2019, section 5; first used by Vinyals et al. 2016. Letters: M images, F filters.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mamlpp.errors import InputError
from mamlpp.inner_rules import learned_step

BLOCKS = 4
MOMENTUM = 0.05  # of the running statistics: how much each task moves them


class BatchNorm(nn.Module):
    """Batch normalisation that says whose statistics it uses, whatever `train()` or `eval()`.

    It holds one weight and bias for each of `affine_sets` steps (BNWB; 1: shared by all), and
    running statistics for each of `running_sets` (BNRS; 1: shared by all, 0: none), which change by
    `absorb` alone. Step i is the network after i inner steps, 0 … S. All of it is learned by the
    outer loop: the inner loop leaves batch norm alone.
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
        self,
        x: Tensor,
        reference: Tensor | None = None,
        step: int = 0,
        running: bool = False,
        seen: "list[Seen] | None" = None,
    ) -> Tensor:
        """`x` `[M, F, H, W]` normalised by the running statistics of the step if `running`, else by
        those of `reference` if given, else by its own, which are then noted in `seen`.
        """
        weight, bias = self.affine(step)
        if running:
            mean, variance = self.running(step)
            return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=self.eps)
        if reference is not None:
            variance, mean = torch.var_mean(reference, (0, 2, 3), correction=0, keepdim=True)
            scale = weight.view_as(mean) * torch.rsqrt(variance + self.eps)
            return (x - mean) * scale + bias.view_as(mean)
        if seen is None or not len(self.running_mean):
            return F.batch_norm(x, None, None, weight, bias, training=True, eps=self.eps)
        # With momentum 1 the operation leaves in these two what it normalised by: no second pass.
        mean, unbiased = torch.zeros_like(weight), torch.zeros_like(weight)
        out = F.batch_norm(x, mean, unbiased, weight, bias, True, momentum=1.0, eps=self.eps)
        seen.append((self, step, mean, unbiased * (1 - len(mean) / x.numel())))
        return out

    def affine(self, step: int) -> tuple[Tensor, Tensor]:
        """Weight and bias of a step, `[F]` each."""
        return _at(self.weight, step), _at(self.bias, step)

    def running(self, step: int) -> tuple[Tensor, Tensor]:
        """Running mean and variance of a step, `[F]` each."""
        return _at(self.running_mean, step), _at(self.running_var, step)

    @torch.no_grad()
    def absorb(self, step: int, means: Tensor, variances: Tensor) -> None:
        """Move the running statistics of a step towards those of a batch, `[F]`; or of several, one
        after another, `[K, F]`.
        """
        for running, seen in ((self.running_mean, means), (self.running_var, variances)):
            seen = seen.view(-1, running.shape[1])
            age = torch.arange(len(seen) - 1, -1, -1, device=seen.device, dtype=seen.dtype)
            weights = MOMENTUM * (1 - MOMENTUM) ** age
            _at(running, step).mul_((1 - MOMENTUM) ** len(seen)).add_(weights @ seen)


Seen = tuple[BatchNorm, int, Tensor, Tensor]  # a layer, the step, and the mean and variance there


def _at(sets: Tensor, step: int) -> Tensor:
    """The values for a step, `[F]`, of `sets` `[1, F]` (shared by all) or `[S + 1, F]`."""
    return sets[0] if len(sets) == 1 else sets[learned_step(step, len(sets))]


class Block(nn.Module):
    """Convolution, batch norm, ReLU; the maps are halved by max-pooling or by the stride.

    The convolution has no bias: batch norm would take it away again.
    """

    def __init__(self, channels: int, filters: int, pooling: str, sets: tuple[int, int]) -> None:
        super().__init__()
        stride = 2 if pooling == "stride" else 1
        self.conv = nn.Conv2d(channels, filters, 3, stride, padding=1, bias=False)
        self.norm = BatchNorm(filters, *sets)
        self.pools = pooling == "max"
        self.halve = nn.MaxPool2d(2) if self.pools else nn.Identity()

    def forward(
        self, x: Tensor, reference: Tensor | None, step: int, running: bool, seen: list[Seen] | None
    ) -> tuple[Tensor, Tensor | None]:
        """`[M, C, H, W]` to `[M, F, H/2, W/2]`, and the reference images alike."""
        x = self.conv(x)
        if reference is not None:
            reference = self.conv(reference)
        x = self.halve(F.relu(self.norm(x, reference, step, running, seen)))
        if reference is not None:
            reference = self.halve(F.relu(self.norm(reference, step=step, seen=seen)))
        return x, reference


class ConvNet(nn.Module):
    """The four-block network, for images of any size and number of channels.

    `pooling="max"` flattens the last maps; `pooling="stride"` averages them over space, as the
    paper's strided variant does. Weights are Xavier-uniform, biases zero. `norm_sets` are the sets
    of weights and of running statistics of each `BatchNorm`.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        ways: int,
        filters: int = 64,
        pooling: str = "max",
        norm_sets: tuple[int, int] = (1, 0),
    ) -> None:
        super().__init__()
        channels, height, width = image_shape
        if min(height, width) < 2**BLOCKS:
            raise InputError(
                f"images of {height}x{width} are too small to be halved {BLOCKS} times; "
                f"use images of at least {2**BLOCKS}x{2**BLOCKS}"
            )
        widths = [channels] + [filters] * BLOCKS
        self.blocks = nn.ModuleList(
            Block(before, after, pooling, norm_sets) for before, after in pairwise(widths)
        )
        self.pooling = pooling
        cells = (height >> BLOCKS) * (width >> BLOCKS) if pooling == "max" else 1
        self.head = nn.Linear(filters * cells, ways)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(self.head.bias)

    def forward(
        self,
        images: Tensor,
        reference: Tensor | None = None,
        step: int = 0,
        running: bool = False,
        seen: list[Seen] | None = None,
    ) -> Tensor:
        """Logits `[M, ways]` of `images` `[M, C, H, W]` after `step` inner steps.

        Batch norm uses the statistics of `images`; or those of `reference` `[R, C, H, W]` (the
        support set, say), which walks along; either is noted in `seen`. Or it uses the `running`
        ones of the step.
        With the last two no image's logits depend on another image's.
        """
        x = images
        for block in self.blocks:
            x, reference = block(x, reference, step, running, seen)
        x = x.mean((2, 3)) if self.pooling == "stride" else x.flatten(1)
        return self.head(x)
