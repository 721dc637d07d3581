from functools import cache

from mamlpp import checks
from mamlpp.checks.warm_ups import WARM_UPS
from tests.exercises.wrong_answers import wrong


@cache
def warm_up(number):
    """The warm-up of a set, as a check of its own."""

    def check(answer):
        checks.warm_up(number, answer)

    check.__name__ = f"warm_up_{number}"
    return check


for _number, _exercise in WARM_UPS.items():
    for _sentence, _answer in _exercise.mistakes.items():
        wrong(warm_up(_number), _sentence)(lambda answer=_answer: answer)
    wrong(warm_up(_number), "returned None")(lambda: print("the answer"))
    wrong(warm_up(_number), "should take 0 arguments")(lambda x: x)

wrong(warm_up(1), "it should return 2 values")(lambda: 1.0)
wrong(warm_up(2), "it should give a number, not a list")(lambda: [3] * 10)
wrong(warm_up(4), "it should give a string, not a number")(lambda: 2)
wrong(warm_up(7), "it should return 2 values")(lambda: True)
