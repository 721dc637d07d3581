"""What a diagnosis says is so, what it touches is nothing, and its picture shows its numbers."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import mamlpp
from mamlpp.diagnostics import Diagnosis, diagnose
from mamlpp.run.history import gradient_rows
from mamlpp.show import plots
from tests.makers import (
    METHODS,
    assert_identical,
    flat,
    gradients,
    make_batch,
    make_learner,
    snapshot,
)

STEPS = 3
LAYERS = ("blocks.0.conv", "blocks.1.conv", "blocks.2.conv", "blocks.3.conv", "head")


@pytest.fixture
def batch():
    return make_batch(tasks=2, dtype=torch.float32)


@pytest.fixture
def diagnosis():
    """Norms from 1e-12 to 1e12, with a zero; infinite, then not a number, on the way back."""
    norms = torch.logspace(-12, 12, 20, dtype=torch.float64).view(4, 5)
    norms[3, 1], norms[1, 2], norms[0] = 0.0, float("inf"), float("nan")
    return Diagnosis(1.5, LAYERS, norms, 0.25, -0.5)


@pytest.mark.parametrize("name", METHODS)
def test_the_meta_norm_is_that_of_the_meta_loss(name, batch):
    learner = make_learner(name)
    diagnosis = diagnose(learner, batch)
    learner.meta_loss(batch)[0].backward()
    expected = flat(gradients(learner).values()).norm()
    assert diagnosis.meta_norm == pytest.approx(expected.item(), rel=1e-4)
    assert diagnosis.layers == LAYERS
    assert diagnosis.norms.shape == (STEPS + 1, len(LAYERS))


def test_of_one_task_row_0_is_the_meta_gradient_of_each_layer(batch):
    learner, [task, _] = make_learner(), batch.split()
    learner.meta_loss(task)[0].backward()
    network = learner.network
    parts = [[block.conv.weight] for block in network.blocks] + [list(network.head.parameters())]
    norms = [flat(p.grad for p in layer).norm().item() for layer in parts]
    assert diagnose(learner, task).norms[0].tolist() == pytest.approx(norms, rel=1e-5)


def test_norms_of_a_batch_are_the_mean_of_its_tasks(batch):
    learner = make_learner("maml++", second_order_from=0.0)
    alone = [diagnose(learner, task).norms for task in batch.split()]
    torch.testing.assert_close(diagnose(learner, batch).norms, (alone[0] + alone[1]) / 2)


@pytest.mark.parametrize("name", ["maml", "maml++", "meta-sgd"])
def test_the_learner_stays_as_it_was(name, batch):
    learner = make_learner(name)
    learner.meta_loss(batch)[0].backward()
    state, before = snapshot(learner), flat(gradients(learner).values())
    random, training = torch.get_rng_state(), learner.training
    diagnose(learner, batch, epoch=60.0)
    assert_identical(learner.state_dict(), state)
    assert torch.equal(flat(gradients(learner).values()), before)
    assert torch.equal(torch.get_rng_state(), random)
    assert learner.training == training


def test_a_learner_without_gradients_gets_none(batch):
    learner = make_learner()
    diagnose(learner, batch)
    assert all(parameter.grad is None for parameter in learner.parameters())


@pytest.mark.parametrize("name", ["fomaml", "maml+da", "maml++"])
def test_first_order_has_a_cosine_of_one_with_itself(name, batch):
    annealed = name != "fomaml"
    assert diagnose(make_learner(name), batch, epoch=0.0).cosine == pytest.approx(1, abs=1e-6)
    assert (diagnose(make_learner(name), batch, epoch=50.0).cosine < 0.99) == annealed


@pytest.mark.parametrize("name", ["maml", "maml+msl"])
def test_the_cosine_is_that_of_two_learners(name, batch):
    second, first = (make_learner(name, second_order_from=order) for order in (0.0, None))
    for learner in (second, first):
        learner.meta_loss(batch)[0].backward()
    adapted = (flat(w.grad for w in learner.weights().values()) for learner in (second, first))
    expected = torch.cosine_similarity(*adapted, dim=0).item()
    assert diagnose(second, batch).cosine == pytest.approx(expected, abs=1e-5)


def test_a_healthy_gradient_has_nothing_bad(batch):
    assert diagnose(make_learner("maml++"), batch).first_nonfinite is None


class Broken(mamlpp.MetaLearner):
    """Its query loss after two steps is what it should be, but one layer's gradient is not."""

    def models(self, task, collect=None):
        model, query_model = super().models(task, collect)

        def broken(weights, x, step):
            logits = query_model(weights, x, step)
            if step == 2:  # the slope of the root at 0 is infinite
                return logits + 0 * (0 * weights["blocks.1.conv.weight"]).sum().sqrt()
            return logits

        return model, broken


def test_a_gradient_that_breaks_on_its_way_back_is_found_where_it_does(batch):
    sound, broken = (make_learner("maml+msl", kind=kind) for kind in (mamlpp.MetaLearner, Broken))
    norms, diagnosis = diagnose(sound, batch).norms, diagnose(broken, batch)
    assert diagnosis.first_nonfinite == (2, "blocks.1.conv")
    assert diagnosis.norms[2].isfinite().tolist() == [True, False, True, True, True]
    assert torch.equal(diagnosis.norms[3], norms[3])
    assert not diagnosis.norms[:2].isfinite().any()
    assert not np.isfinite([diagnosis.meta_norm, diagnosis.cosine]).any()


def test_what_explodes_but_is_finite_is_measured(batch):
    learner = make_learner("maml+lslr")
    with torch.no_grad():
        learner.rule.rates[4, 1] = 1e30  # of the head at the second step
    diagnosis = diagnose(learner, batch)
    assert diagnosis.first_nonfinite is None
    assert 1e25 < diagnosis.norms.max() < 1e35  # its square is no float32
    assert 1e25 < diagnosis.meta_norm < 1e35


def test_a_weight_that_is_nan_is_found_at_the_last_step(batch):
    learner = make_learner()
    with torch.no_grad():
        learner.network.head.weight[0, 0] = float("nan")
    assert diagnose(learner, batch).first_nonfinite == (STEPS, "head")


def test_first_nonfinite_is_the_last_step_and_layer_that_is_not_finite(diagnosis):
    assert diagnosis.first_nonfinite == (1, "blocks.2.conv")


def test_rows_for_a_table(diagnosis):
    rows = gradient_rows(diagnosis, 7)
    assert len(rows) == 20
    assert rows[5] == {
        "iteration": 7,
        "step": 1,
        "layer": "blocks.0.conv",
        "norm": diagnosis.norms[1, 0].item(),
    }


# The picture ------------------------------------------------------------------------------------


@pytest.fixture
def ax():
    with plt.rc_context():
        plots.use_style()
        yield plt.figure().add_subplot()
    plt.close("all")


def test_the_heat_map_shows_the_numbers_it_was_given(ax, diagnosis):
    assert plots.plot_gradient_heatmap(diagnosis, ax) is ax
    norms = diagnosis.norms.numpy()
    shown = np.array([float(text.get_text()) for text in ax.texts]).reshape(norms.shape)
    np.testing.assert_allclose(shown, norms, rtol=0.06)
    for text, (step, layer) in zip(ax.texts, np.ndindex(*norms.shape), strict=True):
        assert text.get_position() == (layer, step)
    logs = ax.images[0].get_array()
    usable = np.isfinite(norms) & (norms > 0)
    np.testing.assert_array_equal(~logs.mask, usable)
    np.testing.assert_allclose(logs[usable], np.log10(norms[usable]))


def test_cells_that_are_not_finite_are_marked(ax, diagnosis):
    plots.plot_gradient_heatmap(diagnosis, ax)
    marked = {(round(p.get_y() + 0.5), round(p.get_x() + 0.5)) for p in ax.patches}
    assert marked == {(0, layer) for layer in range(5)} | {(1, 2)}


def test_axes_and_colours_are_named(ax, diagnosis):
    plots.plot_gradient_heatmap(diagnosis, ax)
    titles = [text.get_text() for text in ax.get_xticklabels()]
    assert titles == ["conv 1", "conv 2", "conv 3", "conv 4", "head"]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["0", "1", "2", "3"]
    assert ax.get_ylabel() == "inner steps taken"
    assert "norm" in ax.images[0].colorbar.ax.get_ylabel()


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_nothing_to_colour_is_drawn_all_the_same(ax, diagnosis, value):
    empty = replace(diagnosis, norms=torch.full_like(diagnosis.norms, value))
    plots.plot_gradient_heatmap(empty, ax)
    ax.figure.canvas.draw()
    np.testing.assert_array_equal([float(text.get_text()) for text in ax.texts], [value] * 20)
