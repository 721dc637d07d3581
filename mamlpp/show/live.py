"""Training live in a notebook: watch the gradient, turn a knob, see what happens.

    panel = LivePanel(trainer)      # in one cell: shows it, and returns at once
    run = panel.result()            # in a later cell: waits for the end, and returns the run

The training runs on a thread of its own (`mamlpp.run.background`), because a notebook hears no
button while a cell is busy. The picture is a plain PNG output with a light ground of its own: it is
legible in a dark page and stays in the executed notebook. All it costs, looking at the gradient
included, is at most a tenth of the training's time.
"""

import base64
import io
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from html import escape
from statistics import median
from typing import Any
from uuid import uuid4

import ipywidgets  # type: ignore[import-untyped]
import numpy as np
import torch
from IPython.core.getipython import get_ipython
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from mamlpp.errors import InputError
from mamlpp.recipe import RECIPES, Recipe
from mamlpp.run.background import Background
from mamlpp.run.checkpoints import Run
from mamlpp.run.training import Trainer
from mamlpp.show import schedule_plots
from mamlpp.show.plots import (
    change_in_words,
    mark_changes,
    plot_gradient_heatmap,
    plot_gradient_norms,
    plot_training,
)

Pixels = NDArray[np.uint8]  # [height, width, 4]

DRAWING, LOOKING = 0.08, 0.02  # of the training's time: pictures, and following the gradient back
SECONDS = 1.0  # at least, between two pictures
DPI = 90
STAYS = 5.0  # seconds that an answer to a button is to be read
RECENT = 20  # meta-steps that the speed is the median of


class Share:
    """Says when something is due that takes time: so that it takes no more than a `share` of it."""

    def __init__(self, share: float, seconds: float) -> None:
        self.share, self.seconds = share, seconds
        self.next = 0.0

    def due(self) -> bool:
        """Whether it may be done now."""
        return time.monotonic() >= self.next

    def spent(self, seconds: float) -> None:
        """It has just been done, and took so long."""
        pause = max(self.seconds - seconds, seconds * (1 / self.share - 1))
        self.next = time.monotonic() + pause


class Panel:
    """Buttons, a picture of a training, and a line in words: what `LivePanel` and `compare` share.

    `start`, `pause`, `resume` and `stop` are what the buttons do: where one cannot act, the panel
    says why. A panel that ends a cell is shown again there; all that show it are kept up to date.
    """

    def __init__(self, training: Background, seconds: float = SECONDS) -> None:
        self._drawing, self._looking = Share(DRAWING, seconds), Share(LOOKING, seconds)
        self._note = ipywidgets.HTML()
        self._buttons = {
            name: ipywidgets.Button(description=name.capitalize(), layout={"width": "90px"})
            for name in ("start", "pause", "resume", "stop")
        }
        for name, button in self._buttons.items():
            button.on_click(lambda _, name=name: getattr(self, name)())
        self._id = uuid4().hex
        self._shown_at: int | None = None  # number of the cell
        self._said_at = -math.inf
        self._look_every: dict[Trainer, int | None] = {}
        self.box = ipywidgets.VBox([*self._rows(), self._note])
        self._take(training)
        self._ipython_display_()

    # What the buttons do

    def start(self) -> None:
        """Begin; or go on after a stop or an error."""
        self._do(self.training.start)

    def pause(self) -> None:
        """Rest after this meta-step."""
        self._do(self.training.pause)

    def resume(self) -> None:
        """Go on after a pause."""
        self._do(self.training.resume)

    def stop(self) -> None:
        """End after this meta-step, with a checkpoint where there is a folder."""
        self._do(self.training.stop)

    def _do(self, act: Callable[[], None], done: str = "") -> bool:
        """Do it and say what was done, or why not."""
        try:
            act()
        except InputError as error:
            self._say(f"{error}.")
            return False
        self._say(done)
        return True

    def _runs(self) -> list[Run]:
        if self.training.state == "ready":
            self.start()
        return self.training.result()

    # What is shown

    def picture(self) -> tuple[bytes, str]:
        """The PNG of how things stand, and the same in words."""
        return _png(self._draw()), self._words()

    def _rows(self) -> list[ipywidgets.Widget]:
        return [ipywidgets.HBox(list(self._buttons.values()))]

    def _draw(self) -> Pixels:
        raise NotImplementedError

    def _words(self) -> str:
        raise NotImplementedError

    def _take(self, training: Background) -> None:
        """Show this training from now on; what showed it before, says so and stays as it is."""
        before = getattr(training.listener, "__self__", None)
        if before not in (None, self):
            before._say("this training is shown in another panel now.")
        self.training = training
        training.listener = self._listen
        self._say()

    def _ipython_display_(self) -> None:
        shell = get_ipython()
        if shell is None or shell.execution_count == self._shown_at:
            return  # A panel shows itself when it is made: not twice in that cell.
        self._shown_at = shell.execution_count
        controls = self.box._repr_mimebundle_()
        controls["text/plain"] = "(controls, where this notebook is running)"
        display(controls, raw=True)
        self._publish(update=False)

    def _publish(self, update: bool = True) -> None:
        if self._shown_at is None:
            return
        png, words = self.picture()
        image = {"image/png": base64.b64encode(png).decode(), "text/plain": words}
        text = {"text/html": f"<p>{escape(words)}</p>", "text/plain": words}
        for name, data, about in (
            ("picture", image, {"image/png": {"alt": words}}),
            ("words", text, {}),
        ):
            where = {"display_id": f"{self._id}-{name}", "update": update}
            display(data, raw=True, metadata=about, **where)

    def _say(self, text: str = "") -> None:
        """Below the buttons, and to a screen reader; without a text, how things stand."""
        self._said_at = time.monotonic() if text else self._said_at
        text = text or self._situation()
        self._note.value = f'<span role="status">{escape(text[0].upper() + text[1:])}</span>'
        self._show_state()

    def _show_state(self) -> None:
        for name, button in self._buttons.items():
            button.button_style = "primary" if name in _ACTING[self.training.state] else ""

    def _situation(self) -> str:
        training = self.training
        if training.error is not None:
            kind = "" if isinstance(training.error, InputError) else type(training.error).__name__
            said = ": ".join(filter(None, [kind, str(training.error)]))
            return f"The training ended with an error. {said}. Start goes on after the last step."
        wishes = {
            "": "",
            "pause": "Pausing after this meta-step.",
            "stop": "Stopping after this step.",
        }
        return wishes[training.wish] or training.note or _SITUATIONS[training.state]

    # On the training thread

    def _listen(self) -> None:
        moving = self.training.state == "running"
        (self._look if moving else self._look_no_more)()
        if moving and not self._drawing.due():
            return
        start = time.monotonic()
        if not moving or start > self._said_at + STAYS:
            self._say()
        self._publish()
        self._drawing.spent(time.monotonic() - start)

    def _look(self) -> None:
        """Have the gradient of a meta-step followed back now and then, unless that is done anyway.

        It is done at the first meta-step, and costs about what one task of a meta-step does.
        """
        for trainer in self.training.trainers:
            before = self._look_every.setdefault(trainer, trainer.diagnose_every)
            if before is not None:
                continue
            if trainer.diagnose_every is not None and trainer.history.rows:
                trainer.diagnose_every = None
                seconds = trainer.history.rows[-1]["seconds"]
                self._looking.spent(seconds / (trainer.recipe.meta_batch + 1))
            elif self._looking.due():
                trainer.diagnose_every = 1

    def _look_no_more(self) -> None:
        for trainer, before in self._look_every.items():
            trainer.diagnose_every = before


class LivePanel(Panel):
    """One training, with knobs to turn while it runs; every turn is a mark in the picture.

    The knobs' changes are `Trainer.change`, from the next meta-step on, and part of the run. Before
    the start another of `RECIPES` can be chosen: its method, with the trainer's network and lengths
    (in a folder: in one beside it, named after the recipe). `seconds` is the least time between two
    pictures. A second panel on one trainer shows the same training, and the first no longer does.
    """

    def __init__(self, trainer: Trainer, seconds: float = SECONDS) -> None:
        self._first, self._quiet, self._changes = trainer, False, -1
        self._panels: dict[Callable, tuple[Any, Pixels]] = {}
        self._knobs = _knobs()
        for name, knob in self._knobs.items():
            knob.observe(lambda change, name=name: self._turned(name, change["new"]), "value")
        super().__init__(Background.of(trainer), seconds)

    @property
    def trainer(self) -> Trainer:
        """What is trained: another one where another recipe was chosen."""
        return self.training.trainers[0]

    def result(self) -> Run:
        """Wait for the end and return the run; it starts, or resumes, a training that waits.

        After a stop that is the run so far. Raises what ended a training that failed. Interrupting
        it ends the waiting only.
        """
        return self._runs()[0]

    def change(self, **fields: float | None) -> None:
        """What the knobs do, in code: `Trainer.change` from the next meta-step on."""
        done = f"{_in_words(fields)}: from the next meta-step on."
        if not self._do(lambda: self.training.change(**fields), done):
            self._show_recipe()

    def _turned(self, name: str, value: Any) -> None:
        if self._quiet:
            return
        if name == "recipe":
            self._choose(value)
        else:
            self.change(**_fields(name, value, self.trainer))

    def _choose(self, name: str | None) -> None:
        def choose() -> None:
            if self.training.state != "ready" or self.trainer.iteration:
                raise InputError("a recipe can only be chosen before the start")
            self._take(Background.of(_with_method(self._first, name)))

        if not self._do(choose, f"{name or 'The recipe as it was given'}: press Start."):
            self._show_recipe()

    def _take(self, training: Background) -> None:
        super()._take(training)
        self._show_recipe()
        self._publish()

    def _show_recipe(self) -> None:
        """Set the knobs to what is in force."""
        recipe, trainer = self.trainer.recipe, self.trainer
        self._changes, self._quiet = len(trainer.changes.rows), True
        try:
            for name, value in _positions(recipe, trainer).items():
                self._knobs[name].value = value
        finally:
            self._quiet = False

    def _listen(self) -> None:
        if len(self.trainer.changes.rows) != self._changes:
            self._show_recipe()
        super()._listen()

    def _rows(self) -> list[ipywidgets.Widget]:
        knobs = ipywidgets.Box(
            list(self._knobs.values()), layout={"flex_flow": "row wrap", "display": "flex"}
        )
        return [*super()._rows(), knobs]

    def _draw(self) -> Pixels:
        """Four panels; of those that show what they showed before, the pixels are kept."""
        trainer = self.trainer
        steps, epoch = len(trainer.history.rows), round(100 * trainer.epoch / trainer.recipe.epochs)
        changes = len(trainer.changes.rows)
        panels = [
            self._panel(_draw_training, steps, changes),
            self._panel(_draw_norms, steps, changes),
            self._panel(_draw_diagnosis, id(trainer.diagnosis)),
            self._panel(_draw_schedules, epoch, trainer.recipe),
        ]
        return np.vstack([np.hstack(panels[:2]), np.hstack(panels[2:])])

    def _panel(self, draw: Callable[[Trainer, Figure], None], *shown: object) -> Pixels:
        key = (id(self.trainer), *shown)
        if self._panels.get(draw, (None,))[0] != key:
            figure = _canvas(5, 3.2)
            draw(self.trainer, figure)
            self._panels[draw] = key, _pixels(figure)
        return self._panels[draw][1]

    def _words(self) -> str:
        return f"{_STATES[self.training.state]}: {status(self.trainer)}."


# Words


_STATES = {
    **{"ready": "Not begun", "running": "Training", "paused": "Paused"},
    **{"finished": "Done", "stopped": "Stopped", "failed": "Ended with an error"},
}
_SITUATIONS = {
    "ready": "Ready. Press Start, or run the cell that asks for the result.",
    "running": "Training. Turn a knob and see what happens; every change is marked.",
    "paused": "Paused. Knobs act from the next meta-step on; Resume goes on.",
    "finished": "Done: the result is there.",
    "stopped": "Stopped. Start goes on from here; the result is the run so far.",
    "failed": "",
}
_ACTING = {
    **{"ready": ("start",), "running": ("pause", "stop"), "paused": ("resume", "stop")},
    **{"finished": (), "stopped": ("start",), "failed": ("start",)},
}


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


def _in_words(fields: Mapping[str, float | None]) -> str:
    rows = ({"field": name, "value": value} for name, value in fields.items())
    return ", ".join(change_in_words(row) for row in rows)


# Recipes

_METHOD = (
    *("second_order_from", "inner_rule", "msl_epochs", "norm_statistics", "norm_weights"),
    "outer_rate_min",
)


def method(recipe: Recipe, name: str) -> Recipe:
    """The method of `RECIPES[name]`, for the rest as `recipe` is.

    Epochs of its schedules are the same part of all epochs, its last meta learning rate the same
    part of the first, as there.
    """
    model = RECIPES[name]
    fields = {field: getattr(model, field) for field in _METHOD}
    for field in ("second_order_from", "msl_epochs"):
        fields[field] = fields[field] and fields[field] * recipe.epochs / model.epochs
    rate = fields["outer_rate_min"]
    fields["outer_rate_min"] = rate and rate * recipe.outer_rate / model.outer_rate
    return recipe.with_(msl_floor=0.0, **fields)


def _with_method(trainer: Trainer, name: str | None) -> Trainer:
    """A trainer of the same with another method, its tasks from the first one on."""
    if name is None:
        return trainer
    folder = trainer.directory
    return Trainer(
        method(trainer.given, name),
        trainer.train.with_seed(trainer.train.seed),
        trainer.validation,
        None if folder is None else folder.with_name(f"{folder.name}-{name}"),
        trainer.diagnose_every,
    )


# Knobs. Each has its name in view: that is also the only name that a screen reader gets.

_SHAPE = {
    "style": {"description_width": "initial"},
    "layout": {"width": "340px", "margin": "2px 12px 2px 0"},
}
_ORDERS = {"as in the recipe": "recipe", "first order": "first", "second order": "second"}
_CLIPS = {"as in the recipe": "recipe", "none": None, **{f"{x:g}": x for x in (0.1, 1, 10, 100)}}


def _knobs() -> dict[str, ipywidgets.Widget]:
    recipes = [("as given", None), *((name, name) for name in RECIPES)]
    return {
        "recipe": ipywidgets.Dropdown(options=recipes, description="recipe", **_SHAPE),
        "order": _choice("derivative order", _ORDERS),
        "msl": ipywidgets.Checkbox(description="multi-step loss", indent=False, **_SHAPE),
        "inner_rate": _power("inner learning rate", -4, 1),
        "outer_rate": _power("meta learning rate", -6, 0),
        "clip": _choice("clip the gradient's norm to", _CLIPS),
    }


def _choice(name: str, options: Mapping[str, Any]) -> ipywidgets.Dropdown:
    return ipywidgets.Dropdown(options=list(options.items()), description=name, **_SHAPE)


def _power(name: str, low: int, high: int) -> ipywidgets.FloatLogSlider:
    return ipywidgets.FloatLogSlider(
        value=10.0**low,
        min=low,
        max=high,
        step=0.05,
        description=name,
        readout_format=".2g",
        continuous_update=False,
        **_SHAPE,
    )


def _fields(name: str, value: Any, trainer: Trainer) -> dict[str, float | None]:
    """What turning a knob to a value changes of the recipe."""
    given = trainer.given
    if name == "order":
        orders = {"recipe": given.second_order_from, "first": None, "second": 0.0}
        return {"second_order_from": orders[value]}
    if name == "msl":
        if not value:
            return {"msl_epochs": 0.0, "msl_floor": 0.0}
        # The recipe's own, where that is not over yet; else for the rest of the training.
        own = given.msl_epochs > trainer.epoch
        return {"msl_epochs": given.msl_epochs if own else float(given.epochs)}
    if name == "clip":
        own = value == "recipe"
        return {
            "clip_norm": given.clip_norm if own else value,
            "clip_value": given.clip_value if own else None,
        }
    return {name: value}


def _positions(recipe: Recipe, trainer: Trainer) -> dict[str, Any]:
    """Where the knobs stand under a recipe."""
    given = trainer.given
    orders = {given.second_order_from: "recipe"}
    order = orders.get(recipe.second_order_from) or (
        "first" if recipe.second_order_from is None else "second"
    )
    same = (recipe.clip_norm, recipe.clip_value) == (given.clip_norm, given.clip_value)
    clip = "recipe" if same or recipe.clip_norm not in _CLIPS.values() else recipe.clip_norm
    return {
        "order": order,
        "msl": recipe.msl_epochs > 0,
        "inner_rate": recipe.inner_rate,
        "outer_rate": recipe.outer_rate,
        "clip": clip,
    }


# Drawing

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
        ax.tick_params(labelsize=8)
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


def _png(pixels: Pixels) -> bytes:
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
    losses, rate = _axes(figure, 2)
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
