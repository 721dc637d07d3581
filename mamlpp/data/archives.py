"""Pictures in zips and in folders, seen the same way; a zip is read in memory, never unpacked.

`open_pictures` lists them, `group_by_class` and `check_samples` sort and check them by name alone,
`decode` turns them into one tensor. Each bad file ends in one sentence (`InputError`).
"""

import hashlib
import io
import json
import os
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from mamlpp.errors import InputError


@dataclass(frozen=True)
class Picture:
    """One picture file: its path inside `source` (a zip or a folder) and how to get its bytes."""

    source: Path
    path: PurePosixPath
    read: Callable[[], bytes]

    def __str__(self) -> str:
        return f"{self.path} in {self.source}"


def user_folder(dataset: str) -> Path | None:
    """`MAMLPP_DATA/<dataset>`, or None where the variable is not set or has no such folder."""
    data = os.environ.get("MAMLPP_DATA")
    folder = Path(data) / dataset if data else None
    return folder if folder is not None and folder.is_dir() else None


def fingerprint(folder: Path) -> str:
    """16 hex digits that change with the name, size or time of any file in `folder`."""
    stats = [(file.relative_to(folder).as_posix(), file.stat()) for file in _files(folder)]
    about = sorted((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats)
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]


@contextmanager
def open_pictures(sources: Iterable[Path], suffixes: Collection[str]) -> Iterator[list[Picture]]:
    """The pictures of all `sources` (zips or folders), readable until the context ends.

    A picture has one of the `suffixes` (such as `".png"`) and lies at least two folders deep.
    Raises InputError for a source that is no zip, is cut off, or has a path that leads out of it.
    """
    with ExitStack() as stack:
        found: list[Picture] = []
        for source in sources:
            if source.is_dir():
                found += _in_folder(source)
            else:
                found += _in_zip(stack.enter_context(_open_zip(source)), source)
        wanted = [p for p in found if p.path.suffix.lower() in suffixes]
        yield [p for p in wanted if len(p.path.parts) > 2]


def group_by_class(
    pictures: Iterable[Picture], class_of: Callable[[Picture], str]
) -> dict[str, list[Picture]]:
    """Pictures by class, both in order of name; InputError where a class has a file name twice."""
    classes: defaultdict[str, dict[str, Picture]] = defaultdict(dict)
    for picture in pictures:
        files = classes[class_of(picture)]
        twin = files.setdefault(picture.path.name, picture)
        if twin is not picture:
            raise InputError(
                f"{picture} is there a second time ({twin}); each picture may be there only "
                f"once, so remove one of the two"
            )
    return {name: [files[f] for f in sorted(files)] for name, files in sorted(classes.items())}


def check_samples(classes: Mapping[str, Sequence[Picture]], samples: int, wanted_by: str) -> None:
    """Raise InputError naming the first class that does not have `samples` pictures."""
    for name, pictures in classes.items():
        if len(pictures) != samples:
            raise InputError(
                f"class {name!r} in {pictures[0].source} has {len(pictures)} pictures where "
                f"{wanted_by} {samples}; add what is missing or remove what is too many"
            )


def decode(
    classes: Mapping[str, Sequence[Picture]], shape: tuple[int, int, int], title: str
) -> torch.Tensor:
    """All pictures as uint8 `[classes, samples, *shape]`, with a progress bar named `title`.

    `shape` is channels (1 grey, 3 RGB), height, width. A picture of another size is resized with
    Lanczos, which antialiases and is what MAML's published scripts ask for on both datasets
    (github.com/cbfinn/maml, `data/*/*_images.py`). Raises InputError naming a picture that cannot
    be read. Every class must have as many pictures as the first.
    """
    samples = len(next(iter(classes.values())))
    images = torch.empty(len(classes), samples, *shape, dtype=torch.uint8)
    # No threads: pictures this small spend as long under Python's lock as in Pillow's decoders.
    for c, pictures in enumerate(tqdm(classes.values(), desc=title, unit="class")):
        for s, picture in enumerate(pictures):
            images.numpy()[c, s] = _pixels(picture, shape)
    return images


def _pixels(picture: Picture, shape: tuple[int, int, int]) -> np.ndarray[Any, Any]:
    channels, height, width = shape
    data = _read(picture)
    try:
        with Image.open(io.BytesIO(data)) as image:
            # Convert first: Pillow resizes a 1-bit picture without any filter.
            pixels = image.convert("L" if channels == 1 else "RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise InputError(
            f"{picture} is not a picture that can be decoded, or was cut off; replace that file"
        ) from None
    if pixels.size != (width, height):
        pixels = pixels.resize((width, height), Image.Resampling.LANCZOS)
    return np.atleast_3d(np.asarray(pixels)).transpose(2, 0, 1)  # [C, H, W]


def _read(picture: Picture) -> bytes:
    try:
        return picture.read()
    # RuntimeError: a zip with a password, or a compression that Python cannot read.
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"{picture} cannot be read ({error}); get a whole copy of {picture.source.name}"
        ) from None


def _open_zip(source: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(source)
    except (OSError, zipfile.BadZipFile):
        raise InputError(
            f"{source} is not a zip file or was cut off; get it again and check that it unpacks"
        ) from None


def _in_zip(archive: zipfile.ZipFile, source: Path) -> list[Picture]:
    for name in archive.namelist():
        if _leads_out(name):
            raise InputError(
                f"{source} has an entry {name!r} that leads out of the archive, which no dataset "
                f"has; get it again from a source you trust"
            )
    paths = {name: PurePosixPath(name) for name in archive.namelist() if not name.endswith("/")}
    return [
        Picture(source, path, partial(archive.read, name))
        for name, path in paths.items()
        if not _is_junk(path)
    ]


def _leads_out(name: str) -> bool:
    path = PureWindowsPath(name)  # Knows both slashes, and drives.
    return ".." in path.parts or bool(path.anchor)


def _in_folder(source: Path) -> list[Picture]:
    return [
        Picture(source, PurePosixPath(file.relative_to(source).as_posix()), file.read_bytes)
        for file in _files(source)
    ]


def _files(folder: Path) -> list[Path]:
    walk = os.walk(folder, followlinks=True)  # Large pictures often live elsewhere.
    found = (Path(parent, name) for parent, _, names in walk for name in names)
    return [f for f in found if not _is_junk(f.relative_to(folder)) and f.is_file()]


def _is_junk(path: PurePath) -> bool:
    """Whether it is what macOS leaves about: `__MACOSX/`, `.DS_Store`, `._name`."""
    return any(part == "__MACOSX" or part.startswith(".") for part in path.parts)
