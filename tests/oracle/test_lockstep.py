"""Ten meta-steps of MAML++ beside an implementation that shares nothing with the kit but Adam."""

import math

import pytest
import torch
import torch.nn.functional as F

import mamlpp
from mamlpp import maml
from mamlpp.engine import Engine

WAYS, STEPS, META_STEPS, TASKS = 3, 3, 10, 2
RECIPE = mamlpp.RECIPES["maml++"].with_(
    **{"filters": 4, "inner_steps": STEPS, "meta_batch": TASKS, "outer_rate": 1e-2},
    **{"epochs": 5, "iterations_per_epoch": 2, "msl_epochs": 2.5, "second_order_from": 2},
)


class PlainMAMLPlusPlus:
    """MAML++ written out for this one network: no functions of the kit, no shared modules."""

    def __init__(self, state):
        self.p = {name: value.detach().clone().requires_grad_() for name, value in state.items()}
        self.adam = torch.optim.Adam(self.p.values(), lr=1e-2)

    def logits(self, fast, x, step):
        for block in range(4):
            x = F.conv2d(x, fast[f"network.blocks.{block}.conv.weight"], padding=1)
            mean = x.mean((0, 2, 3), keepdim=True)
            x = (x - mean) / ((x - mean).pow(2).mean((0, 2, 3), keepdim=True) + 1e-5).sqrt()
            scale, shift = (
                self.p[f"network.blocks.{block}.norm.{name}"][step][None, :, None, None]
                for name in ("weight", "bias")
            )
            x = F.max_pool2d(torch.relu(x * scale + shift), 2)
        return x.reshape(len(x), -1) @ fast["network.head.weight"].T + fast["network.head.bias"]

    def task_loss(self, task, epoch):
        layers = [f"network.blocks.{block}.conv" for block in range(4)] + ["network.head"]
        rate_row = {layer: row for row, layer in enumerate(layers)}
        fast = {n: v for n, v in self.p.items() if n.rpartition(".")[0] in layers}
        early = (1 - min(epoch / 2.5, 1)) / STEPS
        total = 0.0
        for step in range(STEPS):
            support = F.cross_entropy(self.logits(fast, task.support_x, step), task.support_y)
            gradients = torch.autograd.grad(
                support, list(fast.values()), create_graph=epoch >= 2, retain_graph=True
            )
            fast = {
                name: weight - self.p["rule.rates"][rate_row[name.rpartition(".")[0]], step] * g
                for (name, weight), g in zip(fast.items(), gradients, strict=True)
            }
            counts = 1 - early * (STEPS - 1) if step == STEPS - 1 else early
            logits = self.logits(fast, task.query_x, step + 1)
            total = total + counts * F.cross_entropy(logits, task.query_y)
        return total

    def meta_step(self, batch, epoch):
        rate = 1e-5 + (1e-2 - 1e-5) * (1 + math.cos(math.pi * epoch / 5)) / 2
        self.adam.param_groups[0]["lr"] = rate
        self.adam.zero_grad()
        loss = sum(self.task_loss(task, epoch) for task in batch) / TASKS
        loss.backward()
        self.adam.step()
        return loss.item()


@pytest.mark.parametrize("how", ["definition", "engine", "recompute"])
def test_ten_meta_steps_in_lock_step(how):
    images = torch.randint(0, 256, (6, 8, 1, 16, 16), generator=torch.Generator().manual_seed(0))
    images = mamlpp.ImageSet(images.byte(), tuple("abcdef"), "noise", "train")
    sampler = mamlpp.TaskSampler(images, WAYS, 1, 2, seed=0)
    learner = mamlpp.MetaLearner(RECIPE, (1, 16, 16), WAYS).double()
    plain = PlainMAMLPlusPlus(dict(learner.named_parameters()))
    adam = torch.optim.Adam(learner.parameters(), lr=RECIPE.outer_rate)
    gradient = {
        "definition": maml.meta_gradient,
        "engine": Engine().meta_gradient,
        "recompute": Engine("recompute").meta_gradient,
    }[how]
    for i in range(META_STEPS):
        batch = sampler.sample(TASKS)
        batch = mamlpp.TaskBatch(
            batch.support_x.double(), batch.support_y, batch.query_x.double(), batch.query_y
        )
        row = maml.meta_step(learner, adam, batch, i / 2, gradient)
        assert row["loss"] == pytest.approx(plain.meta_step(batch, i / 2), rel=1e-9)
    for name, parameter in learner.named_parameters():
        torch.testing.assert_close(parameter, plain.p[name], rtol=1e-9, atol=1e-9, msg=name)
        assert parameter.grad.abs().max() > 0, name
