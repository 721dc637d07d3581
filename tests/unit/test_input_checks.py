"""The Python door: what can only mean one thing is converted, the rest is refused in a sentence."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import mamlpp
from mamlpp import input_checks
from mamlpp.data import tasks as data_tasks
from mamlpp.inner_rates import LSLR, FixedRate, MetaSGD
from tests.makers import (
    advance,
    make_batch,
    make_learner,
    noise_images,
    noise_sampler,
    noise_trainer,
)

WAYS, SHAPE = 5, (1, 16, 16)


@pytest.fixture(scope="module")
def learner():
    return make_learner(ways=WAYS)


@pytest.fixture
def x():
    return torch.rand(WAYS, *SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def y():
    return torch.tensor([3, 0, 4, 1, 2])


def refused(said):
    return pytest.raises(mamlpp.InputError, match=re.escape(said))


# What is converted ------------------------------------------------------------------------------

AS_OTHERS = {
    "arrays": lambda v: v.numpy(),
    "read-only arrays": lambda v: np.broadcast_to(v.numpy(), v.shape),
    "arrays run backwards": lambda v: v.flip(0).numpy()[::-1],
    "lists": lambda v: v.tolist(),
    "lists of arrays": lambda v: [each.numpy() for each in v],
    "lists of tensors": list,
    "tuples": lambda v: tuple(v.tolist()),
}


@pytest.mark.parametrize("kind", AS_OTHERS)
def test_arrays_and_lists_are_tensors_to_every_door(kind, learner, x, y):
    other = AS_OTHERS[kind]
    logits = learner.adapt(x, y)(x)
    assert torch.equal(learner.adapt(other(x), other(y))(other(x)), logits)
    loss = learner.meta_loss([mamlpp.Task(x, y, x.flip(0), y.flip(0))])[0]
    parts = x, y, x.flip(0), y.flip(0)
    assert torch.equal(learner.meta_loss([mamlpp.Task(*map(other, parts))])[0], loss)
    assert torch.equal(learner.task_loss(mamlpp.Task(*map(other, parts))).loss, loss)
    batch = mamlpp.TaskBatch(*([other(part)] for part in parts))
    assert torch.equal(learner.meta_loss(batch)[0], loss)
    assert (batch.support_x.dtype, batch.support_y.dtype) == (torch.float32, torch.int64)


INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32]


@pytest.mark.parametrize("dtype", INTEGERS)
def test_labels_may_be_integers_of_any_width(dtype, learner, x, y):
    narrow = y.to(dtype)
    assert torch.equal(learner.adapt(x, narrow)(x), learner.adapt(x, y)(x))
    batch = mamlpp.TaskBatch(x[None], narrow[None], x[None], narrow[None])
    assert batch.query_y.dtype == torch.int64
    same = [mamlpp.Task(x, narrow, x, narrow)]
    assert torch.equal(learner.meta_loss(batch)[0], learner.meta_loss(same)[0])


def test_labels_may_be_true_and_false_where_there_are_two(x):
    two = make_learner(ways=2)
    assert torch.equal(two.adapt(x[:2], [False, True])(x), two.adapt(x[:2], [0, 1])(x))


def test_images_of_another_precision_take_that_of_the_learner(x, y, learner):
    double = make_learner(ways=WAYS).double()
    for mine, images in ((learner, x.double()), (learner, x.half()), (double, x)):
        logits = mine.adapt(images, y)(images)
        assert logits.dtype == next(mine.parameters()).dtype
        torch.testing.assert_close(logits.float(), learner.adapt(x, y)(x), atol=0.02, rtol=0.02)
        assert mine.meta_loss([mamlpp.Task(images, y, images, y)])[0].dtype == logits.dtype


def test_bytes_are_what_an_image_set_holds(learner, y):
    pictures = noise_images().images[:WAYS, 0]
    floats = pictures.float() / 255
    expected = learner.adapt(floats, y)(floats)
    assert torch.equal(learner.adapt(pictures, y)(pictures), expected)
    parts = pictures[None], y[None], pictures[None], y[None]
    batch = mamlpp.TaskBatch(*parts)
    assert torch.equal(batch.support_x[0], floats)
    task = mamlpp.Task(*(part[0] for part in parts))
    assert torch.equal(learner.meta_loss([task])[0], learner.meta_loss(batch)[0])


def test_true_and_false_are_ink_and_paper(learner, x, y):
    ink = x > 0.5
    assert torch.equal(learner.adapt(ink, y)(ink), learner.adapt(ink.float(), y)(ink.float()))


def test_standardised_images_are_taken_as_they_are(learner, x, y):
    standard = (x - x.mean()) / x.std() * 2  # from -3.4 to 3.4
    assert standard.max() > 2
    assert learner.adapt(standard, y)(standard).isfinite().all()
    mamlpp.TaskBatch(standard[None], y[None], standard[None], y[None])


def test_a_tensor_that_is_right_is_used_as_it_is(learner, x, y):
    task = mamlpp.Task(x, y, x, y)
    assert all(a is b for a, b in zip(input_checks.as_task(learner, task), task, strict=True))


# What is refused --------------------------------------------------------------------------------

SUPPORT = {
    "negative": (lambda x, y: (x, y - 1), "labels must be 0 … 4 for a 5-way learner"),
    "too large": (lambda x, y: (x, y + 1), "go from 1 to 5"),
    "float labels": (lambda x, y: (x, y.float()), "support_y must be whole numbers, 0 … 4, not f"),
    "one-hot labels": (lambda x, y: (x, torch.eye(5).long()), "one label for each image"),
    "few labels": (lambda x, y: (x, y[:4]), "one label for each image, [5], not [4]"),
    "fewer ways": (
        lambda x, y: (x[:3], [0, 1, 2]),
        "has 3 of the 5 classes; give examples of each",
    ),
    "0 … 255": (lambda x, y: (x * 255, y), "images are floats in 0 … 1; divide by 255"),
    "NaN": (lambda x, y: (x.masked_fill(x > 0.9, torch.nan), y), "support_x holds NaN or infinity"),
    "infinity": (lambda x, y: (x / 0, y), "support_x holds NaN or infinity; give finite numbers"),
    "empty": (lambda x, y: (x[:0], y[:0]), "support_x has no images; give at least one"),
    "binary bytes": (lambda x, y: ((x > 0.5).byte(), y), "none of them is above 1; give floats"),
    "integers": (
        lambda x, y: ((x * 255).int(), y),
        "floats in 0 … 1, or uint8 in 0 … 255, not int32",
    ),
    "one image": (lambda x, y: (x[0], y), "give a single image as image[None]"),
    "no channel": (lambda x, y: (x[:, 0], y), "add the channel: images[:, None]"),
    "channels last": (lambda x, y: (x.permute(0, 2, 3, 1), y), "images.permute(0, 3, 1, 2)"),
    "other channels": (
        lambda x, y: (x.expand(-1, 3, -1, -1), y),
        "images [1, 16, 16], but these are [3, 16, 16]; give [images, 1, 16, 16]",
    ),
    "elsewhere": (
        lambda x, y: (x.to("meta"), y),
        "support_x is on meta, but the learner is on cpu; move one of them with .to('cpu')",
    ),
    "labels elsewhere": (lambda x, y: (x, y.to("meta")), "support_y is on meta, but the learner"),
    "ragged": (lambda x, y: ([[1.0, 2.0], [3.0]], y), "lists of numbers that are equally long"),
    "words": (lambda x, y: (x, [*"abcde"]), "support_y must be a tensor, an array, or lists"),
    "nothing": (
        lambda x, y: (None, y),
        "support_x must be a tensor, an array, or lists of numbers",
    ),
}


@pytest.mark.parametrize("what", SUPPORT)
def test_a_support_set_that_cannot_be_learned_from(what, learner, x, y):
    change, said = SUPPORT[what]
    support = change(x, y)
    with refused(said):
        learner.adapt(*support)
    with refused(said):
        learner.meta_loss([mamlpp.Task(*support, x, y)])
    with refused(said):
        learner.task_loss(mamlpp.Task(*support, x, y))


@pytest.mark.parametrize("what", sorted(SUPPORT.keys() - {"fewer ways"}))
def test_a_query_set_that_cannot_be_judged(what, learner, x, y):
    change, said = SUPPORT[what]
    with refused(said.replace("support", "query")):
        learner.meta_loss([mamlpp.Task(x, y, *change(x, y))])


def test_a_query_set_need_not_have_every_class(learner, x, y):
    learner.meta_loss([mamlpp.Task(x, y, x[:1], y[:1])])


ABOUT_LABELS = {
    *("negative", "too large", "float labels", "one-hot labels", "few labels", "fewer ways"),
    *("labels elsewhere", "words"),
}


@pytest.mark.parametrize("what", sorted(SUPPORT.keys() - ABOUT_LABELS))
def test_images_that_cannot_be_classified(what, learner, x, y):
    change, said = SUPPORT[what]
    classify = learner.adapt(x, y)
    with refused(said.replace("support_x", "images")):
        classify(change(x, y)[0])


@pytest.mark.parametrize("steps", [-1, 1.5, True, "2"])
def test_what_is_no_number_of_steps(steps, learner, x, y):
    with refused(f"steps must be a whole number, 0 or more, not {steps!r}"):
        learner.adapt(x, y, steps=steps)
    with refused(f"steps must be 0 or more, not {steps!r}"):
        mamlpp.evaluate_tasks(learner, noise_sampler(ways=WAYS), 2, steps)


def test_steps_of_other_libraries_serve(learner, x, y):
    assert torch.equal(learner.adapt(x, y, np.int64(2))(x), learner.adapt(x, y, 2)(x))


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ([], "an empty list"),
        (None, "NoneType"),
        (3, "int"),
        (["task"], "list of str"),
        (torch.zeros(2), "Tensor"),
        (noise_sampler(ways=WAYS), "TaskSampler; give sampler.sample(tasks)"),
    ],
)
def test_what_is_no_batch(batch, said, learner):
    with refused(f"a TaskBatch, or a list of at least one Task, is expected, not {said}"):
        learner.meta_loss(batch)


def test_a_batch_is_no_task(learner, x, y):
    with refused("a Task is expected, not TaskBatch; of a batch, take meta_loss"):
        learner.task_loss(mamlpp.TaskBatch(x[None], y[None], x[None], y[None]))


def test_images_of_inference_mode_serve(learner, x, y):
    expected = learner.adapt(x, y)(x)
    with torch.inference_mode():
        assert torch.equal(learner.adapt(x.clone(), y)(x.clone()), expected)


def test_a_task_is_no_batch(learner, x, y):
    with refused("a batch of tasks is expected, not a single one; give [task]"):
        learner.meta_loss(mamlpp.Task(x, y, x, y))


def test_tasks_of_other_ways_are_refused_by_every_door(learner):
    three = make_batch(ways=3, dtype=torch.float32)
    said = "the learner was made for 5-way tasks, but this support set has 3 of the 5 classes"
    with refused(said):
        learner.meta_loss(three)
    with refused(said):  # whoever draws them
        mamlpp.evaluate_tasks(learner, SimpleNamespace(sample=lambda tasks: three), 3)
    with refused("made for 5-way tasks, but these are 3-way; give a sampler with ways=5"):
        mamlpp.evaluate_tasks(learner, noise_sampler(ways=3), 2)


# Networks of a user's own -----------------------------------------------------------------------


def own(network, shape):
    recipe = mamlpp.RECIPES["maml"].with_(inner_steps=1)
    return mamlpp.MetaLearner(recipe, shape, 2, network=network)


def test_a_network_of_ones_own_may_expect_other_numbers():
    bright = own(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), (1, 2, 2))
    x = torch.tensor([0.0, 255.0]).view(2, 1, 1, 1).expand(2, 1, 2, 2)
    assert bright.adapt(x, [0, 1])(x).shape == (2, 2)
    words = own(nn.Sequential(nn.Embedding(9, 3), nn.Flatten(), nn.Linear(6, 2)), (2,))
    assert words.adapt([[1, 8], [2, 7]], [0, 1])([[3, 3]]).shape == (1, 2)
    with refused("support_x holds NaN or infinity"):
        bright.adapt(x / 0, [0, 1])


# Batches by hand --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x, y: (x[:0], y[:0], x[:0], y[:0]), "support_x [0, 5, 1, 16, 16] is empty"),
        (lambda x, y: (x, y, x[:, :0], y[:, :0]), "query_x [1, 0, 1, 16, 16] is empty; give at le"),
        (lambda x, y: (x, y, x, y - 1), "query_y has a negative label, -1; labels are 0, 1, 2"),
        (lambda x, y: (x * 255, y, x, y), "support_x goes up to 25"),
        (lambda x, y: (x, y, x / 0, y), "query_x holds NaN or infinity; give finite numbers"),
        (lambda x, y: (x, y.float() / 0, x, y), "support_y holds NaN or infinity"),
        (lambda x, y: ((x > 0.5).byte(), y, x, y), "none of them is above 1; give floats"),
        (lambda x, y: (x.to("meta"), y, x, y), "are on cpu and meta; move them to one device"),
        (lambda x, y: ("abc", y, x, y), "support_x must be a tensor, an array, or lists"),
        (lambda x, y: (3, y, x, y), "must start with the same [tasks, examples]"),
    ],
)
def test_what_is_no_task_batch(change, said, x, y):
    with refused(said):
        mamlpp.TaskBatch(*change(x[None], y[None]))


def test_float_targets_make_a_batch_but_no_labels(learner, x, y):
    batch = mamlpp.TaskBatch(x[None], y[None].float(), x[None], y[None].float())
    assert batch.query_y.dtype == torch.float32
    with refused("support_y must be whole numbers, 0 … 4, not float32; give labels.long()"):
        learner.meta_loss(batch)


# Learners, rates, image sets, trainers, evaluations ---------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("maml", SHAPE, 5), "recipe must be a Recipe, such as RECIPES['maml++'], not str 'maml'"),
        ((None, (16, 16), 5), "image_shape must be (channels, height, width)"),
        ((None, 16, 5), "image_shape must be (channels, height, width)"),
        ((None, (1, 16.0, 16), 5), "each number of image_shape must be a whole number"),
        ((None, SHAPE, 5.0), "ways must be a whole number, 1 or more, not 5.0"),
        ((None, SHAPE, 0), "ways must be a whole number, 1 or more, not 0"),
        ((None, SHAPE, 5, "one"), "seed must be a whole number, 0 or more, not 'one'"),
        ((None, SHAPE, 5, 0, abs), "network must be an nn.Module, not builtin"),
    ],
)
def test_what_is_no_learner(arguments, said):
    recipe, *others = arguments
    with refused(said):
        mamlpp.MetaLearner(recipe or mamlpp.RECIPES["maml"], *others)


@pytest.mark.parametrize("rate", [torch.full((5,), 0.1), [0.1] * 5, "0.1", True, None, np.nan])
def test_what_is_no_inner_rate(rate, learner):
    weights = learner.weights()
    for make in (FixedRate, lambda r: LSLR(weights, 3, r), lambda r: MetaSGD(weights, r)):
        with refused("an inner rate must be one finite number, not"):
            make(rate)


@pytest.mark.parametrize("rate", [1, np.float32(0.5), torch.tensor(0.5)])
def test_numbers_of_other_libraries_are_rates(rate, learner):
    weights = learner.weights()
    assert FixedRate(rate)("", 0) == float(rate)
    assert (LSLR(weights, 2, rate).rates == float(rate)).all()
    assert (MetaSGD(weights, rate).rates[0] == float(rate)).all()


@pytest.mark.parametrize("shape", [(), (5,), (1, 3), (4, 3), (5, 0), (5, 3, 1)])
def test_rates_that_are_not_one_for_each_layer_and_step(shape, x, y):
    lslr = make_learner("maml+lslr", ways=WAYS)
    lslr.rule.rates = nn.Parameter(torch.full(shape, 0.1))
    with refused(f"LSLR needs rates [5, steps], one for each layer and step, not {list(shape)}"):
        lslr.adapt(x, y)


def test_image_sets_of_arrays():
    pixels = noise_images().images
    ours, theirs = (mamlpp.ImageSet(p, [*"abcdef"], "d", "s") for p in (pixels, pixels.numpy()))
    assert ours.checksum == theirs.checksum
    assert ours.class_names == (*"abcdef",)
    for images in (pixels.float() / 255, pixels.numpy() / 255, pixels.tolist(), pixels[0]):
        with refused("an ImageSet holds uint8 images [classes, samples, channels, height, width]"):
            mamlpp.ImageSet(images, [*"abcdef"], "d", "s")
    for names in (None, "abcdef", 6):
        with refused("class_names must be a list of names, not"):
            mamlpp.ImageSet(pixels, names, "d", "s")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"recipe": "maml"}, "recipe must be a Recipe, such as RECIPES['maml++'], not str 'maml'"),
        ({"train": noise_images()}, "tasks are drawn by a TaskSampler, which this ImageSet is not"),
        ({"validation": None}, "tasks are drawn by a TaskSampler, which this NoneType is not"),
        ({"validation": noise_sampler("validation", ways=4)}, "4 in validation tasks; give both"),
        ({"diagnose_every": "often"}, "diagnose_every must be a number of meta-steps from 1 on"),
        ({"diagnose_every": 0.5}, "diagnose_every must be a number of meta-steps from 1 on"),
        ({"callbacks": print}, "callbacks must be a list of functions of (trainer, row), not <b"),
        (
            {"callbacks": [lambda row: None]},
            "callbacks must be a list of functions of (trainer, row)",
        ),
        ({"callbacks": ["log"]}, "callbacks must be a list of functions of (trainer, row), not ["),
        ({"directory": 3}, "the path of a file or folder is expected, such as 'runs/x', not int"),
        ({"workers": True}, "workers must be a whole number or 'auto', not True"),
    ],
)
def test_what_no_trainer_can_be_made_of(change, said):
    given = {"recipe": mamlpp.RECIPES["maml"], "train": noise_sampler()}
    with refused(said):
        mamlpp.Trainer(**given | {"validation": noise_sampler("validation")} | change)


def test_training_and_validation_images_are_on_one_device():
    elsewhere = mamlpp.TaskSampler(noise_images("validation").to("meta"), 3, 1, 2)
    with refused("training images are on cpu and validation images on meta"):
        mamlpp.Trainer(mamlpp.RECIPES["maml"], noise_sampler(), elsewhere)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"run": make_learner()},
            "a Run is expected, such as Trainer.fit returns, not MetaLearner",
        ),
        (
            {"images": "omniglot"},
            "images must be an ImageSet, not the name 'omniglot'",
        ),
        (
            {"images": noise_images("test", size=32)},
            "images [1, 16, 16], but these are [1, 32, 32]",
        ),
        ({"tasks": "2"}, "a confidence interval needs at least 2 tasks, not '2'"),
        ({"tasks": 2.5}, "a confidence interval needs at least 2 tasks, not 2.5"),
        ({"ensemble": "all"}, "an ensemble needs at least 1 checkpoint, not 'all'"),
    ],
)
def test_what_cannot_be_evaluated(change, said):
    given = {"run": noise_trainer().result(), "images": noise_images("test"), "tasks": 2}
    for judge in (mamlpp.evaluate, mamlpp.evaluate_readings):
        with refused(said):
            judge(**given | change)


def test_seeds_are_not_trained_of_a_name():
    with refused("recipe must be a Recipe, such as RECIPES['maml++'], not str 'maml'"):
        mamlpp.train_seeds({"MAML": "maml"}, noise_sampler(), noise_sampler("validation"))


def test_what_evaluates_no_learner(learner):
    sampler = noise_sampler(ways=WAYS)
    with refused("a MetaLearner is expected, not Run"):
        mamlpp.evaluate_tasks(noise_trainer().result(), sampler, 2)
    with refused("there is no learner to evaluate; give at least one"):
        mamlpp.evaluate_tasks([], sampler, 2)
    with refused("tasks are drawn by a TaskSampler, which this ImageSet is not; make one"):
        mamlpp.evaluate_tasks(learner, noise_images(), 2)


# What it costs ----------------------------------------------------------------------------------


def test_no_values_are_read_of_tensors_that_are_on_no_cpu(x, y):
    """As on a GPU, where reading them would make the processor wait; "meta" refuses outright."""
    away = make_learner(ways=WAYS).to("meta")
    task = mamlpp.Task(*(part.to("meta") for part in (x, y, x, y)))
    assert input_checks.as_task(away, task) == task
    input_checks.check_task(away, task.support_x, task.support_y[None])
    drawn = mamlpp.TaskSampler(noise_images().to("meta"), WAYS, 1).sample(2)
    assert [len(part) for part in drawn.split()] == [1, 1]
    with pytest.raises(RuntimeError):
        input_checks.as_support(away, task.support_x, task.support_y, None)


def test_a_training_reads_no_pixels_to_check_them(monkeypatch):
    def never(*_):
        raise AssertionError("pixels were read")

    trainer = noise_trainer()
    advance(trainer, 1)  # Before it, the engine compares itself with the definition.
    for module in (input_checks, data_tasks):
        monkeypatch.setattr(module, "check_finite", never)
    advance(trainer, 2)  # and a validation
    with pytest.raises(AssertionError, match="pixels were read"):
        trainer.learner.meta_loss(trainer.train.sample(1))
