"""Keep what finished runs of a sweep came to, small enough to commit: one JSON file.

python tools/record.py sweeps/figure1.toml runs/figure1 results/figure1.json

Of each run: its recipe and tasks, machine, versions and seconds; accuracy on test tasks; validation
accuracy after each epoch; and, for each window of 25 meta-steps, the mean training accuracy and the
median and the largest norm of the meta-gradient. The file holds a checksum of its contents.
"""

import hashlib
import json
import sys
from pathlib import Path
from statistics import mean, median
from typing import Any

from mamlpp.files import replacing
from mamlpp.run.history import History
from mamlpp.run.sweep import Cell, read_result, read_sweep

WINDOW = 25  # meta-steps


def record(sweep: Path, directory: Path, output: Path) -> int:
    """Write what is done; how many runs that is."""
    runs = [run for cell in read_sweep(sweep) if (run := record_run(cell, directory)) is not None]
    text = json.dumps({"command": f"mamlpp sweep {sweep.as_posix()}", "runs": runs})
    checksum = hashlib.sha256(text.encode()).hexdigest()
    with replacing(output) as part:
        part.write_text(f'{{"checksum": "{checksum}",\n"result": {text}}}\n', encoding="utf-8")
    return len(runs)


def record_run(cell: Cell, directory: Path) -> dict[str, Any] | None:
    """One run, or None while it is not done."""
    result = read_result(cell, directory)
    if result is None:
        return None
    rows = History.load(directory / cell.name / "history.csv").rows
    windows = [rows[start : start + WINDOW] for start in range(0, len(rows), WINDOW)]
    norms = [[row["gradient_norm"] for row in window] for window in windows]
    return result | {
        "name": cell.name,
        "validation": [
            [int(row["iteration"]), round(row["validation_accuracy"], 5)]
            for row in rows
            if "validation_accuracy" in row
        ],
        "windows": {
            "meta_steps": WINDOW,
            "accuracy": [round(mean(row["accuracy"] for row in window), 4) for window in windows],
            "median_norm": [float(f"{median(some):.4g}") for some in norms],
            "max_norm": [float(f"{max(some):.4g}") for some in norms],
        },
    }


if __name__ == "__main__":
    sweep, directory, output = map(Path, sys.argv[1:])
    print(f"{record(sweep, directory, output)} runs recorded in {output}")
