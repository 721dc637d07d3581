"""The unrolled graph: what is drawn, counted on the matplotlib artists."""

import pytest
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
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
    return [arrow for arrow in found if arrow.get_edgecolor()[:3] == to_rgb(colour)]


def support_passes(ax):
    return [part for part in ax.collections if isinstance(part, PolyCollection)]


# Gradient paths


def test_without_msl_one_path_has_all_layers_of_all_steps():
    [path] = diagrams.gradient_paths(RECIPES["maml"])
    assert (path.step, path.weight, path.support_layers) == (5, 1.0, 25)


def test_msl_adds_shorter_paths():
    paths = diagrams.gradient_paths(RECIPES["maml+msl"], layers=4)
    assert [path.support_layers for path in paths] == [4, 8, 12, 16, 20]
    assert [path.weight for path in paths] == pytest.approx([0.2] * 5)


def test_after_msl_only_the_last_path_remains():
    assert [path.step for path in diagrams.gradient_paths(RECIPES["maml+msl"], epoch=15)] == [5]


def test_first_order_paths_bypass_the_support_passes():
    assert [p.support_layers for p in diagrams.gradient_paths(RECIPES["fomaml"])] == [0]
    da = RECIPES["maml+da"]
    assert [diagrams.gradient_paths(da, epoch)[0].support_layers for epoch in (49, 50)] == [0, 25]


# The drawing


@pytest.mark.parametrize("steps", [1, 3])
def test_every_step_has_weights_and_a_support_pass_with_a_bar_per_layer(ax, steps):
    recipe = RECIPES["maml"].with_(inner_steps=steps)
    assert diagrams.plot_unrolled(recipe, ax, layers=4) is ax
    names = [text for text in texts(ax) if text.startswith("θ")]
    assert names == ["θ₀", "θ₁", "θ₂", "θ₃"][: steps + 1]
    assert [len(drawn.get_paths()) for drawn in support_passes(ax)] == [4] * steps


def test_active_query_losses_are_labelled_with_weight_and_path_length(ax):
    diagrams.plot_unrolled(RECIPES["maml+msl"], ax, epoch=7.5)
    queries = [text for text in texts(ax) if text.startswith("query")]
    assert queries == ["query\n× 0.1"] * 4 + ["query\n× 0.6"]
    lengths = [text for text in texts(ax) if text.endswith("layers back")]
    assert lengths == [f"{5 * step} + 5\nlayers back" for step in range(1, 6)]


def test_only_second_order_gradients_go_through_the_support_passes():
    counts = {}
    for name in ("maml", "fomaml"):
        ax = diagrams.plot_unrolled(RECIPES[name], Figure().add_subplot())
        counts[name] = len(arrows(ax, diagrams.BACKWARD))
    assert counts == {"fomaml": 5 + 1, "maml": 5 * 3 + 1}


def test_passes_are_labelled_with_what_they_have_per_step(ax):
    assert diagrams.step_labels(RECIPES["maml"], 2) == ["same α"]
    assert diagrams.step_labels(RECIPES["maml+lslr"], 2) == ["α₂ per layer"]
    assert diagrams.step_labels(RECIPES["maml+bnrs+bnwb"], 2) == ["same α", "µ₂, σ₂", "γ₂, β₂"]
    diagrams.plot_unrolled(RECIPES["maml++"], ax)
    assert "α₄ per layer\nµ₄, σ₄\nγ₄, β₄" in texts(ax)


def test_passes_with_per_step_batch_norm_have_their_own_colours():
    for name, colours in (("maml", 1), ("maml+bnrs+bnwb", 5)):
        ax = diagrams.plot_unrolled(RECIPES[name], Figure().add_subplot())
        drawn = {tuple(part.get_facecolor()[0]) for part in support_passes(ax)}
        assert len(drawn) == colours


def test_the_figure_has_a_light_background_and_a_legend():
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
