"""The fast network is the definition, for one task and for many: logits, gradients, statistics."""

import pytest
import torch
import torch.nn.functional as F

import mamlpp
from mamlpp.engine import Engine, batched, engine, fast_network
from mamlpp.engine.fast_network import FastNetwork, expand
from mamlpp.network import MOMENTUM, BatchNorm
from mamlpp.task_result import stack
from tests.makers import (
    assert_same_gradients,
    assert_same_statistics,
    gradients,
    make_batch,
    make_perturbed_learner,
    stages,
)

SHAPES = {"even": (1, 16, 16), "odd": (3, 21, 19)}
ONE_BY_ONE, BATCHED = Engine(batched=False), Engine(batched=True)


@pytest.fixture(params=SHAPES)
def shape(request):
    return SHAPES[request.param]


def by_definition(learner, batch, epoch, tasks=5):
    """(gradients by name, results) of the definition, for some of a larger meta-batch."""
    learner.zero_grad()
    results = [learner.task_loss(task, epoch) for task in batch]
    (sum(result.loss for result in results) / tasks).backward()
    return gradients(learner), stack(results)


def by_engine(engine, learner, batch, epoch, tasks=5):
    learner.zero_grad()
    result = engine.task_results(learner, batch, epoch, tasks)
    return gradients(learner), result


# Each recipe with one pooling of each size; MAML++, which has all their parts, with both.
OF_EVERY_RECIPE = [
    (*stage, pooling, size)
    for stage in stages()
    for pooling, size in (("max", "odd"), ("stride", "even"), ("max", "even"), ("stride", "odd"))
    if stage[0] == "maml++" or (pooling, size) in (("max", "odd"), ("stride", "even"))
]


@pytest.mark.parametrize(("name", "epoch", "pooling", "size"), OF_EVERY_RECIPE)
def test_the_meta_gradient_of_every_recipe(name, epoch, pooling, size):
    shape = SHAPES[size]
    learner, batch = make_perturbed_learner(name, shape, pooling=pooling), make_batch(shape)
    expected, results = by_definition(learner, batch, epoch)
    assert (len(results.statistics) > 0) == ("bnrs" in name or name == "maml++")
    for one in (ONE_BY_ONE, BATCHED):
        found, ours = by_engine(one, learner, batch, epoch)
        assert_same_gradients(expected, found)
        torch.testing.assert_close(ours.loss, results.loss, rtol=1e-10, atol=0)
        assert torch.equal(ours.accuracy, results.accuracy.to(ours.accuracy))
        assert_same_statistics(ours.statistics, results.statistics)


def test_a_cpu_takes_small_tasks_together_and_large_ones_alone(monkeypatch):
    taken = []

    def task_gradients(*arguments, original=batched.task_gradients):
        taken.append(len(arguments[1]))
        return original(*arguments)

    monkeypatch.setattr(batched, "task_gradients", task_gradients)
    learner, batch = make_perturbed_learner("maml++", (1, 16, 16)), make_batch(tasks=5)
    expected, _ = by_engine(ONE_BY_ONE, learner, batch, 0.0)
    images = batch.support_x.shape[1] + batch.query_x.shape[1]
    first_maps = images * 16 * 16 * learner.recipe.filters  # of one task
    for room, parts in {2.5: [2, 2, 1], 1e9: [5], 0.5: [1] * 5}.items():
        monkeypatch.setattr(engine, "MAPS", room * first_maps)
        taken.clear()
        assert_same_gradients(expected, by_engine(Engine(), learner, batch, 0.0)[0])
        assert taken == parts


def test_float32_differs_by_rounding_alone(shape):
    learner = make_perturbed_learner("maml", shape).float()
    x = make_batch(shape, dtype=torch.float32).query_x
    network = FastNetwork(learner.network, len(x))
    logits = network.logits(expand(learner.weights(), len(x)), network.patches(x), 0)
    expected = torch.stack([learner(learner.weights(), images) for images in x])
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def test_many_images_go_a_few_at_a_time(shape, monkeypatch):
    learner, batch = make_perturbed_learner("maml++", shape), make_batch(shape)
    expected, _ = by_engine(ONE_BY_ONE, learner, batch, 0.0)
    monkeypatch.setattr(fast_network, "IN_CACHE", 1)
    assert len(FastNetwork(learner.network, 3).patches(batch.support_x).portions) == 6
    assert_same_gradients(expected, by_engine(ONE_BY_ONE, learner, batch, 0.0)[0])


def test_an_image_without_ink_has_finite_second_derivatives(shape):
    learner, batch = make_perturbed_learner("maml", shape), make_batch(shape)
    blank = torch.zeros_like(batch.support_x)
    batch = mamlpp.TaskBatch(blank, batch.support_y, batch.query_x, batch.query_y)
    found, _ = by_engine(ONE_BY_ONE, learner, batch, 0.0)
    assert all(gradient.isfinite().all() for gradient in found.values())


def test_what_there_is_of_a_gradient_stays(shape):
    learner, batch = make_perturbed_learner("maml++", shape), make_batch(shape)
    for one in (ONE_BY_ONE, BATCHED):
        once, _ = by_engine(one, learner, batch, 0.0)
        twice = {name: 2 * gradient for name, gradient in once.items()}
        one.task_results(learner, batch, 0.0, 5)
        assert_same_gradients(twice, gradients(learner))


@pytest.mark.parametrize("pooling", ["max", "stride"])
@pytest.mark.parametrize("name", ["maml", "maml+bnrs+bnwb", "maml++"])
def test_the_logits_of_an_evaluation(name, pooling, shape):
    learner, batch = make_perturbed_learner(name, shape, pooling=pooling), make_batch(shape)
    with torch.no_grad():  # Running statistics that differ from layer to layer and step to step.
        for buffer in learner.buffers():
            buffer.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(3))
    for steps in (0, 2):
        paths = [learner.adapted_path(task.support_x, task.support_y, steps) for task in batch]
        for one in (ONE_BY_ONE, BATCHED):
            logits = one.logits(learner, batch, steps, learner.readings, every_step=True)
            assert not logits.requires_grad
            for i, (task, path) in enumerate(zip(batch, paths, strict=True)):
                for row, reading in enumerate(learner.readings):
                    for step in range(steps + 1):
                        classify = learner.classifier(path, step, task.support_x, reading)
                        torch.testing.assert_close(
                            logits[row, step, i], classify(task.query_x),
                            rtol=1e-9, atol=1e-12,
                        )  # fmt: skip
            last = one.logits(learner, batch, steps, learner.readings, every_step=False)
            assert torch.equal(last[:, 0], logits[:, -1])


def test_weights_that_are_not_adapted_come_from_the_network(shape):  # as in ANIL
    learner, batch = make_perturbed_learner("maml", shape), make_batch(shape)
    network = FastNetwork(learner.network, 3)
    weights, patches = expand(learner.weights(), 3), network.patches(batch.query_x)
    head = {name: weight for name, weight in weights.items() if name.startswith("head")}
    assert torch.equal(network.logits(head, patches, 0), network.logits(weights, patches, 0))


@pytest.mark.parametrize("engine", [ONE_BY_ONE, BATCHED])
def test_images_of_another_size_are_refused(engine):
    learner = make_perturbed_learner("maml", SHAPES["even"])
    for use in (
        lambda batch: engine.logits(learner, batch, 1, ["support"], False),
        lambda batch: engine.meta_gradient(learner, batch, 0.0),
    ):
        with pytest.raises(mamlpp.InputError, match="made for images"):
            use(make_batch(SHAPES["odd"]))


def test_statistics_of_several_tasks_are_taken_one_after_another():
    one_call, one_by_one = BatchNorm(4, 1, 2), BatchNorm(4, 1, 2)
    means, variances = torch.rand(2, 5, 4)
    one_call.update_running(1, means, variances)
    expected = torch.zeros(4)
    for mean, variance in zip(means, variances, strict=True):
        one_by_one.update_running(1, mean, variance)
        expected.lerp_(mean, MOMENTUM)
    torch.testing.assert_close(one_call.running_mean, one_by_one.running_mean)
    torch.testing.assert_close(one_call.running_var, one_by_one.running_var)
    torch.testing.assert_close(one_call.running_mean[1], expected)
    assert (one_call.running_mean[0] == 0).all()


def test_statistics_lie_in_one_piece_of_memory():
    learner, batch = make_perturbed_learner("maml++", SHAPES["even"]), make_batch()
    step_weights, second_order = learner.schedule(0.0)
    _, result = batched.task_gradients(learner, batch, step_weights, second_order, 3)
    assert len(result.statistics) == 2 * 3 * 4  # support and query set, steps, layers
    assert len({seen.mean.untyped_storage().data_ptr() for seen in result.statistics}) == 1


def test_patches_are_columns(shape):
    images = torch.rand(2, 3, *shape)
    for stride in (1, 2):
        columns, _ = fast_network.windows(images, stride)
        for cut, task in zip(columns, images, strict=True):
            expected = F.unfold(task, 3, padding=1, stride=stride)  # [M, 9C, P]
            assert torch.equal(cut, torch.cat(list(expected), 1))
