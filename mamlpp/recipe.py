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
    norm_statistics: Literal["batch", "shared", "per_step"] = "batch"
    """What batch norm reads at evaluation: batch statistics [F], or running ones (BNRS) [A]."""
    norm_weights: Literal["shared", "per_step"] = "shared"
    """Weight and bias of batch norm: one pair for all inner steps [F], or one each: BNWB [A]."""
    query_statistics: Literal["query", "support"] = "query"
    """Whose batch statistics normalise queries in training: their own [F, A], or the support's."""

    inner_steps: int = 5
    """Gradient steps on the support set: the N of the paper [A]."""
    inner_rate: float = 0.1
    """Learning rate of these steps, alpha: 0.1 for Omniglot, 0.01 for Mini-ImageNet [A]."""
    inner_rule: Literal["fixed", "lslr", "meta-sgd"] = "fixed"
    """One alpha [F], one learned for each layer and step [A], or one learned for each weight."""
    second_order_from: float | None = 0.0
    """First epoch with second derivatives; 0: always, None: never (first-order MAML) [F]."""

    msl_epochs: float = 0.0
    """Epochs in which the multi-step loss turns into the final loss; 0: no multi-step loss [A]."""
    msl_floor: float = 0.0
    """What each step but the last still counts after that, at most 1 / inner_steps."""

    meta_batch: int = 16
    """Tasks a meta-step: 16 (1-shot) or 8 (5-shot) for Omniglot, 4 or 2 for Mini-ImageNet [A]."""
    outer_rate: float = 1e-3
    """Learning rate of the meta-optimizer, Adam: beta [A]."""
    outer_rate_min: float | None = None
    """Cosine annealing of beta to this rate over all epochs [A]; None: beta stays [F]."""
    epochs: int = 150
    """Length of the training; validated after each epoch [A]."""
    iterations_per_epoch: int = 500
    """Meta-steps an epoch [A]."""
    validation_tasks: int = 600
    """Tasks that each validation averages over [A]."""
    clip_norm: float | None = None
    """Longest meta-gradient: a longer one is scaled down to this 2-norm; None: any length."""
    clip_value: float | None = None
    """Largest number in a meta-gradient, of either sign: 10 for Mini-ImageNet [A]; None: any."""
    memory: Literal["fast", "lean", "auto"] = "fast"
    """Keep the graph of all inner steps; or of one at a time, a fifth slower; or what there is room
    for."""
    nonfinite: Literal["skip", "stop"] = "skip"
    """What a meta-gradient that is not finite, never applied, does to the training."""
    seed: int = 0
    """Seed of the initial weights; each sampler has its own."""

    def __post_init__(self) -> None:
        for name in _WHOLE:
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise InputError(f"{name} must be a whole number from 1 on, not {value!r}")
        if self.validation_tasks < 2:
            raise InputError(
                f"validation_tasks must be 2 or more, for an interval over them, "
                f"not {self.validation_tasks}"
            )
        for name in _POSITIVE:
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be positive, not {getattr(self, name)}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise InputError(
                    f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}"
                )
        for name in _NOT_NEGATIVE:
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise InputError(f"{name} must be 0 or more, not {value}")
        for name in _POSITIVE_OR_NONE:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"{name} must be positive or None, not {value}")
        if self.clip_norm is not None and self.clip_value is not None:
            raise InputError("a meta-gradient is clipped by clip_norm or by clip_value: give one")
        if self.msl_floor > 1 / self.inner_steps:
            raise InputError(
                f"msl_floor {self.msl_floor} is more than 1 / inner_steps, what each step counts "
                f"at first; choose at most {1 / self.inner_steps:g}"
            )
        if self.msl_floor and not self.msl_epochs:
            raise InputError("msl_floor acts only with a multi-step loss: give msl_epochs too")
        if self.outer_rate_min is not None and self.outer_rate_min > self.outer_rate:
            raise InputError(
                f"outer_rate_min {self.outer_rate_min} is above outer_rate {self.outer_rate}, "
                f"but the rate is annealed down to it"
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


_NOT_NEGATIVE = ("second_order_from", "msl_epochs", "msl_floor", "outer_rate_min")
_WHOLE = (
    *("filters", "inner_steps", "meta_batch"),
    *("epochs", "iterations_per_epoch", "validation_tasks"),
)
_POSITIVE = ("inner_rate", "outer_rate")
_POSITIVE_OR_NONE = ("clip_norm", "clip_value")
_CHOICES = {
    "pooling": ("max", "stride"),
    "norm_statistics": ("batch", "shared", "per_step"),
    "norm_weights": ("shared", "per_step"),
    "query_statistics": ("query", "support"),
    "inner_rule": ("fixed", "lslr", "meta-sgd"),
    "memory": ("fast", "lean", "auto"),
    "nonfinite": ("skip", "stop"),
}

# The improvements, each alone [A, section 4 and 5]: the names are those of the paper's table.
_IMPROVEMENTS: dict[str, dict[str, Any]] = {
    "msl": {"msl_epochs": 15.0},
    "da": {"second_order_from": 50.0},
    "bnrs+bnwb": {"norm_statistics": "per_step", "norm_weights": "per_step"},
    "lslr": {"inner_rule": "lslr"},
    "ca": {"outer_rate_min": 1e-5},
}

RECIPES: dict[str, Recipe] = {
    "maml": Recipe(),
    "fomaml": Recipe(second_order_from=None),
    "meta-sgd": Recipe(inner_rule="meta-sgd"),
    **{f"maml+{name}": Recipe(**fields) for name, fields in _IMPROVEMENTS.items()},
    "maml++": Recipe(**{k: v for fields in _IMPROVEMENTS.values() for k, v in fields.items()}),
}
