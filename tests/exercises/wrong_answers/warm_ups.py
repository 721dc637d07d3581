from functools import cache

from mamlpp import checks
from mamlpp.checks.warm_ups import WARM_UPS
from tests.exercises.wrong_answers import all_wrong, wrong


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
    wrong(warm_up(_number), "give the check the function itself")(_exercise.right)

all_wrong(
    warm_up(1),
    {
        "it should return 2 values": lambda: 1.0,
        "the order is the other way round": lambda: (0.5, 1.0),
        "only the second of the two is wrong": lambda: (1.0, 0.75),
        "2 entries, not 3": lambda: (2.0, 1.0, 0.5),
    },
)
wrong(warm_up(2), "it should give a number, not a list")(lambda: [3] * 10)
wrong(warm_up(2), "it should give a number, not a string")(lambda: "3**10")
wrong(warm_up(3), "only the first of the two is wrong")(lambda: (0.8, 0.5))
wrong(warm_up(3), "it should give a number, not a list")(lambda: (1.0, [0, 0, 0, 0.5]))
all_wrong(
    warm_up(4),
    {
        "it should give a string, not a number": lambda: 2,
        "it should give a string, not a list": lambda: ["A", "B"],
        "it should give a string, not True or False": lambda: "B" in "ABCD",
        "answer by one of the letters A, B, C, D": lambda: "curve B",
        "stopped: NameError": lambda: B,  # noqa: F821
    },
)
wrong(warm_up(4), "answer by one of the letters A, B, C, D")(lambda: "E")
wrong(warm_up(5), "it should return 2 values")(lambda: "-2, 0")
wrong(warm_up(6), "it should give a number, not a list")(lambda: (0.1, 0.12))
all_wrong(
    warm_up(7),
    {
        "it should return 2 values": lambda: True,
        "it should give True or False, not a number": lambda: (1.0, 2),
        "it should give True or False, not a string": lambda: (1.0, "True"),
        "2 entries, not 5": lambda: [0, 0, 0, 0, 1.0],
        "only the first of the two is wrong": lambda: (0.03, True),
    },
)
FLAT, SHARED, UNCOUNTED = "flat schedule", "shared seed", "uncounted step"
all_wrong(
    warm_up(8),
    {
        "it should return 3 values (return a, b, c)": lambda: FLAT,
        "3 entries, not 2": lambda: (FLAT, SHARED),
        "the order is that of the three programs": lambda: (UNCOUNTED, SHARED, FLAT),
        "the first one: it is not 'wrong sign'": lambda: ("wrong sign", SHARED, UNCOUNTED),
        "the first one: it is not 'early jump'": lambda: ("early jump", SHARED, UNCOUNTED),
        "the second one: it is not 'alias'": lambda: (FLAT, "alias", UNCOUNTED),
        "the second one: it is not 'repeated class'": lambda: (FLAT, "repeated class", UNCOUNTED),
        "the third one: it is not 'first order'": lambda: (FLAT, SHARED, "first order"),
        "did you mean 'uncounted step'?": lambda: (FLAT, SHARED, "uncounted_steps"),
        "the first one: return one of the kinds as a string": lambda: (1, 2, 3),
    },
)
