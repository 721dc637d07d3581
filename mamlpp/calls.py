"""A network, called with other weights than its own."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call


def call(
    network: nn.Module, weights: Mapping[str, Tensor], x: Any, options: Mapping[str, Any],
    method: Callable[..., Any],
) -> Any:  # fmt: skip
    """What `network` returns for `x` with these weights, and with those `options` that `method`
    has parameters for.
    """
    accepted = inspect.signature(method).parameters.values()
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted):
        options = {p.name: options[p.name] for p in accepted if p.name in options}
    names = _every_name(network, weights)
    return functional_call(network, names, (x,), dict(options), tie_weights=False)


def _every_name(network: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights, tied ones under each of their names, but each module once.

    `functional_call` itself ties the names of a module that is there twice too, and then leaves it
    with the weights that it was called with.
    """
    aliases: dict[int, list[str]] = {}
    for path, module in network.named_modules():
        for name, parameter in module._parameters.items():
            aliases.setdefault(id(parameter), []).append(f"{path}.{name}" if path else name)
    tied = [names for names in aliases.values() if len(names) > 1]
    given = {name: weights[names[0]] for names in tied if names[0] in weights for name in names}
    return {**weights, **given}
