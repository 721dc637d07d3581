"""Recorded trainings, played again."""

import io
from dataclasses import replace

import matplotlib.pyplot as plt
import pytest
from PIL import Image

import mamlpp
from mamlpp.run.history import History
from mamlpp.run.results import RecordedResult, RecordedRun
from mamlpp.run.sweep import Cell
from mamlpp.show.live import LivePanel
from mamlpp.show.recorded import (
    IMPROVEMENTS,
    cure_accuracies,
    leave_one_out,
    plot_cures,
    plot_leave_one_out,
    plot_rate_map,
    plot_readings,
    plot_recorded,
    reading_gaps,
    replay,
)


def recorded(recipe, accuracies, norms):
    """A run of four epochs of ten meta-steps, with a row for each epoch."""
    named = recipe.partition("-without")[0]  # a recipe of a sweep's own is none by name
    settings = mamlpp.RECIPES[named].with_(epochs=4, iterations_per_epoch=10)
    history = History()
    history.rows = [
        {"iteration": 10 * i, "gradient_norm": norm, "validation_accuracy": accuracy}
        for i, (accuracy, norm) in enumerate(zip(accuracies, norms, strict=True), start=1)
    ]
    cell = Cell(recipe, settings, "glyphs", 5, 1, 1, tasks=2, ensemble=1)
    return RecordedRun(cell, {}, history, {})


RUNS = [
    recorded("maml", [0.3, 0.5, 0.2, 0.2], [1.0, 1.0, 30.0, 2.0]),
    recorded("maml++", [0.4, 0.6, 0.7, 0.8], [1.0, 1.0, 1.5, 1.0]),
]


def test_the_lines_go_as_far_as_the_slider_and_the_axes_stay():
    for until, points in ((None, 4), (20, 2), (0, 0)):
        figure, axes = plt.subplots(1, 2)
        plot_recorded(RUNS, axes, until)
        lines = [ax.lines[:2] for ax in axes]
        assert [[len(line.get_xdata()) for line in pair] for pair in lines] == [[points] * 2] * 2
        assert axes[0].get_xlim() == (0, 40)
        assert axes[1].get_ylim() == pytest.approx((1 / 1.5, 45))
        assert [text.get_text() for text in axes[0].get_legend().texts] == [
            "MAML", "MAML++", "chance",
        ]  # fmt: skip
        plt.close(figure)


def test_the_slider_changes_the_picture_and_its_words():
    explorer = LivePanel.replay(RUNS)
    png, words = explorer.picture()
    assert words == (
        "Recorded, meta-step 40: MAML 20 %, largest gradient 20 times the median; "
        "MAML++ 80 %, largest gradient 2 times the median."
    )
    explorer.controls["step"].value = 20
    earlier, words = explorer.picture()
    assert words.startswith("Recorded, meta-step 20: MAML 50 %,")
    assert earlier != png
    assert Image.open(io.BytesIO(png)).size[0] > 700


def test_a_replay_takes_half_a_minute_and_ends_at_the_end():
    explorer = replay(RUNS)
    player = explorer.box.children[0]
    assert player.max * player.interval == 30_000
    options = explorer.controls["step"].options
    assert (len(options), options[0], options[-1]) == (player.max + 1, 0, 40)


def test_nothing_to_replay_is_refused():
    with pytest.raises(mamlpp.InputError, match="no run to replay"):
        replay([])


def with_accuracy(recipe, accuracy, **fields):
    run = recorded(recipe, [accuracy] * 4, [1.0] * 4)
    settings = run.cell.settings.with_(**fields)
    results = {"support": {"single": {"accuracy": accuracy}}}
    return replace(run, cell=replace(run.cell, settings=settings), results=results)


def test_cures_are_a_dot_for_each_seed_and_a_bar_at_the_mean():
    runs = [
        with_accuracy(recipe, accuracy + 0.1 * seed, outer_rate=rate, seed=seed)
        for rate, accuracy in ((0.03, 0.5), (0.1, 0.2))
        for recipe in ("maml", "maml+lslr")
        for seed in (0, 1)
    ]
    result = RecordedResult("cures", "", tuple(runs))
    figure, axes = plt.subplots(1, 2)
    plot_cures(result, ["maml", "maml+lslr"], axes)
    first = [(line.get_marker(), list(line.get_xdata())) for line in axes[0].lines[:2]]
    assert first == [("o", pytest.approx([50, 60])), ("|", pytest.approx([55]))]
    assert [text.get_text() for text in axes[0].get_yticklabels()] == ["MAML", "MAML + LSLR"]
    assert axes[1].get_title().startswith("outer rate β = 0.1")
    with pytest.raises(mamlpp.InputError, match=r"cures has no maml\+ca at 0.03"):
        cure_accuracies(result, "maml+ca", 0.03)
    plt.close(figure)


def test_leave_one_out_compares_runs_of_the_same_seed():
    def runs(recipe, *accuracies):
        return [
            with_accuracy(recipe, accuracy, outer_rate=0.1, seed=seed)
            for seed, accuracy in enumerate(accuracies)
        ]

    cures = [*runs("maml", 0.2, 0.3, 0.9), *runs("maml++", 0.7, 0.8, 0.1)]
    cures += [run for name in IMPROVEMENTS for run in runs(f"maml+{name}", 0.5, 0.7)]
    without = [run for name in IMPROVEMENTS for run in runs(f"maml++-without-{name}", 0.6, 0.4)]
    results = [RecordedResult("some", "", tuple(some)) for some in (cures, without)]
    found = leave_one_out(*results, 0.1)
    assert list(found) == ["LSLR", "BNRS + BNWB", "CA", "DA", "MSL"]
    assert found["LSLR"] == (pytest.approx(0.35), pytest.approx(0.25))  # without the third seed
    figure, ax = plt.subplots()
    plot_leave_one_out(*results, [ax])
    dots = [list(line.get_xdata()) for line in ax.lines if line.get_marker() == "o"]
    assert dots[:2] == [pytest.approx([50, 70]), pytest.approx([60, 40])]
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend == ["MAML", "MAML++", "added to MAML", "left out of MAML++"]
    plt.close(figure)


def test_the_map_has_the_mean_over_seeds_with_the_largest_outer_rate_on_top():
    runs = [
        with_accuracy(recipe, outer * 5 + inner, outer_rate=outer, inner_rate=inner, seed=seed)
        for recipe in ("maml", "maml++")
        for outer in (0.01, 0.1)
        for inner in (0.1, 0.4)
        for seed in (0, 1)
    ]
    figure, axes = plt.subplots(1, 2)
    plot_rate_map(RecordedResult("rates", "", tuple(runs)), axes)
    assert [text.get_text() for text in axes[0].texts] == ["60", "90", "15", "45"]
    assert [text.get_text() for text in axes[1].get_yticklabels()] == ["0.1", "0.01"]
    assert axes[1].get_title() == "MAML++"
    plt.close(figure)


def test_readings_are_grouped_by_kind_of_task_and_runs_without_running_ones_are_left_out():
    def judged(ways, **accuracies):
        run = with_accuracy("maml++", 0.5)
        results = {reading: {"single": {"accuracy": a}} for reading, a in accuracies.items()}
        return replace(run, results=results, cell=replace(run.cell, ways=ways))

    runs = [
        judged(2, support=0.7, running=0.8, queries=0.9),
        judged(5, support=0.6, running=0.4, queries=0.7),
        judged(5, support=0.8, running=0.5, queries=0.9),
        judged(5, support=0.1, queries=0.2),
    ]
    result = RecordedResult("readings", "", tuple(runs))
    gaps = reading_gaps(result)
    assert gaps == {"2-way 1-shot": pytest.approx(-0.1), "5-way 1-shot": pytest.approx(0.25)}
    figure, ax = plt.subplots()
    plot_readings(result, ax)
    assert [bar.get_height() for bar in ax.patches] == pytest.approx([70, 70, 80, 45, 90, 80])
    assert [text.get_text() for text in ax.get_xticklabels()] == list(gaps)
    plt.close(figure)
