"""Draw your own alphabet: five characters once, one of them again, and the network names it.

    alphabet = Alphabet()
    alphabet              # a cell of its own: draw by mouse, finger or keyboard, press the button
    alphabet.plot()       # the next one: what the network saw, and what it said after each step
    alphabet.plot(scans("my_alphabet"))    # the same for drawings on paper

The network is the one of `ready.py`, so nothing has to be trained first. Drawings stay in the
notebook's memory. Where nobody has drawn, built-in letters are shown instead, and the figure says
so.
"""

from html import escape
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets  # type: ignore[import-untyped]
import matplotlib
import numpy as np
import torch
import traitlets
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from torch import Tensor

from mamlpp.data import load_images
from mamlpp.data.own import image_folder
from mamlpp.data.tasks import TaskSampler
from mamlpp.errors import InputError
from mamlpp.learner import MetaLearner
from mamlpp.naming import counted
from mamlpp.show.html import as_image, show_widget, status
from mamlpp.show.plots import plot_image, use_style
from mamlpp.show.ready import ready_learner

Stroke = list[tuple[float, float]]  # points (x, y) in 0 … 1
WAYS = 5
PAPER, LINE, SIZE = 105, 3, 28  # of an Omniglot drawing, and what it is scaled down to
FILLED = 18 / 28  # the longer side of a median Omniglot character, as a share of its paper
NAMES = "ABCDE"


def render(strokes: list[Stroke]) -> Tensor:
    """Strokes as an image `[1, 28, 28]` like Omniglot's: centred, of a common size and line width.

    Raises `InputError` where there is no stroke.
    """
    points = np.array([point for stroke in strokes for point in stroke], dtype=float).reshape(-1, 2)
    if not len(points):
        raise InputError("there is nothing drawn here; draw a character first")
    low, high = points.min(0), points.max(0)
    scale = FILLED * PAPER / max((high - low).max(), 0.1)  # a dot stays a dot
    sheet = Image.new("L", (PAPER, PAPER))
    pen, half = ImageDraw.Draw(sheet), LINE / 2
    for stroke in strokes:
        placed = [tuple((np.array(p) - (low + high) / 2) * scale + PAPER / 2) for p in stroke]
        pen.line(placed, fill=255, width=LINE, joint="curve")
        for x, y in placed:
            pen.ellipse((x - half, y - half, x + half, y + half), fill=255)
    small = sheet.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(small).copy()).float().unsqueeze(0) / 255


def scans(folder: Path | str) -> tuple[Tensor, Tensor]:
    """Five characters drawn on paper, as support `[5, 1, 28, 28]` and query `[1, 1, 28, 28]`.

    `folder` has a folder for each, of pictures with dark ink on light paper. The first picture of
    each character is to be learned; the second one of the first that has two is to be named. Raises
    `InputError` where there are not five, or none has a second picture.
    """
    found = image_folder(folder, "test", size=PAPER, channels=1, splits=(0, 0, 1))
    counts = [found.samples] * len(found) if found.counts is None else found.counts.tolist()
    twice = [number for number, count in enumerate(counts) if count > 1]
    if len(found) != WAYS or not twice:
        raise InputError(
            f"{folder} should have {WAYS} folders, one for each character, with a picture in each "
            f"and a second one in one of them"
        )
    every = [*found.images[:, 0], found.images[twice[0], 1]]
    centred = torch.stack([_centred(255 - picture[0]) for picture in every])
    return centred[:WAYS], centred[WAYS:]


def _centred(ink: Tensor) -> Tensor:
    """Ink `[H, W]` in 0 … 255 as an image `[1, 28, 28]` of the size that `render` gives it."""
    scan = Image.fromarray(ink.numpy())
    inked = scan.point([255 * (value > 100) for value in range(256)])
    cropped = scan.crop(inked.getbbox() or (0, 0, *scan.size))
    longer = max(cropped.size)
    width, height = (max(1, round(FILLED * SIZE * side / longer)) for side in cropped.size)
    sheet = Image.new("L", (SIZE, SIZE))
    small = cropped.resize((width, height), Image.Resampling.LANCZOS)
    sheet.paste(small, ((SIZE - width) // 2, (SIZE - height) // 2))
    return torch.from_numpy(np.asarray(sheet).copy()).float().unsqueeze(0) / 255


class Pads(anywidget.AnyWidget):
    """A row of pads to draw on; `drawings` holds the strokes of each."""

    _esm = Path(__file__).with_name("canvas.js")
    titles = traitlets.List(traitlets.Unicode()).tag(sync=True)
    drawings: traitlets.List = traitlets.List().tag(sync=True)


class Alphabet:
    """Five characters, each drawn once, and one drawing more that the network is to name."""

    def __init__(self, learner: MetaLearner | None = None) -> None:
        self.learner, self.made_by = (learner, "") if learner else ready_learner()
        titles = [*(f"character {name}" for name in NAMES), "one of them again"]
        self.pads = Pads(titles=titles, drawings=[[] for _ in titles])
        button = ipywidgets.Button(description="learn and name it", layout={"width": "180px"})
        button.on_click(lambda _: self.name_it())
        self.button, self._result = button, ipywidgets.HTML()
        self.box = ipywidgets.VBox([self.pads, button, self._result])

    def images(self) -> tuple[Tensor, Tensor]:
        """The drawings as support `[5, 1, 28, 28]` and query `[1, 1, 28, 28]`.

        Raises `InputError` that names the pads on which nothing is drawn.
        """
        empty = [t for t, d in zip(self.pads.titles, self.pads.drawings, strict=True) if not d]
        if empty:
            raise InputError(f"still to draw: {', '.join(empty)}")
        every = torch.stack([render(strokes) for strokes in self.pads.drawings])
        return every[:WAYS], every[WAYS:]

    def probabilities(self, support_x: Tensor, query_x: Tensor) -> Tensor:
        """How likely the query is to be each character, after 0 … S inner steps: `[S + 1, 5]`."""
        labels, steps = torch.arange(WAYS), range(self.learner.recipe.inner_steps + 1)
        said = [
            self.learner.adapt(support_x, labels, step)(query_x)[0].softmax(-1) for step in steps
        ]
        return torch.stack(said)

    def name_it(self) -> None:
        """Adapt to the drawings, and show what the network says after each step."""
        try:
            figure = self.plot(drawn=self.images())
        except InputError as error:
            self._result.value = status(escape(str(error)))
            return
        title = figure.get_suptitle()
        self._result.value = status(as_image(figure, title))

    def plot(self, drawn: tuple[Tensor, Tensor] | None = None) -> Figure:
        """Plot what the network saw, and how sure it is of each character after each step."""
        words = ""
        if drawn is None:
            try:
                drawn = self.images()
            except InputError:
                drawn, words = _example(), "You drew nothing, so these are built-in letters. "
        said = self.probabilities(*drawn)
        name, sure = NAMES[int(said[-1].argmax())], 100 * said[-1].max().item()
        with matplotlib.rc_context():
            use_style()
            figure = _draw(*drawn, said)
        figure.suptitle(
            f"{words}After {counted(len(said) - 1, 'step')} the network says {name}, "
            f"{sure:.0f} % sure"
        )
        return figure

    def _ipython_display_(self) -> None:
        show_widget(self.box, "(pads to draw on, which work while this notebook is running)")


def _example() -> tuple[Tensor, Tensor]:
    [task] = TaskSampler(load_images("glyphs", "test"), WAYS, 1, 1, seed=0).sample(1)
    return task.support_x, task.query_x[2:3]


def _draw(support_x: Tensor, query_x: Tensor, said: Tensor) -> Figure:
    figure = Figure(figsize=(10.5, 3.6), dpi=90, layout="constrained", facecolor="white")
    parts: Any = figure.subfigures(2, 1, height_ratios=[1, 1.5])
    above, below = parts
    titles = [*NAMES, "which one?"]
    for ax, image, title in zip(
        above.subplots(1, WAYS + 1), [*support_x, *query_x], titles, strict=True
    ):
        plot_image(image, ax).set_title(title, fontsize=11)
    for step, (ax, row) in enumerate(
        zip(below.subplots(1, len(said), sharey=True), said.tolist(), strict=True)
    ):
        best = row.index(max(row))
        colours = ["#0173b2" if i == best else "#b0b0b0" for i in range(WAYS)]
        ax.bar(list(NAMES), [100 * p for p in row], color=colours)
        ax.set(title=f"after {counted(step, 'step')}", ylim=(0, 100))
        if not step:
            ax.set_ylabel("how sure, %\n(blue: its answer)")
        ax.title.set_fontsize(11)
    return figure
