"""The unrolled graph: what is drawn, counted from the artists."""

import pytest
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from mamlpp import RECIPES
from mamlpp.show import diagrams


@pytest.fixture
def ax():
    return Figure().add_subplot()


def texts(ax):
    return [text.get_text() for text in ax.texts]


def arrows(ax, colour):
    found = [patch for patch in ax.artists + list(ax.patches) if isinstance(patch, FancyArrowPatch)]
    return [arrow for arrow in found if arrow.get_edgecolor()[:3] == colour_of(colour)]


def colour_of(name):
    from matplotlib.colors import to_rgb

    return to_rgb(name)


def passes(ax):
    return [part for part in ax.collections if isinstance(part, PolyCollection)]


# The paths, as numbers


def test_without_msl_one_path_goes_through_all_layers_of_all_steps():
    [path] = diagrams.gradient_paths(RECIPES["maml"])
    assert (path.step, path.weight, path.support_layers) == (5, 1.0, 25)


def test_msl_opens_shorter_paths():
    paths = diagrams.gradient_paths(RECIPES["maml+msl"], layers=4)
    assert [path.support_layers for path in paths] == [4, 8, 12, 16, 20]
    assert [path.weight for path in paths] == pytest.approx([0.2] * 5)


def test_after_msl_the_last_path_alone_is_left():
    assert [path.step for path in diagrams.gradient_paths(RECIPES["maml+msl"], epoch=15)] == [5]


def test_in_first_order_no_support_pass_is_on_the_way():
    assert [p.support_layers for p in diagrams.gradient_paths(RECIPES["fomaml"])] == [0]
    da = RECIPES["maml+da"]
    assert [diagrams.gradient_paths(da, epoch)[0].support_layers for epoch in (49, 50)] == [0, 25]


# The drawing


@pytest.mark.parametrize("steps", [1, 3])
def test_every_step_has_its_weights_its_pass_and_a_bar_for_each_layer(ax, steps):
    recipe = RECIPES["maml"].with_(inner_steps=steps)
    assert diagrams.plot_unrolled(recipe, ax, layers=4) is ax
    names = [text for text in texts(ax) if text.startswith("θ")]
    assert names == ["θ₀", "θ₁", "θ₂", "θ₃"][: steps + 1]
    assert [len(drawn.get_paths()) for drawn in passes(ax)] == [4] * steps


def test_the_query_losses_that_count_are_drawn_with_the_length_of_their_way(ax):
    diagrams.plot_unrolled(RECIPES["maml+msl"], ax, epoch=7.5)
    assert [t for t in texts(ax) if t.startswith("query")] == ["query\n× 0.1"] * 4 + [
        "query\n× 0.6"
    ]
    back = [t for t in texts(ax) if t.endswith("layers back")]
    assert back == [f"{5 * step} + 5\nlayers back" for step in range(1, 6)]


def test_the_gradient_goes_through_the_passes_in_second_order_alone():
    counts = {}
    for name in ("maml", "fomaml"):
        ax = diagrams.plot_unrolled(RECIPES[name], Figure().add_subplot())
        counts[name] = len(arrows(ax, diagrams.BACKWARD))
    assert counts == {"fomaml": 5 + 1, "maml": 5 * 3 + 1}


def test_what_differs_by_step_is_written_at_the_passes(ax):
    assert diagrams.step_marks(RECIPES["maml"], 2) == ["same α"]
    assert diagrams.step_marks(RECIPES["maml+lslr"], 2) == ["α₃, one\na layer"]
    assert diagrams.step_marks(RECIPES["maml+bnrs+bnwb"], 2) == ["same α", "µ₂, σ₂", "γ₂, β₂"]
    diagrams.plot_unrolled(RECIPES["maml++"], ax)
    assert "α₅, one\na layer\nµ₄, σ₄\nγ₄, β₄" in texts(ax)


def test_passes_with_a_batch_norm_of_their_own_have_a_colour_of_their_own():
    for name, colours in (("maml", 1), ("maml+bnrs+bnwb", 5)):
        ax = diagrams.plot_unrolled(RECIPES[name], Figure().add_subplot())
        drawn = {tuple(part.get_facecolor()[0]) for part in passes(ax)}
        assert len(drawn) == colours


def test_the_figure_is_light_and_has_a_legend():
    figure = diagrams.draw_unrolled(RECIPES["maml++"], epoch=60)
    assert figure.get_facecolor() == (1, 1, 1, 1)
    [ax] = figure.axes
    assert len(ax.get_legend().get_texts()) == 4


@pytest.mark.parametrize("steps", [1, 5, 10])
def test_no_two_texts_overlap(steps):
    recipe = RECIPES["maml++"].with_(inner_steps=steps, second_order_from=0.0)
    figure = diagrams.draw_unrolled(recipe)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    boxes += [figure.axes[0].get_legend().get_window_extent()]
    overlaps = [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]
    assert not overlaps
