import pytest
import torch

import mamlpp
from tests.makers import SHAPE, WAYS, assert_identical, make_batch, make_learner, snapshot


@pytest.fixture
def learner():
    return make_learner(inner_steps=2)


@pytest.fixture
def batch():
    return make_batch(tasks=2, per_class=1, dtype=torch.float32)


@pytest.fixture
def task(batch):
    return next(iter(batch))


def test_the_seed_decides_the_weights_and_touches_no_other_generator():
    before = torch.get_rng_state()
    recipe = mamlpp.Recipe(filters=4, seed=1)
    by_recipe, again = (mamlpp.MetaLearner(recipe, SHAPE, WAYS) for _ in range(2))
    other = mamlpp.MetaLearner(recipe, SHAPE, WAYS, seed=2)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(by_recipe.network.head.weight, again.network.head.weight)
    assert not torch.equal(by_recipe.network.head.weight, other.network.head.weight)


def test_the_inner_loop_moves_all_but_batch_norm(learner):
    moved = set(learner.weights())
    norms = {name for name, _ in learner.network.named_parameters() if ".norm." in name}
    assert len(norms) == 8
    assert moved == {name for name, _ in learner.network.named_parameters()} - norms


def test_the_outer_loop_learns_everything(learner, batch):
    learner.meta_loss(batch)[0].backward()
    for name, parameter in learner.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_adapt_is_the_inner_loop_of_training(learner, task):
    task = task._replace(support_x=task.support_x.double(), query_x=task.query_x.double())
    loss, accuracy, _ = learner.double().task_loss(task)
    logits = learner.adapt(task.support_x, task.support_y, reading="queries")(task.query_x)
    torch.testing.assert_close(torch.nn.functional.cross_entropy(logits, task.query_y), loss)
    assert accuracy == (logits.argmax(-1) == task.query_y).float().mean()


def test_adapt_leaves_the_learner_alone_and_needs_no_gradient(learner, task):
    before = snapshot(learner)
    learner.requires_grad_(False)
    with torch.no_grad():
        classify = learner.adapt(task.support_x, task.support_y)
    assert not classify(task.query_x).requires_grad
    assert all(parameter.grad is None for parameter in learner.parameters())
    assert_identical(learner.state_dict(), before)


def test_query_images_do_not_see_each_other_but_by_their_own_statistics(learner, task):
    for reading in learner.readings:
        classify = learner.adapt(task.support_x, task.support_y, reading=reading)
        change = (classify(task.query_x)[:1] - classify(task.query_x[:2])[:1]).abs().max()
        assert (change > 1e-3) == (reading == "queries")


def test_more_steps_fit_the_support_set_better(learner, task):
    def loss_after(steps):
        logits = learner.adapt(task.support_x, task.support_y, steps)(task.support_x)
        return torch.nn.functional.cross_entropy(logits, task.support_y)

    assert loss_after(5) < loss_after(1) < loss_after(0)


def test_query_statistics_act(learner, batch, task):
    by_support = make_learner(inner_steps=2, query_statistics="support")
    loss, by_queries = (each.meta_loss(batch.split()[0])[0] for each in (by_support, learner))
    assert not torch.isclose(loss, by_queries)
    logits = by_support.adapt(task.support_x, task.support_y)(task.query_x)
    torch.testing.assert_close(torch.nn.functional.cross_entropy(logits, task.query_y), loss)


def test_bad_input(learner, batch, task):
    with pytest.raises(mamlpp.InputError, match=r"images \[1, 16, 16\], but these are \[1, 8, 16"):
        learner.adapt(task.support_x[:, :, :8], task.support_y)
    with pytest.raises(mamlpp.InputError, match="labels must be 0 … 2 for a 3-way learner"):
        learner.adapt(task.support_x, task.support_y + 1)
    wide = mamlpp.TaskBatch(batch.support_x, batch.support_y + 5, batch.query_x, batch.query_y)
    with pytest.raises(mamlpp.InputError, match="go from 5 to 7"):
        learner.meta_loss(wide)
