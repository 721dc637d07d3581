"""Plots show their data: checked on the matplotlib artists, not on pixels."""

import base64

import IPython.display
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from mamlpp.data.tasks import Task
from mamlpp.errors import InputError
from mamlpp.run.evaluation import Evaluation
from mamlpp.run.history import History
from mamlpp.show import plots

WAYS, SHOTS, QUERIES = 3, 2, 2


@pytest.fixture
def ax():
    with plt.rc_context():
        plots.use_style()
        yield plt.figure().add_subplot()
    plt.close("all")


@pytest.fixture
def task():
    """Every image has a different uniform shade, and none is as dark as ink."""
    shades = torch.linspace(0.1, 0.9, WAYS * (SHOTS + QUERIES)).view(-1, 1, 1, 1)
    x = shades.expand(-1, 1, 8, 8)
    support, query = x.split([WAYS * SHOTS, WAYS * QUERIES])
    label = torch.arange(WAYS)
    return Task(support, label.repeat_interleave(SHOTS), query, label.repeat_interleave(QUERIES))


@pytest.fixture
def history():
    """Ten meta-steps with losses 10, 9, …, 1, validated after the fifth and the tenth."""
    history = History()
    for iteration in range(1, 11):
        history.append({"iteration": iteration, "loss": 11.0 - iteration})
    for row in history.rows[4::5]:
        row["validation_accuracy"] = row["iteration"] / 10
    return history


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def labels(axis):
    return [text.get_text() for text in axis.get_ticklabels()]


# Images and tasks


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_laid_out_row_by_row(ax, channels):
    images = torch.arange(5 * channels * 4).view(5, channels, 2, 2) / 60
    assert plots.plot_images(images, ax, columns=3, gap=1) is ax
    [picture] = ax.images
    sheet = np.atleast_3d(np.ma.filled(picture.get_array(), np.nan))
    assert sheet.shape == (5, 8, channels)
    for index, image in enumerate(images):
        top, left = index // 3 * 3, index % 3 * 3
        cell = sheet[top : top + 2, left : left + 2]
        np.testing.assert_allclose(cell, image.permute(1, 2, 0))
    assert np.isnan(sheet[2]).all()
    assert np.isnan(sheet[3:, 6:]).all()


def test_images_are_in_one_row_by_default(ax):
    plots.plot_images(torch.zeros(4, 1, 2, 2), ax, gap=0)
    assert ax.images[0].get_array().shape == (2, 8)


def test_faint_images_are_not_rescaled(ax, task):
    plots.plot_images(task.support_x, ax)
    for picture in (ax.images[0], plots.plot_task(task).axes[0].images[0]):
        assert (picture.get_clim(), picture.get_cmap().name) == ((0, 1), "gray_r")


def test_shuffled_queries_keep_their_classes_and_their_predictions(task):
    truth = task.query_y
    shuffled = plots.plot_task(task, truth, shuffle=3).axes[WAYS * SHOTS :]
    labels = [ax.get_xlabel() for ax in shuffled]
    assert sorted(labels) == [f"✓ class {label}" for label in range(WAYS)]  # each one is right
    assert labels != sorted(labels)
    pictures = [ax.images[0].get_array() for ax in shuffled]
    in_order = plots.plot_task(task, truth).axes[WAYS * SHOTS :]
    for label, picture in zip(labels, pictures, strict=True):
        place = int(label.rsplit(maxsplit=1)[-1])
        np.testing.assert_array_equal(picture, in_order[place].images[0].get_array())


def test_a_wrong_prediction_of_a_shuffled_query_names_the_true_class(task):
    wrong = (task.query_y + 1) % WAYS
    labels = [
        ax.get_xlabel() for ax in plots.plot_task(task, wrong, shuffle=3).axes[WAYS * SHOTS :]
    ]
    expected = [f"✗ class {(label + 1) % WAYS}\n(it is class {label})" for label in range(WAYS)]
    assert sorted(labels) == sorted(expected)


def cells(figure, rows):
    return np.array(figure.axes).reshape(rows, WAYS)


@pytest.mark.parametrize("queries", [1, 2, 5])
def test_a_task_has_one_column_per_class_with_queries_below(ax, task, queries):
    figure = plots.plot_task(task, queries=queries)
    assert isinstance(figure, Figure)
    drawn = min(queries, QUERIES)
    axes = cells(figure, SHOTS + drawn)
    for label in range(WAYS):
        support = task.support_x[task.support_y == label]
        query = task.query_x[task.query_y == label][:drawn]
        for cell, image in zip(axes[:, label], torch.cat([support, query]), strict=True):
            [picture] = cell.images
            np.testing.assert_array_equal(picture.get_array(), image[0])
    assert [cell.get_title() for cell in axes[0]] == ["class 0", "class 1", "class 2"]
    assert (axes[0, 0].get_ylabel(), axes[SHOTS, 0].get_ylabel()) == ("support", "query")
    assert not any(cell.get_xlabel() for cell in figure.axes)


def test_predictions_are_marked_correct_or_wrong(ax, task):
    predictions = torch.tensor([0, 1, 2, 1, 2, 0])  # first queries: correct, wrong, correct
    axes = cells(plots.plot_task(task, predictions, queries=2), SHOTS + 2)
    drawn = [[cell.get_xlabel() for cell in row] for row in axes[SHOTS:]]
    assert drawn == [
        ["✓ class 0", "✗ class 2", "✓ class 2"],
        ["✗ class 1", "✓ class 1", "✗ class 0"],
    ]
    colours = {(cell.get_xlabel()[0], cell.xaxis.label.get_color()) for cell in axes[SHOTS:].flat}
    marks, inks = zip(*colours, strict=True)
    assert len(colours) == len(set(marks)) == len(set(inks)) == 2  # one colour per mark
    for cell in axes[SHOTS:].flat:
        assert to_hex(cell.spines["left"].get_edgecolor()) == cell.xaxis.label.get_color()


def test_a_row_of_a_task_is_labelled_on_the_left(ax, task):
    row = plt.figure().subplots(1, WAYS)
    assert plots.plot_task_row(task.query_x[::QUERIES], row, "after 1 step", [0, 0, 2]) is row
    assert [cell.get_ylabel() for cell in row] == ["after 1 step", "", ""]
    assert [cell.get_xlabel() for cell in row] == ["✓ class 0", "✗ class 0", "✓ class 2"]


# Curves and bars


def test_learning_curves_show_the_running_mean(ax, history):
    assert plots.plot_learning_curves({"MAML": history}, ax, "loss", smooth=4) is ax
    [line] = ax.lines
    np.testing.assert_allclose(line.get_xdata(), range(4, 11))
    np.testing.assert_allclose(line.get_ydata(), [8.5, 7.5, 6.5, 5.5, 4.5, 3.5, 2.5])
    assert ax.get_xlabel() == "iteration (meta-steps)"
    assert ax.get_ylabel() == "loss"


def test_validation_curves_have_points_only_where_validated(ax, history):
    plots.plot_learning_curves({"MAML": history}, ax, "validation_accuracy", smooth=1)
    [line] = ax.lines
    np.testing.assert_array_equal(line.get_xydata(), [[5, 0.5], [10, 1.0]])
    assert ax.get_ylabel() == "validation accuracy, %"
    assert ax.yaxis.get_major_formatter()(0.25, 0) == "25"


def test_a_short_history_is_averaged_over_all_its_values(ax, history):
    plots.plot_learning_curves({"MAML": history}, ax, "loss", smooth=20)
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [[10, 5.5]])


@pytest.mark.filterwarnings("error")
def test_a_history_without_values_has_no_learning_curve(ax, history):
    new = History()
    plots.plot_learning_curves({"new": new}, ax, "validation_accuracy")
    assert not ax.lines
    new.append({"iteration": 1, "loss": 2.0})
    plots.plot_learning_curves({"new": new, "MAML": history}, ax, "validation_accuracy", 1)
    assert legend(ax) == ["MAML"]
    assert len(ax.lines) == 1


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.8, 40, {"1", "5", "20"}), (3, 8, {"4", "6"}), (1e-6, 1, {"0.0001"})],
)
def test_logarithmic_axes_have_plain_numbers(ax, low, high, expected):
    ax.set(yscale="log", ylim=(low, high))
    plots.plain_ticks(ax).figure.canvas.draw()
    assert expected <= set(labels(ax.yaxis))
    assert not any("10^" in label for label in labels(ax.yaxis))


def test_every_method_has_the_same_colour_in_all_plots(ax, history):
    names = ["first-order MAML", "MAML", "my own method"]
    plots.plot_learning_curves(dict.fromkeys(names, history), ax, "loss")
    assert legend(ax) == names
    plots.plot_steps(dict.fromkeys(names, (1, 2)), ax, "loss")
    plots.plot_accuracies(dict.fromkeys(names, (0.5, 0.1)), ax, 0.2)
    for index, name in enumerate(names[:2]):
        assert ax.lines[index].get_color() == plots.COLOURS[name]
        assert ax.lines[index + 3].get_color() == plots.COLOURS[name]
        assert to_hex(ax.patches[index].get_facecolor()) == plots.COLOURS[name]


def test_steps_are_counted_from_0(ax):
    curves = {"MAML": [0.2, 0.6, 0.8], "joint training": [0.3, 0.4]}
    assert plots.plot_steps(curves, ax, "accuracy") is ax
    for line, values in zip(ax.lines, curves.values(), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), values)
        np.testing.assert_array_equal(line.get_xdata(), range(len(values)))
    assert legend(ax) == list(curves)
    assert ax.get_xticks().tolist() == [0, 1, 2]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("inner steps taken", "accuracy, %")


def test_accuracies_are_bars_in_percent_with_intervals(ax):
    results = {"MAML": (0.9, 0.02), "random weights": (0.3, 0.05)}
    assert plots.plot_accuracies(results, ax, chance=0.2) is ax
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([90, 30])
    ends = [bars.errorbar.lines[2][0].get_segments()[0][:, 0] for bars in ax.containers[1::2]]
    np.testing.assert_allclose(ends, [[88, 92], [25, 35]])
    assert labels(ax.yaxis) == list(results)
    assert {"90.0 ± 2.0", "30.0 ± 5.0"} <= {text.get_text() for text in ax.texts}
    assert ax.get_xlabel().startswith("accuracy, %")
    top, bottom = (ax.transData.transform((0, row))[1] for row in (0, 1))
    assert top > bottom  # the first method is at the top


def test_chance_is_marked_in_percent(ax):
    plots.plot_accuracies({"MAML": (0.9, 0.02)}, ax, chance=0.2)
    assert [20.0, 20.0] in [list(line.get_xdata()) for line in ax.lines]
    assert legend(ax) == ["chance"]


def test_ticks_are_labelled(ax, history):
    plots.plot_learning_curves({"MAML": history}, ax, "loss", smooth=1)
    ax.figure.canvas.draw()
    for axis in (ax.xaxis, ax.yaxis):
        assert all(labels(axis))
        assert len(labels(axis)) > 2


def test_over_seeds_shows_mean_and_range(ax):
    def history(values):
        result = History()
        result.rows = [{"iteration": i + 1, "loss": value} for i, value in enumerate(values)]
        return result

    histories = {"MAML": [history([1.0, 2.0]), history([3.0, 6.0])], "none": [History()]}
    plots.plot_over_seeds(histories, ax, "loss", smooth=1)
    [line] = ax.lines
    assert line.get_xydata().tolist() == [[1, 2], [2, 4]]
    band = ax.collections[0].get_paths()[0].vertices
    assert {tuple(point) for point in band} == {(1, 1), (2, 2), (1, 3), (2, 6)}
    assert legend(ax) == ["MAML"]


def test_paper_replications_and_ours_stand_side_by_side(ax):
    values = {
        "MAML": {
            "reported": (91.27, 1.07),
            "replications": (91.0, 91.6),
            "ours, by support": [(70.0, 1.0), (74.0, 2.0)],
            "ours, by queries": [(80.0, 0.5)],
        },
        "MAML++": {"reported": None, "replications": None},
    }
    plots.plot_side_by_side(values, ax)
    assert labels(ax.yaxis) == ["MAML", "MAML++"]
    drawn = [(c.lines[0].get_xdata()[0], c.lines[0].get_marker()) for c in ax.containers]
    assert drawn == [(91.27, "D"), (70, "o"), (74, "o"), (80, "s")]
    intervals = [c.lines[2][0].get_segments()[0][:, 0].tolist() for c in ax.containers]
    assert intervals[0] == pytest.approx([90.2, 92.34])
    assert intervals[2] == pytest.approx([72, 76])
    assert legend(ax) == ["the paper", "replications", "ours, by support", "ours, by queries"]


def test_every_recipe_has_a_title_and_a_colour():
    import mamlpp

    assert set(plots.METHODS) == set(mamlpp.RECIPES)
    assert set(plots.METHODS.values()) <= set(plots.COLOURS)
    assert len({plots.COLOURS[name] for name in plots.METHODS.values()}) == len(mamlpp.RECIPES)


def test_calibration_shows_a_bar_per_bin_and_its_gap_to_the_confidence(ax):
    confidences = torch.tensor([[0.5, 0.5, 0.5, 0.5, 0.9, 0.9]])
    hits = torch.tensor([[1, 1, 1, 0, 1, 0]])
    evaluation = Evaluation(torch.zeros(1, 1), torch.zeros(1, 1), False, confidences, hits)
    assert plots.plot_calibration(evaluation, ax) is ax
    accuracy, gap = ax.patches[:15], ax.patches[15:]
    assert [bar.get_x() * 15 for bar in accuracy] == pytest.approx(range(15))
    assert len(gap) == 15
    for bin, correct, confidence in ((7, 0.75, 0.5), (13, 0.5, 0.9)):
        assert accuracy[bin].get_height() == pytest.approx(correct)
        assert gap[bin].get_y() == pytest.approx(correct)
        assert gap[bin].get_y() + gap[bin].get_height() == pytest.approx(confidence)
        assert gap[bin].get_x() == accuracy[bin].get_x()
    assert accuracy[7].get_facecolor()[3] > accuracy[13].get_facecolor()[3]  # more queries
    assert sum(bar.get_height() != 0 for bar in ax.patches) == 4
    assert [0, 1] in [list(line.get_xdata()) for line in ax.lines]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("confidence, %", "accuracy, %")
    assert any("30.0 %" in text for text in legend(ax))  # (4 · 0.25 + 2 · 0.4) / 6


def test_calibration_of_diverged_weights_has_no_bars(ax):
    nothing = torch.full((2, 3), torch.nan)
    scores = torch.zeros(1, 2)
    plots.plot_calibration(Evaluation(scores, scores, False, nothing, torch.ones(2, 3)), ax)
    ax.figure.canvas.draw()
    assert not any(bar.get_height() > 0 for bar in ax.patches)
    assert any("nan" in text for text in legend(ax))


def test_a_figure_is_shown_with_words_and_closed(monkeypatch: pytest.MonkeyPatch, ax):
    shown = []
    monkeypatch.setattr(
        IPython.display, "display", lambda data, **options: shown.append((data, options))
    )
    plots.show(ax.figure, "a falling line")
    [(data, options)] = shown
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert options["metadata"]["image/png"]["alt"] == data["text/plain"] == "a falling line"
    assert not plt.fignum_exists(ax.figure.number)


def test_a_figure_without_words_is_not_shown(ax):
    with pytest.raises(InputError, match="needs words"):
        plots.show(ax.figure, " ")
