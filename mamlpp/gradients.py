"""Gradients: that of the inner loop; of the meta-gradient its norm, whether it is finite, clipping.

And the rate of the optimizer that follows it.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mamlpp.errors import InputError
from mamlpp.recipe import Recipe


def inner_gradients(
    loss: Tensor, weights: Mapping[str, Tensor], second_order: bool
) -> dict[str, Tensor]:
    """The gradient of a loss, or of the sum of several, with respect to every weight, by name.

    Raises `InputError`, with their names, for weights that the loss does not depend on.
    """
    frozen = [name for name, weight in weights.items() if not weight.requires_grad]
    if frozen:
        raise InputError(
            f"the inner loop is to move {_listed(frozen)}, which requires no gradient; leave it "
            f"out of the weights, or freeze it before the MetaLearner is made"
        )
    found: tuple[Tensor | None, ...] = (None,) * len(weights)
    if loss.requires_grad:
        found = torch.autograd.grad(
            loss.sum(), list(weights.values()), create_graph=second_order, allow_unused=True
        )
    gradients = dict(zip(weights, found, strict=True))
    unused = [name for name, gradient in gradients.items() if gradient is None]
    if unused:
        raise InputError(
            f"the support loss does not depend on {_listed(unused)}, which the inner loop is to "
            f"move; use it in forward, freeze it with requires_grad_(False) before the MetaLearner "
            f"is made, or leave it out of weights()"
        )
    return gradients  # type: ignore[return-value]


def set_rate(optimizer: torch.optim.Optimizer, rate: float | None) -> float:
    """Give every group of the optimizer this rate; None: it keeps its own. That of the first."""
    for group in optimizer.param_groups if rate is not None else ():
        group["lr"] = rate
    return float(optimizer.param_groups[0]["lr"])


def _listed(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


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
