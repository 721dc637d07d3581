"""The record of a training: plain columns, one row a meta-step, a CSV file that grows by lines."""

import csv
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mamlpp.errors import InputError

if TYPE_CHECKING:
    import pandas

COLUMNS = (
    "iteration",  # meta-steps done, from 1
    "epoch",  # where in the schedules this meta-step was: (iteration - 1) / iterations_per_epoch
    "outer_rate",  # the meta-optimizer's learning rate in this meta-step
    "loss",  # mean query loss of the meta-batch, after adaptation
    "accuracy",  # mean query accuracy of the meta-batch, after adaptation
    "gradient_norm",  # 2-norm of the meta-gradient, before it was clipped
    "seconds",  # wall time of this meta-step
    "memory_mb",  # memory of the process, or the most that was allocated on the GPU
    "validation_loss",  # after the last meta-step of an epoch, else empty
    "validation_accuracy",
    "nonfinite",  # where the meta-gradient was first not finite: a parameter's name, else empty
)
Row = dict[str, Any]  # numbers, but for the name in `nonfinite`


class History:
    """Rows of `COLUMNS`; with a `path`, each row is also a line of that file at once."""

    def __init__(self, path: Path | None = None) -> None:
        self.rows: list[Row] = []
        self.path = path
        if path is not None:
            path.write_bytes(_line(COLUMNS))

    @classmethod
    def load(cls, path: Path) -> "History":
        """The history that a training wrote to `path`; a last line without its end is left out."""
        history = cls()
        try:
            whole = path.read_bytes().rpartition(b"\n")[0].decode()
            for line in csv.DictReader(io.StringIO(whole)):
                history.rows.append(
                    {name: _value(name, text) for name, text in line.items() if text}
                )
        except (OSError, ValueError, TypeError, csv.Error) as error:
            raise InputError(
                f"the history {path} cannot be read ({error}); train the run again"
            ) from error
        return history

    @classmethod
    def resume(cls, path: Path, size: int) -> "History":
        """The history of the first `size` bytes of a file, which goes on after them."""
        if path.stat().st_size > size:
            os.truncate(path, size)
        history = cls.load(path)
        history.path = path
        return history

    def append(self, row: Row) -> None:
        """Add one meta-step; raises `OSError`, and leaves the file as it was, if it has no room."""
        if self.path is not None:
            _append(self.path, _line(row.get(name, "") for name in COLUMNS))
        self.rows.append(row)

    def column(self, name: str) -> list[Any]:
        """One column, of the rows that have it."""
        return [row[name] for row in self.rows if name in row]

    def frame(self) -> "pandas.DataFrame":
        """All of it as a pandas table."""
        import pandas

        return pandas.DataFrame(self.rows, columns=list(COLUMNS))


def _line(values: Iterable[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue().encode()


def _append(path: Path, line: bytes) -> None:
    with path.open("ab", buffering=0) as file:
        size = file.tell()
        try:
            while line:
                line = line[file.write(line) :]
        except BaseException:
            file.truncate(size)
            raise


def _value(name: str, text: str) -> float | str:
    return text if name == "nonfinite" else float(text)
