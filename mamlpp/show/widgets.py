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
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from torch import Tensor, nn
from torch.func import functional_call

from mamlpp.data import load_images
from mamlpp.data.sinusoids import SinusoidSampler
from mamlpp.data.tasks import TaskBatch, TaskSampler
from mamlpp.errors import InputError
from mamlpp.inner_rates import LSLR, MetaSGD
from mamlpp.learner import MetaLearner
from mamlpp.maml import Model, Task, Weights, inner_loop, task_loss
from mamlpp.network import BatchStatistics
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
    parameters; of its words, those after a line break are said but not drawn. A notebook shows an
    explorer that ends a cell, or is given to `display`.
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
        self._waiting = False
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
            matplotlib.rcParams["text.hinting"] = "none"  # a tenth of the time, and looks the same
            try:
                figure, words = self.draw(**self.values)
            except InputError as error:
                figure, words = _canvas(0), f"Not possible: {error}."
            _write_caption(figure, words.partition("\n")[0])
            return _png(figure), words

    def choose(self, values: Mapping[str, Any]) -> None:
        """Set several controls at once; the picture is drawn anew once."""
        with self._lock:
            self._waiting = True
            for name, value in values.items():
                self.controls[name].value = value
            self._waiting = False
            self._refresh(None)

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
            if self._waiting or not self._handles:
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
    margins = {"left": 0.085, "right": 0.98, "top": 1 - 0.38 / (height + CAPTION)}
    if panels:
        figure.subplots(1, panels, gridspec_kw={"bottom": bottom, "wspace": 0.3} | margins | grid)
    for ax in figure.axes:
        ax.locator_params(nbins=4)
    return figure


def _write_caption(figure: Figure, words: str) -> None:
    figure.text(0.02, 0.02, textwrap.fill(words, 113), fontsize=10.5, va="bottom")


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, pil_kwargs={"compress_level": 1})
    return file.getvalue()


def _title(ax: Axes, text: str) -> None:
    # With a y of its own: to find one, matplotlib would measure all other text first.
    ax.set_title(text, fontsize=11, loc="left", y=1.02)


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
            "msl_epochs": _whole("annealed over epochs", 15, 0, 40),
            "floor": _number("floor, parts of 1/N", 0.0, 0.0, 1.0, 0.01),
            "epoch": _number("epoch", 5.0, 0.0, 40.0, 0.5),
        },
    )


def _draw_msl(steps: int, msl_epochs: int, floor: float, epoch: float) -> Picture:
    recipe = Recipe(
        inner_steps=steps, msl_epochs=msl_epochs, msl_floor=floor / steps if msl_epochs else 0.0
    )
    weights = plots.weights_at(recipe, epoch)
    figure = _canvas(2, width_ratios=[2, 1])
    left, right = figure.axes
    plots.plot_step_weights(recipe, left, until=40)
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


def _draw_cosine(maximum: float, minimum: float, epochs: int, epoch: int, bounded: bool) -> Picture:
    recipe = Recipe(outer_rate=maximum, outer_rate_min=minimum, epochs=epochs)
    figure = _canvas(1, left=0.11, right=0.97)
    [ax] = figure.axes
    plots.plot_outer_rate(recipe, ax, until=450, bounded=bounded)
    [rate] = plots.outer_rates(recipe, [epoch], bounded)
    ax.plot(epoch, rate, "o", color="#d62728", markersize=10, clip_on=False)
    side, shift = ("left", 10) if epoch < 380 else ("right", -10)
    ax.annotate(f"{rate:.2e}", (epoch, rate), (shift, 8), textcoords="offset points", ha=side)
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
        recipe = Recipe(second_order_from=None if never else switch, inner_steps=steps, epochs=last)
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
    right.yaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=8))
    right.yaxis.set_major_formatter("{x:g}")
    right.yaxis.set_minor_locator(NullLocator())
    right.set_ylim(top=8 * right.get_ylim()[1])
    right.legend(fontsize=9, loc="upper center", ncols=3)
    _title(right, "Gradient norms, and the order at each epoch")
    return figure, f"{_order_words(recipe)} {source}"


def _order_words(recipe: Recipe) -> str:
    cost = f"{100 * plots.relative_cost(recipe):.0f} %"
    counted = f"counting {plots.SECOND_ORDER_PASS:g} for a support pass in second order"
    switch = recipe.second_order_from
    if switch is None:
        return f"First order throughout: {cost} of the cost of second-order MAML, {counted}."
    return (
        f"First order up to epoch {switch:g} of {recipe.epochs}, second order from there on: "
        f"{cost} of the cost of second order throughout, {counted}."
    )


def _plot_sine_norms(recipe: Recipe, ax: Axes) -> str:
    norms = sine_norms()
    epochs = (np.arange(len(norms)) + 0.5) * recipe.epochs / len(norms)
    taken = np.array([plots.schedules.second_order(recipe.second_order_from, e) for e in epochs])
    used = np.where(taken, norms[:, 1], norms[:, 0])
    for column, (name, colour) in enumerate(
        (("first order's norm", "#b37a1e"), ("second order's", plots.COLOURS["MAML"]))
    ):
        ax.plot(epochs, norms[:, column], color=colour, linewidth=1.2, label=name)
    ax.plot(epochs, used, ".", color="#333333", markersize=4, label="the one taken")
    return (
        f"Norms measured here, in {len(norms)} meta-steps on sine waves: both orders at the same "
        f"weights; first order's is {np.median(norms[:, 0] / norms[:, 1]):.2f} times second "
        f"order's (median)."
    )


# A small real training, on sine waves: it takes a second, and its numbers are measured.

SINE_STEPS, SINE_TASKS = 5, 4


class _SineLearner(nn.Module):
    """A network of two hidden layers of 20, and its inner rule."""

    def __init__(self, rule: str) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.network = nn.Sequential()
            for name, before, after in (("first", 1, 20), ("second", 20, 20), ("head", 20, 1)):
                self.network.add_module(name, nn.Linear(before, after))
                if name != "head":
                    self.network.add_module(f"{name} tanh", nn.Tanh())
        weights = dict(self.network.named_parameters())
        self.rule = (
            MetaSGD(weights, 0.02) if rule == "meta-sgd" else LSLR(weights, SINE_STEPS, 0.02)
        )

    def gradient(self, batch: TaskBatch, second_order: bool) -> list[Tensor]:
        """The meta-gradient, mean over the tasks, in the order of the parameters."""
        model: Model = lambda weights, x, _: functional_call(self.network, weights, (x,))  # noqa: E731
        counts = [0.0] * (SINE_STEPS - 1) + [1.0]
        weights: Weights = dict(self.network.named_parameters())
        losses = [
            task_loss(model, weights, task, counts, self.rule, second_order, nn.functional.mse_loss)
            for task in batch
        ]
        loss = torch.stack([loss for loss, _ in losses]).mean()
        return list(torch.autograd.grad(loss, list(self.parameters())))


@lru_cache
def sine_norms(meta_steps: int = 30) -> np.ndarray:
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
def sine_rates(rule: str, meta_steps: int = 30) -> tuple[LSLR | MetaSGD, ...]:
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


# LSLR and Meta-SGD


def rates_explorer(
    rules: Sequence[LSLR | MetaSGD] | None = None, iterations: Sequence[int] | None = None
) -> Explorer:
    """Learned inner rates: how many there are, and what they become over a training.

    `rules` are copies of a learner's `rule`, all of one kind, as it was at several `iterations`
    (by default 0, 1, 2, …). Without them, two short trainings on sine waves are done here, which
    takes a few seconds.
    """
    if rules is not None and not rules:
        raise InputError("no rules to show: give copies of a learner's rule, taken in training")
    given = None if rules is None else tuple(rules)
    count = len(given or sine_rates("lslr"))
    numbers = list(range(count) if iterations is None else iterations)
    if len(numbers) != count:
        raise InputError(f"{count} rules came with {len(numbers)} iterations; give one for each")

    def draw(moment: int, filters: int, steps: int, rule: str | None = None) -> Picture:
        shown = given or sine_rates(rule or "lslr")
        return _draw_rates(shown, moment, numbers, filters, steps, given is not None)

    controls = {
        "moment": _whole("moment of the training", count - 1, 0, count - 1),
        "filters": _whole("filters of the network counted", 64, 8, 128),
        "steps": _whole("inner steps counted", 5, 1, 10),
    }
    if given is None:
        controls["rule"] = _choice(
            "heat map of", [("LSLR", "lslr"), ("Meta-SGD", "meta-sgd")], "lslr"
        )
    return Explorer(draw, controls)


def _draw_rates(
    rules: tuple[LSLR | MetaSGD, ...],
    moment: int,
    numbers: list[int],
    filters: int,
    steps: int,
    given: bool,
) -> Picture:
    figure = _canvas(2, width_ratios=[1, 1.5], left=0.12, wspace=0.35)
    left, right = figure.axes
    counts = network_rate_counts(filters, steps)
    plots.plot_rate_counts(counts, left)
    _title(left, f"Rates: {filters} filters, {steps} steps")
    rows, columns, values = plots.rates_table(rules[moment])
    centre = float(np.median(plots.rates_table(rules[0])[2]))
    spread = max(np.abs(plots.rates_table(rule)[2] - centre).max() for rule in rules)
    plots.plot_rates(rows, columns, values, right, centre, spread)
    lslr = isinstance(rules[moment], LSLR)
    _title(
        right, f"{'LSLR' if lslr else 'Meta-SGD, percentiles'}, after {numbers[moment]} meta-steps"
    )
    right.tick_params(labelsize=9)
    least, most = values.min(), values.max()
    source = (
        "recorded in a training" if given else "learned here, in a short training on sine waves"
    )
    return figure, (
        f"In a network of {filters} filters LSLR learns {counts['LSLR']} rates, Meta-SGD "
        f"{counts['Meta-SGD']:,}, MAML none: its one α is given. The heat map was {source}: after "
        f"{numbers[moment]} meta-steps the rates shown are {least:.3g} to {most:.3g}, where white "
        f"is {centre:.3g}, their beginning."
    )


@lru_cache
def network_rate_counts(filters: int, steps: int) -> dict[str, int]:
    """How many rates each inner rule has, for Omniglot's network, 28x28 and 20-way."""
    learner = MetaLearner(RECIPES["maml"].with_(filters=filters), (1, 28, 28), 20)
    weights = learner.weights()
    size = sum(weight.numel() for weight in weights.values())
    layers = len(LSLR(weights, steps, 0.1).layers)
    return {
        name: plots.count_rates(rule, size, layers, steps)
        for name, rule in (("MAML", "fixed"), ("LSLR", "lslr"), ("Meta-SGD", "meta-sgd"))
    }


# BNRS and BNWB

EPS = 1e-5  # as in `BatchNorm`
KINDS = {
    "batch": "of the task itself",
    "shared": "shared by all steps",
    "per_step": "one set a step (BNRS)",
}


def batch_norm_explorer(
    learner: MetaLearner | None = None, batch: TaskBatch | None = None
) -> Explorer:
    """What batch norm sees after each inner step, and what three kinds of statistics make of it.

    The last task of `batch` is new; the running statistics, shared or per step, are the mean over
    its other tasks. `learner` needs running statistics of its own for each step, as the recipe
    "maml++" has. Without one, a learner with random weights and the inner rate 0.4, at which the
    paper's learned rates begin on Omniglot, adapts to tasks of glyphs here.
    """
    random = learner is None
    learner = learner or MetaLearner(
        RECIPES["maml++"].with_(filters=8, inner_rate=0.4), (1, 28, 28), 5
    )
    if learner.recipe.norm_statistics != "per_step":
        raise InputError(
            f"this learner's norm_statistics are {learner.recipe.norm_statistics!r}, so that it "
            f"does not note what each step sees; give one whose recipe says 'per_step'"
        )
    batch = batch or _glyph_tasks(learner)
    if len(batch) < 2:
        raise InputError("one task alone has no others to compare with; give at least 2 tasks")
    means, variances = norm_statistics(learner, batch)
    blocks, steps, features = means.shape[1], means.shape[2] - 1, means.shape[3]
    where = (
        "a learner with random weights, inner rate 0.4, on glyphs"
        if random
        else "the learner given"
    )

    def draw(kind: str, block: int, feature: int, step: int) -> Picture:
        seen = means[:, block - 1, :, feature - 1], variances[:, block - 1, :, feature - 1]
        return _draw_batch_norm(seen, kind, step, f"block {block}, feature {feature}, of {where}")

    options = [(name, kind) for kind, name in KINDS.items()]
    return Explorer(
        draw,
        {
            "kind": _choice("statistics read", options, "shared"),
            "block": _whole("block", min(2, blocks), 1, blocks),
            "feature": _whole("feature", 1, 1, features),
            "step": _whole("inner steps taken", 0, 0, steps),
        },
    )


def _glyph_tasks(learner: MetaLearner, tasks: int = 9) -> TaskBatch:
    return TaskSampler(load_images("glyphs", "train"), learner.ways, 1, 1).sample(tasks)


def norm_statistics(learner: MetaLearner, batch: TaskBatch) -> tuple[Tensor, Tensor]:
    """Means and variances that each batch norm sees of each task's support images, before inner
    step 1, 2, … and after the last: `[B, blocks, S + 1, F]`. The learner stays as it was.
    """
    stacked = [_task_statistics(learner, task) for task in batch]
    means, variances = (torch.stack(of) for of in zip(*stacked, strict=True))
    return means, variances


def _task_statistics(learner: MetaLearner, task: Task) -> tuple[Tensor, Tensor]:
    seen: list[BatchStatistics] = []
    support, steps = (task.support_x, task.support_y), learner.recipe.inner_steps
    model, _ = learner.models(task, seen)
    path = inner_loop(model, learner.weights(), support, steps, learner.rule, False)
    model(path[-1], task.support_x, steps)
    # Noted step by step, block after block: [(S + 1)·blocks, F] to [blocks, S + 1, F].
    means = torch.stack([mean for _, _, mean, _ in seen])
    variances = torch.stack([variance for _, _, _, variance in seen])
    by_block = [
        x.detach().unflatten(0, (steps + 1, -1)).transpose(0, 1) for x in (means, variances)
    ]
    return by_block[0], by_block[1]


def _draw_batch_norm(seen: tuple[Tensor, Tensor], kind: str, step: int, where: str) -> Picture:
    """`seen` are means and variances `[B, S + 1]` of one feature; the last task is the new one."""
    task = seen[0][-1], seen[1][-1]
    reads = read_statistics(*seen)
    results = {
        KINDS[name]: _normalised(task, statistics, step) for name, statistics in reads.items()
    }
    figure = _canvas(2, width_ratios=[1, 1], wspace=0.55)
    left, right = figure.axes
    mean, variance = reads[kind]
    plots.plot_norm_statistics((task[0], task[1].sqrt()), (mean, variance.sqrt()), left, step)
    _title(left, "Into batch norm: a new task, step by step")
    plots.plot_normalised(results, right, KINDS[kind])
    right.tick_params(axis="y", labelsize=9)
    _title(right, f"Out of it, after {step} inner steps")
    mean_out, deviation_out = results[KINDS[kind]]
    return figure, (
        f"Statistics {KINDS[kind]}: after {step} inner steps batch norm gives this feature a mean "
        f"of {mean_out:.2f} and a standard deviation of {deviation_out:.2f}, where it should give "
        f"0 and 1. Computed here for {where}; running statistics are the means over "
        f"{len(seen[0]) - 1} other tasks."
    )


def read_statistics(means: Tensor, variances: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """What each kind reads at steps 0 … S, mean and variance `[S + 1]`, for the last of the tasks
    `[B, S + 1]`: its own; the other tasks' mean over all steps; the other tasks' of each step.
    """
    others = means[:-1].mean(0), variances[:-1].mean(0)
    return {
        "batch": (means[-1], variances[-1]),
        "shared": (others[0].mean().expand_as(others[0]), others[1].mean().expand_as(others[1])),
        "per_step": others,
    }


def _normalised(
    task: tuple[Tensor, Tensor], read: tuple[Tensor, Tensor], step: int
) -> tuple[float, float]:
    """Mean and standard deviation after (x − mean read) / √(variance read)."""
    scale = torch.rsqrt(read[1][step] + EPS)
    return float((task[0][step] - read[0][step]) * scale), float(task[1][step].sqrt() * scale)


# The unrolled graph


def graph_explorer() -> Explorer:
    """The unrolled inner loop: the ways that the meta-gradient takes, and how long they are."""
    return Explorer(
        _draw_graph,
        {
            "steps": _whole("inner steps N", 5, 1, 8),
            "msl": _switch("multi-step loss", False),
            "second_order": _switch("second order", True),
            "own": _switch("rates and batch norm of its own for each step", False),
        },
    )


def _draw_graph(steps: int, msl: bool, second_order: bool, own: bool) -> Picture:
    recipe = Recipe(
        inner_steps=steps,
        msl_epochs=15.0 if msl else 0.0,
        second_order_from=0.0 if second_order else None,
        inner_rule="lslr" if own else "fixed",
        norm_statistics="per_step" if own else "batch",
        norm_weights="per_step" if own else "shared",
    )
    figure = _canvas(0, height=3.5)
    low = CAPTION / (3.5 + CAPTION)
    ax = figure.add_axes((0.01, low + 0.05, 0.98, 0.93 - low))
    diagrams.plot_unrolled(recipe, ax)
    diagrams.add_legend(ax)
    return figure, _graph_words(recipe)


def _graph_words(recipe: Recipe) -> str:
    paths = diagrams.gradient_paths(recipe)
    layers, longest = diagrams.LAYERS, paths[-1]
    words = (
        f"The longest way back, from the query loss after step {longest.step}, goes through "
        f"{longest.support_layers} layers of support passes and the {layers} of the query's own. "
    )
    if longest.support_layers == 0:
        words = (
            f"In first order every way back goes past the support passes, along the weights: only "
            f"the {layers} layers of the query's own pass are on it. "
        )
    elif len(paths) > 1:
        words += (
            f"The multi-step loss opens {len(paths) - 1} shorter ones, the shortest through "
            f"{paths[0].support_layers}. "
        )
    verb = "counts" if len(paths) == 1 else "count"
    words += f"Of the {recipe.inner_steps} query losses {len(paths)} {verb}."
    if recipe.norm_weights == "per_step":
        words += " Each step has rates, a rate a layer, and a batch norm of its own."
    return words


# The whole recipe


def recipe_board(name: str = "maml++") -> Explorer:
    """Every switch of MAML++, and the timeline of the run that they make, with its cost.

    Choosing a recipe by its name sets all switches.
    """
    if name not in RECIPES:
        raise InputError(f"there is no recipe {name!r}; choose one of {', '.join(RECIPES)}")
    controls = {"epoch": _number("epoch", 5, 0, 150, 1)} | _switches(RECIPES[name])
    board = Explorer(_draw_board, controls)
    preset = _choice("begin with", list(RECIPES), name)
    preset.observe(lambda change: board.choose(_settings(RECIPES[change["new"]])), "value")
    board.box.children = (preset, *board.box.children)
    return board


def _switches(recipe: Recipe) -> dict[str, ipywidgets.Widget]:
    settings = _settings(recipe)
    rules = [("one, given", "fixed"), ("LSLR", "lslr"), ("Meta-SGD", "meta-sgd")]
    statistics = ["batch", "shared", "per_step"]
    return {
        "epochs": _whole("epochs", settings["epochs"], 10, 150),
        "inner_steps": _whole("inner steps", settings["inner_steps"], 1, 10),
        "msl_epochs": _whole("MSL: annealed over epochs", settings["msl_epochs"], 0, 50),
        "second_order_from": _whole("DA: second order from", settings["second_order_from"], 0, 150),
        "first_order": _switch("first order throughout", settings["first_order"]),
        "inner_rule": _choice("LSLR: inner rates", rules, settings["inner_rule"]),
        "norm_statistics": _choice("BNRS: statistics", statistics, settings["norm_statistics"]),
        "norm_weights": _choice("BNWB: weights", statistics[1:], settings["norm_weights"]),
        "annealed": _switch("CA: outer rate annealed", settings["annealed"]),
    }


def _settings(recipe: Recipe) -> dict[str, Any]:
    """A recipe's fields as the board's switches have them."""
    return {
        "epochs": recipe.epochs,
        "inner_steps": recipe.inner_steps,
        "msl_epochs": int(recipe.msl_epochs),
        "second_order_from": int(recipe.second_order_from or 0),
        "first_order": recipe.second_order_from is None,
        "inner_rule": recipe.inner_rule,
        "norm_statistics": recipe.norm_statistics,
        "norm_weights": recipe.norm_weights,
        "annealed": recipe.outer_rate_min is not None,
    }


def board_recipe(first_order: bool, second_order_from: int, annealed: bool, **rest: Any) -> Recipe:
    """The recipe that the board's switches stand for."""
    return Recipe(
        second_order_from=None if first_order else second_order_from,
        outer_rate_min=1e-5 if annealed else None,
        **rest,
    )


def _draw_board(epoch: float, **settings: Any) -> Picture:
    recipe = board_recipe(**settings)
    epoch = min(epoch, recipe.epochs)
    figure = _canvas(0, height=4.6)
    grid = figure.add_gridspec(
        3, 1, height_ratios=[3, 2, 2], hspace=0.2,
        left=0.13, right=0.68, top=0.95, bottom=(CAPTION + 0.62) / (4.6 + CAPTION),
    )  # fmt: skip
    timeline = [figure.add_subplot(grid[row]) for row in range(3)]
    plots.plot_timeline(recipe, timeline)
    for ax in timeline:
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.axvline(epoch, color="#d62728", linewidth=2)
    _title(timeline[0], "The timeline of this training")
    facts = "\n\n".join(f"{name}:\n   {value}" for name, value in _fixed_facts(recipe).items())
    figure.text(0.71, 0.95, facts, fontsize=10, va="top")
    return figure, _board_words(recipe, epoch)


def _fixed_facts(recipe: Recipe) -> dict[str, str]:
    """What is the same at every epoch."""
    counts = network_rate_counts(recipe.filters, recipe.inner_steps)
    name = {"fixed": "MAML", "lslr": "LSLR", "meta-sgd": "Meta-SGD"}[recipe.inner_rule]
    sets = {"shared": "1 set", "per_step": f"{recipe.inner_steps + 1} sets", "batch": "none kept"}
    return {
        "Inner steps": str(recipe.inner_steps),
        "Inner rates": "1 α, given" if name == "MAML" else f"{counts[name]:,} α, learned",
        "Running statistics": sets[recipe.norm_statistics],
        "Batch-norm weight and bias": sets[recipe.norm_weights],
        "Predicted cost": f"{100 * plots.relative_cost(recipe):.0f} % of plain MAML's",
    }


COST_IN_WORDS = (
    "Cost counts passes: 1 for a query loss, 1 for a support pass, or "
    f"{plots.SECOND_ORDER_PASS:g} in second order."
)


def _board_words(recipe: Recipe, epoch: float) -> str:
    weights = plots.weights_at(recipe, epoch)
    counted = sum(weight > 0 for weight in weights)
    order, _ = plots.ORDERS[plots.schedules.second_order(recipe.second_order_from, epoch)]
    [rate] = plots.outer_rates(recipe, [epoch])
    share = plots.passes(recipe, epoch) / plots.passes(Recipe(inner_steps=recipe.inner_steps), 0)
    losses = "1 query loss counts" if counted == 1 else f"{counted} query losses count"
    facts = "; ".join(f"{name.lower()}: {value}" for name, value in _fixed_facts(recipe).items())
    return (
        f"At epoch {epoch:g} of {recipe.epochs}: {losses}, the last {weights[-1]:.2g}; the "
        f"meta-gradient is of {order}; the outer rate is {rate:.3g}; a meta-step costs {share:.0%} "
        f"of plain MAML's. {COST_IN_WORDS}\nAt every epoch: {facts}."
    )


# Two tasks with two weights

EXTENT = 3.0
_TASKS = (
    Task(*2 * (torch.tensor([[1.9, 0.3], [0.0, 0.5]]), torch.tensor([-2.2, 0.45]))),
    Task(*2 * (torch.tensor([[0.5, 0.0], [-0.3, 1.9]]), torch.tensor([0.7, -2.3]))),
)  # each learns two weights θ from two equations x·θ = y; its queries are the same


def _half_square(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().sum(-1) / 2


def _linear(weights: Mapping[str, Tensor], x: Tensor, step: int) -> Tensor:
    return weights["theta"] @ x.mT


def landscape_explorer() -> Explorer:
    """Two weights, two tasks: where MAML, first-order MAML and joint training want to go from here.

    Joint training follows the mean of the two losses; MAML that of the losses after the inner
    steps. All gradients are taken by `mamlpp.maml` and autograd.
    """
    return Explorer(
        _draw_landscape,
        {
            "theta1": _number("initial weight θ₁", 0.0, -EXTENT, EXTENT, 0.1),
            "theta2": _number("initial weight θ₂", 1.0, -EXTENT, EXTENT, 0.1),
            "rate": _number("inner rate α", 0.2, 0.0, 0.6, 0.01),
            "steps": _whole("inner steps", 3, 1, 8),
        },
    )


def landscape_gradients(theta: Sequence[float], rate: float, steps: int) -> dict[str, Tensor]:
    """The gradient `[2]` that each method would follow from `theta`, mean over the two tasks."""
    weights = {"theta": torch.tensor(theta, dtype=torch.float32, requires_grad=True)}

    def meta(second_order: bool) -> Tensor:
        counts = [0.0] * (steps - 1) + [1.0]
        losses = [
            task_loss(_linear, weights, task, counts, lambda *_: rate, second_order, _half_square)
            for task in _TASKS
        ]
        return torch.stack([loss for loss, _ in losses]).mean()

    joint = torch.stack(
        [_half_square(_linear(weights, task.query_x, 0), task.query_y) for task in _TASKS]
    ).mean()
    losses = {"MAML": meta(True), "first-order MAML": meta(False), "joint training": joint}
    return {name: torch.autograd.grad(loss, weights["theta"])[0] for name, loss in losses.items()}


@lru_cache
def _loss_grids(points: int = 49) -> list[np.ndarray]:
    axis = torch.linspace(-EXTENT, EXTENT, points)
    theta = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)  # [G, G, 2]
    return [
        _half_square(_linear({"theta": theta}, task.query_x, 0), task.query_y).numpy()
        for task in _TASKS
    ]


def _inner_paths(theta: Sequence[float], rate: float, steps: int) -> list[np.ndarray]:
    start = {"theta": torch.tensor(theta, dtype=torch.float32, requires_grad=True)}
    paths = [
        inner_loop(
            _linear, start, (task.support_x, task.support_y), steps, lambda *_: rate, False,
            _half_square,
        )
        for task in _TASKS
    ]  # fmt: skip
    return [torch.stack([w["theta"].detach() for w in path]).numpy() for path in paths]


def _draw_landscape(theta1: float, theta2: float, rate: float, steps: int) -> Picture:
    theta = theta1, theta2
    gradients = landscape_gradients(theta, rate, steps)
    arrows = {name: -gradient.numpy() for name, gradient in gradients.items()}
    figure = _canvas(1, height=4.6, right=0.6)
    [ax] = figure.axes
    paths = _inner_paths(theta, rate, steps)
    plots.plot_landscape(_loss_grids(), EXTENT, paths, arrows, ax)
    ax.plot(*theta, "o", color="black", markersize=9)
    ax.legend(loc="upper left", bbox_to_anchor=(1.03, 1.0), title="downhill from the black dot")
    _title(ax, "The losses of tasks A and B, and the inner steps to each")
    words = _landscape_words(gradients, rate, steps)
    walks = zip(paths, _TASKS, strict=True)
    if any(_task_loss(path[-1], task) > _task_loss(path[0], task) for path, task in walks):
        words += " The inner rate is too large: the steps lead away from a task's least loss."
    return figure, words


def _task_loss(theta: np.ndarray, task: Task) -> float:
    outputs = _linear({"theta": torch.from_numpy(theta)}, task.support_x, 0)
    return float(_half_square(outputs, task.support_y))


def _landscape_words(gradients: dict[str, Tensor], rate: float, steps: int) -> str:
    maml = gradients["MAML"]
    angles = {
        name: float(torch.rad2deg(torch.atan2(_cross(maml, g), maml @ g).abs()))
        for name, g in gradients.items()
    }
    return (
        f"With {steps} inner steps of rate {rate:g}, first-order MAML points "
        f"{angles['first-order MAML']:.0f}° and joint training {angles['joint training']:.0f}° "
        f"away from MAML. The gradients are {maml.norm():.3g} (MAML), "
        f"{gradients['first-order MAML'].norm():.3g} (first order) and "
        f"{gradients['joint training'].norm():.3g} (joint) long; the arrows show directions only."
    )


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[0] * b[1] - a[1] * b[0]
