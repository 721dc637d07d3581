"""An edit of the definition takes effect wherever the package computes with it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mamlpp
from mamlpp import maml
from mamlpp.diagnostics import diagnose
from mamlpp.engine import Engine
from mamlpp.network import Block
from tests.makers import (
    assert_identical,
    assert_same_gradients,
    flat,
    gradients,
    make_batch,
    make_learner,
    noise_sampler,
    noise_trainer,
    snapshot,
)

ROOT = Path(__file__).resolve().parents[2]
SENTENCE = "not the one that the fast engine was written for"

# In a copy of the package ------------------------------------------------------------------------

EDITS = {
    "gelu": ("F.relu(self.norm(", "F.gelu(self.norm("),
    "pooling": ("nn.MaxPool2d(2) if", "nn.AvgPool2d(2) if"),
    "initialisation": ("xavier_uniform_(module.weight)", "orthogonal_(module.weight)"),
    "dropout": ("(self.features(x, step, **norm))", "(F.dropout(self.features(x, step, **norm)))"),
}  # fmt: skip
SAME_LOSS = ("Trainer", "two workers", "recompute", "live", "train_seeds")


def numbers_of(package_parent, folder, *processes):
    script = Path(__file__).with_name("numbers_of_a_kit.py")
    done = subprocess.run(
        [sys.executable, "-P", script, folder, *processes],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(package_parent), str(ROOT)])},
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    return numbers_of(ROOT, tmp_path_factory.mktemp("before"), "processes")


@pytest.mark.slow
def test_every_entry_point_computes_the_same(before):
    check_entry_points(before)
    assert not [words for words in before["said"] if SENTENCE in words]


def check_entry_points(found):
    for entry in {*SAME_LOSS} & found.keys():
        assert found[entry] == pytest.approx(found["meta_loss"], rel=1e-4), entry
    for entry in {"evaluate", "sweep"} & found.keys():
        assert found[entry][0] == pytest.approx(found[entry][1], rel=1e-4), entry


@pytest.mark.slow
@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_of_the_network_reaches_every_entry_point(edit, before, tmp_path):
    shutil.copytree(
        ROOT / "mamlpp", tmp_path / "mamlpp", ignore=shutil.ignore_patterns("__pycache__")
    )
    path = tmp_path / "mamlpp/network.py"
    old, new = EDITS[edit]
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")
    after = numbers_of(tmp_path, tmp_path / "sweep", *(["processes"] if edit == "gelu" else []))
    assert bool([words for words in after["said"] if SENTENCE in words]) == (
        edit != "initialisation"
    )
    for entry in set(after) - {"said"}:
        assert after[entry] != before[entry], entry
    if edit != "dropout":  # Each call drops others.
        check_entry_points(after)


# In a notebook -----------------------------------------------------------------------------------


def check_follows(learner, batch, expect_warning=True):
    """Engine, workers and evaluation compute what the definition of this learner computes."""
    learner.zero_grad()
    loss, report = learner.meta_loss(batch)
    loss.backward()
    expected = gradients(learner)
    learner.zero_grad()
    if expect_warning:
        with pytest.warns(UserWarning, match=SENTENCE):
            found = Engine().meta_gradient(learner, batch, 0.0)
    else:
        found = Engine().meta_gradient(learner, batch, 0.0)
    assert found.loss.item() == pytest.approx(report.loss.item(), rel=1e-9)
    assert_same_gradients(expected, gradients(learner))
    task = next(iter(batch))
    logits = Engine().logits(learner, batch, None, learner.readings, every_step=False)
    for i, reading in enumerate(learner.readings):
        classify = learner.adapt(task.support_x, task.support_y, reading=reading)
        torch.testing.assert_close(logits[i, 0, 0], classify(task.query_x), rtol=1e-9, atol=1e-12)


class HeadOnly(mamlpp.MetaLearner):
    """ANIL: the inner loop adapts the head alone."""

    def weights(self):
        return {n: w for n, w in super().weights().items() if n.startswith("head")}


class OtherForward(mamlpp.MetaLearner):
    def forward(self, weights, x, step=0, **norm):
        return 2 * super().forward(weights, x, step, **norm)


class OtherLoss(mamlpp.MetaLearner):
    def task_loss(self, task, epoch=0.0):
        result = super().task_loss(task, epoch)
        return result._replace(loss=result.loss + self.network.head.weight.square().sum())


class OtherMetaLoss(mamlpp.MetaLearner):
    def meta_loss(self, batch, epoch=0.0):
        loss, report = super().meta_loss(batch, epoch)
        return 3 * loss, report._replace(loss=3 * report.loss)


@pytest.mark.parametrize("kind", [OtherForward, OtherLoss, OtherMetaLoss])
def test_a_subclass(kind):
    check_follows(make_learner("maml++", kind=kind).double(), make_batch())


def test_a_subclass_that_adapts_less_is_still_fast():
    check_follows(make_learner("maml", kind=HeadOnly).double(), make_batch(), expect_warning=False)


def test_a_forward_hook_also_on_a_learner_that_has_been_trained():
    learner = make_learner("maml").double()
    check_follows(learner, make_batch(), expect_warning=False)
    handle = learner.network.blocks[1].register_forward_hook(lambda *call: call[2].square())
    check_follows(learner, make_batch())
    handle.remove()
    check_follows(learner, make_batch(), expect_warning=False)


def test_another_module_in_a_block():
    learner = make_learner("maml").double()
    learner.network.blocks[0].halve = nn.AvgPool2d(2)
    check_follows(learner, make_batch())


def gelu_block(self, x, step=0, **norm):
    return self.halve(F.gelu(self.norm(self.conv(x), step, **norm)))


def sign_step(loss, weights, rule, step, second_order, states=None):
    parts = torch.autograd.grad(loss.sum(), list(weights.values()), create_graph=second_order)
    pairs = zip(weights.items(), parts, strict=True)
    return {name: weight - 0.01 * part.sign() for (name, weight), part in pairs}


@pytest.mark.parametrize(
    ("owner", "name", "other", "warns"),
    [(Block, "forward", gelu_block, True), (maml, "inner_step", sign_step, False)],
)
def test_a_function_replaced_in_a_notebook(owner, name, other, warns, monkeypatch):
    learner = make_learner("maml").double()
    loss = learner.meta_loss(make_batch())[0].item()
    monkeypatch.setattr(owner, name, other)
    assert learner.meta_loss(make_batch())[0].item() != loss
    check_follows(learner, make_batch(), expect_warning=warns)


def test_a_method_replaced_on_the_learner_itself():
    learner = make_learner("maml").double()
    original = learner.task_loss
    learner.task_loss = lambda task, epoch: original(task, epoch)._replace(
        loss=original(task, epoch).loss * 5
    )
    check_follows(learner, make_batch())


def test_a_training_follows_in_its_worker_processes(monkeypatch):
    expected = noise_trainer("maml++", workers=2).step()["loss"]
    trainer = noise_trainer("maml++", workers=2)
    trainer.learner.network.blocks[1].register_forward_hook(lambda *call: call[2].square())
    alone = noise_trainer("maml++")
    alone.learner.network.blocks[1].register_forward_hook(lambda *call: call[2].square())
    with pytest.warns(UserWarning, match=SENTENCE):
        ours, theirs = trainer.step()["loss"], alone.step()["loss"]
    assert ours == pytest.approx(theirs, rel=1e-5) != pytest.approx(expected, rel=1e-5)
    assert trainer.engine.workers.size == 2, "a hook is sent to the workers"
    trainer.engine.dismiss()


def test_workers_that_cannot_follow_are_not_used(monkeypatch):
    monkeypatch.setattr(Block, "forward", gelu_block)
    alone, trainer = noise_trainer("maml++"), noise_trainer("maml++", workers=2)
    with pytest.warns(UserWarning, match="worker processes do not compute what this process does"):
        ours = trainer.step()["loss"]
    assert ours == alone.step()["loss"]
    assert trainer.engine.workers == 1


def test_several_seeds_follow(monkeypatch):
    samplers = noise_sampler(), noise_sampler("validation")
    recipe = noise_trainer("maml").recipe
    monkeypatch.setattr(Block, "forward", gelu_block)
    runs = mamlpp.train_seeds({"MAML": recipe}, *samplers, seeds=(0, 1), workers=2)["MAML"]
    alone = mamlpp.Trainer(recipe, *samplers).fit()
    assert runs[0].history.column("loss") == alone.history.column("loss")


def test_a_diagnosis_follows():
    learner = make_learner("maml", kind=OtherForward).double()
    found = diagnose(learner, make_batch(tasks=1)).meta_norm
    learner.meta_loss(make_batch(tasks=1))[0].backward()
    assert found == pytest.approx(flat(gradients(learner).values()).norm().item(), rel=1e-9)


def test_the_comparison_touches_no_generator_and_no_statistic():
    learner = make_learner("maml++")
    random, before = torch.get_rng_state(), snapshot(learner)
    Engine().logits(learner, make_batch(dtype=torch.float32), None, ["support"], every_step=False)
    assert torch.equal(torch.get_rng_state(), random)
    assert_identical(learner.state_dict(), before)
