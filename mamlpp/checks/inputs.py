"""The inputs of a check: the same for the same seed, whatever the notebook has set."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn


def check(run: Callable[..., None]) -> Callable[..., None]:
    """Make `run` a check: it sees PyTorch's own settings, and leaves those of the notebook."""

    @wraps(run)
    def checked(*arguments: Any, **options: Any) -> None:
        with default_settings():
            run(*arguments, **options)

    return checked


@contextmanager
def default_settings() -> Iterator[None]:
    """PyTorch as it is after its import: float32, the CPU, gradients, and a seed of its own."""
    dtype, on_cpu = torch.get_default_dtype(), torch.get_default_device().type == "cpu"
    with (
        torch.random.fork_rng(devices=[]),
        nullcontext() if on_cpu else torch.device("cpu"),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        torch.set_default_dtype(torch.float32)
        torch.manual_seed(0)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)


def generator(seed: int) -> torch.Generator:
    """Where a check's random inputs come from."""
    return torch.Generator("cpu").manual_seed(seed)


def normal(
    draw: torch.Generator,
    *shape: int,
    dtype: torch.dtype = torch.float64,
    requires_grad: bool = False,
) -> Tensor:
    """Normal random numbers, rounded to two decimals."""
    x = torch.randn(*shape, generator=draw, dtype=torch.float64, device="cpu")
    return x.mul(100).round().div(100).to(dtype).requires_grad_(requires_grad)


def uniform(draw: torch.Generator, low: float, high: float) -> float:
    """A number between the two, rounded to two decimals."""
    share = torch.rand((), generator=draw, dtype=torch.float64, device="cpu").item()
    return round(low + (high - low) * share, 2)


def pick(draw: torch.Generator, choices: Sequence[Any]) -> Any:
    """One of the choices at random."""
    return choices[int(torch.randint(len(choices), (), generator=draw, device="cpu"))]


def tensors_in(value: Any, place: str) -> dict[str, Tensor]:
    """All tensors in nested dicts, lists and modules, by the place where each is found."""
    if isinstance(value, Tensor):
        return {place: value}
    if isinstance(value, nn.Module):
        named = dict(value.named_parameters()) | dict(value.named_buffers())
        return {f"{place}.{name}": tensor for name, tensor in named.items()}
    parts: dict[str, Any] = {}
    if isinstance(value, Mapping):
        parts = {f"{place}[{name!r}]": value[name] for name in sorted(value, key=str)}
    elif hasattr(value, "_fields"):
        parts = {f"{place}.{name}": getattr(value, name) for name in value._fields}
    elif isinstance(value, list | tuple):
        parts = {f"{place}[{i}]": part for i, part in enumerate(value)}
    return {k: t for name, part in parts.items() for k, t in tensors_in(part, name).items()}
