"""What is trained: one frozen dataclass holds everything that defines a training but the data.

`RECIPES` has them by name; `recipe.with_(inner_steps=3)` changes a field. Sources: [F] Finn,
Abbeel, Levine, "Model-agnostic meta-learning" (ICML 2017); [A] Antoniou, Edwards, Storkey, "How to
train your MAML" (ICLR 2019), the published configurations included.
"""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from mamlpp.errors import InputError


@dataclass(frozen=True)
class Recipe:
    """Everything that defines a training but the data. Defaults are the paper's for Omniglot."""

    filters: int = 64
    """Feature maps of each convolution: 64 for Omniglot, 48 for Mini-ImageNet [A]."""
    pooling: Literal["max", "stride"] = "max"
    """How a block halves its maps: 2x2 max-pooling, or strides of 2, the unstable variant [A]."""
    query_statistics: Literal["query", "support"] = "query"
    """Whose batch statistics normalise queries in training: their own [F, A], or the support's."""

    inner_steps: int = 5
    """Gradient steps on the support set: the N of the paper [A]."""
    inner_rate: float = 0.1
    """Learning rate of these steps, alpha: 0.1 for Omniglot, 0.01 for Mini-ImageNet [A]."""
    second_order_from: float | None = 0.0
    """First epoch with second derivatives; 0: always, none: never (first-order MAML) [F]."""

    meta_batch: int = 16
    """Tasks a meta-step: 16 (1-shot) or 8 (5-shot) for Omniglot, 4 or 2 for Mini-ImageNet [A]."""
    outer_rate: float = 1e-3
    """Learning rate of the meta-optimizer, Adam: beta [A]."""
    epochs: int = 150
    """Length of the training; validated after each epoch [A]."""
    iterations_per_epoch: int = 500
    """Meta-steps an epoch [A]."""
    validation_tasks: int = 600
    """Tasks that each validation averages over [A]."""
    seed: int = 0
    """Seed of the initial weights; each sampler has its own."""

    def __post_init__(self) -> None:
        for name in _WHOLE:
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise InputError(f"{name} must be a whole number from 1 on, not {value!r}")
        for name in _POSITIVE:
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be positive, not {getattr(self, name)}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise InputError(
                    f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}"
                )
        if self.second_order_from is not None and not self.second_order_from >= 0:
            raise InputError(
                f"second_order_from must be an epoch from 0 on, or None for first order, "
                f"not {self.second_order_from}"
            )

    def with_(self, **changes: Any) -> "Recipe":
        """The same recipe with some fields changed; raises `InputError` for an unknown field."""
        known = [field.name for field in fields(self)]
        for name in changes:
            if name not in known:
                raise InputError(
                    f"a recipe has no field {name!r}; its fields are {', '.join(known)}"
                )
        return replace(self, **changes)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)


_WHOLE = (
    *("filters", "inner_steps", "meta_batch"),
    *("epochs", "iterations_per_epoch", "validation_tasks"),
)
_POSITIVE = ("inner_rate", "outer_rate")
_CHOICES = {"pooling": ("max", "stride"), "query_statistics": ("query", "support")}

RECIPES: dict[str, Recipe] = {
    "maml": Recipe(),
    "fomaml": Recipe(second_order_from=None),
}
