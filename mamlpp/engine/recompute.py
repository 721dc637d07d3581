"""The meta-gradient in the memory of one inner step, whatever their number.

Autograd through the whole inner loop stores the graph of every step until the backward pass. Here
the forward pass stores only the weights θ_0 … θ_S. The backward pass takes each step but the last
once more, from the weights it began with, and frees its graph before it turns to the step before.
The result is the same. In second order each of these steps costs one more forward and backward pass
over the support set (gradient checkpointing; Chen et al. 2016).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mamlpp import maml
from mamlpp.maml import Loss, Model, Rule, Task, Weights


def recomputed_gradient(
    models: tuple[Model, Model, Model], weights: Weights, task: Task,
    step_weights: Sequence[float], rule: Rule, second_order: bool, scale: float, loss: Loss,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`maml.task_loss` without a graph, after `.backward()` of `scale` times the loss.

    `models` are the one for the support set on the way forward, the one for the query set, and the
    one for the support set when a step is taken again; the query set is asked from the last step to
    the first.
    """
    forward, query_model, again = models
    steps = _forward(forward, weights, task, len(step_weights), rule, second_order, loss)
    # The gradient of everything that follows with respect to θ_step: nothing follows the last.
    adjoint = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    losses, outputs = [], None
    while steps:
        step, before, after = steps.pop()
        if after is None:
            support_loss = loss(again(before, task.support_x, step), task.support_y)
            after = maml.inner_step(support_loss, before, rule, step, second_order)
        follows = [(weight * adjoint[name]).sum() for name, weight in after.items()]
        if step_weights[step] > 0:
            found = query_model(after, task.query_x, step + 1)
            query_loss = step_weights[step] * loss(found, task.query_y)
            follows.append(scale * query_loss.sum())
            losses.append(query_loss.detach())
            outputs = found.detach() if outputs is None else outputs
            del found, query_loss
        torch.stack(follows).sum().backward()
        del follows, after
        adjoint = {name: _gradient(leaf) for name, leaf in before.items()}
    torch.autograd.backward(list(weights.values()), list(adjoint.values()))
    assert outputs is not None, "the last step's query loss has a weight"
    return torch.stack(losses[::-1]).sum(0), outputs


def _forward(
    model: Model, weights: Weights, task: Task, count: int, rule: Rule, second_order: bool,
    loss: Loss,
) -> list[Any]:  # fmt: skip
    """For each step: its number, θ before it as leaves, and θ after it where its graph is kept.

    A graph of first order is as small as the weights, and the last step is not taken again.
    """
    steps, after = [], weights
    for step in range(count):
        before = {name: weight.detach().requires_grad_() for name, weight in after.items()}
        support_loss = loss(model(before, task.support_x, step), task.support_y)
        last = step == count - 1
        after = maml.inner_step(support_loss, before, rule, step, second_order and last)
        steps.append((step, before, after if last or not second_order else None))
    return steps


def _gradient(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
