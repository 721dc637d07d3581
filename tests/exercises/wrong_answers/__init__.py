"""Wrong answers, each with words of the sentence that it should be answered by."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Function = Callable[..., Any]


class WrongAnswer(NamedTuple):
    check: Function
    answer: Function
    words: str


WRONG_ANSWERS: list[WrongAnswer] = []


def wrong(check: Function, words: str) -> Callable[[Function], Function]:
    """Note a function as a wrong answer for `check`, to be answered by a sentence with `words`."""

    def note(answer: Function) -> Function:
        WRONG_ANSWERS.append(WrongAnswer(check, answer, words))
        return answer

    return note


def all_wrong(check: Function, answers: Mapping[str, Function]) -> None:
    """Note several short wrong answers, each under words of the sentence that it deserves."""
    for words, answer in answers.items():
        wrong(check, words)(answer)
