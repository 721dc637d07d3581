"""What many tests start from: small learners, tasks, samplers and trainers, drawn from a seed."""

import sys

import torch

import mamlpp

# For the names of folders: where a system spells them in ASCII, there is no such letter.
UMLAUT = "ü" if sys.getfilesystemencoding() == "utf-8" else ""
SHAPE, WAYS = (1, 16, 16), 3
METHODS = [name for name in mamlpp.RECIPES if not name.endswith("-quick")]  # those differ in size


def make_learner(name="maml", shape=SHAPE, ways=WAYS, kind=mamlpp.MetaLearner, **changes):
    """A learner with 4 filters and 3 inner steps, in float32."""
    recipe = mamlpp.RECIPES[name].with_(**{"filters": 4, "inner_steps": 3} | changes)
    return kind(recipe, shape, ways, seed=0)


def stages(**changes):
    """Every recipe at each of these epochs at which its schedule is another than before."""
    found = {
        (name, *map(str, make_learner(name, **changes).schedule(epoch))): (name, epoch)
        for name in METHODS
        for epoch in (60.0, 3.0, 0.0)
    }
    return list(found.values())


def make_perturbed_learner(name, shape, **changes):
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


def on(device, batch):
    """A batch on a device."""
    parts = (batch.support_x, batch.support_y, batch.query_x, batch.query_y)
    return mamlpp.TaskBatch.unchecked(*(part.to(device) for part in parts))


def plain_images(split="train", value=7):
    """Three classes of two images, all pixels alike."""
    images = torch.full((3, 2, 1, 4, 4), value, dtype=torch.uint8)
    return mamlpp.ImageSet(images, (*"abc",), "small", split)


def noise_images(split="train", classes=6, samples=4, size=16, dataset="noise", seed=None):
    """Images of noise, for a training that need not learn anything; others in each split."""
    seed = ("train", "validation", "test").index(split) if seed is None else seed
    draw = torch.Generator().manual_seed(seed)
    shape = (classes, samples, 1, size, size)
    noise = torch.randint(0, 256, shape, generator=draw, device="cpu")
    return mamlpp.ImageSet(noise.byte(), tuple(map(str, range(classes))), dataset, split)


def noise_sampler(split="train", ways=WAYS, shots=1, queries=2, seed=0, drawn=None, **images):
    """Tasks of these; further options are those of `noise_images`, whose seed is `drawn`."""
    pictures = noise_images(split, seed=drawn, **images)
    return mamlpp.TaskSampler(pictures, ways, shots, queries, seed=seed)


def noise_trainer(
    name="maml", directory=None, workers=1, sampler=noise_sampler, diagnose_every=None, **changes
):
    """A trainer of two epochs of two meta-steps, unless said, on the tasks of `sampler(split)`."""
    size = {
        **{"filters": 4, "inner_steps": 2, "meta_batch": 3, "validation_tasks": 2},
        **{"epochs": 2, "iterations_per_epoch": 2},
    }
    recipe = mamlpp.RECIPES[name].with_(**size | changes)
    samplers = sampler("train"), sampler("validation")
    options = {"workers": workers, "diagnose_every": diagnose_every}
    return mamlpp.Trainer(recipe, *samplers, directory, **options)


def advance(trainer, steps):
    """So many meta-steps."""
    with trainer.alone():
        for _ in range(steps):
            trainer.advance()


def flat(tensors):
    """All numbers of these tensors as one vector, copied, without a graph."""
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def flat_weights(module):
    """All parameters of a module as one vector."""
    return flat(module.parameters())


def snapshot(module):
    """A copy of its parameters and buffers."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_identical(one, other):
    """By name, without any tolerance."""
    torch.testing.assert_close(dict(one), dict(other), rtol=0, atol=0)


def write_files(folder, files):
    """From a dictionary of bytes by path."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


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
