"""The pages: text of students goes into them escaped, and the browser is told to run no script.

A page holds nothing that another machine has: it can be read, printed and sent without a network.
"""

import base64
import binascii
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from nbformat import NotebookNode
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from classroom.reasons import ANSI_COLOUR, sentence
from classroom.rules import Result
from classroom.sets import ExerciseSet, exercises_of
from classroom.versions import cell_name, is_solution, is_test
from mamlpp.files import replacing

# Styles of the page itself, pictures within it, and nothing else.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)
COLOURS = HtmlFormatter(style="default")
MOST_TEXT = 20_000  # characters of one output
MOST_PICTURE = 2_000_000  # characters of one picture
TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def shown(points: float) -> str:
    """Return points as people write them: 2, not 2.0."""
    return f"{points:.2f}".rstrip("0").rstrip(".")


TEMPLATES.filters["points"] = shown


def page(template: str, **values: Any) -> str:
    """Return the page that `template` makes of `values`."""
    colours = Markup(COLOURS.get_style_defs(".code"))
    return TEMPLATES.get_template(template).render(policy=POLICY, colours=colours, **values)


def write(path: Path, text: str) -> None:
    """Write a page, whatever characters a student used."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace")


def refusal(result: Result) -> str:
    """Return the page for a submission that was not run."""
    return page("feedback.html", grade=result.grade, result=result, exercises=[])


def feedback(result: Result, notebook: NotebookNode, exercise_set: ExerciseSet) -> str:
    """Return the page for a student: points and reasons, then what was run, by exercise."""
    made, exercises = result.grade, dict[str, dict[str, Any]]()
    labels = exercises_of(notebook, exercise_set.labels)
    for cell, label in zip(notebook.cells, labels, strict=True):
        if cell.cell_type == "code" and (label in made.points or cell.get("outputs")):
            title = (
                f"{label} {exercise_set.titles.get(label, '')}"
                if label in made.points
                else label or "Before the exercises"
            )
            part = exercises.setdefault(label, {"label": label, "title": title, "cells": []})
            part["cells"].append(cell_of(cell))
    return page("feedback.html", grade=made, result=result, exercises=list(exercises.values()))


def cell_of(cell: NotebookNode) -> dict[str, Any]:
    """Return what a page shows of a cell."""
    kind = "answer" if is_solution(cell) else "test" if is_test(cell) else "other"
    code = Markup(highlight(cell.source, PythonLexer(), HtmlFormatter(nowrap=True)))
    outputs = [found for output in cell.get("outputs", []) if (found := output_of(output))]
    return {"kind": kind, "name": cell_name(cell), "code": code, "outputs": outputs}


def output_of(output: NotebookNode) -> dict[str, str]:
    """Return an output as text or as a picture; what a submission wrote as HTML is left out."""
    if output.output_type == "error":
        text = "\n".join(output.traceback) or sentence([f"{output.ename}: {output.evalue}"])
        return {"kind": "error", "text": cleaned(text)}
    if output.output_type == "stream":
        return {"kind": "text", "text": cleaned(output.get("text", ""))}
    data = output.get("data", {})
    picture = data.get("image/png", "")
    if isinstance(picture, str) and picture and is_png(picture):
        return {"kind": "picture", "text": picture.replace("\n", "")}
    return {"kind": "text", "text": cleaned(str(data.get("text/plain", "")))}


def cleaned(text: str) -> str:
    """Return text without colours, and not too long."""
    text = ANSI_COLOUR.sub("", text)
    return text if len(text) <= MOST_TEXT else text[:MOST_TEXT] + "\n… and more, not shown"


def is_png(data: str) -> bool:
    """Whether `data` is a picture that is not too large."""
    try:
        start = base64.b64decode(data[:64].replace("\n", "")[:60], validate=True)
    except (binascii.Error, ValueError):
        return False
    return start.startswith(b"\x89PNG") and len(data) <= MOST_PICTURE
