"""The knobs of a live training: which there are, and what turning one changes of the recipe."""

from collections.abc import Mapping
from typing import Any

import ipywidgets  # type: ignore[import-untyped]

from mamlpp.recipe import RECIPES, Recipe
from mamlpp.run.trainer import Trainer

# Each has its name in view: that is also the only name that a screen reader gets.

_SHAPE = {
    "style": {"description_width": "initial"},
    "layout": {"width": "340px", "margin": "2px 12px 2px 0"},
}
_ORDERS = {"as in the recipe": "recipe", "first order": "first", "second order": "second"}
_CLIPS = {"as in the recipe": "recipe", "none": None, **{f"{x:g}": x for x in (0.1, 1, 10, 100)}}


def knobs() -> dict[str, ipywidgets.Widget]:
    """All of them, by name."""
    recipes = [("as given", ""), *((name, name) for name in RECIPES)]
    return {
        "recipe": ipywidgets.Dropdown(options=recipes, description="recipe", **_SHAPE),
        "order": _choice("derivative order", _ORDERS),
        "msl": ipywidgets.Checkbox(description="multi-step loss", indent=False, **_SHAPE),
        "inner_rate": _power("inner learning rate", -4, 1),
        "outer_rate": _power("meta learning rate", -6, 0),
        "clip": _choice("clip the gradient's norm to", _CLIPS),
    }


def _choice(name: str, options: Mapping[str, Any]) -> ipywidgets.Dropdown:
    return ipywidgets.Dropdown(options=list(options.items()), description=name, **_SHAPE)


def _power(name: str, low: int, high: int) -> ipywidgets.FloatLogSlider:
    return ipywidgets.FloatLogSlider(
        value=10.0**low,
        min=low,
        max=high,
        step=0.05,
        description=name,
        readout_format=".2g",
        continuous_update=False,
        **_SHAPE,
    )


def fields(name: str, value: Any, trainer: Trainer) -> dict[str, float | None]:
    """What turning a knob to a value changes of the recipe."""
    given = trainer.initial_recipe
    if name == "order":
        orders = {"recipe": given.second_order_from, "first": None, "second": 0.0}
        return {"second_order_from": orders[value]}
    if name == "msl":
        if not value:
            return {"msl_epochs": 0.0, "msl_floor": 0.0}
        # The recipe's own, where that is not over yet; else for the rest of the training.
        own = given.msl_epochs > trainer.epoch
        return {"msl_epochs": given.msl_epochs if own else float(given.epochs)}
    if name == "clip":
        own = value == "recipe"
        return {
            "clip_norm": given.clip_norm if own else value,
            "clip_value": given.clip_value if own else None,
        }
    return {name: value}


def positions(trainer: Trainer) -> dict[str, Any]:
    """Where the knobs stand under the recipe in force, at this epoch."""
    recipe, given = trainer.recipe, trainer.initial_recipe
    orders = {given.second_order_from: "recipe"}
    order = orders.get(recipe.second_order_from) or (
        "first" if recipe.second_order_from is None else "second"
    )
    same = (recipe.clip_norm, recipe.clip_value) == (given.clip_norm, given.clip_value)
    clip = "recipe" if same or recipe.clip_norm not in _CLIPS.values() else recipe.clip_norm
    return {
        "order": order,
        "msl": recipe.msl_epochs > trainer.epoch,
        "inner_rate": recipe.inner_rate,
        "outer_rate": recipe.outer_rate,
        "clip": clip,
    }


# Recipes to choose before the start

_METHOD = (
    *("second_order_from", "inner_rule", "msl_epochs", "norm_statistics", "norm_weights"),
    "outer_rate_min",
)


def method(recipe: Recipe, name: str) -> Recipe:
    """The method of `RECIPES[name]`, for the rest as `recipe` is.

    Epochs of its schedules are the same part of all epochs, its last meta learning rate the same
    part of the first, as there.
    """
    model = RECIPES[name]
    changes = {field: getattr(model, field) for field in _METHOD}
    for field in ("second_order_from", "msl_epochs"):
        changes[field] = changes[field] and changes[field] * recipe.epochs / model.epochs
    rate = changes["outer_rate_min"]
    changes["outer_rate_min"] = rate and rate * recipe.outer_rate / model.outer_rate
    return recipe.with_(msl_floor=0.0, **changes)


def with_method(trainer: Trainer, name: str) -> Trainer:
    """A trainer of the same with another method, its tasks from the first one on."""
    if not name:
        return trainer
    folder = trainer.directory
    return Trainer(
        method(trainer.initial_recipe, name),
        trainer.train.with_seed(trainer.train.seed),
        trainer.validation,
        None if folder is None else folder.with_name(f"{folder.name}-{name}"),
        trainer.diagnose_every,
    )
