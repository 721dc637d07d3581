"""What `MetaLearner.adapt` returns: a network that has learned a task."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mamlpp.calls import call
from mamlpp.errors import InputError
from mamlpp.input_checks import as_images
from mamlpp.precision import full_precision


class _Features(nn.Module):
    """A module whose forward is the `features` of a network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *arguments: Any, **options: Any) -> Tensor:
        return self.network.features(*arguments, **options)  # type: ignore[operator]


@dataclass(frozen=True, eq=False)
class Classifier:
    """Maps images `[M, C, H, W]` to logits `[M, N]`, without a graph.

    `weights` are the adapted ones, by name, after `step` inner steps. It can be pickled: it holds
    its learner. With `checks`, arrays and lists serve too, and `InputError` says what is wrong.
    """

    learner: Any = field(repr=False)
    weights: dict[str, Tensor] = field(repr=False)
    step: int
    statistics: Any = field(default=None, repr=False)
    checks: bool = field(default=False, repr=False)

    @full_precision()
    @torch.no_grad()
    def __call__(self, images: Any) -> Tensor:
        """Logits `[M, N]`."""
        return self.learner(self.weights, self._images(images), self.step, **self._options())

    @full_precision()
    @torch.no_grad()
    def features(self, images: Any) -> Tensor:
        """What the head is given of each image, `[M, F]`.

        Raises `InputError` where the network has no method of this name.
        """
        network = self.learner.network
        if not hasattr(network, "features"):
            raise InputError(f"{type(network).__name__} has no method features; give it one")
        options, x = {"step": self.step} | self._options(), self._images(images)
        return call(_Features(network), self._named(), x, options, network.features)

    def _named(self) -> dict[str, Tensor]:
        return {f"network.{name}": weight for name, weight in self.weights.items()}

    def _images(self, images: Any) -> Tensor:
        return as_images(self.learner, "images", images, read=True) if self.checks else images

    def _options(self) -> dict[str, Any]:
        return {} if self.statistics is None else {"statistics": self.statistics}
