"""Every solution, spoilt in the ways that fit any exercise: no check lets one of them pass."""

import ast
import math
from collections.abc import Callable
from functools import wraps
from typing import Any

import pytest
import torch
from torch import Tensor

from mamlpp import checks
from mamlpp.checks import judging
from mamlpp.checks.compare import same
from mamlpp.checks.core import parameters
from tests.exercises.right_answers import RIGHT_ANSWERS
from tests.exercises.test_checks import SETS, cells_of, namespace_of

Function = Callable[..., Any]
SLOW = {"task_loss", "fixed_6"}
NOT_FUNCTIONS = {"warm_up", "reaches", "shown", "found", "second_order_test", "bounded_test"}


def answers() -> list[Any]:
    """(check, what it takes before the answer, the solution), of each exercise for a function."""
    found = []
    for path in SETS:
        names = namespace_of(path)
        for cell in cells_of(path, "grade"):
            call = ast.parse(cell.source).body[0].value  # type: ignore[attr-defined]
            if not isinstance(call, ast.Call) or call.func.attr in NOT_FUNCTIONS:  # type: ignore[attr-defined]
                continue
            *before, answer = call.args
            values = [ast.literal_eval(value) for value in before]
            found.append(pytest.param(call.func.attr, values, names[answer.id], id=answer.id))  # type: ignore[attr-defined]
    return found


def each(change: Callable[[Any], Any], value: Any) -> Any:
    """`value` with every tensor, and every number that is not whole, changed."""
    if isinstance(value, dict):
        return {name: each(change, part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(each(change, part) for part in value)
    return change(value) if isinstance(value, Tensor | float) else value


def of_tensors(change: Callable[[Tensor], Tensor]) -> Callable[[Any], Any]:
    return lambda value: change(value) if isinstance(value, Tensor) else value


def whole(value: Any) -> Any:
    return value.round() if isinstance(value, Tensor) else float(round(value))


RESULTS: dict[str, Callable[[Any], Any]] = {
    "detached": lambda result: each(of_tensors(Tensor.detach), result),
    "new leaves": lambda result: each(
        of_tensors(lambda t: t.detach().requires_grad_() if t.is_floating_point() else t), result
    ),
    "half precision": lambda result: each(of_tensors(Tensor.half), result),
    "another dtype": lambda result: each(
        of_tensors(lambda t: t.float() if t.dtype == torch.float64 else t.double()), result
    ),
    "plain numbers": lambda result: each(of_tensors(Tensor.tolist), result),
    "the sign": lambda result: each(lambda x: -x, result),
    "twice as large": lambda result: each(lambda x: 2 * x, result),
    "rounded": lambda result: each(whole, result),
    "one entry too few": lambda result: result[:-1] if isinstance(result, list | tuple) else result,
    "the wrong axis": lambda result: each(
        of_tensors(lambda t: t.mT.contiguous() if t.ndim > 1 else t), result
    ),
    "the wrong reduction": lambda result: each(
        of_tensors(lambda t: t.sum(0) if t.ndim else t), result
    ),
    "as a text": str,
    "in a list of its own": lambda result: [result],
    "nothing": lambda result: None,
}


def spoilt(answer: Function, change: Callable[[Any], Any]) -> Function:
    """`answer` with a changed result."""

    @wraps(answer)
    def wrong(*inputs: Any) -> Any:
        return change(answer(*inputs))

    return wrong


def differ(changed: Any, result: Any) -> bool:
    """Whether two results have other numbers, or other graphs."""
    graphs = [str(each(of_tensors(lambda t: t.grad_fn), x)) for x in (result, changed)]
    return not same(changed, result) or graphs[0] != graphs[1]


def some_results(check: str, before: list[Any], answer: Function) -> list[Any]:
    """What `answer` returns in the first calls of its check."""
    kept: list[Any] = []

    @wraps(answer)
    def noted(*inputs: Any) -> Any:
        kept.append(answer(*inputs))
        return kept[-1]

    getattr(checks, check)(*before, noted)
    return kept[:20]


def right_for_the_first_call_only(answer: Function) -> Function:
    first: list[Any] = []

    @wraps(answer)
    def wrong(*inputs: Any) -> Any:
        if not first:
            first.append(answer(*inputs))
        return first[0]

    return wrong


def printed(answer: Function) -> Function:
    @wraps(answer)
    def wrong(*inputs: Any) -> None:
        print(answer(*inputs))

    return wrong


def writing_into_an_input(answer: Function, seen: list[bool]) -> Function:
    @wraps(answer)
    def wrong(*inputs: Any) -> Any:
        result = answer(*inputs)
        for value in inputs:
            tensors = value.values() if isinstance(value, dict) else [value]
            for tensor in tensors:
                if isinstance(tensor, Tensor) and tensor.is_floating_point():
                    tensor.data.add_(1)
                    seen.append(True)
                    return result
            if isinstance(value, dict | list) and value:
                value.clear()
                seen.append(True)
                return result
        return result

    return wrong


@pytest.mark.parametrize(
    ("check", "answer"), [pytest.param(*each, id=each[1].__name__) for each in RIGHT_ANSWERS]
)
def test_a_right_answer_passes_however_it_is_written(check: Function, answer: Function):
    check(answer)


SEEDS = (*range(2, 10), 26, 28, 44, 999_999)


@pytest.mark.parametrize(("check", "before", "answer"), answers())
def test_a_solution_passes_whatever_the_seed(check: str, before: list[Any], answer: Function):
    for seed in SEEDS[-1:] if answer.__name__ in SLOW else SEEDS:
        getattr(checks, check)(*before, answer, seed=seed)


def complaint(check: str, before: list[Any], answer: Function) -> str | None:
    try:
        getattr(checks, check)(*before, answer)
    except checks.Wrong as wrong:
        return wrong.sentence
    return None


@pytest.fixture
def _no_explanations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether an answer passes is all that counts, and not what is said of it."""
    monkeypatch.setattr(judging, "explanation", lambda *_: None)


@pytest.mark.usefixtures("_no_explanations")
@pytest.mark.parametrize(("check", "before", "answer"), answers())
def test_no_spoilt_solution_passes(check: str, before: list[Any], answer: Function):
    told: dict[str, str | None] = {}
    results = some_results(check, before, answer)
    for kind, change in RESULTS.items():
        if any(differ(change(result), result) for result in results):
            told[kind] = complaint(check, before, spoilt(answer, change))
    told["prints"] = complaint(check, before, printed(answer))
    seen: list[bool] = []
    sentence = complaint(check, before, writing_into_an_input(answer, seen))
    if seen:
        told["writes into an input"] = sentence
    assert [kind for kind, sentence in told.items() if sentence is None] == []
    assert len(told) >= 4


@pytest.mark.usefixtures("_no_explanations")
@pytest.mark.parametrize(("check", "before", "answer"), answers())
def test_an_answer_that_is_right_for_the_example_only_does_not_pass(
    check: str, before: list[Any], answer: Function
):
    assert complaint(check, before, right_for_the_first_call_only(answer)) is not None
    assert parameters(answer)


RATIOS = {
    "natural": lambda growth, bits: bits * math.log(2) / math.log(growth),
    "binary": lambda growth, bits: bits / math.log2(growth),
    "decimal": lambda growth, bits: math.log10(2**bits) / math.log10(growth),
    "one call": lambda growth, bits: math.log(2**bits, growth),
    "twice one call": lambda growth, bits: bits * math.log(2, growth),
}


@pytest.mark.parametrize("name", RATIOS)
def test_no_way_of_writing_the_ratio_of_two_logarithms_is_rounded_up_too_far(name: str):
    for seed in range(60):
        checks.predicted_steps(lambda g, bits: math.ceil(RATIOS[name](g, bits)), seed=seed)
