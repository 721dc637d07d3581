"""The knobs of a live training, and the recipe changes that they stand for."""

from collections.abc import Mapping
from typing import Any

import ipywidgets  # type: ignore[import-untyped]

from mamlpp.errors import InputError
from mamlpp.recipe import Recipe
from mamlpp.recipes import RECIPES
from mamlpp.run.run import is_kits_own
from mamlpp.run.trainer import Trainer

# Every control has a visible description, which is also the only name a screen reader gets.

_LAYOUT = {
    "style": {"description_width": "initial"},
    "layout": {"width": "340px", "margin": "2px 12px 2px 0"},
}
_ORDERS = {"as in the recipe": "recipe", "first order": "first", "second order": "second"}
_CLIPS = {"as in the recipe": "recipe", "none": None, **{f"{x:g}": x for x in (0.1, 1, 10, 100)}}


def make_knobs() -> dict[str, ipywidgets.Widget]:
    """Create all knobs, by name."""
    recipes = [("as given", ""), *((name, name) for name in RECIPES)]
    return {
        "recipe": ipywidgets.Dropdown(options=recipes, description="recipe", **_LAYOUT),
        "order": _dropdown("derivative order", _ORDERS),
        "msl": ipywidgets.Checkbox(description="multi-step loss", indent=False, **_LAYOUT),
        "inner_rate": _log_slider("inner learning rate", -4, 1),
        "outer_rate": _log_slider("meta learning rate", -6, 0),
        "clip": _dropdown("clip gradient norm to", _CLIPS),
    }


def _dropdown(label: str, options: Mapping[str, Any]) -> ipywidgets.Dropdown:
    return ipywidgets.Dropdown(options=list(options.items()), description=label, **_LAYOUT)


def _log_slider(label: str, low: int, high: int) -> ipywidgets.FloatLogSlider:
    """A slider from `10**low` to `10**high`."""
    slider = {"value": 10.0**low, "min": low, "max": high, "step": 0.05, "readout_format": ".2g"}
    return ipywidgets.FloatLogSlider(
        description=label, continuous_update=False, **slider, **_LAYOUT
    )


def recipe_changes(name: str, value: Any, trainer: Trainer) -> dict[str, float | None]:
    """Return the recipe fields, and their new values, that turning a knob to `value` sets."""
    given = trainer.initial_recipe
    if name == "order":
        orders = {"recipe": given.second_order_from, "first": None, "second": 0.0}
        return {"second_order_from": orders[value]}
    if name == "msl":
        if not value:
            return {"msl_epochs": 0.0, "msl_floor": 0.0}
        # Follow the given recipe while its annealing lasts; after that, anneal until the end.
        ongoing = given.msl_epochs > trainer.epoch
        return {"msl_epochs": given.msl_epochs if ongoing else float(given.epochs)}
    if name == "clip":
        as_given = value == "recipe"
        return {
            "clip_norm": given.clip_norm if as_given else value,
            "clip_value": given.clip_value if as_given else None,
        }
    return {name: value}


def knob_values(trainer: Trainer) -> dict[str, Any]:
    """Return the knob values that match the current recipe and epoch."""
    recipe, given = trainer.recipe, trainer.initial_recipe
    orders = {given.second_order_from: "recipe"}
    order = orders.get(recipe.second_order_from) or (
        "first" if recipe.second_order_from is None else "second"
    )
    as_given = (recipe.clip_norm, recipe.clip_value) == (given.clip_norm, given.clip_value)
    clip = "recipe" if as_given or recipe.clip_norm not in _CLIPS.values() else recipe.clip_norm
    return {
        "order": order,
        "msl": recipe.msl_epochs > trainer.epoch,
        "inner_rate": recipe.inner_rate,
        "outer_rate": recipe.outer_rate,
        "clip": clip,
    }


# Selecting a recipe before the start

_METHOD_FIELDS = (
    *("second_order_from", "inner_rule", "msl_epochs", "norm_statistics", "norm_weights"),
    "outer_rate_min",
)


def with_method(recipe: Recipe, name: str) -> Recipe:
    """Return `recipe` with the method fields of `RECIPES[name]`.

    Schedule epochs scale with the number of epochs, and the final outer rate with the initial one.
    """
    source = RECIPES[name]
    changes = {field: getattr(source, field) for field in _METHOD_FIELDS}
    for field in ("second_order_from", "msl_epochs"):
        changes[field] = changes[field] and changes[field] * recipe.epochs / source.epochs
    rate = changes["outer_rate_min"]
    changes["outer_rate_min"] = rate and rate * recipe.outer_rate / source.outer_rate
    return recipe.with_(msl_floor=0.0, **changes)


def trainer_with_method(trainer: Trainer, name: str) -> Trainer:
    """Return an untrained copy of `trainer` with another method and the same tasks.

    An empty name returns the trainer itself. Raises `InputError` for a learner or an optimizer of
    one's own, of which there is no untrained copy.
    """
    if not name:
        return trainer
    if not is_kits_own(trainer.used, trainer.initial_recipe):
        raise InputError(
            "another recipe can be chosen here for the kit's own learner and optimizer alone; for "
            "yours, make another one: Trainer(recipe, …, learner=…, optimizer=…)"
        )
    folder = trainer.directory
    return Trainer(
        with_method(trainer.initial_recipe, name),
        trainer.train,
        trainer.validation,
        None if folder is None else folder.with_name(f"{folder.name}-{name}"),
        trainer.diagnose_every,
        callbacks=trainer.callbacks,
        patience=trainer.patience,
    )
