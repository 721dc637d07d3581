"""A live training without a front end: as papermill runs it, to the end, its picture kept."""

from pathlib import Path

import nbformat
from walkthrough import run_notebook

NOTEBOOK = Path(__file__).parents[1] / "browser" / "live.ipynb"


def test_without_a_front_end_the_two_cells_run_to_the_end(tmp_path):
    parameters = {"folder": str(tmp_path / "run"), "epochs": 1}
    run_notebook(NOTEBOOK, tmp_path / "out.ipynb", parameters)
    cells = nbformat.read(tmp_path / "out.ipynb", 4).cells
    [showing] = [cell for cell in cells if cell.source.startswith("panel = LivePanel(")]
    [picture] = [out.data for out in showing.outputs if "image/png" in out.get("data", {})]
    assert "Done: iteration 10 of 10" in picture["text/plain"]
    assert "iterations 10" in cells[-1].outputs[-1].text
