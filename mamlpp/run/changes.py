"""Changes made by hand while a training runs: which can be made, and the recipe they leave."""

from collections.abc import Mapping
from typing import Any

from mamlpp.errors import InputError
from mamlpp.recipe import Recipe
from mamlpp.run.history import History, Row

CHANGE_COLUMNS = (
    "iteration",  # the first meta-step under the changed recipe
    "epoch",  # where in the schedules that meta-step is
    "field",  # of the recipe
    "value",  # from then on; empty: None
)
CHANGEABLE = (
    *("second_order_from", "msl_epochs", "msl_floor", "inner_rate"),
    *("outer_rate", "outer_rate_min", "clip_norm", "clip_value"),
)


def changed(recipe: Recipe, fields: Mapping[str, float | None]) -> Recipe:
    """The recipe with these fields changed; raises `InputError` where a running one cannot be."""
    for name in fields:
        if name not in CHANGEABLE:
            raise InputError(
                f"{name} cannot be changed while a training runs; {', '.join(CHANGEABLE)} can"
            )
    if "inner_rate" in fields and recipe.inner_rule != "fixed":
        raise InputError(
            f"inner_rate cannot be changed while a training runs: the rule {recipe.inner_rule} "
            f"learns its rates, which only began with it"
        )
    return recipe.with_(**{name: _number(value) for name, value in fields.items()})


def as_rows(before: Recipe, after: Recipe, iteration: int, epoch: float) -> list[Row]:
    """One row for each field that differs."""
    differing = {
        name: getattr(after, name)
        for name in CHANGEABLE
        if getattr(after, name) != getattr(before, name)
    }
    return [
        {"iteration": iteration, "epoch": epoch, "field": name}
        | ({} if value is None else {"value": value})
        for name, value in differing.items()
    ]


def in_force(recipe: Recipe, changes: History, iteration: float) -> Recipe:
    """What the recipe had become in a meta-step."""
    fields = {
        row["field"]: row.get("value") for row in changes.rows if row["iteration"] <= iteration
    }
    return recipe.with_(**fields) if fields else recipe


def _number(value: Any) -> float | None:
    return None if value is None else float(value)  # As it will be read back from a file.
