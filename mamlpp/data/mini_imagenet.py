"""Mini-ImageNet: 100 classes of 600 photographs, 84x84 (Vinyals et al., NIPS 2016).

The split is the one of Ravi and Larochelle (ICLR 2017). The pictures are ImageNet's, so this kit
neither ships nor downloads them: they are read from `MAMLPP_DATA/mini_imagenet`.
"""

import warnings
from collections import Counter
from pathlib import Path

from mamlpp.data.archives import (
    Picture,
    check_samples,
    decode,
    fingerprint,
    group_by_class,
    open_pictures,
    zips_below,
)
from mamlpp.data.cache import cached
from mamlpp.data.folders import user_folder
from mamlpp.data.images import ImageSet
from mamlpp.errors import InputError, InputWarning

FOLDERS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
CLASSES = {"train": 64, "validation": 16, "test": 20}
SAMPLES = 600
SHAPE = (3, 84, 84)
VERSION = 1  # Part of the cache's key: raise it when the same files would give other pictures.

LAYOUT = "train/<class>/*.jpg, val/<class>/*.jpg and test/<class>/*.jpg"
HOW_TO_GET = (
    "the kit does not download Mini-ImageNet, because ImageNet allows non-commercial research "
    "only: get ILSVRC-2012 from image-net.org, choose the 84x84 pictures by the lists of Ravi and "
    "Larochelle, github.com/twitter-research/meta-learning-lstm, and put them, as folders or zips, "
    f"at MAMLPP_DATA/mini_imagenet/ as {LAYOUT}"
)


def load(split: str) -> ImageSet:
    """The photographs of one split, uint8 `[64 | 16 | 20, 600, 3, 84, 84]`, RGB.

    `split` is `"train"`, `"validation"` or `"test"`. Read from `MAMLPP_DATA/mini_imagenet`: any
    number of zips, or folders, that hold `{train,val,test}/<class>/*.jpg` (or `.png`). They may lie
    in further folders. Pictures of another size are resized (see `archives.decode`).

    Raises `InputError`, in one sentence, where the folder or the split is missing, a file is
    damaged, a class is in two splits, or one has more or fewer pictures than the others. A copy
    of another size, such as a reduced one, is loaded with an `InputWarning`.
    """
    folder = user_folder("mini_imagenet", HOW_TO_GET)
    if folder is None:
        raise InputError(f"there is no folder MAMLPP_DATA/mini_imagenet; {HOW_TO_GET}")
    sources = [folder, *zips_below(folder)]
    key = f"v{VERSION}-{fingerprint(sources)}"
    images = cached("mini_imagenet", split, key, lambda: {split: _build(sources, split)})
    _warn_if_not_standard(images)
    return images


def _build(sources: list[Path], split: str) -> ImageSet:
    with open_pictures(sources) as pictures:
        chosen = [picture for picture in pictures if _split(picture) == split]
        if not chosen:
            raise InputError(
                f"{sources[0]} holds no picture of the split {split!r}; lay out its folders or "
                f"zips as {LAYOUT}"
            )
        classes = group_by_class(chosen, _class)
        _check_in_one_split(pictures, classes, split)
        usual = Counter(len(files) for files in classes.values()).most_common(1)[0][0]
        check_samples(classes, usual, "the others have")
        images = decode(classes, SHAPE, f"mini_imagenet {split}")
    return ImageSet(images, tuple(classes), "mini_imagenet", split)


def _split(picture: Picture) -> str | None:
    return FOLDERS.get(picture.path.parts[-3].lower())


def _class(picture: Picture) -> str:
    return picture.path.parts[-2]


def _check_in_one_split(
    pictures: list[Picture], classes: dict[str, list[Picture]], split: str
) -> None:
    for picture in pictures:
        if _class(picture) in classes and _split(picture) not in (split, None):
            raise InputError(
                f"class {_class(picture)!r} is in {split} and in {_split(picture)}, but the "
                f"splits may share no class; remove it from one of them"
            )


def _warn_if_not_standard(images: ImageSet) -> None:
    found, expected = (len(images), images.samples), (CLASSES[images.split], SAMPLES)
    if found != expected:
        warnings.warn(
            f"mini_imagenet {images.split} has {found[0]} classes x {found[1]} pictures where the "
            f"published one has {expected[0]} x {expected[1]}, so accuracies on it cannot be "
            f"compared with published ones",
            InputWarning,
            stacklevel=4,
        )
