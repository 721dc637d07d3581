"""Checks of set 8: eight small programs, each with a defect that published code really had.

Which departures these are is told in chapter 10; the programs are in the modules `bugs_…`.
"""

from difflib import get_close_matches

from mamlpp.checks import bugs_1_and_2, bugs_3_and_4, bugs_5_and_6, bugs_7_and_8
from mamlpp.checks.bug import Bug
from mamlpp.checks.compare import kind
from mamlpp.checks.core import Function, Wrong, attempt, name_of, passed
from mamlpp.checks.inputs import check
from mamlpp.checks.judging import judge_trials
from mamlpp.checks.testing import judge_test

KINDS = {
    "first order": "then a gradient would enter a step as a constant",
    "unread setting": "then something that a user writes down would have no effect",
    "alias": "then two names would stand for one thing that is changed in place",
    "early stop": "then a schedule would leave its line before its end, or at it",
    "iteration for epoch": "then something planned by the epoch would move with every iteration",
    "repeated class": "then a task could have two labels for the same class",
    "transductive": "then the result for an image would depend on the other images",
    "deviation over hits": "then an interval would be taken over the wrong things",
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
    4: bugs_3_and_4.EARLY_STOP,
    5: bugs_5_and_6.ITERATION_FOR_EPOCH,
    6: bugs_5_and_6.REPEATED_CLASS,
    7: bugs_7_and_8.TRANSDUCTIVE,
    8: bugs_7_and_8.DEVIATION_OVER_HITS,
}


@check
def found(number: int, student: Function) -> None:
    """Part a of exercise 8.`number`: the name of the defect."""
    answer = attempt(student)
    if not isinstance(answer, str):
        raise Wrong(f"{name_of(student)}: return one of the kinds as a string, not {kind(answer)}")
    if answer not in KINDS:
        [close] = get_close_matches(answer.lower(), KINDS, 1) or [""]
        meant = f"; did you mean {close!r}?" if close else ""
        raise Wrong(f"{name_of(student)}: {answer!r} is not in the list of kinds{meant}")
    if answer != BUGS[number].kind:
        raise Wrong(f"{name_of(student)}: it is not {answer!r}: {KINDS[answer]}")
    passed(student)


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
