"""Evaluation: scores, readings, ensembles, calibration and JSON."""

import copy
import dataclasses
import itertools
import json
import math
import statistics
from functools import cache

import pytest
import torch

import mamlpp
from mamlpp import maml
from mamlpp.data.tasks import stream_seed
from mamlpp.run.evaluation import READINGS

WAYS = 3
PLUS_PLUS = {"norm_statistics": "per_step", "norm_weights": "per_step", "inner_rule": "lslr"}


@pytest.fixture(scope="module")
def images():
    draw = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (8, 4, 1, 16, 16), generator=draw, dtype=torch.uint8)
    return mamlpp.ImageSet(noise, (*"abcdefgh",), "noise", "test")


@pytest.fixture(scope="module")
def make_run(images):
    """A copy of a run of four meta-steps with a validation after each; each is trained once."""
    small = {"filters": 4, "meta_batch": 1, "iterations_per_epoch": 1, "validation_tasks": 2}

    @cache
    def trained(**settings):
        recipe = mamlpp.RECIPES["maml"].with_(**small | {"epochs": 4} | settings)
        sampler = mamlpp.TaskSampler(images, WAYS, shots=1, queries=2)
        other = mamlpp.ImageSet(images.images.flip(-1), images.class_names, "noise", "validation")
        return mamlpp.Trainer(recipe, sampler, mamlpp.TaskSampler(other, WAYS, 1, 2)).fit()

    return lambda **settings: copy.deepcopy(trained(**settings))


@pytest.fixture
def run(make_run):
    return make_run()


def test_interval_is_1_96_standard_errors():
    accuracies = [0.5, 0.7, 0.6, 1.0]
    first, losses = [0.1, 0.2, 0.3, 0.4], [[9.0, 9, 9, 9], [1.0, 2, 3, 4]]
    result = mamlpp.Evaluation(torch.tensor([first, accuracies]), torch.tensor(losses))
    assert result.accuracy == pytest.approx(0.7)
    assert result.loss == pytest.approx(2.5)
    assert result.interval == pytest.approx(1.96 * statistics.stdev(accuracies) / 2)


def test_str_gives_percent_interval_tasks_and_reading():
    half, losses = torch.tensor([[0.25, 0.75]]), torch.ones(1, 2)
    interval = 196 * math.sqrt(0.125 / 2)
    text = str(mamlpp.Evaluation(half, losses))
    assert text == (
        f"50.00 ± {interval:.2f} % (95 % interval over 2 tasks), "
        f"by the support set's statistics (inductive)"
    )
    assert "transductive" in str(mamlpp.Evaluation(half, losses, reading="queries"))


def drawn(images, tasks, seed):
    """The tasks that `evaluate` draws with this seed."""
    seed = stream_seed(seed, "evaluation")
    return mamlpp.TaskSampler(images, WAYS, 1, 2, seed=seed).sample(tasks)


def cross_entropy(logits, labels):
    return torch.nn.functional.cross_entropy(logits, labels).item()


SHARED = {"norm_statistics": "shared"}


@pytest.mark.parametrize(
    ("recipe", "reading"),
    [*((recipe, r) for r in READINGS for recipe in (SHARED, PLUS_PLUS)), ({}, "support")],
)
def test_each_row_equals_adapting_with_that_many_steps(make_run, images, recipe, reading):
    run = make_run(**recipe)
    result = mamlpp.evaluate(run, images, tasks=3, seed=7, reading=reading)
    assert result.accuracies.shape == result.losses.shape == (6, 3)
    for index, task in enumerate(drawn(images, 3, seed=7)):
        for step in range(6):
            classify = run.learner.adapt(task.support_x, task.support_y, step, reading)
            logits = classify(task.query_x)
            hits = [row.argmax() == label for row, label in zip(logits, task.query_y, strict=True)]
            assert result.accuracies[step, index] == pytest.approx(sum(hits) / len(hits))
            loss = cross_entropy(logits, task.query_y)
            assert result.losses[step, index] == pytest.approx(loss, rel=1e-5)
    assert len(set(result.loss_by_step)) == 6


def test_evaluating_only_the_last_step_gives_the_last_row(run, images):
    def scores(**options):
        sampler = mamlpp.TaskSampler(images, WAYS, 1, 2)
        return mamlpp.evaluate_tasks(run.learner, sampler, 3, **options)

    last, all_steps = scores(), scores(every_step=True)
    assert last.losses.shape == (1, 3)
    assert torch.equal(last.losses[0], all_steps.losses[-1])
    assert torch.equal(last.confidences, all_steps.confidences)


def test_each_task_is_adapted_to_only_once(run, images, monkeypatch):
    adapted = []
    original = maml.inner_loop

    def inner_loop(*arguments, **options):
        path = original(*arguments, **options)
        head = path[0]["head.weight"]  # [B, N, F]
        adapted.extend([head.dtype] * len(head))
        return path

    monkeypatch.setattr(maml, "inner_loop", inner_loop)
    mamlpp.evaluate_readings(run, images, tasks=3)
    # The engine checks itself against the definition in float64; those paths do not count.
    assert adapted.count(torch.float32) == 3


def test_there_is_one_score_per_task_even_if_they_are_drawn_in_several_batches(run, images):
    result = mamlpp.evaluate(run, images, tasks=53, steps=0)
    assert result.accuracies.shape == result.losses.shape == (1, 53)
    assert result.confidences.shape == result.hits.shape == (53, WAYS * 2)


def test_the_same_seed_gives_the_same_tasks_and_another_seed_different_ones(run, images):
    def losses(**seed):
        return mamlpp.evaluate(run, images, tasks=5, **seed).losses

    assert torch.equal(losses(), losses())
    assert torch.equal(losses(seed=1), losses(seed=1))
    assert not torch.equal(losses(), losses(seed=1))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_no_seed_gives_the_tasks_of_training_or_validation(run, images, split):
    images = dataclasses.replace(images, split=split)
    evaluated = mamlpp.evaluate(run, images, tasks=5, seed=3).losses[-1]
    trained = mamlpp.TaskSampler(images, WAYS, 1, 2, seed=3)
    assert not torch.isclose(mamlpp.evaluate_tasks(run.learner, trained, 5).losses, evaluated).any()


@pytest.mark.parametrize("recipe", [{}, {"norm_statistics": "shared"}, PLUS_PLUS])
def test_evaluation_does_not_change_the_learner(make_run, images, recipe):
    run = make_run(**recipe)
    before = {name: value.clone() for name, value in run.learner.state_dict().items()}
    mamlpp.evaluate_readings(run, images, tasks=2, ensemble=2)
    after = run.learner.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    assert all(parameter.grad is None for parameter in run.learner.parameters())
    assert all(parameter.requires_grad for parameter in run.learner.parameters())


@pytest.mark.parametrize("recipe", [{}, {"norm_statistics": "shared"}, PLUS_PLUS])
def test_queries_depend_on_each_other_only_by_their_own_statistics(make_run, images, recipe):
    learner = make_run(**recipe).learner
    tasks = drawn(images, 4, seed=1)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    permuted = mamlpp.TaskBatch(
        tasks.support_x, tasks.support_y, tasks.query_x[:, order], tasks.query_y[:, order]
    )
    fewer = mamlpp.TaskBatch(
        tasks.support_x, tasks.support_y, tasks.query_x[:, :2], tasks.query_y[:, :2]
    )

    def evaluate(batch, reading="support"):
        return mamlpp.evaluate_tasks(learner, FixedSampler(batch), 4, reading=reading)

    assert torch.equal(evaluate(permuted).accuracies, evaluate(tasks).accuracies)
    for reading in learner.readings:
        alone = evaluate(fewer, reading).confidences
        together = evaluate(tasks, reading).confidences[:, :2]
        assert torch.allclose(alone, together, atol=1e-5) == (reading != "queries")


class FixedSampler:
    """A sampler that returns the tasks of one batch."""

    def __init__(self, batch):
        self.batch = batch

    def sample(self, tasks):
        return self.batch.split(tasks)[0]


def test_the_readings_differ(make_run, images):
    run = make_run(**PLUS_PLUS)
    found = [mamlpp.evaluate(run, images, tasks=5, reading=reading) for reading in READINGS]
    assert [one.reading for one in found] == list(READINGS)
    for one, other in itertools.combinations(found, 2):
        assert not torch.isclose(one.losses, other.losses).any()


def test_a_reading_that_is_not_there_is_refused(run, images):
    with pytest.raises(mamlpp.InputError, match=r"no reading 'running' .* support, queries; runn"):
        mamlpp.evaluate(run, images, tasks=3, reading="running")
    with pytest.raises(mamlpp.InputError, match=r"no reading 'transductive'.* support, queries"):
        mamlpp.evaluate(run, images, tasks=3, reading="transductive")


def test_more_inner_steps_than_in_training_are_allowed(run, images):
    as_trained = mamlpp.evaluate(run, images, tasks=2).losses
    more = mamlpp.evaluate(run, images, tasks=2, steps=6).losses
    assert torch.equal(mamlpp.evaluate(run, images, tasks=2, steps=5).losses, as_trained)
    assert torch.equal(more[:-1], as_trained)
    assert not torch.equal(more[-1], as_trained[-1])


def test_accuracy_before_the_first_step_is_chance(run, images):
    assert 0.23 < mamlpp.evaluate(run, images, tasks=200, steps=1).accuracy_by_step[0] < 0.43


@pytest.mark.parametrize("tasks", [1, 0, -3])
def test_fewer_than_two_tasks_are_refused(run, images, tasks):
    with pytest.raises(mamlpp.InputError, match=f"at least 2 tasks, not {tasks}"):
        mamlpp.evaluate(run, images, tasks=tasks)


# Ensembles


def test_an_ensemble_of_one_is_the_run_s_learner_and_loads_no_other(run, images):
    run.best = None
    result = mamlpp.evaluate(run, images, tasks=3, ensemble=1)
    sampler = mamlpp.TaskSampler(images, WAYS, 1, 2, seed=stream_seed(600, "evaluation"))
    alone = mamlpp.evaluate_tasks(run.learner, sampler, 3)
    assert torch.equal(result.losses[-1], alone.losses[-1])


def test_an_ensemble_of_identical_learners_equals_the_single_learner(run, images):
    single = mamlpp.evaluate(run, images, tasks=3)
    run.best = lambda k: [run.learner] * k
    for members in (2, 3):
        result = mamlpp.evaluate(run, images, tasks=3, ensemble=members)
        assert torch.equal(result.accuracies, single.accuracies)
        torch.testing.assert_close(result.losses, single.losses, rtol=1e-5, atol=1e-6)


def test_an_ensemble_averages_logits_of_members_adapted_each_by_itself(run, images):
    members = [mamlpp.MetaLearner(run.recipe, images.shape, WAYS, seed=seed) for seed in (1, 2)]
    run.best = lambda k: members[:k]
    result = mamlpp.evaluate(run, images, tasks=3, ensemble=2, seed=7)
    for index, task in enumerate(drawn(images, 3, seed=7)):
        for step in range(6):
            one, other = (
                member.adapt(task.support_x, task.support_y, step)(task.query_x)
                for member in members
            )
            loss = cross_entropy((one + other) / 2, task.query_y)
            assert result.losses[step, index] == pytest.approx(loss, rel=1e-5)


def test_an_ensemble_consists_of_the_best_checkpoints(run, images):
    members = run.best(3)
    sampler = mamlpp.TaskSampler(images, WAYS, 1, 2, seed=stream_seed(600, "evaluation"))
    by_hand = mamlpp.evaluate_tasks(members, sampler, 3)
    result = mamlpp.evaluate(run, images, tasks=3, ensemble=3)
    assert torch.equal(result.losses[-1], by_hand.losses[-1])
    assert not torch.equal(result.losses, mamlpp.evaluate(run, images, tasks=3).losses)


def test_an_ensemble_larger_than_the_number_of_checkpoints_is_refused(run, images):
    with pytest.raises(mamlpp.InputError, match=r"ensemble of 7 .* the run has only 4; choose"):
        mamlpp.evaluate(run, images, tasks=3, ensemble=7)


@pytest.mark.parametrize("members", [0, -1])
def test_an_empty_ensemble_is_refused(run, images, members):
    with pytest.raises(mamlpp.InputError, match=f"at least 1 checkpoint, not {members}"):
        mamlpp.evaluate(run, images, tasks=3, ensemble=members)


def test_evaluating_all_readings_at_once_equals_one_at_a_time(make_run, images):
    run = make_run(**PLUS_PLUS)
    results = mamlpp.evaluate_readings(run, images, tasks=3, ensemble=3)
    assert list(results) == list(READINGS)
    for reading, pair in results.items():
        for members, result in zip((1, 3), (pair["single"], pair["ensemble"]), strict=True):
            alone = mamlpp.evaluate(run, images, tasks=3, ensemble=members, reading=reading)
            assert (result.reading, alone.reading) == (reading, reading)
            torch.testing.assert_close(result.losses, alone.losses)


# Calibration


def certain(probability, right, total):
    """Logits that give class 0 of 2 this probability; `right` of the `total` labels are 0."""
    logits = torch.tensor([probability, 1 - probability]).log().expand(1, 1, total, 2)
    return logits, (torch.arange(total) >= right).long().unsqueeze(0)


@pytest.mark.parametrize(
    ("probability", "right", "error"),
    [(0.8, 80, 0), (0.8, 50, 0.3), (0.6, 100, 0.4), (1 - 1e-7, 0, 1), (1 - 1e-7, 100, 0)],
)
def test_calibration_error_is_the_gap_between_confidence_and_accuracy(probability, right, error):
    evaluation = mamlpp.Evaluation.of(*certain(probability, right, 100))
    assert evaluation.calibration_error == pytest.approx(error, abs=1e-6)


def test_calibration_errors_of_the_bins_do_not_cancel():
    parts = certain(0.9, 60, 100), certain(0.62, 90, 100), certain(0.62, 60, 200)
    logits, labels = zip(*parts, strict=True)
    evaluation = mamlpp.Evaluation.of(torch.cat(logits, 2), torch.cat(labels, 1))
    # Of the 300 queries with confidence 0.62, half are right; of the 100 with 0.9, 60.
    assert evaluation.calibration_error == pytest.approx((300 * 0.12 + 100 * 0.3) / 400, abs=1e-6)
    calibration = evaluation.calibration
    assert calibration.counts.nonzero().flatten().tolist() == [9, 13]
    assert calibration.counts[[9, 13]].tolist() == [300, 100]
    assert calibration.accuracies[[9, 13]].tolist() == pytest.approx([0.5, 0.6])
    assert calibration.confidences[[9, 13]].tolist() == pytest.approx([0.62, 0.9])


def test_calibration_uses_the_last_step():
    logits, labels = certain(0.8, 80, 100)
    evaluation = mamlpp.Evaluation.of(torch.cat([3 * logits, logits]), labels)
    assert evaluation.calibration_error == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("reading", ["support", "queries"])
def test_a_diverged_learner_can_be_evaluated(run, images, reading):
    with torch.no_grad():
        run.learner.network.head.weight.fill_(torch.nan)
    result = mamlpp.evaluate(run, images, tasks=3, reading=reading)
    assert math.isnan(result.loss)
    assert math.isnan(result.calibration_error)
    assert result.calibration.counts.sum() == 3 * WAYS * 2
    about = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert about["calibration_error"] is None


# JSON


def test_json_holds_every_number_and_restores_it(run, images):
    result = mamlpp.evaluate(run, images, tasks=5)
    about = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert about == result.as_dict()
    for name in ("reading", "accuracy", "interval", "loss", "accuracy_by_step"):
        assert about[name] == getattr(result, name)
    assert (about["tasks"], about["calibration_error"]) == (5, result.calibration_error)
    assert about["loss_by_step"] == result.losses.mean(1).tolist()
    assert about["accuracies"] == result.accuracies[-1].tolist()
    assert sum(about["calibration"]["counts"]) == 5 * WAYS * 2
    assert {len(values) for values in about["calibration"].values()} == {15}


def test_json_has_null_for_numbers_that_are_not_finite():
    logits = torch.full((2, 3, 4, 5), torch.nan)
    about = mamlpp.Evaluation.of(logits, torch.ones(3, 4, dtype=torch.long)).as_dict()
    assert json.loads(json.dumps(about, allow_nan=False))["loss_by_step"] == [None, None]
