"""The recipes by name: MAML, each improvement alone, MAML++, and two that suit a laptop.

[F] and [A] are the sources that `recipe.py` names. `RECIPES["maml++"].with_(epochs=5)` keeps the
proportions of the schedules.
"""

from typing import Any

from mamlpp.naming import Named
from mamlpp.recipe import Recipe, with_milestones

# The improvements, each alone [A, section 4 and 5]: the names are those of the paper's table.
_IMPROVEMENTS: dict[str, dict[str, Any]] = {
    "msl": {"msl_epochs": 15.0},
    "da": {"second_order_from": 50.0},
    "bnrs+bnwb": {"norm_statistics": "per_step", "norm_weights": "per_step"},
    "lslr": {"inner_rule": "lslr"},
    "ca": {"outer_rate_min": 1e-5},
}

# For a laptop: smaller, with a larger outer rate, and done after 1,500 meta-steps. The sweep
# sweeps/quick.toml sets it beside one change of it at a time.
_QUICK: dict[str, Any] = {
    "filters": 32, "inner_steps": 2, "outer_rate": 5e-3, "meta_batch": 4, "epochs": 10,
    "iterations_per_epoch": 150, "validation_tasks": 100,
}  # fmt: skip
_ALL = {k: v for fields in _IMPROVEMENTS.values() for k, v in fields.items()}
_FIELDS: dict[str, dict[str, Any]] = {
    "maml": {},
    "fomaml": {"second_order_from": None},
    "meta-sgd": {"inner_rule": "meta-sgd"},
    **{f"maml+{name}": fields for name, fields in _IMPROVEMENTS.items()},
    "maml++": _ALL,
    "maml-quick": _QUICK,
    "maml++-quick": _ALL | _QUICK | {"msl_epochs": 3.0, "second_order_from": 3.0},
}
RECIPES: dict[str, Recipe] = Named(
    (name, with_milestones(Recipe(**fields), "msl_epochs", "second_order_from"))
    for name, fields in _FIELDS.items()
)
