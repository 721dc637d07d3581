"""Interactive explorers: turn a knob, see the schedule. In a notebook: `widgets.msl_explorer()`.

An explorer's controls work with mouse and keyboard; below them stands a picture that says in words
what it shows. The picture is a plain PNG output with a light ground of its own, so it is legible in
a dark page and stays in the executed notebook where nobody can turn a knob. Letters: S inner steps,
L layers, F features.
"""

import base64
import copy
import io
import textwrap
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from html import escape
from typing import Any

import ipywidgets  # type: ignore[import-untyped]
import matplotlib
import numpy as np
import torch
from IPython.display import DisplayHandle, display
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.func import functional_call

from mamlpp.data import load_images
from mamlpp.data.sinusoids import SinusoidSampler
from mamlpp.data.tasks import Task, TaskBatch, TaskSampler
from mamlpp.errors import InputError
from mamlpp.inner_rules import LSLR, MetaSGD
from mamlpp.maml import MetaLearner, Model, inner_loop, task_loss
from mamlpp.network import Seen
from mamlpp.recipe import RECIPES, Recipe
from mamlpp.run.history import History
from mamlpp.show import diagrams
from mamlpp.show import schedule_plots as plots
from mamlpp.show.plots import use_style

Picture = tuple[Figure, str]  # what is seen, and the same in words

WIDTH, DPI = 9.0, 90  # inches; a picture has to be drawn within a tenth of a second
CAPTION = 0.75  # inches for the words


class Explorer:
    """Controls and a picture of their values, drawn anew whenever one of them changes.

    `draw(**values)` makes the picture from the controls' values, which are named like its
    parameters. A notebook shows an explorer that ends a cell, or is given to `display`.
    """

    def __init__(
        self, draw: Callable[..., Picture], controls: Mapping[str, ipywidgets.Widget]
    ) -> None:
        self.draw, self.controls = draw, dict(controls)
        self._words = ipywidgets.HTML()
        rows = ipywidgets.Box(
            list(self.controls.values()), layout={"flex_flow": "row wrap", "display": "flex"}
        )
        self.box = ipywidgets.VBox([rows, self._words])
        self._handles: list[DisplayHandle] = []
        # Callbacks may run on another thread than the cell that shows the explorer.
        self._lock = threading.RLock()
        for control in self.controls.values():
            control.observe(self._refresh, "value")

    @property
    def values(self) -> dict[str, Any]:
        """The controls' values, by name."""
        return {name: control.value for name, control in self.controls.items()}

    def picture(self) -> tuple[bytes, str]:
        """The PNG of the present values, and what it shows, in words."""
        with matplotlib.rc_context():
            use_style()
            try:
                figure, words = self.draw(**self.values)
            except InputError as error:
                figure, words = _canvas(0), f"Not possible: {error}."
            _write_caption(figure, words)
            return _png(figure), words

    def _ipython_display_(self) -> None:
        with self._lock:
            controls = self.box._repr_mimebundle_()
            controls["text/plain"] = "(controls, where this notebook is running)"
            display(controls, raw=True)
            data, metadata = self._output()
            handle = display(data, raw=True, metadata=metadata, display_id=True)
            self._handles.append(handle)

    def _refresh(self, _: object) -> None:
        with self._lock:
            if not self._handles:
                return
            data, metadata = self._output()
            for handle in self._handles:
                handle.update(data, raw=True, metadata=metadata)

    def _output(self) -> tuple[dict[str, str], dict[str, Any]]:
        png, words = self.picture()
        # JupyterLab gives no alternative text to a picture: a screen reader gets the words here.
        self._words.value = (
            f'<span role="status" style="position:absolute;clip-path:inset(50%)">'
            f"{escape(words)}</span>"
        )
        data = {"image/png": base64.b64encode(png).decode(), "text/plain": words}
        return data, {"image/png": {"alt": words}}


# Drawing


def _canvas(panels: int, height: float = 3.3, **grid: Any) -> Figure:
    """A figure of its own, not pyplot's, with `panels` side by side above room for words.

    Its margins are fixed: a layout engine would take longer than the drawing.
    """
    figure = Figure(figsize=(WIDTH, height + CAPTION), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    bottom = (CAPTION + 0.62) / (height + CAPTION)
    margins = {"left": 0.085, "right": 0.985, "top": 1 - 0.38 / (height + CAPTION)}
    if panels:
        figure.subplots(1, panels, gridspec_kw={"bottom": bottom, "wspace": 0.3} | margins | grid)
    return figure


def _write_caption(figure: Figure, words: str) -> None:
    figure.text(0.02, 0.02, textwrap.fill(words, 112), fontsize=10.5, va="bottom")


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, pil_kwargs={"compress_level": 1})
    return file.getvalue()


def _title(ax: Axes, text: str) -> None:
    ax.set_title(text, fontsize=11, loc="left")


# Controls. Each has its name in view: that is also the only name that a screen reader gets.

_SHAPE = {
    "style": {"description_width": "initial"},
    "layout": {"width": "330px", "margin": "2px 12px 2px 0"},
}


def _whole(name: str, value: int, low: int, high: int) -> ipywidgets.IntSlider:
    return ipywidgets.IntSlider(value, low, high, description=name, **_SHAPE)


def _number(
    name: str, value: float, low: float, high: float, step: float, readout: str = ".4g"
) -> ipywidgets.FloatSlider:
    return ipywidgets.FloatSlider(
        value, min=low, max=high, step=step, description=name, readout_format=readout, **_SHAPE
    )


def _power(name: str, value: float, low: int, high: int) -> ipywidgets.FloatLogSlider:
    """A slider over powers of ten, `10**low` to `10**high`."""
    return ipywidgets.FloatLogSlider(
        value, min=low, max=high, step=0.25, description=name, readout_format=".1e", **_SHAPE
    )


def _choice(name: str, options: Sequence, value: Any) -> ipywidgets.Dropdown:
    return ipywidgets.Dropdown(options=options, value=value, description=name, **_SHAPE)


def _switch(name: str, value: bool) -> ipywidgets.Checkbox:
    return ipywidgets.Checkbox(value, description=name, indent=False, **_SHAPE)


# MSL


def msl_explorer() -> Explorer:
    """Multi-step loss: what the query loss after each inner step counts, epoch by epoch."""
    return Explorer(
        _draw_msl,
        {
            "steps": _whole("inner steps N", 5, 1, 10),
            "msl_epochs": _whole("annealed over epochs", 15, 0, 50),
            "floor": _number("floor, parts of 1/N", 0.0, 0.0, 1.0, 0.01),
            "epoch": _number("epoch", 5.0, 0.0, 60.0, 0.5),
        },
    )


def _draw_msl(steps: int, msl_epochs: int, floor: float, epoch: float) -> Picture:
    recipe = Recipe(
        inner_steps=steps, msl_epochs=msl_epochs, msl_floor=floor / steps if msl_epochs else 0.0
    )
    weights = plots.weights_at(recipe, epoch)
    figure = _canvas(2, width_ratios=[2, 1])
    left, right = figure.axes
    plots.plot_step_weights(recipe, left, until=60)
    left.axvline(epoch, color="#d62728", linewidth=2)
    _title(left, "The weights over the epochs: they always sum to 1")
    plots.plot_weight_bars(weights, right)
    _title(right, f"At epoch {epoch:g}")
    return figure, _msl_words(recipe, weights, epoch)


def _msl_words(recipe: Recipe, weights: list[float], epoch: float) -> str:
    counted = sum(weight > 0 for weight in weights)
    last = f"At epoch {epoch:g} the query loss after the last of {len(weights)} inner steps counts "
    if counted == 1:
        return f"{last}{weights[-1]:.3g}: it alone is computed. The others count nothing."
    rest = f"each of the {counted - 1} others {weights[0]:.3g}"
    words = f"{last}{weights[-1]:.3g}, {rest}; {counted} query losses are computed. "
    if epoch >= recipe.msl_epochs:
        return words + f"From epoch {recipe.msl_epochs:g} on they stay like this: the floor."
    return words + (
        f"Every epoch moves {1 / len(weights) - recipe.msl_floor:.3g}/{recipe.msl_epochs:g} of "
        f"weight from each of them to the last, up to epoch {recipe.msl_epochs:g}."
    )


# CA


def cosine_explorer() -> Explorer:
    """Cosine annealing of the meta-optimizer's rate, bounded by T_max or running on past it."""
    return Explorer(
        _draw_cosine,
        {
            "maximum": _power("β_max", 1e-3, -5, -1),
            "minimum": _power("β_min", 1e-5, -7, -1),
            "epochs": _whole("T_max, epochs", 150, 10, 300),
            "epoch": _whole("epoch", 75, 0, 450),
            "bounded": _switch("bounded: T stops at T_max", True),
        },
    )


def _draw_cosine(
    maximum: float, minimum: float, epochs: int, epoch: int, bounded: bool
) -> Picture:
    recipe = Recipe(outer_rate=maximum, outer_rate_min=minimum, epochs=epochs)
    figure = _canvas(1)
    [ax] = figure.axes
    plots.plot_outer_rate(recipe, ax, until=450, bounded=bounded)
    [rate] = plots.outer_rates(recipe, [epoch], bounded)
    ax.plot(epoch, rate, "o", color="#d62728", markersize=10, clip_on=False)
    ax.annotate(f"{rate:.2e}", (epoch, rate), (10, 8), textcoords="offset points", fontsize=11)
    _title(ax, "Learning rate of the meta-optimizer")
    words = f"At epoch {epoch} the outer rate is {rate:.3g}, {rate / maximum:.1%} of β_max. "
    if bounded:
        return figure, words + f"T stops at T_max: after epoch {epochs} it stays at {minimum:.3g}."
    return figure, words + (
        f"T runs on: after epoch {epochs} the cosine turns and the rate rises again, to β_max at "
        f"epoch {2 * epochs}."
    )


# DA


def order_explorer(history: History | None = None, epochs: int = 100) -> Explorer:
    """Derivative-order annealing: the switch epoch against cost, and a run's gradient norms.

    `history` is a run's, `run.history`: its meta-gradient norms are drawn as they were recorded.
    Without one, a short training on sine waves is done here, which takes a second or two: at each
    of its meta-steps both gradients, of first and of second order, are taken of the same weights.
    """
    last = epochs
    if history is not None:
        if not history.rows:
            raise InputError("this history has no meta-steps yet; give it after some training")
        last = max(1, round(history.rows[-1]["epoch"] + 0.5))

    def draw(switch: float, never: bool, steps: int) -> Picture:
        recipe = Recipe(
            second_order_from=None if never else switch, inner_steps=steps, epochs=last
        )
        return _draw_order(recipe, history)

    start = min(50, last // 2)
    return Explorer(
        draw,
        {
            "switch": _number("first epoch in second order", start, 0, last, last / 100),
            "never": _switch("never: first-order MAML", False),
            "steps": _whole("inner steps", 5, 1, 10),
        },
    )


def _draw_order(recipe: Recipe, history: History | None) -> Picture:
    figure = _canvas(2, width_ratios=[1, 1.6])
    left, right = figure.axes
    plots.plot_order_cost(recipe, left)
    _title(left, "Cost, in % of always second order")
    plots.plot_order(recipe, right)
    if history is None:
        source = _plot_sine_norms(recipe, right)
    else:
        source = "The dots are the meta-gradients of the run, as it recorded them."
        norms = [(row["epoch"], row["gradient_norm"]) for row in history.rows]
        right.plot(*zip(*norms, strict=True), ".", color="#333333", markersize=4)
    right.set(yscale="log", ylabel="norm of the meta-gradient")
    right.legend(fontsize=8.5, loc="upper right", ncols=2)
    _title(right, "Gradient norms, and the order at each epoch")
    return figure, f"{_order_words(recipe)} {source}"


def _order_words(recipe: Recipe) -> str:
    cost = f"{100 * plots.relative_cost(recipe):.0f} %"
    counted = f"counting {plots.SECOND_ORDER_PASS:g} for a support pass in second order"
    switch = recipe.second_order_from
    if switch is None:
        return f"First order throughout: {cost} of the cost of second-order MAML, {counted}."
    return (
        f"First order up to epoch {switch:g} of {recipe.epochs}, second order from there on: {cost} "
        f"of the cost of second order throughout, {counted}."
    )


def _plot_sine_norms(recipe: Recipe, ax: Axes) -> str:
    norms = sine_norms()
    epochs = (np.arange(len(norms)) + 0.5) * recipe.epochs / len(norms)
    taken = np.array([plots.schedules.second_order(recipe.second_order_from, e) for e in epochs])
    used = np.where(taken, norms[:, 1], norms[:, 0])
    ax.plot(epochs, norms[:, 0], color="#b37a1e", linewidth=0.9, alpha=0.6)
    ax.plot(epochs, norms[:, 1], color=plots.COLOURS["MAML"], linewidth=0.9, alpha=0.6)
    ax.plot(epochs, used, ".", color="#333333", markersize=4, label="the one taken")
    return (
        f"Norms measured here, in {len(norms)} meta-steps on sine waves with {SINE_STEPS} inner "
        f"steps, spread over the epochs: both orders at the same weights."
    )


# A small real training, on sine waves: it takes a second, and its numbers are measured.

SINE_STEPS, SINE_TASKS = 5, 4


class _SineLearner(nn.Module):
    """A network of two hidden layers of 20, and its inner rule."""

    def __init__(self, rule: str) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.network = nn.Sequential(
                nn.Linear(1, 20), nn.Tanh(), nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 1)
            )
        weights = dict(self.network.named_parameters())
        self.rule = MetaSGD(weights, 0.02) if rule == "meta-sgd" else LSLR(weights, SINE_STEPS, 0.02)

    def gradient(self, batch: TaskBatch, second_order: bool) -> list[Tensor]:
        """The meta-gradient, mean over the tasks, in the order of the parameters."""
        model: Model = lambda weights, x, _: functional_call(self.network, weights, (x,))  # noqa: E731
        counts = [0.0] * (SINE_STEPS - 1) + [1.0]
        weights = dict(self.network.named_parameters())
        losses = [
            task_loss(model, weights, task, counts, self.rule, second_order, nn.functional.mse_loss)
            for task in batch
        ]
        loss = torch.stack([loss for loss, _ in losses]).mean()
        return list(torch.autograd.grad(loss, list(self.parameters())))


@lru_cache
def sine_norms(meta_steps: int = 60) -> np.ndarray:
    """Norms `[T, 2]` of the meta-gradients of first and second order, of a training on sine waves.

    Both are taken at the same weights, which then move by the second-order one.
    """
    learner, sampler = _SineLearner("lslr"), SinusoidSampler()
    optimizer = torch.optim.Adam(learner.parameters(), lr=3e-3)
    norms = []
    for _ in range(meta_steps):
        batch = sampler.sample(SINE_TASKS)
        gradients = [learner.gradient(batch, second_order) for second_order in (False, True)]
        count = len(list(learner.network.parameters()))  # the rates' gradients are not compared
        norms.append([_norm(gradient[:count]) for gradient in gradients])
        _take(optimizer, learner, gradients[1])
    return np.array(norms)


@lru_cache
def sine_rates(rule: str, meta_steps: int = 60) -> tuple[LSLR | MetaSGD, ...]:
    """The inner rule after 0, 1, 2, … meta-steps on sine waves, with a large outer rate."""
    learner, sampler = _SineLearner(rule), SinusoidSampler()
    optimizer = torch.optim.Adam(learner.parameters(), lr=1e-3)
    rules = [copy.deepcopy(learner.rule)]
    for _ in range(meta_steps):
        _take(optimizer, learner, learner.gradient(sampler.sample(SINE_TASKS), True))
        rules.append(copy.deepcopy(learner.rule))
    return tuple(rules)


def _norm(gradient: Sequence[Tensor]) -> float:
    return float(torch.cat([part.flatten() for part in gradient]).norm())


def _take(optimizer: torch.optim.Optimizer, learner: nn.Module, gradient: list[Tensor]) -> None:
    for parameter, part in zip(learner.parameters(), gradient, strict=True):
        parameter.grad = part
    optimizer.step()
