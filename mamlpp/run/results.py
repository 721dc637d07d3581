"""Recorded results: what the finished runs of a sweep came to, in one small file under `results/`.

    mamlpp sweep sweeps/cures.toml --table record --output results/cures.json
    mamlpp.load_result("cures").runs[0].history

The file holds a checksum of its contents. Of each run it has everything in `result.json`, and the
history in windows of meta-steps.
"""

import hashlib
import json
import re
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from mamlpp.errors import InputError
from mamlpp.naming import counted
from mamlpp.run.history import History, Row
from mamlpp.run.sweep import Cell, read_result

_KIT = Path(__file__).resolve().parents[2]
RESULTS = _KIT / "results"
if not RESULTS.is_dir():  # this is no checkout, but an installed wheel
    RESULTS = Path(sysconfig.get_path("data"), "share", "mamlpp", "results")
ROWS = 4000  # of all runs in a file together, about
_FILE = re.compile(r'{"checksum": "(\w+)",\n"result": (.*)}\n', re.DOTALL)
_WINDOW_COLUMNS = ("iteration", "accuracy", "gradient_norm", "validation_accuracy")


@dataclass(frozen=True)
class RecordedRun:
    """One run: what was trained, what it came to on test tasks, and its history.

    A row of `history` stands for a window of meta-steps, and has the number of the last one, the
    mean training accuracy, the largest norm of the meta-gradient, and the validation accuracy where
    an epoch ended. `about` has seconds, memory, device, versions and date.
    """

    cell: Cell
    results: dict[str, Any]
    history: History
    about: dict[str, Any]

    def __repr__(self) -> str:
        """What was trained, and how well."""
        return f"<RecordedRun {self.cell.name}: {100 * self.accuracy():.2f} % by support>"

    def accuracy(self, reading: str = "support", kind: str = "single") -> float:
        """Accuracy on test tasks in 0 … 1; `kind` is "single" or "ensemble"."""
        return self.results[reading][kind]["accuracy"]


@dataclass(frozen=True)
class RecordedResult:
    """The finished runs of one sweep, and the command that makes them."""

    name: str
    command: str
    runs: tuple[RecordedRun, ...]

    def __repr__(self) -> str:
        """How much there is, and what made it."""
        return f"<RecordedResult {self.name}: {counted(len(self.runs), 'run')} of {self.command}>"

    def select(self, **fields: Any) -> list[RecordedRun]:
        """The runs whose recipe has these values; `recipe` is its name in `RECIPES`."""

        def value(run: RecordedRun, name: str) -> Any:
            return run.cell.recipe if name == "recipe" else getattr(run.cell.settings, name)

        return [
            run
            for run in self.runs
            if all(value(run, name) == wanted for name, wanted in fields.items())
        ]


def load_result(name: str) -> RecordedResult:
    """A recorded result by its name, such as "cures": a file in `results/`.

    Raises `InputError` where there is none, or where the file was changed.
    """
    path = RESULTS / f"{name}.json"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        known = ", ".join(sorted(path.stem for path in RESULTS.glob("*.json"))) or "none"
        raise InputError(f"there is no recorded result {name!r}; there are: {known}") from error
    plain = _checked(path, text)
    return RecordedResult(name, plain["command"], tuple(map(_run, plain["runs"])))


def _checked(path: Path, text: str) -> dict[str, Any]:
    found = _FILE.fullmatch(text)
    if found is None or hashlib.sha256(found[2].encode()).hexdigest() != found[1]:
        raise InputError(
            f"{path} was changed after it was recorded; restore it, or record it again"
        )
    return json.loads(found[2])


def _run(plain: dict[str, Any]) -> RecordedRun:
    history = History()
    for values in plain["history"]:
        named = zip(_WINDOW_COLUMNS, values, strict=True)
        history.rows.append({name: value for name, value in named if value is not None})
    about = {k: v for k, v in plain.items() if k not in ("cell", "results", "history")}
    return RecordedRun(Cell.from_dict(plain["cell"]), plain["results"], history, about)


def record(
    cells: Sequence[Cell], directory: Path, command: str, earlier: Path | None = None
) -> str:
    """The text of a result file with the runs that are done.

    Those of `cells` that only the file `earlier` has, because another machine ran them, stay in it.
    """
    recorded = _runs(earlier) if earlier is not None and earlier.exists() else {}
    done = {cell.name: result for cell in cells if (result := read_result(cell, directory))}
    known = [cell for cell in cells if cell.name in done or _same(recorded.get(cell.name), cell)]
    rows = max(20, ROWS // max(1, len(known)))
    runs = [
        done[cell.name] | {"history": _windows(cell, directory, rows)}
        if cell.name in done
        else recorded[cell.name]
        for cell in known
    ]
    text = json.dumps({"command": command, "runs": runs})
    checksum = hashlib.sha256(text.encode()).hexdigest()
    return f'{{"checksum": "{checksum}",\n"result": {text}}}\n'


def _runs(path: Path) -> dict[str, dict[str, Any]]:
    """The runs in a result file as plain data, by the names of their cells."""
    runs = _checked(path, path.read_text(encoding="utf-8"))["runs"]
    return {Cell.from_dict(run["cell"]).name: run for run in runs}


def _same(run: dict[str, Any] | None, cell: Cell) -> bool:
    return run is not None and Cell.from_dict(run["cell"]) == cell


def _windows(cell: Cell, directory: Path, rows: int) -> list[list[float | None]]:
    """A row for each window of as many meta-steps as divide an epoch and give about `rows` rows."""
    steps = History.load(directory / cell.name / "history.csv").rows
    length = cell.settings.iterations_per_epoch
    size = next((n for n in range(1, length) if length % n == 0 and len(steps) / n <= rows), length)
    return [_window(steps[start : start + size]) for start in range(0, len(steps), size)]


def _window(rows: list[Row]) -> list[float | None]:
    last = rows[-1]
    return [
        int(last["iteration"]),
        round(mean(row["accuracy"] for row in rows), 4),
        float(f"{max(row['gradient_norm'] for row in rows):.4g}"),
        round(last["validation_accuracy"], 5) if "validation_accuracy" in last else None,
    ]
