"""The record of a training: plain columns, one row a meta-step, a CSV file that grows by lines."""

import csv
import io
import os
from collections.abc import Iterable, Sequence
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
    "memory_mb",  # the most that the process has held so far, or that was allocated on the GPU
    "validation_loss",  # after the last meta-step of an epoch, else empty
    "validation_accuracy",
    "nonfinite",  # the first parameter whose meta-gradient was not finite: its name, else empty
    "nonfinite_step",  # inner steps taken where the gradient, on its way back, was first not finite
    "first_order_cosine",  # between the meta-gradient and the first-order one, where diagnosed
)
GRADIENT_COLUMNS = (
    "iteration",  # the meta-step in which the gradient was followed back, on one of its tasks
    "step",  # inner steps taken: 0 … S
    "layer",
    "norm",  # 2-norm of the gradient with respect to the layer's weights after these steps
)
_NAMES = ("nonfinite", "layer", "field")
Row = dict[str, Any]  # numbers, but for the columns of names


class History:
    """Rows of `columns`; with a `path`, each row is also a line of that file at once."""

    def __init__(self, path: Path | None = None, columns: Sequence[str] = COLUMNS) -> None:
        self.rows: list[Row] = []
        self.path, self.columns = path, tuple(columns)
        if path is not None:
            path.write_bytes(_line(columns))

    @classmethod
    def load(cls, path: Path) -> "History":
        """The history that a training wrote to `path`; a last line without its end is left out."""
        history = cls()
        try:
            whole = path.read_bytes().rpartition(b"\n")[0].decode()
            lines = csv.DictReader(io.StringIO(whole))
            history.columns = tuple(lines.fieldnames or COLUMNS)
            for line in lines:
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

    @classmethod
    def resume_at(cls, path: Path, columns: Sequence[str], iteration: int) -> "History":
        """The rows of a file up to an iteration, its first column; it goes on after them.

        A file that is not there, or has other columns, begins anew.
        """
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        if not lines or lines[0] != _line(columns):
            return cls(path, columns)
        whole = [line for line in lines[1:] if line.endswith(b"\n")]
        kept = [line for line in whole if float(line.split(b",")[0]) <= iteration]
        return cls.resume(path, sum(map(len, [lines[0], *kept])))

    def append(self, *rows: Row) -> None:
        """Add meta-steps; raises `OSError`, and leaves the file as it was, if it has no room."""
        if self.path is not None and rows:
            lines = (_line(row.get(name, "") for name in self.columns) for row in rows)
            _append(self.path, b"".join(lines))
        self.rows += rows

    def column(self, name: str) -> list[Any]:
        """One column, of the rows that have it."""
        return [row[name] for row in self.rows if name in row]

    def frame(self) -> "pandas.DataFrame":
        """All of it as a pandas table."""
        import pandas

        return pandas.DataFrame(self.rows, columns=list(self.columns))


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
    return text if name in _NAMES else float(text)
