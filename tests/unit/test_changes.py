"""Changes during training, by hand or in length: noted, permanent, in force at once."""

import threading
import warnings
from functools import partial

import pytest
import torch
from filelock import FileLock

import mamlpp
from mamlpp import schedules
from mamlpp.run import validation
from mamlpp.run.changes import CHANGEABLE
from tests.makers import advance, flat_weights, noise_trainer

make_trainer = partial(noise_trainer, "maml", meta_batch=2, iterations_per_epoch=4)


def test_advancing_step_by_step_matches_fit():
    fitted, stepped = make_trainer(), make_trainer()
    advance(stepped, 5)
    assert not stepped.done
    advance(stepped, 3)
    assert stepped.done
    actual, expected = stepped.result(), fitted.fit()
    assert torch.equal(flat_weights(actual.learner), flat_weights(expected.learner))
    assert actual.history.column("validation_loss") == expected.history.column("validation_loss")
    assert actual.changes.rows == []


@pytest.mark.parametrize(
    ("fields", "row"),
    [
        ({"inner_rate": 0.4}, {"field": "inner_rate", "value": 0.4}),
        ({"second_order_from": None}, {"field": "second_order_from"}),
        ({"msl_epochs": 5}, {"field": "msl_epochs", "value": 5.0}),
        ({"outer_rate": 0.1}, {"field": "outer_rate", "value": 0.1}),
        ({"clip_norm": 1e-9}, {"field": "clip_norm", "value": 1e-9}),
    ],
)
def test_a_change_takes_effect_in_the_next_meta_step_and_is_noted(fields, row):
    plain, changed = make_trainer(), make_trainer()
    for trainer in (plain, changed):
        advance(trainer, 2)
    changed.change(**fields)
    assert torch.equal(flat_weights(plain.learner), flat_weights(changed.learner))
    for trainer in (plain, changed):
        advance(trainer, 1)
    assert not torch.equal(flat_weights(plain.learner), flat_weights(changed.learner))
    assert changed.changes.rows == [{"iteration": 3, "epoch": 0.5, **row}]


def test_a_change_before_training_equals_a_recipe_with_that_value():
    other, changed = make_trainer(inner_rate=0.02, msl_epochs=1), make_trainer()
    changed.change(inner_rate=0.02, msl_epochs=1)
    actual, expected = changed.fit(), other.fit()
    assert torch.equal(flat_weights(actual.learner), flat_weights(expected.learner))
    assert actual.recipe == make_trainer().recipe
    assert actual.learner.recipe == other.recipe


def test_setting_the_current_value_is_no_change(tmp_path):
    trainer = make_trainer(tmp_path / "a")
    trainer.change(inner_rate=0.1, clip_norm=None)
    assert trainer.changes.rows == []
    assert not (tmp_path / "a" / "changes.csv").exists()


@pytest.mark.parametrize(
    ("recipe", "fields", "message"),
    [
        ({}, {"filters": 8}, "filters cannot change during training; second_order_from,"),
        ({}, {"inner_rate": -1.0}, "inner_rate must be positive"),
        ({"inner_rule": "lslr"}, {"inner_rate": 1.0}, "the inner rule 'lslr' learns its rates"),
        ({"outer_rate_min": 1e-4}, {"outer_rate": 1e-5}, "outer_rate_min 0.0001 is above"),
    ],
)
def test_an_invalid_change_is_rejected_and_changes_nothing(recipe, fields, message):
    trainer = make_trainer(**recipe)
    before = trainer.recipe
    with pytest.raises(mamlpp.InputError, match=message):
        trainer.change(**fields)
    assert trainer.recipe == before
    assert trainer.changes.rows == []


def test_every_changeable_field_is_a_recipe_field():
    assert set(CHANGEABLE) <= set(mamlpp.Recipe().as_dict())


# Resumed


def train_with_changes(trainer, until=8):
    """Train with fixed changes at fixed iterations, skipping those already made."""
    plan = {2: {"inner_rate": 0.02}, 5: {"second_order_from": None, "clip_norm": 0.5}}
    with trainer.alone():
        while trainer.iteration < until:
            done = {row["iteration"] - 1 for row in trainer.changes.rows}
            if trainer.iteration in plan and trainer.iteration not in done:
                trainer.change(**plan[trainer.iteration])
            trainer.advance()


@pytest.mark.parametrize("killed", [2, 3, 5, 6])
def test_a_resumed_run_keeps_its_changes_bit_for_bit(killed, tmp_path):
    undisturbed = make_trainer(tmp_path / "a")
    train_with_changes(undisturbed)
    killed_trainer = make_trainer(tmp_path / "b")
    train_with_changes(killed_trainer, until=killed)
    if killed in (2, 5):
        plan = {2: {"inner_rate": 0.02}, 5: {"second_order_from": None, "clip_norm": 0.5}}
        killed_trainer.change(**plan[killed])  # killed right after the change
    del killed_trainer
    resumed = make_trainer(tmp_path / "b")
    assert (resumed.recipe.inner_rate, resumed.learner.rule.rate) == (0.02, 0.02)
    assert (resumed.recipe.second_order_from is None) == (killed >= 5)
    train_with_changes(resumed)
    assert torch.equal(flat_weights(resumed.learner), flat_weights(undisturbed.learner))
    assert resumed.changes.rows == undisturbed.changes.rows
    files = [(tmp_path / name / "changes.csv").read_text("utf-8") for name in "ab"]
    assert files[0] == files[1]
    assert len(files[0].splitlines()) == 4


def test_a_change_after_the_last_checkpoint_is_dropped(tmp_path):
    trainer = make_trainer(tmp_path / "a")
    advance(trainer, 2)
    trainer.save()
    advance(trainer, 1)
    trainer.change(inner_rate=0.02)
    (tmp_path / "a" / "checkpoint-00000003.safetensors").unlink()
    resumed = make_trainer(tmp_path / "a")
    assert (resumed.iteration, resumed.changes.rows) == (2, [])
    assert resumed.recipe == make_trainer().recipe


def test_weights_from_before_a_change_keep_the_recipe_they_were_trained_with(tmp_path):
    trainer = make_trainer(tmp_path / "a")
    advance(trainer, 4)
    trainer.change(inner_rate=0.02)
    run = trainer.fit()
    for loaded in (run, mamlpp.Run.load(tmp_path / "a")):
        members = zip(loaded.kept, loaded.best(), strict=True)
        rates = {best.iteration: learner.rule.rate for best, learner in members}
        assert rates == {4: 0.1, 8: 0.02}
        assert loaded.learner.rule.rate == rates[loaded.kept[0].iteration]
        assert loaded.recipe.inner_rate == 0.1
    assert mamlpp.Run.load(tmp_path / "a", "latest").learner.rule.rate == 0.02


def test_an_interrupted_step_is_finished_before_a_change(monkeypatch, tmp_path):
    trainer = make_trainer(tmp_path / "a")
    advance(trainer, 3)
    monkeypatch.setattr(validation, "evaluate_tasks", _interrupt)
    with pytest.raises(KeyboardInterrupt):
        advance(trainer, 1)
    monkeypatch.undo()
    trainer.change(inner_rate=0.02)
    assert trainer.history.rows[-1]["iteration"] == 4
    assert trainer.history.column("validation_loss")
    assert trainer.changes.rows[0]["iteration"] == 5
    assert make_trainer(tmp_path / "a").recipe.inner_rate == 0.02


def _interrupt(*_, **__):
    raise KeyboardInterrupt


# Another length


make_plus = partial(noise_trainer, "maml++", meta_batch=2, iterations_per_epoch=4)


def lengthen(directory, epochs=4, **changes):
    with pytest.warns(mamlpp.InputWarning, match="goes on with epochs") as said:
        trainer = make_plus(directory, epochs=epochs, **changes)
    return trainer, str(said[-1].message)


@pytest.mark.parametrize("trained", [0, 3, 8])
def test_a_run_goes_on_to_a_larger_number_of_epochs(trained, tmp_path):
    begun = make_plus(tmp_path)
    advance(begun, trained)
    begun.save()
    trainer, said = lengthen(tmp_path)
    assert said == (
        f"the run in {tmp_path} goes on with epochs 4 instead of 2, second_order_from 1.33333 "
        f"instead of 0.666667, msl_epochs 0.4 instead of 0.2, from meta-step {trained + 1} on, as "
        f"its changes.csv says"
    )
    run = trainer.fit()
    short, long = make_plus(epochs=2).recipe, make_plus(epochs=4).recipe
    assert [(row["iteration"], row["field"], row["value"]) for row in run.changes.rows] == [
        (trained + 1, name, getattr(long, name))
        for name in ("second_order_from", "msl_epochs", "epochs")
    ]
    assert run.history.column("iteration") == list(range(1, 17))
    assert run.history.column("outer_rate") == [
        schedules.outer_rate(1e-3, 1e-5, 2 if step < trained else 4, step / 4) for step in range(16)
    ]
    for one in (run, mamlpp.Run.load(tmp_path)):
        assert one.recipe == short, "what it began with"
        in_force = {
            best.iteration: member.recipe for best, member in zip(one.kept, one.best(), strict=True)
        }
        assert in_force == {best: short if best <= trained else long for best in (4, 8, 12, 16)}
    assert mamlpp.Run.load(tmp_path, "latest").learner.recipe == long


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of a run that was made longer, and the run."""
    folder = tmp_path_factory.mktemp("undisturbed")
    make_plus(folder).fit()
    return folder, lengthen(folder)[0].fit()


@pytest.mark.parametrize("killed", [0, 1, 5])
def test_a_longer_run_that_is_killed_and_resumed_continues_bit_for_bit(
    killed, undisturbed, tmp_path
):
    make_plus(tmp_path).fit()
    advance(lengthen(tmp_path)[0], killed)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # It was said once.
        resumed = make_plus(tmp_path, epochs=4).fit()
    folder, run = undisturbed
    assert torch.equal(flat_weights(resumed.learner), flat_weights(run.learner))
    for column in ("loss", "outer_rate", "validation_loss"):
        assert resumed.history.column(column) == run.history.column(column)
    assert (tmp_path / "changes.csv").read_bytes() == (folder / "changes.csv").read_bytes()


def test_a_longer_run_can_be_made_longer_again_and_shorter_by_what_it_has_not_trained(tmp_path):
    make_plus(tmp_path).fit()
    advance(lengthen(tmp_path)[0], 4)
    trainer = lengthen(tmp_path, 6)[0]
    assert trainer.recipe == make_plus(epochs=6).recipe
    assert lengthen(tmp_path, 3)[0].fit().history.rows[-1]["iteration"] == 12
    assert mamlpp.Run.load(tmp_path).changes.column("iteration") == [9] * 3 + [13] * 6


def test_a_number_of_epochs_below_what_was_trained_is_refused_and_changes_nothing(tmp_path):
    advance(make_plus(tmp_path), 6)
    trainer = make_plus(tmp_path)
    advance(trainer, 1)
    trainer.save()
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.*")}
    with pytest.raises(mamlpp.InputError) as error:
        make_plus(tmp_path, epochs=1)
    assert str(error.value) == (
        f"the run in {tmp_path} has trained 1.25 epochs already; choose epochs from 2 on, or "
        f"another folder"
    )
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.*")} == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"filters": 5}, "filters is 4 there and 5 here"),
        ({"msl_epochs": 1.0}, "msl_epochs is 0.2 there and 1.0 here"),
        ({"second_order_from": None}, "second_order_from is 0.6.* there and None here"),
        ({"iterations_per_epoch": 5}, "iterations_per_epoch is 4 there and 5 here"),
    ],
)
def test_nothing_else_may_differ_from_the_run_in_the_folder(changes, said, tmp_path):
    make_plus(tmp_path)
    with pytest.raises(mamlpp.InputError, match=f"holds another run: {said}; choose another"):
        make_plus(tmp_path, **{"epochs": 4} | changes)


def test_milestones_that_were_given_as_epochs_stay_where_they_are(tmp_path):
    fixed = {"msl_epochs": 1.5, "second_order_from": 0.5}
    make_plus(tmp_path, **fixed).fit()
    trainer, _ = lengthen(tmp_path, **fixed)
    assert trainer.changes.column("field") == ["epochs"]
    assert (trainer.recipe.msl_epochs, trainer.recipe.second_order_from) == (1.5, 0.5)


def test_what_was_changed_by_hand_stays_in_a_longer_run(tmp_path):
    trainer = make_plus(tmp_path)
    advance(trainer, 2)
    trainer.change(second_order_from=None, outer_rate=0.01)
    trainer.fit()
    trainer, _ = lengthen(tmp_path)
    assert trainer.changes.column("field")[-2:] == ["msl_epochs", "epochs"]
    assert (trainer.recipe.second_order_from, trainer.recipe.outer_rate) == (None, 0.01)


# Exclusive access


def test_only_the_thread_that_holds_a_trainer_can_enter_it_again(tmp_path):
    for trainer in (make_trainer(), make_trainer(tmp_path / "a")):
        with trainer.alone(), trainer.alone():
            error = error_in_thread(trainer.fit)
        assert isinstance(error, mamlpp.InputError)
        assert "at work in another thread" in str(error)
        assert error_in_thread(trainer.fit) is None


def test_the_folder_is_unlocked_afterwards(tmp_path):
    trainer = make_trainer(tmp_path / "a")
    with trainer.alone(), trainer.alone():
        pass
    other = FileLock(tmp_path / "a" / ".lock", timeout=0)
    with other, pytest.raises(mamlpp.InputError, match="another training is at work"):
        trainer.fit()
    assert trainer.fit().history.rows


def error_in_thread(function):
    """Call a function on another thread and return the exception it raised, if any."""
    raised = []

    def call():
        try:
            function()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    return raised[0] if raised else None
