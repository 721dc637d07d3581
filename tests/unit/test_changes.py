"""A recipe changed by hand while it trains: recorded, in force at once, and for good."""

import threading

import pytest
import torch
from filelock import FileLock

import mamlpp
from mamlpp.run import trainer as training
from mamlpp.run.changes import CHANGEABLE

RECIPE = mamlpp.RECIPES["maml"].with_(
    filters=4, inner_steps=2, meta_batch=2, epochs=2, iterations_per_epoch=4, validation_tasks=2
)


def sampler(split):
    draw = torch.Generator().manual_seed(len(split))
    images = torch.randint(0, 256, (8, 4, 1, 16, 16), generator=draw).byte()
    names = tuple(map(str, range(8)))
    return mamlpp.TaskSampler(mamlpp.ImageSet(images, names, "noise", split), 3, 1)


def make_trainer(directory=None, **fields):
    return mamlpp.Trainer(
        RECIPE.with_(**fields), sampler("train"), sampler("validation"), directory
    )


def advance(trainer, steps):
    with trainer.alone():
        for _ in range(steps):
            trainer.advance()


def weights(module):
    return torch.nn.utils.parameters_to_vector(module.parameters()).detach().clone()


def test_step_by_step_it_is_what_fit_does():
    fitted, stepped = make_trainer(), make_trainer()
    advance(stepped, 5)
    assert not stepped.done
    advance(stepped, 3)
    assert stepped.done
    ours, theirs = stepped.result(), fitted.fit()
    assert torch.equal(weights(ours.learner), weights(theirs.learner))
    assert ours.history.column("validation_loss") == theirs.history.column("validation_loss")
    assert ours.changes.rows == []


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
def test_a_change_acts_from_the_next_meta_step_on_and_is_recorded(fields, row):
    plain, changed = make_trainer(), make_trainer()
    for trainer in (plain, changed):
        advance(trainer, 2)
    changed.change(**fields)
    assert torch.equal(weights(plain.learner), weights(changed.learner))
    for trainer in (plain, changed):
        advance(trainer, 1)
    assert not torch.equal(weights(plain.learner), weights(changed.learner))
    assert changed.changes.rows == [{"iteration": 3, "epoch": 0.5, **row}]


def test_a_change_made_before_training_is_as_if_the_recipe_had_it():
    other, changed = make_trainer(inner_rate=0.02, msl_epochs=1), make_trainer()
    changed.change(inner_rate=0.02, msl_epochs=1)
    ours, theirs = changed.fit(), other.fit()
    assert torch.equal(weights(ours.learner), weights(theirs.learner))
    assert ours.recipe == RECIPE
    assert ours.learner.recipe == other.recipe


def test_what_is_the_same_already_is_no_change(tmp_path):
    trainer = make_trainer(tmp_path / "a")
    trainer.change(inner_rate=0.1, clip_norm=None)
    assert trainer.changes.rows == []
    assert not (tmp_path / "a" / "changes.csv").exists()


@pytest.mark.parametrize(
    ("recipe", "fields", "said"),
    [
        ({}, {"filters": 8}, "filters cannot be changed while a training runs; second_order_from,"),
        ({}, {"inner_rate": -1.0}, "inner_rate must be positive"),
        ({"inner_rule": "lslr"}, {"inner_rate": 1.0}, "the rule lslr learns its rates"),
        ({"outer_rate_min": 1e-4}, {"outer_rate": 1e-5}, "outer_rate_min 0.0001 is above"),
    ],
)
def test_a_change_that_cannot_be_is_refused_and_nothing_changes(recipe, fields, said):
    trainer = make_trainer(**recipe)
    before = trainer.recipe
    with pytest.raises(mamlpp.InputError, match=said):
        trainer.change(**fields)
    assert trainer.recipe == before
    assert trainer.changes.rows == []


def test_every_field_that_can_be_changed_is_one_of_the_recipe():
    assert set(CHANGEABLE) <= set(RECIPE.as_dict())


# Resumed


def play(trainer, until=8):
    """The same changes at the same iterations, whoever has trained up to now."""
    plan = {2: {"inner_rate": 0.02}, 5: {"second_order_from": None, "clip_norm": 0.5}}
    with trainer.alone():
        while trainer.iteration < until:
            done = {row["iteration"] - 1 for row in trainer.changes.rows}
            if trainer.iteration in plan and trainer.iteration not in done:
                trainer.change(**plan[trainer.iteration])
            trainer.advance()


@pytest.mark.parametrize("killed", [2, 3, 5, 6])
def test_a_resumed_run_goes_on_with_what_was_changed_bit_by_bit(killed, tmp_path):
    undisturbed = make_trainer(tmp_path / "a")
    play(undisturbed)
    killed_trainer = make_trainer(tmp_path / "b")
    play(killed_trainer, until=killed)
    if killed in (2, 5):
        plan = {2: {"inner_rate": 0.02}, 5: {"second_order_from": None, "clip_norm": 0.5}}
        killed_trainer.change(**plan[killed])  # and killed just then
    del killed_trainer
    resumed = make_trainer(tmp_path / "b")
    assert (resumed.recipe.inner_rate, resumed.learner.rule.rate) == (0.02, 0.02)
    assert (resumed.recipe.second_order_from is None) == (killed >= 5)
    play(resumed)
    assert torch.equal(weights(resumed.learner), weights(undisturbed.learner))
    assert resumed.changes.rows == undisturbed.changes.rows
    files = [(tmp_path / name / "changes.csv").read_text() for name in "ab"]
    assert files[0] == files[1]
    assert len(files[0].splitlines()) == 4


def test_a_change_that_no_checkpoint_knows_of_is_dropped(tmp_path):
    trainer = make_trainer(tmp_path / "a")
    advance(trainer, 2)
    trainer.save()
    advance(trainer, 1)
    trainer.change(inner_rate=0.02)
    (tmp_path / "a" / "checkpoint-00000003.safetensors").unlink()
    resumed = make_trainer(tmp_path / "a")
    assert (resumed.iteration, resumed.changes.rows) == (2, [])
    assert resumed.recipe == RECIPE


def test_weights_of_before_a_change_are_judged_as_they_were_trained(tmp_path):
    trainer = make_trainer(tmp_path / "a")
    advance(trainer, 4)
    trainer.change(inner_rate=0.02)
    run = trainer.fit()
    for some in (run, mamlpp.Run.load(tmp_path / "a")):
        members = zip(some.kept, some.best(), strict=True)
        rates = {best.iteration: learner.rule.rate for best, learner in members}
        assert rates == {4: 0.1, 8: 0.02}
        assert some.learner.rule.rate == rates[some.kept[0].iteration]
        assert some.recipe.inner_rate == 0.1
        other = some.with_recipe(inner_rate=0.3)
        assert {learner.rule.rate for learner in [other.learner, *other.best()]} == {0.3}
        assert {len(some.changes.rows), len(other.changes.rows)} == {0, 1}
    assert mamlpp.Run.load(tmp_path / "a", "latest").learner.rule.rate == 0.02


def test_a_step_that_was_interrupted_is_finished_before_the_change(monkeypatch, tmp_path):
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


def _interrupt(*_):
    raise KeyboardInterrupt


# Alone


def test_the_thread_that_is_in_may_enter_again_and_no_other(tmp_path):
    for trainer in (make_trainer(), make_trainer(tmp_path / "a")):
        with trainer.alone(), trainer.alone():
            said = in_thread(trainer.fit)
        assert isinstance(said, mamlpp.InputError)
        assert "at work in another thread" in str(said)
        assert in_thread(trainer.fit) is None


def test_the_folder_is_free_again_afterwards(tmp_path):
    trainer = make_trainer(tmp_path / "a")
    with trainer.alone(), trainer.alone():
        pass
    other = FileLock(tmp_path / "a" / ".lock", timeout=0)
    with other, pytest.raises(mamlpp.InputError, match="another training is at work"):
        trainer.fit()
    assert trainer.fit().history.rows


def in_thread(function):
    """What it raised on another thread."""
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
