"""Image sets: what every dataset becomes before tasks are drawn from it, and their cache on disk.

A decoded set is one safetensors file in the cache folder (`MAMLPP_CACHE`, or the user's own cache
folder): written whole or not at all, checked by checksum when it is read, rebuilt when damaged.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import platformdirs
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mamlpp.errors import InputError, InputWarning
from mamlpp.files import replacing


@dataclass(frozen=True, eq=False)
class ImageSet:
    """The pictures of one split of one dataset.

    `images` is uint8 `[classes, samples, channels, height, width]`, ink 255 on paper 0 where the
    pictures are drawings; `class_names` has one name a class.
    """

    images: torch.Tensor
    class_names: tuple[str, ...]
    dataset: str
    split: str

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 5:
            raise InputError(
                f"an ImageSet holds uint8 images [classes, samples, channels, height, width], "
                f"not {self.images.dtype} {list(self.images.shape)}"
            )
        if len(self.class_names) != len(self.images):
            raise InputError(
                f"{len(self.images)} classes came with {len(self.class_names)} class names; "
                f"give one name a class"
            )

    def __len__(self) -> int:
        """How many classes there are."""
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width of one image."""
        channels, height, width = self.images.shape[2:]
        return channels, height, width

    @property
    def samples(self) -> int:
        """Images per class."""
        return self.images.shape[1]

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of shape, class names and pixels."""
        digest = hashlib.sha256(json.dumps([list(self.images.shape), self.class_names]).encode())
        digest.update(self.images.cpu().contiguous().numpy().data)
        return digest.hexdigest()

    @property
    def name(self) -> str:
        """Dataset, split and the head of the checksum, such as `omniglot-train-1a2b3c4d`."""
        return f"{self.dataset}-{self.split}-{self.checksum[:8]}"

    def to(self, device: torch.device | str) -> "ImageSet":
        """The same set on another device, still uint8."""
        return replace(self, images=self.images.to(device))


def cache_folder() -> Path:
    """Where decoded sets and downloads are kept: `MAMLPP_CACHE`, or the user's cache folder."""
    return Path(os.environ.get("MAMLPP_CACHE") or platformdirs.user_cache_dir("mamlpp"))


def cached(
    dataset: str, split: str, key: str, build: Callable[[], dict[str, ImageSet]]
) -> ImageSet:
    """The `split` of `dataset` from the cache, or built by `build` (which may make several splits).

    `key` names the source (a version, a fingerprint of the files): another key is another file. A
    cache that cannot be written costs a warning and the time to build again, not the result.
    """
    stored = _read(_path(dataset, split, key), dataset, split)
    if stored is not None:
        return stored
    built = build()
    try:
        for image_set in built.values():
            _write(image_set, _path(dataset, image_set.split, key))
    except (OSError, SafetensorError) as error:
        warnings.warn(
            f"{cache_folder()} cannot be written ({error}), so {dataset} will be built again next "
            f"time; set MAMLPP_CACHE to a folder that can",
            InputWarning,
            stacklevel=4,  # Who called `load_images`.
        )
    return built[split]


def is_cached(dataset: str, split: str, key: str) -> bool:
    """Whether `cached` would find a file."""
    return _path(dataset, split, key).exists()


def _path(dataset: str, split: str, key: str) -> Path:
    return cache_folder() / f"{dataset}-{split}-{key}.safetensors"


def _read(path: Path, dataset: str, split: str) -> ImageSet | None:
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata()
            class_names = tuple(json.loads(about["class_names"]))
            stored = ImageSet(file.get_tensor("images"), class_names, dataset, split)
        if stored.checksum == about["checksum"]:
            return stored
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, InputError):
        pass
    warnings.warn(
        f"the cached file {path} is damaged or cannot be read, and is built again",
        InputWarning,
        stacklevel=5,
    )
    return None


def _write(image_set: ImageSet, path: Path) -> None:
    about = {
        "class_names": json.dumps(image_set.class_names),
        "checksum": image_set.checksum,
    }
    with replacing(path) as part:
        save_file({"images": image_set.images}, part, about)
        part.chmod(0o644)  # Saved for its owner alone, but a class may share one cache.
