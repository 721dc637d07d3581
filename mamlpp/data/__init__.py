"""Data: datasets to image sets, image sets to tasks."""

from collections.abc import Callable

from mamlpp.data import glyphs, mini_imagenet, omniglot
from mamlpp.data.images import ImageSet
from mamlpp.errors import InputError

SPLITS = ("train", "validation", "test")
DATASETS: dict[str, Callable[[str], ImageSet]] = {
    "glyphs": glyphs.load,
    "omniglot": omniglot.load,
    "mini_imagenet": mini_imagenet.load,
}


def default_dataset() -> str:
    """What the notebooks use unless told: Omniglot where it is at hand, otherwise the glyphs."""
    return "omniglot" if omniglot.at_hand() else "glyphs"


def load_images(dataset: str, split: str) -> ImageSet:
    """One split of a dataset, from the cache where it was decoded before.

    `dataset` is `"glyphs"` (built in, no download), `"omniglot"` (from `MAMLPP_DATA`, or
    downloaded) or `"mini_imagenet"` (from `MAMLPP_DATA`); `split` is `"train"`, `"validation"` or
    `"test"`, which share no class.
    """
    if dataset not in DATASETS:
        raise InputError(f"there is no dataset {dataset!r}; choose one of {', '.join(DATASETS)}")
    if split not in SPLITS:
        raise InputError(f"there is no split {split!r}; choose one of {', '.join(SPLITS)}")
    return DATASETS[dataset](split)
