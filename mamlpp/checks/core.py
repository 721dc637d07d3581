"""What all checks share: try a function, and find the sentence for what is wrong with it."""

import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., Any]

# What PyTorch says, and what it means in an exercise.
_TORCH_ERRORS = {
    "a leaf Variable that requires grad is being used in an in-place": (
        "it writes into a weight that it was given: compute a new tensor instead of changing one"
    ),
    "backward through the graph a second time": (
        "the graph was thrown away by the first backward pass: ask for all gradients in one call, "
        "or with retain_graph=True"
    ),
    "does not require grad and does not have a grad_fn": (
        "a gradient was asked of something that has no graph: was it detached, or computed under "
        "no_grad?"
    ),
    "appears to not have been used in the graph": (
        "a gradient was asked with respect to tensors that the loss was not computed from"
    ),
}


class Wrong(AssertionError):
    """An answer is wrong. The message is one sentence that names the likely mistake."""

    def _render_traceback_(self) -> list[str]:
        """What Jupyter shows in place of a traceback: the sentence, and the student's own line."""
        lines = [f"Wrong: {self}"]
        if self.__cause__ is not None:
            frames = traceback.extract_tb(self.__cause__.__traceback__)
            own = [frame for frame in frames if "ipykernel" in frame.filename]
            lines += [
                f"    line {frame.lineno} of {frame.name}: {frame.line}" for frame in own[-1:]
            ]
        return lines


def name_of(function: Function) -> str:
    """How messages call the student's function."""
    return getattr(function, "__name__", "your function")


def attempt(function: Function, *inputs: Any) -> Any:
    """What the student's function gives for `inputs`.

    Raises `Wrong` where it stops with an error, changes an input, or returns nothing. A
    NotImplementedError passes through: it means that there is no answer yet.
    """
    before = _copy(inputs)
    try:
        found = function(*inputs)
    except (NotImplementedError, Wrong):
        raise
    except Exception as error:
        raise Wrong(f"{name_of(function)} stopped: {_explain(error)}") from error
    if not same(inputs, before):
        raise Wrong(
            f"{name_of(function)} changed what it was given: return new values instead of writing "
            f"into the old ones"
        )
    if found is None:
        raise Wrong(f"{name_of(function)} returned None: does it end with `return`?")
    return found


def judge(
    function: Function,
    found: Any,
    expected: Any,
    mistakes: Mapping[str, Any],
    otherwise: str | None = None,
) -> None:
    """Raise `Wrong` unless `found` is `expected`.

    `mistakes` has what each known mistake computes, by the sentence that names it; `otherwise` is
    the sentence for all others, by default how the two results differ.
    """
    if same(found, expected):
        return
    for sentence, wrong in mistakes.items():
        if same(found, wrong):
            raise Wrong(f"{name_of(function)}: {sentence}")
    raise Wrong(f"{name_of(function)}: {otherwise or difference(found, expected)}")


def judge_trials(
    function: Function,
    trials: Sequence[tuple[Any, ...]],
    right: Function,
    mistakes: Mapping[str, Function],
    otherwise: Callable[[tuple[Any, ...], Any], str | None] = lambda trial, found: None,
) -> None:
    """Raise `Wrong` unless the student's function agrees with `right` on every trial's inputs.

    A mistake is a function too, and is named if it explains what was found on all trials. If none
    does, `otherwise` may make a sentence of the first trial that differs and its result.
    """
    found = [plain(attempt(function, *trial)) for trial in trials]
    expected = [plain(right(*trial)) for trial in trials]
    if same(found, expected):
        return
    for sentence, wrong in mistakes.items():
        if all(same(f, plain(wrong(*trial))) for f, trial in zip(found, trials, strict=True)):
            raise Wrong(f"{name_of(function)}: {sentence}")
    for trial, f, e in zip(trials, found, expected, strict=True):
        judge(function, f, e, {}, otherwise(trial, f))


def plain(found: Any) -> Any:
    """A list in place of a tensor or an array, where either is a fine answer."""
    return found.tolist() if hasattr(found, "tolist") else found


def passed(function: Function, text: str = "") -> None:
    """Say so, in one line."""
    print(f"{name_of(function)}: passed{', ' if text else ''}{text}")


def judge_test(
    test: Function, right: Mapping[str, Function], broken: Mapping[str, Function]
) -> None:
    """Raise `Wrong` unless `test` passes on each right implementation and fails on each broken one.

    `right` is by name; `broken` by the sentence that a test deserves which lets it pass.
    """
    for name, implementation in right.items():
        complaint, calls = _complaint(test, implementation)
        if complaint is not None:
            raise Wrong(f"{name_of(test)} fails on {name}, which is right: {complaint}")
        if not calls:
            raise Wrong(f"{name_of(test)} never calls the function that it is given")
    for sentence, implementation in broken.items():
        if _complaint(test, implementation)[0] is None:
            raise Wrong(f"{name_of(test)}: {sentence}")


def _complaint(test: Function, implementation: Function) -> tuple[str | None, int]:
    """What the test's assertion says of an implementation (None: it passes), and its calls."""
    calls = 0

    def counted(*inputs: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        return implementation(*inputs, **options)

    try:
        returned = test(counted)
    except (NotImplementedError, Wrong):
        raise
    except AssertionError as error:
        return str(error) or "an assertion without a message", calls
    except Exception as error:
        raise Wrong(f"{name_of(test)} stopped: {_explain(error)}") from error
    if returned is not None:
        raise Wrong(
            f"{name_of(test)} returned {returned!r}: a test returns nothing, it says `assert …`"
        )
    return None, calls


def _explain(error: Exception) -> str:
    text = " ".join(str(error).split())
    for fragment, meaning in _TORCH_ERRORS.items():
        if fragment in text:
            return meaning
    return f"{type(error).__name__}: {text[:200]}"


def same(found: Any, expected: Any) -> bool:
    """Whether two results agree, up to rounding: numbers, tensors, and lists or dicts of them."""
    if isinstance(expected, bool | str | type(None)):
        return type(found) is type(expected) and found == expected
    if isinstance(expected, Real):
        return _is_number(found) and math.isclose(found, expected, rel_tol=1e-6, abs_tol=1e-9)
    if isinstance(expected, Tensor):
        return _same_tensors(found, expected)
    if isinstance(expected, Mapping):
        return (
            isinstance(found, Mapping)
            and set(found) == set(expected)
            and all(same(found[name], expected[name]) for name in expected)
        )
    if isinstance(expected, list | tuple):
        return (
            isinstance(found, list | tuple)
            and len(found) == len(expected)
            and all(map(same, found, expected))
        )
    return found is expected


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.ndim == 0
    return isinstance(value, Real) and not isinstance(value, bool)


def _same_tensors(found: Any, expected: Tensor) -> bool:
    if expected.ndim == 0 and _is_number(found):
        found = torch.as_tensor(found)
    if not isinstance(found, Tensor) or found.shape != expected.shape:
        return False
    a, b = found.detach().double(), expected.detach().double()
    return torch.allclose(a, b, rtol=1e-6, atol=1e-9, equal_nan=True)


def difference(found: Any, expected: Any) -> str:
    """One sentence on how a result differs from what was expected: kind, then size, then value."""
    for describe in (_other_kind, _other_size):
        if sentence := describe(found, expected):
            return sentence
    if isinstance(expected, Mapping):
        name = next(name for name in expected if not same(found[name], expected[name]))
        return f"{name!r}: {difference(found[name], expected[name])}"
    if isinstance(expected, list | tuple):
        place = next(
            i for i, pair in enumerate(zip(found, expected, strict=True)) if not same(*pair)
        )
        return f"entry {place}: {difference(found[place], expected[place])}"
    return f"it gives {_short(found)}, and should give {_short(expected)}"


def _other_kind(found: Any, expected: Any) -> str | None:
    asked = _kind(expected)
    return None if _kind(found) == asked else f"it gives {_kind(found)}, and should give {asked}"


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a dict"
    if isinstance(value, list | tuple):
        return "a list"
    if _is_number(value):
        return "a number"
    return {Tensor: "a tensor", bool: "True or False", str: "a text"}.get(
        type(value), f"a {type(value).__name__}"
    )


def _other_size(found: Any, expected: Any) -> str | None:
    if isinstance(expected, Mapping) and set(found) != set(expected):
        return f"its names are {sorted(found)}, and should be {sorted(expected)}"
    if isinstance(expected, list | tuple) and len(found) != len(expected):
        return f"it has {len(found)} entries, and should have {len(expected)}"
    if isinstance(expected, Tensor) and isinstance(found, Tensor) and found.shape != expected.shape:
        return f"its shape is {list(found.shape)}, and should be {list(expected.shape)}"
    return None


def _short(value: Any) -> str:
    if isinstance(value, Tensor) and value.ndim:
        first = ", ".join(f"{number:.4g}" for number in value.detach().flatten()[:3].tolist())
        return f"[{first}{', …' if value.numel() > 3 else ''}]"
    return f"{float(value):.6g}" if _is_number(value) else repr(value)


def _copy(value: Any) -> Any:
    """The same, with a copy of each tensor, list and dict in it."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {name: _copy(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return tuple(map(_copy, value))
    return value


# Inputs.


def generator(seed: int) -> torch.Generator:
    """Where a check's random inputs come from: the same for the same seed."""
    return torch.Generator().manual_seed(seed)


def normal(draw: torch.Generator, *shape: int, requires_grad: bool = False) -> Tensor:
    """Normal random numbers in float64."""
    x = torch.randn(*shape, generator=draw, dtype=torch.float64)
    return x.requires_grad_(requires_grad)


def pick(draw: torch.Generator, choices: Sequence[Any]) -> Any:
    """One of them, at random."""
    return choices[int(torch.randint(len(choices), (), generator=draw))]
