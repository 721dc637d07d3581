"""Record the trainings that the chapters show instead of computing them (half an hour).

.venv/bin/python tools/record_trainings.py             rewrites results/trainings/
.venv/bin/python tools/record_trainings.py --only 05   those of one chapter
"""

from mamlpp import stopping

stopping.listen(__name__, "The records of chapters that had run to their end are new.")

import os
import sys
import tempfile
from pathlib import Path

import tyro
from walkthrough import NOTEBOOKS, run_notebook

from mamlpp.show.trainings import RECORD


def main(only: tuple[str, ...] = ("03", "04", "05", "06", "07", "08")) -> int:
    """Run chapters with their switch `compute_here` on, at laptop size. (09 shows those of 08.)

    Args:
        only: Beginnings of their names.

    Returns:
        The exit status.
    """
    os.environ[RECORD] = "1"
    parameters = {"profile": "laptop", "dataset": "glyphs", "compute_here": True}
    with tempfile.TemporaryDirectory() as folder:
        for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb")):
            if path.name.startswith(only):
                print(path.stem)
                run_notebook(path, Path(folder) / path.name, parameters, progress=True)
    return 0


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
