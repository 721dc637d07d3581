"""Training history: one row per meta-step in plain columns, appended to a CSV file as it grows."""

import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mamlpp.diagnostics import Diagnosis
from mamlpp.errors import InputError

if TYPE_CHECKING:
    import pandas

COLUMNS = (
    "iteration",  # number of this meta-step, counted from 1
    "epoch",  # schedule position of this meta-step: (iteration - 1) / iterations_per_epoch
    "outer_rate",  # meta-optimizer's learning rate in this meta-step
    "loss",  # mean query loss of the meta-batch, after adaptation
    "accuracy",  # mean query accuracy of the meta-batch, after adaptation
    "gradient_norm",  # 2-norm of the meta-gradient before clipping
    "seconds",  # wall time of this meta-step
    "memory_mb",  # peak memory so far: of the process, or allocated on the GPU
    "validation_loss",  # after the last meta-step of an epoch; otherwise empty
    "validation_accuracy",
    "nonfinite",  # name of the first parameter with a non-finite meta-gradient; otherwise empty
    "nonfinite_step",  # inner step at which the backpropagated gradient first became non-finite
    "first_order_cosine",  # cosine between meta-gradient and first-order one, where diagnosed
)
GRADIENT_COLUMNS = (
    "iteration",  # meta-step in which the gradient of one task was diagnosed
    "step",  # inner steps taken: 0 … S
    "layer",
    "norm",  # 2-norm of the gradient with respect to the layer's weights after these steps
)
_TEXT_COLUMNS = ("nonfinite", "layer", "field")
Row = dict[str, Any]  # numbers, except in the text columns


def gradient_rows(diagnosis: Diagnosis, iteration: int) -> list[Row]:
    """A row of `GRADIENT_COLUMNS` for each inner step and layer of a diagnosed meta-step."""
    return [
        {"iteration": iteration, "step": step, "layer": layer, "norm": norm}
        for step, row in enumerate(diagnosis.norms.tolist())
        for layer, norm in zip(diagnosis.layers, row, strict=True)
    ]


class History:
    """Rows with these `columns`; with a `path`, each new row is also written to that file."""

    def __init__(self, path: Path | None = None, columns: Sequence[str] = COLUMNS) -> None:
        self.rows: list[Row] = []
        self.path, self.columns = path, tuple(columns)
        if path is not None:
            path.write_bytes(_line(columns))

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        """How long it is, and its last row."""
        if not self.rows:
            return "<History, empty>"
        last = self.rows[-1].items()
        words = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in last)
        return f"<History of {len(self)} rows; the last: {', '.join(words)}>"

    @classmethod
    def load(cls, path: Path) -> "History":
        """Read a CSV history, except an incomplete last line; raise `InputError` if unreadable."""
        history = cls()
        try:
            complete = path.read_bytes().rpartition(b"\n")[0].decode()
            lines = csv.DictReader(io.StringIO(complete))
            history.columns = tuple(lines.fieldnames or COLUMNS)
            for line in lines:
                history.rows.append(
                    {name: _parse(name, text) for name, text in line.items() if text}
                )
        except (OSError, ValueError, TypeError, csv.Error) as error:
            raise InputError(
                f"the history {path} cannot be read ({error}); train the run again"
            ) from error
        return history

    @classmethod
    def resume(cls, path: Path, size: int) -> "History":
        """Truncate a file to its first `size` bytes, read it, and append new rows to it."""
        if path.stat().st_size > size:
            os.truncate(path, size)
        history = cls.load(path)
        history.path = path
        return history

    @classmethod
    def resume_at(cls, path: Path, columns: Sequence[str], iteration: int) -> "History":
        """Drop all rows after an iteration (the first column) and append new rows to the file.

        Starts a new file if there is none, or if its columns differ.
        """
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        if not lines or lines[0] != _line(columns):
            return cls(path, columns)
        complete = [line for line in lines[1:] if line.endswith(b"\n")]
        kept = [line for line in complete if float(line.split(b",")[0]) <= iteration]
        return cls.resume(path, sum(map(len, [lines[0], *kept])))

    def append(self, *rows: Row) -> None:
        """Append rows; if writing fails, restore the file and raise `OSError`."""
        if self.path is not None and rows:
            lines = (_line(row.get(name, "") for name in self.columns) for row in rows)
            _append(self.path, b"".join(lines))
        self.rows += rows

    def column(self, name: str) -> list[Any]:
        """Return the values of one column, skipping rows without it."""
        return [row[name] for row in self.rows if name in row]

    def frame(self) -> "pandas.DataFrame":
        """Return the whole history as a pandas DataFrame."""
        import pandas

        return pandas.DataFrame(self.rows, columns=list(self.columns))


def _line(values: Iterable[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue().encode()


def _append(path: Path, data: bytes) -> None:
    with path.open("ab", buffering=0) as file:
        size = file.tell()
        try:
            while data:
                data = data[file.write(data) :]
        except BaseException:
            file.truncate(size)
            raise


def _parse(name: str, text: str) -> float | str:
    return text if name in _TEXT_COLUMNS else float(text)
