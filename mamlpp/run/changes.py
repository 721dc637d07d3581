"""Recipe changes during training, by hand or in length: what is allowed, what is in force then."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mamlpp.errors import InputError
from mamlpp.inner_rates import FixedRate
from mamlpp.learner import MetaLearner
from mamlpp.recipe import Recipe
from mamlpp.run.history import History, Row

CHANGE_COLUMNS = (
    "iteration",  # the first meta-step with the changed recipe
    "epoch",  # schedule position of that meta-step
    "field",  # name of the recipe field
    "value",  # its new value; empty means None
)
CHANGEABLE = (
    *("second_order_from", "msl_epochs", "msl_floor", "inner_rate"),
    *("outer_rate", "outer_rate_min", "clip_norm", "clip_value"),
)
MILESTONES = ("second_order_from", "msl_epochs")  # What may move with the length.


def changed(recipe: Recipe, fields: Mapping[str, float | None], rule: Any = None) -> Recipe:
    """Return the recipe with these fields changed.

    Raises `InputError` for a field that cannot change during training, and for an invalid value.
    """
    for name in fields:
        if name not in CHANGEABLE:
            raise InputError(f"{name} cannot change during training; {', '.join(CHANGEABLE)} can")
    if "inner_rate" in fields and recipe.inner_rule != "fixed":
        raise InputError(
            f"inner_rate cannot change during training: the inner rule {recipe.inner_rule!r} "
            f"learns its rates, and inner_rate only initialises them"
        )
    if "inner_rate" in fields and rule is not None and not isinstance(rule, FixedRate):
        raise InputError(
            f"inner_rate cannot change during training: the inner rule is {type(rule).__name__}, "
            f"which does not read it"
        )
    return recipe.with_(**{name: _to_float(value) for name, value in fields.items()})


def as_rows(before: Recipe, after: Recipe, iteration: int, epoch: float) -> list[Row]:
    """Return one row for each changeable field, and the length, that differ between two recipes."""
    differing = {
        name: getattr(after, name)
        for name in (*CHANGEABLE, "epochs")
        if getattr(after, name) != getattr(before, name)
    }
    return [
        {"iteration": iteration, "epoch": epoch, "field": name}
        | ({} if value is None else {"value": value})
        for name, value in differing.items()
    ]


def in_force(recipe: Recipe, changes: History, iteration: float) -> Recipe:
    """Return the recipe at a meta-step, after all changes made up to then."""
    fields: dict[str, Any] = {
        row["field"]: row.get("value") for row in changes.rows if row["iteration"] <= iteration
    }
    if "epochs" in fields:
        fields["epochs"] = int(fields["epochs"])
    return replace(recipe, **fields) if fields else recipe  # Each row is one field, no more.


def use_recipe(learner: MetaLearner, recipe: Recipe) -> None:
    """Let a learner continue under a recipe with another fixed inner rate or other schedules."""
    learner.recipe = recipe
    if isinstance(learner.rule, FixedRate):
        learner.rule.rate = recipe.inner_rate


def check_rate(learner: MetaLearner) -> None:
    """Raise `InputError` where a fixed rate of the user's own is not the recipe's, which counts."""
    rule, rate = learner.rule, learner.recipe.inner_rate
    if isinstance(rule, FixedRate) and rule.rate != rate:
        raise InputError(
            f"the inner rule has the rate {rule.rate:g}, and the recipe the inner_rate {rate:g}; "
            f"give the recipe that rate: recipe.with_(inner_rate={rule.rate:g})"
        )


def same_milestone(name: str, one: Recipe, other: Recipe) -> bool:
    """Whether a milestone is the same epoch in both recipes, or the same share of their lengths."""
    here, there = getattr(one, name), getattr(other, name)
    if not here or not there:  # From the start, or never: wherever the training ends.
        return here == there
    return here == there or math.isclose(here / one.epochs, there / other.epochs)


def with_length(recipe: Recipe, given: Recipe, first: Recipe) -> Recipe:
    """Return the recipe in force with the length of the `given` one, and its milestones.

    A milestone that was changed by hand stays: it is no longer that of the `first` recipe.
    """
    moved = {
        name: getattr(given, name) for name in MILESTONES if same_milestone(name, recipe, first)
    }
    return replace(recipe, epochs=given.epochs, **moved)


def _to_float(value: Any) -> float | None:
    return None if value is None else float(value)  # the type it has when read back from CSV
