"""Predict, then see: a question before a result, and the reader's guess drawn into the figure.

    guess = predict.slider("What accuracy after three steps?", 0, 100, default=50, unit="%")
    …
    predict.plot_guess(guess, ax, x=3, scale=1 / 100)

    guess = predict.choice("Which ends higher?", ["MAML", "neither"], default="MAML")
    print(guess.verdict("MAML"))

Run the cell, answer, and run the next cell. Where nobody answers, as under papermill, the default
is the guess, and the figure says so.
"""

from collections.abc import Sequence
from html import escape
from typing import Any

import ipywidgets  # type: ignore[import-untyped]
from matplotlib.axes import Axes

from mamlpp.errors import InputError
from mamlpp.show.html import show_widget

COLOUR = "#000000"  # of no method


class Guess:
    """What the reader expects: `value` is the guess so far, `made` whether it is the reader's."""

    def __init__(
        self, question: str, control: ipywidgets.Widget, default: Any, unit: str = ""
    ) -> None:
        self.question, self.control, self.default, self.unit = question, control, default, unit
        self.made = False
        control.observe(self._touched, "value")
        title = ipywidgets.HTML(f"<b>Predict:</b> {escape(question)}")
        self.box = ipywidgets.VBox([title, control])

    @property
    def value(self) -> Any:
        """The guess as it stands."""
        return self.control.value if self.made else self.default

    @property
    def label(self) -> str:
        """How a figure names the guess."""
        whose = "your guess" if self.made else "default guess"
        shown = f"{self.value:g}" if isinstance(self.value, float) else f"{self.value}"
        return f"{whose}: {shown}{' ' * bool(self.unit)}{self.unit}"

    def verdict(self, truth: Any) -> str:
        """One sentence that puts the guess beside what came out."""
        if isinstance(self.value, str):
            return f"{self.label}. It is: {truth}{'. Right!' if self.value == truth else ''}"
        return f"{self.label}. It is: {truth:.3g}{' ' * bool(self.unit)}{self.unit}"

    def _touched(self, _: object) -> None:
        self.made = True


def slider(
    question: str, low: float, high: float, *, default: float, unit: str = "", step: float = 1.0
) -> Guess:
    """Ask for a number between `low` and `high`, and display the question.

    Raises `InputError` where the default is not between them.
    """
    if not low <= default <= high:
        raise InputError(
            f"the default guess {default:g} is not in {low:g} … {high:g}; move it there"
        )
    control = ipywidgets.FloatSlider(
        default, min=low, max=high, step=step, description=f"your guess{unit and ', ' + unit}",
        readout_format=".4g", style={"description_width": "initial"}, layout={"width": "480px"},
    )  # fmt: skip
    return _shown(Guess(question, control, default, unit))


def choice(question: str, options: Sequence[str], *, default: str) -> Guess:
    """Ask for one of `options`, and display the question.

    Raises `InputError` where the default is none of them.
    """
    if default not in options:
        raise InputError(f"the default guess {default!r} is none of {', '.join(options)}")
    control = ipywidgets.ToggleButtons(
        options=list(options), value=None, style={"button_width": "auto"}
    )  # not radio buttons: JupyterLab takes the arrow keys away from them
    return _shown(Guess(question, control, default))


def plot_guess(
    guess: Guess, ax: Axes, x: float | None = None, scale: float = 1.0, *, y: float | None = None
) -> Axes:
    """Draw a number that was guessed into a figure whose y axis it belongs to.

    A diamond at `x`, or a dashed line across the figure without one. With `y` the number belongs to
    the x axis, and the diamond is at that height. `scale` turns the slider's unit into the axis's:
    1 / 100 for per cent on an axis of shares.
    """
    number = guess.value * scale
    if x is None and y is None:
        ax.axhline(number, color=COLOUR, linestyle="--", linewidth=1.5, label=guess.label)
    else:
        place = (x, number) if y is None else (number, y)
        ax.plot(*place, "D", color=COLOUR, markersize=9, zorder=5, label=guess.label)
    ax.legend()
    return ax


def _shown(guess: Guess) -> Guess:
    show_widget(guess.box, f"Predict: {guess.question}  [{guess.label}]")
    return guess
