"""Me against the network: what the reader says is counted beside what the network says."""

import pytest
import torch

import mamlpp
from mamlpp.show import duel


@pytest.fixture(scope="module")
def task():
    images = mamlpp.load_images("glyphs", "test")
    [task] = mamlpp.TaskSampler(images, ways=5, shots=1, queries=3, seed=1).sample(1)
    return task


@pytest.fixture(scope="module")
def learner(task):
    recipe = mamlpp.RECIPES["maml"].with_(filters=4, inner_steps=1)
    return mamlpp.MetaLearner(recipe, task.support_x.shape[1:], ways=5)


@pytest.fixture
def game(task, learner):
    return duel.Duel(task, learner)


def press(game, label):
    game.buttons[label].click()


def test_the_drawings_are_in_a_random_order_with_their_own_classes(game, task):
    assert len(game.truth) == duel.DRAWINGS
    assert game.truth != sorted(game.truth)
    for image, label in zip(game.images, game.truth, strict=True):
        of_class = task.query_x[task.query_y == label]
        assert any(torch.equal(image, one) for one in of_class)


def test_the_network_answers_before_and_after_adaptation(game, task, learner):
    before = learner.adapt(task.support_x, task.support_y, 0)(game.images).argmax(-1)
    after = learner.adapt(task.support_x, task.support_y)(game.images).argmax(-1)
    assert game.network == {"network before": before.tolist(), "network after": after.tolist()}
    truth = torch.tensor(game.truth)
    hits = {name: (torch.tensor(x) == truth).sum() for name, x in game.network.items()}
    assert game.scores() == hits


def test_pressing_buttons_plays_to_the_end_and_counts(game):
    assert "drawing 1 of 10" in game._said.value
    for label in game.truth[:-1]:
        press(game, label)
    assert "drawing 10 of 10" in game._said.value
    assert "you" not in game.scores()
    press(game, (game.truth[-1] + 1) % 5)
    assert "Finished" in game._said.value
    assert game.scores()["you"] == 9
    press(game, 0)  # too late
    assert len(game.answers) == 10
    game.restart()
    assert game.answers == []


def test_the_plot_has_each_answer_with_its_sign(game):
    assert "you: not played" in game.plot().get_suptitle()
    for label in game.truth:
        press(game, label)
    figure = game.plot()
    assert figure.get_suptitle().startswith("you: 10 of 10   network before: ")
    below = figure.axes[duel.DRAWINGS : 2 * duel.DRAWINGS]
    assert [ax.texts[0].get_text() for ax in below] == [f"✓ {label}" for label in game.truth]
    support = figure.axes[2 * duel.DRAWINGS :]
    assert [ax.get_title() for ax in support] == [f"support: class {label}" for label in range(5)]
