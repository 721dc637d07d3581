"""Plots of tasks, results and training runs: `plot_x(data, ax) -> ax`, with one colour per method.

The colours come from seaborn's colour-blind-safe palette. Every figure has its own light
background, so that it is legible both in print and on a dark page.
"""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import Locator, LogFormatter, LogLocator, MaxNLocator, NullLocator
from torch import Tensor

from mamlpp.diagnostics import Diagnosis
from mamlpp.errors import InputError
from mamlpp.maml import Task
from mamlpp.run.evaluation import BINS, Evaluation
from mamlpp.run.history import History, Row

_PALETTE = sns.color_palette("colorblind").as_hex()
COLOURS = {
    "MAML": _PALETTE[0],
    "first-order MAML": _PALETTE[1],
    "MAML + MSL": _PALETTE[2],
    "MAML + DA": _PALETTE[4],
    "MAML + BNRS + BNWB": "#a3195b",
    "MAML + LSLR": "#8811dd",
    "MAML + CA": "#8c6d1f",
    "Meta-SGD": "#5c5c8a",
    "MAML++": _PALETTE[3],
    "MAML, quick": "#5fa8d3",
    "MAML++, quick": "#e0906a",
    "random weights": _PALETTE[7],
    "joint training": _PALETTE[5],
    "nearest pixels": _PALETTE[8],
    "truth": "#333333",
    "chance": "#888888",
}
METHODS = {
    "maml": "MAML",
    "fomaml": "first-order MAML",
    "meta-sgd": "Meta-SGD",
    "maml+msl": "MAML + MSL",
    "maml+da": "MAML + DA",
    "maml+ca": "MAML + CA",
    "maml+bnrs+bnwb": "MAML + BNRS + BNWB",
    "maml+lslr": "MAML + LSLR",
    "maml++": "MAML++",
    "maml-quick": "MAML, quick",
    "maml++-quick": "MAML++, quick",
}  # recipe names, and how the paper's tables write them


def use_style() -> None:
    """Set the style of all figures created from now on."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind")
    plt.rcParams.update(
        {
            "figure.figsize": (8, 3.6),
            "figure.dpi": 100,
            "savefig.dpi": 150,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "svg.hashsalt": "mamlpp",
            "svg.fonttype": "none",
        }
    )


def show(figure: Figure, words: str) -> None:
    """Display `figure` in a notebook with `words` that say what it shows, and close it.

    The words are the picture's alternative text, for those who do not see it, in the book and in
    every page that is made of the notebook. Raises `InputError` where there are none.
    """
    if not words.strip():
        raise InputError("a figure needs words that say what it shows")
    from IPython.display import display  # not needed where figures are files alone

    for ax in figure.axes:
        plain_ticks(ax)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=figure.dpi, bbox_inches="tight", facecolor="white")
    plt.close(figure)
    data = {"image/png": base64.b64encode(file.getvalue()).decode(), "text/plain": words}
    display(data, raw=True, metadata={"image/png": {"alt": words}})


def plain_ticks(ax: Axes) -> Axes:
    """Label logarithmic axes with plain numbers: 0.5, 1, 2, 5 instead of powers of ten."""
    for axis, scale in ((ax.xaxis, ax.get_xscale()), (ax.yaxis, ax.get_yscale())):
        if scale not in ("log", "symlog") or not isinstance(
            axis.get_major_formatter(), LogFormatter
        ):
            continue
        if scale == "log":
            axis.set_major_locator(_plain_locator(*sorted(axis.get_view_interval())))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter("{x:g}")
    return ax


def _plain_locator(low: float, high: float) -> Locator:
    """Where an axis from `low` to `high`, logarithmic, has its ticks: at numbers of one digit."""
    decades = np.log10(high / low)
    if decades < 0.3:
        return MaxNLocator(5)
    for most, subs in ((0.7, (1, 1.5, 2, 3, 4, 6)), (1.3, (1, 2, 3, 5)), (2.5, (1, 2, 5))):
        if decades < most:
            return LogLocator(subs=subs, numticks=20)
    return LogLocator(subs=(1, 3) if decades < 4.5 else (1,), numticks=20)


def in_percent(axis: Axis) -> Axis:
    """Label an axis of shares, 0 … 1, in per cent: 0.25 as 25."""
    axis.set_major_formatter(lambda share, _: f"{100 * share:.3g}")
    return axis


def plot_images(images: Tensor, ax: Axes, columns: int | None = None, gap: int = 2) -> Axes:
    """Plot images `[M, C, H, W]` in [0, 1] in a grid; grey images are drawn as ink on paper."""
    _, channels, height, width = images.shape
    columns = columns or len(images)
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), np.nan)
    for index, image in enumerate(images.cpu().numpy()):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    ax.imshow(sheet.squeeze(-1) if channels == 1 else sheet, cmap="gray_r", vmin=0, vmax=1)
    ax.set_axis_off()
    return ax


def plot_task(
    task: Task, predictions: Tensor | None = None, queries: int = 1, shuffle: int | None = None
) -> Figure:
    """Plot one task: the support set, one column per class, and below it `queries` rows of queries.

    `task` has N classes with K support and Q query images each, ordered by class as a `TaskSampler`
    returns them. With `predictions` `[N·Q]`, each query image is labelled with its prediction.
    `shuffle` is the seed of a random order of each row of queries, so that their place does not
    give their class away; a wrong prediction is then followed by the true class. Without it they
    stand below their class.
    """
    ways = int(task.support_y.max()) + 1
    support = task.support_x.unflatten(0, (ways, -1)).transpose(0, 1)  # [K, N, C, H, W]
    query = task.query_x.unflatten(0, (ways, -1)).transpose(0, 1)[:queries]
    draw = torch.Generator().manual_seed(shuffle or 0)
    rows = len(support) + len(query)
    size = 1.25 * ways + 1, 1.35 * rows + 0.5
    figure, axes = plt.subplots(rows, ways, figsize=size, squeeze=False, layout="constrained")
    for row, images in zip(axes, support, strict=False):
        plot_task_row(images, row, "support")
    for index, images in enumerate(query):
        said = None if predictions is None else predictions.view(ways, -1)[:, index].cpu()
        order = torch.arange(ways) if shuffle is None else torch.randperm(ways, generator=draw)
        labels = None if said is None else said[order].tolist()
        row = axes[len(support) + index]
        classes = None if shuffle is None else order.tolist()
        plot_task_row(images[order.to(images.device)], row, "query", labels, classes)
    if shuffle is not None:
        axes[len(support)][ways // 2].set_title("in random order", fontsize=11)
    for label, ax in enumerate(axes[0]):
        ax.set_title(f"class {label}", fontsize=11)
    return figure


def plot_task_row(
    images: Tensor, axes: Sequence[Axes], name: str, predictions: Sequence[int] | None = None,
    classes: Sequence[int] | None = None,
) -> Sequence[Axes]:  # fmt: skip
    """Plot one image per class `[N, C, H, W]`, labelled with `predictions` if given.

    `classes` are their true classes: 0 … N-1 unless given. Where they are, the label of a wrong
    prediction names the true class too.
    """
    for column, (image, ax) in enumerate(zip(images, axes, strict=True)):
        plot_image(image, ax)
        if predictions is not None:
            label = column if classes is None else classes[column]
            _label_prediction(predictions[column], label, ax)
            if classes is not None and predictions[column] != label:
                ax.set_xlabel(f"{ax.get_xlabel()}\n(it is class {label})")
    axes[0].set_ylabel(name, rotation=0, ha="right", va="center")
    return axes


def plot_image(image: Tensor, ax: Axes) -> Axes:
    """Plot one image `[C, H, W]` in [0, 1] in a frame; a grey one is drawn as ink on paper."""
    pixels = image.cpu().permute(1, 2, 0).numpy()
    ax.imshow(
        pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels, cmap="gray_r", vmin=0, vmax=1
    )
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set(visible=True, color="#cccccc")
    return ax


def _label_prediction(prediction: int, label: int, ax: Axes) -> None:
    correct = prediction == label
    colour = _PALETTE[2] if correct else _PALETTE[3]
    ax.set_xlabel(f"{'✓' if correct else '✗'} class {prediction}", color=colour, fontsize=11)
    for spine in ax.spines.values():
        spine.set(visible=True, color=colour, linewidth=2)


def plot_learning_curves(
    histories: Mapping[str, History], ax: Axes, column: str = "accuracy", smooth: int = 20
) -> Axes:
    """Plot one column of several histories: the mean of the last `smooth` values by iteration.

    A history without values in that column, for example before its first validation, is skipped.
    """
    for name, history in histories.items():
        iterations, means = _smoothed(history, column, smooth)
        if means.size:
            ax.plot(iterations, means, label=name, color=COLOURS.get(name))
    return _label_curves(ax, column)


def plot_over_seeds(
    histories: Mapping[str, Sequence[History]], ax: Axes, column: str = "accuracy", smooth: int = 20
) -> Axes:
    """Plot one column over the seeds of each method: the mean, and a band from minimum to maximum.

    `histories[name]` holds one history per seed, all of the same length. Each is first smoothed by
    the mean of the last `smooth` values. Histories without values in that column are skipped.
    """
    for name, seeds in histories.items():
        curves = [_smoothed(history, column, smooth) for history in seeds]
        curves = [curve for curve in curves if curve[0].size]
        if not curves:
            continue
        iterations, values = curves[0][0], np.stack([curve[1] for curve in curves])
        [line] = ax.plot(iterations, values.mean(0), label=name, color=COLOURS.get(name))
        if len(values) > 1:
            band = values.min(0), values.max(0)
            ax.fill_between(iterations, *band, color=line.get_color(), alpha=0.2, linewidth=0)
    return _label_curves(ax, column)


def _label_curves(ax: Axes, column: str) -> Axes:
    ax.set_xlabel("iteration (meta-steps)")
    _label_values(ax, column.replace("_", " "))
    if ax.lines:
        ax.legend()
    return ax


def _label_values(ax: Axes, name: str) -> None:
    """Name the y axis; an accuracy is labelled in %, as everywhere that a reader sees one."""
    if "accuracy" in name:
        in_percent(ax.yaxis)
        name = name.replace("accuracy", "accuracy, %")
    ax.set_ylabel(name)


def _smoothed(history: History, column: str, smooth: int) -> tuple[np.ndarray, np.ndarray]:
    """Return iterations and the running mean of the last `smooth` values; both may be empty."""
    rows = [row for row in history.rows if column in row]
    values = np.array([row[column] for row in rows], dtype=float)
    iterations = np.array([row["iteration"] for row in rows])
    window = min(smooth, len(values))
    if not window:
        return iterations, values
    return iterations[window - 1 :], np.convolve(values, np.ones(window) / window, mode="valid")


def plot_steps(curves: Mapping[str, Sequence[float]], ax: Axes, ylabel: str) -> Axes:
    """Plot a value after 0, 1, 2, … inner steps, one line per method.

    An accuracy, in 0 … 1, is labelled in %.
    """
    for name, values in curves.items():
        ax.plot(range(len(values)), values, "o-", label=name, color=COLOURS.get(name))
    ax.set(xlabel="inner steps taken", xticks=range(max(map(len, curves.values()))))
    _label_values(ax, ylabel)
    ax.legend()
    return ax


def plot_accuracies(results: Mapping[str, tuple[float, float]], ax: Axes, chance: float) -> Axes:
    """Plot a bar per method; `results[name]` is (accuracy, half its 95 % interval), in 0 … 1."""
    for row, (name, (accuracy, interval)) in enumerate(results.items()):
        ax.barh(row, 100 * accuracy, xerr=100 * interval, color=COLOURS.get(name))
        ax.annotate(
            f"{100 * accuracy:.1f} ± {100 * interval:.1f}",
            (100 * (accuracy + interval), row),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
        )
    ax.axvline(100 * chance, color="black", linestyle=":", label="chance")
    ax.legend(loc="lower right", frameon=False)
    ax.set(xlabel="accuracy, % (error bars: 95 % interval over tasks)", xlim=(0, 112))
    ax.set_yticks(range(len(results)), list(results))
    ax.grid(axis="y", visible=False)  # it would run through the numbers
    ax.invert_yaxis()
    return ax


def plot_gradient_heatmap(
    diagnosis: Diagnosis, ax: Axes, limits: tuple[float, float] | None = None
) -> Axes:
    """Plot the gradient norm at each inner step (row) and layer (column) during backpropagation.

    The gradient starts from the query loss, at the lower right. Non-finite cells are red. `limits`
    are the norms at the ends of the colour scale: give them where two maps are compared.
    """
    norms = diagnosis.norms.numpy()
    logs = np.ma.log10(np.ma.masked_where(~(np.isfinite(norms) & (norms > 0)), norms))
    colours = plt.get_cmap("viridis").with_extremes(bad="white")
    image = ax.imshow(logs, cmap=colours, aspect="auto")
    if limits:
        image.set_clim(*np.log10(limits))
    elif not logs.count():
        image.set_clim(0, 1)
    bar = ax.figure.colorbar(
        image, ax=ax, label="the gradient's 2-norm", format=lambda log, _: f"{10**log:.2g}"
    )
    low, high = 10 ** np.array(image.get_clim())
    ticks = _plain_locator(low, high).tick_values(low, high)
    bar.set_ticks([float(np.log10(tick)) for tick in ticks if low <= tick <= high])
    shades = np.ma.filled(image.norm(logs), 1.0)
    for (step, layer), norm in np.ndenumerate(norms):
        _write_norm(norm, (layer, step), "white" if shades[step, layer] < 0.6 else "black", ax)
    titles = [layer_title(layer) for layer in diagnosis.layers]
    ax.set_xticks(range(len(titles)), titles)
    ax.set_yticks(range(len(norms)))
    ax.set(xlabel="layer", ylabel="inner steps taken")
    ax.grid(False)
    return ax


def _write_norm(norm: float, at: tuple[int, int], colour: str, ax: Axes) -> None:
    plain = 0.0095 <= norm < 995
    text = f"{norm:.2g}" if plain else re.sub(r"e([+-])0", r"e\1", f"{norm:.1e}")
    weight = "normal"
    if not np.isfinite(norm):
        colour, weight = "white", "bold"
        corner = at[0] - 0.5, at[1] - 0.5
        ax.add_patch(Rectangle(corner, 1, 1, facecolor=_PALETTE[3], edgecolor="white"))
    ax.text(*at, text, ha="center", va="center", fontsize=9, color=colour, fontweight=weight)


def layer_title(name: str) -> str:
    """Return a readable name: `"conv 1 weight"` for `"blocks.0.conv.weight"`."""
    title = re.sub(r"^blocks\.(\d+)\.conv", lambda found: f"conv {int(found[1]) + 1}", name)
    return title.replace(".", " ")


def plot_side_by_side(values: Mapping[str, Mapping[str, Any]], ax: Axes) -> Axes:
    """Plot accuracies in %, one row per method: the paper's, replications', and ours.

    `values[method]` has `"reported"`: (accuracy, number after the ±) or None; `"replications"`:
    (lowest, highest) or None; and by any other name the measured runs: (accuracy, interval) each.
    """
    ours = list(dict.fromkeys(k for row in values.values() for k in row if k not in _ELSEWHERE))
    for height, row in enumerate(values.values()):
        if row["replications"]:
            ax.plot(row["replications"], [height - 0.3] * 2, color=COLOURS["chance"], linewidth=6)
        if row["reported"] and row["reported"][0] is not None:
            value, spread = row["reported"]
            ax.errorbar(value, height - 0.3, xerr=spread or 0, fmt="D", color="black", capsize=3)
        for index, name in enumerate(ours):
            for accuracy, interval in row.get(name, ()):
                at = height - 0.12 + 0.17 * index
                style = {"color": _PALETTE[index], "alpha": 0.8, "markersize": 5}
                ax.errorbar(accuracy, at, xerr=interval, fmt="os^"[index % 3], **style)
    if any(row["reported"] for row in values.values()):
        ax.plot([], [], "D", color="black", label="the paper")
    if any(row["replications"] for row in values.values()):
        ax.plot([], [], color=COLOURS["chance"], linewidth=6, label="replications")
    for index, name in enumerate(ours):
        ax.plot([], [], "os^"[index % 3], color=_PALETTE[index], label=name)
    # As far below the axes as their numbers and label take, however high they are.
    below = {"bbox_to_anchor": (0.5, 0), "borderaxespad": 4.5}
    ax.legend(loc="upper center", **below, ncols=3, frameon=False, fontsize=9)
    return _label_rows(list(values), ax)


_ELSEWHERE = ("reported", "replications")


def _label_rows(names: Sequence[str], ax: Axes) -> Axes:
    ax.set_yticks(range(len(names)), names)
    ax.set(xlabel="accuracy, %", ylim=(len(names) - 0.4, -0.7))
    return ax


def plot_calibration(evaluation: Evaluation, ax: Axes) -> Axes:
    """Plot a reliability diagram: accuracy by confidence, and the gap to perfect calibration.

    After Guo et al. 2017, figure 1. Bins with fewer queries are fainter. A bin whose confidence is
    not finite, because the weights diverged, has no bar.
    """
    counts, confidences, accuracies = (values.numpy() for values in evaluation.calibration)
    accuracies = np.where(np.isfinite(confidences), accuracies, 0)
    left, width, gaps = np.arange(BINS) / BINS, 1 / BINS, confidences - accuracies
    blues = [(_PALETTE[0], 0.25 + 0.75 * share) for share in counts / counts.max()]
    ax.bar(left, accuracies, width, align="edge", color=blues, edgecolor="white")
    hatched = {"facecolor": "none", "edgecolor": _PALETTE[3], "hatch": "///", "linewidth": 0}
    gap = ax.bar(left, gaps, width, accuracies, align="edge", **hatched)
    gap.set_label(f"gap: {100 * evaluation.calibration_error:.1f} % on average")
    ax.plot([0, 1], [0, 1], ":", color="black", label="perfect calibration")
    ax.set(xlabel="confidence, %", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    in_percent(ax.xaxis)
    _label_values(ax, "accuracy")
    # Below the axes, because bars may cover any part of them.
    blue = Patch(color=_PALETTE[0], label="accuracy (paler: fewer queries)")
    handles = [blue, *ax.get_legend_handles_labels()[0]]
    ax.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False)
    return ax


# A run in progress

MAX_POINTS = 600  # per curve: more would be invisible and slow to draw


def plot_training(history: History, ax: Axes, column: str = "accuracy", smooth: int = 20) -> Axes:
    """Plot training loss or accuracy, as the mean of the last `smooth` values, and validation."""
    iterations, values = _smoothed(history, column, 1)
    means = pandas.Series(values).rolling(smooth, min_periods=1).mean().to_numpy()
    stride = -(-len(means) // MAX_POINTS) or 1
    shown = slice(None, None, -stride)  # from the end, so that the latest value is always shown
    ax.plot(iterations[shown], means[shown], color=COLOURS["MAML"], label="training")
    iterations, values = _smoothed(history, f"validation_{column}", 1)
    ax.plot(iterations, values, "o-", markersize=4, color=_PALETTE[1], label="validation")
    ax.set_xlabel("iteration (meta-steps)")
    _label_values(ax, column)
    ax.legend(fontsize=8, loc="upper right" if column == "loss" else "lower right")
    return ax


def plot_gradient_norms(history: History, ax: Axes, clip_norm: float | None = None) -> Axes:
    """Plot the norm of each meta-gradient before clipping, with a red mark if it is not finite.

    In a long run, each point is the maximum over several meta-steps. `clip_norm` adds a line at the
    clipping threshold.
    """
    rows = list(history.rows)  # a copy, because the training thread may append to them
    iterations = np.array([row["iteration"] for row in rows], dtype=float)
    norms = np.array([row["gradient_norm"] for row in rows], dtype=float)
    bad = np.array(["nonfinite" in row for row in rows], dtype=bool)
    good = ~bad & np.isfinite(norms) & (norms > 0)
    ax.plot(
        *_downsampled_maximum(iterations[good], norms[good]), color=COLOURS["MAML"], linewidth=1.2
    )
    if clip_norm is not None:
        ax.axhline(clip_norm, color="#555555", linestyle="--", label=f"clipped to {clip_norm:g}")
    if bad.any():
        heights = np.full(bad.sum(), 0.97)
        label = f"not finite: {bad.sum()}"
        style = {"marker": "v", "color": _PALETTE[3], "linestyle": "none", "label": label}
        ax.plot(iterations[bad], heights, transform=ax.get_xaxis_transform(), **style)
    ax.set(yscale="log", xlabel="iteration (meta-steps)", ylabel="norm of the meta-gradient")
    plain_ticks(ax)
    if bad.any() or clip_norm is not None:
        ax.legend(fontsize=8, loc="best")
    return ax


def _downsampled_maximum(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keep at most `MAX_POINTS` points: the largest of each group of neighbours."""
    groups = np.array_split(np.arange(len(y)), min(len(y), MAX_POINTS) or 1)
    kept = [group[y[group].argmax()] for group in groups if len(group)]
    return x[kept], y[kept]


def mark_changes(changes: History, ax: Axes, labels: bool = False) -> Axes:
    """Draw a line where the recipe was changed by hand, with a label of the change if `labels`."""
    for iteration, texts in describe_changes(changes).items():
        ax.axvline(iteration, color=_PALETTE[4], linestyle=":", linewidth=1.5)
        if labels:
            ax.annotate(
                "\n".join(texts),
                (iteration, 0.02),
                (2, 0),
                xycoords=ax.get_xaxis_transform(),
                textcoords="offset points",
                rotation=90,
                va="bottom",
                fontsize=8,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
            )
    return ax


def describe_changes(changes: History) -> dict[float, list[str]]:
    """Describe the last change of each field, grouped by the first meta-step it applies to."""
    fields: dict[float, dict[str, str]] = {}
    for row in changes.rows:
        fields.setdefault(row["iteration"], {})[row["field"]] = describe_change(row)
    return {iteration: list(texts.values()) for iteration, texts in fields.items()}


def describe_change(row: Row) -> str:
    """Describe a row of `Run.changes` briefly, as `"inner rate 0.05"` or `"first order"`."""
    field, value = row["field"], row.get("value")
    if field == "second_order_from":
        orders = {None: "first order", 0.0: "second order"}
        return orders.get(value, f"second order from epoch {value}")
    if field == "msl_epochs":
        return f"multi-step loss until epoch {value:g}" if value else "no multi-step loss"
    return f"{field.replace('_', ' ')} {'none' if value is None else f'{value:.3g}'}"
