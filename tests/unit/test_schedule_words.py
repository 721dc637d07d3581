"""Milestones follow the length of a training, and what cannot work is said."""

import pytest

import mamlpp
from mamlpp import cli
from mamlpp.run.schedule_words import describe_schedule, failed_to_learn, late_milestones
from tests.makers import noise_trainer

PLUS_PLUS = mamlpp.RECIPES["maml++"]


def test_milestones_of_the_named_recipes_are_shares_of_the_training():
    short = PLUS_PLUS.with_(epochs=15)
    assert (short.msl_epochs, short.second_order_from) == pytest.approx((1.5, 5.0))
    again = short.with_(filters=8).with_(epochs=30)
    assert (again.msl_epochs, again.second_order_from) == pytest.approx((3.0, 10.0))
    assert mamlpp.RECIPES["fomaml"].with_(epochs=3).second_order_from is None
    assert mamlpp.RECIPES["maml"].with_(epochs=3).second_order_from == 0


def test_what_a_person_gives_is_absolute():
    given = PLUS_PLUS.with_(epochs=15, msl_epochs=4.0)
    assert (given.msl_epochs, given.second_order_from) == pytest.approx((4.0, 5.0))
    assert given.with_(epochs=30).msl_epochs == 4.0
    assert mamlpp.Recipe(msl_epochs=4.0).with_(epochs=3).msl_epochs == 4.0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--epochs", "15"], (1.5, 5.0)),
        (["--epochs=15", "--second-order-from", "50"], (1.5, 50.0)),
        (["--epochs", "15", "--msl-epochs=2"], (2.0, 5.0)),
    ],
)
def test_the_command_line_does_the_same(options, expected):
    command = cli._parse(["train", "--directory", "x", "--recipe", "maml++", *options])
    found = command.settings.msl_epochs, command.settings.second_order_from
    assert found == pytest.approx(expected)


def test_the_schedule_in_one_line():
    assert describe_schedule(PLUS_PLUS.with_(epochs=15)) == (
        "schedule: 15 epochs of 500 meta-steps; first order until epoch 5, then second; "
        "multi-step loss until epoch 1.5; outer rate 0.001 annealed to 1e-05"
    )
    assert "first order throughout" in describe_schedule(mamlpp.RECIPES["fomaml"])
    assert "second order throughout" in describe_schedule(mamlpp.RECIPES["maml"])


def test_a_milestone_after_the_end_is_said():
    late = PLUS_PLUS.with_(epochs=5, second_order_from=50.0, msl_epochs=15.0)
    assert [sentence.partition(" ")[0] for sentence in late_milestones(late)] == [
        "second_order_from",
        "msl_epochs",
    ]
    assert late_milestones(PLUS_PLUS.with_(epochs=5)) == []
    with pytest.warns(mamlpp.InputWarning, match="first order throughout"):
        noise_trainer(epochs=2, second_order_from=2.0)


def test_a_training_that_learned_nothing_says_so():
    rows = [{"validation_accuracy": 0.21}] * 60
    assert "about that of guessing (20.0 %)" in failed_to_learn(PLUS_PLUS, rows, 5)
    assert failed_to_learn(PLUS_PLUS, [{"validation_accuracy": 0.4}] * 60, 5) is None
    assert failed_to_learn(PLUS_PLUS, rows[:10], 5) is None, "too short to say"
    with pytest.warns(mamlpp.InputWarning, match="of 4 meta-steps were skipped"):
        noise_trainer(inner_rate=1e30).fit()
