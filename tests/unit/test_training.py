"""The outer loop: what it records, what it learns, and that nothing gets lost on the way."""

import copy
import math

import pytest
import torch

import mamlpp
from mamlpp import maml
from mamlpp.run import trainer as training
from mamlpp.run.evaluation import Evaluation
from mamlpp.run.history import COLUMNS, gradient_rows

WAYS = 5
RECIPE = mamlpp.RECIPES["maml"].with_(
    filters=4, inner_steps=1, meta_batch=2, epochs=2, iterations_per_epoch=3, validation_tasks=4
)


def patterns(split, size=16, classes=12, samples=8):
    """Each class is a random pattern of its own, each sample that pattern under noise."""
    draw = torch.Generator().manual_seed(len(split))
    pattern = torch.randint(0, 256, (classes, 1, 1, size, size), generator=draw)
    noise = torch.randint(-60, 61, (classes, samples, 1, size, size), generator=draw)
    images = (pattern + noise).clamp(0, 255).byte()
    return mamlpp.ImageSet(images, tuple(map(str, range(classes))), "patterns", split)


def sampler(split, ways=WAYS, shots=1, queries=2, size=16, seed=0):
    return mamlpp.TaskSampler(patterns(split, size), ways, shots, queries, seed=seed)


def make_trainer(sampling_seed=0, **changes):
    train, validation = (sampler(split, seed=sampling_seed) for split in ("train", "validation"))
    return mamlpp.Trainer(RECIPE.with_(**changes), train, validation)


@pytest.fixture
def trainer():
    return make_trainer()


def weights(module):
    return torch.nn.utils.parameters_to_vector(module.parameters()).detach().clone()


@pytest.fixture
def validations(monkeypatch):
    """Validation says 0.5, 0.9, 0.3, … in turn; the result lists the weights it was given."""
    seen = []

    def evaluate_tasks(learner, *_, **__):
        seen.append(weights(learner))
        accuracy = torch.tensor([(0.5, 0.9, 0.3)[len(seen) - 1]] * 2)
        return Evaluation(accuracy, 1 - accuracy, transductive=False)

    monkeypatch.setattr(training, "evaluate_tasks", evaluate_tasks)
    return seen


# What is recorded


def test_the_gradient_is_followed_back_at_the_interval_and_changes_nothing(monkeypatch):
    plain, looking = make_trainer(), make_trainer()
    looking.diagnose_every = 4
    looked = []

    def diagnose(learner, task, epoch, original=training.diagnose):
        looked.append(original(learner, task, epoch))
        return looked[-1]

    monkeypatch.setattr(training, "diagnose", diagnose)
    without, run = plain.fit(), looking.fit()
    assert torch.equal(weights(without.learner), weights(run.learner))
    assert without.gradients.rows == []
    assert looking.diagnosis is looked[-1]
    assert [look.epoch for look in looked] == [0, 4 / 3]
    expected = gradient_rows(looked[0], 1) + gradient_rows(looked[1], 5)
    assert run.gradients.rows == expected
    cosines = [row.get("first_order_cosine") for row in run.history.rows]
    assert cosines == [looked[0].cosine, None, None, None, looked[1].cosine, None]


def test_the_gradients_of_a_folder_are_read_back(tmp_path):
    train, validation = (sampler(split) for split in ("train", "validation"))
    run = mamlpp.Trainer(RECIPE, train, validation, tmp_path / "a", diagnose_every=3).fit()
    assert {row["iteration"] for row in run.gradients.rows} == {1, 4}
    assert mamlpp.Run.load(tmp_path / "a").gradients.rows == run.gradients.rows
    assert set(run.gradients.frame()["layer"]) == {*(f"blocks.{i}.conv" for i in range(4)), "head"}


def test_an_interval_must_be_a_number_of_steps():
    with pytest.raises(mamlpp.InputError, match="diagnose_every must be a number of meta-steps"):
        mamlpp.Trainer(RECIPE, sampler("train"), sampler("validation"), diagnose_every=0)


def test_the_memory_recorded_is_the_most_so_far(trainer):
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


def test_validation_is_recorded_at_the_end_of_each_epoch_and_nowhere_else(trainer):
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
    other = make_trainer(sampling_seed=1).fit()
    assert torch.equal(weights(run.learner), weights(again.learner))
    assert run.history.column("loss") == again.history.column("loss")
    assert run.history.column("loss") != other.history.column("loss")


def test_adam_gets_the_gradient_of_the_whole_meta_batch():
    trainer = make_trainer(meta_batch=3)
    learner = copy.deepcopy(trainer.learner)
    loss, report = learner.meta_loss(sampler("train").sample(3))
    loss.backward()
    row = trainer.step()
    expected = [parameter.grad for parameter in learner.parameters()]
    torch.testing.assert_close([p.grad for p in trainer.learner.parameters()], expected)
    norm = torch.cat([gradient.flatten() for gradient in expected]).norm()
    assert row["loss"] == pytest.approx(loss.item())
    assert row["accuracy"] == pytest.approx(report.accuracy.item())
    assert row["gradient_norm"] == pytest.approx(norm.item())


def test_training_learns():
    trainer = make_trainer(
        filters=8,
        meta_batch=4,
        epochs=1,
        iterations_per_epoch=40,
        outer_rate=0.01,
        validation_tasks=60,
    )
    untrained = trainer.validate()["validation_accuracy"]
    [trained] = trainer.fit().history.column("validation_accuracy")
    assert trained > 3 / WAYS
    assert trained > untrained + 0.1


def test_the_run_has_the_weights_that_were_best_on_validation(validations):
    trainer = make_trainer(epochs=3)
    run = trainer.fit()
    assert run.history.column("validation_accuracy") == pytest.approx([0.5, 0.9, 0.3])
    assert torch.equal(weights(run.learner), validations[1])
    assert torch.equal(weights(trainer.learner), validations[2])
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


def test_a_gradient_that_is_not_finite_is_recorded_and_not_applied(trainer, monkeypatch):
    def infinite(*arguments, original=trainer.engine.meta_gradient):
        report = original(*arguments)
        next(trainer.learner.parameters()).grad.mul_(math.inf)
        return report

    trainer.step()
    before = weights(trainer.learner), copy.deepcopy(trainer.optimizer.state_dict())
    with monkeypatch.context() as patch:
        patch.setattr(trainer.engine, "meta_gradient", infinite)
        row = trainer.step()
    assert not math.isfinite(row["gradient_norm"])
    assert row["iteration"] == 2
    after = weights(trainer.learner), trainer.optimizer.state_dict()
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert math.isfinite(trainer.step()["gradient_norm"])
    assert not torch.equal(weights(trainer.learner), before[0])


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
    assert torch.equal(weights(run.learner), weights(undisturbed.learner))
    for column in ("loss", "validation_accuracy"):
        assert run.history.column(column) == undisturbed.history.column(column)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ways": 4}, "training tasks have 5 ways and validation tasks 4; give both"),
        ({"shots": 2}, "training tasks have 1 shots and validation tasks 2; give both"),
        ({"size": 20}, r"training images are \[1, 16, 16\] and validation images \[1, 20, 20\]"),
    ],
)
def test_samplers_that_do_not_match_are_refused(changes, said):
    with pytest.raises(mamlpp.InputError, match=said):
        mamlpp.Trainer(RECIPE, sampler("train"), sampler("validation", **changes))


def test_other_queries_in_validation_are_fine():
    mamlpp.Trainer(RECIPE, sampler("train"), sampler("validation", queries=3)).validate()
