"""What all checks share: call a function on small inputs, and say what is wrong with its answer."""

import inspect
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from typing import Any, cast

from torch import Tensor

from mamlpp.checks.compare import same, text
from mamlpp.checks.inputs import tensors_in
from mamlpp.show import progress

Function = Callable[..., Any]

STUB = "Your code goes here."

# What Python and PyTorch say, and what it means in an exercise.
_ERRORS = {
    "a leaf Variable that requires grad is being used in an in-place": (
        "it writes into a weight that it was given; compute a new tensor instead"
    ),
    "backward through the graph a second time": (
        "the first backward pass freed the graph; ask for all gradients in one call, or pass "
        "retain_graph=True"
    ),
    "does not require grad and does not have a grad_fn": (
        "it asks for the gradient of something that has no graph; was it detached, or computed "
        "under no_grad?"
    ),
    "appears to not have been used in the graph": (
        "it asks for the gradient with respect to tensors that the loss was not computed from"
    ),
    "'NoneType' object has no attribute": (
        "it uses a value that is None; `.grad` is None for every tensor that is not a leaf of the "
        "graph, so use torch.autograd.grad(loss, tensors) instead of loss.backward()"
    ),
    "'NoneType'": (
        "it computes with None; is that an argument that may be None, or the `.grad` of a tensor "
        "that has none?"
    ),
    "must match the size of tensor": (
        "two tensors do not fit together; print their shapes, and use view or keepdim=True to "
        "line up their dimensions"
    ),
    "'str' and 'Tensor'": (
        "it computes with a name: a loop over a dict gives names; .items() gives names and tensors"
    ),
    "can't multiply sequence by non-int": (
        "it multiplies a list or a tuple: go through its entries (torch.autograd.grad returns a "
        "tuple, even of a single gradient)"
    ),
    "only one element tensors can be converted": (
        "it makes one number of a tensor that holds many; which of them, or which mean, is it?"
    ),
    "not compiled with CUDA": (
        "it asks for a GPU that is not there; new tensors belong where the inputs are "
        "(torch.zeros_like, or device=x.device)"
    ),
    "math domain error": "it takes a logarithm, or a root, of a number that has none",
    "is not differentiable with respect to argument 'running_": (
        "F.batch_norm takes running statistics as constants; write the normalisation out, so that "
        "a gradient can come back through them"
    ),
    "shapes cannot be multiplied": (
        "@ is a matrix product, whose shapes must fit; * multiplies number by number"
    ),
    "index out of range": "it reads beyond the last entry",
    "is out of bounds for dimension": "it reads beyond the last entry of a tensor",
}


class Wrong(AssertionError):
    """An answer is wrong: a sentence that names the likely mistake, and the call that shows it."""

    def __init__(self, sentence: str, shown: Sequence[str] = ()) -> None:
        super().__init__(f"{sentence} ({', '.join(shown)})" if shown else sentence)
        self.sentence, self.shown = sentence, list(shown)

    def _render_traceback_(self) -> list[str]:
        """What Jupyter shows in place of a traceback: sentence, call, and the student's own line.

        The source of the check would not help, and could give the answer away.
        """
        lines = [f"Wrong: {self.sentence}", *(f"    {line}" for line in self.shown)]
        frames = traceback.extract_tb(self.__cause__.__traceback__ if self.__cause__ else None)
        own = [frame for frame in frames if "ipykernel" in frame.filename]
        return lines + [f"    line {f.lineno} of {f.name}: {f.line}" for f in own[-1:]]


def name_of(function: Function) -> str:
    """What messages call the student's function."""
    return getattr(function, "__name__", "your function")


def call_text(function: Function, inputs: Sequence[Any]) -> str:
    """The call as a student would write it: `growth(curvatures=[2.0], rate=0.1, steps=3)`."""
    names, texts = parameters(function), [text(value) for value in inputs]
    if len(names) >= len(texts):
        texts = [f"{name}={value}" for name, value in zip(names, texts, strict=False)]
    return f"{name_of(function)}({', '.join(texts)})"


def parameters(function: Function) -> list[str]:
    """The names of a function's parameters; none where Python does not know them."""
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


class _Watched:
    """A stream that notes whether anything was written."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.used = stream, False

    def write(self, words: str) -> Any:
        self.used = True
        return self.stream.write(words)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def check_call(function: Function, inputs: Sequence[Any]) -> None:
    """Raise `Wrong` if this is no function, or not one of so many arguments."""
    if not callable(function):
        raise Wrong(
            f"this is {text(function)}, not a function: give the check the function itself, and "
            f"do not call it"
        )
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*inputs)
    except TypeError:
        count = len(inputs)
        raise Wrong(
            f"{name_of(function)} should take {count} argument{'' if count == 1 else 's'}: keep "
            f"its first line as it was given",
            [f"it is now: def {name_of(function)}{signature}"],
        ) from None


def attempt(function: Function, *inputs: Any, may_change: bool = False) -> Any:
    """What the student's function returns for `inputs`.

    Raises `Wrong` where it stops with an error, changes an input (unless it `may_change` them), or
    returns nothing; and the NotImplementedError of an answer that is not written yet.
    """
    check_call(function, inputs)
    call, output = call_text(function, inputs), _Watched(sys.stdout)
    before = {place: (t, t.detach().clone()) for place, t in tensors_of(function, inputs).items()}
    structure = _structure(inputs)
    try:
        with redirect_stdout(cast(Any, output)):
            found = function(*inputs)
    except Wrong:
        raise
    except Exception as error:
        if is_stub(error):
            raise not_written(error) from None
        raise stopped(function, call, error) from error
    changed = [place for place, (tensor, copy) in before.items() if not same(tensor, copy)]
    if not may_change and (changed or not same(_structure(inputs), structure)):
        what = changed[0] if changed else "one of its arguments"
        raise Wrong(
            f"{name_of(function)} changed what it was given: return new values instead of writing "
            f"into the old ones",
            [f"after {call}", f"{what} is no longer what it was"],
        )
    if found is None:
        hint = "it prints its result, but only `return` hands it to the caller"
        if not output.used:
            hint = "does every way through it end with `return`?"
            if None in [value for value in inputs if not isinstance(value, Tensor)]:
                hint += " (`x and …` is None where x is None)"
        raise Wrong(f"{name_of(function)} returned None: {hint}", [f"called {call}"])
    return found


def tensors_of(function: Function, inputs: Sequence[Any]) -> dict[str, Tensor]:
    """The tensors among the inputs of a call, by names such as `weights['head.bias']`."""
    names = parameters(function)
    names = names if len(names) >= len(inputs) else [f"argument {i}" for i in range(len(inputs))]
    parts = zip(names, inputs, strict=False)
    return {p: t for name, value in parts for p, t in tensors_in(value, name).items()}


def _structure(value: Any) -> Any:
    """A copy of the lists and dicts, and of the numbers in them."""
    if isinstance(value, Mapping):
        return {name: _structure(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_structure(part) for part in value]
    return value.detach().clone() if isinstance(value, Tensor) else value


def is_stub(error: Exception) -> bool:
    """Whether this is the error of an answer that is not written yet."""
    return isinstance(error, NotImplementedError) and str(error) in ("", STUB)


def not_written(error: Exception) -> Exception:
    """The same error, which Jupyter shows in one line: a traceback would show the check."""
    where = traceback.extract_tb(error.__traceback__)[-1].name

    def line() -> list[str]:
        return [f"{where}: not written yet"]

    error._render_traceback_ = line  # type: ignore[attr-defined]
    return error.with_traceback(None)


def stopped(function: Function, call: str, error: Exception) -> Wrong:
    """What to say of a function that stopped with an error."""
    words = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    meaning = next((m for fragment, m in _ERRORS.items() if fragment in words), words)
    shown = [call] if meaning == words else [call, words]
    return Wrong(f"{name_of(function)} stopped: {meaning}", shown)


def passed(function: Function, words: str = "") -> None:
    """Say so, in one line, and keep it for the reader's page of progress."""
    progress.keep("exercise", name_of(function), True)
    print(f"{name_of(function)}: passed{', ' if words else ''}{words}")
