"""The meta-gradient once it is there: its norm, whether it is finite, clipping."""

import torch
from torch import Tensor, nn

from mamlpp.recipe import Recipe


def gradient_norm(module: nn.Module) -> tuple[Tensor, Tensor]:
    """The 2-norm of all gradients; and 1 if it and all buffers are finite, else 0. Two scalars."""
    norm = nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])
    numbers = [norm.flatten(), *(buffer.flatten() for buffer in module.buffers())]
    return norm, torch.cat(numbers).isfinite().all().to(norm.dtype)


def first_nonfinite(module: nn.Module) -> str:
    """Name of the first parameter whose gradient is not finite, or else of such a buffer."""
    tensors = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    tensors |= dict(module.named_buffers())
    return next((name for name, x in tensors.items() if not x.norm().isfinite()), "norm")


def clip(module: nn.Module, norm: Tensor, recipe: Recipe) -> None:
    """Shorten the gradient, whose 2-norm is `norm`, as `clip_norm` or `clip_value` say."""
    if recipe.clip_norm is not None:
        nn.utils.clip_grads_with_norm_(module.parameters(), recipe.clip_norm, norm)
    if recipe.clip_value is not None:
        nn.utils.clip_grad_value_(module.parameters(), recipe.clip_value)
