"""Omniglot: 1623 characters of 50 alphabets, each drawn by 20 people (Lake et al., Science 2015).

The two archives are read from `MAMLPP_DATA/omniglot` where that folder exists. Otherwise they are
downloaded once (14 MB, MIT license) into the cache folder.
"""

import hashlib
from itertools import accumulate
from pathlib import Path

import torch

from mamlpp.data.archives import (
    Picture,
    check_samples,
    decode,
    fingerprint,
    group_by_class,
    open_pictures,
)
from mamlpp.data.cache import cached, is_cached
from mamlpp.data.folders import cache_folder, child, user_folder, visible
from mamlpp.data.images import ImageSet
from mamlpp.errors import InputError

URL = "https://github.com/brendenlake/omniglot/raw/master/python/"
CHECKSUMS = {
    "images_background.zip": "md5:68d2efa1b9178cc56df9314c21c6e718",
    "images_evaluation.zip": "md5:6b91aef0f799c5bb55b94e3f2daec811",
}
RETRIES = 2
CHARACTERS = {"images_background": 964, "images_evaluation": 659}
DRAWINGS = 20
SHAPE = (1, 28, 28)
# The sizes of MAML++ (Antoniou et al., ICLR 2019, section 5).
SPLIT_SIZES = {"train": 1150, "validation": 50, "test": 423}
SPLIT_SEED = 0
VERSION = 1  # Part of the cache's key: raise it when the same files would give other pictures.
HOW_TO_GET = "where MAMLPP_DATA is not set, Omniglot is downloaded"


def load(split: str) -> ImageSet:
    """The characters of one split, uint8 `[1150 | 50 | 423, 20, 1, 28, 28]`, ink 255 on paper 0.

    `split` is `"train"`, `"validation"` or `"test"`. The characters of all alphabets and of both
    archives are spread over the three at random, in the same way on every machine. `class_names`
    are such as `"Balinese/character01"`; sample `i` of each is drawing `i + 1`.

    Read from `MAMLPP_DATA/omniglot` (`images_background.zip` and `images_evaluation.zip`, or
    folders with these names, checked to hold 964 + 659 characters of 20 drawings). Where
    `MAMLPP_DATA` is not set, or has no folder `omniglot`, the official archives are downloaded and
    checked by their checksums. Raises `InputError`, in one sentence, for archives that are damaged
    or not Omniglot, and for a download that fails.
    """
    folder = user_folder("omniglot", HOW_TO_GET)
    sources = {} if folder is None else _given(folder)
    return cached("omniglot", split, _key(sources), lambda: _build(sources or _download()))


def at_hand() -> bool:
    """Whether `load` needs no download: `MAMLPP_DATA` has it, or it was downloaded before."""
    return user_folder("omniglot", HOW_TO_GET) is not None or is_cached(
        "omniglot", "train", _key({})
    )


def _key(sources: dict[str, Path]) -> str:
    return f"v{VERSION}-{fingerprint(sources.values()) if sources else 'official'}"


def split_characters(names: list[str]) -> dict[str, list[int]]:
    """Which characters (indices into `names`, in order) each split holds; none is in two."""
    # In the order of a hash of the name: what a random generator gives may change with a release.
    order = sorted(range(len(names)), key=lambda i: _hash(f"{SPLIT_SEED}/{names[i]}"))
    ends = accumulate(SPLIT_SIZES.values())
    return {
        split: sorted(order[end - size : end])
        for (split, size), end in zip(SPLIT_SIZES.items(), ends, strict=True)
    }


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _build(sources: dict[str, Path]) -> dict[str, ImageSet]:
    names: list[str] = []
    parts: list[torch.Tensor] = []
    for archive, source in sources.items():
        archive_names, archive_images = _decode_archive(archive, source)
        names += archive_names
        parts.append(archive_images)
    images = torch.cat(parts)
    return {
        split: ImageSet(images[chosen], tuple(names[i] for i in chosen), "omniglot", split)
        for split, chosen in split_characters(names).items()
    }


def _decode_archive(archive: str, source: Path) -> tuple[list[str], torch.Tensor]:
    with open_pictures([source]) as pictures:
        classes = group_by_class(pictures, _character)
        if len(classes) != CHARACTERS[archive]:
            raise InputError(
                f"{source} holds {len(classes)} characters where Omniglot's {archive} has "
                f"{CHARACTERS[archive]}; put the whole official archive there"
            )
        check_samples(classes, DRAWINGS, "Omniglot has")
        return list(classes), 255 - decode(classes, SHAPE, archive)  # There, ink is 0.


def _character(picture: Picture) -> str:
    return "/".join(picture.path.parts[-3:-1])


def _given(folder: Path) -> dict[str, Path]:
    return {archive: _given_archive(_place(folder), archive) for archive in CHARACTERS}


def _place(folder: Path) -> Path:
    """Where the archives lie: `folder` itself, one that is alone in it, or the repository's own."""
    inside = visible(folder)
    if len(inside) == 1 and inside[0].name.lower() not in CHARACTERS and inside[0].is_dir():
        return _place(inside[0])
    names = {path.stem.lower() for path in inside}
    python = child(folder, "python")
    return folder if python is None or names & set(CHARACTERS) else python


def _given_archive(folder: Path, archive: str) -> Path:
    for name in (archive, f"{archive}.zip"):
        source = child(folder, name)
        if source is not None and Path(source).exists():
            return source
    raise InputError(
        f"{folder} has no {archive}.zip and no folder {archive}; put one there, or rename "
        f"{folder.name} to have Omniglot downloaded"
    )


def _download() -> dict[str, Path]:
    return {archive: _download_archive(f"{archive}.zip") for archive in CHARACTERS}


def _download_archive(name: str) -> Path:
    # Imported here because that takes long, and most runs read the cache.
    import pooch
    from requests import RequestException

    server = pooch.create(
        cache_folder() / "omniglot", URL, registry=CHECKSUMS, retry_if_failed=RETRIES
    )
    elsewhere = f"put {' and '.join(CHECKSUMS)} into MAMLPP_DATA/omniglot yourself"
    try:
        return Path(server.fetch(name, progressbar=True))
    except RequestException as error:
        problem = f"could not be downloaded ({type(error).__name__}); connect to the network"
    except ValueError:
        problem = "is not the official file by its checksum, so it was removed; try again later"
    except OSError as error:
        problem = f"cannot be stored ({error}); set MAMLPP_CACHE to a folder that can be written"
    raise InputError(
        f"{URL}{name} {problem}, or {elsewhere}, or use the dataset 'glyphs', "
        f"which needs no download"
    )
