"""Compare what a function returned with what was expected, and put both into words."""

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

TOLERANCES = {torch.float32: (1e-3, 1e-5), torch.float64: (1e-6, 1e-9)}
"""Relative and absolute, by the dtype of the expected tensor."""


class Words(str):
    """What is shown without quotation marks."""


class Raised(Words):
    """An error in place of a result, in words: `a ValueError that names 'task_rate'`."""


class Observed(dict[str, Any]):
    """What was seen of a program besides its result, by what it is called in messages."""


def same(found: Any, expected: Any) -> bool:
    """Whether two results agree up to rounding: numbers, tensors, and lists or dicts of them.

    Tensors must also agree in shape and dtype. A list may come as a tuple, and a number as a
    tensor without dimensions.
    """
    if isinstance(expected, bool | str | type(None)):
        return type(found) is type(expected) and found == expected
    if isinstance(expected, Real):
        return _is_number(found) and _close(float(found), float(expected))
    if isinstance(expected, Tensor):
        return _same_tensors(found, expected)
    if isinstance(expected, Mapping):
        if not isinstance(found, Mapping) or set(found) != set(expected):
            return False
        return all(same(found[name], expected[name]) for name in expected)
    if isinstance(expected, list | tuple):
        if not isinstance(found, list | tuple) or len(found) != len(expected):
            return False
        return all(map(same, found, expected))
    return found is expected


def _close(found: float, expected: float) -> bool:
    both_nan = math.isnan(found) and math.isnan(expected)
    return both_nan or math.isclose(found, expected, rel_tol=1e-6, abs_tol=1e-9)


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.ndim == 0 and value.dtype != torch.bool
    return isinstance(value, Real) and not isinstance(value, bool)


def _same_tensors(found: Any, expected: Tensor) -> bool:
    if not isinstance(found, Tensor):
        return False
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    return bool(_close_entries(found, expected).all())


def _close_entries(found: Tensor, expected: Tensor) -> Tensor:
    rtol, atol = TOLERANCES.get(expected.dtype, (0.0, 0.0))
    a, b = found.detach().double(), expected.detach().double()
    return torch.isclose(a, b, rtol=rtol, atol=atol, equal_nan=True)


def first_difference(found: Any, expected: Any, place: str = "") -> tuple[str, Any, Any]:
    """Where two results first differ, and what stands there: (place, found, expected).

    The place reads like Python: `['head.bias'][2]`; it is empty where the results differ as a
    whole, in kind, length, shape or dtype.
    """
    if other_kind(found, expected) or different_size(found, expected):
        return place, found, expected
    if isinstance(expected, Mapping):
        name = next(n for n in expected if n in found and not same(found[n], expected[n]))
        step = name if isinstance(expected, Observed) else f"{place}[{name!r}]"
        return first_difference(found[name], expected[name], step)
    if isinstance(expected, list | tuple):
        pairs = zip(found, expected, strict=True)
        i = next(i for i, pair in enumerate(pairs) if not same(*pair))
        return first_difference(found[i], expected[i], f"{place}[{i}]")
    if isinstance(expected, Tensor) and expected.ndim:
        index = (~_close_entries(found, expected)).nonzero()[0].tolist()
        found, expected = (t.detach()[tuple(index)].item() for t in (found, expected))
        return f"{place}[{', '.join(map(str, index))}]", found, expected
    return place, found, expected


def in_words(found: Any, expected: Any) -> tuple[str, str]:
    """Two values that differ, with as many digits as it takes to see that they do."""
    if sizes := different_size(found, expected):
        return sizes
    if other_kind(found, expected):
        words = text(found)
        asked = text(expected) if isinstance(expected, Raised) else kind(expected)
        plain = words.startswith(("a ", "an ")) or found is None or isinstance(found, bool)
        return words if plain else f"{kind(found)}, {words}", asked
    for digits in (4, 6, 9, 17):
        one, other = text(found, digits), text(expected, digits)
        if one != other:
            break
    return one, other


def other_kind(found: Any, expected: Any) -> bool:
    """Whether the two are of different kinds; a tensor of one number may stand for a number."""
    if kind(expected) == "a number" and _is_number(found):
        return False
    return kind(found) != kind(expected)


def kind(value: Any) -> str:
    """`a list`, `a number` and the like."""
    if isinstance(value, Raised):
        return "an error"
    if value is None:
        return "None"
    if isinstance(value, Mapping):
        return "a dict"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, Tensor):
        return "a tensor"
    if _is_number(value):
        return "a number"
    name = type(value).__name__
    names = {bool: "True or False", str: "a string", Words: "a string"}
    return names.get(type(value), f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}")


def different_size(found: Any, expected: Any) -> tuple[str, str] | None:
    """Two values of a kind that differ in names, length, shape or dtype, in words."""
    if other_kind(found, expected):
        return None
    mapping = isinstance(expected, Mapping) and not isinstance(expected, Observed)
    if mapping and set(found) != set(expected):
        return (
            f"a dict with the names {sorted(map(str, found))}",
            f"the names {sorted(map(str, expected))}",
        )
    if isinstance(expected, list | tuple) and len(found) != len(expected):
        return f"a list of length {len(found)}", f"length {len(expected)}"
    if isinstance(expected, Tensor):
        if found.shape != expected.shape:
            return _shape_text(found), f"shape {list(expected.shape)}"
        if found.dtype != expected.dtype:
            return f"a {_dtype(found)} tensor", f"{_dtype(expected)}, as the inputs are"
    return None


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def text(value: Any, digits: int = 4) -> str:
    """A value in a few characters: itself where it is short, otherwise what it is."""
    if isinstance(value, Words):
        return str(value)
    if isinstance(value, bool | str | int | type(None)):
        return repr(value)
    if _is_number(value):
        value = value.detach() if isinstance(value, Tensor) else value
        number = f"{float(value):.{digits}g}"
        return f"tensor({number})" if isinstance(value, Tensor) else number
    if isinstance(value, Tensor):
        short = value.ndim in (1, 2) and value.numel() <= 6
        return f"tensor({text(value.tolist(), digits)})" if short else _shape_text(value)
    if isinstance(value, Mapping):
        parts = [f"{name!r}: {text(part, digits)}" for name, part in value.items()]
        return _short("{%s}", parts, f"a dict of {_count(list(value.values()))}")
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        parts = [text(part, digits) for part in value]
        comma = "," if len(value) == 1 else ""
        brackets = f"(%s{comma})" if isinstance(value, tuple) else "[%s]"
        return _short(brackets, parts, f"a list of {_count(value)}")
    return getattr(value, "__name__", None) or f"a {type(value).__name__}"


def _shape_text(tensor: Tensor) -> str:
    return f"a tensor of shape {list(tensor.shape)}"


def _count(parts: Sequence[Any]) -> str:
    """`3 tensors`."""
    names = {kind(part).removeprefix("a ") for part in parts}
    name = names.pop() if len(names) == 1 else "value"
    return f"{len(parts)} {name}{'' if len(parts) == 1 else 's'}"


def _short(brackets: str, parts: list[str], otherwise: str) -> str:
    content = ", ".join(parts)
    return brackets % content if len(content) <= 80 else otherwise
