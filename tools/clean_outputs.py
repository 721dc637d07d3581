"""Take out of an executed notebook what nobody wants to read in it.

`clean(notebook)` changes the outputs alone: progress bars, warnings and other text on stderr go;
so do memory addresses and the paths of this machine. A widget, which is dead in a stored notebook,
becomes the pictures that were in it and a sentence that names its controls.
"""

import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from nbformat import NotebookNode
from nbformat.v4 import new_output

KIT = Path(__file__).resolve().parents[1]
WIDGET = "application/vnd.jupyter.widget-view+json"
WIDGET_STATES = "application/vnd.jupyter.widget-state+json"

ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
ANSI_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
OVERWRITTEN = re.compile(r"[^\n]*\r(?!\n)")  # what a bar wrote before it went back to the margin
NO_WORDS = re.compile(r"\w+\(|\(controls ")  # how a widget without words of its own prints
PROGRESS = re.compile(r"\d+%\|.*\|")
OTHERS_PATH = re.compile(
    r"(?<![\w.~/:])/(?:home|root|work|Users)/[^\s'\":,;)\]]*|\b[A-Za-z]:\\[^\s'\"]*"
)

Output = NotebookNode


def clean(notebook: NotebookNode) -> NotebookNode:
    """Clean every output of `notebook`, in place, and return it."""
    states = _states(notebook)
    for key in [key for key in notebook.metadata if key not in ("kernelspec", "language_info")]:
        del notebook.metadata[key]
    notebook.cells = [c for c in notebook.cells if "injected-parameters" not in _tags(c)]
    for cell in notebook.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            outputs = [new for old in cell.outputs for new in _clean_output(old, states)]
            cell.outputs = outputs
    return notebook


def drop_bars(notebook: NotebookNode) -> None:
    """Take the progress bars alone out of `notebook`, in place: stored, they stand still."""
    states = _states(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_bar(output, states)]


def _states(notebook: NotebookNode) -> dict[str, Any]:
    return notebook.metadata.get("widgets", {}).get(WIDGET_STATES, {}).get("state", {})


def _is_bar(output: Output, states: dict[str, Any]) -> bool:
    if WIDGET not in output.get("data", {}):
        return False
    family = _family(output.data[WIDGET]["model_id"], states)
    words = output.data.get("text/plain", "")
    kinds = {states[each]["model_name"] for each in family}
    return "FloatProgressModel" in kinds or bool(PROGRESS.search(words))


def _tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def _clean_output(output: Output, states: dict[str, Any]) -> list[Output]:
    """Return what stays of an output: nothing, the same, or what was in a widget."""
    if output.output_type == "stream":
        text = clean_text(output.text) if output.name == "stdout" else ""
        return [new_output("stream", name="stdout", text=text)] if text.strip() else []
    if output.output_type == "error":
        output.traceback = [clean_text(line) for line in output.traceback]
        return [output]
    if WIDGET in output.data:
        return _unfold(output, states)
    for kind in ("text/plain", "text/html", "text/markdown"):
        if kind in output.data:
            output.data[kind] = clean_text(output.data[kind])
    return [output]


def clean_text(text: str) -> str:
    """Return `text` without overwritten lines, colours, addresses and paths of this machine."""
    text = OVERWRITTEN.sub("", ANSI_COLOUR.sub("", text))
    lines = [line for line in text.splitlines(keepends=True) if not PROGRESS.search(line)]
    text = ADDRESS.sub("", "".join(lines))
    for folder, name in _folders().items():
        text = text.replace(folder, name)
    return OTHERS_PATH.sub("…", text)


def _folders() -> dict[str, str]:
    """Folders of this machine, the longest first, and what stands for them."""
    known = {
        KIT: ".",
        Path(sys.prefix): ".venv",
        Path.home(): "~",
        Path(tempfile.gettempdir()): "…",
    }
    return {str(path): known[path] for path in sorted(known, key=lambda p: -len(str(p)))}


# Widgets


def _unfold(output: Output, states: dict[str, Any]) -> list[Output]:
    """Return the pictures that a widget shows, and its own words or the names of its controls."""
    family = list(_family(output.data[WIDGET]["model_id"], states))
    plain = output.data.get("text/plain", "")
    if _is_bar(output, states):
        return []
    inside = [
        NotebookNode(output)
        for each in family
        for output in states[each]["state"].get("outputs", [])
    ]
    if plain and not NO_WORDS.match(plain):
        return [new_output("stream", name="stdout", text=clean_text(plain) + "\n")]
    names = [states[each]["state"].get("description", "") for each in family]
    names = list(dict.fromkeys(name.strip() for name in names if name.strip()))
    if not names:
        return _settled(inside, states)
    sentence = f"In the running notebook, these controls change the picture: {', '.join(names)}."
    words = new_output("display_data", {"text/markdown": f"*{sentence}*", "text/plain": sentence})
    return [words, *_settled(inside, states)]


def _settled(outputs: list[Output], states: dict[str, Any]) -> list[Output]:
    """Clean outputs that were inside a widget; their parts may be plain dictionaries."""
    found = []
    for output in outputs:
        if output.output_type in ("display_data", "execute_result"):
            output = new_output("display_data", output["data"], metadata=output.get("metadata", {}))
        found += _clean_output(output, states)
    return found


def _family(model: str, states: dict[str, Any]) -> Any:
    """Yield a widget's name and those of everything in it."""
    if model not in states:
        return
    yield model
    for child in states[model]["state"].get("children", []):
        yield from _family(child.removeprefix("IPY_MODEL_"), states)
