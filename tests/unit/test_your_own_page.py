"""Each example of your_own.md is short, and runs."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mamlpp.data import DATASETS
from mamlpp.maml import inner_loop
from tests.makers import noise_images

PAGE = (Path(__file__).parents[2] / "book/your_own.md").read_text(encoding="utf-8")
SETUP, *EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def space(tmp_path, monkeypatch):
    """The names that the page's first lines make, on noise, in a folder with a few pictures."""
    monkeypatch.setenv("MAMLPP_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    known = {"glyphs": lambda split: noise_images(split, classes=6, samples=7)}
    monkeypatch.setattr("mamlpp.data.DATASETS", dict(DATASETS) | known)
    for i in range(8):
        (tmp_path / "zoo" / str(i)).mkdir(parents=True)
        for k in range(3 + i % 2):
            pixels = np.random.default_rng(10 * i + k).integers(0, 255, (9, 9), dtype="uint8")
            Image.fromarray(pixels).save(tmp_path / "zoo" / str(i) / f"{k}.png")
    names = {}
    exec(compile(SETUP, "your_own.md", "exec"), names)
    return names


def test_every_example_is_short():
    assert len(EXAMPLES) == 14
    for code in (SETUP, *EXAMPLES):
        assert sum(bool(line.strip()) for line in code.splitlines()) < 15, code


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the network or the inner loop")
def test_every_example_runs(space):
    before = None
    for code in EXAMPLES:
        exec(compile(code, "your_own.md", "exec"), space)
        if "Trainer(" in code:
            assert space["run"] is not before, code
            assert space["run"].history.rows, code
            before = space["run"]
    assert space["images"].dataset == "mine"
    assert len(space["images"]) == 8
    assert len(space["table"]) == 20
    assert space["features"].ndim == 2
    task = space["task"]
    support = task.support_x, task.support_y
    assert torch.equal(space["logits"], space["run"].learner.adapt(*support)(task.query_x))


def test_the_rule_of_torchopt_is_its_optimizer(space):
    torchopt = pytest.importorskip("torchopt")
    for code in EXAMPLES:
        if "class OfTorchopt" in code:
            exec(compile(code, "your_own.md", "exec"), space)
    weights = {"w": torch.tensor([1.0, 2.0], requires_grad=True)}
    rule = space["OfTorchopt"](torchopt.sgd(lr=0.1, momentum=0.9))
    x, y = torch.eye(2), torch.zeros(2)
    path = inner_loop(lambda w, x, _: x @ w["w"], weights, (x, y), 3, rule, True,
                      lambda outputs, targets: ((outputs - targets) ** 2).sum())  # fmt: skip
    moved, velocity = torch.tensor([1.0, 2.0]), torch.zeros(2)
    for _ in range(3):
        velocity = 0.9 * velocity + 2 * moved
        moved = moved - 0.1 * velocity
    torch.testing.assert_close(path[-1]["w"].detach(), moved)
