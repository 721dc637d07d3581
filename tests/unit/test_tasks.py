import hashlib
import pickle
import re

import numpy as np
import pytest
import torch

import mamlpp
from mamlpp.data.tasks import stream_seed

CLASSES, SAMPLES = 12, 6


def labelled_images(split="train"):
    """Each picture says who it is: its first pixel the class, its second the sample."""
    images = torch.zeros(CLASSES, SAMPLES, 1, 4, 4, dtype=torch.uint8)
    images[..., 0, 0] = torch.arange(CLASSES).view(-1, 1, 1)
    images[..., 0, 1] = torch.arange(SAMPLES).view(1, -1, 1)
    names = tuple(f"class {index}" for index in range(CLASSES))
    return mamlpp.ImageSet(images, names, "labelled", split)


def sampler(**changes):
    settings = {"ways": 5, "shots": 2, "queries": 3, "seed": 0} | changes
    return mamlpp.TaskSampler(labelled_images(settings.pop("split", "train")), **settings)


def who(x):
    """(class, sample) of each picture."""
    return (x[..., 0, 0, :2] * 255).round().long()


def test_shapes_and_types():
    batch = sampler().sample(7)
    assert batch.support_x.shape == (7, 10, 1, 4, 4)
    assert batch.query_x.shape == (7, 15, 1, 4, 4)
    assert batch.support_y.shape == (7, 10)
    assert batch.query_y.shape == (7, 15)
    assert batch.support_x.dtype == torch.float32
    assert batch.support_y.dtype == torch.int64
    assert len(batch) == 7
    assert batch.support_x.max() <= 1


def test_a_task_has_different_classes_and_different_images():
    for task in sampler().sample(200):
        pictures = torch.cat([who(task.support_x), who(task.query_x)])
        labels = torch.cat([task.support_y, task.query_y])
        assert len({tuple(picture) for picture in pictures.tolist()}) == 25
        named = set(zip(labels.tolist(), pictures[:, 0].tolist(), strict=True))
        assert len(named) == 5  # one label a class, one class a label
        assert labels.bincount().tolist() == [5] * 5


def test_every_class_sample_and_label_comes_up_evenly():
    batch = sampler(ways=3, shots=1, queries=1).sample(4000)
    pictures = who(batch.support_x).flatten(0, 1)
    expected = 4000 * 3 / CLASSES
    assert (pictures[:, 0].bincount() - expected).abs().max() < 5 * expected**0.5
    expected = 4000 * 3 / SAMPLES
    assert (pictures[:, 1].bincount() - expected).abs().max() < 5 * expected**0.5
    first = pictures[batch.support_y.flatten() == 0, 0]
    assert (first.bincount() - 4000 / CLASSES).abs().max() < 5 * (4000 / CLASSES) ** 0.5


def test_the_same_seed_gives_the_same_tasks_and_another_seed_or_split_others():
    first = sampler().sample(4).support_x
    assert torch.equal(first, sampler().sample(4).support_x)
    assert not torch.equal(first, sampler(seed=1).sample(4).support_x)
    assert not torch.equal(first, sampler(split="test").sample(4).support_x)


def test_restart_begins_again():
    tasks = sampler()
    first, second = tasks.sample(4).query_x, tasks.sample(4).query_x
    assert not torch.equal(first, second)
    tasks.restart()
    assert torch.equal(first, tasks.sample(4).query_x)


def test_sampling_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    sampler(rotate=True).sample(3)
    assert torch.equal(before, torch.get_rng_state())


def test_rotation_turns_whole_classes_by_right_angles():
    images = torch.zeros(CLASSES, SAMPLES, 1, 3, 3, dtype=torch.uint8)
    images[..., 0, 0] = 255  # one inked corner says how a picture was turned
    marked = mamlpp.ImageSet(images, tuple("abcdefghijkl"), "marked", "train")
    batch = mamlpp.TaskSampler(marked, 4, 2, 1, rotate=True).sample(300)
    corners = batch.support_x[..., [0, 2, 2, 0], [0, 0, 2, 2]].squeeze(2)  # [300, 8, 4]
    turns = corners.argmax(-1).view(300, 4, 2)
    assert (corners.sum(-1) == 1).all()
    assert torch.equal(turns[..., 0], turns[..., 1])  # both shots of a class alike
    assert (turns.flatten().bincount() / turns.numel() - 0.25).abs().max() < 0.05


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ways": 13}, "13-way tasks need 13 classes, but labelled train has 12"),
        ({"shots": 4, "queries": 3}, "need 7 images in each class, but labelled train has 6"),
        ({"rotate": "no"}, "rotate must be True or False, not 'no'"),
    ],
)
def test_what_the_images_cannot_supply(changes, said):
    with pytest.raises(mamlpp.InputError, match=said):
        sampler(**changes)


@pytest.mark.parametrize("number", [0, -1, 1.0, 2.5, True, "2", None, float("nan")])
@pytest.mark.parametrize("name", ["ways", "shots", "queries"])
def test_what_is_no_whole_number(name, number):
    said = re.escape(f"{name} must be a whole number, 1 or more, not {number!r}")
    with pytest.raises(mamlpp.InputError, match=f"^{said}$"):
        sampler(**{name: number})
    if name != "ways":
        with pytest.raises(mamlpp.InputError, match=f"^{said}$"):
            mamlpp.SinusoidSampler(**{name: number})


@pytest.mark.parametrize("number", [-1, 1.0, True, "2", None])
def test_what_is_no_seed(number):
    said = re.escape(f"seed must be a whole number, 0 or more, not {number!r}")
    for make in (sampler, sampler().with_seed, mamlpp.SinusoidSampler, of_a_stream):
        with pytest.raises(mamlpp.InputError, match=f"^{said}$"):
            make(seed=number)


def of_a_stream(seed):
    return stream_seed(seed, "train")


@pytest.mark.parametrize("number", [0, -1, 1.0, True, "2"])
@pytest.mark.parametrize("make", [sampler, mamlpp.SinusoidSampler])
def test_what_is_no_number_of_tasks(make, number):
    said = re.escape(f"tasks must be a whole number, 1 or more, not {number!r}")
    with pytest.raises(mamlpp.InputError, match=f"^{said}$"):
        make().sample(number)


def test_whole_numbers_of_other_libraries_serve():
    ours = sampler(seed=3).sample(2).query_x
    theirs = sampler(seed=np.int64(3), ways=np.uint8(5), shots=torch.tensor(2))
    assert torch.equal(theirs.sample(np.int32(2)).query_x, ours)


def test_what_is_no_image_set():
    with pytest.raises(mamlpp.InputError, match="must be an ImageSet, such as load_images gives"):
        mamlpp.TaskSampler("omniglot", 5, 1)


# What the sampler gave when it was new: a seed must mean the same tasks for ever.
DIGESTS = {False: "3d5ce6001a752b3d", True: "d74d829643b8b19a"}


@pytest.mark.parametrize("rotate", [False, True])
def test_a_seed_gives_the_tasks_that_it_always_gave(rotate):
    numbers = torch.arange(7 * 5 * 3 * 6 * 6).mul(2654435761).bitwise_right_shift(7)
    pixels = numbers.to(torch.uint8).view(7, 5, 3, 6, 6)
    images = mamlpp.ImageSet(pixels, tuple("abcdefg"), "noise", "train")
    tasks = mamlpp.TaskSampler(images, 4, 2, 3, seed=5, rotate=rotate)
    digest = hashlib.sha256()
    for count in (3, 8):
        batch = tasks.sample(count)
        for x in (batch.support_x, batch.support_y, batch.query_x, batch.query_y):
            digest.update(x.contiguous().numpy().data)
    assert digest.hexdigest()[:16] == DIGESTS[rotate]


def test_without_rotation_the_pictures_are_not_copied():
    images = labelled_images()
    tasks = mamlpp.TaskSampler(images, 5, 2)
    assert tasks._pictures.data_ptr() == images.images.data_ptr()


@pytest.mark.parametrize("rotate", [False, True])
def test_a_sampler_goes_on_in_another_process_where_it_was(rotate):
    tasks = sampler(rotate=rotate)
    tasks.sample(3)
    there = pickle.loads(pickle.dumps(tasks))
    assert torch.equal(there.sample(4).query_x, tasks.sample(4).query_x)


def test_other_bad_input():
    oblong = mamlpp.ImageSet(torch.zeros(6, 2, 1, 3, 4, dtype=torch.uint8), (*"abcdef",), "x", "y")
    with pytest.raises(mamlpp.InputError, match="only square images"):
        mamlpp.TaskSampler(oblong, 5, 1, rotate=True)
    x, y = torch.zeros(2, 5, 1), torch.zeros(2, 5)
    with pytest.raises(mamlpp.InputError, match=r"query_x .* must start with the same"):
        mamlpp.TaskBatch(x, y, x, y[:, :4])
    with pytest.raises(mamlpp.InputError, match="2 support sets came with 1 query set"):
        mamlpp.TaskBatch(x, y, x[:1], y[:1])


def test_split_keeps_every_task():
    batch = sampler().sample(5)
    parts = batch.split(2)
    assert [len(part) for part in parts] == [2, 2, 1]
    assert torch.equal(torch.cat([part.query_x for part in parts]), batch.query_x)


def test_sinusoids_are_sinusoids():
    batch = mamlpp.SinusoidSampler(shots=5, queries=6, seed=0).sample(50)
    assert batch.support_x.shape == (50, 5, 1)
    assert batch.query_y.shape == (50, 6, 1)
    x, y = (
        torch.cat([batch.support_x, batch.query_x], 1),
        torch.cat([batch.support_y, batch.query_y], 1),
    )
    # y = a·sin x + b·cos x, with amplitude √(a² + b²): two numbers explain all eleven points.
    design = torch.cat([x.sin(), x.cos()], -1).double()
    fit = torch.linalg.lstsq(design, y.double()).solution
    assert (design @ fit - y).abs().max() < 1e-4
    amplitude = fit.norm(dim=1)
    assert amplitude.min() > 0.09
    assert amplitude.max() < 5.01
    assert x.abs().max() <= 5
    again = mamlpp.SinusoidSampler(shots=5, queries=6, seed=0).sample(50)
    assert torch.equal(batch.query_y, again.query_y)
