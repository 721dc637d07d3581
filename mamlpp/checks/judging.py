"""Compare a student's function with a right one: results, and the gradients through them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mamlpp.checks.compare import (
    Raised,
    first_difference,
    in_words,
    kind,
    other_kind,
    same,
)
from mamlpp.checks.core import (
    Function,
    Wrong,
    attempt,
    call_text,
    is_stub,
    name_of,
    parameters,
    tensors_of,
)
from mamlpp.checks.inputs import tensors_in
from mamlpp.checks.patterns import suggested

Trial = tuple[Any, ...] | Callable[[], tuple[Any, ...]]
"""The inputs of one call, or a function that makes them anew (what has a graph is not copied)."""


def inputs_of(trial: Trial) -> tuple[Any, ...]:
    """The inputs of one call, which may be changed without harm to the next call."""
    return trial() if callable(trial) else deepcopy(trial)


class Outcome(NamedTuple):
    """What came of a call: the result and its gradients, or the error that stopped it."""

    result: Any
    gradients: dict[str, Tensor | None]
    error: Exception | None = None

    def agrees_with(self, other: "Outcome") -> bool:
        """Whether results, gradients (None counts as 0) and kinds of error are the same."""
        if self.error or other.error:
            return type(self.error) is type(other.error)
        if not same(_like(self.result, other.result), other.result):
            return False
        pairs = zip(self.gradients.values(), other.gradients.values(), strict=True)
        return all(_same_gradients(*pair) for pair in pairs)


def _like(found: Any, expected: Any) -> Any:
    """A list or a number in place of a tensor or an array, where one is expected."""
    if tensors_in(expected, "") or not hasattr(found, "tolist"):
        return found
    return found.tolist() if found.ndim == 0 or isinstance(expected, list | tuple) else found


def _same_gradients(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return all(g is None or not g.any() for g in (a, b))
    return same(a, b)


def outcome(function: Function, trial: Trial, named: Function, gradients: bool) -> Outcome:
    """Call `function`; if `gradients`, differentiate its result by every leaf among the inputs.

    `named` has the names of the parameters.
    """
    inputs = inputs_of(trial)
    tensors = tensors_of(named, inputs) if gradients else {}
    leaves = {place: t for place, t in tensors.items() if t.is_leaf and t.requires_grad}
    try:
        found = function(*inputs)
        return Outcome(found, gradients_of(found, leaves) if leaves else {})
    except Wrong as wrong:
        if not isinstance(wrong.__cause__, Exception):
            raise
        return Outcome(wrong, {}, wrong.__cause__)
    except Exception as error:
        if is_stub(error):
            raise
        return Outcome(None, {}, error)


def gradients_of(found: Any, leaves: dict[str, Tensor]) -> dict[str, Tensor | None]:
    """By each leaf, of the sum of the cubes of all numbers in `found`; None where there is none."""
    terms = [(t**3).sum() for t in tensors_in(found, "").values() if t.requires_grad]
    if not terms:
        return dict.fromkeys(leaves)
    total = torch.stack(terms).sum()
    try:
        gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    except RuntimeError as error:
        raise Wrong(
            "the graph of the result was freed, so that nobody can differentiate it: use "
            "create_graph=True or retain_graph=True"
        ) from error
    return dict(zip(leaves, gradients, strict=True))


def judge_trials(
    student: Function,
    trials: Sequence[Trial],
    right: Function,
    mistakes: Mapping[str, Function],
    otherwise: Callable[[tuple[Any, ...], Any], str | None] = lambda inputs, found: None,
    observe: Function = lambda program, *inputs: program(*inputs),
    gradients: bool = True,
    may_change: bool = False,
) -> None:
    """Raise `Wrong` unless the student's function agrees with `right` on every trial.

    `observe` runs a program on the inputs and returns what is compared, by default the program's
    result. A mistake is a function too, and is named if it explains what was found in all trials.
    If none does, `otherwise` may make a sentence of the first trial that differs and its result, or
    the numbers themselves suggest what is wrong (`suggested`).
    `gradients` says whether gradients are compared too, `may_change` whether a program may change
    its inputs in place.
    """

    def run(program: Function) -> Iterator[Outcome]:
        def observed(*inputs: Any) -> Any:
            return observe(program, *inputs)

        return (outcome(observed, trial, student, gradients) for trial in trials)

    def watched(*inputs: Any) -> Any:
        return attempt(student, *inputs, may_change=may_change)

    found, expected = list(run(watched)), list(run(right))
    pairs = zip(trials, found, expected, strict=True)
    different = [pair for pair in pairs if not pair[1].agrees_with(pair[2])]
    if not different:
        return
    trial, first, should = different[0]
    if first.error and not isinstance(first.result, Wrong):
        raise first.error
    inputs = inputs_of(trial)
    hint, shown = _described(student, inputs, first, should)
    if explained := explanation(found, mistakes, run):
        hint = f"{name_of(student)}: {explained}"
    else:
        said = None if first.error else otherwise(inputs, first.result)
        if not said and NO_CLUE in hint:
            names = parameters(student)
            said = suggested(results_of(found, expected), map(inputs_of, trials), names)
        if said:
            hint = f"{name_of(student)}: {said}"
    raise Wrong(hint, shown) from first.error


def explanation(
    found: Sequence[Outcome],
    mistakes: Mapping[str, Function],
    run: Callable[[Function], Iterator[Outcome]],
) -> str | None:
    """The sentence of the mistake that gives what was found in all trials, if there is one."""
    for sentence, wrong in mistakes.items():
        if all(map(Outcome.agrees_with, found, run(wrong))):
            return sentence
    return None


def results_of(found: Sequence[Outcome], expected: Sequence[Outcome]) -> list[tuple[Any, Any]]:
    """Pairs of the results of all calls; none where a call stopped with an error."""
    if any(outcome.error for outcome in [*found, *expected]):
        return []
    return [(_like(f.result, e.result), e.result) for f, e in zip(found, expected, strict=True)]


def _described(
    student: Function, inputs: Sequence[Any], found: Outcome, expected: Outcome
) -> tuple[str, list[str]]:
    """How an outcome differs: a sentence without any guess, and the lines that show it."""
    if found.error:
        return found.result.sentence, found.result.shown
    call, result = call_text(student, inputs), _like(found.result, expected.result)
    if same(result, expected.result):
        return _gradients_described(student, call, found, expected)
    place, *parts = first_difference(result, expected.result)
    was, should = in_words(*parts)
    verb = "raised" if isinstance(parts[0], Raised) else "returned"
    where = f"result{place}" if place.startswith("[") else place
    what = f"{where} is {was}" if place else f"it {verb} {was}"
    return f"{name_of(student)}: {_guess(*parts)}", [call, what, f"expected {should}"]


NO_CLUE = "this is none of the usual mistakes; work out this call by hand and compare"


def _guess(found: Any, expected: Any) -> str:
    """What a difference suggests that none of an exercise's own mistakes explains."""
    if isinstance(expected, Raised):
        return f"it should raise {expected}"
    if isinstance(expected, Tensor) and kind(found) == "a number":
        return "it should return the tensor itself: .item() and float() throw its graph away"
    if isinstance(expected, tuple) and other_kind(found, expected):
        return (
            f"it should return {len(expected)} values (return {', '.join('abc'[: len(expected)])})"
        )
    if kind(expected) == "a number" and isinstance(found, Tensor):
        return "one number is asked for, not one for each entry"
    if other_kind(found, expected):
        return f"it should give {kind(expected)}, not {kind(found)}"
    if isinstance(expected, Mapping):
        return "the names are not those that were asked for"
    if isinstance(expected, list | tuple):
        return f"the list should have {len(expected)} entries, not {len(found)}"
    if isinstance(expected, Tensor) and found.shape != expected.shape:
        return "the tensor has another shape than it should"
    if isinstance(expected, Tensor) and found.dtype != expected.dtype:
        return (
            "the dtype is not that of the inputs (torch.zeros and torch.tensor make float32 unless "
            "they are told dtype=…)"
        )
    return NO_CLUE


def _gradients_described(
    student: Function, call: str, found: Outcome, expected: Outcome
) -> tuple[str, list[str]]:
    name = name_of(student)
    if all(gradient is None for gradient in found.gradients.values()):
        return (
            f"{name}: the numbers are right, but the result has no graph (.item(), .detach(), "
            f".data or no_grad), so that no gradient can come back through it",
            [call, "no gradient gets back from the result to the arguments"],
        )
    pairs = zip(found.gradients.items(), expected.gradients.values(), strict=True)
    place, was, should = next((p, f, e) for (p, f), e in pairs if not _same_gradients(f, e))
    hint = f"{name}: the numbers are right, but their gradient with respect to {place} is not"
    if was is None or not was.any():
        hint = f"{hint}: {place} entered as a constant (.item(), .detach() or .data)"
        return hint, [call, f"the gradient with respect to {place} is 0 or None"]
    should = torch.zeros_like(was) if should is None else should
    index, *parts = first_difference(was, should)
    one, other = in_words(*parts)
    what = f"ds/d{place}{index} is {one}, s being the sum of the cubes of all returned numbers"
    return hint, [call, what, f"expected {other}"]
