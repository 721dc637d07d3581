"""The two folders that a person may name: `MAMLPP_DATA` with data, `MAMLPP_CACHE` for the cache.

A relative path in either is made absolute in the environment itself as soon as it is seen, so that
neither a later `os.chdir` nor a process that starts elsewhere looks in another place.
"""

from contextlib import suppress
from pathlib import Path

import platformdirs

from mamlpp.errors import InputError
from mamlpp.files import CACHE, DATA, folder_named_by

DATASETS = ("omniglot", "mini_imagenet")  # Those that may have a folder in `MAMLPP_DATA`.
# What operating systems leave lying about, besides names that begin with a dot.
_JUNK = {"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin"}


def user_folder(dataset: str, advice: str) -> Path | None:
    """The folder of a dataset in `MAMLPP_DATA`, or None where there is none.

    Raises `InputError` where `MAMLPP_DATA` is set but cannot be meant: it is no folder, or the
    dataset's own folder, or holds no dataset, or the dataset's folder is empty. In the last two
    cases it gives the `advice` how to get the data.
    """
    data = folder_named_by(DATA)
    if data is None:
        return None
    _check_data(data, advice)
    folder = child(data, dataset)
    if folder is None or not Path(folder).is_dir():
        return None
    if not visible(folder):
        raise InputError(
            f"{folder} is empty; put {dataset} there, as folders or zips, or remove that folder "
            f"({advice})"
        )
    return folder


def cache_folder() -> Path:
    """Where decoded sets and downloads are kept: `MAMLPP_CACHE`, or the user's cache folder.

    It need not exist yet. Raises `InputError` where `MAMLPP_CACHE` is a file or a folder of data.
    """
    folder = folder_named_by(CACHE)
    if folder is None:
        return Path(platformdirs.user_cache_dir("mamlpp"))
    if Path(folder).is_file():
        raise InputError(f"{CACHE} is {folder}, which is a file; set it to a folder, or unset it")
    if _is_dataset(folder):
        raise InputError(
            f"{CACHE} is {folder}, which holds a dataset; set it to a folder of its own, or unset "
            f"it (your own data goes where {DATA} points)"
        )
    return folder


def child(folder: Path, name: str) -> Path | None:
    """What `folder` has of that name, in capitals or not; the exact name comes first."""
    found = [path for path in visible(folder) if path.name.casefold() == name.casefold()]
    return min(found, key=lambda path: (path.name != name, path.name), default=None)


def visible(folder: Path) -> list[Path]:
    """What `folder` holds, in order of name, without what operating systems leave there."""
    try:
        return sorted(path for path in folder.iterdir() if not is_junk(path.name))
    except OSError as error:
        raise unreadable(error) from error


def is_junk(*names: str) -> bool:
    """Whether one of the names is of what operating systems leave about, or hidden."""
    return any(name.startswith(".") or name.casefold() in _JUNK for name in names)


def unreadable(error: OSError) -> InputError:
    """What to tell about a folder or file that the operating system refused to read."""
    return InputError(
        f"{error.filename} cannot be read ({error.strerror}); allow it to be read, or remove it"
    )


def _check_data(data: Path, advice: str) -> None:
    if not _is_folder(data):
        raise InputError(
            f"{DATA} is {data}, and there is no such folder; set it to the folder that holds "
            f"{' or '.join(DATASETS)}, or unset it"
        )
    if any(_has_dataset(data, dataset) for dataset in DATASETS):
        return
    if data.name.casefold() in DATASETS or _is_dataset(data):
        raise InputError(
            f"{DATA} is {data}, which is the folder of one dataset; set it to the folder above, "
            f"{data.parent}, and name the dataset's own folder {' or '.join(DATASETS)}"
        )
    raise InputError(
        f"{DATA} is {data}, which has no folder {' or '.join(DATASETS)}; put one there, set "
        f"{DATA} to the folder that has it, or unset it ({advice})"
    )


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # A name that is too long, say.
        return False


def _has_dataset(data: Path, dataset: str) -> bool:
    folder = child(data, dataset)
    return folder is not None and Path(folder).is_dir()


def _is_dataset(folder: Path) -> bool:
    """Whether a folder looks like Omniglot's or Mini-ImageNet's own, by what is in it."""
    held: set[str] = set()
    with suppress(InputError):  # A cache that is not there yet, or cannot be listed, is none.
        held = {path.stem.casefold() for path in visible(folder)}
    omniglot = held & {"images_background", "images_evaluation"}
    return bool(omniglot or ("train" in held and held & {"val", "validation", "test"}))
