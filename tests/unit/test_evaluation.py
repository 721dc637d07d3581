import math
import statistics

import pytest
import torch

import mamlpp

WAYS = 3


@pytest.fixture
def images():
    draw = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (8, 4, 1, 16, 16), generator=draw, dtype=torch.uint8)
    return mamlpp.ImageSet(noise, (*"abcdefgh",), "noise", "test")


@pytest.fixture
def run(images):
    recipe = mamlpp.RECIPES["maml"].with_(
        filters=4, meta_batch=1, epochs=1, iterations_per_epoch=1, validation_tasks=2
    )
    sampler = mamlpp.TaskSampler(images, WAYS, shots=1, queries=2)
    return mamlpp.Trainer(recipe, sampler, sampler).fit()


def test_the_interval_is_1_96_standard_errors():
    accuracies = [0.5, 0.7, 0.6, 1.0]
    result = mamlpp.Evaluation(torch.tensor(accuracies), torch.tensor([1.0, 2, 3, 4]), False)
    assert result.accuracy == pytest.approx(0.7)
    assert result.loss == pytest.approx(2.5)
    assert result.interval == pytest.approx(1.96 * statistics.stdev(accuracies) / 2)


def test_it_says_percent_interval_tasks_and_protocol():
    half, losses = torch.tensor([0.25, 0.75]), torch.ones(2)
    interval = 196 * math.sqrt(0.125 / 2)
    said = str(mamlpp.Evaluation(half, losses, transductive=False))
    assert said == f"50.00 ± {interval:.2f} % (95 % interval over 2 tasks, inductive)"
    assert "transductive" in str(mamlpp.Evaluation(half, losses, transductive=True))


def test_it_scores_each_task_as_by_hand(run, images):
    result = mamlpp.evaluate(run, images, tasks=3, seed=7)
    tasks = mamlpp.TaskSampler(images, WAYS, 1, 2, seed=7).sample(3)
    for task, accuracy, loss in zip(tasks, result.accuracies, result.losses, strict=True):
        logits = run.learner.adapt(task.support_x, task.support_y)(task.query_x)
        hits = [row.argmax() == label for row, label in zip(logits, task.query_y, strict=True)]
        assert accuracy == pytest.approx(sum(hits) / len(hits))
        assert loss == torch.nn.functional.cross_entropy(logits, task.query_y)


def test_there_is_one_number_a_task_however_many_are_drawn_at_once(run, images):
    result = mamlpp.evaluate(run, images, tasks=53, steps=0)
    assert result.accuracies.shape == result.losses.shape == (53,)


def test_the_same_seed_gives_the_same_tasks_and_another_seed_others(run, images):
    def losses(**seed):
        return mamlpp.evaluate(run, images, tasks=5, **seed).losses

    assert torch.equal(losses(), losses())
    assert torch.equal(losses(seed=1), losses(seed=1))
    assert not torch.equal(losses(), losses(seed=1))


def test_evaluation_leaves_the_learner_as_it_was(run, images):
    before = {name: value.clone() for name, value in run.learner.state_dict().items()}
    for transductive in (False, True):
        mamlpp.evaluate(run, images, tasks=2, transductive=transductive)
    after = run.learner.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items())


def test_the_two_protocols_differ(run, images):
    inductive, transductive = (
        mamlpp.evaluate(run, images, tasks=5, transductive=choice) for choice in (False, True)
    )
    assert (inductive.transductive, transductive.transductive) == (False, True)
    assert not torch.isclose(inductive.losses, transductive.losses).any()


def test_more_steps_than_in_training_can_be_asked_for(run, images):
    as_trained = mamlpp.evaluate(run, images, tasks=2).losses
    assert torch.equal(mamlpp.evaluate(run, images, tasks=2, steps=5).losses, as_trained)
    assert not torch.equal(mamlpp.evaluate(run, images, tasks=2, steps=6).losses, as_trained)


def test_without_a_step_there_is_only_chance(run, images):
    assert 0.23 < mamlpp.evaluate(run, images, tasks=200, steps=0).accuracy < 0.43


@pytest.mark.parametrize("tasks", [1, 0, -3])
def test_an_interval_needs_two_tasks(run, images, tasks):
    with pytest.raises(mamlpp.InputError, match=f"at least 2 of them, not {tasks}"):
        mamlpp.evaluate(run, images, tasks=tasks)
