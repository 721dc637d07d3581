"""Write the cell by which a notebook gets the kit on Google Colab; elsewhere it does nothing.

.venv/bin/python tools/colab.py     for a new notebook, or after an edit of `SOURCE` below

Colab opens a notebook alone, without the files beside it, so the cell fetches all of the kit. It
installs neither pins nor the extra `lab`, which would replace Colab's own PyTorch and kernel.
"""

import json
from pathlib import Path
from typing import Any

import tyro

from mamlpp.files import replacing

KIT = Path(__file__).resolve().parents[1]
IDENTITY = "colab"
SOURCE = """\
# On Google Colab, this cell fetches the kit and installs it. Elsewhere it does nothing.
import os
import sys
from pathlib import Path

if "google.colab" in sys.modules:
    kit, shell = Path("/content/kit"), get_ipython()
    if not kit.exists():
        address = input("The kit's address on GitHub (owner/name): ")
        shell.system(f"git clone --quiet --depth 1 https://github.com/{address} {kit}")
        shell.system(f"{sys.executable} -m pip install --quiet anywidget --editable {kit}")
        sys.path.insert(0, str(kit))
    os.chdir(kit / "notebooks")"""


def notebooks() -> list[Path]:
    """Return the notebooks that have the cell; `make exercises` makes the students' sets."""
    return [*sorted(KIT.glob("notebooks/*.ipynb")), *sorted(KIT.glob("exercises/*.ipynb"))]


def with_cell(notebook: dict[str, Any]) -> dict[str, Any]:
    """Return a notebook with the cell above its first code, folded in JupyterLab."""
    cells = [cell for cell in notebook["cells"] if cell.get("id") != IDENTITY]
    first = next(at for at, cell in enumerate(cells) if cell["cell_type"] == "code")
    metadata = {"jupyter": {"source_hidden": True}, "tags": ["remove-cell"]}
    cell = {
        "cell_type": "code", "execution_count": None, "id": IDENTITY, "metadata": metadata,
        "outputs": [], "source": SOURCE.splitlines(keepends=True),
    }  # fmt: skip
    return {**notebook, "cells": [*cells[:first], cell, *cells[first:]]}


def main() -> None:
    """Write the cell of every notebook that lacks it, or has another."""
    for path in notebooks():
        before = path.read_text(encoding="utf-8")
        after = json.dumps(with_cell(json.loads(before)), indent=1, ensure_ascii=False) + "\n"
        if after != before:
            with replacing(path) as part:
                part.write_text(after, encoding="utf-8")
            print(path.relative_to(KIT))


if __name__ == "__main__":
    tyro.cli(main)
