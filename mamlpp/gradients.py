"""Gradients: that of the inner loop; of the meta-gradient its norm, whether it is finite, clipping.

And the rate of the optimizer that follows it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mamlpp.errors import InputError
from mamlpp.recipe import Recipe


def inner_gradients(
    loss: Tensor, weights: Mapping[str, Tensor], second_order: bool
) -> dict[str, Tensor]:
    """The gradient of a loss, or of the sum of several, with respect to every weight, by name.

    Raises `InputError`, with their names, for weights that the loss does not depend on, and where
    there are none.
    """
    if not weights:
        raise InputError("the inner loop has nothing to move: weights() of the learner is empty")
    frozen = [name for name, weight in weights.items() if not weight.requires_grad]
    if frozen:
        raise InputError(
            f"the inner loop is to move {listed(frozen)}, which requires no gradient; leave it "
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
            f"the support loss does not depend on {listed(unused)}, which the inner loop is to "
            f"move; use it in forward, freeze it with requires_grad_(False) before the MetaLearner "
            f"is made, or leave it out of weights()"
        )
    return gradients  # type: ignore[return-value]


def in_a_row(numbers: Tensor) -> Tensor:
    """All numbers of a tensor; of complex ones, both parts."""
    return (torch.view_as_real(numbers) if numbers.is_complex() else numbers).flatten()


@contextmanager
def second_derivatives() -> Iterator[None]:
    """Raise `InputError` where a layer of PyTorch's has none."""
    try:
        yield
    except NotImplementedError as error:
        if "derivative" not in str(error):
            raise
        raise InputError(
            f"a layer of the network has no second derivative: {error} Take another layer, or "
            f"train in first order, with second_order_from=None"
        ) from error


def update(
    rule: Any, name: str, weight: Tensor, gradient: Tensor, step: int, state: Any
) -> tuple[Tensor, Any]:
    """What the `update` of a rule returns: the new weight, and what to remember.

    Raises `InputError` where it returns something else, or a weight that nothing can be learned of.
    """
    found = rule.update(name, weight, gradient, step, state)
    moved = found[0] if isinstance(found, tuple) and len(found) == 2 else None
    if not isinstance(moved, Tensor) or moved.shape != weight.shape:
        shape = f" {list(found.shape)}" if isinstance(found, Tensor) else ""
        raise InputError(
            f"{type(rule).__name__}.update must return the new weight of {name}, "
            f"{list(weight.shape)}, and what to remember or None, not {type(found).__name__}{shape}"
        )
    if not moved.requires_grad:
        raise InputError(
            f"{type(rule).__name__}.update returned a weight of {name} without a graph, so that "
            f"the outer loop could learn nothing; leave out detach(), .data and no_grad()"
        )
    return moved, found[1]


def set_rate(optimizer: torch.optim.Optimizer, rate: float | None) -> float:
    """Give every group of the optimizer this rate; None: it keeps its own. That of the first."""
    for group in optimizer.param_groups if rate is not None else ():
        group["lr"] = rate
    return float(optimizer.param_groups[0]["lr"])


def listed(names: list[str], most: int = 5) -> str:
    """The first names, and how many more there are."""
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
