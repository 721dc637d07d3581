"""Whether what a user gives can be used: recipes, rates, images with labels, whole numbers.

What can only mean one thing is converted: arrays and lists become tensors, labels int64, bytes
floats in 0 … 1. Anything else raises `InputError`. Of a tensor on a GPU no values are read, since
that would make the processor wait for it, except where a user hands images over: `adapt`,
the classifier that it returns, and a `TaskBatch` made by hand.
"""

import inspect
import math
import operator
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.nn.utils.weight_norm import WeightNorm

from mamlpp.errors import InputError, InputWarning

BRIGHTEST = 2.0  # Images in 0 … 1 may overshoot a little, after interpolation, say.


def check_recipe(recipe: Any) -> None:
    """Raise `InputError`, with the name of the field, where a recipe cannot be trained.

    Numbers of other libraries, which no JSON file holds, become Python's.
    """
    for field in fields(recipe):
        value = getattr(recipe, field.name)
        if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
            object.__setattr__(recipe, field.name, value.item())
    for names, valid, expected in _EXPECTED:
        for name in names:
            if not valid(getattr(recipe, name)):
                raise InputError(f"{name} must be {expected}, not {getattr(recipe, name)!r}")
    for name, choices in _CHOICES.items():
        if getattr(recipe, name) not in choices:
            raise InputError(
                f"{name} must be one of {', '.join(choices)}, not {getattr(recipe, name)!r}"
            )
    if recipe.clip_norm is not None and recipe.clip_value is not None:
        raise InputError("a meta-gradient is clipped by clip_norm or by clip_value: give one")
    if recipe.msl_floor > 1 / recipe.inner_steps:
        raise InputError(
            f"msl_floor {recipe.msl_floor} is more than 1 / inner_steps, each step's weight at "
            f"first; choose at most {1 / recipe.inner_steps:g}"
        )
    if recipe.msl_floor and not recipe.msl_epochs:
        raise InputError("msl_floor acts only with a multi-step loss: give msl_epochs too")
    if recipe.outer_rate_min is not None and recipe.outer_rate is None:
        raise InputError("outer_rate_min anneals outer_rate, which is None: give both, or neither")
    if recipe.outer_rate_min is not None and recipe.outer_rate_min > recipe.outer_rate:
        raise InputError(
            f"outer_rate_min {recipe.outer_rate_min} is above outer_rate {recipe.outer_rate}, "
            f"but the rate is annealed down to it"
        )


def check_fields(recipe: Any, names: Iterable[str]) -> None:
    """Raise `InputError` for a name that is no field of the recipe."""
    known = [field.name for field in fields(recipe)]
    for name in names:
        if name not in known:
            raise InputError(f"a recipe has no field {name!r}; its fields are {', '.join(known)}")


def as_step_weights(step_weights: Sequence[Any]) -> Sequence[Any]:
    """The weights of the query losses; `InputError` where they are not.

    Tensors, which may be on a GPU, are taken as they are.
    """
    given = list(step_weights) if isinstance(step_weights, Iterable) else []
    weights = [w.item() if hasattr(w, "item") and not isinstance(w, Tensor) else w for w in given]
    if not weights:
        raise InputError("step_weights must have a number for each inner step, at least one")
    plain = [weight for weight in weights if not isinstance(weight, Tensor)]
    if not all(_is_number(number) and 0 <= number < math.inf for number in plain):
        raise InputError(f"step_weights must be finite numbers from 0 on, not {weights}")
    if not isinstance(weights[-1], Tensor) and not weights[-1]:
        raise InputError(
            f"the last of step_weights must be above 0, not {weights}: the outputs after the last "
            f"step are what a task is judged by"
        )
    return weights


def class_labels(labels: Any) -> Tensor:
    """Labels as one row; `InputError` where they are not whole numbers."""
    if labels.dtype.is_floating_point:
        raise InputError(
            f"cross-entropy needs class labels, whole numbers, not {_name(labels.dtype)} targets; "
            f"of a regression give another loss: loss=F.mse_loss"
        )
    return labels.flatten()


# Images and labels of a task ------------------------------------------------------------------


def check_learner(
    recipe: Any, image_shape: Any, ways: Any, seed: Any, network: Any, loss: Any, metrics: Any
) -> None:
    """Raise `InputError` where a learner cannot be made of these."""
    check_is_recipe(recipe)
    if not isinstance(network, nn.Module | None):
        raise InputError(f"network must be an nn.Module, not {_kind(network)}")
    _check_scores(loss, {} if metrics is None else metrics)
    shape = image_shape if isinstance(image_shape, tuple | list | torch.Size) else ()
    free = network is not None and image_shape is None
    if not free and (not shape or (network is None and len(shape) != 3)):
        raise InputError(
            f"image_shape must be (channels, height, width), such as ImageSet.shape, not "
            f"{image_shape!r}"
        )
    for size in shape:
        whole_number("each number of image_shape", size)
    if network is None or ways is not None:
        whole_number("ways", ways)
    if seed is not None:
        whole_number("seed", seed, least=0)


def _check_scores(loss: Any, metrics: Any) -> None:
    if not callable(loss):
        raise InputError(f"loss must be a function of (outputs, targets), not {loss!r}")
    if not isinstance(metrics, Mapping) or not all(map(callable, metrics.values())):
        raise InputError(
            f"metrics must be functions of (outputs, targets) by name, such as "
            f"{{'error': F.l1_loss}}, not {metrics!r}"
        )
    if taken := [name for name in metrics if name in ("loss", "accuracy")]:
        raise InputError(f"a metric cannot be named {taken[0]!r}, which there is; rename it")


def frozen_parameters(network: nn.Module) -> frozenset[str]:
    """Names of the parameters of a network that require no gradient; it warns of them.

    Raises `InputError` where nothing can be learned, for a wrapper around the network, and for
    PyTorch's running batch norm.
    """
    wrapped = isinstance(
        network, nn.DataParallel | DistributedDataParallel | torch.jit.ScriptModule
    )
    if wrapped or hasattr(network, "_orig_mod"):
        raise InputError(
            f"the network is wrapped in {_kind(network)}, which takes no weights of the inner "
            f"loop; give the network itself"
        )
    kinds = {p.kind for p in inspect.signature(network.forward).parameters.values()}
    if kinds == {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}:
        raise InputError(
            f"the forward of {_kind(network)} takes anything, so that nobody can say whether it "
            f"wants the step; give it forward(self, x) or forward(self, x, step)"
        )
    for name, module in network.named_modules():
        if any(isinstance(hook, WeightNorm) for hook in module._forward_pre_hooks.values()):
            raise InputError(
                f"{name or 'the network'} has nn.utils.weight_norm, which cannot be copied; use "
                f"torch.nn.utils.parametrizations.weight_norm"
            )
        if any(is_lazy(parameter) for parameter in module.parameters(recurse=False)):
            raise InputError(
                f"{name or 'the network'} is a {_kind(module)} that has not seen an input, so its "
                f"shape is unknown; call the network once before: network(torch.zeros(1, …))"
            )
        if isinstance(module, _NormBase) and module.track_running_stats:
            raise InputError(
                f"{name or 'the network'} is a {_kind(module)} with running statistics, which each "
                f"forward pass of the inner loop would move; use mamlpp.network.BatchNorm, "
                f"nn.GroupNorm, or track_running_stats=False"
            )
    every = dict(network.named_parameters())
    frozen = frozenset(name for name, parameter in every.items() if not parameter.requires_grad)
    if len(frozen) == len(every):
        raise InputError("the network has no parameter that requires a gradient: nothing to learn")
    if frozen:
        warnings.warn(
            f"frozen, so that neither loop moves them: {', '.join(sorted(frozen))}",
            InputWarning,
            stacklevel=3,
        )
    return frozen


def as_rule(rule: Any) -> Any:
    """An inner rule; `InputError` where it is none, such as a plain number."""
    if not (callable(rule) or hasattr(rule, "update")):
        raise InputError(
            f"rule must be a function of (name, step) or have an update, not {rule!r}; for one "
            f"rate give FixedRate(0.1)"
        )
    return rule


def as_epoch(epoch: Any) -> Any:
    """An epoch, which may be fractional; `InputError` where it is no number."""
    if not hasattr(epoch, "__float__"):
        raise InputError(f"epoch must be a number, such as 0 or 2.5, not {epoch!r}")
    return epoch


def make_rule(make: Callable[[Any], Any], weights: dict[str, Tensor]) -> Any:
    """The inner rule that a function makes of the weights; `InputError` where it makes none."""
    what = f"such as lambda weights: Momentum(), not {_kind(make)}"
    if isinstance(make, type) or not (isinstance(make, nn.Module) or hasattr(make, "update")):
        try:
            rule = make(weights)
        except TypeError as error:
            what = f"which failed ({error})"
        else:
            if callable(rule) or hasattr(rule, "update"):
                return rule
            what = f"that has an update, or is a function of (name, step); it made {_kind(rule)}"
    raise InputError(f"rule must be a function of the weights that makes a rule, {what}")


def as_outputs(learner: Any, outputs: Any) -> Any:
    """What a network returned; `InputError` where it is no tensor with a number for each class."""
    if not isinstance(outputs, Tensor):
        raise InputError(
            f"{_kind(learner.network)} must return one tensor, not {_kind(outputs)}; choose the "
            f"part that is to be judged in its forward"
        )
    if learner.ways is not None and (outputs.ndim < 2 or outputs.shape[-1] < learner.ways):
        raise InputError(
            f"{_kind(learner.network)} must return a number for each of {learner.ways} classes, "
            f"[images, {learner.ways}], not {list(outputs.shape)}"
        )
    return outputs


def as_loss(loss: Callable[[Tensor, Tensor], Any], outputs: Tensor, targets: Tensor) -> Tensor:
    """The loss of outputs; `InputError` where it is no scalar, or would compare all with all."""
    if targets.is_floating_point() and outputs.shape == (*targets.shape, 1):
        raise InputError(
            f"outputs are {list(outputs.shape)} and targets {list(targets.shape)}, so that each "
            f"would be compared with every other; give targets {list(outputs.shape)}"
        )
    found = loss(outputs, targets)
    if not isinstance(found, Tensor) or found.ndim > targets.ndim - 1:
        kind = list(found.shape) if isinstance(found, Tensor) else repr(found)
        raise InputError(f"loss must return a tensor with one number, the mean, not {kind}")
    return found


def check_is_recipe(recipe: Any) -> None:
    """Raise `InputError` for what is not a `Recipe`, such as the name of one."""
    if not hasattr(recipe, "inner_steps"):
        raise InputError(
            f"recipe must be a Recipe, such as RECIPES['maml++'], not {_kind(recipe)} {recipe!r}"
        )


def tasks_of(batch: Any) -> list[Any]:
    """The tasks of a batch as a list. Raises `InputError` where it has none."""
    if hasattr(batch, "_replace"):
        raise InputError("a batch of tasks is expected, not a single one; give [task]")
    tasks = list(batch) if isinstance(batch, Iterable) and not isinstance(batch, Tensor) else []
    if not tasks or not all(hasattr(task, "_replace") for task in tasks):
        empty = "an empty " if hasattr(batch, "__len__") and not len(batch) else ""
        of = f" of {_kind(tasks[0])}" if tasks else ""
        draw = "; give sampler.sample(tasks)" if hasattr(batch, "sample") else ""
        raise InputError(
            f"a TaskBatch, or a list of at least one Task, is expected, not "
            f"{empty}{_kind(batch)}{of}{draw}"
        )
    return tasks


def as_task(learner: Any, task: Any) -> Any:
    """The task as tensors that the learner can use. Raises `InputError` where there are none."""
    if not hasattr(task, "_replace") or not hasattr(task, "support_x"):
        raise InputError(f"a Task is expected, not {_kind(task)}; of a batch, take meta_loss")
    support = _examples(learner, "support", task.support_x, task.support_y)
    check_task(learner, *support)
    query = _examples(learner, "query", task.query_x, task.query_y)
    if query[1].device.type == "cpu" and learner.ways is not None:
        check_labels(learner, query[1])
    return type(task)(*support, *query)


def as_support(learner: Any, images: Any, labels: Any, steps: Any) -> tuple[Tensor, Tensor]:
    """A support set as tensors that the learner can use, all values checked.

    Raises `InputError` where there are none, or where `steps` is no number of inner steps.
    """
    if steps is not None:
        whole_number("steps", steps, least=0)
    x, y = _examples(learner, "support", images, labels, read=True)
    if learner.ways is not None:
        check_labels(learner, y)
        check_classes(learner, y)
    return x, y


def check_task(learner: Any, images: Tensor, labels: Tensor) -> None:
    """Raise `InputError` where support images `[M, …]` or labels `[(B,) M]` are not this learner's.

    Reads no values on a GPU.
    """
    _check_device(learner, "images", images)
    _check_shape(learner, images)
    if labels.device.type == "cpu" and learner.ways is not None:
        check_labels(learner, labels)
        check_classes(learner, labels)


def check_labels(learner: Any, labels: Tensor) -> None:
    """Raise `InputError` for labels that no output of the learner stands for."""
    low, high = (value.item() for value in labels.aminmax())
    if low < 0 or high >= learner.ways:
        raise InputError(
            f"labels must be 0 … {learner.ways - 1} for a {learner.ways}-way learner, but these "
            f"go from {low} to {high}"
        )


def check_reading(learner: Any, reading: str) -> None:
    """Raise `InputError` where a learner has no such reading."""
    if reading not in learner.readings:
        why = "" if learner.has_running else "; running statistics were not collected in training"
        raise InputError(
            f"there is no reading {reading!r} of this learner; choose one of "
            f"{', '.join(learner.readings)}{why}"
        )


def check_classes(learner: Any, labels: Tensor) -> None:
    """Raise `InputError` where support labels `[(B,) M]` lack a class of the learner."""
    seen = labels.new_zeros(*labels.shape[:-1], learner.ways).scatter_(-1, labels, 1)
    classes = int(seen.sum(-1).min())
    if classes < learner.ways:
        raise InputError(
            f"the learner was made for {learner.ways}-way tasks, but this support set has "
            f"{classes} of the {learner.ways} classes; give examples of each, or make a learner "
            f"with ways={classes}"
        )


def check_is_sampler(sampler: Any) -> None:
    """Raise `InputError` for what draws no tasks, such as an `ImageSet`."""
    if isinstance(sampler, type):
        raise InputError(
            f"{sampler.__name__} is a class, and a sampler is one of its objects: give "
            f"{sampler.__name__}(…)"
        )
    if not hasattr(sampler, "sample"):
        raise InputError(
            f"tasks are drawn by a TaskSampler, which this {_kind(sampler)} is not; make one: "
            f"TaskSampler(images, ways, shots)"
        )


def check_is_learner(learner: Any) -> None:
    """Raise `InputError` for what is no `MetaLearner`, such as a network or a run."""
    if not hasattr(learner, "adapted_path"):
        raise InputError(
            f"a MetaLearner is expected, not {_kind(learner)}; of a run, give run.learner; of a "
            f"network, MetaLearner(recipe, network=…)"
        )


def check_sampler(learner: Any, sampler: Any) -> None:
    """Raise `InputError` where a sampler draws no tasks for this learner."""
    check_is_learner(learner)
    check_is_sampler(sampler)
    ways = getattr(sampler, "ways", None)
    if ways is not None and learner.ways is not None and ways != learner.ways:
        raise InputError(
            f"the learner was made for {learner.ways}-way tasks, but these are {ways}-way; give "
            f"a sampler with ways={learner.ways}"
        )


def as_tensor(name: str, value: Any) -> Tensor:
    """A tensor of an array, of nested lists, or of a list of these; a tensor as it is."""
    if isinstance(value, Tensor):
        return value
    try:
        if isinstance(value, list | tuple) and value and hasattr(value[0], "__len__"):
            return torch.stack([as_tensor(name, each) for each in value])
        if hasattr(value, "__array__"):
            value = value.__array__().copy()  # which may be read-only, or a view run backwards
        return torch.tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{name} must be a tensor, an array, or lists of numbers that are equally long, not "
            f"{_kind(value)} ({error})"
        ) from error


def learnable(given: Any) -> Any:
    """A tensor of inference mode as one that gradients may go through; all else as it is."""
    return given.clone() if isinstance(given, Tensor) and given.is_inference() else given


def from_bytes(name: str, images: Tensor, read: bool, dtype: torch.dtype) -> Tensor:
    """Pixels of 0 … 255 as floats in 0 … 1; `InputError` where they were probably 0 or 1."""
    if read and images.numel() and images.max() == 1:
        raise InputError(
            f"{name} holds bytes, which are taken as 0 … 255, but none of them is above 1; give "
            f"floats in 0 … 1: {name}.float()"
        )
    return images.to(dtype) / 255


@contextmanager
def any_numbers() -> Iterator[None]:
    """Without a check of values: a look at a training that failed takes what it failed on."""
    token = _VALUES_CHECKED.set(False)
    try:
        yield
    finally:
        _VALUES_CHECKED.reset(token)


_VALUES_CHECKED = ContextVar("values_checked", default=True)


def check_finite(name: str, numbers: Tensor, brightest: float = math.inf) -> None:
    """Raise `InputError` for NaN and infinity, and where numbers from 0 on exceed `brightest`.

    Images with negative values have been standardised by somebody who knows, and may exceed it.
    """
    if not _VALUES_CHECKED.get():
        return
    low, high = (value.item() for value in numbers.detach().aminmax())  # NaN spreads to both
    if not (math.isfinite(low) and math.isfinite(high)):
        raise InputError(f"{name} holds NaN or infinity; give finite numbers")
    if low >= 0 and high > brightest:
        raise InputError(
            f"{name} goes up to {high:g}, but images are floats in 0 … 1; divide by 255, or give "
            f"uint8"
        )


def _examples(
    learner: Any, part: str, images: Any, labels: Any, read: bool = False
) -> tuple[Tensor, Tensor]:
    x, y = as_images(learner, f"{part}_x", images, read), as_tensor(f"{part}_y", labels)
    if isinstance(labels, Tensor):
        _check_device(learner, f"{part}_y", labels)
    if learner.ways is None:
        if y.shape[:1] != x.shape[:1]:
            raise InputError(
                f"{part}_y must have a target for each of the {len(x)} inputs, not {list(y.shape)}"
            )
        return x, y.to(x.device, x.dtype if y.dtype.is_floating_point else y.dtype)
    if y.dtype.is_floating_point or y.dtype.is_complex:
        raise InputError(
            f"{part}_y must be whole numbers, 0 … {learner.ways - 1}, not {_name(y.dtype)}; give "
            f"labels.long() where they are"
        )
    if y.shape != x.shape[:1]:
        raise InputError(
            f"{part}_y must have one label for each image, [{len(x)}], not {list(y.shape)}"
        )
    return x, y.to(x.device, torch.int64)


def as_images(learner: Any, name: str, images: Any, read: bool) -> Tensor:
    """Images as floats on the learner's device; their values are read on a CPU, or with `read`."""
    x, weight = learnable(as_tensor(name, images)), next(learner.parameters())
    if isinstance(images, Tensor):
        _check_device(learner, name, x)
    read = read or x.device.type == "cpu"
    _check_shape(learner, x)
    if not len(x):
        raise InputError(f"{name} has no images; give at least one")
    own = learner._own_network  # which may expect any numbers
    if x.dtype == torch.uint8 and len(learner.image_shape or ()) == 3:
        x = from_bytes(name, x, read, weight.dtype)
    elif x.dtype == torch.bool:
        x = x.to(weight.dtype)
    elif not x.dtype.is_floating_point and not own:
        raise InputError(
            f"{name} must be floats in 0 … 1, or uint8 in 0 … 255, not {_name(x.dtype)}; convert "
            f"the images to one of these"
        )
    if x.dtype.is_floating_point and read:
        check_finite(name, x, math.inf if own else BRIGHTEST)
    return x.to(weight.device, weight.dtype if x.dtype.is_floating_point else x.dtype)


def _check_device(learner: Any, name: str, numbers: Tensor) -> None:
    device = next(learner.parameters()).device
    if numbers.device != device:
        raise InputError(
            f"{name} is on {numbers.device}, but the learner is on {device}; move one of them "
            f"with .to('{device}')"
        )


def _check_shape(learner: Any, images: Tensor) -> None:
    expected, found = learner.image_shape, tuple(images.shape)
    if expected is None or found[1:] == expected:
        return
    advice = f"give [images, {', '.join(map(str, expected))}]"
    if found == expected:
        advice = "give a single image as image[None]"
    elif expected[0] == 1 and found[1:] == expected[1:]:
        advice = "add the channel: images[:, None]"
    elif len(expected) == 3 and found[1:] == (*expected[1:], expected[0]):
        advice = "put the channels first: images.permute(0, 3, 1, 2)"
    raise InputError(
        f"the learner was made for images {list(expected)}, but these are {list(found[1:])}; "
        f"{advice}"
    )


# Numbers ----------------------------------------------------------------------------------------


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """`value` as an int; `InputError` where it is a truth value, has a fraction or is too small."""
    if not is_whole(value) or value < least:
        raise InputError(f"{name} must be a whole number, {least} or more, not {value!r}")
    return operator.index(value)


def is_whole(value: Any) -> bool:
    """Whether it is a whole number of any library, and no truth value."""
    try:
        return not isinstance(value, bool) and isinstance(operator.index(value), int)
    except TypeError:
        return False


def one_rate(rate: Any) -> float:
    """`rate` as a float; `InputError` where it is not one finite number."""
    is_one = not isinstance(rate, str | bool) and getattr(rate, "ndim", 0) == 0
    try:
        if is_one and math.isfinite(float(rate)):
            return float(rate)
    except (TypeError, ValueError):
        pass
    shape = f" {list(rate.shape)}" if hasattr(rate, "shape") else f" {rate!r}"
    raise InputError(
        f"an inner rate must be one finite number, not {_kind(rate)}{shape}; for a rate of each "
        f"layer and step, set LSLR.rates"
    )


def steps_of(rates: Tensor, layers: int) -> int:
    """S of rates `[L, S]`; `InputError` where they are not one for each layer and step."""
    if rates.ndim != 2 or len(rates) != layers or not rates.shape[1]:
        raise InputError(
            f"LSLR needs rates [{layers}, steps], one for each layer and step, not "
            f"{list(rates.shape)}; make them as LSLR(weights, steps, rate)"
        )
    return rates.shape[1]


# Other ------------------------------------------------------------------------------------------


def check_image_size(height: int, width: int, least: int) -> None:
    """Raise `InputError` where images are too small to be halved as often as the network does."""
    if min(height, width) < least:
        raise InputError(
            f"images of {height}x{width} are too small to be halved {least.bit_length() - 1} "
            f"times; use images of at least {least}x{least}"
        )


def _kind(value: Any) -> str:
    return type(value).__name__


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_EXPECTED: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
    (
        ("filters", "inner_steps", "meta_batch", "epochs", "iterations_per_epoch"),
        lambda value: type(value) is int and value >= 1,
        "a whole number from 1 on",
    ),
    (
        ("validation_tasks",),
        lambda value: type(value) is int and value >= 2,
        "2 or more, for an interval over them",
    ),
    (("inner_rate",), lambda value: _is_number(value) and value > 0, "positive"),
    (
        ("second_order_from", "msl_epochs", "msl_floor", "outer_rate_min"),
        lambda value: value is None or (_is_number(value) and value >= 0),
        "0 or more",
    ),
    (
        ("outer_rate", "clip_norm", "clip_value"),
        lambda value: value is None or (_is_number(value) and value > 0),
        "positive or None",
    ),
)
_CHOICES = {
    "pooling": ("max", "stride"),
    "norm_statistics": ("batch", "shared", "per_step"),
    "norm_weights": ("shared", "per_step"),
    "query_statistics": ("query", "support"),
    "inner_rule": ("fixed", "lslr", "meta-sgd"),
    "memory": ("store", "recompute", "auto"),
    "nonfinite": ("skip", "stop"),
}
