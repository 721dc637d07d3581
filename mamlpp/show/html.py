"""What several widgets show, and how: pictures and messages in HTML, text without widgets."""

import base64
import io
from html import escape
from typing import Any

import ipywidgets  # type: ignore[import-untyped]
from IPython.display import display
from matplotlib.figure import Figure

CONTROLS = "(controls that work while this notebook is running)"


def show_widget(box: ipywidgets.Widget, text: str) -> None:
    """Display a widget; where there are no widgets, as in an executed notebook, the text."""
    display(widget_output(box, text), raw=True)


def widget_output(box: ipywidgets.Widget, text: str) -> dict[str, Any]:
    """What shows a widget, or the text: the same for ipywidgets 8 and for 7, which Colab has."""
    view = {"version_major": 2, "version_minor": 0, "model_id": box.model_id}
    return {"application/vnd.jupyter.widget-view+json": view, "text/plain": text}


def as_image(figure: Figure, alt: str) -> str:
    """A figure as an `<img>`, with words for those who do not see it."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    encoded = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{encoded}">'


def status(html: str) -> str:
    """Text that a screen reader reads aloud when it changes."""
    return f'<div role="status" style="max-width: 46em; line-height: 1.5">{html}</div>'
