"""Datasets, image sets, and the tasks that are drawn from them.

Imports torch, files, and of the definition `Task` and the errors. Everything but the definition and
the engine's core may import it.
"""

import os
import warnings
from collections.abc import Callable

from mamlpp.data import glyphs, mini_imagenet, omniglot
from mamlpp.data.images import ImageSet
from mamlpp.errors import InputError, InputWarning

SPLITS = ("train", "validation", "test")
DATASETS: dict[str, Callable[[str], ImageSet]] = {
    "glyphs": glyphs.load,
    "omniglot": omniglot.load,
    "mini_imagenet": mini_imagenet.load,
}


def default_dataset() -> str:
    """What the notebooks use unless told: Omniglot where it is at hand, otherwise the glyphs.

    Raises `InputError` where `MAMLPP_DATA` is set to what cannot be meant, and warns
    (`InputWarning`) where it names a folder that has no Omniglot.
    """
    if omniglot.at_hand():
        return "omniglot"
    if os.environ.get("MAMLPP_DATA"):
        warnings.warn(
            f"{os.environ['MAMLPP_DATA']}, where MAMLPP_DATA points, has no folder omniglot, so "
            f"the built-in glyphs are used; add that folder to use Omniglot",
            InputWarning,
            stacklevel=2,
        )
    return "glyphs"


def load_images(dataset: str, split: str) -> ImageSet:
    """One split of a dataset, from the cache where it was decoded before.

    `dataset` is `"glyphs"` (built in, no download), `"omniglot"` (from `MAMLPP_DATA`, or
    downloaded) or `"mini_imagenet"` (from `MAMLPP_DATA`). `split` is `"train"`, `"validation"` or
    `"test"`; no class is in two of them. Raises `InputError` for another name, and where the data
    cannot be had.
    """
    if dataset not in tuple(DATASETS):
        raise InputError(f"there is no dataset {dataset!r}; choose one of {', '.join(DATASETS)}")
    if split not in SPLITS:
        raise InputError(f"there is no split {split!r}; choose one of {', '.join(SPLITS)}")
    return DATASETS[dataset](split)
