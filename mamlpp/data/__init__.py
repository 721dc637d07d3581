"""Datasets, image sets, and the tasks that are drawn from them.

Imports torch, files, and of the definition `Task` and the errors. Everything but the definition and
the engine's core may import it.
"""

import os
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from mamlpp.data import glyphs, mini_imagenet, omniglot
from mamlpp.data.images import ImageSet
from mamlpp.data.own import SPLITS, folder_of, renamed
from mamlpp.errors import InputError, InputWarning

DATASETS: dict[str, Callable[[str], ImageSet]] = {
    "glyphs": glyphs.load,
    "omniglot": omniglot.load,
    "mini_imagenet": mini_imagenet.load,
}
BUILT_IN = tuple(DATASETS)


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


def register_dataset(name: str, load: Callable[[str], ImageSet]) -> None:
    """Let `load(split)` be the dataset of this name, wherever this process asks for one.

    Other processes, those of a sweep or of the command line, find `module:function` by itself.
    Raises `InputError` for a name that is taken, or that is no word.
    """
    if not isinstance(name, str) or not name.isidentifier() or name in BUILT_IN:
        raise InputError(f"the name of a dataset must be a word that is free, not {name!r}")
    if not callable(load):
        raise InputError(f"load must be a function of a split, not {type(load).__name__}")
    DATASETS[name] = load


def load_images(dataset: str | os.PathLike[str], split: str) -> ImageSet:
    """One split of a dataset, from the cache where it was decoded before.

    `dataset` is `"glyphs"` (built in, no download), `"omniglot"` (from `MAMLPP_DATA`, or
    downloaded), `"mini_imagenet"` (from `MAMLPP_DATA`), a folder of your own (`"PATH@28x1"`, see
    `image_folder`), a name of `register_dataset`, or `"module:function"` of a split. `split` is
    `"train"`, `"validation"` or `"test"`; no class is in two of them. Raises `InputError` for
    another name, and where the data cannot be had.
    """
    if split not in SPLITS:
        raise InputError(f"there is no split {split!r}; choose one of {', '.join(SPLITS)}")
    if isinstance(dataset, os.PathLike):
        dataset = os.fspath(dataset)
    named = isinstance(dataset, str)
    load = (DATASETS.get(dataset) or _function(dataset)) if named else None
    images = load(split) if load else folder_of(dataset, split) if named else None
    if images is None:
        raise InputError(
            f"there is no dataset {dataset!r}; choose one of {', '.join(DATASETS)}, or give a "
            f"folder with a folder of pictures for each class, or module:function"
        )
    if not isinstance(images, ImageSet):
        raise InputError(f"{dataset} gave {type(images).__name__} where an ImageSet is expected")
    return images if dataset in BUILT_IN or load is None else renamed(images, dataset)


def _function(name: str) -> Callable[[str], ImageSet] | None:
    """The function that `module:function` names; None for another name."""
    module, _, function = name.rpartition(":")
    if not function.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        return None
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # A command does not look there by itself.
    try:
        return getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise InputError(f"{name} cannot be found from {here} ({error})") from error
