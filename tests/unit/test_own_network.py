"""A `MetaLearner` with a network that is not the kit's: an MLP, a small residual network."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.func import functional_call

import mamlpp
from mamlpp import maml
from mamlpp.diagnostics import diagnose
from mamlpp.maml import cross_entropy
from tests.makers import (
    SHAPE,
    WAYS,
    assert_identical,
    assert_same_gradients,
    flat,
    gradients,
    make_batch,
    make_learner,
    snapshot,
)
from tests.unit.test_own_modules import TinyResNet


def mlp(inputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 10), nn.Tanh(), nn.Linear(10, WAYS))


NETWORKS = {
    "MLP on vectors": (partial(mlp, 8), (8,)),
    "MLP on images": (partial(mlp, 16 * 16), SHAPE),
    "residual network with group norm": (partial(TinyResNet, WAYS), SHAPE),
}


@pytest.fixture(params=NETWORKS)
def case(request):
    """A function from the name of a recipe to a learner in float64; a batch of four tasks."""
    make_network, shape = NETWORKS[request.param]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kind = partial(mamlpp.MetaLearner, network=make_network())
    return lambda name: make_learner(name, shape, kind=kind).double(), make_batch(shape, tasks=4)


@pytest.mark.parametrize("epoch", [0.0, 60.0])
@pytest.mark.parametrize("name", ["maml", "maml++"])
def test_the_meta_gradient_is_that_of_the_functions_of_maml(case, name, epoch):
    make, batch = case
    learner = make(name)
    report = maml.meta_gradient(learner, batch, epoch)
    found = gradients(learner)

    def model(weights, x, step):
        return functional_call(learner.network, weights, (x,))

    learner.zero_grad()
    annealing = name == "maml++" and epoch == 0
    arguments = [1 / 3] * 3 if annealing else [0, 0, 1], learner.rule, not annealing
    weights = dict(learner.network.named_parameters())
    losses = [maml.task_loss(model, weights, task, *arguments)[0] for task in batch]
    torch.stack(losses).mean().backward()
    assert report.loss.item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-9)
    assert_same_gradients(gradients(learner), found)
    assert len(found) == len(weights) + (name == "maml++")


@pytest.mark.parametrize("name", ["maml", "maml++"])
def test_it_is_adapted_evaluated_diagnosed_and_trained(case, name):
    make, batch = case
    learner = make(name)
    before, sampler = snapshot(learner), SimpleNamespace(sample=lambda tasks: batch)
    for reading in ("support", "queries"):
        losses = []
        for task in batch:
            support = task.support_x, task.support_y
            path = maml.inner_loop(learner, learner.weights(), support, 3, learner.rule, False)
            logits = learner.adapt(*support, reading=reading)(task.query_x)
            expected = functional_call(learner.network, path[-1], (task.query_x,))
            torch.testing.assert_close(logits, expected)
            losses.append(cross_entropy(logits, task.query_y))
        evaluation = mamlpp.evaluate_tasks(learner, sampler, 4, reading=reading)
        torch.testing.assert_close(evaluation.losses[-1], torch.stack(losses))

    diagnosis = diagnose(learner, batch)
    assert diagnosis.norms.shape == (4, len(diagnosis.layers))
    assert_identical(learner.state_dict(), before)
    row = maml.meta_step(learner, torch.optim.Adam(learner.parameters()), batch, epoch=0.0)
    assert diagnosis.meta_norm == pytest.approx(row["gradient_norm"])
    assert diagnosis.meta_norm == pytest.approx(flat(gradients(learner).values()).norm().item())
    assert not [name for name, x in learner.state_dict().items() if torch.equal(x, before[name])]
    assert learner.meta_loss(batch)[0] < row["loss"]
