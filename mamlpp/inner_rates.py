"""The inner rule: what a step does with the gradient of a weight.

The simplest is the α of `θ' = θ − α ∇θ`: a function of the name of a weight and the number of the
step (from 0). One number for all, one for each layer and step, or one for each weight are below. A
rule with an `update` decides the whole step, and remembers what it returns (None at first):

    class Momentum:
        def update(self, name, weight, gradient, step, velocity):
            velocity = gradient if velocity is None else 0.9 * velocity + gradient
            return weight - 0.1 * velocity, velocity

    learner = MetaLearner(recipe, images.shape, ways=5, rule=lambda weights: Momentum())

Sign descent returns `weight - 0.01 * gradient.sign(), None`; weight decay `weight - 0.1 * (gradient
+ 0.01 * weight), None`. The outer loop moves the parameters of a rule that is a module, as below.
"""

import warnings
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from mamlpp.errors import InputWarning
from mamlpp.input_checks import one_rate, steps_of


class FixedRate(nn.Module):
    """One rate for all weights and steps: MAML (Finn et al. 2017, algorithm 1)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = one_rate(rate)

    def forward(self, name: str, step: int) -> float:
        """The rate."""
        return self.rate


class LSLR(nn.Module):
    """A learned rate for each layer and step: `rates` `[L, S]` (Antoniou et al. 2019, section 4).

    A layer's weight and bias share one. Steps after S use the last step's rates, with a warning.
    """

    def __init__(self, names: Iterable[str], steps: int, rate: float) -> None:
        super().__init__()
        self.layers = list(dict.fromkeys(layer_of(name) for name in names))
        self.rates = nn.Parameter(torch.full((len(self.layers), steps), one_rate(rate)))

    def forward(self, name: str, step: int) -> Tensor:
        """A scalar."""
        steps = steps_of(self.rates, len(self.layers))
        return self.rates[self.layers.index(layer_of(name)), learned_step(step, steps, steps)]


class MetaSGD(nn.Module):
    """A learned rate for each single weight, of any sign, for all steps (Li et al. 2017)."""

    def __init__(self, weights: Mapping[str, Tensor], rate: float) -> None:
        super().__init__()
        self.names = list(weights)
        self.rates = nn.ParameterList(torch.full_like(w, one_rate(rate)) for w in weights.values())

    def forward(self, name: str, step: int) -> Tensor:
        """A tensor of the weight's own shape."""
        return self.rates[self.names.index(name)]


def layer_of(name: str) -> str:
    """`"head"`, of `"head.weight"` and of `"head.bias"`; "network" of what is in no layer."""
    return name.rpartition(".")[0] or "network"


def learned_step(step: int, learned: int, trained: int) -> int:
    """Which of `learned` sets of values serves for `step`: the last for later ones; it warns."""
    if step >= learned:
        words = f"inner steps trained: {trained}; later ones use the values of the last one"
        warnings.warn(words, InputWarning, stacklevel=2)
    return min(step, learned - 1)
