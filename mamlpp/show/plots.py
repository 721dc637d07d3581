"""Every picture of the kit: `plot_x(data, ax) -> ax`, one style, one colour a method.

Colours are seaborn's colour-blind-safe palette; a transparent figure with mid-grey text would be
hard to read in print, so every figure has its own light ground and is legible in a dark page too.
"""

import re
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from mamlpp.diagnostics import Diagnosis
from mamlpp.maml import Task
from mamlpp.run.evaluation import BINS, Evaluation
from mamlpp.run.history import History, Row

_PALETTE = sns.color_palette("colorblind").as_hex()
COLOURS = {
    "MAML": _PALETTE[0],
    "first-order MAML": _PALETTE[1],
    "MAML + MSL": _PALETTE[2],
    "MAML + DA": _PALETTE[5],
    "MAML + BNRS + BNWB": _PALETTE[9],
    "MAML + LSLR": _PALETTE[6],
    "MAML + CA": "#8c6d1f",
    "Meta-SGD": "#5c5c8a",
    "MAML++": _PALETTE[3],
    "no meta-learning": _PALETTE[7],
    "joint training": _PALETTE[4],
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
}  # the names of `RECIPES`, as the paper's tables write them


def use_style() -> None:
    """Set the look of all figures that are made from now on."""
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


def plot_images(images: Tensor, ax: Axes, columns: int | None = None, gap: int = 2) -> Axes:
    """Pictures `[M, C, H, W]` in [0, 1] side by side, `columns` a row, drawings as ink on paper."""
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


def plot_task(task: Task, predictions: Tensor | None = None, queries: int = 1) -> Figure:
    """One task: the support set above, a column a class, and `queries` query images a class below.

    `task` holds N classes, K support and Q query images of each, ordered by class as a
    `TaskSampler` deals them. With `predictions` `[N·Q]` each query says what it was taken for.
    """
    ways = int(task.support_y.max()) + 1
    support = task.support_x.unflatten(0, (ways, -1)).transpose(0, 1)  # [K, N, C, H, W]
    query = task.query_x.unflatten(0, (ways, -1)).transpose(0, 1)[:queries]
    rows = len(support) + len(query)
    figure, axes = plt.subplots(
        rows,
        ways,
        figsize=(1.25 * ways + 1, 1.35 * rows + 0.5),
        squeeze=False,
        layout="constrained",
    )
    for row, images in zip(axes, support, strict=False):
        plot_task_row(images, row, "support")
    for index, images in enumerate(query):
        said = None if predictions is None else predictions.view(ways, -1)[:, index].tolist()
        plot_task_row(images, axes[len(support) + index], "query", said)
    for label, ax in enumerate(axes[0]):
        ax.set_title(f"class {label}", fontsize=11)
    return figure


def plot_task_row(
    images: Tensor, axes: Sequence[Axes], name: str, predictions: Sequence[int] | None = None
) -> Sequence[Axes]:
    """One image of each class `[N, C, H, W]`; with `predictions`, what each was taken for."""
    for label, (image, ax) in enumerate(zip(images, axes, strict=True)):
        _plot_cell(image, ax)
        if predictions is not None:
            _say(predictions[label], label, ax)
    axes[0].set_ylabel(name, rotation=0, ha="right", va="center")
    return axes


def _plot_cell(image: Tensor, ax: Axes) -> Axes:
    picture = image.cpu().permute(1, 2, 0).numpy()
    ax.imshow(
        picture.squeeze(-1) if picture.shape[-1] == 1 else picture, cmap="gray_r", vmin=0, vmax=1
    )
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set(visible=True, color="#cccccc")
    return ax


def _say(prediction: int, label: int, ax: Axes) -> None:
    right = prediction == label
    colour = _PALETTE[2] if right else _PALETTE[3]
    ax.set_xlabel(f"{'✓' if right else '✗'} said {prediction}", color=colour, fontsize=11)
    for spine in ax.spines.values():
        spine.set(visible=True, color=colour, linewidth=2)


def plot_learning_curves(
    histories: Mapping[str, History], ax: Axes, column: str = "accuracy", smooth: int = 20
) -> Axes:
    """One column of several histories against the iteration: mean of the last `smooth` values.

    A history without a value in that column (not validated yet, say) has no line.
    """
    for name, history in histories.items():
        iterations, means = _smoothed(history, column, smooth)
        if means.size:
            ax.plot(iterations, means, label=name, color=COLOURS.get(name))
    return _label_curves(ax, column)


def plot_over_seeds(
    histories: Mapping[str, Sequence[History]], ax: Axes, column: str = "accuracy", smooth: int = 20
) -> Axes:
    """One column of several runs of each method: their mean, and from the least to the greatest.

    `histories[name]` holds one history a seed, equally long. Each is first smoothed, by the mean of
    the last `smooth` values. Runs that have no such column are left out.
    """
    for name, several in histories.items():
        curves = [_smoothed(history, column, smooth) for history in several]
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
    ax.set(xlabel="iteration (meta-steps)", ylabel=column.replace("_", " "))
    if ax.lines:
        ax.legend()
    return ax


def _smoothed(history: History, column: str, smooth: int) -> tuple[np.ndarray, np.ndarray]:
    """Iterations, and the mean of the last `smooth` values up to each: both empty without any."""
    rows = [row for row in history.rows if column in row]
    values = np.array([row[column] for row in rows], dtype=float)
    iterations = np.array([row["iteration"] for row in rows])
    window = min(smooth, len(values))
    if not window:
        return iterations, values
    return iterations[window - 1 :], np.convolve(values, np.ones(window) / window, mode="valid")


def plot_steps(curves: Mapping[str, Sequence[float]], ax: Axes, ylabel: str) -> Axes:
    """A value after 0, 1, 2, … inner steps, one line a method."""
    for name, values in curves.items():
        ax.plot(range(len(values)), values, "o-", label=name, color=COLOURS.get(name))
    ax.set(xlabel="inner steps taken", ylabel=ylabel, xticks=range(max(map(len, curves.values()))))
    ax.legend()
    return ax


def plot_accuracies(results: Mapping[str, tuple[float, float]], ax: Axes, chance: float) -> Axes:
    """Accuracies in 0 … 1 with half of their 95 % intervals, one bar a method, and chance."""
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
    ax.set(xlabel="accuracy, % (bar ends: 95 % interval over tasks)", xlim=(0, 112))
    ax.set_yticks(range(len(results)), list(results))
    ax.invert_yaxis()
    return ax


def plot_gradient_heatmap(diagnosis: Diagnosis, ax: Axes) -> Axes:
    """How strong the gradient is at each inner step (a row) and layer (a column), on its way back.

    It comes from the query loss at the lower right. Cells that are not finite are red and say so.
    """
    norms = diagnosis.norms.numpy()
    logs = np.ma.log10(np.ma.masked_where(~(np.isfinite(norms) & (norms > 0)), norms))
    colours = plt.get_cmap("viridis").with_extremes(bad="white")
    image = ax.imshow(logs, cmap=colours, aspect="auto")
    if not logs.count():
        image.set_clim(0, 1)
    ax.figure.colorbar(image, ax=ax, label="log$_{10}$ of the gradient's 2-norm")
    shades = np.ma.filled(image.norm(logs), 1.0)
    for (step, layer), norm in np.ndenumerate(norms):
        _write_norm(norm, (layer, step), "white" if shades[step, layer] < 0.6 else "black", ax)
    titles = [re.sub(r"blocks\.(\d+)\.conv", _conv_title, layer) for layer in diagnosis.layers]
    ax.set_xticks(range(len(titles)), titles)
    ax.set_yticks(range(len(norms)))
    ax.set(xlabel="layer", ylabel="inner steps taken")
    ax.grid(False)
    return ax


def _write_norm(norm: float, at: tuple[int, int], colour: str, ax: Axes) -> None:
    text = re.sub(r"e([+-])0", r"e\1", f"{norm:.1e}")
    weight = "normal"
    if not np.isfinite(norm):
        colour, weight = "white", "bold"
        corner = at[0] - 0.5, at[1] - 0.5
        ax.add_patch(Rectangle(corner, 1, 1, facecolor=_PALETTE[3], edgecolor="white"))
    ax.text(*at, text, ha="center", va="center", fontsize=9, color=colour, fontweight=weight)


def _conv_title(match: re.Match[str]) -> str:
    return f"conv {int(match[1]) + 1}"


def plot_reported(values: Mapping[str, Sequence[float | None] | None], ax: Axes) -> Axes:
    """Accuracies in % as a paper reports them, with what follows its ±, one row a method.

    A row of `None` stays empty.
    """
    for row, (name, reported) in enumerate(values.items()):
        if reported is None:
            continue
        value, interval = reported[0] or 0.0, reported[1]
        colour = COLOURS.get(name, COLOURS["chance"])
        ax.errorbar(value, row, xerr=interval or 0, fmt="D", color=colour, capsize=3)
        text = f"{value:.2f}" + (f" ± {interval:.2f}" if interval is not None else "")
        ax.annotate(text, (value, row), (0, 7), textcoords="offset points", ha="center", size=9)
    return _label_rows(list(values), ax)


def plot_measured(values: Mapping[str, Mapping[str, Sequence[float]]], ax: Axes) -> Axes:
    """Accuracies in % of several runs of each method, one row a method: a dot a run, a bar at the
    mean. `values[method][protocol]` holds one number a seed; each protocol has its own marker.
    """
    protocols = list(dict.fromkeys(name for several in values.values() for name in several))
    for row, (method, several) in enumerate(values.items()):
        colour = COLOURS.get(method, COLOURS["chance"])
        for index, protocol in enumerate(protocols):
            numbers = several.get(protocol, ())
            height = row + 0.5 * ((index + 0.5) / len(protocols) - 0.5)
            ax.plot(numbers, [height] * len(numbers), "os^"[index % 3], color=colour, alpha=0.6)
            if numbers:
                ax.plot(np.mean(numbers), height, "|", color=colour, markersize=16, mew=2.5)
    for index, protocol in enumerate(protocols):
        ax.plot([], [], "os^"[index % 3], color="#555555", label=protocol)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3, frameon=False, fontsize=9)
    return _label_rows(list(values), ax)


def _label_rows(names: Sequence[str], ax: Axes) -> Axes:
    ax.set_yticks(range(len(names)), names)
    ax.set(xlabel="accuracy, %", ylim=(len(names) - 0.4, -0.7))
    return ax


def plot_calibration(evaluation: Evaluation, ax: Axes) -> Axes:
    """Reliability: accuracy against confidence, a bar a bin, and the gap to where they agree.

    After Guo et al. 2017, figure 1. The fainter a bar, the fewer queries were that confident.
    Confidences that are not finite, of weights that diverged, have none.
    """
    counts, confidences, accuracies = (values.numpy() for values in evaluation.calibration)
    accuracies = np.where(np.isfinite(confidences), accuracies, 0)
    left, width, gaps = np.arange(BINS) / BINS, 1 / BINS, confidences - accuracies
    blues = [(_PALETTE[0], 0.25 + 0.75 * share) for share in counts / counts.max()]
    ax.bar(left, accuracies, width, align="edge", color=blues, edgecolor="white")
    hatched = {"facecolor": "none", "edgecolor": _PALETTE[3], "hatch": "///", "linewidth": 0}
    gap = ax.bar(left, gaps, width, accuracies, align="edge", **hatched)
    gap.set_label(f"gap: {100 * evaluation.calibration_error:.1f} % on average")
    ax.plot([0, 1], [0, 1], ":", color="black", label="confidence can be relied on")
    ax.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    # Below, because bars may be anywhere within.
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), frameon=False)
    return ax


# A run while it trains

MOST_POINTS = 600  # of a curve: more would not be seen, and take time to draw


def plot_training(history: History, ax: Axes, column: str = "accuracy", smooth: int = 20) -> Axes:
    """Loss or accuracy of one run: in training, mean of up to the last `smooth`; in validation."""
    iterations, values = _smoothed(history, column, 1)
    means = pandas.Series(values).rolling(smooth, min_periods=1).mean().to_numpy()
    every = -(-len(means) // MOST_POINTS) or 1
    last = slice(None, None, -every)  # Counted from the end: the newest is always there.
    ax.plot(iterations[last], means[last], color=COLOURS["MAML"], label="training")
    iterations, values = _smoothed(history, f"validation_{column}", 1)
    ax.plot(iterations, values, "o-", markersize=4, color=_PALETTE[1], label="validation")
    ax.set(xlabel="iteration (meta-steps)", ylabel=column)
    ax.legend(fontsize=8, loc="upper right" if column == "loss" else "lower right")
    return ax


def plot_gradient_norms(history: History, ax: Axes, clip_norm: float | None = None) -> Axes:
    """2-norm of each meta-gradient before clipping, log axis; a red mark for each not finite one.

    Of a long run a point stands for several meta-steps, and is the greatest of them. `clip_norm` is
    where longer ones are cut.
    """
    rows = list(history.rows)  # A training may add to them just now.
    iterations = np.array([row["iteration"] for row in rows], dtype=float)
    norms = np.array([row["gradient_norm"] for row in rows], dtype=float)
    bad = np.array(["nonfinite" in row for row in rows], dtype=bool)
    good = ~bad & np.isfinite(norms) & (norms > 0)
    ax.plot(*_greatest(iterations[good], norms[good]), color=COLOURS["MAML"], linewidth=1.2)
    if clip_norm is not None:
        ax.axhline(clip_norm, color="#555555", linestyle="--", label=f"clipped to {clip_norm:g}")
    if bad.any():
        heights = np.full(bad.sum(), 0.97)
        mark = f"not finite: {bad.sum()}"
        look = {"marker": "v", "color": _PALETTE[3], "linestyle": "none", "label": mark}
        ax.plot(iterations[bad], heights, transform=ax.get_xaxis_transform(), **look)
    ax.set(yscale="log", xlabel="iteration (meta-steps)", ylabel="norm of the meta-gradient")
    if bad.any() or clip_norm is not None:
        ax.legend(fontsize=8, loc="best")
    return ax


def _greatest(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most `MOST_POINTS` of the points: of each so many neighbours the greatest."""
    parts = np.array_split(np.arange(len(y)), min(len(y), MOST_POINTS) or 1)
    tops = [part[y[part].argmax()] for part in parts if len(part)]
    return x[tops], y[tops]


def mark_changes(changes: History, ax: Axes, words: bool = False) -> Axes:
    """A line at each meta-step at which the recipe was changed by hand; with `words`, what to."""
    for iteration, texts in changes_in_words(changes).items():
        ax.axvline(iteration, color=_PALETTE[4], linestyle=":", linewidth=1.5)
        if words:
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


def changes_in_words(changes: History) -> dict[float, list[str]]:
    """By the first meta-step under them; of a field that was changed several times, the last."""
    fields: dict[float, dict[str, str]] = {}
    for row in changes.rows:
        fields.setdefault(row["iteration"], {})[row["field"]] = change_in_words(row)
    return {iteration: list(texts.values()) for iteration, texts in fields.items()}


def change_in_words(row: Row) -> str:
    """A row of `Run.changes`, as short as can be: `"inner rate 0.05"`, `"first order"`."""
    field, value = row["field"], row.get("value")
    if field == "second_order_from":
        orders = {None: "first order", 0.0: "second order"}
        return orders.get(value, f"second order from epoch {value}")
    if field == "msl_epochs":
        return f"multi-step loss to epoch {value:g}" if value else "no multi-step loss"
    return f"{field.replace('_', ' ')} {'none' if value is None else f'{value:.3g}'}"
