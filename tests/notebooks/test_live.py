"""A live training without a front end: papermill runs it to the end and keeps the picture."""

from pathlib import Path

import nbformat
import pytest
from walkthrough import run_notebook

NOTEBOOK = Path(__file__).parents[1] / "browser" / "live.ipynb"


@pytest.mark.slow
def test_live_training_finishes_without_a_front_end(tmp_path):
    parameters = {"folder": str(tmp_path / "run"), "epochs": 1}
    run_notebook(NOTEBOOK, tmp_path / "out.ipynb", parameters)
    cells = nbformat.read(tmp_path / "out.ipynb", 4).cells
    [panel] = [cell for cell in cells if cell.source.startswith("panel = LivePanel(")]
    [picture] = [out.data for out in panel.outputs if "image/png" in out.get("data", {})]
    assert "Finished: iteration 10 of 10" in picture["text/plain"]
    assert "iterations 10" in cells[-1].outputs[-1].text
