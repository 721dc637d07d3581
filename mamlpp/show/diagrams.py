"""The unrolled computation graph of the inner loop and the meta-gradient's paths through it.

After Antoniou et al. 2019, section 3 (the stack of N networks) and section 4 (what MAML++ changes).
Letters: S inner steps, L layers of the network.
"""

from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from mamlpp import schedules
from mamlpp.recipe import Recipe
from mamlpp.show.plots import COLOURS
from mamlpp.show.schedule_plots import step_colours, step_weights

LAYERS = 5  # of the paper's network: four convolutions and the linear head
FORWARD, BACKWARD, QUERY = "#444444", COLOURS["MAML++"], COLOURS["first-order MAML"]
SUPPORT = COLOURS["MAML"]


@dataclass(frozen=True)
class GradientPath:
    """The longest path from one query loss back to the initial weights."""

    step: int
    """Number of inner steps before this query loss."""
    weight: float
    """Weight of this query loss."""
    support_layers: int
    """Layers of support passes on the path; 0 in first order, where the path bypasses them."""


def gradient_paths(recipe: Recipe, epoch: float = 0.0, layers: int = LAYERS) -> list[GradientPath]:
    """Return one path per query loss with a non-zero weight, in the order of the steps.

    The query pass adds its own L layers to each path.
    """
    second_order = schedules.second_order(recipe.second_order_from, epoch)
    return [
        GradientPath(step, weight, step * layers if second_order else 0)
        for step, weight in enumerate(step_weights(recipe, epoch), start=1)
        if weight > 0
    ]


def plot_unrolled(recipe: Recipe, ax: Axes, epoch: float = 0.0, layers: int = LAYERS) -> Axes:
    """Plot the unrolled inner loop at an epoch, with the meta-gradient's paths through it.

    Below are the weights θ and the support passes between them, one bar per layer; above are the
    query losses with a non-zero weight. The label of a pass lists what it has per step: learning
    rates α, running statistics µ and σ (BNRS), and batch-norm weight and bias γ and β (BNWB). With
    per-step batch norm, each pass has its own colour.
    """
    paths = gradient_paths(recipe, epoch, layers)
    second_order = schedules.second_order(recipe.second_order_from, epoch)
    for step in range(recipe.inner_steps + 1):
        _draw_weights(step, ax)
    for step in range(recipe.inner_steps):
        _draw_support_pass(step, layers, recipe, ax)
        _draw_backward(step, second_order, ax)
    for path in paths:
        _draw_query(path, layers, ax)
    _draw_step_labels(recipe, ax)
    ax.set(xlim=(-0.45, recipe.inner_steps + 0.75), ylim=(-1.75, 1.75))
    ax.set_axis_off()
    return ax


def draw_unrolled(recipe: Recipe, epoch: float = 0.0, layers: int = LAYERS) -> Figure:
    """Draw `plot_unrolled` with a legend in a new figure.

    `RECIPES["maml"]` gives the paper's figure of MAML; "maml++" in second order, that of MAML++.
    """
    figure = Figure(figsize=(max(8, 1.5 * recipe.inner_steps + 2), 4.2), facecolor="white")
    ax = figure.add_axes((0.01, 0.1, 0.98, 0.88))
    plot_unrolled(recipe, ax, epoch, layers)
    add_legend(ax)
    return figure


def add_legend(ax: Axes) -> None:
    """Add a legend of the lines and boxes below the drawing, in the colours that are drawn."""
    passes = [bars.get_facecolor()[0] for bars in ax.collections] or [SUPPORT]
    queries = [box.get_facecolor() for box in ax.get_children() if isinstance(box, FancyBboxPatch)]
    for colour, linestyle, width, name in (
        (FORWARD, "-", 1.8, "forward"),
        (BACKWARD, "--", 1.8, "backward (meta-gradient)"),
        (passes[len(passes) // 2], "-", 7, "support pass, one bar per layer"),
        (queries[0] if queries else QUERY, "-", 7, "query loss × its weight"),
    ):
        ax.plot([], [], linestyle, color=colour, linewidth=width, label=name)
    ax.legend(loc="lower center", ncols=4, fontsize=9, frameon=False, bbox_to_anchor=(0.5, -0.08))


# Layout: θ_i is at x = i, y = 0, with its query loss above. Support pass i + 1 is below and to the
# right, at x = i + ½.

RADIUS, PASS_Y, QUERY_Y = 0.17, -0.85, 1.15


def _draw_weights(step: int, ax: Axes) -> None:
    ax.plot(step, 0, "o", markersize=24, mfc="white", mec=FORWARD, mew=1.6, zorder=3)
    ax.text(step, 0, f"θ{_subscript(step)}", ha="center", va="center", fontsize=12, zorder=4)


def _draw_support_pass(step: int, layers: int, recipe: Recipe, ax: Axes) -> None:
    """Draw L bars, with arrows from θ_i into them and from them to θ_{i+1}."""
    colour: Any = SUPPORT
    if recipe.norm_weights == "per_step" or recipe.norm_statistics == "per_step":
        colour = step_colours(recipe.inner_steps)[step]
    _draw_layers((step + 0.5, PASS_Y), 0.56, 0.42, layers, colour, ax)
    _arrow((step, -RADIUS), (step + 0.22, PASS_Y + 0.05), FORWARD, ax, bend=0.25)
    _arrow((step + 0.78, PASS_Y + 0.05), (step + 1, -RADIUS), FORWARD, ax, bend=0.25)
    _arrow((step, 0.06), (step + 1, 0.06), FORWARD, ax, shrink=13)
    ax.text(step + 0.5, PASS_Y, f"{layers} layers", **_INSIDE)


def _draw_backward(step: int, second_order: bool, ax: Axes) -> None:
    """Draw the path from θ_{i+1} to θ_i; in second order also through the support pass."""
    _arrow((step + 1, -0.06), (step, -0.06), BACKWARD, ax, dashed=True, shrink=13)
    if second_order:
        _arrow((step + 0.93, -0.2), (step + 0.79, -0.66), BACKWARD, ax, dashed=True, bend=-0.2)
        _arrow((step + 0.21, -0.66), (step + 0.07, -0.2), BACKWARD, ax, dashed=True, bend=-0.2)


def _draw_query(path: GradientPath, layers: int, ax: Axes) -> None:
    x = path.step
    box = FancyBboxPatch(
        (x - 0.27, QUERY_Y - 0.22), 0.54, 0.44, boxstyle="round,pad=0.02",
        facecolor=QUERY, edgecolor="none", alpha=0.35 + 0.65 * path.weight,
    )  # fmt: skip
    ax.add_artist(box)
    ax.text(x, QUERY_Y, f"query\n× {path.weight:.3g}", ha="center", va="center", fontsize=9)
    _arrow((x - 0.06, RADIUS), (x - 0.06, QUERY_Y - 0.24), FORWARD, ax)
    _arrow((x + 0.06, QUERY_Y - 0.24), (x + 0.06, RADIUS), BACKWARD, ax, dashed=True)
    length = f"{path.support_layers} + {layers}\nlayers back"
    ax.text(x, QUERY_Y + 0.27, length, ha="center", va="bottom", fontsize=9, color=BACKWARD)


def _draw_step_labels(recipe: Recipe, ax: Axes) -> None:
    for step in range(recipe.inner_steps):
        ax.text(step + 0.5, PASS_Y - 0.28, "\n".join(step_labels(recipe, step)), **_BELOW)


def step_labels(recipe: Recipe, step: int) -> list[str]:
    """Return the lines below the support pass of a step (from 0): its rates and batch norm."""
    index = _subscript(step)
    rates = {
        "fixed": "same α", "lslr": f"α{index} per layer", "meta-sgd": "α per weight"
    }  # fmt: skip
    labels = [rates[recipe.inner_rule]]
    if recipe.norm_statistics == "per_step":
        labels.append(f"µ{index}, σ{index}")
    if recipe.norm_weights == "per_step":
        labels.append(f"γ{index}, β{index}")
    return labels


def _subscript(number: int) -> str:
    """Return `"₁₀"` for 10: plain characters draw ten times faster than mathtext."""
    return str(number).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


def _draw_layers(
    centre: tuple[float, float], width: float, height: float, layers: int, colour: Any, ax: Axes
) -> None:
    x, y = centre[0] - width / 2, centre[1] - height / 2
    bar = width / layers
    spans = [(x + index * bar, 0.8 * bar) for index in range(layers)]
    ax.broken_barh(spans, (y, height), facecolor=colour, alpha=0.85, lw=0)


def _arrow(
    start: tuple[float, float],
    end: tuple[float, float],
    colour: str,
    ax: Axes,
    dashed: bool = False,
    bend: float = 0.0,
    shrink: float = 0.0,
) -> None:
    ax.add_artist(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=10, color=colour, linewidth=1.5,
            linestyle="--" if dashed else "-", connectionstyle=f"arc3,rad={bend}",
            shrinkA=shrink, shrinkB=shrink, zorder=2,
        )
    )  # fmt: skip


_INSIDE: dict[str, Any] = {
    "ha": "center", "va": "center", "fontsize": 8.5,
    "bbox": {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.85},
}  # fmt: skip
_BELOW: dict[str, Any] = {
    "ha": "center",
    "va": "top",
    "fontsize": 8.5,
    "color": "#333333",
    "linespacing": 1.3,
}
