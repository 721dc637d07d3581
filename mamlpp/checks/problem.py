"""The small classifier on which the checks of sets 1 to 3 try inner loops."""

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


def path_of(weights: Weights, x: Tensor, y: Tensor, rate: float, steps: int) -> list[Weights]:
    """θ_0, θ_1, …, θ_N, all of it in one graph."""
    path = [weights]
    for _ in range(steps):
        gradients = gradients_of(F.cross_entropy(model(path[-1], x), y), path[-1])
        path.append({name: w - rate * gradients[name] for name, w in path[-1].items()})
    return path
