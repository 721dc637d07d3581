"""The paper on a page: the task, the inner loop, the loss of a task, the meta-step.

Finn, Abbeel, Levine 2017, algorithm 2; Antoniou, Edwards, Storkey 2019, section 2. Letters: B
tasks, M examples, N ways, S inner steps. B tasks at once have one more dimension in front.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mamlpp.gradients import clip, first_nonfinite, gradient_norm, inner_gradients, set_rate, update
from mamlpp.input_checks import as_rule, as_step_weights, class_labels, learnable, whole_number
from mamlpp.precision import gradients_on
from mamlpp.schedules import outer_rate
from mamlpp.task_result import Report

Weights = dict[str, Tensor]
Model = Callable[[Weights, Any, int], Tensor]  # (weights, inputs, inner steps taken) -> outputs
Rule = Any  # (name of a weight, inner step) -> α; or what has an `update` (`inner_rates`)
Loss = Callable[[Tensor, Tensor], Tensor]  # (outputs, targets) -> a scalar, or `[B]`


class Task(NamedTuple):
    """Learn from the support set, be judged on the query set. `TaskBatch` says the shapes."""

    support_x: Any
    support_y: Tensor
    query_x: Any
    query_y: Tensor


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over M examples: logits `[(B,) M, N]` and labels `[(B,) M]` to a scalar, or `[B]`."""
    losses = F.cross_entropy(logits.flatten(0, -2), class_labels(labels), reduction="none")
    return losses.view(labels.shape).mean(-1)


def inner_step(
    loss: Tensor, weights: Weights, rule: Rule, step: int, second_order: bool,
    states: dict[str, Any] | None = None,
) -> Weights:  # fmt: skip
    """`θ' = θ − α ∇θ loss`. With `second_order` the gradient itself stays part of the graph."""
    moved, states = {}, {} if states is None else states
    for n, gradient in inner_gradients(loss, weights, second_order).items():
        if hasattr(rule, "update"):  # and remembers something of each weight: momentum, say
            moved[n], states[n] = update(rule, n, weights[n], gradient, step, states.get(n))
        else:
            moved[n] = weights[n] - rule(n, step) * gradient
    return moved


@gradients_on()
def inner_loop(
    model: Model, weights: Weights, support: tuple[Any, Tensor], steps: int, rule: Rule,
    second_order: bool, loss: Loss = cross_entropy,
) -> list[Weights]:  # fmt: skip
    """Weights before and after each step on the support set (x, y): θ_0, θ_1, …, θ_S."""
    (x, y), path, states, rule = map(learnable, support), [weights], dict[str, Any](), as_rule(rule)
    for step in range(whole_number("steps", steps, least=0)):
        support_loss = loss(model(path[step], x, step), y)
        path.append(inner_step(support_loss, path[step], rule, step, second_order, states))
    return path


def task_loss(
    model: Model, weights: Weights, task: Task, step_weights: Sequence[float | Tensor], rule: Rule,
    second_order: bool, loss: Loss = cross_entropy, query_model: Model | None = None,
    query_loss: Loss | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What a task adds to the meta-loss, and the query outputs after the last step.

    `step_weights` weigh the query loss after each of the steps 1 … S (MSL; the paper's equation 3);
    one of weight 0 is not computed. The query set may have a model and a loss of its own.
    """
    support, steps = (task.support_x, task.support_y), len(step_weights)
    path = inner_loop(model, weights, support, steps, rule, second_order, loss)
    losses = []
    for step, weight in enumerate(as_step_weights(step_weights), start=1):
        if isinstance(weight, Tensor) or weight > 0:
            outputs = (query_model or model)(path[step], task.query_x, step)
            losses.append(weight * (query_loss or loss)(outputs, task.query_y))
    return torch.stack(losses).sum(0), outputs


def meta_gradient(learner: Any, batch: Any, epoch: float) -> Report:
    """Add the gradient of the mean loss of B tasks to every `.grad`, one task's graph at a time."""
    reports = []
    for task in batch.split():
        loss, report = learner.meta_loss(task, epoch)
        (loss / len(batch)).backward()
        reports.append(report)
    return Report(*(torch.stack(numbers).mean() for numbers in zip(*reports, strict=True)))


def meta_step(
    learner: Any, optimizer: torch.optim.Optimizer, batch: Any, epoch: float,
    meta_gradient: Callable[[Any, Any, float], Report] = meta_gradient,
) -> dict[str, Any]:  # fmt: skip
    """The outer loop's body: take the meta-gradient of a meta-batch, clip it, let Adam step.

    Where a gradient or buffer is not finite, all stays as it was; `nonfinite` names the first.
    """
    recipe, before = learner.recipe, {n: b.clone() for n, b in learner.named_buffers()}
    rate = outer_rate(recipe.outer_rate, recipe.outer_rate_min, recipe.epochs, epoch)
    row: dict[str, Any] = {"outer_rate": set_rate(optimizer, rate)}
    optimizer.zero_grad()
    report = meta_gradient(learner, batch, epoch)
    norm, finite = gradient_norm(learner)
    loss, accuracy, size, ok = torch.stack([*report, norm, finite]).tolist()  # a GPU waits here
    row |= {"loss": loss, "accuracy": accuracy, "gradient_norm": size}
    if ok:
        clip(learner, norm, recipe)
        optimizer.step()
    else:
        row["nonfinite"] = first_nonfinite(learner)
        learner.load_state_dict(before, strict=False)
    return row
