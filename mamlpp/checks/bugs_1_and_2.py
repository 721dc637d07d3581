"""The programs 1 and 2 of the bug hunt: each broken, repaired, and repaired in wrong ways."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mamlpp.checks.bug import Bug
from mamlpp.checks.compare import Raised, Words
from mamlpp.checks.core import Function, Wrong, is_stub
from mamlpp.checks.inputs import generator, normal

# 1: a gradient that is a constant.

Loss = Callable[[Tensor], Tensor]


def _inner_loop(
    create_graph: Callable[[int, int], bool] = lambda i, steps: True,
    step: Callable[[Tensor, Tensor, float], Tensor] = lambda theta, g, rate: theta - rate * g,
    more: int = 0,
) -> Function:
    def adapted(loss: Loss, theta: Tensor, rate: float, steps: int) -> Tensor:
        for i in range(steps + more):
            [gradient] = torch.autograd.grad(
                loss(theta), theta, create_graph=create_graph(i, steps), retain_graph=True
            )
            theta = step(theta, gradient, rate)
        return theta

    return adapted


def _one_gradient(loss: Loss, theta: Tensor, rate: float, steps: int) -> Tensor:
    [gradient] = torch.autograd.grad(loss(theta), theta, create_graph=True)
    return theta - steps * rate * gradient


def _one_step(loss: Loss, theta: Tensor, rate: float, steps: int) -> Tensor:
    return _inner_loop()(loss, theta, rate, 1)


def quartic(theta: Tensor) -> Tensor:
    """A loss whose second derivative is not the same everywhere."""
    return (theta**4 / 4 + theta**2).sum()


def _descents(seed: int) -> list[Callable[[], tuple[Any, ...]]]:
    def inputs(length: int, rate: float, steps: int, dtype: torch.dtype) -> tuple[Any, ...]:
        theta = normal(generator(seed), length, dtype=dtype, requires_grad=True)
        return quartic, theta, rate, steps

    kinds = ((2, 0.1, 2, torch.float64), (4, 0.05, 3, torch.float32), (1, 0.07, 1, torch.float64))
    return [partial(inputs, *kind) for kind in kinds]


FIRST_ORDER = Bug(
    kind="first order",
    broken=_inner_loop(create_graph=lambda i, steps: False),
    right=_inner_loop(),
    defect="the meta-gradient is still that of first order (retain_graph alone does not help)",
    test_hint="differentiate the result with respect to θ, for a loss with curvature",
    trials=_descents,
    mistakes={
        "the result has no graph back to θ any more: do not detach it": _inner_loop(
            step=lambda theta, g, rate: (theta - rate * g).detach().requires_grad_()
        ),
        "θ entered the step as a constant (θ.detach()): both θ and its gradient must stay in the "
        "graph": _inner_loop(step=lambda theta, g, rate: theta.detach() - rate * g),
        "only the last step keeps its graph: pass create_graph=True in every step": _inner_loop(
            create_graph=lambda i, steps: i == steps - 1
        ),
        "only the first step keeps its graph: pass create_graph=True in every step": _inner_loop(
            create_graph=lambda i, steps: i == 0
        ),
        "only the steps before the last keep their graph: pass create_graph=True in every step": (
            _inner_loop(create_graph=lambda i, steps: i < steps - 1)
        ),
        "each step needs the gradient at its own θ, not the first one again": _one_gradient,
        "it returns inside the loop: that is a single step": _one_step,
        "it takes one step more than `steps`": _inner_loop(more=1),
        "it takes one step less than `steps`": _inner_loop(more=-1),
        "the step goes up the loss: subtract": _inner_loop(
            step=lambda theta, g, rate: theta + rate * g
        ),
        "the rate is missing": _inner_loop(step=lambda theta, g, rate: theta - g),
    },
)


# 2: a setting that nobody reads.

_DEFAULTS: dict[str, float] = {"inner_steps": 5, "inner_rate": 0.1, "outer_rate": 0.001}
Config = Mapping[str, float]


def _read(config: Config) -> dict[str, float]:
    return {name: config.get(name, default) for name, default in _DEFAULTS.items()}


def _reading(error: Callable[[list[str], Config], Exception | None]) -> Function:
    """Read a config, after raising what `error` makes of the unknown names and all of it."""

    def program(config: Config) -> dict[str, float]:
        unknown = [name for name in config if name not in _DEFAULTS]
        wrong = error(unknown, config)
        if wrong is not None:
            raise wrong
        return _read(config)

    return program


def _if_unknown(error: Callable[[list[str], Config], Exception]) -> Function:
    return _reading(lambda unknown, config: error(unknown, config) if unknown else None)


def _strictly(read: Callable[[Config], dict[str, float]]) -> Function:
    """Refuse unknown names as asked, and read the others in this way."""

    def program(config: Config) -> dict[str, float]:
        for name in config:
            if name not in _DEFAULTS:
                raise ValueError(f"there is no setting {name!r}")
        return read(config)

    return program


def _settings_or_error(program: Function, config: Config) -> Any:
    try:
        settings = program(config)
        return (
            Words("an error that is returned, not raised")
            if isinstance(settings, Exception)
            else settings
        )
    except Exception as error:
        if is_stub(error):
            raise
        cause = error.__cause__ if isinstance(error, Wrong) else error
        if cause is None:
            raise
        return _in_words(cause, config)


def _in_words(error: BaseException, config: Config) -> Raised:
    """The error's type, and whether it names the unknown settings without naming the others."""
    unknown = [name for name in config if name not in _DEFAULTS]
    name = type(error).__name__ if not isinstance(error, ValueError) else "ValueError"
    article = "an" if name[0] in "AEIOU" else "a"
    said = str(error)
    named = [
        known for known in _DEFAULTS if known in said.replace(unknown[0] if unknown else "", "")
    ]
    lists_config = any(known in config for known in named) and len(named) < len(_DEFAULTS)
    if not unknown:
        return Raised(f"{article} {name}")
    if all(name in said for name in unknown) and not lists_config:
        return Raised(f"{article} {name} that names {unknown[0]!r}")
    return Raised(f"{article} {name} that does not say which setting is unknown")


UNREAD_SETTING = Bug(
    kind="unread setting",
    broken=_read,
    right=_strictly(_read),
    defect="an unknown name is still ignored: raise a ValueError that names it",
    test_hint="give it a name that it does not know, and assert that it raises a ValueError",
    trials=lambda seed: [
        ({"task_rate": 0.01},),
        ({"inner_steps": 3, "outer_rates": 0.5 + seed},),
        ({"inner_steps": 3, "outer_rate": 0.01},),
        ({},),
        ({"inner_rate ": 0.5},),
        ({"inner_rate": 0.5, "inner_steps": 1, "outer_rate": 0.0},),
    ],
    mistakes={
        "an unknown name now gets into the settings, where still nobody reads it": (
            lambda config: {**_read(config), **config}
        ),
        "settings that are left out have defaults: refuse only those that are unknown": _reading(
            lambda unknown, config: (
                ValueError(f"not all settings: {', '.join(unknown)}")
                if set(config) != set(_DEFAULTS)
                else None
            )
        ),
        "the error should name the setting that is unknown": _if_unknown(
            lambda unknown, config: ValueError("there is a wrong setting")
        ),
        "the error repeats the whole config: it should say which of the names is unknown": (
            _if_unknown(lambda unknown, config: ValueError(f"wrong: {dict(config)}"))
        ),
        "it raises a KeyError: the docstring asks for a ValueError": _if_unknown(
            lambda unknown, config: KeyError(unknown[0])
        ),
        "it uses `assert`, which raises an AssertionError: the docstring asks for a ValueError": (
            _if_unknown(lambda unknown, config: AssertionError(unknown[0]))
        ),
        "it raises a plain Exception: the docstring asks for a ValueError": _if_unknown(
            lambda unknown, config: Exception(unknown[0])
        ),
        "it raises a TypeError: the docstring asks for a ValueError": _if_unknown(
            lambda unknown, config: TypeError(unknown[0])
        ),
        "it returns the error: write `raise`, not `return`": lambda config: (
            ValueError("unknown") if set(config) - set(_DEFAULTS) else _read(config)
        ),
        "the settings that are given are ignored: only the defaults come back": _strictly(
            lambda config: dict(_DEFAULTS)
        ),
        "the defaults of the settings that are left out are missing": _strictly(dict),
    },
    observe=_settings_or_error,
    witness=_settings_or_error,
)
