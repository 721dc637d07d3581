"""What is trained: one frozen dataclass holds everything that defines a training but the data.

`RECIPES` has them by name; `recipe.with_(inner_steps=3)` changes a field. Sources: [F] Finn,
Abbeel, Levine, "Model-agnostic meta-learning" (ICML 2017); [A] Antoniou, Edwards, Storkey, "How to
train your MAML" (ICLR 2019), the published configurations included.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from mamlpp.input_checks import check_fields, check_recipe, whole_number
from mamlpp.naming import documented


@documented
@dataclass(frozen=True)
class Recipe:
    """Everything that defines a training but the data. Defaults are the paper's for Omniglot."""

    filters: int = 64
    """Filters of each convolution: 64 for Omniglot, 48 for Mini-ImageNet [A]."""
    pooling: Literal["max", "stride"] = "max"
    """How a block halves its maps: 2x2 max-pooling, or a stride of 2, the unstable variant [A]."""
    norm_statistics: Literal["batch", "shared", "per_step"] = "batch"
    """Running statistics to collect in training: none (batch statistics only) [F], one set shared
    by all steps, or one set for each step (BNRS) [A]. Evaluation says whether it reads them."""
    norm_weights: Literal["shared", "per_step"] = "shared"
    """Weights and biases of batch norm: shared by all inner steps [F], or one pair per step (BNWB)
    [A]."""
    query_statistics: Literal["query", "support"] = "query"
    """Which batch statistics normalise the query set in training: its own [F, A], or those of the
    support set."""

    inner_steps: int = 5
    """Gradient steps on the support set, the N of the paper [A]."""
    inner_rate: float = 0.1
    """Learning rate of these steps, alpha: 0.1 for Omniglot, 0.01 for Mini-ImageNet [A]."""
    inner_rule: Literal["fixed", "lslr", "meta-sgd"] = "fixed"
    """One alpha [F], one learned for each layer and step [A], or one learned for each weight."""
    second_order_from: float | None = 0.0
    """First epoch with second derivatives; 0: always, None: never (first-order MAML) [F]."""

    msl_epochs: float = 0.0
    """Epochs over which the multi-step loss becomes the final loss; 0: no multi-step loss [A]."""
    msl_floor: float = 0.0
    """Weight that every step but the last keeps after that, at most 1 / inner_steps."""

    meta_batch: int = 16
    """Tasks per meta-step: 16 (1-shot), 8 (5-shot) for Omniglot; 4, 2 for Mini-ImageNet [A]."""
    outer_rate: float | None = 1e-3
    """Learning rate of the meta-optimizer, Adam: beta [A]; None: what the optimizer has itself."""
    outer_rate_min: float | None = None
    """Cosine annealing of beta to this rate over all epochs (CA) [A]; None: beta stays [F]."""
    epochs: int = 150
    """Length of the training. Each epoch ends with a validation [A]."""
    iterations_per_epoch: int = 500
    """Meta-steps per epoch [A]."""
    validation_tasks: int = 600
    """Tasks per validation [A]."""
    clip_norm: float | None = None
    """Largest 2-norm of the meta-gradient: a longer one is scaled down to it; None: no limit."""
    clip_value: float | None = None
    """Largest absolute value in the meta-gradient: 10 for Mini-ImageNet [A]; None: no limit."""
    memory: Literal["store", "recompute", "auto"] = "store"
    """Store the graph of all inner steps; or recompute each step in the backward pass, which takes
    a fifth more time and the memory of one step; or choose by the memory that is free."""
    nonfinite: Literal["skip", "stop"] = "skip"
    """What to do at a meta-gradient that is not finite, which is never applied: skip the meta-step,
    or stop the training."""
    seed: int = 0
    """Seed of the initial weights. Each sampler has a seed of its own."""
    _milestones = tuple[str, ...]()

    def __post_init__(self) -> None:
        earlier = {"fast": "store", "lean": "recompute"}.get(self.memory, self.memory)
        object.__setattr__(self, "memory", earlier)  # The names in files of earlier versions.
        check_recipe(self)

    def with_(self, **changes: Any) -> "Recipe":
        """The same recipe with some fields changed; raises `InputError` for an unknown field.

        The epochs of MSL and DA in `RECIPES` move with `epochs`, until they are given themselves.
        """
        check_fields(self, changes)
        factor = whole_number("epochs", changes.get("epochs", self.epochs)) / self.epochs
        kept = [name for name in self._milestones if name not in changes]
        moved = {name: getattr(self, name) and getattr(self, name) * factor for name in kept}
        return with_milestones(replace(self, **moved, **changes), *kept)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)


def with_milestones(recipe: Recipe, *names: str) -> Recipe:
    """The recipe; these of its fields move with `epochs` from now on."""
    object.__setattr__(recipe, "_milestones", names)
    return recipe
