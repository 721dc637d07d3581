"""The network of MAML: four blocks of convolution, batch norm, ReLU, halving; a linear head.

Antoniou et al. 2019, section 5; first used by Vinyals et al. 2016. Letters: M images, F filters.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mamlpp.errors import InputError

BLOCKS = 4


class BatchNorm(nn.Module):
    """Batch normalisation that says whose statistics it uses, whatever `train()` or `eval()`.

    It keeps no running statistics. Its weight and bias are learned by the outer loop only: the
    inner loop leaves them alone.
    """

    def __init__(self, features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.eps = eps

    def forward(self, x: Tensor, reference: Tensor | None = None) -> Tensor:
        """`x` `[M, F, H, W]` with mean and variance taken from `reference`, or from `x` itself."""
        if reference is None:
            return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)
        variance, mean = torch.var_mean(reference, (0, 2, 3), correction=0, keepdim=True)
        scale = self.weight.view_as(mean) * torch.rsqrt(variance + self.eps)
        return (x - mean) * scale + self.bias.view_as(mean)


class Block(nn.Module):
    """Convolution, batch norm, ReLU; the maps are halved by max-pooling or by the stride.

    The convolution has no bias: batch norm would take it away again.
    """

    def __init__(self, channels: int, filters: int, pooling: str) -> None:
        super().__init__()
        stride = 2 if pooling == "stride" else 1
        self.conv = nn.Conv2d(channels, filters, 3, stride, padding=1, bias=False)
        self.norm = BatchNorm(filters)
        self.halve = nn.MaxPool2d(2) if pooling == "max" else nn.Identity()

    def forward(self, x: Tensor, reference: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """`[M, C, H, W]` to `[M, F, H/2, W/2]`, and the reference images alike."""
        x = self.conv(x)
        if reference is not None:
            reference = self.conv(reference)
        normed = self.halve(F.relu(self.norm(x, reference)))
        return normed, None if reference is None else self.halve(F.relu(self.norm(reference)))


class ConvNet(nn.Module):
    """The four-block network, for images of any size and number of channels.

    `pooling="max"` flattens the last maps; `pooling="stride"` averages them over space, as the
    paper's strided variant does. Weights are Xavier-uniform, biases zero.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], ways: int, filters: int = 64, pooling: str = "max"
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
            Block(before, after, pooling) for before, after in pairwise(widths)
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

    def forward(self, images: Tensor, reference: Tensor | None = None) -> Tensor:
        """Logits `[M, ways]` of `images` `[M, C, H, W]`.

        Batch norm uses the statistics of `images`, or those of `reference` `[R, C, H, W]` (the
        support set, say), which walks along: then no image's logits depend on another image's.
        """
        x = images
        for block in self.blocks:
            x, reference = block(x, reference)
        x = x.mean((2, 3)) if self.pooling == "stride" else x.flatten(1)
        return self.head(x)
