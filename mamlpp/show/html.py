"""What several widgets show, and how: pictures and messages in HTML, text without widgets."""

import base64
import io
from html import escape

import ipywidgets  # type: ignore[import-untyped]
from IPython.display import display
from matplotlib.figure import Figure


def show_widget(box: ipywidgets.Widget, text: str) -> None:
    """Display a widget; where there are no widgets, as in an executed notebook, the text."""
    bundle = box._repr_mimebundle_()
    bundle["text/plain"] = text
    display(bundle, raw=True)


def as_image(figure: Figure, alt: str) -> str:
    """A figure as an `<img>`, with words for those who do not see it."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    encoded = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{encoded}">'


def status(html: str) -> str:
    """Text that a screen reader reads aloud when it changes."""
    return f'<div role="status" style="max-width: 46em; line-height: 1.5">{html}</div>'
