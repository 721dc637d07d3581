"""Does the fast network compute what the definition computes? If not, the definition is in charge.

An edit of `network.py` or `maml.py`, an overridden method of the learner, a hook, a function that
a notebook replaces: each must have its effect in training and evaluation too. So the engine
compares itself with the definition, with few filters and on a tiny drawn task, before it is trusted
with a learner, and again when something about the learner has changed.
"""

import copy
import warnings
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from mamlpp import learner as definition
from mamlpp import maml
from mamlpp.data.tasks import PARTS, TaskBatch
from mamlpp.engine import batched
from mamlpp.inner_rates import LSLR, FixedRate, MetaSGD
from mamlpp.learner import MetaLearner
from mamlpp.network import ConvNet
from mamlpp.precision import gradients_on, torch_defaults

FILTERS = 8  # of the network that is compared: time is short
TOLERANCE = 1e-6  # relative, in float64, whose rounding is a millionth of that
METHODS = (
    *("weights", "norms", "forward", "meta_loss", "task_loss", "models", "schedule"),
    *("update_running", "adapted_path", "classifier", "statistics"),
    *("loss", "query_loss", "accuracy"),
)
_CHECKED: "WeakKeyDictionary[MetaLearner, tuple[list[Any], bool]]" = WeakKeyDictionary()


def engine_agrees(learner: MetaLearner, recompute: bool = False) -> bool:
    """Whether the fast network may stand for this learner's definition, gradients included.

    Warns in one sentence where a `ConvNet` is not what the fast network takes it for.
    """
    if not isinstance(learner.network, ConvNet) or learner.recipe.query_statistics == "support":
        return False  # The fast network was not made for these.
    parts = [recompute, *learner_parts(learner)]
    known, answer = _CHECKED.get(learner, ([], False))
    if not unchanged(known, parts):
        answer = _agrees(learner, recompute)
        _CHECKED[learner] = parts, answer
        if not answer:
            warnings.warn(
                "the network or the inner loop is not the one that the fast engine was written "
                "for, so training and evaluation use the definition itself, which takes longer",
                UserWarning,
                stacklevel=4,
            )
    return answer


def adapts_itself(learner: MetaLearner) -> bool:
    """Whether `adapt` was overridden, which then decides what a task is answered with."""
    return type(learner).adapt is not _ADAPT or "adapt" in vars(learner)


_ADAPT = MetaLearner.adapt


def definition_result(learner: MetaLearner, batch: TaskBatch | None = None) -> list[Tensor]:
    """What the definition makes of a tiny drawn task: logits, accuracy, loss, meta-gradient.

    Or of a batch, for a network of the user's own, whose inputs nobody else can draw.
    """
    learner, batch = _tiny(learner, batch)
    with torch_defaults(), torch.random.fork_rng(devices=[]), gradients_on():
        torch.manual_seed(0)
        task = next(iter(batch))
        path = learner.adapted_path(task.support_x, task.support_y)
        logits = [
            learner.classifier(path, len(path) - 1, task.support_x, reading)(task.query_x)
            for reading in learner.readings
        ]
        loss, report = learner.meta_loss(batch)
        learned = [parameter for parameter in learner.parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(loss, learned, materialize_grads=True)
    return [*logits, report.accuracy, loss.detach(), *gradients]


def same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    """Whether two results are equal but for rounding, tensor by tensor."""
    if [x.shape for x in ours] != [x.shape for x in theirs]:
        return False
    norms = [x.nan_to_num(0, 0, 0).norm().item() for x in ours]
    limits = [TOLERANCE * (norm + max(norms) / 1000) for norm in norms]
    return all(
        torch.allclose(one, other, rtol=0, atol=limit, equal_nan=True)
        for one, other, limit in zip(ours, theirs, limits, strict=True)
    )


def _agrees(learner: MetaLearner, recompute: bool) -> bool:
    try:
        return same(definition_result(learner), _engine_result(learner, recompute))
    except Exception:  # What the engine cannot do with this learner, the definition may.
        return False


def _engine_result(learner: MetaLearner, recompute: bool) -> list[Tensor]:
    learner, batch = _tiny(learner)
    parameters, steps = list(learner.parameters()), learner.recipe.inner_steps
    with gradients_on():
        logits = batched.batch_logits(learner, batch, steps, learner.readings, False)
        arguments = learner, batch, *learner.schedule(0.0), 1
        if recompute:
            learner.zero_grad()
            result = batched.add_recomputed_gradients(*arguments)
            gradients = tuple(parameter.grad for parameter in parameters)
        else:
            gradients, result = batched.task_gradients(*arguments)
    pairs = zip(gradients, parameters, strict=True)
    filled = [torch.zeros_like(p) if gradient is None else gradient for gradient, p in pairs]
    return [*logits[:, 0, 0], result.accuracy.mean(), result.loss.mean(), *filled]


def _tiny(learner: MetaLearner, batch: TaskBatch | None = None) -> tuple[MetaLearner, TaskBatch]:
    """A small copy in float64 on the CPU, two steps and second order; a batch of one small task."""
    tiny = copy.deepcopy(learner).cpu().double()
    _shrink(tiny)
    steps = min(2, learner.recipe.inner_steps)
    floor = min(learner.recipe.msl_floor, 1 / steps)
    tiny.recipe = learner.recipe.with_(inner_steps=steps, second_order_from=0.0, msl_floor=floor)
    if batch is not None:
        parts = (getattr(batch, name).cpu() for name in PARTS)
        return tiny, TaskBatch.unchecked(
            *(x.double() if x.is_floating_point() else x for x in parts)
        )
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(2, 1, 2, *learner.image_shape, generator=draw, dtype=torch.float64, device="cpu")
    tiny.ways = min(2, learner.ways)  # Two classes do, though the network has outputs for more.
    y = torch.arange(2, device="cpu")[None] % tiny.ways
    return tiny, TaskBatch.unchecked(x[0], y, x[1], y)


def _shrink(learner: MetaLearner) -> None:
    """Leave a `ConvNet` no more than `FILTERS` filters; and Meta-SGD no rates for the others."""
    known = type(learner.rule) in (FixedRate, LSLR, MetaSGD)
    if not isinstance(learner.network, ConvNet) or not known:
        return
    if isinstance(learner.rule, MetaSGD):
        rates = learner.rule.rates
        for i, name in enumerate(learner.rule.names):
            rates[i] = nn.Parameter(_first_filters(learner, name, rates[i]))
    for name, parameter in list(learner.network.named_parameters()):
        owner, _, own = name.rpartition(".")
        fewer = nn.Parameter(_first_filters(learner, name, parameter))
        setattr(learner.network.get_submodule(owner), own, fewer)
    for norm in learner.norms():
        norm.running_mean = norm.running_mean[:, :FILTERS]
        norm.running_var = norm.running_var[:, :FILTERS]


def _first_filters(learner: MetaLearner, name: str, numbers: Tensor) -> Tensor:
    if name == "head.weight":
        filters = learner.recipe.filters
        return numbers.detach().unflatten(1, (filters, -1))[:, :FILTERS].flatten(1)
    if name.endswith("conv.weight"):
        return numbers.detach()[:FILTERS, :FILTERS]
    return numbers.detach()[:, :FILTERS] if "norm" in name else numbers.detach()


def learner_parts(learner: MetaLearner) -> list[Any]:
    """What is replaced when somebody edits this learner, its classes or the inner loop."""
    parts = [part for name in METHODS for part in _definitions(learner, name)]
    parts += [learner._loss, type(learner.rule), getattr(type(learner.rule), "update", None)]
    parts += [f"{n}: {list(p.shape)}, {p.requires_grad}" for n, p in learner.named_parameters()]
    for module in learner.modules():
        parts += [type(module), *_definitions(module, "forward"), module.extra_repr()]
        parts += [getattr(type(module), "features", None), vars(module).get("features")]
        parts += [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    parts += [maml.inner_step, maml.inner_loop, maml.task_loss, maml.cross_entropy]
    return [*parts, definition.inner_loop, definition.task_loss, definition.cross_entropy]


def _definitions(owner: Any, name: str) -> tuple[Any, Any]:
    """A method as its class defines it, and as the object itself may override it."""
    return getattr(type(owner), name), vars(owner).get(name)


def unchanged(known: list[Any], parts: list[Any]) -> bool:
    """Whether two lists of `learner_parts` are the same."""
    pairs = zip(known, parts, strict=False)
    return len(known) == len(parts) and all(
        one == other if isinstance(one, str) else one is other for one, other in pairs
    )
