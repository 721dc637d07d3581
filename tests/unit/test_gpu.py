"""On a GPU: the same numbers as on a CPU, a captured meta-step, a training that goes on.

`python -m pytest -m gpu` runs these alone.
"""

import pytest
import torch

import mamlpp
from mamlpp.engine import Engine
from mamlpp.precision import full_precision
from tests.makers import METHODS, advance, gradients, make_batch, make_perturbed_learner, on
from tests.unit.test_fast_network import SHAPES

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that PyTorch can use"),
]


def take(engine, learner, batch, epoch):
    learner.zero_grad()
    result = engine.task_results(learner, batch, epoch, 5)
    return {name: x.cpu() for name, x in gradients(learner).items()}, result.loss.cpu()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", METHODS)
def test_captured_or_not_the_gradient_is_that_of_a_cpu(name, shape, recwarn):
    here, there = make_perturbed_learner(name, shape), make_perturbed_learner(name, shape).cuda()
    batch, captured = make_batch(shape), Engine()
    swapped = mamlpp.TaskBatch(batch.query_x, batch.query_y, batch.support_x, batch.support_y)
    for epoch in (0.0, 3.0, 60.0):
        for tasks in (batch, swapped):
            expected, losses = take(Engine(), here, tasks, epoch)
            for engine in (captured, Engine(batched=False)):
                found, seen = take(engine, there, on("cuda", tasks), epoch)
                torch.testing.assert_close(seen, losses, rtol=1e-10, atol=0)
                assert found.keys() == expected.keys()
                for weight, x in expected.items():
                    assert (found[weight] - x).norm() <= 1e-9 * x.norm() + 1e-14, weight
    assert not [w for w in recwarn if "capture" in str(w.message)]


def make_trainer(folder=None, device="cuda", **changes):
    recipe = mamlpp.RECIPES["maml++"].with_(
        filters=8, meta_batch=3, inner_steps=2, epochs=3, iterations_per_epoch=4,
        validation_tasks=4, second_order_from=1.0, msl_epochs=2.0, **changes,
    )  # fmt: skip
    samplers = (
        mamlpp.TaskSampler(mamlpp.load_images("glyphs", split).to(device), ways=5, shots=1)
        for split in ("train", "validation")
    )
    return mamlpp.Trainer(recipe, *samplers, folder)


@pytest.mark.parametrize("changes", [{}, {"clip_norm": 0.1}, {"clip_value": 0.01}])
def test_a_training(changes):
    run, other = make_trainer(**changes).fit(), make_trainer(device="cpu", **changes).fit()
    assert run.history.rows[0]["loss"] == pytest.approx(other.history.rows[0]["loss"], rel=1e-3)
    assert run.history.rows[-1]["validation_accuracy"] > 0.2


def test_a_training_goes_on_from_its_checkpoint(tmp_path):
    first = make_trainer(tmp_path)
    advance(first, 5)
    first.save()
    again = make_trainer(tmp_path)
    assert again.iteration == 5
    for one, two in zip(first.learner.parameters(), again.learner.parameters(), strict=True):
        assert torch.equal(one, two)
    assert again.fit().history.rows[-1]["iteration"] == 12


def test_convolutions_do_not_round():
    x, kernel = torch.rand(8, 64, 14, 14).cuda(), torch.rand(64, 64, 3, 3).cuda()
    exact = torch.nn.functional.conv2d(x.double(), kernel.double())
    with full_precision():
        found = torch.nn.functional.conv2d(x, kernel)
    assert (found - exact).norm() <= 1e-6 * exact.norm()
