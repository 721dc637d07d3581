"""Files that are written whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PART = ".part-"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, moved to `path` once the block ends well: nobody sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=_PART) as folder:
        part = Path(folder) / path.name
        yield part
        with part.open("rb+") as file:
            os.fsync(file)  # Else a power cut could leave the new name on an empty file.
        os.replace(part, path)


def remove_leftovers(folder: Path) -> None:
    """Remove what a process that was killed inside `replacing` left in `folder`."""
    for part in folder.glob(f"{_PART}*"):
        shutil.rmtree(part, ignore_errors=True)
