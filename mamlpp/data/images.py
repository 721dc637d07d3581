"""Image sets: what every dataset becomes before tasks are drawn from it.

On disk an image set is one safetensors file. It is mapped into memory, not copied: all processes
that open the same file share one copy of its pictures.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mamlpp.errors import InputError
from mamlpp.input_checks import as_tensor
from mamlpp.naming import counted


@dataclass(frozen=True, eq=False)
class ImageSet:
    """The pictures of one split of one dataset.

    `images` is uint8 `[classes, samples, channels, height, width]`. In drawings the ink is 255 and
    the paper 0. `class_names` has one name for each class. Arrays become tensors. Where classes
    differ in size, `counts` `[classes]` says how many images of each are there, before the padding.
    """

    images: torch.Tensor
    class_names: tuple[str, ...]
    dataset: str
    split: str
    counts: torch.Tensor | None = None

    def __repr__(self) -> str:
        """What is in it, in a line."""
        channels, height, width = self.shape
        few = "" if self.counts is None else f"{int(self.counts.min())} to "
        return (
            f"<ImageSet {self.dataset} {self.split}: {counted(len(self), 'class')} of "
            f"{few}{counted(self.samples, 'image')}, {channels}x{height}x{width}, "
            f"on {self.images.device}>"
        )

    def __post_init__(self) -> None:
        object.__setattr__(self, "images", as_tensor("images", self.images))
        if self.images.dtype != torch.uint8 or self.images.ndim != 5:
            raise InputError(
                f"an ImageSet holds uint8 images [classes, samples, channels, height, width], in "
                f"0 … 255, not {self.images.dtype} {list(self.images.shape)}"
            )
        if isinstance(self.class_names, str) or not isinstance(self.class_names, Sequence):
            raise InputError(
                f"class_names must be a list of names, not {type(self.class_names).__name__}"
            )
        object.__setattr__(self, "class_names", tuple(self.class_names))
        if len(self.class_names) != len(self.images):
            raise InputError(
                f"{len(self.images)} classes came with {len(self.class_names)} class names; "
                f"give one name for each class"
            )
        if self.counts is not None and self.counts.shape != self.images.shape[:1]:
            raise InputError(f"counts must be [{len(self)}], not {list(self.counts.shape)}")

    def __len__(self) -> int:
        """How many classes there are."""
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        channels, height, width = self.images.shape[2:]
        return channels, height, width

    @property
    def samples(self) -> int:
        """Images in each class, or in the largest."""
        return self.images.shape[1]

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of the shape, the class names and the pixels."""
        digest = hashlib.sha256(json.dumps([list(self.images.shape), self.class_names]).encode())
        if self.counts is not None:
            digest.update(json.dumps(self.counts.tolist()).encode())
        digest.update(self.images.cpu().contiguous().numpy().data)
        return digest.hexdigest()

    @property
    def name(self) -> str:
        """Dataset, split and the start of the checksum, such as `omniglot-train-1a2b3c4d`."""
        return f"{self.dataset}-{self.split}-{self.checksum[:8]}"

    def to(self, device: torch.device | str) -> "ImageSet":
        """The same set on a device, still uint8; itself where it is there already."""
        images = self.images.to(device)
        if images is self.images:
            return self
        moved = replace(self, images=images)
        if "checksum" in vars(self):
            vars(moved)["checksum"] = self.checksum  # The same pictures: no need to read them back.
        return moved

    def __reduce__(self) -> tuple[Callable[..., "ImageSet"], tuple[Any, ...]]:
        """How to send the set to another process: unchanged pictures from a file, by its name."""
        path, version = vars(self).get("_mapped", (None, 0))
        if path is not None and self.images._version == version and path.is_file():
            return _map_again, (path, self.dataset, self.split, self.checksum)
        return ImageSet, (self.images, self.class_names, self.dataset, self.split, self.counts)


def write_images(image_set: ImageSet, path: Path) -> None:
    """Store a set in a file, with its class names and its checksum."""
    about = {
        "class_names": json.dumps(image_set.class_names),
        "checksum": image_set.checksum,
    }
    counts = {} if image_set.counts is None else {"counts": image_set.counts}
    save_file({"images": image_set.images} | counts, path, about)


def map_images(path: Path, dataset: str, split: str) -> ImageSet:
    """The set in a file, mapped into memory; its `checksum` is the stored one, not yet verified.

    A tensor operation that writes to `images` changes only this process's copy, never the file.
    Raises one of `SafetensorError`, `OSError`, `KeyError`, `TypeError`, `ValueError` or
    `InputError` for a file that is not such a set.
    """
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
        images = file.get_tensor("images")
        counts = file.get_tensor("counts") if "counts" in file.keys() else None  # noqa: SIM118
    image_set = ImageSet(images, tuple(json.loads(about["class_names"])), dataset, split, counts)
    vars(image_set)["_mapped"] = path, images._version
    vars(image_set)["checksum"] = about["checksum"]
    return image_set


def verified(image_set: ImageSet) -> bool:
    """Whether the pictures and names are still those that the set's checksum was taken of.

    Reads all pictures, but keeps no copy of them.
    """
    return replace(image_set).checksum == image_set.checksum


def _map_again(path: Path, dataset: str, split: str, checksum: str) -> ImageSet:
    try:
        image_set = map_images(path, dataset, split)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"the pictures of {dataset} {split} were in {path}, which cannot be read any more "
            f"({error}); load them again with load_images"
        ) from error
    if image_set.checksum != checksum:
        raise InputError(f"{path} holds other pictures by now; load them again with load_images")
    return image_set
