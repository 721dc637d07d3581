"""What a run gives away: features, classifiers in files, plain networks; what the prompt says."""

import pickle
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

import mamlpp
from mamlpp import cli
from mamlpp.naming import counted
from mamlpp.run.export import mapping
from tests.makers import (
    SHAPE,
    WAYS,
    make_batch,
    make_perturbed_learner,
    noise_sampler,
    noise_trainer,
)
from tests.makers import noise_images as images_of


@pytest.mark.parametrize("pooling", ["max", "stride"])
def test_the_plain_network_computes_the_same(pooling):
    learner = make_perturbed_learner("maml++", SHAPE, pooling=pooling)
    x = make_batch().support_x[0]
    for step in (0, 3):
        for norm in learner.norms():
            norm.update_running(step, torch.rand(4).double(), torch.rand(4).double())
        plain = mamlpp.plain_network(learner, step)
        statistics = learner.statistics(learner.weights(), x, step, "running")
        expected = learner(learner.weights(), x, step, statistics=statistics)
        torch.testing.assert_close(plain(x), expected)
    batch_norm = make_perturbed_learner("maml", SHAPE)
    expected = batch_norm(batch_norm.weights(), x)
    torch.testing.assert_close(mamlpp.plain_network(batch_norm)(x), expected)
    state = batch_norm.network.state_dict()
    for name, origin in mapping(batch_norm).items():
        own = state[origin.removesuffix("[step]")]
        found = mamlpp.plain_network(batch_norm).state_dict()[name]
        assert torch.equal(found, own[0] if origin.endswith("[step]") else own)


def test_a_run_is_exported_by_a_command(tmp_path, capsys):
    run = noise_trainer("maml++", directory=tmp_path / "run").fit()
    cli.main(["export", str(tmp_path / "run"), f"--output={tmp_path / 'w.safetensors'}"])
    said, state = capsys.readouterr().out, load_file(tmp_path / "w.safetensors")
    plain = mamlpp.plain_network(run.learner)
    assert state.keys() == plain.state_dict().keys()
    assert "blocks.0.norm.weight, step 0" in said
    assert "Sequential(" in said
    plain.load_state_dict(state)
    with safe_open(tmp_path / "w.safetensors", "pt") as file:
        assert file.metadata()["layers"] == str(plain)
    path = mamlpp.export(run, tmp_path / "w.pt", step=2)
    assert torch.load(path)["1.weight"].equal(run.learner.network.blocks[0].norm.weight[2])
    for wrong, words in ((tmp_path, "a Run is expected, .* not"), (run.learner, "not MetaLearner")):
        with pytest.raises(mamlpp.InputError, match=words):
            mamlpp.export(wrong, tmp_path / "w")
    with pytest.raises(mamlpp.InputError, match=r"such as run\.learner, not Run"):
        mamlpp.plain_network(run)
    with pytest.raises(mamlpp.InputError, match="step must be a whole number, 0 or more, not -1"):
        mamlpp.export(run, tmp_path / "w", step=-1)
    with pytest.raises(mamlpp.InputError, match="nothing can be written"):
        mamlpp.export(run, tmp_path / "run" / "run.json" / "w.pt")


def test_a_classifier_is_pickled_and_has_features():
    learner, task = make_perturbed_learner("maml++", SHAPE), next(iter(make_batch()))
    for reading in learner.readings:
        classify = learner.adapt(task.support_x, task.support_y, reading=reading)
        again = pickle.loads(pickle.dumps(classify))
        assert torch.equal(again(task.query_x), classify(task.query_x))
        head = classify.weights["head.weight"], classify.weights["head.bias"]
        features = again.features(task.query_x)
        torch.testing.assert_close(nn.functional.linear(features, *head), classify(task.query_x))
    assert learner.features(task.query_x).shape == (6, 4)
    own = mamlpp.MetaLearner(learner.recipe, (8,), WAYS, network=nn.Linear(8, WAYS))
    with pytest.raises(mamlpp.InputError, match="Linear has no method features"):
        own.features(torch.rand(2, 8))


def test_what_is_printed_at_the_prompt_is_short(tmp_path, monkeypatch):
    run = noise_trainer(directory=tmp_path).fit()
    for thing, words in (
        (run, ("Run of noise 3-way 1-shot", "4 meta-steps", "best validation", "FixedRate")),
        (run.history, ("4 rows", "validation_accuracy")),
        (run.learner, ("3-way, ConvNet, 2 inner steps by FixedRate", "of ")),
        (noise_sampler(), ("3-way 1-shot, 2 queries", "6 classes of 4 images, 1x16x16")),
        (images_of(), ("ImageSet noise train: 6 classes",)),
        (mamlpp.SinusoidSampler(), ("10 shots, 10 queries, seed 0",)),
        (noise_sampler().sample(2), ("TaskBatch of 2 tasks", "support_x [2, 3, 1, 16, 16]")),
        (mamlpp.evaluate(run, images_of("test"), tasks=2), ("Evaluation: ", "over 2 tasks")),
        (run.kept[0], ("Best of iteration",)),
        (mamlpp.load_result("cures"), ("RecordedResult cures: ", "sweeps/cures.toml")),
        (mamlpp.load_result("cures").runs[0], ("RecordedRun glyphs-5way", "% by support")),
        (mamlpp.RECIPES, ("recipes: maml, fomaml",)),
    ):
        assert len(repr(thing)) < 400
        for word in words:
            assert word in repr(thing)
    assert mamlpp.__version__ == mamlpp.files.code_version()["mamlpp"]
    elsewhere = tmp_path / "project" / "mamlpp" / "files.py"
    elsewhere.parent.mkdir(parents=True)
    for words in (
        ["init"],
        ["-c", "user.name=a", "-c", "user.email=b", "commit", "-m", "c", "--allow-empty"],
    ):
        subprocess.run(["git", *words], cwd=tmp_path / "project", check=True, capture_output=True)
    monkeypatch.setattr("mamlpp.files.__file__", str(elsewhere))
    assert mamlpp.files.code_version()["commit"] is None, "of somebody's own repository"
    assert mamlpp.__version__
    assert '"commit": ' in (tmp_path / "run.json").read_text()


def test_help_tells_every_field_and_recipes_say_what_there_is():
    import dataclasses

    for field in dataclasses.fields(mamlpp.Recipe):
        assert f"    {field.name}: " in mamlpp.Recipe.__doc__
    with pytest.raises(mamlpp.InputError, match=r"no recipe 'anil'; choose one of maml, fomaml"):
        mamlpp.RECIPES["anil"]


def test_tensorboard_gets_every_number_of_the_history(tmp_path, monkeypatch):
    class Writer(dict):
        def __init__(self, directory):
            assert directory == str(tmp_path)

        def add_scalar(self, name, value, iteration):
            self[name, iteration] = value

        def flush(self):
            found.update(self)

        close = flush

    found = {}
    module = SimpleNamespace(SummaryWriter=Writer)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    trainer = noise_trainer()
    trainer.callbacks = [mamlpp.tensorboard(tmp_path)]
    rows = trainer.fit().history.rows
    assert found == {(k, r["iteration"]): r[k] for r in rows for k in r if k != "iteration"}
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(mamlpp.InputError, match="TensorBoard is not installed; pip install tens"):
        mamlpp.tensorboard(tmp_path)


@pytest.mark.parametrize(
    ("number", "noun", "words"),
    [
        (1, "class", "1 class"),
        (2, "class", "2 classes"),
        (1, "query", "1 query"),
        (0, "query", "0 queries"),
        (1, "meta-step", "1 meta-step"),
        (75_000, "meta-step", "75,000 meta-steps"),
        (0.5, "epoch", "0.5 epochs"),
    ],
)
def test_a_number_has_its_noun(number, noun, words):
    assert counted(number, noun) == words
