"""The tables of a sweep: the paper's numbers, other people's and ours, and what ours cost.

`sweep_tables` is plain data; `as_text`, `as_markdown` and `draw_table` show it.
"""

import json
from collections.abc import Sequence
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from mamlpp.recipe import Recipe
from mamlpp.run.sweep import Cell, read_result
from mamlpp.show.plots import METHODS, plot_measured, plot_reported

PAPER = json.loads(files("mamlpp.show").joinpath("paper.json").read_text(encoding="utf-8"))
"""What the paper and others report, in %."""
_NAMES = {"omniglot": "Omniglot", "mini_imagenet": "Mini-ImageNet", "glyphs": "glyphs"}
_COST = ("seconds", "memory_mb", "nonfinite", "device", "date", "commit")

Table = dict[str, Any]


def sweep_tables(cells: Sequence[Cell], directory: Path) -> list[Table]:
    """A table for each kind of task, with a row for each recipe: what is reported of it, and its
    runs that are done. Accuracies in 0 … 1, but `reported` and `replications` in %.
    """
    groups = dict.fromkeys(cell.group for cell in cells)
    return [_table([cell for cell in cells if cell.group == group], directory) for group in groups]


def _table(cells: Sequence[Cell], directory: Path) -> Table:
    first = cells[0]
    key, shots = f"{first.dataset}_{first.ways}way", first.shots
    return {
        "title": f"{_NAMES[first.dataset]} {first.ways}-way {shots}-shot",
        "test_tasks": first.tasks,
        "ensemble": first.ensemble,
        "size": _size([cell.settings for cell in cells]),
        "rows": {
            name: {
                "reported": _reported(key, shots, METHODS[name]),
                "replications": _replications(key, shots, METHODS[name]),
                "runs": [
                    {"seed": cell.seed, "results": result["results"]}
                    | {name: result[name] for name in _COST}
                    for cell in cells
                    if cell.recipe == name and (result := read_result(cell, directory))
                ],
            }
            for name in sorted({cell.recipe for cell in cells}, key=list(METHODS).index)
        },
    }


def _size(settings: Sequence[Recipe]) -> dict[str, Any]:
    """The fields that all recipes share."""
    first = settings[0].as_dict()
    shared = (field.name for field in fields(Recipe))
    return {
        name: first[name]
        for name in shared
        if all(getattr(recipe, name) == first[name] for recipe in settings)
    }


def _reported(table: str, shots: int, method: str) -> list[float | None] | None:
    """The paper's accuracy and what follows its ±."""
    found = [row for row in PAPER.get(table, ()) if row["method"] == method]
    return found[0].get(f"shots_{shots}") if found else None


def _replications(table: str, shots: int, method: str) -> list[float] | None:
    """The range over independent replications."""
    found = [
        one
        for one in PAPER["replications"]
        if (one["table"], one["method"]) == (table, method) and one["shots"] in (None, shots)
    ]
    return [min(one["low"] for one in found), max(one["high"] for one in found)] if found else None


def protocols(table: Table) -> list[str]:
    """The ways in which its runs were evaluated: inductive, transductive, …"""
    runs = [run for row in table["rows"].values() for run in row["runs"]]
    return sorted({protocol for run in runs for protocol in run["results"]})


def percent(row: dict[str, Any], protocol: str, kind: str = "single") -> list[float]:
    """Accuracy of each run of a row, in %; none where it was not evaluated so.

    `kind` is "single", the best checkpoint, or "ensemble".
    """
    results = [run["results"].get(protocol, {}).get(kind) for run in row["runs"]]
    return [100 * result["accuracy"] for result in results if result]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean ± standard deviation, in words; the mean alone of one value."""
    if not values:
        return "–"
    deviation = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{deviation}"


def _lines(table: Table, kind: str) -> list[list[str]]:
    """Titles, then a line for each row, as words."""
    ways = protocols(table)
    titles = ["method", "paper", "others", "seeds", *ways, "minutes a run", "MB"]
    return [titles, *(_line(name, row, ways, kind) for name, row in table["rows"].items())]


def _line(name: str, row: dict[str, Any], ways: Sequence[str], kind: str) -> list[str]:
    runs = row["runs"]
    reported = [value for value in row["reported"] or () if value is not None]
    return [
        METHODS[name],
        " ± ".join(f"{value:.2f}" for value in reported) or "–",
        " to ".join(f"{value:.1f}" for value in row["replications"] or ()) or "–",
        str(len(runs)),
        *(spread(percent(row, protocol, kind)) for protocol in ways),
        spread([run["seconds"] / 60 for run in runs], 1),
        f"{max(run['memory_mb'] for run in runs):.0f}" if runs else "–",
    ]


def _caption(table: Table, kind: str) -> str:
    """What the numbers are."""
    size = table["size"]
    which = {"single": "best checkpoint", "ensemble": f"ensemble of {table['ensemble']}"}[kind]
    return (
        f"{table['title']}, {which}: accuracy in %, mean ± standard deviation over seeds, "
        f"{table['test_tasks']} test tasks; {size['epochs']} × {size['iterations_per_epoch']} "
        f"meta-steps, {size['filters']} filters, {size['inner_steps']} inner steps"
    )


def as_text(table: Table, kind: str = "single") -> str:
    """For a terminal."""
    lines = _lines(table, kind)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = (
        "  ".join([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])])
        for name, *cells in lines
    )
    return "\n".join([_caption(table, kind), *text])


def as_markdown(table: Table, kind: str = "single") -> str:
    """For a page."""
    titles, *rows = (f"| {' | '.join(cells)} |" for cells in _lines(table, kind))
    rule = "|" + "---|" * titles.count(" | ") + "---|"
    return "\n".join([_caption(table, kind), "", titles, rule, *rows])


def draw_tables(tables: Sequence[Table]) -> Figure:
    """A line for each table: as the paper reports it, and ours, a dot a seed, by protocol."""
    height = sum(0.5 * len(table["rows"]) + 1.2 for table in tables)
    figure, axes = plt.subplots(
        len(tables), 2, figsize=(12, height), layout="constrained", squeeze=False
    )
    for table, (left, right) in zip(tables, axes, strict=True):
        rows = {METHODS[name]: row for name, row in table["rows"].items()}
        plot_reported({name: row["reported"] for name, row in rows.items()}, left)
        left.set_title(f"{table['title']}, as reported in the paper", fontsize=12)
        ways = protocols(table)
        plot_measured(
            {n: {way: percent(row, way) for way in ways} for n, row in rows.items()}, right
        )
        steps = table["size"]["epochs"] * table["size"]["iterations_per_epoch"]
        right.set_title(f"ours, {steps:,} meta-steps: a dot a seed, a bar their mean", fontsize=12)
    return figure
