"""Convolution, batch norm, max-pooling: each with its gradient, and the gradient of that.

Autograd would differentiate the steps of the first derivative one by one; in closed form the second
derivative takes a few passes over the maps. The results equal PyTorch's, but can be differentiated
twice only. `fast_network.py` is made of these operations.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from mamlpp.network import per_channel

aten = torch.ops.aten


def convolution(x: Tensor, kernel: Tensor, stride: int, padding: int, groups: int = 1) -> Tensor:
    """`[M, C, H, W]` and `[F, C / groups, k, k]` to `[M, F, h, w]`."""
    return cast(Tensor, _Convolution.apply(x, kernel, (stride, padding, groups)))


def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, ...]:
    """Maps `[M, F, H, W]` normalised by their own statistics; and these, mean and variance `[F]`.

    It can be differentiated once with respect to weight and bias `[F]`. The sums are torch's own
    pairwise sums: those of `F.batch_norm` for channels-last maps are ten times less exact.
    """
    return cast(tuple[Tensor, ...], _Norm.apply(x, weight, bias, eps))


def max_pool(x: Tensor) -> Tensor:
    """`[M, F, H, W]` to `[M, F, H/2, W/2]`."""
    return cast(Tensor, _Pool.apply(x))


Layout = tuple[int, int, int]  # stride, padding, groups


class _Convolution(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, layout: Layout) -> Tensor:
        ctx.save_for_backward(x, kernel)
        ctx.layout = layout
        return _convolve(x, kernel, layout)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        wanted = ctx.needs_input_grad[:2]
        return *_ConvolutionBackward.apply(gradient, *ctx.saved_tensors, ctx.layout, wanted), None


class _ConvolutionBackward(Function):
    @staticmethod
    def forward(
        ctx: Any, gradient: Tensor, x: Tensor, kernel: Tensor, layout: Layout, wanted: Any
    ) -> Any:
        ctx.save_for_backward(gradient, x, kernel)
        ctx.layout = layout
        ctx.set_materialize_grads(False)
        return _gradients(gradient, x, kernel, layout, *wanted)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, for_x: Tensor | None, for_kernel: Tensor | None) -> Any:
        (gradient, x, kernel), layout = ctx.saved_tensors, ctx.layout
        to_gradient, to_x, to_kernel = None, None, None
        if for_kernel is not None:
            to_gradient = _convolve(x, for_kernel, layout)
            to_x, _ = _gradients(gradient, x, for_kernel, layout, ctx.needs_input_grad[1], False)
        if for_x is not None:
            more = _convolve(for_x, kernel, layout)
            to_gradient = more if to_gradient is None else to_gradient.add_(more)
            _, to_kernel = _gradients(gradient, for_x, kernel, layout, False, True)
        return to_gradient, to_x, to_kernel, None, None


def _convolve(x: Tensor, kernel: Tensor, layout: Layout) -> Tensor:
    stride, padding, groups = layout
    return F.conv2d(x, kernel, None, stride, padding, groups=groups)


def _gradients(
    gradient: Tensor, x: Tensor, kernel: Tensor, layout: Layout, to_x: bool, to_kernel: bool
) -> tuple[Tensor, Tensor]:
    """Gradients with respect to both inputs; None where it is not wanted."""
    stride, padding, groups = layout
    how = [stride, stride], [padding, padding], [1, 1], False, [0, 0], groups
    both = aten.convolution_backward(gradient, x, kernel, None, *how, [to_x, to_kernel, False])
    return both[0], both[1]


class _Norm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Any:
        mean = x.mean((0, 2, 3))
        centred = x - per_channel(mean)
        variance = _mean(centred, centred)
        scale = (variance + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, scale)
        ctx.mark_non_differentiable(mean, variance)
        return _mix(bias, (centred, weight * scale), out=centred), mean, variance

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> Any:
        return *_NormBackward.apply(gradient, *ctx.saved_tensors), None


class _NormBackward(Function):
    """With x̂ = (x − mean) · scale and ⟨·⟩ the mean over a map, the gradient with respect to x is
    weight · scale · P(g), where P(g) = g − ⟨g⟩ − x̂⟨g x̂⟩.
    """

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, weight: Tensor, mean: Tensor, scale: Tensor) -> Any:
        centred = x - per_channel(mean)
        mean_g, mean_gx = g.mean((0, 2, 3)), _mean(g, centred) * scale
        ctx.save_for_backward(g, x, weight, mean, scale, mean_g, mean_gx)
        factor, count = weight * scale, g.numel() // len(scale)
        terms = (centred, -factor * scale * mean_gx), (g, factor)
        to_x = _mix(-factor * mean_g, *terms, out=centred)
        to_weight, to_bias = mean_gx * count, mean_g * count
        # The inner loop leaves batch norm alone, so these two are never differentiated again.
        ctx.mark_non_differentiable(to_weight, to_bias)
        return to_x, to_weight, to_bias

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor, *_: Any) -> Any:
        """Of Σ v · weight · scale · P(g), where scale and x̂ depend on x."""
        g, x, weight, mean, scale, mean_g, mean_gx = ctx.saved_tensors
        centred = x - per_channel(mean)
        mean_v, mean_vx = v.mean((0, 2, 3)), _mean(v, centred) * scale
        both = _mean(v, g) - mean_v * mean_g - mean_vx * mean_gx  # ⟨v P(g)⟩
        factor = weight * scale
        to_g = _mix(-factor * mean_v, (v, factor), (centred, -factor * scale * mean_vx))
        # −weight · scale² · (x̂⟨v P(g)⟩ + P(v)⟨g x̂⟩ + P(g)⟨v x̂⟩)
        factor = -factor * scale
        of_v, of_g = factor * mean_gx, factor * mean_vx
        of_centred = factor * scale * (both - 2 * mean_gx * mean_vx)
        terms = (centred, of_centred), (v, of_v), (g, of_g)
        to_x = _mix(-of_v * mean_v - of_g * mean_g, *terms, out=centred)
        return to_g, to_x, scale * both * (g.numel() // len(scale)), None, None


def _mean(one: Tensor, other: Tensor) -> Tensor:
    """Mean of their product over each map, `[F]`."""
    return (one * other).mean((0, 2, 3))


def _mix(constant: Tensor, *terms: tuple[Tensor, Tensor], out: Tensor | None = None) -> Tensor:
    """`constant + Σ maps · factor`; the constant and each factor have one number per channel `[F]`.

    `out` may be the maps of the first term, if they are not needed any more.
    """
    (maps, factor), *others = terms
    out = torch.addcmul(per_channel(constant), maps, per_channel(factor), out=out)
    for maps, factor in others:
        out.addcmul_(maps, per_channel(factor))
    return out


class _Pool(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out, chosen = F.max_pool2d(x, 2, return_indices=True)
        ctx.save_for_backward(chosen)
        ctx.like = x.shape, x.stride()
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return _PoolBackward.apply(gradient, *ctx.saved_tensors, ctx.like)


class _PoolBackward(Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, chosen: Tensor, like: Any) -> Tensor:
        ctx.save_for_backward(chosen)
        halves = [2, 2], [2, 2], [0, 0], [1, 1], False
        # Only its size and layout are read; memory that is never touched costs nothing.
        x = gradient.new_empty_strided(*like)
        return aten.max_pool2d_with_indices_backward(gradient, x, *halves, chosen)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, for_x: Tensor) -> Any:
        (chosen,) = ctx.saved_tensors
        picked = pixels(for_x).gather(1, pixels(chosen))
        return picked.unflatten(1, chosen.shape[2:]).permute(0, 3, 1, 2), None, None


def pixels(maps: Tensor) -> Tensor:
    """`[M, F, h, w]` to `[M, h·w, F]`."""
    return maps.permute(0, 2, 3, 1).flatten(1, 2)
