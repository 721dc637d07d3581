"""Recipe changes by hand during training: noted, permanent, effective in the next meta-step."""

import threading
from functools import partial

import pytest
import torch
from filelock import FileLock

import mamlpp
from mamlpp.run import trainer as training
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
    files = [(tmp_path / name / "changes.csv").read_text() for name in "ab"]
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
    monkeypatch.setattr(training, "evaluate_tasks", _interrupt)
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
