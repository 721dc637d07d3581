"""Draw the figures of the README and the notebooks, SVG files in `figures/`, and write its tables.

make figures                                redraw every SVG and table from the numbers kept
.venv/bin/python tools/figures.py measure   the same, after training (minutes) for one of the JSONs
"""

from mamlpp import stopping

stopping.listen(__name__, "Every figure is complete: some are redrawn, the others unchanged.")

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import matplotlib
import matplotlib.pyplot as plt
import torch
import tyro
from matplotlib.figure import Figure
from tyro.conf import Positional

import mamlpp
from mamlpp.files import replacing
from mamlpp.show.diagrams import draw_unrolled
from mamlpp.show.plots import (
    COLOURS,
    plot_steps,
    plot_task_row,
    use_style,
)
from mamlpp.show.recorded import plot_cures
from mamlpp.show.schedule_plots import (
    order_spans,
    plot_order,
    plot_outer_rate,
    plot_step_weights,
)
from mamlpp.show.tables import as_markdown, draw_tables, recorded_tables
from mamlpp.terminal import say

FIGURES = Path(__file__).parent.parent / "figures"
STEPS, TASKS = 5, 600


def measure_first_hour() -> dict[str, Any]:
    """Train notebook 01's MAML on glyphs; compare with an untrained network; predict one task."""
    recipe = mamlpp.RECIPES["maml"].with_(
        filters=32, inner_steps=3, inner_rate=0.2, outer_rate=3e-3, meta_batch=4,
        validation_tasks=50, epochs=3, iterations_per_epoch=100,
    )  # fmt: skip
    run = mamlpp.Trainer(recipe, _sampler("train"), _sampler("validation")).fit()
    untrained = mamlpp.MetaLearner(recipe, run.data.image_shape, run.ways)
    task = next(iter(_sampler("test", queries=1).sample(1)))
    predictions = run.learner.adapt(task.support_x, task.support_y)(task.query_x).argmax(-1)
    return {
        "accuracy": {
            "MAML": _by_step(run.learner),
            "random weights": _by_step(untrained),
        },
        "tasks": TASKS,
        "support": _pixels(task.support_x),
        "query": _pixels(task.query_x),
        "predictions": predictions.tolist(),
        "made_by": "tools/figures.py measure: glyphs, 5-way 1-shot, 300 meta-steps, seed 0",
    }


def _sampler(split: str, queries: int = 5) -> mamlpp.TaskSampler:
    images = mamlpp.load_images("glyphs", split)
    return mamlpp.TaskSampler(images, 5, 1, queries, seed=0, rotate=split == "train")


def _by_step(learner: mamlpp.MetaLearner) -> list[float]:
    return [
        round(mamlpp.evaluate_tasks(learner, _sampler("test"), TASKS, steps=steps).accuracy, 4)
        for steps in range(STEPS + 1)
    ]


def _pixels(images: torch.Tensor) -> list[list[list[int]]]:
    return (images.squeeze(1) * 255).round().int().tolist()


def draw_first_hour(data: dict[str, Any]) -> Figure:
    """Left: predictions on one task. Right: accuracy by inner step, with and without MAML."""
    figure = plt.figure(figsize=(11, 3.2), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.1], squeeze=False)[0]
    support, query = (torch.tensor(data[part]).unsqueeze(1) / 255 for part in ("support", "query"))
    axes = left.subplots(2, len(support))
    plot_task_row(support, axes[0], "seen once")
    plot_task_row(query, axes[1], "new", data["predictions"])
    for label, above in enumerate(axes[0]):
        above.set_title(f"class {label}", fontsize=11)
    left.suptitle("one task: five unknown characters", fontsize=12)
    ax = plot_steps(data["accuracy"], right.subplots(), "accuracy")
    ax.axhline(1 / len(support), color=COLOURS["chance"], linestyle=":")
    ax.legend([], [], frameon=False)  # the names stand beside the lines
    for (name, accuracy), above in zip(data["accuracy"].items(), (8, -20), strict=True):
        place = STEPS - 1, accuracy[STEPS - 1]
        ax.annotate(
            name, place, (0, above), textcoords="offset points", ha="center", color=COLOURS[name]
        )
    ax.annotate(
        "chance", (STEPS - 1, 1 / len(support)), (0, -14), textcoords="offset points", ha="center"
    )
    ax.set_ylim(0, 1)
    ax.set_title(f"accuracy over {data['tasks']} tasks after each inner step", fontsize=12)
    return figure


def draw_omniglot_20way() -> Figure:
    """Omniglot 20-way 1-shot: each improvement in the paper, and in our longest trainings."""
    return draw_tables(recorded_tables(mamlpp.load_result("omniglot_20way_5000")))


def draw_cures() -> Figure:
    """The strided network at two outer rates: MAML, each improvement alone, MAML++."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
    single = ["maml+lslr", "maml+bnrs+bnwb", "maml+ca", "maml+da", "maml+msl"]
    plot_cures(mamlpp.load_result("cures"), ["maml", *single, "maml++"], axes)
    return figure


def draw_maml_graph() -> Figure:
    """The unrolled inner loop of MAML and the single path of its backward pass."""
    return draw_unrolled(mamlpp.RECIPES["maml"])


def draw_mamlpp_graph() -> Figure:
    """The same for MAML++: multi-step loss, per-step batch norm, per-step learning rates."""
    everything = mamlpp.RECIPES["maml++"].with_(second_order_from=0.0)
    return draw_unrolled(everything)


def draw_schedules() -> Figure:
    """The schedules of MAML++ over epochs: step weights, derivative order, outer rate."""
    recipe = mamlpp.RECIPES["maml++"]
    figure, axes = plt.subplots(
        3, 1, figsize=(9, 6.4), layout="constrained", height_ratios=[2, 0.7, 2], sharex=True
    )
    plot_step_weights(recipe, axes[0], recipe.epochs).set_title(
        "multi-step loss: weight of the query loss after each step", fontsize=12
    )
    plot_order(recipe, axes[1]).set_title("derivative-order annealing", fontsize=12)
    axes[0].text(recipe.msl_epochs + 2, 0.1, "steps 1–4, bottom to top", color="white", fontsize=9)
    axes[1].set(yticks=[], ylabel="order")
    for start, end, second in order_spans(recipe):
        name = "second order" if second else "first order"
        axes[1].text((start + end) / 2, 0.5, name, ha="center", va="center")
    plot_outer_rate(recipe, axes[2], recipe.epochs).set_title(
        "cosine annealing of the meta-optimizer's learning rate", fontsize=12
    )
    for ax in axes[:2]:
        ax.set_xlabel("")
    return figure


# Name of the figure: (the function that draws it, the JSON files with its numbers).
DRAWN: dict[str, tuple[Callable[..., Figure], list[str]]] = {
    "first_hour": (draw_first_hour, ["first_hour"]),
    "cures": (draw_cures, []),
    "maml_graph": (draw_maml_graph, []),
    "mamlpp_graph": (draw_mamlpp_graph, []),
    "schedules": (draw_schedules, []),
    "omniglot_20way": (draw_omniglot_20way, []),
}

MEASURED = {"first_hour": measure_first_hour}


def draw(name: str, folder: Path) -> Path:
    """Draw `folder/name.svg` from its numbers in `figures/`; same numbers give the same bytes."""
    matplotlib.rcdefaults()  # ignore the user's own settings
    use_style()
    function, sources = DRAWN[name]
    figure = function(*(read_numbers(source) for source in sources))
    path = folder / f"{name}.svg"
    with replacing(path) as part:
        figure.savefig(part, metadata={"Date": None}, facecolor="white")
    plt.close(figure)
    return path


def read_numbers(source: str) -> dict[str, Any]:
    """Read the numbers in `figures/source.json`."""
    return json.loads((FIGURES / f"{source}.json").read_text(encoding="utf-8"))


# Pages with tables between two marks: (the page, its columns; None: all of them, and all results).
PAGES: dict[str, list[str] | None] = {
    "README.md": ["method", "paper", "others", "seeds", "meta-steps", "by support"],
    "book/results.md": None,
}
RESULTS = "omniglot_20way_5000", "laptop", "mini_imagenet_1500"  # the longest first: README's
MARKS = "<!-- made by `make figures` from results/ -->\n", "<!-- the end of it -->\n"


def page_with_table(name: str) -> str:
    """The text of a page with its table made anew from the recorded results."""
    text = (FIGURES.parent / name).read_text(encoding="utf-8")
    before, rest = text.split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    columns = PAGES[name]
    kinds = ("single",) if columns else ("single", "ensemble")
    parts = [
        as_markdown(table, kind, columns)
        for result in (RESULTS[:1] if columns else RESULTS)
        for table in recorded_tables(mamlpp.load_result(result))
        for kind in kinds
    ]
    return before + MARKS[0] + "\n" + "\n\n".join(parts) + "\n\n" + MARKS[1] + after


def main(action: Positional[Literal["draw", "measure"]] = "draw") -> None:
    """Draw every figure, and make the tables of results on pages.

    Args:
        action: `measure` measures the figures' numbers again before it draws.
    """
    matplotlib.use("agg")
    if action == "measure":
        for source, measure in MEASURED.items():
            with replacing(FIGURES / f"{source}.json") as part:
                part.write_text(json.dumps(measure()) + "\n", encoding="utf-8", newline="\n")
    for name in DRAWN:
        say(draw(name, FIGURES).relative_to(FIGURES.parent).as_posix())
    for name in PAGES:
        text = page_with_table(name)
        with replacing(FIGURES.parent / name) as part:
            part.write_text(text, encoding="utf-8", newline="\n")
        say(name)


if __name__ == "__main__":
    tyro.cli(main)
