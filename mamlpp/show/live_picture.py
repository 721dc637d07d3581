"""The current state of a training as a PNG and as text; may be drawn on any thread."""

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
from mamlpp.run.training_checks import device_of
from mamlpp.show import schedule_plots
from mamlpp.show.plots import (
    mark_changes,
    plot_gradient_heatmap,
    plot_gradient_norms,
    plot_training,
)

Pixels = NDArray[np.uint8]  # [height, width, 4]

Draw = Callable[[Trainer, Figure], None]

drawing_lock = Lock()  # Hold it to draw: all threads share matplotlib's mathtext parser.
DPI = 90
SPEED_WINDOW = 20  # number of recent meta-steps whose median time gives the speed


class TrainingPicture:
    """Learning curves, gradient norms, gradient heat map and schedules of one training.

    Drawing is slow, so the pixels of each subplot are cached until its data change.
    """

    def __init__(self) -> None:
        self._cache: dict[Draw, tuple[Hashable, Pixels]] = {}

    def draw(self, trainer: Trainer) -> Pixels:
        """Draw the current state; hold `drawing_lock` meanwhile."""
        row_counts = len(trainer.history.rows), len(trainer.changes.rows)
        percent = round(100 * trainer.epoch / trainer.recipe.epochs)
        subplots = [
            self._subplot(_draw_training, trainer, row_counts),
            self._subplot(_draw_norms, trainer, row_counts),
            self._subplot(_draw_diagnosis, trainer, id(trainer.diagnosis)),
            self._subplot(_draw_schedules, trainer, (percent, trainer.recipe)),
        ]
        return np.vstack([np.hstack(subplots[:2]), np.hstack(subplots[2:])])

    def _subplot(self, draw: Draw, trainer: Trainer, version: Hashable) -> Pixels:
        key = id(trainer), version
        if self._cache.get(draw, (None,))[0] != key:
            figure = _make_figure(5, 3.2)
            draw(trainer, figure)
            self._cache[draw] = key, _render(figure)
        return self._cache[draw][1]


class ComparisonPicture:
    """Accuracy and gradient norm of several trainings, one column each, on the same axes.

    Where there are no classes it is the loss.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def draw(self, trainers: Sequence[Trainer]) -> Pixels:
        """Draw the current state; hold `drawing_lock` meanwhile."""
        figure = _make_figure(10, 5)
        margins = {"left": 0.07, "right": 0.98, "top": 0.94, "bottom": 0.1, "wspace": 0.08}
        axes = np.array(_make_axes(figure, 2, len(trainers), sharey="row", gridspec_kw=margins))
        columns = axes.reshape(2, -1).T
        for name, trainer, (upper, norms) in zip(self.names, trainers, columns, strict=True):
            plot_training(trainer.history, upper, "accuracy" if trainer.learner.ways else "loss")
            plot_gradient_norms(trainer.history, norms, trainer.recipe.clip_norm)
            upper.set(title=name, xlabel="")
            if trainer.learner.ways:
                upper.set_ylim(0, 1)
            for ax in (upper, norms):
                mark_changes(trainer.changes, ax)
                ax.set_xlim(0, max(1, *(trainer.iteration for trainer in trainers)))
        for ax in columns[1:].flat:
            ax.set_ylabel("")
        return _render(figure)


_MARGINS: dict[str, Any] = {"left": 0.14, "right": 0.96, "top": 0.9, "bottom": 0.16}


def _make_figure(width: float, height: float) -> Figure:
    """Create a figure, size in inches, without pyplot, which only works on the main thread."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _render(figure: Figure) -> Pixels:
    """Render with small labels at fixed positions, because automatic placement is slow."""
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


def encode_png(pixels: Pixels) -> bytes:
    """Encode as PNG with fast compression."""
    file = io.BytesIO()
    Image.fromarray(pixels).convert("RGB").save(file, format="png", compress_level=1)
    return file.getvalue()


def _make_axes(figure: Figure, rows: int = 1, columns: int = 1, **options: Any) -> list[Axes]:
    """Create axes and style each of them, because all threads share matplotlib's rcParams."""
    grid = {**_MARGINS, "hspace": 0.12, **options.pop("gridspec_kw", {})}
    axes = figure.subplots(rows, columns, squeeze=False, sharex="col", gridspec_kw=grid, **options)
    for ax in axes.flat:
        ax.grid(True, color="#dddddd")
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    return list(axes.flat)


def _draw_training(trainer: Trainer, figure: Figure) -> None:
    columns = ["loss", "accuracy"] if trainer.learner.ways else ["loss"]
    axes = _make_axes(figure, len(columns))
    for ax, column in zip(axes, columns, strict=True):
        plot_training(trainer.history, ax, column)
        mark_changes(trainer.changes, ax)
    axes[0].set_title(" and ".join(columns).capitalize())
    if len(columns) > 1:
        axes[0].set_xlabel("")
        axes[0].legend().remove()
        axes[1].set_ylim(0, 1)


def _draw_norms(trainer: Trainer, figure: Figure) -> None:
    [ax] = _make_axes(figure)
    plot_gradient_norms(trainer.history, ax, trainer.recipe.clip_norm)
    mark_changes(trainer.changes, ax, labels=True)
    ax.set(title="Norm of the meta-gradient (log axis)", ylabel="")


def _draw_diagnosis(trainer: Trainer, figure: Figure) -> None:
    [ax] = _make_axes(figure)
    if trainer.diagnosis is None:
        ax.text(0.5, 0.5, "no gradient diagnosed yet", ha="center", transform=ax.transAxes)
        ax.set_axis_off()
        return
    plot_gradient_heatmap(trainer.diagnosis, ax)
    ax.set_title(f"Gradient after each inner step, at epoch {trainer.diagnosis.epoch:.2f}")


def _draw_schedules(trainer: Trainer, figure: Figure) -> None:
    weights, rate = _make_axes(figure, 2, gridspec_kw={"hspace": 0.3})
    recipe = trainer.recipe
    schedule_plots.plot_step_weights(recipe, weights, recipe.epochs)
    weights.set(xlabel="", ylabel="loss weight", title="Current schedules")
    schedule_plots.plot_order(recipe, rate)
    schedule_plots.plot_outer_rate(recipe, rate, recipe.epochs)
    rate.set_ylabel("outer rate β")
    rate.ticklabel_format(axis="y", scilimits=(0, 0))
    rate.yaxis.offsetText.set_fontsize(8)
    rate.legend(loc="lower left", fontsize=8)
    for ax in (weights, rate):
        ax.axvline(trainer.epoch, color="#d62728", linewidth=2, clip_on=False)


def describe_progress(trainer: Trainer) -> str:
    """Iteration, epoch, speed, time left, derivative order, non-finite steps, device and memory."""
    recipe, rows = trainer.recipe, trainer.history.rows
    total = recipe.epochs * recipe.iterations_per_epoch
    order = "second" if trainer.learner.schedule(trainer.epoch)[1] else "first"
    bad = len(trainer.history.column("nonfinite"))
    parts = [
        f"iteration {trainer.iteration} of {total}, epoch {trainer.epoch:.1f} of {recipe.epochs}",
        *_speed(trainer, total - trainer.iteration),
        f"{order} order",
        f"{bad or 'no'} non-finite step{'' if bad == 1 else 's'}",
        _device(device_of(trainer.train), rows[-1]["memory_mb"] if rows else None),
    ]
    return "; ".join(parts)


def _speed(trainer: Trainer, left: int) -> list[str]:
    recent = [row["seconds"] for row in trainer.history.rows[-SPEED_WINDOW:]]
    if not recent or not left:
        return []
    seconds = median(recent)
    rate = trainer.recipe.meta_batch / max(seconds, 1e-9)
    return [f"{rate:.3g} tasks per second", f"about {_duration(seconds * left)} left"]


def _duration(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{math.ceil(seconds)} s"


def _device(device: torch.device, memory: float | None) -> str:
    parts = ["CPU" if device.type == "cpu" else torch.cuda.get_device_name(device)]
    parts += [f"{memory:.0f} MB"] if memory else []
    if device.type == "cuda":
        with suppress(Exception):  # needs a working NVML (package nvidia-ml-py)
            parts.append(f"{torch.cuda.utilization(device)} % utilisation")
            parts.append(f"{torch.cuda.device_memory_used(device) / 1e6:.0f} MB used on the device")
    return ", ".join(parts)
