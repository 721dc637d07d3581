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


@pytest.fixture(params=["maml", "maml++"])
def two_learners(request, images):
    recipe = mamlpp.RECIPES[request.param].with_(filters=4, inner_steps=3)
    learners = [mamlpp.MetaLearner(recipe, images.shape, WAYS, seed=seed) for seed in (1, 2)]
    sampler = mamlpp.TaskSampler(images, WAYS, 1, 2)
    for learner in learners:
        learner.meta_loss(sampler.sample(3))  # moves the running statistics, where there are some
    return learners


def judge(learners, images, **options):
    return mamlpp.evaluate_tasks(learners, mamlpp.TaskSampler(images, WAYS, 1, 2), 6, **options)


@pytest.mark.parametrize("transductive", [False, True])
def test_each_step_is_what_that_many_steps_give(two_learners, images, transductive):
    learner = two_learners[0]
    whole = judge(learner, images, transductive=transductive, every_step=True)
    assert len(whole.steps) == 4
    for steps, at_step in enumerate(whole.steps):
        alone = judge(learner, images, steps=steps, transductive=transductive)
        torch.testing.assert_close(at_step.losses, alone.losses)
        assert torch.equal(at_step.accuracies, alone.accuracies)
    assert torch.equal(whole.losses, whole.steps[-1].losses)


def test_an_ensemble_of_one_learner_twice_is_that_learner(two_learners, images):
    once, twice = judge(two_learners[0], images), judge([two_learners[0]] * 2, images)
    torch.testing.assert_close(once.losses, twice.losses)


def test_an_ensemble_averages_the_logits_of_learners_that_adapt_alone(two_learners, images):
    result = judge(two_learners, images)
    for task, loss in zip(
        mamlpp.TaskSampler(images, WAYS, 1, 2).sample(6), result.losses, strict=True
    ):
        logits = [
            learner.adapt(task.support_x, task.support_y)(task.query_x) for learner in two_learners
        ]
        mean = (logits[0] + logits[1]) / 2
        torch.testing.assert_close(torch.nn.functional.cross_entropy(mean, task.query_y), loss)


def test_an_ensemble_is_of_the_checkpoints_that_were_best(run, images):
    assert len(run.best(5)) == 1
    alone = mamlpp.evaluate(run, images, tasks=4)
    torch.testing.assert_close(mamlpp.evaluate(run, images, 4, ensemble=5).losses, alone.losses)
    with pytest.raises(mamlpp.InputError, match="at least 1"):
        mamlpp.evaluate(run, images, tasks=4, ensemble=0)


def test_evaluation_with_every_step_leaves_all_as_it_was(two_learners, images):
    learner = two_learners[0]
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    judge(learner, images, every_step=True)
    for name, value in learner.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(
    ("confidence", "hits", "error"),
    [
        ([1.0, 1.0, 1.0, 1.0], [0, 0, 0, 0], 1.0),  # always sure, always wrong
        ([0.75, 0.75, 0.75, 0.75], [1, 1, 1, 0], 0.0),  # as sure as right
        ([0.9, 0.9, 0.5, 0.5], [1, 1, 0, 0], 0.5 * 0.1 + 0.5 * 0.5),  # bin by bin, not overall
    ],
)
def test_calibration_error_is_the_mean_gap_of_the_bins(confidence, hits, error):
    result = mamlpp.Evaluation(
        torch.tensor([0.5]), torch.ones(1), False, torch.tensor([confidence]), torch.tensor([hits])
    )
    assert result.calibration_error == pytest.approx(error, abs=1e-6)


def test_confidences_and_hits_are_those_of_the_queries(two_learners, images):
    result = judge(two_learners[0], images)
    assert result.hits.shape == result.confidences.shape == (6, 2 * WAYS)
    torch.testing.assert_close(result.hits.mean(1), result.accuracies)
    assert result.confidences.min() >= 1 / WAYS


def test_weights_that_diverged_are_evaluated_too(two_learners, images):
    with torch.no_grad():
        two_learners[0].network.head.weight.fill_(math.nan)
    result = judge(two_learners[0], images, every_step=True).as_dict()
    assert math.isnan(result["calibration_error"])
    assert math.isnan(result["loss"])
