"""MAML++ of one's own modules, as a user writes it: with the functions alone, without a trainer."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

import mamlpp
from mamlpp.inner_rates import LSLR, FixedRate
from mamlpp.maml import inner_loop, task_loss

# An MLP on sine waves: the snippet "MAML++ of your own module" of the book's page -----------------

PAGE = Path(__file__).resolve().parents[2] / "book" / "library.md"


def train_jointly(network, waves, iterations=600):
    """One network for all waves at once: what the support sets are for, it never learns."""
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(iterations):
        batch = waves.sample(4)
        optimizer.zero_grad()
        F.mse_loss(network(batch.query_x), batch.query_y).backward()
        optimizer.step()


def error(model, weights, rule, steps, tasks=50):
    """Mean squared error on new waves after `steps` inner steps on ten points of each."""
    losses = []
    for task in mamlpp.SinusoidSampler(shots=10, queries=50, seed=1).sample(tasks):
        support = task.support_x, task.support_y
        path = inner_loop(model, weights, support, steps, rule, False, F.mse_loss)
        losses.append(F.mse_loss(model(path[-1], task.query_x, steps), task.query_y).item())
    return sum(losses) / tasks


@pytest.mark.slow
def test_an_mlp_learns_to_learn_waves(capsys: pytest.CaptureFixture[str]):
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    [snippet] = [code for code in snippets if "functional_call" in code]
    names: dict = {}
    exec(compile(snippet, PAGE.name, "exec"), names)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    for line in lines:
        before, *_, after = map(float, line.partition(":")[2].split())
        assert after < before

    model, weights, rule = (names[name] for name in ("model", "weights", "rule"))
    mine = error(model, weights, rule, 3)
    assert mine < 0.5 * error(model, weights, rule, 0)
    assert rule.rates.std() > 0.01  # they began equal

    joint = names["sine_network"](0)
    train_jointly(joint, mamlpp.SinusoidSampler(seed=0))

    def joint_model(weights, x, step):
        return functional_call(joint, weights, (x,))

    start, rates = dict(joint.named_parameters()), (0.005, 0.02, 0.05, 0.1)
    theirs = min(error(joint_model, start, FixedRate(rate), 3, tasks=20) for rate in rates)
    assert mine < 0.5 * theirs


# A residual network on images -------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.GroupNorm(4, width)
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return x + self.conv(F.relu(self.norm(x)))


class TinyResNet(nn.Module):
    def __init__(self, ways, width=16):
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(Residual(width), nn.AvgPool2d(2), Residual(width))
        self.head = nn.Linear(width * 4, ways)

    def forward(self, x):
        return self.head(F.adaptive_avg_pool2d(self.blocks(self.stem(x)), 2).flatten(1))


WAYS = 5


def pattern_tasks(tasks, draw):
    """Each class is a random pattern of 8x8, shown once and asked for thrice, under noise."""
    patterns = torch.rand(tasks, WAYS, 1, 1, 4, 4, generator=draw).round()
    patterns = patterns.repeat_interleave(2, -1).repeat_interleave(2, -2)
    x = patterns + 0.4 * torch.randn(tasks, WAYS, 4, 1, 8, 8, generator=draw)
    y = torch.arange(WAYS).view(1, WAYS, 1).expand(tasks, WAYS, 4)
    parts = [part.flatten(1, 2) for part in (x[:, :, :1], y[:, :, :1], x[:, :, 1:], y[:, :, 1:])]
    return mamlpp.TaskBatch(*parts)


@pytest.mark.slow
def test_a_residual_network_learns_to_learn_patterns():
    torch.manual_seed(0)
    network, draw, steps = TinyResNet(WAYS), torch.Generator().manual_seed(0), 2

    def model(weights, x, step):
        return functional_call(network, weights, (x,))

    weights = dict(network.named_parameters())
    rule = LSLR(weights, steps, rate=0.2)
    optimizer = torch.optim.Adam([*network.parameters(), *rule.parameters()], lr=3e-3)
    for _ in range(80):
        optimizer.zero_grad()
        for task in pattern_tasks(4, draw):
            loss, _ = task_loss(model, weights, task, [0.0, 1.0], rule, True)
            (loss / 4).backward()
        optimizer.step()

    before, after = [], []
    for task in pattern_tasks(50, draw):
        path = inner_loop(model, weights, (task.support_x, task.support_y), steps, rule, False)
        for hits, step in ((before, 0), (after, steps)):
            logits = model(path[step], task.query_x, step)
            hits.append((logits.argmax(-1) == task.query_y).float().mean())
    assert torch.stack(before).mean() < 1.5 / WAYS  # chance: the labels are dealt at random
    assert torch.stack(after).mean() > 3 / WAYS
