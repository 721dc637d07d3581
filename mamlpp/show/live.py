"""Live training in a notebook: watch the gradient, turn a knob and see the effect.

    panel = LivePanel(trainer)      # in one cell: shows the panel and returns at once
    run = panel.result()            # in a later cell: waits for the end and returns the run
    stages(run)                     # what was changed, and its effect

The training runs on a background thread (`mamlpp.run.background`), because a notebook does not
process button clicks while a cell is busy. The picture is a plain PNG output with its own light
background, so it is legible on a dark page and stays in the executed notebook. Drawing and gradient
diagnosis take at most a tenth of the training time, not counting the final picture.

A kernel trains one at a time: a training that starts stops the one before, whose panel says so. A
cell that is run again with a new trainer stops its old training at once, since its panel is gone.
"""

import base64
import math
import time
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any
from uuid import uuid4
from weakref import WeakSet

import ipywidgets  # type: ignore[import-untyped]
import numpy as np
import pandas
from IPython.core.getipython import get_ipython
from IPython.display import display

from mamlpp.errors import InputError
from mamlpp.run.background import Background
from mamlpp.run.changes import CHANGEABLE
from mamlpp.run.results import RecordedResult, RecordedRun
from mamlpp.run.run import Run
from mamlpp.run.trainer import Trainer
from mamlpp.show.html import CONTROLS, widget_output
from mamlpp.show.knobs import knob_values, make_knobs, recipe_changes, trainer_with_method
from mamlpp.show.live_picture import (
    ComparisonPicture,
    Pixels,
    TrainingPicture,
    describe_progress,
    drawing_lock,
    encode_png,
)
from mamlpp.show.plots import describe_change, describe_changes
from mamlpp.show.recorded import replay
from mamlpp.show.widgets import Explorer

DRAWING_FRACTION, DIAGNOSIS_FRACTION = 0.08, 0.02  # of the training time
MIN_INTERVAL = 1.0  # seconds between two pictures, at least
MESSAGE_SECONDS = 5.0  # how long a reply to a button stays visible

_PANELS: "WeakSet[Panel]" = WeakSet()


class TimeBudget:
    """Limits a recurring task to a `fraction` of the time and once per `min_interval` seconds."""

    def __init__(self, fraction: float, min_interval: float) -> None:
        self.fraction, self.min_interval = fraction, min_interval
        self.next_time = 0.0

    def due(self) -> bool:
        """Whether the task may run now."""
        return time.monotonic() >= self.next_time

    def record(self, seconds: float) -> None:
        """Report that the task has just run and how long it took."""
        pause = max(self.min_interval - seconds, seconds * (1 / self.fraction - 1))
        self.next_time = time.monotonic() + pause


class Panel:
    """Buttons, a picture of the training and a status line: the base of all live panels.

    The buttons call `start`, `pause`, `resume` and `stop`; if one cannot act, the status line says
    why. A panel at the end of a cell is displayed there again; all its displays stay up to date.
    """

    def __init__(self, training: Background, min_interval: float = MIN_INTERVAL) -> None:
        self._drawing_budget = TimeBudget(DRAWING_FRACTION, min_interval)
        self._diagnosis_budget = TimeBudget(DIAGNOSIS_FRACTION, min_interval)
        self._status = ipywidgets.HTML()
        self._buttons = {
            name: ipywidgets.Button(description=name.capitalize(), layout={"width": "90px"})
            for name in ("start", "pause", "resume", "stop")
        }
        for name, button in self._buttons.items():
            button.on_click(lambda _, name=name: getattr(self, name)())
        self._was_running, self._drawing_seconds = False, 0.0
        self._id = uuid4().hex
        self._displayed_in: int | None = None  # execution count of the cell
        self._elsewhere = False  # whether it was displayed again
        self._message_time = -math.inf
        self._own_diagnose_every: dict[Trainer, int | None] = {}
        self._made_in = _cell()
        self._replace_panels(training)
        self.box = ipywidgets.VBox([*self._rows(), self._status])
        self._attach(training)
        self._ipython_display_()

    def _replace_panels(self, training: Background) -> None:
        """Where this cell made panels before, stop their trainings, unless it is the same one."""
        for panel in list(_PANELS):
            cell, count = panel._made_in
            if cell is not None and cell == self._made_in[0] and count != self._made_in[1]:
                if panel.training is not training:
                    panel.training.displace()
                panel._close()
        _PANELS.add(self)

    def _close(self) -> None:
        """Let the widgets go, which ipywidgets keeps until then, unless another cell shows them."""
        _PANELS.discard(self)
        if not self._elsewhere:
            _close(self.box)

    # What the buttons do

    def start(self) -> None:
        """Start, or continue after a stop or an error."""
        self._attempt(self.training.start)

    def pause(self) -> None:
        """Pause after this meta-step."""
        self._attempt(self.training.pause)

    def resume(self) -> None:
        """Continue after a pause."""
        self._attempt(self.training.resume)

    def stop(self) -> None:
        """Stop after this meta-step; save a checkpoint if there is a folder."""
        self._attempt(self.training.stop)

    def _attempt(self, action: Callable[[], None], message: str = "") -> bool:
        """Perform an action; report success with the message, or the reason for failure."""
        try:
            action()
        except InputError as error:
            self._show_status(f"{error}.")
            return False
        self._show_status(message)
        return True

    def _runs(self) -> list[Run]:
        if self.training.state == "ready":
            self.start()
        return self.training.result()

    # Display

    def picture(self) -> tuple[bytes, str]:
        """Return the current state of the training as a PNG and as text."""
        with drawing_lock:
            return encode_png(self._draw()), self._text()

    def _rows(self) -> list[ipywidgets.Widget]:
        return [ipywidgets.HBox(list(self._buttons.values()))]

    def _draw(self) -> Pixels:
        raise NotImplementedError

    def _text(self) -> str:
        raise NotImplementedError

    def _attach(self, training: Background) -> None:
        """Show this training from now on; a panel that showed it before says so and freezes."""
        previous = getattr(training.listener, "__self__", None)
        if previous not in (None, self):
            previous._show_status("this training is now shown in another panel.")
        self.training = training
        training.listener = self._on_update
        self._show_status()

    def _ipython_display_(self) -> None:
        shell = get_ipython()
        if shell is None or shell.execution_count == self._displayed_in:
            return  # A panel displays itself on creation; do not repeat that in the same cell.
        self._elsewhere = self._displayed_in is not None
        self._displayed_in = shell.execution_count
        display(widget_output(self.box, CONTROLS), raw=True)
        self._publish(update=False)

    def _publish(self, update: bool = True) -> None:
        if self._displayed_in is None:
            return
        start = time.monotonic()
        png, text = self.picture()
        image = {"image/png": base64.b64encode(png).decode(), "text/plain": text}
        html = {"text/html": f"<p>{escape(text)}</p>", "text/plain": text}
        for name, data, metadata in (
            ("picture", image, {"image/png": {"alt": text}}),
            ("text", html, {}),
        ):
            target = {"display_id": f"{self._id}-{name}", "update": update}
            display(data, raw=True, metadata=metadata, **target)
        self._drawing_seconds = time.monotonic() - start
        self._drawing_budget.record(self._drawing_seconds)

    def _show_status(self, message: str = "") -> None:
        """Show a message, by default the current state, below the buttons and to screen readers."""
        self._message_time = time.monotonic() if message else self._message_time
        text = message or self._describe_state()
        self._status.value = f'<span role="status">{escape(text[0].upper() + text[1:])}</span>'
        for name, button in self._buttons.items():
            button.button_style = "primary" if name in _ACTIVE_BUTTONS[self.training.state] else ""

    def _describe_state(self) -> str:
        training = self.training
        if training.error is not None:
            kind = "" if isinstance(training.error, InputError) else type(training.error).__name__
            reason = ": ".join(filter(None, [kind, str(training.error)]))
            return f"Training failed: {reason}. Press Start to continue after the last meta-step."
        if training.pending_request:
            action = {"pause": "Pausing", "stop": "Stopping"}[training.pending_request]
            return f"{action} after this meta-step."
        if training.displaced and training.state == "stopped":
            return _LEFT if training.left else _DISPLACED
        return training.warning or _STATUS[training.state]

    # On the training thread

    def _on_update(self) -> None:
        running = self.training.state == "running"
        started, self._was_running = running and not self._was_running, running
        (self._schedule_diagnosis if running else self._restore_diagnosis)()
        if started:
            self._show_status()
            self._drawing_budget.record(self._drawing_seconds)  # The picture is still up to date.
        elif not running or self._drawing_budget.due():
            if not running or time.monotonic() > self._message_time + MESSAGE_SECONDS:
                self._show_status()
            self._publish()

    def _schedule_diagnosis(self) -> None:
        """Diagnose the gradient now and then, unless the trainer does so by itself.

        The first meta-step is always diagnosed. It costs about as much as one task of a meta-step.
        """
        for trainer in self.training.trainers:
            own = self._own_diagnose_every.setdefault(trainer, trainer.diagnose_every)
            if own is not None:
                continue
            if trainer.diagnose_every is not None and trainer.history.rows:
                trainer.diagnose_every = None
                seconds = trainer.history.rows[-1]["seconds"]
                self._diagnosis_budget.record(seconds / (trainer.recipe.meta_batch + 1))
            elif self._diagnosis_budget.due():
                trainer.diagnose_every = 1

    def _restore_diagnosis(self) -> None:
        for trainer, own in self._own_diagnose_every.items():
            trainer.diagnose_every = own


class LivePanel(Panel):
    """One training with knobs to turn while it runs; the picture marks every change.

    The knobs call `Trainer.change`: changes apply from the next meta-step and are part of the run.
    Before the start, another of `RECIPES` can be selected: its method, with the network and length
    of the trainer's recipe (and a sibling folder named after it). Pictures are at least
    `min_interval` seconds apart. A second panel for the same trainer takes over its display.
    """

    def __init__(self, trainer: Trainer, min_interval: float = MIN_INTERVAL) -> None:
        self._initial_trainer, self._selected, self._setting_knobs = trainer, "", False
        self._knob_values: dict[str, Any] = {}
        self._picture, self._knobs = TrainingPicture(), make_knobs()
        for name, knob in self._knobs.items():
            knob.observe(lambda change, name=name: self._on_knob(name, change["new"]), "value")
        super().__init__(Background.for_trainer(trainer), min_interval)

    @staticmethod
    def replay(result: RecordedResult | Sequence[RecordedRun]) -> Explorer:
        """Play recorded runs in half a minute, with a slider to scrub; see `recorded.replay`."""
        return replay(result)

    @property
    def trainer(self) -> Trainer:
        """The current trainer; selecting a recipe replaces it."""
        return self.training.trainers[0]

    def result(self) -> Run:
        """Wait for the end and return the run; first start or resume a waiting training.

        After a stop, return the run so far. Raises the exception that ended a failed training. An
        interrupt ends the wait, not the training.
        """
        return self._runs()[0]

    def change(self, **changes: float | None) -> None:
        """Do in code what the knobs do: `Trainer.change` from the next meta-step."""
        message = f"{_describe_fields(changes)}: from the next meta-step."
        if not self._attempt(lambda: self.training.change(**changes), message):
            self._update_knobs()

    def _on_knob(self, name: str, value: Any) -> None:
        if self._setting_knobs:
            return
        if name == "recipe":
            self._select_recipe(value)
        else:
            self.change(**recipe_changes(name, value, self.trainer))

    def _select_recipe(self, name: str) -> None:
        def select() -> None:
            if self.training.state != "ready" or self.trainer.iteration:
                raise InputError("a recipe can only be selected before training starts")
            self._attach(Background.for_trainer(trainer_with_method(self._initial_trainer, name)))

        if self._attempt(select, f"selected {name or 'the given recipe'}; press Start."):
            self._selected = name
        self._update_knobs()

    def _attach(self, training: Background) -> None:
        super()._attach(training)
        self._update_knobs()
        self._publish()

    def _update_knobs(self) -> None:
        """Set the knobs to the current recipe."""
        self._knob_values, self._setting_knobs = knob_values(self.trainer), True
        try:
            self._knobs["recipe"].value = self._selected
            for name, value in self._knob_values.items():
                self._knobs[name].value = value
        finally:
            self._setting_knobs = False

    def _on_update(self) -> None:
        if knob_values(self.trainer) != self._knob_values:
            self._update_knobs()
        super()._on_update()

    def _rows(self) -> list[ipywidgets.Widget]:
        wrapping = {"flex_flow": "row wrap", "display": "flex"}
        return [*super()._rows(), ipywidgets.Box(list(self._knobs.values()), layout=wrapping)]

    def _draw(self) -> Pixels:
        return self._picture.draw(self.trainer)

    def _text(self) -> str:
        return f"{_STATE_TITLES[self.training.state]}: {describe_progress(self.trainer)}."


class Comparison(Panel):
    """Several trainings side by side on the same axes; created by `compare`."""

    def __init__(self, trainers: Sequence[Trainer], interleaved: bool, min_interval: float) -> None:
        self.names = _distinguishing_names(trainers)
        self._picture = ComparisonPicture(self.names)
        super().__init__(Background(trainers, interleaved), min_interval)

    def result(self) -> dict[str, Run]:
        """Like `LivePanel.result`, for all runs; each key names how its recipe differs."""
        return dict(zip(self.names, self._runs(), strict=True))

    def _draw(self) -> Pixels:
        return self._picture.draw(self.training.trainers)

    def _text(self) -> str:
        runs = zip(self.names, self.training.trainers, strict=True)
        text = " | ".join(f"{name}: {describe_progress(trainer)}" for name, trainer in runs)
        return f"{_STATE_TITLES[self.training.state]}. {text}."


def compare(
    trainers: Sequence[Trainer], interleaved: bool = True, min_interval: float = MIN_INTERVAL
) -> Comparison:
    """Compare two to four trainings, `interleaved` by meta-step or one after the other.

    For a fair comparison, all seeds must be equal. Raises `InputError` otherwise.
    """
    if not 2 <= len(trainers) <= 4:
        raise InputError(f"compare takes two to four trainers, not {len(trainers)}")
    seeds: set[Any]
    for name, seeds in (
        ("recipe", {trainer.recipe.seed for trainer in trainers}),
        ("training task", {getattr(trainer.train, "seed", None) for trainer in trainers}),
        ("validation task", {getattr(trainer.validation, "seed", None) for trainer in trainers}),
    ):
        if len(seeds) > 1:
            raise InputError(
                f"the {name} seeds differ ({', '.join(map(str, sorted(seeds)))}); use the same "
                f"seed for all trainers, so that they differ only in what you compare"
            )
    return Comparison(trainers, interleaved, min_interval)


def _cell() -> tuple[str | None, int | None]:
    """ID and execution count of the notebook's cell that is being run, where there is one."""
    shell = get_ipython()
    message: dict[str, Any] = getattr(shell, "get_parent", dict)()
    return message.get("metadata", {}).get("cellId"), getattr(shell, "execution_count", None)


def _close(widget: ipywidgets.Widget) -> None:
    for child in getattr(widget, "children", ()):
        _close(child)
    for part in ("layout", "style"):
        if hasattr(widget, part):
            getattr(widget, part).close()
    widget.close()


def _distinguishing_names(trainers: Sequence[Trainer]) -> list[str]:
    """Name each recipe by its differing fields, with a number if that is not unique."""
    recipes = [trainer.initial_recipe.as_dict() for trainer in trainers]
    differing = [name for name in recipes[0] if len({recipe[name] for recipe in recipes}) > 1]
    names = [_describe_fields({name: recipe[name] for name in differing}) for recipe in recipes]
    if len(set(names)) == len(names):
        return names
    return [f"{number}. {name}".strip(". ") for number, name in enumerate(names, 1)]


def _describe_fields(fields: Mapping[str, Any]) -> str:
    return ", ".join(
        describe_change({"field": name, "value": value})
        if name in CHANGEABLE
        else f"{name.replace('_', ' ')} {value}"
        for name, value in fields.items()
    )


def stages(run: Run) -> pandas.DataFrame:
    """Summarise the meta-steps after each change made by hand, one row per change.

    Its columns say what they are: means over the meta-steps, and medians, for a single meta-step
    may be far from the others.
    """
    descriptions = {1: ["initial recipe"]} | describe_changes(run.changes)
    starts, history = sorted(descriptions), run.history.frame()
    stage = np.searchsorted(starts, history["iteration"], side="right") - 1
    columns = {
        "meta-steps": ("iteration", "size"),
        "mean loss": ("loss", "mean"),
        "mean accuracy": ("accuracy", "mean"),
        "median gradient norm": ("gradient_norm", "median"),
        "largest gradient norm": ("gradient_norm", "max"),
        "median seconds": ("seconds", "median"),
    }
    table = history.groupby(stage).agg(**columns)
    names = [", ".join(descriptions[starts[index]]) for index in table.index]
    table.index = pandas.Index(names, name="change")
    return table


_STATE_TITLES = {
    **{"ready": "Not started", "running": "Training", "paused": "Paused"},
    **{"finished": "Finished", "stopped": "Stopped", "failed": "Failed"},
}
_STATUS = {
    "ready": "Ready. Press Start, or run the cell that asks for the result.",
    "running": "Training. Turn a knob and see what happens; the picture marks every change.",
    "paused": "Paused. Knobs act from the next meta-step; press Resume to continue.",
    "finished": "Finished: the result is ready.",
    "stopped": "Stopped. Press Start to continue from here; the result is the run so far.",
}
_DISPLACED = (
    "Stopped, because another training was started in this notebook. Press Start to continue from "
    "here; that stops the other."
)
_LEFT = "Stopped, because another trainer continues this training from its folder."
_ACTIVE_BUTTONS = {
    **{"ready": ("start",), "running": ("pause", "stop"), "paused": ("resume", "stop")},
    **{"finished": (), "stopped": ("start",), "failed": ("start",)},
}
