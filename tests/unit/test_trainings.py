"""What a chapter shows instead of training it: recorded runs, if they are the same trainings."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open

import mamlpp
from mamlpp.errors import InputError
from mamlpp.show import trainings


@pytest.fixture
def asked():
    """Recipes and samplers of a training of a second."""
    recipe = mamlpp.RECIPES["maml++"].with_(
        filters=2, inner_steps=1, meta_batch=1, epochs=2, iterations_per_epoch=1, validation_tasks=2
    )
    images = {split: mamlpp.load_images("glyphs", split) for split in ("train", "validation")}
    train, validation = (mamlpp.TaskSampler(each, 2, 1, 1) for each in images.values())
    return {"MAML++": recipe}, train, validation


def test_recorded_runs_are_those_that_were_trained(asked, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trainings, "FOLDER", tmp_path / "trainings")
    monkeypatch.setenv(trainings.RECORD, "1")
    [trained] = trainings.runs("x", *asked, (3,), here=True, members=2)["MAML++"]
    monkeypatch.setattr(trainings, "train_seeds", lambda *_: pytest.fail("it is recorded"))

    [found] = trainings.runs("x", *asked, (3,), here=False)["MAML++"]

    assert ": 1 training of 2 meta-steps" in capsys.readouterr().out
    assert (found.recipe, found.data) == (trained.recipe, trained.data)
    for name in ("iteration", "outer_rate", "loss", "validation_accuracy"):
        expected = trained.history.column(name)
        assert found.history.column(name) == pytest.approx(expected, rel=1e-6)
    state, theirs = found.learner.state_dict(), trained.learner.state_dict()
    assert all(torch.allclose(state[n], theirs[n], rtol=1e-3, atol=1e-4) for n in theirs)
    assert len(found.best(5)) == 2
    assert [best.iteration for best in found.kept] == [best.iteration for best in trained.kept]


def test_a_record_is_shown_where_the_letters_are_drawn_a_little_differently(
    asked, tmp_path, monkeypatch
):
    recipes, train, validation = asked
    monkeypatch.setattr(trainings, "FOLDER", tmp_path)
    monkeypatch.setenv(trainings.RECORD, "1")
    trainings.runs("x", *asked, (3,), here=True)
    monkeypatch.setattr(trainings, "train_seeds", lambda *_: pytest.fail("it is recorded"))
    pixels = train.images.images.clone()
    pixels[0, 0, 0, 0, 0] += 1
    elsewhere = mamlpp.TaskSampler(replace(train.images, images=pixels), 2, 1, 1)
    assert elsewhere.images.name != train.images.name
    trainings.runs("x", recipes, elsewhere, validation, (3,), here=False)


def test_a_record_says_what_made_it_and_a_broken_one_is_refused(asked, tmp_path, monkeypatch):
    monkeypatch.setattr(trainings, "FOLDER", tmp_path)
    monkeypatch.setenv(trainings.RECORD, "1")
    trainings.runs("x", *asked, (3,), here=True)
    record = tmp_path / "x.safetensors"
    with safe_open(str(record), "pt") as file:
        about = json.loads(file.metadata()["about"])
    assert about["seconds"] > 0
    assert {"command", "device", "date", "torch", "mamlpp", "commit"} <= set(about)

    whole = record.read_bytes()
    middle = len(whole) - 200  # among the weights
    changed = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    for broken in (changed, whole[:-100], whole[:20], b""):
        record.write_bytes(broken)
        with pytest.raises(InputError, match="was changed or cut short"):
            trainings.runs("x", *asked, (3,), here=False)


def test_other_trainings_than_the_recorded_ones_are_trained(asked, tmp_path, monkeypatch):
    monkeypatch.setattr(trainings, "FOLDER", tmp_path)
    monkeypatch.setattr(trainings, "train_seeds", lambda *_: {})
    recipes, train, validation = asked
    plain = trainings._asked(recipes, train, validation, (3,))
    monkeypatch.setattr(trainings, "_read", lambda _, those: "it" if those == plain else None)
    other = {name: recipe.with_(inner_rate=0.3) for name, recipe in recipes.items()}
    assert trainings.runs("x", recipes, train, validation, (3,), here=False) == "it"
    assert trainings.runs("x", recipes, train, validation, (3,), here=True) == {}
    assert trainings.runs("x", other, train, validation, (3,), here=False) == {}
    assert trainings.runs("x", recipes, train.with_seed(9), validation, (3,), here=False) == {}
    assert trainings.runs("x", recipes, train, validation, (4,), here=False) == {}


def test_a_chapter_shows_the_glyphs_unless_it_trains(monkeypatch):
    monkeypatch.setattr(trainings, "default_dataset", lambda: "omniglot")
    assert trainings.dataset("auto", here=False) == "glyphs"
    assert trainings.dataset("auto", here=True) == "omniglot"
    assert trainings.dataset("mini_imagenet", here=False) == "mini_imagenet"


def test_every_record_is_of_a_chapter_and_small():
    notebooks = trainings.FOLDER.parents[1] / "notebooks"
    chapters = "".join(path.read_text(encoding="utf-8") for path in notebooks.glob("*.ipynb"))
    for record in trainings.FOLDER.glob("*"):
        assert f'\\"{record.stem}\\"' in chapters, f"no chapter shows {record.name}"
        assert record.stat().st_size < 1.5e6
