"""The small classifier on which the checks of sets 1 to 3 try inner loops."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mamlpp.checks.inputs import generator, normal, pick

Weights = dict[str, Tensor]


def model(weights: Weights, x: Tensor) -> Tensor:
    """Logits `[M, 3]` of inputs `[M, 4]`: one hidden layer of 5 units."""
    return torch.tanh(x @ weights["body.weight"]) @ weights["head.weight"] + weights["head.bias"]


def draw_problem(
    seed: int, dtype: torch.dtype = torch.float64
) -> tuple[Weights, Tensor, Tensor, float]:
    """Weights, inputs `[6, 4]`, labels `[6]` and an inner rate."""
    draw = generator(seed)
    shapes = {"body.weight": (4, 5), "head.weight": (5, 3), "head.bias": (3,)}
    weights = {
        name: normal(draw, *shape, dtype=dtype, requires_grad=True)
        for name, shape in shapes.items()
    }
    x, y = normal(draw, 6, 4, dtype=dtype), torch.randint(3, (6,), generator=draw)
    return weights, x, y, pick(draw, [0.05, 0.1, 0.2, 0.4])


def gradients_of(loss: Tensor, weights: Weights, create_graph: bool = True) -> Weights:
    """The gradient of the loss by each weight, by name; the loss's graph is kept."""
    found = torch.autograd.grad(
        loss, list(weights.values()), create_graph=create_graph, retain_graph=True
    )
    return dict(zip(weights, found, strict=True))


Step = Callable[[Tensor, Weights, float], Weights]
"""From the loss, the weights and the rate to the weights after one step."""


def second_order_step(loss: Tensor, weights: Weights, rate: float) -> Weights:
    """θ − α ∇θ loss, all of it in the graph."""
    gradients = gradients_of(loss, weights)
    return {name: weight - rate * gradients[name] for name, weight in weights.items()}


def first_order_step(loss: Tensor, weights: Weights, rate: float) -> Weights:
    """The same numbers, but the gradient is a constant."""
    gradients = gradients_of(loss, weights, create_graph=False)
    return {name: weight - rate * gradients[name] for name, weight in weights.items()}


def detached_weights_step(loss: Tensor, weights: Weights, rate: float) -> Weights:
    """The same numbers, but the old weights are constants."""
    gradients = gradients_of(loss, weights)
    return {name: weight.detach() - rate * gradients[name] for name, weight in weights.items()}


def cut_step(loss: Tensor, weights: Weights, rate: float) -> Weights:
    """The same numbers, but new leaves: no gradient gets back to the old weights."""
    after = first_order_step(loss, weights, rate)
    return {name: weight.detach().requires_grad_() for name, weight in after.items()}


def path_of(
    weights: Weights,
    x: Tensor,
    y: Tensor,
    rate: float,
    steps: int,
    step: Step = second_order_step,
    classify: Callable[[Weights, Tensor], Tensor] = model,
    reduction: str = "mean",
) -> list[Weights]:
    """θ_0, θ_1, …, θ_N."""
    path = [weights]
    for _ in range(steps):
        loss = F.cross_entropy(classify(path[-1], x), y, reduction=reduction)
        path.append(step(loss, path[-1], rate))
    return path
