"""Paths that a person gives, text that a person wrote, and files that are written as a whole."""

import errno
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib import metadata
from pathlib import Path

from mamlpp.errors import InputError

DATA, CACHE = "MAMLPP_DATA", "MAMLPP_CACHE"  # variables that name the folders of data and cache
_PART = ".part-"
# What some network drives answer, which know no `fsync`.
_NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
# A byte-order mark says how a text is encoded. UTF-32 comes first: its mark begins like UTF-16's.
_MARKS = {
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}


def user_path(path: str | os.PathLike[str]) -> Path:
    """The path that a person means, absolute, so that a later change of folder does not move it.

    A leading `~` becomes the home folder. Raises `InputError` where nobody has that home folder,
    and for what is no path.
    """
    if not isinstance(path, str | os.PathLike):
        kind = type(path).__name__
        raise InputError(f"the path of a file or folder is expected, such as 'runs/x', not {kind}")
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError:
        raise InputError(
            f"{os.fspath(path)} begins with the home folder of a user who does not exist here; "
            f"write the whole path"
        ) from None


def folder_named_by(variable: str) -> Path | None:
    """The folder that an environment variable names, absolute from now on; None where it is unset.

    Raises `InputError` where it begins with a home folder that nobody has.
    """
    value = os.environ.get(variable)
    if not value:
        return None
    try:
        path = user_path(value)
    except InputError as error:
        raise InputError(f"{variable} is {value!r}: {error}") from error
    if str(path) != value:
        os.environ[variable] = str(path)
    return path


def settle_folders() -> None:
    """Make what `MAMLPP_DATA` and `MAMLPP_CACHE` name absolute: the current folder may change."""
    for variable in (DATA, CACHE):
        with suppress(InputError):  # It is said when the folder is needed.
            folder_named_by(variable)


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 or UTF-32 with a byte-order mark.

    The mark is left out, and every line ends in a newline alone. Raises `InputError` where the
    file cannot be read or is no such text.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from error
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8-sig")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # No text has it: most often this is UTF-16 without its mark.
        raise InputError(f"{path} is not text in UTF-8; save it in your editor as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to. Once the block has ended well, its file takes the place of `path`.

    So nobody ever sees half a file. The file must be closed when the block ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=path.parent, prefix=_PART, ignore_cleanup_errors=True
    ) as folder:
        part = Path(folder) / path.name
        yield part
        _sync(part)
        _replace(part, path)


def _replace(part: Path, path: Path) -> None:
    """Move the file; try again for a second where `path` is being read, which Windows refuses."""
    for pause in (0.01, 0.1, 1.0):
        try:
            os.replace(part, path)
            return
        except PermissionError:
            time.sleep(pause)
    os.replace(part, path)


def _sync(path: Path) -> None:
    """Bring a file to the disk: else a power cut could leave the new name on an empty file."""
    with path.open("rb+") as file:
        try:
            os.fsync(file)
        except OSError as error:
            if error.errno not in _NO_SYNC:
                raise


def remove_leftovers(folder: Path, older_than: float = 0) -> None:
    """Remove what a process that was killed inside `replacing` left in `folder`.

    `older_than` spares what another process may still be writing: it is an age in seconds.
    """
    now = time.time()
    for part in folder.glob(f"{_PART}*"):
        with suppress(OSError):
            if now - part.stat().st_mtime >= older_than:
                shutil.rmtree(part, ignore_errors=True)


def code_version() -> dict[str, str | None]:
    """The version of this kit, and the git commit of its code; None outside of a checkout.

    Where it is installed below somebody's own repository, that one's commit says nothing of it.
    """
    here, commit = Path(__file__), None
    git = partial(subprocess.run, capture_output=True, text=True, check=True, cwd=here.parent)
    with suppress(OSError, subprocess.CalledProcessError):
        git(["git", "ls-files", "--error-unmatch", here.name])
        commit = git(["git", "rev-parse", "HEAD"]).stdout.strip()
    return {"mamlpp": version(), "commit": commit}


def version() -> str:
    """The version of this kit as it was installed."""
    with suppress(metadata.PackageNotFoundError):
        return metadata.version("mamlpp")
    return "not installed"
