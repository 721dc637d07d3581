"""What the gradient does on its way back through the inner loop: does it vanish, or explode?

Unrolled, S inner steps of a network of L layers are one network of S·L layers, without skip
connections, and the meta-gradient has to come all the way back through it (Antoniou et al. 2019,
section 3, "training instability"). Letters: S inner steps, L layers of adapted weights.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from mamlpp.data.tasks import Task, TaskBatch
from mamlpp.inner_rules import layer_of
from mamlpp.maml import MetaLearner, Model, Weights, task_loss
from mamlpp.precision import full_precision


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """The gradient of a meta-loss, looked at on its way back. Numbers on the CPU, without a graph.

    `norms` `[S + 1, L]`, float64: the 2-norm of the gradient with respect to a layer's weights θ_i
    (weight and bias together) as they are after i inner steps, through everything that follows;
    row 0 is the meta-gradient's own. Each task has its own θ_i, so each has its own norm, and this
    is their mean, in row 0 too.
    """

    epoch: float
    layers: tuple[str, ...]
    norms: Tensor
    meta_norm: float
    """2-norm of the whole meta-gradient: the mean over the tasks, all outer parameters."""
    cosine: float
    """Of the angle between the meta-gradient and the first-order one, of the adapted weights."""

    @property
    def first_bad(self) -> tuple[int, str] | None:
        """Where the gradient first stops being finite on its way back: (inner step, layer)."""
        bad = (~self.norms.isfinite()).nonzero().tolist()
        if not bad:
            return None
        step, layer = bad[-1]
        return step, self.layers[layer]

    def as_rows(self, iteration: int) -> list[dict[str, Any]]:
        """One row for each step and layer, for CSV: iteration, step, layer, norm."""
        return [
            {"iteration": iteration, "step": step, "layer": layer, "norm": norm}
            for step, row in enumerate(self.norms.tolist())
            for layer, norm in zip(self.layers, row, strict=True)
        ]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON; what is not finite becomes Python's NaN and Infinity there."""
        return asdict(self) | {"norms": self.norms.tolist(), "first_bad": self.first_bad}


@full_precision()
def diagnose(learner: MetaLearner, batch: TaskBatch, epoch: float = 0.0) -> Diagnosis:
    """Follow the gradient of the batch's meta-loss back; the learner stays exactly as it was.

    It costs about as much as a meta-step on the same tasks, so one of them is enough for now and
    then: `diagnose(learner, batch.split()[0], epoch)`.
    """
    traces = [_trace(learner, task, epoch) for task in batch]
    norms, whole, adapted, first_order = (
        torch.stack(of).mean(0) for of in zip(*traces, strict=True)
    )
    cosine = adapted @ first_order / (adapted.norm() * first_order.norm())
    layers = tuple(dict.fromkeys(map(layer_of, learner.weights())))
    return Diagnosis(epoch, layers, norms.cpu(), whole.norm().item(), cosine.item())


def _trace(learner: MetaLearner, task: Task, epoch: float) -> tuple[Tensor, ...]:
    """Of one task: norms `[S + 1, L]`, and three flat gradients: of all outer parameters, of the
    adapted weights, and of the adapted weights in first order.
    """
    path: dict[int, Weights] = {}
    queried: list[Weights] = []
    model = _watched(learner.task_model(task), task, path, queried)
    counts, order = learner.schedule(epoch)
    loss, _ = task_loss(model, learner.weights(), task, counts, learner.rule, order)
    outer: Weights = dict(learner.named_parameters())
    *along, whole = _gradients(loss, [*path.values(), *queried, outer])
    steps, direct = along[: len(path)], along[len(path) :]
    norms = torch.stack([_layer_norms(gradient) for gradient in steps])
    first_order = torch.stack([_flat(gradient.values()) for gradient in direct]).sum(0)
    return norms, _flat(whole.values()), _flat(steps[0].values()), first_order


def _watched(model: Model, task: Task, path: dict[int, Weights], queried: list[Weights]) -> Model:
    """The same model; the weights of each step are noted in `path`, in the order of the steps.

    Each query loss reads a view of its weights, noted in `queried`: the gradient of the view is
    what comes straight from that loss, and the first-order meta-gradient is the sum of these.
    """

    def watched(weights: Weights, x: Tensor, step: int) -> Tensor:
        path[step] = weights
        if x is task.query_x:
            weights = {name: weight.view_as(weight) for name, weight in weights.items()}
            queried.append(weights)
        return model(weights, x, step)

    return watched


def _gradients(loss: Tensor, groups: list[Weights]) -> list[Weights]:
    """The gradient of the loss with respect to every tensor of every group, in one way back."""
    tensors = [tensor for group in groups for tensor in group.values()]
    gradients = iter(torch.autograd.grad(loss, tensors, materialize_grads=True))
    return [{name: next(gradients) for name in group} for group in groups]


def _layer_norms(gradient: Weights) -> Tensor:
    """`[L]`, in the order of the layers."""
    layers: dict[str, list[Tensor]] = {}
    for name, part in gradient.items():
        layers.setdefault(layer_of(name), []).append(part)
    return torch.stack([_flat(parts).norm() for parts in layers.values()])


def _flat(parts: Iterable[Tensor]) -> Tensor:
    # In float64: the square of a large but finite float32 would overflow.
    return torch.cat([part.flatten() for part in parts]).double()
