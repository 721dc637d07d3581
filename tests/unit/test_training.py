"""The outer loop: what it records, what it learns, and that nothing gets lost on the way."""

import copy
import math
from functools import partial

import pytest
import torch

import mamlpp
from mamlpp import maml
from mamlpp.run import trainer as training
from mamlpp.run import validation
from mamlpp.run.evaluation import Evaluation
from mamlpp.run.history import COLUMNS, gradient_rows
from tests.makers import flat, flat_weights, gradients, noise_sampler, noise_trainer

make_trainer = partial(noise_trainer, inner_steps=1, meta_batch=2, iterations_per_epoch=3)


def pattern_sampler(split, classes=12, samples=8, size=16):
    """Each class is a random pattern of its own, each sample that pattern under noise."""
    draw = torch.Generator().manual_seed(len(split))
    pattern = torch.randint(0, 256, (classes, 1, 1, size, size), generator=draw)
    noise = torch.randint(-60, 61, (classes, samples, 1, size, size), generator=draw)
    images = (pattern + noise).clamp(0, 255).byte()
    images = mamlpp.ImageSet(images, tuple(map(str, range(classes))), "patterns", split)
    return mamlpp.TaskSampler(images, ways=5, shots=1, queries=2)


@pytest.fixture
def trainer():
    return make_trainer()


@pytest.fixture
def validations(monkeypatch):
    """Validation says 0.5, 0.9, 0.3, … in turn; the result lists the weights it was given."""
    seen = []

    def evaluate_tasks(learner, *_, **__):
        seen.append(flat_weights(learner))
        accuracy = torch.tensor([(0.5, 0.9, 0.3)[len(seen) - 1]] * 2)
        return Evaluation(accuracy, 1 - accuracy)

    monkeypatch.setattr(validation, "evaluate_tasks", evaluate_tasks)
    return seen


# The history


def test_diagnoses_come_at_the_interval_and_change_nothing(monkeypatch):
    plain, looking, looked = make_trainer(), make_trainer(diagnose_every=4), []

    def diagnose(learner, task, epoch, original=training.diagnose):
        looked.append(original(learner, task, epoch))
        return looked[-1]

    monkeypatch.setattr(training, "diagnose", diagnose)
    without, run = plain.fit(), looking.fit()
    assert torch.equal(flat_weights(without.learner), flat_weights(run.learner))
    assert without.gradients.rows == []
    assert looking.diagnosis is looked[-1]
    assert [look.epoch for look in looked] == [0, 4 / 3]
    expected = gradient_rows(looked[0], 1) + gradient_rows(looked[1], 5)
    assert run.gradients.rows == expected
    cosines = [row.get("first_order_cosine") for row in run.history.rows]
    assert cosines == [looked[0].cosine, None, None, None, looked[1].cosine, None]


def test_the_gradients_of_a_folder_are_read_back(tmp_path):
    run = make_trainer(directory=tmp_path / "a", diagnose_every=3).fit()
    assert {row["iteration"] for row in run.gradients.rows} == {1, 4}
    assert mamlpp.Run.load(tmp_path / "a").gradients.rows == run.gradients.rows
    assert set(run.gradients.frame()["layer"]) == {*(f"blocks.{i}.conv" for i in range(4)), "head"}


def test_an_interval_must_be_a_number_of_steps():
    with pytest.raises(mamlpp.InputError, match="diagnose_every must be a number of meta-steps"):
        make_trainer(diagnose_every=0)


def test_the_memory_is_the_most_used_so_far(trainer):
    memory = trainer.fit().history.column("memory_mb")
    assert memory == sorted(memory)
    assert memory[0] > 50


def test_the_history_has_one_row_a_meta_step_with_every_column(trainer):
    frame = trainer.fit().history.frame()
    assert list(frame) == list(COLUMNS)
    assert frame["iteration"].tolist() == [1, 2, 3, 4, 5, 6]
    assert frame["epoch"].tolist() == [0, 1 / 3, 2 / 3, 1, 4 / 3, 5 / 3]
    at_times = ["validation_loss", "validation_accuracy", "first_order_cosine"]
    at_times += ["nonfinite", "nonfinite_step"]
    assert not frame.drop(columns=at_times).isna().any(axis=None)
    assert frame["nonfinite"].isna().all()
    assert (frame[["loss", "gradient_norm", "seconds", "memory_mb"]] > 0).all(axis=None)


def test_each_epoch_ends_with_a_validation_and_there_is_no_other(trainer):
    frame = trainer.fit().history.frame()
    for column in ("validation_loss", "validation_accuracy"):
        assert frame["iteration"][frame[column].notna()].tolist() == [3, 6]


def test_validation_takes_the_same_tasks_each_time(trainer, monkeypatch):
    drawn = []

    def sample(tasks, original=trainer.validation.sample):
        drawn.append(original(tasks))
        return drawn[-1]

    monkeypatch.setattr(trainer.validation, "sample", sample)
    trainer.fit()
    first, second = drawn
    assert torch.equal(first.query_x, second.query_x)


# What is learned


def test_the_same_seeds_give_the_same_training_bit_by_bit(trainer):
    run, again = trainer.fit(), make_trainer().fit()
    other = make_trainer(sampler=partial(noise_sampler, seed=1)).fit()
    assert torch.equal(flat_weights(run.learner), flat_weights(again.learner))
    assert run.history.column("loss") == again.history.column("loss")
    assert run.history.column("loss") != other.history.column("loss")


def test_adam_gets_the_gradient_of_the_whole_meta_batch():
    trainer = make_trainer(meta_batch=3)
    learner = copy.deepcopy(trainer.learner)
    loss, report = learner.meta_loss(noise_sampler().sample(3))
    loss.backward()
    row = trainer.step()
    expected = gradients(learner)
    torch.testing.assert_close(gradients(trainer.learner), expected)
    norm = flat(expected.values()).norm()
    assert row["loss"] == pytest.approx(loss.item())
    assert row["accuracy"] == pytest.approx(report.accuracy.item())
    assert row["gradient_norm"] == pytest.approx(norm.item())


def test_training_learns():
    trainer = make_trainer(
        sampler=pattern_sampler, filters=8, meta_batch=4, epochs=1, iterations_per_epoch=40,
        outer_rate=0.01, validation_tasks=60,
    )  # fmt: skip
    untrained = trainer.validate()["validation_accuracy"]
    [trained] = trainer.fit().history.column("validation_accuracy")
    assert trained > 3 / 5
    assert trained > untrained + 0.1


def test_the_run_has_the_weights_that_were_best_on_validation(validations):
    trainer = make_trainer(epochs=3)
    run = trainer.fit()
    assert run.history.column("validation_accuracy") == pytest.approx([0.5, 0.9, 0.3])
    assert torch.equal(flat_weights(run.learner), validations[1])
    assert torch.equal(flat_weights(trainer.learner), validations[2])
    assert not torch.equal(validations[1], validations[2])


@pytest.mark.parametrize(
    ("second_order_from", "second_order"),
    [
        (None, [False] * 6),
        (0.0, [True] * 6),
        (1.0, [False] * 3 + [True] * 3),
        (0.5, [False] * 2 + [True] * 4),
    ],
)
def test_second_order_begins_at_exactly_its_epoch(second_order_from, second_order, monkeypatch):
    orders = []

    def task_loss(*arguments, original=maml.task_loss):
        orders.append(arguments[5])
        return original(*arguments)

    monkeypatch.setattr(maml, "task_loss", task_loss)
    make_trainer(second_order_from=second_order_from, meta_batch=1).fit()
    assert orders[1:] == second_order, "the first was the comparison with the definition"


# What goes wrong


def test_a_gradient_that_is_not_finite_is_reported_and_not_applied(trainer, monkeypatch):
    def infinite(*arguments, original=trainer.engine.meta_gradient):
        report = original(*arguments)
        next(trainer.learner.parameters()).grad.mul_(math.inf)
        return report

    trainer.step()
    before = flat_weights(trainer.learner), copy.deepcopy(trainer.optimizer.state_dict())
    with monkeypatch.context() as patch:
        patch.setattr(trainer.engine, "meta_gradient", infinite)
        row = trainer.step()
    assert not math.isfinite(row["gradient_norm"])
    assert row["iteration"] == 2
    after = flat_weights(trainer.learner), trainer.optimizer.state_dict()
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert math.isfinite(trainer.step()["gradient_norm"])
    assert not torch.equal(flat_weights(trainer.learner), before[0])


def interrupt(monkeypatch, owner, name, call):
    """`owner.name` is interrupted at the end of its `call`-th call."""
    calls, original = [], getattr(owner, name)

    def method(*arguments, **options):
        result = original(*arguments, **options)
        calls.append(name)
        if len(calls) == call:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(owner, name, method)


@pytest.mark.parametrize(
    ("part", "name", "call"),
    [
        ("train", "sample", 2),
        ("engine", "task_results", 2),  # after the gradient of the second meta-step
        ("validation", "sample", 1),
        ("validation", "sample", 2),
    ],
)
def test_an_interrupted_fit_goes_on_to_the_full_history(trainer, monkeypatch, part, name, call):
    interrupt(monkeypatch, getattr(trainer, part), name, call)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    frame = trainer.fit().history.frame()
    assert frame["iteration"].tolist() == [1, 2, 3, 4, 5, 6]
    assert frame["iteration"][frame["validation_loss"].notna()].tolist() == [3, 6]


def test_an_interrupted_validation_changes_nothing_that_is_learned(trainer, monkeypatch):
    undisturbed = make_trainer().fit()
    interrupt(monkeypatch, trainer.validation, "sample", 1)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    run = trainer.fit()
    assert torch.equal(flat_weights(run.learner), flat_weights(undisturbed.learner))
    for column in ("loss", "validation_accuracy"):
        assert run.history.column(column) == undisturbed.history.column(column)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ways": 4}, "ways are 3 in training tasks and 4 in validation tasks; give both"),
        ({"shots": 2}, "shots are 1 in training tasks and 2 in validation tasks; give both"),
        ({"size": 20}, r"training images are \[1, 16, 16\] and validation images \[1, 20, 20\]"),
    ],
)
def test_samplers_that_do_not_match_are_refused(changes, said):
    with pytest.raises(mamlpp.InputError, match=said):
        mamlpp.Trainer(mamlpp.Recipe(), noise_sampler(), noise_sampler("validation", **changes))


def test_other_queries_in_validation_are_fine():
    validation = noise_sampler("validation", queries=3)
    mamlpp.Trainer(make_trainer().recipe, noise_sampler(), validation).validate()
