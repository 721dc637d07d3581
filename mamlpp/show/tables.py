"""Result tables of a sweep: reported, replicated and measured accuracies, and the cost of the runs.

`sweep_tables` returns plain data; `as_text`, `as_markdown` and `draw_tables` present it.
"""

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from statistics import mean, median, stdev
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from mamlpp.learner import Reading
from mamlpp.recipe import Recipe
from mamlpp.run.evaluation import READINGS
from mamlpp.run.results import RecordedResult
from mamlpp.run.sweep import Cell, read_result
from mamlpp.show.plots import METHODS, plot_side_by_side

PAPER = json.loads(files("mamlpp.show").joinpath("paper.json").read_text(encoding="utf-8"))
"""Accuracies in % reported by the paper and by independent replications."""
_TITLES = {"omniglot": "Omniglot", "mini_imagenet": "Mini-ImageNet", "glyphs": "glyphs"}
_COST = ("seconds", "memory_mb", "nonfinite", "device", "date", "commit")

Table = dict[str, Any]
Result = Mapping[str, Any] | None  # of a run that has not finished: None


def sweep_tables(cells: Sequence[Cell], directory: Path) -> list[Table]:
    """Return one table per kind of task, with one row per recipe: reported results, finished runs.

    Accuracies of runs are in 0 … 1, but `reported` and `replications` in %.
    """
    return _tables([(cell, read_result(cell, directory)) for cell in cells])


def recorded_tables(*results: RecordedResult) -> list[Table]:
    """The same from recorded results. Of several, a row takes its longest trainings."""
    runs = [run for result in results for run in result.runs]
    return _tables([(run.cell, run.about | {"results": run.results}) for run in runs])


def _tables(found: Sequence[tuple[Cell, Result]]) -> list[Table]:
    groups = dict.fromkeys(cell.group for cell, _ in found)
    return [_table([pair for pair in found if pair[0].group == group]) for group in groups]


def _table(found: Sequence[tuple[Cell, Result]]) -> Table:
    first = found[0][0]
    order = [*METHODS, *(cell.recipe for cell, _ in found)]  # recipes of one's own come last
    recipes = sorted({cell.recipe for cell, _ in found}, key=order.index)
    rows = {name: _row([pair for pair in found if pair[0].recipe == name]) for name in recipes}
    dataset = _TITLES.get(first.dataset, Path(first.dataset).name)
    kind = f"{dataset} {first.ways}-way {first.shots}-shot"
    return {
        "title": f"{kind} {first.point}".strip(),
        "test_tasks": first.tasks,
        "ensemble": min(
            (r.get("ensemble", c.ensemble) for c, r in found if r), default=first.ensemble
        ),
        "size": _shared_fields([cell.settings for cell, _ in found]),
        "rows": rows,
    }


def _row(found: Sequence[tuple[Cell, Result]]) -> dict[str, Any]:
    """One recipe: what was reported, and its longest trainings."""
    first = found[0][0]
    paper = f"{first.dataset}_{first.ways}way", first.shots, _title(first.recipe)
    done = [(cell, result) for cell, result in found if result]
    length = max((cell.steps for cell, _ in done), default=first.steps)
    return {
        "reported": _reported(*paper),
        "replications": _replications(*paper),
        "meta_steps": length,
        "runs": [
            {"seed": cell.seed, "results": result["results"]}
            | {name: result[name] for name in _COST}
            for cell, result in done
            if cell.steps == length
        ],
    }


def _title(recipe: str) -> str:
    return METHODS.get(recipe, recipe)


def _shared_fields(recipes: Sequence[Recipe]) -> dict[str, Any]:
    """Return the fields with the same value in all recipes."""
    first = recipes[0].as_dict()
    return {
        name: value
        for name, value in first.items()
        if all(getattr(recipe, name) == value for recipe in recipes)
    }


def _reported(table: str, shots: int, method: str) -> list[float | None] | None:
    """Return the accuracy in the paper and the number after its ±."""
    rows = [row for row in PAPER.get(table, ()) if row["method"] == method]
    return rows[0].get(f"shots_{shots}") if rows else None


def _replications(table: str, shots: int, method: str) -> list[float] | None:
    """Return the lowest and highest accuracy of independent replications."""
    rows = [
        row
        for row in PAPER["replications"]
        if (row["table"], row["method"]) == (table, method) and row["shots"] in (None, shots)
    ]
    return [min(row["low"] for row in rows), max(row["high"] for row in rows)] if rows else None


def readings(table: Table) -> list[Reading]:
    """Return the readings by which the runs were evaluated."""
    runs = [run for row in table["rows"].values() for run in row["runs"]]
    return [reading for reading in READINGS if any(reading in run["results"] for run in runs)]


def percent(row: dict[str, Any], reading: Reading, kind: str = "single") -> list[float]:
    """Return the accuracy in % of each run that was evaluated by this reading.

    `kind` is "single" for the best checkpoint, or "ensemble".
    """
    results = [run["results"].get(reading, {}).get(kind) for run in row["runs"]]
    return [100 * result["accuracy"] for result in results if result]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Format mean ± standard deviation; a single value has no deviation."""
    if not values:
        return "–"
    deviation = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{deviation}"


def _text_cells(table: Table, kind: str) -> list[list[str]]:
    """Return the column titles and then the rows, as text."""
    columns = readings(table)
    by = [f"by {reading}" for reading in columns]
    titles = ["method", "paper", "others", "seeds", "meta-steps", *by, "minutes per run", "MB"]
    return [titles, *(_text_row(name, row, columns, kind) for name, row in table["rows"].items())]


def _text_row(name: str, row: dict[str, Any], columns: Sequence[Reading], kind: str) -> list[str]:
    runs = row["runs"]
    reported = [value for value in row["reported"] or () if value is not None]
    return [
        _title(name),
        " ± ".join(f"{value:.2f}" for value in reported) or "–",
        " to ".join(f"{value:.1f}" for value in row["replications"] or ()) or "–",
        str(len(runs)),
        f"{row['meta_steps']:,}",
        *(spread(percent(row, reading, kind)) for reading in columns),
        f"{median(run['seconds'] for run in runs) / 60:.0f}" if runs else "–",
        f"{max(run['memory_mb'] for run in runs):.0f}" if runs else "–",
    ]


def _caption(table: Table, kind: str) -> str:
    size = table["size"]
    model = {"single": "best checkpoint", "ensemble": f"ensemble of {table['ensemble']}"}[kind]
    words = ("filters", "inner_steps", "meta_batch")
    shared = [f"{name.replace('_', ' ')} {size[name]}" for name in words if name in size]
    return ", ".join(
        [
            f"{table['title']}, {model}: accuracy in %, mean ± standard deviation over seeds",
            f"{table['test_tasks']} test tasks",
            *shared,
        ]
    )


def as_text(table: Table, kind: str = "single") -> str:
    """Format a table for a terminal."""
    rows = _text_cells(table, kind)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])])
        for name, *cells in rows
    )
    return "\n".join([_caption(table, kind), *lines])


def as_markdown(table: Table, kind: str = "single", columns: Sequence[str] | None = None) -> str:
    """Format a table as Markdown; of `columns`, such as "by support", instead of all."""
    titles = _text_cells(table, kind)[0]
    kept = [i for i, title in enumerate(titles) if columns is None or title in columns]
    rows = [[cells[i] for i in kept] for cells in _text_cells(table, kind)]
    first, *lines = (f"| {' | '.join(cells)} |" for cells in rows)
    return "\n".join([_caption(table, kind), "", first, "|" + "---|" * len(kept), *lines])


def draw_tables(tables: Sequence[Table]) -> Figure:
    """Draw one plot per table: the paper, replications, and ours by each reading.

    A row that has none of them is left out, and so is a table.
    """
    each = [{n: r for n, r in table["rows"].items() if _says(r)} for table in tables]
    tables = [table | {"rows": kept} for table, kept in zip(tables, each, strict=True) if kept]
    height = sum(0.6 * len(table["rows"]) + 1.9 for table in tables)
    figure, axes = plt.subplots(
        len(tables), 1, figsize=(10, height), layout="constrained", squeeze=False
    )
    for table, [ax] in zip(tables, axes, strict=True):
        rows = {
            f"{fill(_title(name), 32)}\n{row['meta_steps']:,} meta-steps": row
            for name, row in table["rows"].items()
        }
        plot_side_by_side(
            {
                name: {
                    "reported": row["reported"],
                    "replications": row["replications"],
                    **{f"ours, by {r}": _means(row, r) for r in readings(table)},
                }
                for name, row in rows.items()
            },
            ax,
        )
        ax.set_title(fill(table["title"], 64), fontsize=12)
    return figure


def _says(row: dict[str, Any]) -> bool:
    return bool(row["runs"] or row["reported"] or row["replications"])


def _means(row: dict[str, Any], reading: Reading) -> list[tuple[float, float]]:
    """Accuracy in % of each run, and half of its 95 % interval over the test tasks."""
    found = [run["results"].get(reading, {}).get("single") for run in row["runs"]]
    return [(100 * one["accuracy"], 100 * one["interval"]) for one in found if one]
