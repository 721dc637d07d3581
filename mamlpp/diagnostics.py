"""What the gradient does on its way back through the inner loop: does it vanish, or explode?

Unrolled, S inner steps of a network of L layers are one network of S·L layers, without skip
connections, and the meta-gradient has to come all the way back through it (Antoniou et al. 2019,
section 3, "training instability"). Letters: S inner steps, L layers of adapted weights.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from mamlpp.gradients import in_a_row
from mamlpp.inner_rates import layer_of
from mamlpp.input_checks import any_numbers, check_is_learner, tasks_of
from mamlpp.learner import MetaLearner
from mamlpp.maml import Model, Task, Weights
from mamlpp.precision import full_precision, gradients_on


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """The gradient of a meta-loss, followed back. Numbers on the CPU, without a graph.

    `norms` `[S + 1, L]`, float64: the 2-norm of the gradient with respect to a layer's weights θ_i
    (weight and bias together) after i inner steps, through everything that follows. Row 0 is the
    meta-gradient. Each task has its own θ_i and so its own norm; this is the mean over the tasks.
    """

    epoch: float
    layers: tuple[str, ...]
    norms: Tensor
    meta_norm: float
    """2-norm of the whole meta-gradient, of all outer parameters: the mean over the tasks."""
    cosine: float
    """Cosine of the angle between the second- and first-order gradients of the adapted weights."""

    @property
    def first_nonfinite(self) -> tuple[int, str] | None:
        """Where the gradient first stops being finite on its way back: (inner step, layer)."""
        bad = (~self.norms.isfinite()).nonzero().tolist()
        return (bad[-1][0], self.layers[bad[-1][1]]) if bad else None


@full_precision()
@gradients_on()
def diagnose(learner: MetaLearner, batch: Iterable[Task], epoch: float = 0.0) -> Diagnosis:
    """Follow the gradient of the tasks' meta-loss back. The learner does not change.

    It costs about as much as a meta-step on the same tasks, so give it one of them now and then:
    `diagnose(learner, batch.split()[0], epoch)`. Raises `InputError` for another kind of argument.
    """
    check_is_learner(learner)
    traces = [_trace(learner, task, epoch) for task in tasks_of(batch)]
    means = [torch.stack(each).mean(0) for each in zip(*traces, strict=True)]
    norms, whole, adapted, first_order = means
    cosine = adapted @ first_order / (adapted.norm() * first_order.norm())
    layers = tuple(dict.fromkeys(map(layer_of, learner.weights())))
    return Diagnosis(epoch, layers, norms.cpu(), whole.norm().item(), cosine.item())


@any_numbers()
def _trace(learner: MetaLearner, task: Task, epoch: float) -> tuple[Tensor, ...]:
    """Of one task: norms `[S + 1, L]`, and three flat gradients: of all outer parameters, of the
    adapted weights, and of the adapted weights in first order.
    """
    path: dict[int, Weights] = {}  # θ_i by step
    queried: list[Weights] = []

    def models(task: Task, collect: Any = None) -> tuple[Model, Model]:
        model, query_model = learner.models(task, collect)
        return _watched(model, path), _watched(query_model, path, queried)

    follower = copy.copy(learner)  # with the same parameters, and models that are watched
    vars(follower)["models"] = models
    loss = follower.task_loss(task, epoch).loss
    outer: Weights = {n: p for n, p in learner.named_parameters() if p.requires_grad}
    *along, whole = _gradients(loss, [*path.values(), *queried, outer])
    steps, direct = along[: len(path)], along[len(path) :]
    norms = torch.stack([_layer_norms(gradient) for gradient in steps])
    first_order = torch.stack([_flat(gradient.values()) for gradient in direct]).sum(0)
    return norms, _flat(whole.values()), _flat(steps[0].values()), first_order


def _watched(model: Model, path: dict[int, Weights], views: list[Weights] | None = None) -> Model:
    """The same model; `path` keeps the weights of each step.

    With `views` each call reads and keeps views of its weights. Their gradients come straight from
    that query loss; the sum of these is the first-order meta-gradient.
    """

    def watched(weights: Weights, x: Tensor, step: int) -> Tensor:
        path[step] = weights
        if views is not None:
            weights = {name: weight.view_as(weight) for name, weight in weights.items()}
            views.append(weights)
        return model(weights, x, step)

    return watched


def _gradients(loss: Tensor, groups: list[Weights]) -> list[Weights]:
    """The gradient with respect to every tensor of every group, in one backward pass."""
    tensors = [tensor for group in groups for tensor in group.values()]
    gradients = iter(torch.autograd.grad(loss, tensors, materialize_grads=True))
    return [{name: next(gradients) for name in group} for group in groups]


def _layer_norms(gradient: Weights) -> Tensor:
    """`[L]`, in the order of the layers."""
    layers = groupby(gradient, layer_of)  # a layer's weight and bias are neighbours
    return torch.stack([_flat(gradient[name] for name in names).norm() for _, names in layers])


def _flat(parts: Iterable[Tensor]) -> Tensor:
    # In float64: the square of a large but finite float32 would overflow.
    return torch.cat([in_a_row(part) for part in parts]).double()
