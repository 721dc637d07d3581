"""Image sets: their sizes, their checksums, and how they reach other processes."""

import copy
import multiprocessing
import pickle
import sys
from dataclasses import replace

import psutil
import pytest
import torch

import mamlpp
from mamlpp.data.images import ImageSet, map_images, verified, write_images
from mamlpp.errors import InputError
from tests.makers import plain_images


@pytest.fixture
def mapped(tmp_path):
    write_images(plain_images(), tmp_path / "set.safetensors")
    return map_images(tmp_path / "set.safetensors", "small", "train")


def test_sizes():
    images = plain_images()
    assert (len(images), images.samples, images.shape) == (3, 2, (1, 4, 4))


def test_another_dtype_is_refused():
    with pytest.raises(InputError, match=r"uint8 .* not torch\.float32 \[3, 2, 1, 4, 4\]"):
        replace(plain_images(), images=torch.zeros(3, 2, 1, 4, 4))


def test_another_number_of_dimensions_is_refused():
    with pytest.raises(InputError, match=r"not torch\.uint8 \[3, 4, 4\]"):
        replace(plain_images(), images=torch.zeros(3, 4, 4, dtype=torch.uint8))


def test_class_names_must_match():
    with pytest.raises(InputError, match="3 classes came with 2 class names"):
        replace(plain_images(), class_names=("a", "b"))


def test_checksum_changes_with_one_pixel():
    changed = plain_images().images.clone()
    changed[2, 1, 0, 3, 3] += 1
    assert replace(plain_images(), images=changed).checksum != plain_images().checksum


def test_checksum_changes_with_shape_and_class_names():
    turned = plain_images().images.reshape(3, 2, 4, 4, 1)
    assert replace(plain_images(), images=turned).checksum != plain_images().checksum
    assert replace(plain_images(), class_names=("a", "b", "d")).checksum != plain_images().checksum


def test_checksum_is_the_same_for_the_same_pictures():
    strided = plain_images().images.transpose(3, 4).contiguous().transpose(3, 4)
    assert not strided.is_contiguous()
    assert replace(plain_images(), images=strided).checksum == plain_images().checksum


def test_name_tells_dataset_split_and_checksum():
    assert plain_images().name == f"small-train-{plain_images().checksum[:8]}"


def test_moving_to_the_same_device_keeps_the_set_and_to_another_its_checksum(monkeypatch):
    images = plain_images()
    assert images.to("cpu") is images
    checksum = images.checksum
    monkeypatch.setattr("mamlpp.data.images.hashlib", None)  # Nothing is read again.
    assert images.to("meta").checksum == checksum


def test_what_was_stored_comes_back(mapped):
    assert torch.equal(mapped.images, plain_images().images)
    assert (mapped.class_names, mapped.name) == (("a", "b", "c"), plain_images().name)
    assert verified(mapped)


def test_writing_to_mapped_images_changes_no_file(mapped, tmp_path):
    mapped.images[0] = 99
    again = map_images(tmp_path / "set.safetensors", "small", "train")
    assert again.images.max() == 7
    assert not verified(mapped)


def test_a_mapped_set_travels_as_the_name_of_its_file(tmp_path):
    images = replace(plain_images(), images=torch.zeros(3, 2, 1, 400, 400, dtype=torch.uint8))
    write_images(images, tmp_path / "set.safetensors")
    mapped = map_images(tmp_path / "set.safetensors", "small", "train")
    sampler = mamlpp.TaskSampler(mapped, 2, 1, 1)
    for thing in (mapped, sampler):
        assert len(pickle.dumps(thing)) < 20_000
    assert pickle.loads(pickle.dumps(mapped)).checksum == images.checksum
    there = pickle.loads(pickle.dumps(sampler))
    assert torch.equal(there.sample(3).query_x, sampler.sample(3).query_x)


@pytest.mark.parametrize("changed", ["pixels", "file"])
def test_a_set_that_is_not_what_its_file_holds_travels_as_it_is(mapped, tmp_path, changed):
    if changed == "pixels":
        mapped.images[0] = 99
    else:
        (tmp_path / "set.safetensors").unlink()
    for there in (pickle.loads(pickle.dumps(mapped)), copy.deepcopy(mapped)):
        assert torch.equal(there.images, mapped.images)
        assert there.class_names == mapped.class_names


def test_a_file_that_went_or_changed_on_the_way_is_said(mapped, tmp_path):
    sent = pickle.dumps(mapped)
    write_images(plain_images(value=8), tmp_path / "set.safetensors")
    with pytest.raises(InputError, match="holds other pictures by now; load them again with load_"):
        pickle.loads(sent)
    for data in (b"junk", None):
        (tmp_path / "set.safetensors").unlink()
        if data:
            (tmp_path / "set.safetensors").write_bytes(data)
        with pytest.raises(InputError, match=r"small train were in .*cannot be read any more"):
            pickle.loads(sent)


def private_memory():
    about = psutil.Process().memory_info()
    return about.rss - about.shared


def measure(path, answers):
    """How much memory of its own a process takes to load a set and to draw from all of it."""
    before = private_memory()
    images = map_images(path, "large", "train")
    assert verified(images)
    mamlpp.TaskSampler(images, 5, 1, 15).sample(10)
    answers.put((private_memory() - before, images.images.numel()))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells private memory from shared")
def test_a_process_takes_no_copy_of_the_pictures(tmp_path):
    images = torch.zeros(50, 100, 3, 84, 84, dtype=torch.uint8)
    names = tuple(map(str, range(50)))
    write_images(ImageSet(images, names, "large", "train"), tmp_path / "set.safetensors")
    spawn = multiprocessing.get_context("spawn")
    answers = spawn.Queue()
    process = spawn.Process(target=measure, args=(tmp_path / "set.safetensors", answers))
    process.start()
    own, size = answers.get(timeout=120)
    process.join()
    assert size > 100e6
    assert own < size / 3
