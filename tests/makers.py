"""What many tests start from: small learners, tasks, samplers and trainers, drawn from a seed."""

import torch

import mamlpp

SHAPE, WAYS = (1, 16, 16), 3


def make_learner(name="maml", shape=SHAPE, ways=WAYS, kind=mamlpp.MetaLearner, **changes):
    """A learner with 4 filters and 3 inner steps, in float32."""
    recipe = mamlpp.RECIPES[name].with_(**{"filters": 4, "inner_steps": 3} | changes)
    return kind(recipe, shape, ways, seed=0)


def make_lively_learner(name, shape, **changes):
    """In float64, with weights of both signs in batch norm: the smallest becomes the largest."""
    learner = make_learner(name, shape, inner_rate=0.3, **changes).double()
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in learner.named_parameters():
            if "norm" in name:
                parameter += torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
    return learner


def make_batch(shape=SHAPE, tasks=3, per_class=2, ways=WAYS, dtype=torch.float64, seed=2):
    """Tasks of random images."""
    draw, count = torch.Generator().manual_seed(seed), ways * per_class
    x = torch.rand(2, tasks, count, *shape, generator=draw, dtype=dtype)
    y = torch.stack([torch.randperm(count, generator=draw) % ways for _ in range(tasks)])
    return mamlpp.TaskBatch(x[0], y, x[1], y.flip(0))


def make_task(shape=SHAPE, **changes):
    """One of them."""
    return next(iter(make_batch(shape, **changes)))


def noise_images(split="train", classes=6, samples=4, size=16):
    """Images of noise: what a training needs that shall not learn."""
    draw = torch.Generator().manual_seed(0)
    shape = (classes, samples, 1, size, size)
    noise = torch.randint(0, 256, shape, generator=draw, device="cpu")
    return mamlpp.ImageSet(noise.byte(), tuple(map(str, range(classes))), "noise", split)


def noise_sampler(split="train", ways=WAYS, shots=1, queries=2, seed=0):
    """Tasks of these."""
    return mamlpp.TaskSampler(noise_images(split), ways, shots, queries, seed=seed)


def noise_trainer(name="maml", directory=None, workers=1, **changes):
    """A trainer on noise, of two epochs of two meta-steps, unless said."""
    size = {
        **{"filters": 4, "inner_steps": 2, "meta_batch": 3, "validation_tasks": 2},
        **{"epochs": 2, "iterations_per_epoch": 2},
    }
    recipe = mamlpp.RECIPES[name].with_(**size | changes)
    samplers = noise_sampler(), noise_sampler("validation")
    return mamlpp.Trainer(recipe, *samplers, directory, workers=workers)


def gradients(learner):
    """The gradients of a module's parameters, by name."""
    return {name: p.grad for name, p in learner.named_parameters() if p.grad is not None}


def assert_same_gradients(one, other, relative=1e-9):
    """By name, up to rounding."""
    assert one.keys() == other.keys()
    for name in one:
        assert (one[name] - other[name]).norm() <= relative * one[name].norm() + 1e-14, name


def assert_same_statistics(one, other):
    """Two lists of batch statistics."""
    assert [seen[:2] for seen in one] == [seen[:2] for seen in other]
    for seen, same in zip(one, other, strict=True):
        torch.testing.assert_close(seen[2:], same[2:], rtol=1e-9, atol=1e-12)
