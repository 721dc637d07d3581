"""Images of the user's own: a folder with a folder for each class, an array, a dataset of torch.

A folder has a name that a command line, a sweep and a run can hold: `PATH@28x1`, where 28 is the
side of the squares that its pictures become, and 1 or 3 how many channels they have.
"""

import random
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from mamlpp.data.archives import Picture, files_below, fingerprint_of, pixels, plain
from mamlpp.data.cache import cached
from mamlpp.data.images import ImageSet
from mamlpp.errors import InputError
from mamlpp.files import user_path
from mamlpp.input_checks import as_tensor, from_bytes, is_whole, whole_number
from mamlpp.naming import counted

FOLDERS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
SHARES = (0.64, 0.16, 0.2)  # of the classes, for training, validation and test
SPLITS = ("train", "validation", "test")
DECODING = 2  # how pictures become pixels: what an earlier way made is not read from the cache
SPEC = re.compile(r"(?P<path>.+?)(@(?P<size>\d+)x(?P<channels>[13]))?")
Splits = Sequence[float] | Mapping[str, Sequence[str]]


def image_folder(
    path: Path | str, split: str = "train", *, size: int = 84, channels: int = 3,
    splits: Splits = SHARES, seed: int = 0,
) -> ImageSet:  # fmt: skip
    """The classes of one split of a folder that holds a folder of pictures for each class.

    The pictures, of any kind that Pillow reads, become squares of `size`, in grey (`channels` 1) or
    RGB (3), white where they are transparent; of a film, the first one counts. A folder with
    `train`, `val` and `test` in it is split so; otherwise the classes are dealt by the `seed`, in
    the shares `splits`, or as lists of class names by split. Decoded pictures are cached. Raises
    `InputError` where there are none, or for a split without a class.
    """
    folder, size = user_path(path).absolute(), whole_number("size", size)
    if split not in SPLITS:
        raise InputError(f"there is no split {split!r}; choose one of {', '.join(SPLITS)}")
    if channels not in (1, 3) or isinstance(channels, bool):
        raise InputError(f"channels must be 1 (grey) or 3 (RGB), not {channels!r}")
    classes = _classes(folder)
    chosen = _chosen(classes, split, splits, seed, folder)
    pictures = [picture for name in chosen for picture in classes[name]]
    slug = re.sub(r"\W", "_", folder.name) or "folder"
    key = f"{size}x{channels}-{DECODING}-{fingerprint_of(pictures)}"
    built = partial(_decoded, {name: classes[name] for name in chosen}, (channels, size, size))
    images = cached(slug, split, key, lambda: {split: built(slug, split)})
    return renamed(images, f"{folder}@{size}x{channels}")


def folder_of(spec: str, split: str) -> ImageSet | None:
    """The images of `PATH@SIZExCHANNELS`, or of a plain path; None where it names no folder."""
    match, (path, at, size) = SPEC.fullmatch(spec), spec.rpartition("@")
    if at and user_path(path).is_dir() and (match is None or match["path"] == spec):
        raise InputError(f"write {path}@28x1, or @28x3: a size and 1 or 3 channels, not {size!r}")
    if match is None or not user_path(match["path"]).is_dir():
        return None
    options = {name: int(match[name]) for name in ("size", "channels") if match[name]}
    return image_folder(match["path"], split, **options)  # type: ignore[arg-type]


def image_set(
    source: Any, split: str = "train", *, labels: Any = None, name: str = "own",
    splits: Splits | None = None, seed: int = 0,
) -> ImageSet:  # fmt: skip
    """An array, or a dataset of torch that gives `(image, label)`, as an image set.

    An array is `[classes, samples, (C,) H, W]`, or `[images, (C,) H, W]` with `labels` `[images]`,
    whole numbers or names; of bytes or of floats in 0 … 1; channels may come last. All classes make
    the set, or those of a `split`, dealt by `seed` in the shares `splits`, or as lists of labels by
    split. Raises `InputError` where images differ in shape, or for a shape that can be read in two
    ways.
    """
    if hasattr(source, "__getitem__") and hasattr(source, "__len__") and _gives_pairs(source):
        pairs = [source[i] for i in range(len(source))]
        source = [_as_array(image) for image, _ in pairs]
        labels = [label for _, label in pairs]
    images = _as_bytes(as_tensor("images", source))
    grouped: dict[str, Tensor] = {}
    if labels is None:
        grouped = {str(i): each for i, each in enumerate(_channels_first(images, 5))}
    else:
        every, which = _channels_first(images, 4), [_label(label) for label in labels]
        if len(which) != len(every):
            raise InputError(
                f"{counted(len(every), 'image')} came with {counted(len(which), 'label')}; "
                "give one each"
            )
        order = sorted(set(which), key=lambda label: (isinstance(label, str), label))
        at = {n: torch.tensor([label == n for label in which]) for n in order}
        grouped = {str(n): every[where] for n, where in at.items()}
    if not images.numel():
        raise InputError(f"there are no images in {list(images.shape)}")
    if splits is not None:
        grouped = {n: grouped[n] for n in _dealt(list(grouped), split, splits, seed)}
    padded, counts = _padded(list(grouped.values()))
    return ImageSet(padded, tuple(grouped), name, split, counts)


def renamed(images: ImageSet, dataset: str) -> ImageSet:
    """The same set under another name, still mapped from its file."""
    other = replace(images, dataset=dataset)
    kept = {name: x for name, x in vars(images).items() if name in ("checksum", "_mapped")}
    vars(other).update(kept)
    return other


# Folders -----------------------------------------------------------------------------------------


def _classes(folder: Path) -> dict[str, list[Picture]]:
    """The pictures of each class, by its path below the folder."""
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    classes: defaultdict[str, list[Picture]] = defaultdict(list)
    formats = Image.registered_extensions()  # Pillow only writes some of them.
    known = {suffix for suffix, name in formats.items() if name in Image.OPEN}
    for file in sorted(files_below(folder)):
        name = file.relative_to(folder)
        if file.suffix.lower() in known and len(name.parts) > 1:
            picture = Picture(folder, name.as_posix(), file.stat().st_size, None, file.read_bytes)
            classes[name.parent.as_posix()].append(picture)
    if not classes:
        raise InputError(f"{folder} has no class: give it a folder of pictures for each class")
    return dict(classes)


def _chosen(
    classes: Mapping[str, Any], split: str, splits: Splits, seed: int, folder: Path
) -> list[str]:
    own = {name: FOLDERS.get(name.partition("/")[0].lower()) for name in classes}
    if splits is SHARES and all(own.values()) and all("/" in name for name in classes):
        found = [name for name, where in own.items() if where == split]
    else:
        found = _dealt(list(classes), split, splits, seed)
    if not found:
        raise InputError(
            f"{folder} has no class for the split {split!r}: it has "
            f"{counted(len(classes), 'class')} for {', '.join(SPLITS)} together; add some, or give "
            f"other splits"
        )
    return found


def _dealt(classes: list[str], split: str, splits: Splits, seed: int) -> list[str]:
    """The classes of a split: by lists of names, or by shares of the classes in a random order."""
    if split not in SPLITS:
        raise InputError(f"there is no split {split!r}; choose one of {', '.join(SPLITS)}")
    if isinstance(splits, Mapping):
        if any(isinstance(several, str) for several in splits.values()):
            raise InputError(f"splits must have lists of classes by split, not {splits!r}")
        names = [name for several in splits.values() for name in map(str, several)]
        faults = [f"no class {name!r}" for name in names if name not in classes]
        faults += [f"the class {name!r} twice" for name in names if names.count(name) > 1]
        if split not in splits:
            faults.append(f"no split {split!r}, but {', '.join(splits)}")
        if faults:
            raise InputError(
                f"splits has {faults[0]}; give each class once: {{'train': [names], "
                f"'validation': [names], 'test': [names]}}"
            )
        return list(map(str, splits[split]))
    if isinstance(splits, str) or not isinstance(splits, Sequence):
        raise InputError(
            f"splits must be three shares of the classes, or lists of classes by split, not "
            f"{splits!r}"
        )
    if len(splits) != 3 or not all(share >= 0 for share in splits) or not sum(splits) > 0:
        raise InputError(f"splits must be three shares, of train, validation, test, not {splits}")
    order = sorted(classes)
    random.Random(whole_number("seed", seed, least=0)).shuffle(order)
    at, total = SPLITS.index(split), sum(splits)
    ends = [round(len(order) * sum(splits[:i]) / total) for i in (at, at + 1)]
    return sorted(order[ends[0] : ends[1]])


def _decoded(
    classes: Mapping[str, list[Picture]], shape: tuple[int, int, int], dataset: str, split: str
) -> ImageSet:
    rows = tqdm(classes.values(), desc=f"{dataset} {split}", unit="class")
    each = [
        torch.stack([torch.from_numpy(pixels(picture, shape).copy()) for picture in pictures])
        for pictures in rows
    ]
    images, counts = _padded(each)
    return ImageSet(images, tuple(classes), dataset, split, counts)


# Arrays ------------------------------------------------------------------------------------------


def _gives_pairs(source: Any) -> bool:
    """Whether it is a dataset of (image, label), and no array."""
    if isinstance(source, Tensor) or hasattr(source, "__array__") or not len(source):
        return False
    first = source[0]
    return isinstance(first, tuple) and len(first) == 2 and hasattr(first[0], "size")


def _as_array(image: Any) -> Tensor:
    """Pictures of Pillow too, in grey or RGB."""
    if isinstance(image, Image.Image):
        image = plain(image)
        image = image.convert("L" if image.mode in ("1", "L") else "RGB")
    return image if isinstance(image, Tensor) else torch.from_numpy(np.array(image))


def _label(label: Any) -> int | str:
    """A label as a whole number or a name; `InputError` where it is neither."""
    if not isinstance(label, str) and not is_whole(label):
        raise InputError(f"labels must be whole numbers or names, not {label!r}")
    return label if isinstance(label, str) else int(label)


def _as_bytes(images: Tensor) -> Tensor:
    if images.dtype == torch.bool:
        return images.byte() * 255
    if images.dtype == torch.uint8:
        from_bytes("images", images, True, torch.float32)
        return images
    low, high = (float(x) for x in images.double().aminmax()) if images.numel() else (0, 0)
    if not images.is_floating_point() or not (low >= 0 and high <= 1):
        raise InputError(
            f"images must be bytes, 0 … 255, or floats in 0 … 1, not {images.dtype} in "
            f"{low:g} … {high:g}; give uint8, or divide"
        )
    return (images * 255).round().byte()


def _channels_first(images: Tensor, dimensions: int) -> Tensor:
    """`[…, C, H, W]` of images without channels, or with 1 or 3, first or last."""
    if images.ndim == dimensions - 1:
        return images.unsqueeze(-3)
    first, last = (images.shape[i] in (1, 3) for i in (-3, -1)) if images.ndim > 2 else (0, 0)
    if images.ndim != dimensions or not (first or last):
        raise InputError(
            f"images must be [{'classes, samples' if dimensions == 5 else 'images'}, channels, "
            f"height, width] with 1 or 3 channels, not {list(images.shape)}"
        )
    if first and last:
        raise InputError(
            f"images {list(images.shape)} may have their channels first or last; put them first"
        )
    return images if first else images.movedim(-1, -3)


def _padded(classes: list[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Classes as one tensor, with zeros where they have fewer images than the largest; counts."""
    counts = torch.tensor([len(images) for images in classes])
    padded = classes[0].new_zeros(len(classes), int(counts.max()), *classes[0].shape[1:])
    for row, images in zip(padded, classes, strict=True):
        row[: len(images)] = images
    return padded, None if counts.min() == counts.max() else counts
