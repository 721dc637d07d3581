"""Whether what a user gives to the definition can be used: recipes, and images with labels."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from mamlpp.errors import InputError


def check_recipe(recipe: Any) -> None:
    """Raise `InputError`, with the name of the field, where a recipe cannot be trained."""
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
    if recipe.outer_rate_min is not None and recipe.outer_rate_min > recipe.outer_rate:
        raise InputError(
            f"outer_rate_min {recipe.outer_rate_min} is above outer_rate {recipe.outer_rate}, "
            f"but the rate is annealed down to it"
        )


def check_task(learner: Any, images: Tensor, labels: Tensor) -> None:
    """Raise `InputError` where images `[M, …]` or labels `[M]` are not this learner's."""
    if tuple(images.shape[1:]) != learner.image_shape:
        raise InputError(
            f"the learner was made for images {list(learner.image_shape)}, but these are "
            f"{list(images.shape[1:])}"
        )
    if labels.device.type == "cpu" and not (labels.min() >= 0 and labels.max() < learner.ways):
        raise InputError(
            f"labels must be 0 … {learner.ways - 1} for a {learner.ways}-way learner, but these "
            f"go from {labels.min()} to {labels.max()}"
        )


def check_reading(learner: Any, reading: str) -> None:
    """Raise `InputError` where a learner has no such reading."""
    if reading not in learner.readings:
        why = "" if learner.has_running else "; running statistics were not collected in training"
        raise InputError(
            f"there is no reading {reading!r} of this learner; choose one of "
            f"{', '.join(learner.readings)}{why}"
        )


def check_image_size(height: int, width: int, least: int) -> None:
    """Raise `InputError` where images are too small to be halved as often as the network does."""
    if min(height, width) < least:
        raise InputError(
            f"images of {height}x{width} are too small to be halved {least.bit_length() - 1} "
            f"times; use images of at least {least}x{least}"
        )


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
    (("inner_rate", "outer_rate"), lambda value: _is_number(value) and value > 0, "positive"),
    (
        ("second_order_from", "msl_epochs", "msl_floor", "outer_rate_min"),
        lambda value: value is None or (_is_number(value) and value >= 0),
        "0 or more",
    ),
    (
        ("clip_norm", "clip_value"),
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
