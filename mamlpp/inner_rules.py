"""The α of an inner step `θ' = θ − α ∇θ`: a number of its own for each step, layer or weight.

A rule is called with a weight's name and the step's number (from 0) and returns α. What it learns
are its parameters, moved by the outer loop like all others.
"""

import warnings
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from mamlpp.errors import InputWarning


class FixedRate(nn.Module):
    """One rate for all weights and steps: MAML (Finn et al. 2017, algorithm 1)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, name: str, step: int) -> float:
        """The same number always."""
        return self.rate


class LSLR(nn.Module):
    """A learned rate for each layer and step: `rates` `[L, S]` (Antoniou et al. 2019, section 4).

    A layer's weight and bias share one. More steps than were learned use the last step's rates,
    with a warning.
    """

    def __init__(self, names: Iterable[str], steps: int, rate: float) -> None:
        super().__init__()
        self.layers = list(dict.fromkeys(layer_of(name) for name in names))
        self.rates = nn.Parameter(torch.full((len(self.layers), steps), rate))

    def forward(self, name: str, step: int) -> Tensor:
        """A scalar."""
        layer = self.layers.index(layer_of(name))
        return self.rates[layer, learned_step(step, self.rates.shape[1])]


class MetaSGD(nn.Module):
    """A learned rate for each single weight, of any sign, at all steps (Li et al. 2017)."""

    def __init__(self, weights: Mapping[str, Tensor], rate: float) -> None:
        super().__init__()
        self.names = list(weights)
        self.rates = nn.ParameterList(torch.full_like(weight, rate) for weight in weights.values())

    def forward(self, name: str, step: int) -> Tensor:
        """As many numbers as the weight has."""
        return self.rates[self.names.index(name)]


def layer_of(name: str) -> str:
    """`"head"`, of `"head.weight"` and of `"head.bias"`."""
    return name.rpartition(".")[0]


def learned_step(step: int, learned: int) -> int:
    """Which of `learned` sets of values serves for `step`: beyond them the last, with a warning."""
    if step >= learned:
        warnings.warn(
            f"only {learned} steps were trained: the values of the last one serve for the others",
            InputWarning,
            stacklevel=2,
        )
    return min(step, learned - 1)
