"""Interactive explorers of MAML++: in a notebook, for example `widgets.msl_explorer()`.

An explorer has controls for mouse and keyboard, and below them a picture with a caption. The
picture is a plain PNG output with its own light background, so it is legible on a dark page and
stays in the executed notebook. Letters: S inner steps, L layers, F features.
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
from mamlpp.recipe import Recipe
from mamlpp.recipes import RECIPES
from mamlpp.run.history import History
from mamlpp.show import diagrams
from mamlpp.show import schedule_plots as plots
from mamlpp.show.html import CONTROLS, widget_output
from mamlpp.show.plots import use_style

Picture = tuple[Figure, str]  # a figure and its caption

WIDTH, DPI = 9.0, 90  # inches and pixels per inch: small, so that drawing takes at most 0.1 s
CAPTION_HEIGHT = 0.75  # inches


class Explorer:
    """Controls with a picture that is redrawn whenever one of them changes.

    `draw(**values)` returns the figure and the caption for the controls' values; the controls are
    named like its parameters. Only the first line of the caption is drawn; screen readers get all
    of it. A notebook displays an explorer at the end of a cell or passed to `display`.
    """

    def __init__(
        self, draw: Callable[..., Picture], controls: Mapping[str, ipywidgets.Widget]
    ) -> None:
        self.draw, self.controls = draw, dict(controls)
        self._caption = ipywidgets.HTML()
        rows = ipywidgets.Box(
            list(self.controls.values()), layout={"flex_flow": "row wrap", "display": "flex"}
        )
        self.box = ipywidgets.VBox([rows, self._caption])
        self._handles: list[DisplayHandle] = []
        # Callbacks may run on a different thread from the cell that displays the explorer.
        self._lock = threading.RLock()
        self._updates_paused = False
        for control in self.controls.values():
            control.observe(self._refresh, "value")

    @property
    def values(self) -> dict[str, Any]:
        """The current value of each control, by name."""
        return {name: control.value for name, control in self.controls.items()}

    def picture(self) -> tuple[bytes, str]:
        """Return the PNG for the current values and its caption."""
        with matplotlib.rc_context():
            use_style()
            matplotlib.rcParams["text.hinting"] = "none"  # faster, and looks the same
            try:
                figure, caption = self.draw(**self.values)
            except InputError as error:
                figure, caption = make_figure(0), f"Invalid settings: {error}."
            _draw_caption(figure, caption.partition("\n")[0])
            return _encode_png(figure), caption

    def set_values(self, values: Mapping[str, Any]) -> None:
        """Set several controls and redraw the picture once."""
        with self._lock:
            self._updates_paused = True
            for name, value in values.items():
                self.controls[name].value = value
            self._updates_paused = False
            self._refresh(None)

    def _ipython_display_(self) -> None:
        with self._lock:
            display(widget_output(self.box, CONTROLS), raw=True)
            data, metadata = self._output()
            handle = display(data, raw=True, metadata=metadata, display_id=True)
            self._handles.append(handle)

    def _refresh(self, _: object) -> None:
        with self._lock:
            if self._updates_paused or not self._handles:
                return
            data, metadata = self._output()
            for handle in self._handles:
                handle.update(data, raw=True, metadata=metadata)

    def _output(self) -> tuple[dict[str, str], dict[str, Any]]:
        png, caption = self.picture()
        # JupyterLab gives images no alternative text; this hidden text is for screen readers.
        self._caption.value = (
            f'<span role="status" style="position:absolute;clip-path:inset(50%)">'
            f"{escape(caption)}</span>"
        )
        data = {"image/png": base64.b64encode(png).decode(), "text/plain": caption}
        return data, {"image/png": {"alt": caption}}


# Drawing


def make_figure(columns: int, height: float = 3.3, **grid: Any) -> Figure:
    """Create a figure without pyplot, with `columns` subplots above space for a caption.

    The margins are fixed, because a layout engine takes longer than the drawing itself.
    """
    figure = Figure(figsize=(WIDTH, height + CAPTION_HEIGHT), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    bottom = (CAPTION_HEIGHT + 0.62) / (height + CAPTION_HEIGHT)
    margins = {"left": 0.085, "right": 0.98, "top": 1 - 0.38 / (height + CAPTION_HEIGHT)}
    if columns:
        figure.subplots(1, columns, gridspec_kw={"bottom": bottom, "wspace": 0.3} | margins | grid)
    for ax in figure.axes:
        ax.locator_params(nbins=4)
    return figure


def _draw_caption(figure: Figure, caption: str) -> None:
    text = textwrap.fill(caption, 113, break_on_hyphens=False)
    figure.text(0.02, 0.02, text, fontsize=10.5, va="bottom")


def _encode_png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, pil_kwargs={"compress_level": 1})
    return file.getvalue()


def _set_title(ax: Axes, text: str) -> None:
    # An explicit y saves time: otherwise matplotlib measures all other text to place the title.
    ax.set_title(text, fontsize=11, loc="left", y=1.02)


# Controls. Each has a visible description, which is also the only name a screen reader gets.

_LAYOUT = {
    "style": {"description_width": "initial"},
    "layout": {"width": "330px", "margin": "2px 12px 2px 0"},
}


def _int_slider(label: str, value: int, low: int, high: int) -> ipywidgets.IntSlider:
    return ipywidgets.IntSlider(value, low, high, description=label, **_LAYOUT)


def _float_slider(
    label: str, value: float, low: float, high: float, step: float
) -> ipywidgets.FloatSlider:
    return ipywidgets.FloatSlider(
        value, min=low, max=high, step=step, description=label, readout_format=".4g", **_LAYOUT
    )


def _log_slider(label: str, value: float, low: int, high: int) -> ipywidgets.FloatLogSlider:
    """A slider from `10**low` to `10**high`."""
    return ipywidgets.FloatLogSlider(
        value, min=low, max=high, step=0.25, description=label, readout_format=".1e", **_LAYOUT
    )


def _dropdown(label: str, options: Sequence, value: Any) -> ipywidgets.Dropdown:
    return ipywidgets.Dropdown(options=options, value=value, description=label, **_LAYOUT)


def _checkbox(label: str, value: bool) -> ipywidgets.Checkbox:
    return ipywidgets.Checkbox(value, description=label, indent=False, **_LAYOUT)


# MSL


def msl_explorer() -> Explorer:
    """Explore the multi-step loss (MSL): the weight of each query loss, epoch by epoch."""
    return Explorer(
        _draw_msl,
        {
            "steps": _int_slider("inner steps N", 5, 1, 10),
            "msl_epochs": _int_slider("annealing epochs", 15, 0, 40),
            "floor": _float_slider("floor, fraction of 1/N", 0.0, 0.0, 1.0, 0.01),
            "epoch": _float_slider("epoch", 5.0, 0.0, 40.0, 0.5),
        },
    )


def _draw_msl(steps: int, msl_epochs: int, floor: float, epoch: float) -> Picture:
    recipe = Recipe(
        inner_steps=steps, msl_epochs=msl_epochs, msl_floor=floor / steps if msl_epochs else 0.0
    )
    weights = plots.step_weights(recipe, epoch)
    figure = make_figure(2, width_ratios=[2, 1])
    left, right = figure.axes
    plots.plot_step_weights(recipe, left, until=40)
    left.axvline(epoch, color="#d62728", linewidth=2)
    _set_title(left, "Weights of the query losses: they always sum to 1")
    plots.plot_weight_bars(weights, right)
    _set_title(right, f"At epoch {epoch:g}")
    return figure, _msl_caption(recipe, weights, epoch)


def _msl_caption(recipe: Recipe, weights: list[float], epoch: float) -> str:
    active = sum(weight > 0 for weight in weights)
    last = (
        f"At epoch {epoch:g}, the query loss after the last of {len(weights)} inner steps has "
        f"weight {weights[-1]:.3g}"
    )
    if active == 1:
        return f"{last}, and it is the only one computed: all other weights are 0."
    caption = (
        f"{last}, and each of the other {active - 1} has weight {weights[0]:.3g}; all {active} are "
        f"computed. "
    )
    if epoch >= recipe.msl_epochs:
        return caption + f"The weights stay at this floor from epoch {recipe.msl_epochs:g} on."
    return caption + (
        f"Until epoch {recipe.msl_epochs:g}, every epoch moves a weight of "
        f"{1 / len(weights) - recipe.msl_floor:.3g}/{recipe.msl_epochs:g} from each of them to the "
        f"last."
    )


# CA


def cosine_explorer() -> Explorer:
    """Explore cosine annealing (CA) of the outer rate, with and without the bound T ≤ T_max."""
    return Explorer(
        _draw_cosine,
        {
            "maximum": _log_slider("β_max", 1e-3, -5, -1),
            "minimum": _log_slider("β_min", 1e-5, -7, -1),
            "epochs": _int_slider("T_max, epochs", 150, 10, 300),
            "epoch": _int_slider("epoch", 75, 0, 450),
            "bounded": _checkbox("bounded: T stops at T_max", True),
        },
    )


def _draw_cosine(maximum: float, minimum: float, epochs: int, epoch: int, bounded: bool) -> Picture:
    recipe = Recipe(outer_rate=maximum, outer_rate_min=minimum, epochs=epochs)
    figure = make_figure(1, left=0.11, right=0.97)
    [ax] = figure.axes
    plots.plot_outer_rate(recipe, ax, until=450, bounded=bounded)
    [rate] = plots.outer_rates(recipe, [epoch], bounded)
    ax.plot(epoch, rate, "o", color="#d62728", markersize=10, clip_on=False)
    align, offset = ("left", 10) if epoch < 380 else ("right", -10)
    ax.annotate(f"{rate:.3g}", (epoch, rate), (offset, 8), textcoords="offset points", ha=align)
    _set_title(ax, "Learning rate of the meta-optimizer")
    caption = f"At epoch {epoch}, the outer rate is {rate:.3g}, {rate / maximum:.1%} of β_max. "
    if bounded:
        return figure, caption + f"T stops at T_max: from epoch {epochs} it stays at {minimum:.3g}."
    return figure, caption + (
        f"T exceeds T_max: after epoch {epochs} the rate rises again and reaches β_max at epoch "
        f"{2 * epochs}."
    )


# DA


def order_explorer(history: History | None = None, epochs: int = 100) -> Explorer:
    """Explore derivative-order annealing (DA): cost by switch epoch, and gradient norms of a run.

    `history` is the `run.history` whose meta-gradient norms are shown. Without one, a short
    training on sine waves runs here for a second or two, and computes the first-order and
    second-order gradient at the same weights in each meta-step. Raises `InputError` for an empty
    history.
    """
    last = epochs
    if history is not None:
        if not history.rows:
            raise InputError("the history has no meta-steps yet; train first, then explore it")
        last = max(1, round(history.rows[-1]["epoch"] + 0.5))

    def draw(switch: float, never: bool, steps: int) -> Picture:
        recipe = Recipe(second_order_from=None if never else switch, inner_steps=steps, epochs=last)
        return _draw_order(recipe, history)

    start = min(50, last // 2)
    return Explorer(
        draw,
        {
            "switch": _float_slider("epoch of the switch", start, 0, last, last / 100),
            "never": _checkbox("never: first-order MAML", False),
            "steps": _int_slider("inner steps", 5, 1, 10),
        },
    )


def _draw_order(recipe: Recipe, history: History | None) -> Picture:
    figure = make_figure(2, width_ratios=[1, 1.6])
    left, right = figure.axes
    plots.plot_order_cost(recipe, left)
    _set_title(left, "Cost, % of second order throughout")
    plots.plot_order(recipe, right)
    if history is None:
        source = _plot_sine_norms(recipe, right)
    else:
        source = "The dots are the meta-gradient norms recorded in the run."
        norms = [(row["epoch"], row["gradient_norm"]) for row in history.rows]
        right.plot(*zip(*norms, strict=True), ".", color="#333333", markersize=4)
    right.set(yscale="log", ylabel="norm of the meta-gradient")
    right.yaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=8))
    right.yaxis.set_major_formatter("{x:g}")
    right.yaxis.set_minor_locator(NullLocator())
    right.set_ylim(top=8 * right.get_ylim()[1])
    right.legend(fontsize=9, loc="upper center", ncols=3)
    _set_title(right, "Gradient norms and derivative order")
    return figure, f"{_order_caption(recipe)} {source}"


def _order_caption(recipe: Recipe) -> str:
    cost = f"{100 * plots.relative_cost(recipe):.0f} %"
    assumption = (
        f"if a second-order support pass costs {plots.SECOND_ORDER_COST:g} first-order passes"
    )
    switch = recipe.second_order_from
    if switch is None:
        return f"First order throughout: {cost} of the cost of second-order MAML, {assumption}."
    return (
        f"First order until epoch {switch:g} of {recipe.epochs}, then second order: {cost} of the "
        f"cost of second order throughout, {assumption}."
    )


def _plot_sine_norms(recipe: Recipe, ax: Axes) -> str:
    norms = sine_norms()
    epochs = (np.arange(len(norms)) + 0.5) * recipe.epochs / len(norms)
    second = np.array([plots.schedules.second_order(recipe.second_order_from, e) for e in epochs])
    used = np.where(second, norms[:, 1], norms[:, 0])
    for column, (name, colour) in enumerate(
        (("norm, first order", "#b37a1e"), ("norm, second order", plots.COLOURS["MAML"]))
    ):
        ax.plot(epochs, norms[:, column], color=colour, linewidth=1.2, label=name)
    ax.plot(epochs, used, ".", color="#333333", markersize=4, label="used")
    return (
        f"Norms measured here at the same weights, in {len(norms)} meta-steps on sine waves: the "
        f"first-order one is {np.median(norms[:, 0] / norms[:, 1]):.2f} times the second-order one "
        f"(median)."
    )


# A short real training on sine waves, which takes about a second

SINE_STEPS, SINE_TASKS = 5, 4


class _SineLearner(nn.Module):
    """A network with two hidden layers of 20 units, and its inner rule."""

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
        """Return the meta-gradient averaged over the tasks, in the order of the parameters."""
        model: Model = lambda weights, x, _: functional_call(self.network, weights, (x,))  # noqa: E731
        final_only = [0.0] * (SINE_STEPS - 1) + [1.0]
        weights: Weights = dict(self.network.named_parameters())
        losses = [
            task_loss(
                model, weights, task, final_only, self.rule, second_order, nn.functional.mse_loss
            )
            for task in batch
        ]
        loss = torch.stack([loss for loss, _ in losses]).mean()
        return list(torch.autograd.grad(loss, list(self.parameters())))


@lru_cache
def sine_norms(meta_steps: int = 30) -> np.ndarray:
    """Train on sine waves; return the norms `[T, 2]` of first- and second-order meta-gradients.

    Both are computed at the same weights; the second-order one then updates them.
    """
    learner, sampler = _SineLearner("lslr"), SinusoidSampler()
    optimizer = torch.optim.Adam(learner.parameters(), lr=3e-3)
    norms = []
    for _ in range(meta_steps):
        batch = sampler.sample(SINE_TASKS)
        gradients = [learner.gradient(batch, second_order) for second_order in (False, True)]
        count = len(list(learner.network.parameters()))  # without the gradients of the inner rates
        norms.append([_norm(gradient[:count]) for gradient in gradients])
        _optimizer_step(optimizer, learner, gradients[1])
    return np.array(norms)


@lru_cache
def sine_rates(rule: str, meta_steps: int = 30) -> tuple[LSLR | MetaSGD, ...]:
    """Train on sine waves; return the inner rule after 0, 1, 2, … meta-steps."""
    learner, sampler = _SineLearner(rule), SinusoidSampler()
    optimizer = torch.optim.Adam(learner.parameters(), lr=1e-3)
    rules = [copy.deepcopy(learner.rule)]
    for _ in range(meta_steps):
        _optimizer_step(optimizer, learner, learner.gradient(sampler.sample(SINE_TASKS), True))
        rules.append(copy.deepcopy(learner.rule))
    return tuple(rules)


def _norm(gradient: Sequence[Tensor]) -> float:
    return float(torch.cat([part.flatten() for part in gradient]).norm())


def _optimizer_step(
    optimizer: torch.optim.Optimizer, learner: nn.Module, gradient: list[Tensor]
) -> None:
    for parameter, part in zip(learner.parameters(), gradient, strict=True):
        parameter.grad = part
    optimizer.step()


# LSLR and Meta-SGD


def rates_explorer(
    rules: Sequence[LSLR | MetaSGD] | None = None, iterations: Sequence[int] | None = None
) -> Explorer:
    """Explore learned inner rates (LSLR, Meta-SGD): their number, and their values during training.

    `rules` are copies of one learner's `rule` at several `iterations` (by default 0, 1, 2, …).
    Without them, two short trainings on sine waves run here for a few seconds. Raises `InputError`
    if there are no rules, or not one iteration per rule.
    """
    if rules is not None and not rules:
        raise InputError("there are no rules to show; pass copies of a learner's rule")
    recorded = None if rules is None else tuple(rules)
    count = len(recorded or sine_rates("lslr"))
    numbers = list(range(count) if iterations is None else iterations)
    if len(numbers) != count:
        raise InputError(f"got {count} rules but {len(numbers)} iterations; pass one for each rule")

    def draw(snapshot: int, rule: str = "lslr") -> Picture:
        figure, caption = _draw_rates(recorded or sine_rates(rule), snapshot, numbers[snapshot])
        source = (
            "recorded in a training" if recorded else "learned here, by a small network on waves"
        )
        return figure, f"{caption} They were {source}."

    controls = {"snapshot": _int_slider("snapshot in the training", count - 1, 0, count - 1)}
    if recorded is None:
        controls["rule"] = _dropdown(
            "rates of", [("LSLR", "lslr"), ("Meta-SGD", "meta-sgd")], "lslr"
        )
    return Explorer(draw, controls)


def _draw_rates(rules: tuple[LSLR | MetaSGD, ...], snapshot: int, iteration: int) -> Picture:
    rule = rules[snapshot]
    figure = make_figure(1, left=0.13, right=0.9)
    [ax] = figure.axes
    rows, columns, values = plots.rates_table(rule)
    centre = float(np.median(plots.rates_table(rules[0])[2]))
    half_range = max(np.abs(plots.rates_table(each)[2] - centre).max() for each in rules)
    plots.plot_rates(rows, columns, values, ax, centre, half_range)
    left, bottom, width, height = ax.get_position().bounds
    scale = figure.add_axes((left + width + 0.02, bottom, 0.02, height))
    figure.colorbar(ax.images[0], cax=scale).ax.tick_params(labelsize=9)
    name = "LSLR" if isinstance(rule, LSLR) else "Meta-SGD, percentiles of each layer"
    _set_title(ax, f"{name}: α after {iteration} meta-steps (white: where all began)")
    ax.tick_params(labelsize=9)
    count = sum(rates.numel() for rates in rule.parameters())
    return figure, (
        f"{count:,} rates after {iteration} meta-steps, from {values.min():.2g} to "
        f"{values.max():.2g} on the map; all began at {centre:.2g}."
    )


@lru_cache
def network_rate_counts(filters: int, steps: int) -> dict[str, int]:
    """Return the number of rates of each inner rule for Omniglot, 28x28 and 20-way."""
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
STATISTICS = {
    "batch": "of the task itself",
    "shared": "shared by all steps",
    "per_step": "per step (BNRS)",
}


def batch_norm_explorer(
    learner: MetaLearner | None = None, batch: TaskBatch | None = None
) -> Explorer:
    """Explore batch norm (BNRS): its input after each inner step, normalised in three ways.

    The last task of `batch` plays the new task; the running statistics are the mean over the other
    tasks. `learner` must keep running statistics per step, as the recipe "maml++" does. Without
    one, a learner with random weights and inner rate 0.4, the paper's initial LSLR rate on
    Omniglot, adapts to glyph tasks. It opens after the last step, in the last block, at the feature
    whose mean is furthest from that of the other tasks. Raises `InputError` for another learner or
    a single task.
    """
    name = "the given learner"
    if learner is None:
        name = "a learner with random weights, inner rate 0.4, on glyphs"
        learner = MetaLearner(RECIPES["maml++"].with_(filters=8, inner_rate=0.4), (1, 28, 28), 5)
    if learner.recipe.norm_statistics != "per_step":
        raise InputError(
            f"the learner has norm_statistics={learner.recipe.norm_statistics!r}, so it records no "
            f"statistics per step; pass a learner with norm_statistics='per_step'"
        )
    batch = batch or _glyph_tasks(learner)
    if len(batch) < 2:
        raise InputError("one task cannot be compared with others; pass at least 2 tasks")
    means, variances = norm_statistics(learner, batch)
    blocks, steps, features = means.shape[1], means.shape[2] - 1, means.shape[3]
    others, deviation = means[:-1, -1, -1].mean(0), variances[:, -1, -1].mean(0).sqrt()
    telling = int(((means[-1, -1, -1] - others).abs() / deviation).argmax()) + 1

    def draw(statistics: str, block: int, feature: int, step: int) -> Picture:
        inputs = means[:, block - 1, :, feature - 1], variances[:, block - 1, :, feature - 1]
        source = f"block {block}, feature {feature} of {name}"
        return _draw_batch_norm(inputs, statistics, step, source)

    options = [(title, key) for key, title in STATISTICS.items()]
    return Explorer(
        draw,
        {
            "statistics": _dropdown("statistics", options, "per_step"),
            "block": _int_slider("block", blocks, 1, blocks),
            "feature": _int_slider("feature", telling, 1, features),
            "step": _int_slider("inner steps taken", steps, 0, steps),
        },
    )


def _glyph_tasks(learner: MetaLearner, tasks: int = 9) -> TaskBatch:
    return TaskSampler(load_images("glyphs", "train"), learner.ways, 1, 1).sample(tasks)


def norm_statistics(learner: MetaLearner, batch: TaskBatch) -> tuple[Tensor, Tensor]:
    """Return means and variances `[B, blocks, S + 1, F]` of the inputs of each batch-norm layer.

    They are those of each task's support images after 0 … S inner steps. The learner is unchanged.
    """
    by_task = [_task_statistics(learner, task) for task in batch]
    means, variances = (torch.stack(values) for values in zip(*by_task, strict=True))
    return means, variances


def _task_statistics(learner: MetaLearner, task: Task) -> tuple[Tensor, Tensor]:
    records: list[BatchStatistics] = []
    support, steps = (task.support_x, task.support_y), learner.recipe.inner_steps
    model, _ = learner.models(task, records)
    path = inner_loop(model, learner.weights(), support, steps, learner.rule, False)
    model(path[-1], task.support_x, steps)
    # Recorded step by step and block by block: [(S + 1)·blocks, F] to [blocks, S + 1, F].
    means = torch.stack([mean for _, _, mean, _ in records])
    variances = torch.stack([variance for _, _, _, variance in records])
    by_block = [
        x.detach().unflatten(0, (steps + 1, -1)).transpose(0, 1) for x in (means, variances)
    ]
    return by_block[0], by_block[1]


def _draw_batch_norm(inputs: tuple[Tensor, Tensor], chosen: str, step: int, source: str) -> Picture:
    """`inputs` are means and variances `[B, S + 1]` of one feature; the last task is new."""
    task = inputs[0][-1], inputs[1][-1]
    available = statistics_by_kind(*inputs)
    results = {STATISTICS[kind]: _normalised(task, used, step) for kind, used in available.items()}
    figure = make_figure(2, width_ratios=[1, 1], wspace=0.55)
    left, right = figure.axes
    mean, variance = available[chosen]
    plots.plot_norm_statistics((task[0], task[1].sqrt()), (mean, variance.sqrt()), left, step)
    _set_title(left, "Input of batch norm: a new task, step by step")
    plots.plot_normalised(results, right, STATISTICS[chosen])
    right.tick_params(axis="y", labelsize=9)
    _set_title(right, f"Its output after {step} inner steps")
    output_mean, output_deviation = results[STATISTICS[chosen]]
    return figure, (
        f"Statistics {STATISTICS[chosen]}: after {step} inner steps, batch norm gives this feature "
        f"a mean of {output_mean:.2f} and a standard deviation of {output_deviation:.2f}; the "
        f"target is 0 and 1. Computed here for {source}; running statistics are the means over "
        f"{len(inputs[0]) - 1} other tasks."
    )


def statistics_by_kind(means: Tensor, variances: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Return mean and variance `[S + 1]` by which each kind normalises the last task.

    From inputs `[B, S + 1]`: "batch" is the last task's own, "shared" the mean over the other tasks
    and all steps, and "per_step" the mean over the other tasks at each step.
    """
    others = means[:-1].mean(0), variances[:-1].mean(0)
    return {
        "batch": (means[-1], variances[-1]),
        "shared": (others[0].mean().expand_as(others[0]), others[1].mean().expand_as(others[1])),
        "per_step": others,
    }


def _normalised(
    task: tuple[Tensor, Tensor], used: tuple[Tensor, Tensor], step: int
) -> tuple[float, float]:
    """Return mean and standard deviation of (x − mean used) / √(variance used)."""
    scale = torch.rsqrt(used[1][step] + EPS)
    return float((task[0][step] - used[0][step]) * scale), float(task[1][step].sqrt() * scale)


# The unrolled graph


def graph_explorer() -> Explorer:
    """Explore the unrolled inner loop: the meta-gradient's paths through it, and their lengths."""
    return Explorer(
        _draw_graph,
        {
            "steps": _int_slider("inner steps N", 5, 1, 8),
            "msl": _checkbox("multi-step loss", False),
            "second_order": _checkbox("second order", True),
            "per_step": _checkbox("rates and batch norm per step", False),
        },
    )


def _draw_graph(steps: int, msl: bool, second_order: bool, per_step: bool) -> Picture:
    recipe = Recipe(
        inner_steps=steps,
        msl_epochs=15.0 if msl else 0.0,
        second_order_from=0.0 if second_order else None,
        inner_rule="lslr" if per_step else "fixed",
        norm_statistics="per_step" if per_step else "batch",
        norm_weights="per_step" if per_step else "shared",
    )
    figure = make_figure(0, height=3.5)
    bottom = CAPTION_HEIGHT / (3.5 + CAPTION_HEIGHT)
    ax = figure.add_axes((0.01, bottom + 0.05, 0.98, 0.93 - bottom))
    diagrams.plot_unrolled(recipe, ax)
    diagrams.add_legend(ax)
    return figure, _graph_caption(recipe)


def _graph_caption(recipe: Recipe) -> str:
    paths = diagrams.gradient_paths(recipe)
    layers, longest = diagrams.LAYERS, paths[-1]
    caption = (
        f"The longest path, from the query loss after step {longest.step} back to the initial "
        f"weights, has {longest.support_layers} layers of support passes and the {layers} layers "
        f"of the query pass. "
    )
    if longest.support_layers == 0:
        caption = (
            f"In first order, every path bypasses the support passes along the weights: it has "
            f"only the {layers} layers of the query pass. "
        )
    elif len(paths) > 1:
        caption += (
            f"The multi-step loss adds {len(paths) - 1} shorter paths; the shortest has "
            f"{paths[0].support_layers}. "
        )
    caption += f"Query losses with a non-zero weight: {len(paths)} of {recipe.inner_steps}."
    if recipe.norm_weights == "per_step":
        caption += " Each step has its own batch norm and its own rate for each layer."
    return caption


# The whole recipe


def recipe_board(name: str = "maml++") -> Explorer:
    """Explore all settings of MAML++, with the timeline and the cost of the resulting training.

    Selecting a recipe sets all controls. Raises `InputError` for an unknown recipe name.
    """
    if name not in RECIPES:
        raise InputError(f"there is no recipe {name!r}; choose one of {', '.join(RECIPES)}")
    controls = {"epoch": _float_slider("epoch", 5, 0, 150, 1)} | _board_controls(RECIPES[name])
    board = Explorer(_draw_board, controls)
    preset = _dropdown("start from", list(RECIPES), name)
    preset.observe(lambda change: board.set_values(_settings(RECIPES[change["new"]])), "value")
    board.box.children = (preset, *board.box.children)
    return board


def _board_controls(recipe: Recipe) -> dict[str, ipywidgets.Widget]:
    settings = _settings(recipe)
    rules = [("one, fixed", "fixed"), ("LSLR", "lslr"), ("Meta-SGD", "meta-sgd")]
    statistics = ["batch", "shared", "per_step"]
    return {
        "epochs": _int_slider("epochs", settings["epochs"], 10, 150),
        "inner_steps": _int_slider("inner steps", settings["inner_steps"], 1, 10),
        "msl_epochs": _int_slider("MSL: annealing epochs", settings["msl_epochs"], 0, 50),
        "second_order_from": _int_slider(
            "DA: second order from", settings["second_order_from"], 0, 150
        ),
        "first_order": _checkbox("first order throughout", settings["first_order"]),
        "inner_rule": _dropdown("LSLR: inner rates", rules, settings["inner_rule"]),
        "norm_statistics": _dropdown("BNRS: statistics", statistics, settings["norm_statistics"]),
        "norm_weights": _dropdown("BNWB: weights", statistics[1:], settings["norm_weights"]),
        "annealed": _checkbox("CA: anneal the outer rate", settings["annealed"]),
    }


def _settings(recipe: Recipe) -> dict[str, Any]:
    """Return the values of the board's controls for a recipe."""
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
    """Return the recipe for the values of the board's controls."""
    return Recipe(
        second_order_from=None if first_order else second_order_from,
        outer_rate_min=1e-5 if annealed else None,
        **rest,
    )


def _draw_board(epoch: float, **settings: Any) -> Picture:
    recipe = board_recipe(**settings)
    epoch = min(epoch, recipe.epochs)
    figure = make_figure(0, height=4.6)
    grid = figure.add_gridspec(
        3, 1, height_ratios=[3, 2, 2], hspace=0.2,
        left=0.13, right=0.68, top=0.95, bottom=(CAPTION_HEIGHT + 0.62) / (4.6 + CAPTION_HEIGHT),
    )  # fmt: skip
    timeline = [figure.add_subplot(grid[row]) for row in range(3)]
    plots.plot_timeline(recipe, timeline)
    for ax in timeline:
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.axvline(epoch, color="#d62728", linewidth=2)
    _set_title(timeline[0], "Timeline of this training")
    facts = "\n\n".join(f"{name}:\n   {value}" for name, value in _constants(recipe).items())
    figure.text(0.71, 0.95, facts, fontsize=10, va="top")
    return figure, _board_caption(recipe, epoch)


def _constants(recipe: Recipe) -> dict[str, str]:
    """Return the properties of a recipe that do not change over the epochs."""
    counts = network_rate_counts(recipe.filters, recipe.inner_steps)
    name = {"fixed": "MAML", "lslr": "LSLR", "meta-sgd": "Meta-SGD"}[recipe.inner_rule]
    sets = {
        "shared": "1 set",
        "per_step": f"{recipe.inner_steps + 1} sets (steps 0 … {recipe.inner_steps})",
        "batch": "none kept",
    }
    return {
        "Inner steps": str(recipe.inner_steps),
        "Inner rates": "1 α, fixed" if name == "MAML" else f"{counts[name]:,} α, learned",
        "Running statistics": sets[recipe.norm_statistics],
        "Batch-norm weight and bias": sets[recipe.norm_weights],
        "Predicted cost": f"{100 * plots.relative_cost(recipe):.0f} % of plain MAML's",
    }


COST_MODEL = (
    "The cost of a query loss or a support pass is 1, or "
    f"{plots.SECOND_ORDER_COST:g} for a second-order support pass."
)


def _board_caption(recipe: Recipe, epoch: float) -> str:
    weights = plots.step_weights(recipe, epoch)
    active = sum(weight > 0 for weight in weights)
    losses = "1 query loss" if active == 1 else f"{active} query losses"
    order, _ = plots.ORDERS[plots.schedules.second_order(recipe.second_order_from, epoch)]
    [rate] = plots.outer_rates(recipe, [epoch])
    plain = plots.task_cost(Recipe(inner_steps=recipe.inner_steps), 0)
    share = plots.task_cost(recipe, epoch) / plain
    constants = "; ".join(f"{name.lower()}: {value}" for name, value in _constants(recipe).items())
    return (
        f"At epoch {epoch:g} of {recipe.epochs}: {losses}, the last with weight "
        f"{weights[-1]:.2g}; {order}; outer rate {rate:.3g}; a meta-step costs {share:.0%} of "
        f"plain MAML's. {COST_MODEL}\nAt every epoch: {constants}."
    )


# Two weights, two tasks

EXTENT = 3.0
_TASKS = (
    Task(*2 * (torch.tensor([[1.9, 0.3], [0.0, 0.5]]), torch.tensor([-2.2, 0.45]))),
    Task(*2 * (torch.tensor([[0.5, 0.0], [-0.3, 1.9]]), torch.tensor([0.7, -2.3]))),
)  # each task learns two weights θ from two equations x·θ = y; the query set is the support set


def _half_square(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().sum(-1) / 2


def _linear(weights: Mapping[str, Tensor], x: Tensor, step: int) -> Tensor:
    return weights["theta"] @ x.mT


def landscape_explorer() -> Explorer:
    """Explore the descent directions of MAML, first-order MAML and joint training in two weights.

    Joint training minimises the mean of the two tasks' losses; MAML minimises the mean of their
    losses after the inner steps. All gradients come from `mamlpp.maml` and autograd.
    """
    return Explorer(
        _draw_landscape,
        {
            "theta1": _float_slider("initial weight θ₁", 0.0, -EXTENT, EXTENT, 0.1),
            "theta2": _float_slider("initial weight θ₂", 1.0, -EXTENT, EXTENT, 0.1),
            "rate": _float_slider("inner rate α", 0.2, 0.0, 0.6, 0.01),
            "steps": _int_slider("inner steps", 3, 1, 8),
        },
    )


def landscape_gradients(theta: Sequence[float], rate: float, steps: int) -> dict[str, Tensor]:
    """Return each method's gradient `[2]` at `theta`, averaged over the two tasks."""
    weights = {"theta": torch.tensor(theta, dtype=torch.float32, requires_grad=True)}

    def meta(second_order: bool) -> Tensor:
        final_only = [0.0] * (steps - 1) + [1.0]
        losses = [
            task_loss(
                _linear, weights, task, final_only, lambda *_: rate, second_order, _half_square
            )
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
    figure = make_figure(1, height=4.6, right=0.6)
    [ax] = figure.axes
    paths = _inner_paths(theta, rate, steps)
    plots.plot_landscape(_loss_grids(), EXTENT, paths, arrows, ax)
    ax.plot(*theta, "o", color="black", markersize=9)
    ax.legend(loc="upper left", bbox_to_anchor=(1.03, 1.0), title="descent direction at the dot")
    _set_title(ax, "Losses of tasks A and B, and the inner steps on each")
    caption = _landscape_caption(gradients, rate, steps)
    pairs = zip(paths, _TASKS, strict=True)
    if any(_task_loss(path[-1], task) > _task_loss(path[0], task) for path, task in pairs):
        caption += " The inner rate is too large: the inner steps increase the loss of a task."
    return figure, caption


def _task_loss(theta: np.ndarray, task: Task) -> float:
    outputs = _linear({"theta": torch.from_numpy(theta)}, task.support_x, 0)
    return float(_half_square(outputs, task.support_y))


def _landscape_caption(gradients: dict[str, Tensor], rate: float, steps: int) -> str:
    maml = gradients["MAML"]
    angles = {
        name: float(torch.rad2deg(torch.atan2(_cross(maml, g), maml @ g).abs()))
        for name, g in gradients.items()
    }
    return (
        f"With {steps} inner steps of rate {rate:g}, the direction of first-order MAML differs "
        f"from MAML's by {angles['first-order MAML']:.0f}°, and that of joint training by "
        f"{angles['joint training']:.0f}°. Gradient norms: {maml.norm():.3g} (MAML), "
        f"{gradients['first-order MAML'].norm():.3g} (first-order) and "
        f"{gradients['joint training'].norm():.3g} (joint). The arrows show directions only."
    )


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[0] * b[1] - a[1] * b[0]
