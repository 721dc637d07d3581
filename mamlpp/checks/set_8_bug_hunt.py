"""Checks of set 8: eight small programs, each with a defect that published code really had.

Which departures these are is told in chapter 10; the programs are in the modules `bugs_…`.
"""

from difflib import get_close_matches
from functools import partial
from typing import Any

from mamlpp.checks import bugs_1_and_2, bugs_3_and_4, bugs_5_and_6, bugs_7_and_8
from mamlpp.checks.bug import Bug
from mamlpp.checks.compare import kind
from mamlpp.checks.core import (
    Function,
    Wrong,
    attempt,
    call_text,
    name_of,
    parameters,
    passed,
    stopped,
)
from mamlpp.checks.inputs import check
from mamlpp.checks.judging import Outcome, judge_trials, outcome
from mamlpp.checks.testing import judge_test

KINDS = {
    "first order": "then a gradient would enter a step as a constant",
    "unread setting": "then something that a user writes down would have no effect",
    "alias": "then two names would stand for one thing that is changed in place",
    "early jump": "then a schedule would jump off its line, at its end or before",
    "iteration for epoch": "then something planned by the epoch would move with every iteration",
    "repeated class": "then a task could have two labels for the same class",
    "transductive": "then the result for an image would depend on the other images",
    "deviation over hits": "then an interval would count single answers instead of tasks",
    "flat schedule": "then a schedule would begin and end with the same number",
    "shared seed": "then two streams of tasks would be the same",
    "wrong sign": "then something would go up that should go down",
    "uncounted step": "then there would be one step more or less than asked for",
}
"""What a defect may be called, and what it would look like."""

BUGS: dict[int, Bug] = {
    1: bugs_1_and_2.FIRST_ORDER,
    2: bugs_1_and_2.UNREAD_SETTING,
    3: bugs_3_and_4.ALIAS,
    4: bugs_3_and_4.EARLY_JUMP,
    5: bugs_5_and_6.ITERATION_FOR_EPOCH,
    6: bugs_5_and_6.REPEATED_CLASS,
    7: bugs_7_and_8.TRANSDUCTIVE,
    8: bugs_7_and_8.DEVIATION_OVER_HITS,
}


@check
def found(number: int, student: Function) -> None:
    """Part a of exercise 8.`number`: the kind of the defect, and arguments that show it."""
    answer = attempt(student)
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise Wrong(
            f"{name_of(student)}: return two things, the kind of the defect and the arguments of a "
            f"call that shows it (return kind, arguments), not {kind(answer)}"
        )
    if said := kind_complaint(BUGS[number].kind, answer[0]):
        raise Wrong(f"{name_of(student)}: {said}")
    _judge_witness(number, student, answer[1])
    passed(student)


def kind_complaint(right: str, answer: Any) -> str | None:
    """What to say of the name of a defect, unless it is the `right` one."""
    if not isinstance(answer, str):
        return f"return one of the kinds as a string, not {kind(answer)}"
    if answer not in KINDS:
        [close] = get_close_matches(answer.lower(), KINDS, 1) or [""]
        return f"{answer!r} is not in the list of kinds" + (close and f"; did you mean {close!r}?")
    return None if answer == right else f"it is not {answer!r}: {KINDS[answer]}"


def _judge_witness(number: int, student: Function, arguments: Any) -> None:
    """Raise `Wrong` unless the broken program is wrong for these arguments."""
    bug, name = BUGS[number], name_of(student)
    if not isinstance(arguments, tuple):
        raise Wrong(
            f"{name}: the arguments are a tuple, (a,) if there is one, not {kind(arguments)}"
        )

    count, given = len(parameters(bug.right)), len(arguments)
    if given != count:
        many = "argument" if count == 1 else "arguments"
        raise Wrong(f"{name}: program_{number} takes {count} {many}, not {given}")

    def observed(program: Function) -> Outcome:
        fresh = student()[1]
        return outcome(partial(bug.witness, program), lambda: fresh, program, gradients=True)

    should, does = observed(bug.right), observed(bug.broken)
    if should.error:
        raise stopped(student, f"program_{number} called with its arguments", should.error)
    if does.agrees_with(should):
        raise Wrong(
            f"{name}: with these arguments program_{number} does what it should; {bug.test_hint}",
            [call_text(bug.right, arguments).replace(name_of(bug.right), f"program_{number}", 1)],
        )


@check
def shown(number: int, student: Function) -> None:
    """Part b: a test that passes on the right program and fails on the broken one."""
    bug = BUGS[number]
    right = {"the repaired program": bug.right}
    if bug.also_right:
        right["a program that was repaired in another way"] = bug.also_right
    judge_test(student, right, {f"it lets the broken program pass: {bug.test_hint}": bug.broken})
    passed(student)


@check
def fixed(number: int, student: Function, seed: int = 0) -> None:
    """Part c: the program without its defect."""
    bug = BUGS[number]
    mistakes = {bug.defect: bug.broken, **bug.mistakes}
    judge_trials(
        student,
        bug.trials(seed),
        bug.right,
        mistakes,
        observe=bug.observe,
        may_change=bug.may_change,
    )
    passed(student)
