"""Training live in a notebook: watch the gradient, turn a knob, see what happens.

    panel = LivePanel(trainer)      # in one cell: shows it, and returns at once
    run = panel.result()            # in a later cell: waits for the end, and returns the run
    stages(run)                     # what was turned, and what came of it

The training runs on a thread of its own (`mamlpp.run.background`), because a notebook hears no
button while a cell is busy. The picture is a plain PNG output with a light ground of its own: it is
legible in a dark page and stays in the executed notebook. All it costs, looking at the gradient
included, is at most a tenth of the training's time, but for the picture of the end.
"""

import base64
import math
import time
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any
from uuid import uuid4

import ipywidgets  # type: ignore[import-untyped]
import numpy as np
import pandas
from IPython.core.getipython import get_ipython
from IPython.display import display

from mamlpp.errors import InputError
from mamlpp.run.background import Background
from mamlpp.run.changes import CHANGEABLE
from mamlpp.run.run import Run
from mamlpp.run.trainer import Trainer
from mamlpp.show.knobs import fields, knobs, positions, with_method
from mamlpp.show.live_picture import FourPanels, Pixels, SideBySide, drawing, png, status
from mamlpp.show.plots import change_in_words, changes_in_words

DRAWING, LOOKING = 0.08, 0.02  # of the training's time: pictures, and following the gradient back
SECONDS = 1.0  # at least, between two pictures
STAYS = 5.0  # seconds that an answer to a button is to be read


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
        self._moving, self._cost = False, 0.0  # seconds of the last picture
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
        with drawing:
            return png(self._draw()), self._words()

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
        start = time.monotonic()
        png, words = self.picture()
        image = {"image/png": base64.b64encode(png).decode(), "text/plain": words}
        text = {"text/html": f"<p>{escape(words)}</p>", "text/plain": words}
        for name, data, about in (
            ("picture", image, {"image/png": {"alt": words}}),
            ("words", text, {}),
        ):
            where = {"display_id": f"{self._id}-{name}", "update": update}
            display(data, raw=True, metadata=about, **where)
        self._cost = time.monotonic() - start
        self._drawing.spent(self._cost)

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
        begins, self._moving = moving and not self._moving, moving
        (self._look if moving else self._look_no_more)()
        if begins:
            self._say()
            self._drawing.spent(self._cost)  # The picture of before still holds.
        elif not moving or self._drawing.due():
            if not moving or time.monotonic() > self._said_at + STAYS:
                self._say()
            self._publish()

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
        self._first, self._quiet = trainer, False
        self._positions: dict[str, Any] = {}
        self._picture, self._knobs = FourPanels(), knobs()
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

    def change(self, **changes: float | None) -> None:
        """What the knobs do, in code: `Trainer.change` from the next meta-step on."""
        done = f"{_in_words(changes)}: from the next meta-step on."
        if not self._do(lambda: self.training.change(**changes), done):
            self._show_recipe()

    def _turned(self, name: str, value: Any) -> None:
        if self._quiet:
            return
        if name == "recipe":
            self._choose(value)
        else:
            self.change(**fields(name, value, self.trainer))

    def _choose(self, name: str) -> None:
        def choose() -> None:
            if self.training.state != "ready" or self.trainer.iteration:
                raise InputError("a recipe can only be chosen before the start")
            self._take(Background.of(with_method(self._first, name)))

        if not self._do(choose, f"{name or 'The recipe as given'}: press Start."):
            self._show_recipe()

    def _take(self, training: Background) -> None:
        super()._take(training)
        self._show_recipe()
        self._publish()

    def _show_recipe(self) -> None:
        """Set the knobs to what is in force."""
        self._positions, self._quiet = positions(self.trainer), True
        try:
            for name, value in self._positions.items():
                self._knobs[name].value = value
        finally:
            self._quiet = False

    def _listen(self) -> None:
        if positions(self.trainer) != self._positions:
            self._show_recipe()
        super()._listen()

    def _rows(self) -> list[ipywidgets.Widget]:
        wrapping = {"flex_flow": "row wrap", "display": "flex"}
        return [*super()._rows(), ipywidgets.Box(list(self._knobs.values()), layout=wrapping)]

    def _draw(self) -> Pixels:
        return self._picture.draw(self.trainer)

    def _words(self) -> str:
        return f"{_STATES[self.training.state]}: {status(self.trainer)}."


class Comparison(Panel):
    """Several trainings side by side, on the same axes: what `compare` makes."""

    def __init__(self, trainers: Sequence[Trainer], together: bool, seconds: float) -> None:
        self.names = _names(trainers)
        self._picture = SideBySide(self.names)
        super().__init__(Background(trainers, together), seconds)

    def result(self) -> dict[str, Run]:
        """Like `LivePanel.result`: the runs, by what each differs in from the others."""
        return dict(zip(self.names, self._runs(), strict=True))

    def _draw(self) -> Pixels:
        return self._picture.draw(self.training.trainers)

    def _words(self) -> str:
        runs = zip(self.names, self.training.trainers, strict=True)
        said = " | ".join(f"{name}: {status(trainer)}" for name, trainer in runs)
        return f"{_STATES[self.training.state]}. {said}."


def compare(
    trainers: Sequence[Trainer], together: bool = True, seconds: float = SECONDS
) -> Comparison:
    """Two to four trainings side by side: a meta-step of each in turn, or one after the other.

    What differs should be what is compared: raises `InputError` where their seeds differ, or where
    two draw from one sampler, of whose tasks each would get only some.
    """
    if not 2 <= len(trainers) <= 4:
        raise InputError(f"two to four trainings can be compared, not {len(trainers)}")
    samplers = [trainer.train for trainer in trainers]
    if len({id(sampler.generator) for sampler in samplers}) < len(samplers):
        raise InputError(
            "two trainers draw from one sampler, so that each gets other tasks; give each its own, "
            "like sampler.with_seed(sampler.seed)"
        )
    for what, seeds in (
        ("recipe", {trainer.recipe.seed for trainer in trainers}),
        ("training tasks", {sampler.seed for sampler in samplers}),
        ("validation tasks", {trainer.validation.seed for trainer in trainers}),
    ):
        if len(seeds) > 1:
            raise InputError(
                f"the seeds of the {what} differ ({', '.join(map(str, sorted(seeds)))}); "
                f"give all the same, so that only what is compared differs"
            )
    return Comparison(trainers, together, seconds)


def _names(trainers: Sequence[Trainer]) -> list[str]:
    """What each recipe has that not all have; a number where that tells too little."""
    recipes = [trainer.initial_recipe.as_dict() for trainer in trainers]
    differing = [name for name in recipes[0] if len({recipe[name] for recipe in recipes}) > 1]
    names = [", ".join(_field(name, recipe[name]) for name in differing) for recipe in recipes]
    if len(set(names)) == len(names):
        return names
    return [f"{number}. {name}".strip(". ") for number, name in enumerate(names, 1)]


def _field(name: str, value: Any) -> str:
    if name in CHANGEABLE:
        return change_in_words({"field": name, "value": value})
    return f"{name.replace('_', ' ')} {value}"


def stages(run: Run) -> pandas.DataFrame:
    """What was changed by hand, and how the meta-steps were from then on: a row a change.

    Means of loss and accuracy, median and greatest norm of the meta-gradient, median seconds.
    """
    words = {1: ["as begun"]} | changes_in_words(run.changes)
    starts, history = sorted(words), run.history.frame()
    last = np.searchsorted(starts, history["iteration"], side="right") - 1
    table = history.groupby(last).agg(
        steps=("iteration", "size"),
        loss=("loss", "mean"),
        accuracy=("accuracy", "mean"),
        median_norm=("gradient_norm", "median"),
        greatest_norm=("gradient_norm", "max"),
        seconds=("seconds", "median"),
    )
    table.index = pandas.Index([", ".join(words[starts[at]]) for at in table.index], name="change")
    return table


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


def _in_words(changes: Mapping[str, float | None]) -> str:
    rows = ({"field": name, "value": value} for name, value in changes.items())
    return ", ".join(change_in_words(row) for row in rows)
