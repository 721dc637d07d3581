"""Tables of recorded results: each row takes its longest trainings."""

import mamlpp
from mamlpp.run.history import History
from mamlpp.run.results import RecordedResult, RecordedRun
from mamlpp.run.sweep import Cell
from mamlpp.show import tables


def run(recipe, epochs, accuracy, seed=0, dataset="omniglot"):
    settings = mamlpp.RECIPES[recipe].with_(epochs=epochs, iterations_per_epoch=10, seed=seed)
    cell = Cell(recipe, settings, dataset, 20, 1, 1, tasks=600, ensemble=3)
    judged = {"accuracy": accuracy, "interval": 0.01}
    results = {"support": {"single": judged, "ensemble": judged}}
    about = dict.fromkeys(("device", "date", "commit"), "") | {
        "seconds": 120.0 * (1 + seed), "memory_mb": 5.0, "nonfinite": 0
    }  # fmt: skip
    return RecordedRun(cell, results, History(), about)


def test_a_row_takes_its_longest_trainings_and_says_how_long_they_are():
    short = RecordedResult("short", "", tuple(run(name, 2, 0.5) for name in ("maml", "maml++")))
    long = RecordedResult("long", "", (run("maml", 5, 0.7), run("maml", 5, 0.9, seed=1)))
    [table] = tables.recorded_tables(short, long)
    assert table["title"] == "Omniglot 20-way 1-shot"
    steps = {name: row["meta_steps"] for name, row in table["rows"].items()}
    assert steps == {"maml": 50, "maml++": 20}
    assert tables.percent(table["rows"]["maml"], "support") == [70, 90]
    _, titles, maml, plus = tables.as_text(table).splitlines()
    assert titles.split()[:5] == ["method", "paper", "others", "seeds", "meta-steps"]
    assert "80.00 ± 14.14" in maml
    assert maml.split()[-2:] == ["3", "5"], "the median of the minutes, and megabytes"
    assert "97.65 ± 0.05" in plus
    figure = tables.draw_tables([table])
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names == ["MAML\n50 meta-steps", "MAML++\n20 meta-steps"]


def test_recipes_of_ones_own_have_rows_by_their_names():
    for table in tables.recorded_tables(mamlpp.load_result("leave_one_out")):
        assert all(name.startswith("maml++-without-") for name in table["rows"])
        assert "maml++-without-lslr" in tables.as_text(table)
        tables.draw_tables([table])


def test_tables_of_images_of_ones_own_have_their_folder_s_name():
    mine = RecordedResult("mine", "", (run("maml", 2, 0.5, dataset="there/my zoo@28x1"),))
    [table] = tables.recorded_tables(mine)
    assert tables.as_text(table).startswith("my zoo@28x1 20-way 1-shot, best checkpoint")
    assert "ensemble of 3" in tables.as_text(table, "ensemble")
    mine.runs[0].about["ensemble"] = 2  # which is what it kept
    [table] = tables.recorded_tables(mine)
    assert "ensemble of 2" in tables.as_text(table, "ensemble")
    empty = table | {"rows": {"anil": table["rows"]["maml"] | {"runs": []}}}
    figure = tables.draw_tables([table, empty])
    assert len(figure.axes) == 1, "no panel without a number"
    [ax] = figure.axes
    assert [text.get_text() for text in ax.get_legend().texts] == ["ours, by support"]
    figure.draw_without_rendering()
    boxes = [part.get_window_extent() for part in (ax.xaxis.label, ax.get_legend())]
    assert boxes[1].y1 < boxes[0].y0, "the legend is below the label"
    assert boxes[1].y0 > 0
