"""How a training stands, as a picture (PNG) and in words; drawn on whatever thread asks."""

import io
import math
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from statistics import median
from threading import Lock
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from mamlpp.run.trainer import Trainer
from mamlpp.show import schedule_plots
from mamlpp.show.plots import (
    mark_changes,
    plot_gradient_heatmap,
    plot_gradient_norms,
    plot_training,
)

Pixels = NDArray[np.uint8]  # [height, width, 4]

Draw = Callable[[Trainer, Figure], None]

drawing = Lock()  # To hold: matplotlib's parser of formulas is one for all threads.
DPI = 90
RECENT = 20  # meta-steps that the speed is the median of


class FourPanels:
    """Curves, norms, heat map and schedules of one training.

    Of a panel that shows what it showed before, the pixels are kept: to draw takes long.
    """

    def __init__(self) -> None:
        self._drawn: dict[Draw, tuple[Hashable, Pixels]] = {}

    def draw(self, trainer: Trainer) -> Pixels:
        """How things stand. One thread at a time."""
        curves = len(trainer.history.rows), len(trainer.changes.rows)
        epoch = round(100 * trainer.epoch / trainer.recipe.epochs)
        panels = [
            self._panel(_draw_training, trainer, curves),
            self._panel(_draw_norms, trainer, curves),
            self._panel(_draw_diagnosis, trainer, id(trainer.diagnosis)),
            self._panel(_draw_schedules, trainer, (epoch, trainer.recipe)),
        ]
        return np.vstack([np.hstack(panels[:2]), np.hstack(panels[2:])])

    def _panel(self, draw: Draw, trainer: Trainer, shown: Hashable) -> Pixels:
        key = id(trainer), shown
        if self._drawn.get(draw, (None,))[0] != key:
            figure = _canvas(5, 3.2)
            draw(trainer, figure)
            self._drawn[draw] = key, _pixels(figure)
        return self._drawn[draw][1]


class SideBySide:
    """Accuracy and gradient norm of several trainings, one a column, on the same axes."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def draw(self, trainers: Sequence[Trainer]) -> Pixels:
        """How things stand. One thread at a time."""
        figure = _canvas(10, 5)
        margins = {"left": 0.07, "right": 0.98, "top": 0.94, "bottom": 0.1, "wspace": 0.08}
        axes = np.array(_axes(figure, 2, len(trainers), sharey="row", gridspec_kw=margins))
        columns = axes.reshape(2, -1).T
        for name, trainer, (accuracy, norms) in zip(self.names, trainers, columns, strict=True):
            plot_training(trainer.history, accuracy)
            plot_gradient_norms(trainer.history, norms, trainer.recipe.clip_norm)
            accuracy.set(title=name, xlabel="", ylim=(0, 1))
            for ax in (accuracy, norms):
                mark_changes(trainer.changes, ax)
                ax.set_xlim(0, max(1, *(trainer.iteration for trainer in trainers)))
        for ax in columns[1:].flat:
            ax.set_ylabel("")
        return _pixels(figure)


_MARGINS: dict[str, Any] = {"left": 0.14, "right": 0.96, "top": 0.9, "bottom": 0.16}


def _canvas(width: float, height: float) -> Figure:
    """A figure of its own, not pyplot's: that belongs to the main thread. In inches."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _pixels(figure: Figure) -> Pixels:
    """`[height, width, 4]`, with small letters at fixed places: to find places would take long."""
    for ax in figure.axes:
        width, height = ax.get_position().size * figure.get_size_inches()
        ax.tick_params(which="both", labelsize=8)
        ax.set_title(ax.get_title(), loc="left", fontsize=10, y=1 + 0.06 / height)
        ax.set_title("", y=1)
        ax.set_xlabel(ax.get_xlabel(), fontsize=9)
        ax.set_ylabel(ax.get_ylabel(), fontsize=9)
        if ax.get_label() != "<colorbar>":
            ax.xaxis.set_label_coords(0.5, -0.3 / height)
            ax.yaxis.set_label_coords(-0.46 / width, 0.5)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def png(pixels: Pixels) -> bytes:
    """As a file, quickly packed."""
    file = io.BytesIO()
    Image.fromarray(pixels).convert("RGB").save(file, format="png", compress_level=1)
    return file.getvalue()


def _axes(figure: Figure, rows: int = 1, columns: int = 1, **options: Any) -> list[Axes]:
    """Axes in the kit's style. Set on them, because rcParams belong to all threads at once."""
    grid = {**_MARGINS, "hspace": 0.12, **options.pop("gridspec_kw", {})}
    axes = figure.subplots(rows, columns, squeeze=False, sharex="col", gridspec_kw=grid, **options)
    for ax in axes.flat:
        ax.grid(True, color="#dddddd")
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    return list(axes.flat)


def _draw_training(trainer: Trainer, figure: Figure) -> None:
    loss, accuracy = _axes(figure, 2)
    for ax, column in ((loss, "loss"), (accuracy, "accuracy")):
        plot_training(trainer.history, ax, column)
        mark_changes(trainer.changes, ax)
    loss.set(xlabel="", title="Loss and accuracy")
    loss.legend().remove()
    accuracy.set_ylim(0, 1)


def _draw_norms(trainer: Trainer, figure: Figure) -> None:
    [ax] = _axes(figure)
    plot_gradient_norms(trainer.history, ax, trainer.recipe.clip_norm)
    mark_changes(trainer.changes, ax, words=True)
    ax.set(title="Norm of the meta-gradient (log axis)", ylabel="")


def _draw_diagnosis(trainer: Trainer, figure: Figure) -> None:
    [ax] = _axes(figure)
    if trainer.diagnosis is None:
        ax.text(0.5, 0.5, "no gradient followed back yet", ha="center", transform=ax.transAxes)
        ax.set_axis_off()
        return
    plot_gradient_heatmap(trainer.diagnosis, ax)
    ax.set_title(f"Gradient along the inner loop, at epoch {trainer.diagnosis.epoch:.2f}")


def _draw_schedules(trainer: Trainer, figure: Figure) -> None:
    losses, rate = _axes(figure, 2, gridspec_kw={"hspace": 0.3})
    recipe = trainer.recipe
    schedule_plots.plot_step_weights(recipe, losses, recipe.epochs)
    losses.set(xlabel="", ylabel="loss weight", title="Schedules in force")
    schedule_plots.plot_order(recipe, rate)
    schedule_plots.plot_outer_rate(recipe, rate, recipe.epochs)
    rate.set_ylabel("meta rate β")
    rate.ticklabel_format(axis="y", scilimits=(0, 0))
    rate.yaxis.offsetText.set_fontsize(8)
    rate.legend(loc="lower left", fontsize=8)
    for ax in (losses, rate):
        ax.axvline(trainer.epoch, color="#d62728", linewidth=2)


# Words


def status(trainer: Trainer) -> str:
    """Iteration, epoch, speed, time left, order, steps that were not finite, device and memory."""
    recipe, rows = trainer.recipe, trainer.history.rows
    total = recipe.epochs * recipe.iterations_per_epoch
    order = "second" if trainer.learner.schedule(trainer.epoch)[1] else "first"
    bad = len(trainer.history.column("nonfinite"))
    words = [
        f"iteration {trainer.iteration} of {total}, epoch {trainer.epoch:.1f} of {recipe.epochs}",
        *_speed(trainer, total - trainer.iteration),
        f"{order} order",
        f"{bad or 'no'} step{'' if bad == 1 else 's'} not finite",
        _device(trainer.train.device, rows[-1]["memory_mb"] if rows else None),
    ]
    return "; ".join(words)


def _speed(trainer: Trainer, left: int) -> list[str]:
    recent = [row["seconds"] for row in trainer.history.rows[-RECENT:]]
    if not recent or not left:
        return []
    seconds = median(recent)
    rate = trainer.recipe.meta_batch / max(seconds, 1e-9)
    return [f"{rate:.3g} tasks a second", f"about {_duration(seconds * left)} left"]


def _duration(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{math.ceil(seconds)} s"


def _device(device: torch.device, memory: float | None) -> str:
    words = ["CPU" if device.type == "cpu" else torch.cuda.get_device_name(device)]
    words += [f"{memory:.0f} MB"] if memory else []
    if device.type == "cuda":
        with suppress(Exception):  # Only where NVML is there (the package nvidia-ml-py), and works.
            words.append(f"{torch.cuda.utilization(device)} % busy")
            words.append(f"{torch.cuda.device_memory_used(device) / 1e6:.0f} MB in use on it")
    return ", ".join(words)
