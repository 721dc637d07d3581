"""The record of a training: plain columns, one row a meta-step, a CSV file that grows by lines."""

import csv
from pathlib import Path
from typing import TYPE_CHECKING

from mamlpp.errors import InputError

if TYPE_CHECKING:
    import pandas

COLUMNS = (
    "iteration",  # meta-steps done, from 1
    "epoch",  # where in the schedules this meta-step was: (iteration - 1) / iterations_per_epoch
    "outer_rate",  # the meta-optimizer's learning rate in this meta-step
    "loss",  # mean query loss of the meta-batch, after adaptation
    "accuracy",  # mean query accuracy of the meta-batch, after adaptation
    "gradient_norm",  # 2-norm of the meta-gradient
    "seconds",  # wall time of this meta-step
    "memory_mb",  # memory of the process, or the most that was allocated on the GPU
    "validation_loss",  # after the last meta-step of an epoch, else empty
    "validation_accuracy",
)
Row = dict[str, float]


class History:
    """Rows of `COLUMNS`; with a `path`, each row is also a line of that file at once."""

    def __init__(self, path: Path | None = None) -> None:
        self.rows: list[Row] = []
        self.path = path
        if path is not None:
            self._write_line(COLUMNS, "w")

    @classmethod
    def load(cls, path: Path) -> "History":
        """The history that a training wrote to `path`."""
        history = cls()
        try:
            with path.open(newline="") as file:
                for line in csv.DictReader(file):
                    history.rows.append({name: float(text) for name, text in line.items() if text})
        except (OSError, ValueError, TypeError, csv.Error) as error:
            raise InputError(
                f"the history {path} cannot be read ({error}); train the run again"
            ) from error
        return history

    def append(self, row: Row) -> None:
        """Add one meta-step."""
        self.rows.append(row)
        if self.path is not None:
            self._write_line([row.get(name, "") for name in COLUMNS])

    def column(self, name: str) -> list[float]:
        """One column, of the rows that have it."""
        return [row[name] for row in self.rows if name in row]

    def frame(self) -> "pandas.DataFrame":
        """All of it as a pandas table."""
        import pandas

        return pandas.DataFrame(self.rows, columns=list(COLUMNS))

    def _write_line(self, values: object, mode: str = "a") -> None:
        assert self.path is not None
        with self.path.open(mode, newline="") as file:
            csv.writer(file).writerow(values)  # type: ignore[arg-type]
