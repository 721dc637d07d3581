"""The cache of decoded sets: what it keeps, how it mends itself, how it stays small."""

import multiprocessing
import os
import pickle
import time
import warnings
from pathlib import Path

import pytest
import torch

from mamlpp.data import cache as cache_module
from mamlpp.data.cache import cached, clear, entries, limit_gb
from mamlpp.data.images import ImageSet
from mamlpp.errors import InputError, InputWarning
from tests.makers import plain_images


def build():
    return {split: plain_images(split) for split in ("train", "test")}


def never_built():
    raise AssertionError("the cache was there, and was not used")


@pytest.fixture
def stored(cache):
    """The one file in which the cache keeps the train split."""
    cached("small", "train", "v1", build)
    (path,) = cache.glob("small-train-*")
    return path


def test_cache_gives_back_what_was_built(cache):
    built = cached("small", "train", "v1", build)
    again = cached("small", "train", "v1", never_built)
    assert torch.equal(again.images, built.images)
    assert (again.class_names, again.name) == (built.class_names, built.name)


def test_one_build_fills_the_cache_for_all_its_splits(stored):
    assert cached("small", "test", "v1", never_built).split == "test"


def test_another_key_is_built_anew(stored):
    newer = cached("small", "train", "v2", lambda: {"train": plain_images(value=8)})
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
    assert rebuilt.checksum == plain_images().checksum
    assert cached("small", "train", "v1", never_built).checksum == rebuilt.checksum


def test_cache_that_cannot_be_written_costs_one_warning(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MAMLPP_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(InputWarning, match="set MAMLPP_CACHE") as caught:
        built = cached("small", "train", "v1", build)
    assert len(caught) == 1
    assert built.checksum == plain_images().checksum


def test_failed_build_leaves_nothing_behind(cache):
    def fail():
        raise InputError("no good")

    with pytest.raises(InputError, match="no good"):
        cached("small", "train", "v1", fail)
    assert not cache.exists()


def test_only_whole_files_are_left_behind(stored, cache):
    assert sorted(path.suffix for path in cache.rglob("*")) == [".safetensors"] * 2


def build_at_the_same_time(barrier):
    def build_when_both_are_there():
        barrier.wait(timeout=60)
        return build()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        built = cached("small", "train", "v1", build_when_both_are_there)
    assert built.checksum == plain_images().checksum


def test_two_processes_may_build_at_the_same_time(cache: Path):
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(2)
    other = spawn.Process(target=build_at_the_same_time, args=(barrier,))
    other.start()
    build_at_the_same_time(barrier)
    other.join()
    assert other.exitcode == 0
    assert len(list(cache.rglob("*"))) == 2
    assert cached("small", "train", "v1", never_built).checksum == plain_images().checksum


# Sharing


def test_what_was_built_and_what_is_read_is_mapped(cache):
    for one in (build, never_built):
        images = cached("small", "train", "v1", one)
        assert b".safetensors" in pickle.dumps(images)


# Folders and files that do not do what one hopes


def test_a_cache_that_is_read_only_serves_without_a_word(stored, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError("read-only file system")

    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr(os, "replace", refuse)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(cached("small", "train", "v1", never_built)) == 3
    with pytest.warns(InputWarning, match="cannot be written .*read-only"):
        assert len(cached("small", "train", "v2", build)) == 3


def test_a_cache_that_cannot_be_listed_serves_too(stored, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert len(cached("small", "train", "v1", never_built)) == 3


def test_a_file_system_without_permissions_will_do(cache, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError("no permissions here")

    monkeypatch.setattr(Path, "chmod", refuse)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cached("small", "train", "v1", build)
        cached("small", "train", "v1", never_built)


def test_a_file_in_use_that_another_process_wrote_is_taken_as_it_is(cache, monkeypatch):
    def first_the_other(part, path):
        Path(path).write_bytes(Path(part).read_bytes())
        raise PermissionError("in use")

    monkeypatch.setattr(os, "replace", first_the_other)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(cached("small", "train", "v1", build)) == 3


def test_the_place_where_a_warning_points_is_the_callers(stored):
    stored.write_bytes(b"")
    with pytest.warns(InputWarning) as caught:
        _load_images()
    assert caught[0].filename == __file__
    assert caught[0].lineno == _load_images.__code__.co_firstlineno + 1


def _load_images():
    return outer()  # Where a person calls `load_images`.


def outer():
    return inner()


def inner():
    return cached("small", "train", "v1", build)


# How it stays small


def fill(sets):
    """Files of 1 kB each, last used so many days ago."""
    for day, key in enumerate(sets, 1):
        pictures = torch.zeros(1, 1, 1, 20, 50, dtype=torch.uint8)
        image_set = ImageSet(pictures, ("a",), "small", "train")
        images = cached("small", "train", key, lambda: {"train": image_set})  # noqa: B023
        assert len(images) == 1
        path = cache_module._path("small", "train", key)
        os.utime(path, (time.time() - day * 86_400,) * 2)


def keys():
    return sorted(entry.path.stem.split("-")[-1] for entry in entries())


def test_the_sets_used_longest_ago_go_first(cache, monkeypatch):
    fill(["new", "old", "oldest"])
    size = entries()[0].size
    cached("small", "train", "oldest", never_built)  # Used again, so it is the newest by now.
    monkeypatch.setenv("MAMLPP_CACHE_LIMIT", str(2.5 * size / 1e9))
    fill(["newer"])
    assert keys() == ["newer", "oldest"]


def test_a_set_that_was_just_made_stays_whatever_the_limit(cache, monkeypatch):
    monkeypatch.setenv("MAMLPP_CACHE_LIMIT", "0")
    cached("small", "train", "v1", build)
    assert keys() == ["v1", "v1"]
    cached("small", "train", "v2", build)
    assert keys() == ["v2", "v2"]


def test_what_is_not_a_set_is_never_removed(cache, monkeypatch):
    others = [
        "weights.safetensors",
        "notes-train.txt",
        "omniglot/mine.zip",
        "small-dev-1.safetensors",
    ]
    for name in others:
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).write_bytes(b"x" * 5000)
    monkeypatch.setenv("MAMLPP_CACHE_LIMIT", "0")
    cached("small", "train", "v1", build)
    clear()
    left = {path.relative_to(cache).as_posix() for path in cache.rglob("*") if path.is_file()}
    assert left == set(others)


def test_what_killed_processes_left_goes_after_a_day_or_with_clear(cache):
    for name, age in (("old", 90_000), ("new", 0)):
        (cache / f".part-{name}").mkdir(parents=True)
        os.utime(cache / f".part-{name}", (time.time() - age,) * 2)
    cached("small", "train", "v1", build)
    assert [path.name for path in cache.glob(".part-*")] == [".part-new"]
    clear()
    assert not list(cache.iterdir())


def test_clear_says_what_it_freed(stored, cache):
    (cache / "omniglot").mkdir()
    (cache / "omniglot" / "images_background.zip").write_bytes(b"x" * 1000)
    size = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    assert [entry.split for entry in entries()].count("") == 1
    assert clear() == size
    assert clear() == 0
    assert entries() == []


@pytest.mark.parametrize("limit", ["ten", "-1", "nan"])
def test_a_limit_that_is_no_size_is_refused(cache, monkeypatch, limit):
    monkeypatch.setenv("MAMLPP_CACHE_LIMIT", limit)
    with pytest.raises(InputError, match=f"MAMLPP_CACHE_LIMIT must be .* GB.* not '{limit}'"):
        cached("small", "train", "v1", never_built)


def test_the_limit_is_ten_gigabytes_unless_said(monkeypatch):
    monkeypatch.delenv("MAMLPP_CACHE_LIMIT", raising=False)
    assert limit_gb() == 10
    monkeypatch.setenv("MAMLPP_CACHE_LIMIT", "2.5")
    assert limit_gb() == 2.5


def test_a_cache_that_may_only_be_read_is_not_touched(stored, monkeypatch):
    os.utime(stored, (1, 1))
    monkeypatch.setenv("MAMLPP_CACHE_READ_ONLY", "1")
    cached("small", "train", "v1", never_built)
    assert stored.stat().st_mtime == 1
    monkeypatch.delenv("MAMLPP_CACHE_READ_ONLY")
    cached("small", "train", "v1", never_built)
    assert stored.stat().st_mtime > 1
