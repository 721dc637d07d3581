"""The cache of decoded image sets: one file for each set, checked when it is read.

It lies in `folders.cache_folder()`. A file is written whole or not at all, and built again where
it is damaged. Above a limit (10 GB, or `MAMLPP_CACHE_LIMIT` in GB) the sets that nobody has used
for the longest time are removed. A cache that cannot be written, or not be read, costs a warning
and the time to build, never the result. `mamlpp cache` lists what is there.
"""

import math
import os
import re
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from mamlpp.data.folders import cache_folder
from mamlpp.data.images import ImageSet, map_images, verified, write_images
from mamlpp.errors import InputError, InputWarning
from mamlpp.files import remove_leftovers, replacing

LIMIT = "MAMLPP_CACHE_LIMIT"
READ_ONLY = "MAMLPP_CACHE_READ_ONLY"  # set where a process may read the cache and no more
DEFAULT_LIMIT = 10.0  # GB: Mini-ImageNet, the largest dataset, takes 1.3.
GB = 10**9
DAY = 24 * 60 * 60
# Only files with these names are ever listed or removed: the folder may hold others, too.
_SET = re.compile(r"(?P<dataset>\w+)-(?P<split>train|validation|test)-.+\.safetensors")
_DOWNLOAD = re.compile(r"images_(background|evaluation)\.zip")
_NO_SET = (SafetensorError, OSError, KeyError, TypeError, ValueError, InputError)


@dataclass(frozen=True)
class Entry:
    """A file in the cache: a decoded set, or a download (whose `split` is empty)."""

    path: Path
    dataset: str
    split: str
    size: int
    """In bytes."""
    used: float
    """When it was last used, in seconds since 1970."""


def cached(
    dataset: str, split: str, key: str, build: Callable[[], dict[str, ImageSet]]
) -> ImageSet:
    """The `split` of `dataset` from the cache, or built by `build` (which may make several splits).

    `key` names the source (a version, a fingerprint of the pictures): another key is another file.
    What the cache holds comes memory-mapped (see `images`), what was just built does too.
    """
    limit_gb()  # A limit that is no number is refused before any work is done.
    path = _path(dataset, split, key)
    stored = _read(path, dataset, split)
    if stored is not None:
        return stored
    built = build()
    try:
        _write(built, key)
        return map_images(path, dataset, split)
    except (OSError, SafetensorError) as error:
        # Another process may have been first: on Windows, a file in use cannot be replaced.
        written = _whole(path, dataset, split)
        if written is not None:
            return written
        warnings.warn(
            f"{cache_folder()} cannot be written ({error}), so {dataset} will be built again next "
            f"time; set MAMLPP_CACHE to a folder that can be written",
            InputWarning,
            stacklevel=4,  # Where `load_images` was called.
        )
        return built[split]


def is_cached(dataset: str, split: str, key: str) -> bool:
    """Whether `cached` would find a file."""
    return Path(_path(dataset, split, key)).is_file()


def entries() -> list[Entry]:
    """What is in the cache, the most recently used first."""
    return sorted(_entries(), key=lambda entry: entry.used, reverse=True)


def clear() -> int:
    """Empty the cache, downloads included; how many bytes that freed.

    A file that another process holds open may stay (on Windows).
    """
    remove_leftovers(cache_folder())
    return sum(entry.size for entry in entries() if _remove(entry))


def limit_gb() -> float:
    """How many GB of decoded sets the cache may hold: `MAMLPP_CACHE_LIMIT`, or 10."""
    given = os.environ.get(LIMIT) or str(DEFAULT_LIMIT)
    try:
        limit = float(given)
    except ValueError:
        limit = math.nan
    if not limit >= 0:
        raise InputError(f"{LIMIT} must be a number of GB, such as 10, not {given!r}")
    return limit


def _path(dataset: str, split: str, key: str) -> Path:
    return cache_folder() / f"{dataset}-{split}-{key}.safetensors"


def _read(path: Path, dataset: str, split: str) -> ImageSet | None:
    if not Path(path).is_file():
        return None
    stored = _whole(path, dataset, split)
    if stored is not None:
        if not os.environ.get(READ_ONLY):
            with suppress(OSError):  # The file system may be read-only.
                os.utime(path)  # A file's time says when it was last used.
        return stored
    warnings.warn(
        f"the cached file {path} is damaged or cannot be read, so {dataset} is built again",
        InputWarning,
        stacklevel=5,  # Where `load_images` was called.
    )
    return None


def _whole(path: Path, dataset: str, split: str) -> ImageSet | None:
    """The set in a file, or None where there is no file or it is damaged."""
    with suppress(*_NO_SET):
        stored = map_images(path, dataset, split)
        if verified(stored):
            return stored
    return None


def _write(built: dict[str, ImageSet], key: str) -> None:
    paths = []
    for image_set in built.values():
        path = _path(image_set.dataset, image_set.split, key)
        with replacing(path) as part:
            write_images(image_set, part)
            with suppress(OSError):  # Not every file system has permissions.
                part.chmod(0o644)  # A class may share a cache, but new files are private.
        paths.append(path)
    _prune(paths)


def _prune(kept: Collection[Path]) -> None:
    """Remove the sets used longest ago until the rest is within the limit; `kept` stay anyway."""
    remove_leftovers(cache_folder(), older_than=DAY)
    sets = [entry for entry in entries() if entry.split]
    excess = sum(entry.size for entry in sets) - limit_gb() * GB
    for entry in reversed(sets):
        if excess <= 0:
            break
        if entry.path not in kept and _remove(entry):
            excess -= entry.size


def _entries() -> Iterator[Entry]:
    folder = cache_folder()
    for path in folder.glob("*.safetensors"):
        if match := _SET.fullmatch(path.name):
            yield from _entry(path, match["dataset"], match["split"])
    for path in (folder / "omniglot").glob("*.zip"):
        if _DOWNLOAD.fullmatch(path.name):
            yield from _entry(path, "omniglot", "")


def _entry(path: Path, dataset: str, split: str) -> Iterator[Entry]:
    with suppress(OSError):  # Another process may have removed it since.
        about = path.stat()
        yield Entry(path, dataset, split, about.st_size, about.st_mtime)


def _remove(entry: Entry) -> bool:
    try:
        entry.path.unlink()
    except OSError:  # In use on Windows, in a folder that is only to be read, or gone already.
        return False
    return True
