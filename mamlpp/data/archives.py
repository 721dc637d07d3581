"""Pictures in zips and in folders, seen the same way; a zip is read in memory, never unpacked.

`open_pictures` lists them, `fingerprint` tells whether they have changed, `group_by_class` and
`check_samples` sort and check them by name alone, `decode` turns them into one tensor. Whatever
cannot be read ends in one sentence (`InputError`) that names the file.
"""

import hashlib
import io
import json
import os
import stat
import warnings
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from mamlpp.data.folders import is_junk, unreadable
from mamlpp.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg")
SAMPLED = 200  # Of pictures in folders, how many `fingerprint` reads, spread over all of them.


@dataclass(frozen=True)
class Picture:
    """One picture file: its name inside `source` (a zip or a folder) and how to get its bytes."""

    source: Path
    name: str
    """Its path in the source, with slashes."""
    size: int
    """In bytes."""
    crc: int | None
    """The checksum that a zip keeps of it; None in a folder."""
    read: Callable[[], bytes]

    @property
    def path(self) -> PurePosixPath:
        """Its name, taken apart."""
        return PurePosixPath(self.name)

    def __str__(self) -> str:
        return f"{self.name} in {self.source}"


def fingerprint(sources: Iterable[Path]) -> str:
    """16 hex digits that change with the pictures in `sources`, but not with their place or time.

    They are taken of the name and size of each picture, and of its checksum if it is in a zip. Of
    the pictures in folders at most `SAMPLED` are read, to save time: among more, one that was
    replaced by another of exactly the same size may be overlooked. Raises as `open_pictures` does.
    """
    sources = tuple(sources)
    files = [
        f for source in sources for f in (files_below(source) if source.is_dir() else [source])
    ]
    stats = [file.stat() for file in files]
    state = zip(files, [(s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in stats], strict=True)
    return _fingerprint(sources, tuple(state))


@lru_cache(maxsize=8)
def _fingerprint(sources: tuple[Path, ...], state: tuple[Any, ...]) -> str:
    """Taken anew only where the `state` of the files has changed: zips hold 60,000 pictures."""
    with open_pictures(sources) as pictures:
        return fingerprint_of(pictures)


def fingerprint_of(pictures: Sequence[Picture]) -> str:
    """The fingerprint of these pictures."""
    about: list[Any] = sorted((p.name, p.size, p.crc or 0) for p in pictures)
    loose = sorted((p for p in pictures if p.crc is None), key=lambda p: p.name)
    step = -(-len(loose) // SAMPLED) or 1
    about += [zlib.crc32(_read(picture)) for picture in loose[::step]]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]


@contextmanager
def open_pictures(sources: Iterable[Path]) -> Iterator[list[Picture]]:
    """The pictures (PNG or JPEG) of all `sources` (zips or folders), readable inside the context.

    Only those that lie at least two folders deep. Raises `InputError` for a source that is no zip,
    is cut off, or has a path that leads out of it, and for a folder that cannot be read.
    """
    with ExitStack() as stack:
        found: list[Picture] = []
        for source in sources:
            if source.is_dir():
                found += _in_folder(source)
            else:
                found += _in_zip(stack.enter_context(_open_zip(source)), source)
        yield [p for p in found if p.name.count("/") > 1]


def zips_below(folder: Path) -> list[Path]:
    """All zips in a folder and in those inside it."""
    return sorted(path for path in files_below(folder) if path.suffix.lower() == ".zip")


def group_by_class(
    pictures: Iterable[Picture], class_of: Callable[[Picture], str]
) -> dict[str, list[Picture]]:
    """Pictures by class, both in order of name; `InputError` where a class has a picture twice."""
    classes: defaultdict[str, dict[str, Picture]] = defaultdict(dict)
    for picture in pictures:
        files = classes[class_of(picture)]
        twin = files.setdefault(picture.path.stem, picture)  # As PNG and as JPEG is twice, too.
        if twin is not picture:
            raise InputError(
                f"{picture} is there a second time ({twin}); each picture may be there only "
                f"once, so remove one of the two"
            )
    return {
        name: sorted(files.values(), key=lambda picture: picture.path.name)
        for name, files in sorted(classes.items())
    }


def check_samples(classes: Mapping[str, Sequence[Picture]], samples: int, wanted_by: str) -> None:
    """Raise `InputError` with the name of the first class that does not have `samples` pictures."""
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

    `shape` is channels (1 for grey, 3 for RGB), height and width. A picture of another size is
    resized with Lanczos, which antialiases and is what MAML's published scripts ask for on both
    datasets (github.com/cbfinn/maml, `data/*/*_images.py`). Raises `InputError` with the name of a
    picture that cannot be read. Every class must have as many pictures as the first.
    """
    samples = len(next(iter(classes.values())))
    images = torch.empty(len(classes), samples, *shape, dtype=torch.uint8)
    # No threads: pictures this small spend as long under Python's lock as in Pillow's decoders.
    for c, pictures in enumerate(tqdm(classes.values(), desc=title, unit="class")):
        for s, picture in enumerate(pictures):
            images.numpy()[c, s] = pixels(picture, shape)
    return images


def pixels(picture: Picture, shape: tuple[int, int, int]) -> np.ndarray[Any, Any]:
    """A picture as uint8 `[C, H, W]` of this shape; `InputError` where it cannot be decoded."""
    channels, height, width = shape
    data = _read(picture)
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data)) as image:
            warnings.simplefilter("ignore")  # Pillow warns of transparency that it leaves out.
            # Convert first: Pillow resizes a 1-bit picture without any filter.
            pixels = plain(image).convert("L" if channels == 1 else "RGB")
    except InputError as error:
        raise InputError(f"{picture} {error}") from None
    except Exception as error:  # Pillow's decoders raise all kinds for a damaged file.
        raise InputError(
            f"{picture} is not a picture that can be decoded, or was cut off; replace or remove it"
        ) from error
    if pixels.size != (width, height):
        pixels = pixels.resize((width, height), Image.Resampling.LANCZOS)
    return np.atleast_3d(np.asarray(pixels)).transpose(2, 0, 1)  # [C, H, W]


def plain(image: Image.Image) -> Image.Image:
    """The picture with 8 bits a channel, and white where it is transparent.

    Pillow itself would make all that is bright in 16 bits white, and forget what is transparent.
    """
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) / 257).round().astype("uint8"))
    if image.mode in ("I", "F"):
        raise InputError("has 32 bits a pixel, whose range nobody says; save it with 8 or 16")
    if not image.has_transparency_data:
        return image
    drawn = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn)


def _read(picture: Picture) -> bytes:
    try:
        return picture.read()
    # RuntimeError: a zip with a password, or a compression that Python cannot read.
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"{picture} cannot be read ({error}); get a whole copy of {picture.source.name}"
        ) from error


def _open_zip(source: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(source)
    except PermissionError as error:
        raise unreadable(error) from error
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{source} is not a zip file or was cut off; get it again and check that it unpacks"
        ) from error


def _in_zip(archive: zipfile.ZipFile, source: Path) -> list[Picture]:
    found: dict[str, Picture] = {}  # Of two entries with one name the last one counts.
    for entry in archive.infolist():
        if _leads_out(entry.filename):
            raise InputError(
                f"{source} has an entry {entry.filename!r} that leads out of the archive, which no "
                f"dataset has; get it again from a source you trust"
            )
        name = entry.filename.replace("\\", "/")  # Some programs write backslashes.
        if _is_picture(name):
            name = PurePosixPath(name).as_posix() if "./" in name or "//" in name else name
            read = partial(archive.read, entry)
            found[name] = Picture(source, name, entry.file_size, entry.CRC, read)
    return list(found.values())


def _leads_out(name: str) -> bool:
    if ".." not in name and ":" not in name and not name.startswith(("/", "\\")):
        return False  # Most names, in a tenth of the time.
    path = PureWindowsPath(name)  # It knows both slashes, and drives.
    return ".." in path.parts or bool(path.anchor)


def _in_folder(source: Path) -> list[Picture]:
    return [
        Picture(
            source,
            file.relative_to(source).as_posix(),
            file.stat().st_size,
            None,
            file.read_bytes,
        )
        for file in files_below(source)
        if _is_picture(file.name)
    ]


def files_below(folder: Path) -> list[Path]:
    """All files below a folder but junk, links followed; `InputError` for what cannot be read."""

    def refuse(error: OSError) -> None:
        raise unreadable(error) from error

    found = []
    # Links are followed because large pictures often live elsewhere.
    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = [name for name in folders if not is_junk(name)]
        paths = (Path(parent, name) for name in names if not is_junk(name))
        found += [path for path in paths if _is_file(path)]
    return found


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        raise InputError(f"{path} is a link to what is not there; mend or remove it") from None
    except OSError as error:
        raise unreadable(error) from error


def _is_picture(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not is_junk(*name.split("/"))
