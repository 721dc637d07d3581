import multiprocessing
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mamlpp.data.images import ImageSet, cached
from mamlpp.errors import InputError, InputWarning


def small_set(split="train", value=7):
    images = torch.full((3, 2, 1, 4, 4), value, dtype=torch.uint8)
    return ImageSet(images, ("a", "b", "c"), "small", split)


def build():
    return {split: small_set(split) for split in ("train", "test")}


def never_built():
    raise AssertionError("the cache was there, and was not used")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MAMLPP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def stored(cache):
    """The one file in which the cache keeps the train split."""
    cached("small", "train", "v1", build)
    (path,) = cache.glob("small-train-*")
    return path


def test_sizes():
    images = small_set()
    assert (len(images), images.samples, images.shape) == (3, 2, (1, 4, 4))


def test_another_dtype_is_refused():
    with pytest.raises(InputError, match=r"uint8 .* not torch\.float32 \[3, 2, 1, 4, 4\]"):
        replace(small_set(), images=torch.zeros(3, 2, 1, 4, 4))


def test_another_number_of_dimensions_is_refused():
    with pytest.raises(InputError, match=r"not torch\.uint8 \[3, 4, 4\]"):
        replace(small_set(), images=torch.zeros(3, 4, 4, dtype=torch.uint8))


def test_class_names_must_match():
    with pytest.raises(InputError, match="3 classes came with 2 class names"):
        replace(small_set(), class_names=("a", "b"))


def test_checksum_changes_with_one_pixel():
    changed = small_set().images.clone()
    changed[2, 1, 0, 3, 3] += 1
    assert replace(small_set(), images=changed).checksum != small_set().checksum


def test_checksum_changes_with_shape_and_class_names():
    turned = small_set().images.reshape(3, 2, 4, 4, 1)
    assert replace(small_set(), images=turned).checksum != small_set().checksum
    assert replace(small_set(), class_names=("a", "b", "d")).checksum != small_set().checksum


def test_checksum_is_the_same_for_the_same_pictures():
    strided = small_set().images.transpose(3, 4).contiguous().transpose(3, 4)
    assert not strided.is_contiguous()
    assert replace(small_set(), images=strided).checksum == small_set().checksum


def test_name_tells_dataset_split_and_checksum():
    assert small_set().name == f"small-train-{small_set().checksum[:8]}"


def test_cache_gives_back_what_was_built(cache):
    built = cached("small", "train", "v1", build)
    again = cached("small", "train", "v1", never_built)
    assert torch.equal(again.images, built.images)
    assert (again.class_names, again.name) == (built.class_names, built.name)


def test_one_build_fills_the_cache_for_all_its_splits(stored):
    assert cached("small", "test", "v1", never_built).split == "test"


def test_another_key_is_built_anew(stored):
    newer = cached("small", "train", "v2", lambda: {"train": small_set(value=8)})
    assert newer.images.max() == 8
    assert cached("small", "train", "v1", never_built).images.max() == 7


def test_cached_file_can_be_read_by_others(stored):
    assert stored.stat().st_mode & 0o777 == 0o644


def cut(data):
    return data[: len(data) // 2]


def flip_a_pixel(data):
    return data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]


def rename_a_class(data):
    return data.replace(b'\\"b\\"', b'\\"B\\"')


def empty(data):
    return b""


@pytest.mark.parametrize("damage", [cut, flip_a_pixel, rename_a_class, empty])
def test_damaged_cache_is_built_again(stored, damage):
    whole = stored.read_bytes()
    damaged = damage(whole)
    assert damaged != whole
    stored.write_bytes(damaged)
    with pytest.warns(InputWarning, match="damaged") as caught:
        rebuilt = cached("small", "train", "v1", build)
    assert len(caught) == 1
    assert rebuilt.checksum == small_set().checksum
    assert cached("small", "train", "v1", never_built).checksum == rebuilt.checksum


def test_cache_that_cannot_be_written_costs_one_warning(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MAMLPP_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(InputWarning, match="set MAMLPP_CACHE") as caught:
        built = cached("small", "train", "v1", build)
    assert len(caught) == 1
    assert built.checksum == small_set().checksum


def test_failed_build_leaves_nothing_behind(cache):
    def fail():
        raise InputError("no good")

    with pytest.raises(InputError, match="no good"):
        cached("small", "train", "v1", fail)
    assert not cache.exists()


def test_only_whole_files_are_left_behind(stored, cache):
    assert sorted(path.suffix for path in cache.rglob("*")) == [".safetensors"] * 2


def build_at_once(barrier):
    def build_when_both_are_there():
        barrier.wait(timeout=60)
        return build()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        built = cached("small", "train", "v1", build_when_both_are_there)
    assert built.checksum == small_set().checksum


def test_two_processes_may_build_at_once(cache: Path):
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(2)
    other = spawn.Process(target=build_at_once, args=(barrier,))
    other.start()
    build_at_once(barrier)
    other.join()
    assert other.exitcode == 0
    assert len(list(cache.rglob("*"))) == 2
    assert cached("small", "train", "v1", never_built).checksum == small_set().checksum
