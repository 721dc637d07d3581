"""The meta-gradient of one task in the memory of one inner step, whatever their number.

Autograd through the whole inner loop keeps the graph of every step until the way back. Here the way
forward keeps the weights θ_0 … θ_S alone; on the way back each step but the last is taken once
more, from the weights it began with, and its graph is gone before the step before it has one. What
comes out is the same; in second order it costs one more pass over the support set, forward and
back, for each such step.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mamlpp.data.tasks import Task
from mamlpp.maml import Loss, MetaLearner, Model, Part, Rule, Weights, inner_step, task_loss
from mamlpp.network import Seen


def backward(learner: MetaLearner, task: Task, epoch: float, tasks: int, lean: bool) -> Part:
    """Add to every `.grad` what one of `tasks` tasks gives the meta-gradient; its part, detached.

    The same gradient, but for rounding, `lean` or not.
    """
    counts, second_order = learner.schedule(epoch)
    if not lean:
        part = learner.part(task, epoch, fast=True)
        (part.loss / tasks).backward()
        return part._replace(loss=part.loss.detach(), seen=Notes(learner, part.seen))
    support, queries = Notes(learner), Notes(learner)
    models = (
        learner.task_model(task, support, fast=True),
        learner.task_model(task, queries, fast=True),
        learner.task_model(task, fast=True),
    )
    loss, logits = lean_backward(
        models, learner.weights(), task, counts, learner.rule, second_order, 1 / tasks
    )
    accuracy = (logits.argmax(-1) == task.query_y).float().mean()
    # The queries were asked in the opposite order.
    return Part(loss, accuracy, support + sorted(queries, key=lambda seen: seen[1]))


def lean_backward(
    models: tuple[Model, Model, Model],
    weights: Weights,
    task: Task,
    step_weights: Sequence[float],
    rule: Rule,
    second_order: bool,
    scale: float = 1.0,
    loss: Loss = F.cross_entropy,
) -> tuple[Tensor, Tensor]:
    """What `task_loss` gives, without a graph, after `.backward()` of `scale` times the loss.

    The model comes three times, so that what notes its calls notes each pass once: for the support
    set, for the queries, and for the support set once more on the way back.
    """
    forward, ask, again = models
    last = len(step_weights) - 1
    steps: list[tuple[int, Weights, Weights | None]] = []
    after = weights
    for step in range(last + 1):
        before = _leaves(after)
        support_loss = loss(forward(before, task.support_x, step), task.support_y)
        after = inner_step(support_loss, before, rule, step, second_order and step == last)
        steps.append((step, before, None if second_order and step < last else after))
    del support_loss, after
    # The gradient of all that follows with respect to θ_step: nothing follows the last.
    adjoint = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    losses, outputs = [], None
    while steps:
        step, before, taken = steps.pop()
        if taken is None:
            support_loss = loss(again(before, task.support_x, step), task.support_y)
            taken = inner_step(support_loss, before, rule, step, second_order)
        follows = [(weight * adjoint[name]).sum() for name, weight in taken.items()]
        if step_weights[step] > 0:
            found = ask(taken, task.query_x, step + 1)
            losses.append(step_weights[step] * loss(found, task.query_y))
            follows.append(scale * losses[-1])
            losses[-1], outputs = losses[-1].detach(), found if outputs is None else outputs
        torch.stack(follows).sum().backward()
        adjoint = {name: _gradient(leaf) for name, leaf in before.items()}
    for name, weight in weights.items():
        weight.grad = _gradient(weight) + adjoint[name]
    assert outputs is not None, "the last step counts"
    return torch.stack(losses[::-1]).sum(), outputs.detach()


def _leaves(weights: Weights) -> Weights:
    return {name: weight.detach().requires_grad_() for name, weight in weights.items()}


def _gradient(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


class Notes(list[Seen]):
    """What batch norm saw, copied to a piece of memory of its own.

    Small tensors that stay, each where a large one was, would leave holes: more with each step.
    """

    def __init__(self, learner: MetaLearner, seen: Iterable[Seen] = ()) -> None:
        super().__init__()
        calls = 2 * learner.recipe.inner_steps * len(learner.network.blocks)  # support and queries
        weight = next(learner.parameters())
        self._room = weight.new_empty(calls, 2, learner.recipe.filters)
        for note in seen:
            self.append(note)

    def append(self, seen: Seen) -> None:
        """Copy a note, and keep the copy."""
        norm, step, mean, variance = seen
        room = self._room[len(self)]
        room[0], room[1] = mean, variance
        super().append((norm, step, room[0], room[1]))


def graph_bytes(learner: MetaLearner, task: Task) -> int:
    """What the graph of all inner steps on such a task would keep, from that of a single one."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model, rule = learner.task_model(task, fast=True), learner.rule
        graph = task_loss(model, learner.weights(), task, [1.0], rule, second_order=True)
        del graph
    return sum(kept.values()) * learner.recipe.inner_steps
