"""Me against the network: the reader classifies the queries of a task, then the network does.

    game = Duel(task, learner)
    game                       # a cell of its own: play with mouse or keyboard
    game.plot()                # the next one: all answers, and the scores side by side

The drawings come in a random order. The network answers twice: with its initial weights, which have
not seen the support set, and after adaptation to it.
"""

from html import escape
from typing import Any

import ipywidgets  # type: ignore[import-untyped]
import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from mamlpp.learner import MetaLearner
from mamlpp.maml import Task
from mamlpp.show.html import as_image, show_widget, status
from mamlpp.show.plots import plot_image, use_style

DRAWINGS = 10
RIGHT, WRONG, NONE = "#029e73", "#d55e00", "#cccccc"


class Duel:
    """A game on one task: `answers` holds what the reader has said so far."""

    def __init__(self, task: Task, learner: MetaLearner, seed: int = 0) -> None:
        draw = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(task.query_y), generator=draw)[:DRAWINGS]
        self.task, self.images, self.truth = task, task.query_x[order], task.query_y[order].tolist()
        self.answers: list[int] = []
        self.network = {
            name: self._says(learner, steps)
            for name, steps in {"network before": 0, "network after": None}.items()
        }
        self.ways = int(task.support_y.max()) + 1
        self._query, self._said = ipywidgets.HTML(), ipywidgets.HTML()
        buttons = [self._button(label) for label in range(self.ways)]
        again = ipywidgets.Button(description="start again", layout={"width": "auto"})
        again.on_click(lambda _: self.restart())
        support = ipywidgets.HTML(as_image(_sheet(*_support(task)), "one drawing of each class"))
        self.buttons = buttons
        row = ipywidgets.Box([*buttons, again], layout={"flex_flow": "row wrap", "display": "flex"})
        self.box = ipywidgets.VBox([support, self._query, row, self._said])
        self._show()

    def answer(self, label: int) -> None:
        """Say of which class the drawing in sight is, and go on to the next one."""
        if len(self.answers) < len(self.truth):
            self.answers.append(label)
            self._show()

    def restart(self) -> None:
        """Forget the answers."""
        self.answers.clear()
        self._show()

    def scores(self) -> dict[str, int]:
        """How many each has right; "you" is there once all drawings are answered."""
        rows = ({"you": self.answers} if self._over else {}) | self.network
        return {name: _hits(said, self.truth) for name, said in rows.items()}

    def plot(self) -> Figure:
        """Plot the support set, then all drawings, and below each what you and the network said."""
        missing = len(self.truth) - len(self.answers)
        you: list[int | None] = [*self.answers, *[None] * missing]
        rows: dict[str, Any] = {"you": you, **self.network}
        figure = Figure(figsize=(11, 4.4), dpi=90, layout="constrained", facecolor="white")
        parts: Any = figure.subfigures(2, 1, height_ratios=[1, 2])
        above, below = parts
        axes: Any = below.subplots(2, len(self.truth), height_ratios=[1, 1.25])
        for image, ax, truth in zip(self.images, axes[0], self.truth, strict=True):
            plot_image(image, ax).set_title(f"class {truth}", fontsize=9)
        for column, ax in enumerate(axes[1]):
            ax.set(xlim=(0, 1), ylim=(len(rows), 0))
            ax.set_axis_off()
            for row, said in enumerate(rows.values()):
                _write_answer(said[column], self.truth[column], row, ax)
        for row, name in enumerate(rows):
            axes[1][0].text(-0.2, row + 0.5, name, ha="right", va="center", fontsize=10)
        learned, titles = _support(self.task)
        _draw_sheet(learned, [f"support: {title}" for title in titles], above)
        figure.suptitle(self.summary(), fontsize=11)
        return figure

    def summary(self) -> str:
        """The scores in one line."""
        told = [f"{name}: {hits} of {len(self.truth)}" for name, hits in self.scores().items()]
        return "   ".join(([] if self._over else ["you: not played to the end"]) + told)

    def _says(self, learner: MetaLearner, steps: int | None) -> list[int]:
        classify = learner.adapt(self.task.support_x, self.task.support_y, steps)
        return classify(self.images).argmax(-1).tolist()

    @property
    def _over(self) -> bool:
        return len(self.answers) == len(self.truth)

    def _button(self, label: int) -> ipywidgets.Button:
        button = ipywidgets.Button(description=f"class {label}", layout={"width": "90px"})
        button.on_click(lambda _: self.answer(label))
        return button

    def _show(self) -> None:
        if self._over:
            self._query.value = ""
            told = f"Finished. {self.summary()}. Run the next cell to see every answer."
        else:
            number = len(self.answers)
            words = f"drawing {number + 1} of {len(self.truth)}"
            self._query.value = as_image(_sheet(self.images[number : number + 1], [words]), words)
            told = f"Which class is {words}? Press its button."
        self._said.value = status(escape(told))

    def _ipython_display_(self) -> None:
        show_widget(self.box, "(a game that works while this notebook is running)")


def _hits(said: list[int], truth: list[int]) -> int:
    return sum(a == b for a, b in zip(said, truth, strict=True))


def _write_answer(said: int | None, truth: int, row: int, ax: Axes) -> None:
    colour = NONE if said is None else RIGHT if said == truth else WRONG
    sign = "–" if said is None else f"{'✓' if said == truth else '✗'} {said}"
    ax.text(0.5, row + 0.5, sign, ha="center", va="center", color=colour, fontsize=12)


def _support(task: Task) -> tuple[Tensor, list[str]]:
    """The first support drawing of each class, in the order of the labels, and their titles."""
    labels = range(int(task.support_y.max()) + 1)
    first = [int((task.support_y == label).nonzero()[0]) for label in labels]
    return task.support_x[first], [f"class {label}" for label in labels]


def _sheet(images: Tensor, titles: list[str]) -> Figure:
    with matplotlib.rc_context():
        use_style()
        figure = Figure(figsize=(1.15 * len(images) + 0.3, 1.5), dpi=90, layout="constrained")
        _draw_sheet(images, titles, figure)
    return figure


def _draw_sheet(images: Tensor, titles: list[str], figure: Any) -> None:
    """Draw a row of images with titles into a figure or a part of one."""
    row = figure.subplots(1, len(images), squeeze=False)[0]
    for ax, image, title in zip(row, images, titles, strict=True):
        plot_image(image, ax).set_title(title, fontsize=10)
