"""Explorers that work without Python: every state is drawn beforehand, by the explorer itself.

A page shows ordinary controls (sliders, boxes, lists) for mouse, finger and keyboard. Each of their
positions has its picture and caption. `EXPLORERS` says which values of each control are drawn.
"""

import ast
import hashlib
import io
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets  # type: ignore[import-untyped]
import joblib
from PIL import Image

import mamlpp
from mamlpp.files import replacing
from mamlpp.show import recorded, widgets
from mamlpp.show.widgets import Explorer

PACKAGE = Path(mamlpp.__file__).parent
FOLDER = Path(__file__).resolve().parents[1] / "build" / "explorers"
COLOURS = 32  # of a picture's palette: enough for lines, bars and bands

Values = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Frozen:
    """How an explorer is made, and the values of each control that a page offers."""

    make: Callable[[], Explorer]
    values: Values


def _replay() -> Explorer:
    cures = mamlpp.load_result("cures")
    runs = [cures.select(recipe=name, outer_rate=0.03) for name in ("maml", "maml++")]
    return recorded.replay([run for several in runs for run in several])


BOTH = (False, True)
FRAMES = range(recorded.FRAMES, -1, -4)[::-1]  # of the recorded training

# fmt: off
EXPLORERS = {
    "graph_explorer()": Frozen(
        widgets.graph_explorer,
        {"steps": range(1, 9), "msl": BOTH, "second_order": BOTH, "per_step": BOTH},
    ),
    "LivePanel.replay(": Frozen(_replay, {"step": FRAMES}),
    "landscape_explorer()": Frozen(
        widgets.landscape_explorer,
        {"theta1": (-2, 0, 2), "theta2": (-2, 1), "rate": (0.1, 0.2, 0.4), "steps": (3, 8)},
    ),
    "msl_explorer()": Frozen(
        widgets.msl_explorer,
        {"steps": (3, 5, 8), "msl_epochs": (5, 15, 30), "floor": (0,), "epoch": range(0, 31, 5)},
    ),
    "order_explorer()": Frozen(
        widgets.order_explorer,
        {"switch": range(0, 101, 25), "never": BOTH, "steps": (1, 3, 5, 10)},
    ),
    "batch_norm_explorer()": Frozen(
        widgets.batch_norm_explorer,
        {"statistics": range(3), "block": (1, 2, 4), "feature": (7,), "step": range(6)},
    ),
    "rates_explorer()": Frozen(
        widgets.rates_explorer,
        {"snapshot": range(0, 31, 5), "rule": range(2)},
    ),
    "cosine_explorer()": Frozen(
        widgets.cosine_explorer,
        {
            "maximum": (1e-3,), "minimum": (1e-5,), "epochs": (50, 150, 300),
            "epoch": range(0, 451, 75), "bounded": BOTH,
        },
    ),
}  # by the call in a chapter; the values of a list are its positions
# fmt: on


def find(source: str) -> str | None:
    """Return the name of the explorer that a cell makes, or None."""
    return next((name for name in EXPLORERS if name in source), None)


def freeze(name: str, folder: Path) -> None:
    """Draw every state of the explorer `name` into `folder`, with `states.json` beside them.

    What was drawn by the same code, from the same results, is kept.
    """
    if _is_drawn(name, folder):
        return
    folder.mkdir(parents=True, exist_ok=True)
    explorer = EXPLORERS[name].make()
    controls = [
        _control(control, EXPLORERS[name].values[key]) for key, control in explorer.controls.items()
    ]
    combinations = itertools.product(*(control["values"] for control in controls))
    captions = [
        _draw(explorer, chosen, folder / f"{number}.webp")
        for number, chosen in enumerate(combinations)
    ]
    for control in controls:
        del control["values"]
    about = {"digest": _digest(name), "controls": controls, "captions": captions}
    with replacing(folder / "states.json") as part:
        part.write_text(json.dumps(about, ensure_ascii=False), encoding="utf-8")


def freeze_all() -> None:
    """Draw the states of every explorer, each into its own folder in `FOLDER`, on two cores."""
    folders = {name: FOLDER / slug(name) for name in EXPLORERS}
    jobs = [joblib.delayed(freeze)(*each) for each in folders.items() if not _is_drawn(*each)]
    if jobs:  # Even without any, two processes would start and import the kit.
        joblib.Parallel(n_jobs=2)(jobs)


def _is_drawn(name: str, folder: Path) -> bool:
    """Whether the folder holds the states that this kit would draw."""
    states = folder / "states.json"
    found = json.loads(states.read_text(encoding="utf-8")) if states.exists() else {}
    return found.get("digest") == _digest(name)


def slug(name: str) -> str:
    """Return the name of an explorer's folder."""
    return re.sub(r"\W+", "-", name).strip("-")


def _draw(explorer: Explorer, values: Sequence[Any], path: Path) -> str:
    for control, value in zip(explorer.controls.values(), values, strict=True):
        control.value = value  # the explorer is not displayed, so this draws nothing yet
    png, caption = explorer.picture()
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture = picture.quantize(COLOURS, dither=Image.Dither.NONE).convert("RGB")
    picture.save(path, lossless=True, quality=80, method=4)
    return caption


def _control(control: ipywidgets.Widget, wanted: Sequence[Any]) -> dict[str, Any]:
    """Return a control's name, kind and values, the words for them, and its first position.

    Raises ValueError where the explorer's own first value is not among those `wanted`.
    """
    if isinstance(control, ipywidgets.Checkbox):
        kind, values, words = "box", list(wanted), [("no", "yes")[value] for value in wanted]
    elif hasattr(control, "options"):
        pairs = [each if isinstance(each, tuple) else (each, each) for each in control.options]
        kind = "list" if isinstance(control, ipywidgets.Dropdown) else "slider"
        chosen = [pairs[position] for position in wanted]
        words, values = [word for word, _ in chosen], [value for _, value in chosen]
    else:
        kind, values, words = "slider", list(wanted), [f"{value:g}" for value in wanted]
    return {
        "name": control.description, "kind": kind, "values": list(values),
        "words": [str(word) for word in words], "start": list(values).index(control.value),
    }  # fmt: skip


@cache
def kit_digest() -> str:
    """Of what the chapters show: recorded results, and the package without its docstrings."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(ast.dump(_without_docstrings(path.read_text(encoding="utf-8"))).encode())
    for path in sorted((PACKAGE.parent / "results").rglob("*.*")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _without_docstrings(source: str) -> ast.Module:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        match node:
            case ast.Module() | ast.ClassDef() | ast.FunctionDef() if ast.get_docstring(node):
                del node.body[0]
    return tree


def _digest(name: str) -> str:
    own = f"{kit_digest()} {COLOURS} {EXPLORERS[name].values}"
    return hashlib.sha256(own.encode()).hexdigest()


# The page


def as_html(name: str, folder: Path, url: str) -> str:
    """Return the controls and the first picture; `url` leads from the page to `folder`."""
    about = json.loads((folder / "states.json").read_text(encoding="utf-8"))
    first = 0
    for control in about["controls"]:
        first = first * len(control["words"]) + control["start"]
    caption = about["captions"][first]
    captions = json.dumps(about["captions"], ensure_ascii=False).replace("<", "\\u003c")
    return (
        f'<div class="explorer" data-url="{url}">'
        f'<div class="explorer-controls">{"".join(map(_control_html, about["controls"]))}</div>'
        f'<img src="{url}/{first}.webp" alt="{escape(caption)}">'
        f'<span class="explorer-words" role="status"></span>'
        f'<script type="application/json">{captions}</script></div>'
    )


def _control_html(control: Mapping[str, Any]) -> str:
    name, words, start = escape(control["name"]), control["words"], control["start"]
    if len(words) == 1:
        return f"<span>{name}: {words[0]}</span>"
    if control["kind"] == "box":
        checked = " checked" if start else ""
        return f'<label><input type="checkbox" data-count="2"{checked}> {name}</label>'
    if control["kind"] == "list":
        options = "".join(
            f"<option{' selected' if number == start else ''}>{escape(word)}</option>"
            for number, word in enumerate(words)
        )
        return f'<label>{name} <select data-count="{len(words)}">{options}</select></label>'
    # An <output> in a label would take the label's words, and the slider would have no name.
    value = f'<span class="explorer-value" aria-hidden="true">{words[start]}</span>'
    return (
        f'<label>{name} {value}<input type="range" min="0" '
        f'max="{len(words) - 1}" value="{start}" data-count="{len(words)}" '
        f'data-words="{escape(json.dumps(words))}" aria-valuetext="{words[start]}"></label>'
    )
