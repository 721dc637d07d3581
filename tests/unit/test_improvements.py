"""Each switch of MAML++ acts, and does only what it says."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import mamlpp
from mamlpp import schedules
from mamlpp.maml import task_loss
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


@pytest.fixture
def batch():
    return make_batch(tasks=2, dtype=torch.float32)


@pytest.fixture
def task(batch):
    return next(iter(batch))


# The recipes ------------------------------------------------------------------------------------


def test_every_single_improvement_differs_from_maml_in_its_own_fields_alone():
    maml = mamlpp.RECIPES["maml"].as_dict()
    own = {
        "fomaml": {"second_order_from"},
        "meta-sgd": {"inner_rule"},
        "maml+msl": {"msl_epochs"},
        "maml+da": {"second_order_from"},
        "maml+bnrs+bnwb": {"norm_statistics", "norm_weights"},
        "maml+lslr": {"inner_rule"},
        "maml+ca": {"outer_rate_min"},
    }
    for name, expected in own.items():
        fields = mamlpp.RECIPES[name].as_dict()
        assert {field for field in fields if fields[field] != maml[field]} == expected, name


def test_maml_plus_plus_is_all_of_them():
    everything = mamlpp.RECIPES["maml"].as_dict()
    for name in ("maml+msl", "maml+da", "maml+bnrs+bnwb", "maml+lslr", "maml+ca"):
        single = mamlpp.RECIPES[name].as_dict()
        everything |= {k: v for k, v in single.items() if v != mamlpp.RECIPES["maml"].as_dict()[k]}
    assert mamlpp.RECIPES["maml++"].as_dict() == everything


@pytest.mark.parametrize("name", METHODS)
def test_every_recipe_trains_every_outer_parameter(name, batch):
    learner = make_learner(name)
    loss, _ = learner.meta_loss(batch)
    loss.backward()
    for parameter_name, parameter in learner.named_parameters():
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


# MSL --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("floor", [0.0, 0.03])
def test_msl_weights_sum_to_one_and_fall_to_the_floor(steps, floor):
    epochs = [0, 0.1, 7.5, 14.99, 15, 16, 1000]
    weights = [schedules.step_weights(steps, 15, floor, epoch) for epoch in epochs]
    for at_epoch in weights:
        assert sum(at_epoch) == pytest.approx(1, abs=1e-12)
    assert weights[0] == pytest.approx([1 / steps] * steps)
    assert weights[2][0] == pytest.approx((1 / steps + floor) / 2 if steps > 1 else 1)
    for at_epoch in weights[4:]:
        assert at_epoch == pytest.approx([floor] * (steps - 1) + [1 - floor * (steps - 1)])


def test_without_msl_the_last_step_alone_counts():
    assert schedules.step_weights(4, 0, 0, 0) == [0, 0, 0, 1]


def test_msl_is_the_weighted_sum_of_the_query_losses(task):
    learner, weights = make_learner(), [0.2, 0.3, 0.5]

    def model(w, x, step):
        return learner(w, x, step)

    total, outputs = task_loss(model, learner.weights(), task, weights, learner.rule, True)
    by_hand = 0.0
    for steps, weight in enumerate(weights, start=1):
        logits = learner.adapt(task.support_x, task.support_y, steps, reading="queries")(
            task.query_x
        )
        by_hand += weight * F.cross_entropy(logits, task.query_y)
    torch.testing.assert_close(total.detach(), by_hand)
    torch.testing.assert_close(outputs.detach(), logits)


def test_a_query_loss_that_counts_nothing_is_not_computed(task):
    learner, asked = make_learner(), []

    def query_model(w, x, step):
        asked.append(step)
        return learner(w, x, step)

    for weights, expected in (([0.0, 0.0, 1.0], [3]), ([0.5, 0.0, 0.5], [1, 3])):
        asked.clear()
        arguments = learner, learner.weights(), task, weights, learner.rule, True
        task_loss(*arguments, query_model=query_model)
        assert asked == expected


def test_msl_acts_until_its_epoch_and_equals_the_final_loss_after_it(batch):
    plain, msl = make_learner(), make_learner("maml+msl")
    expected = plain.meta_loss(batch)[0]
    assert torch.equal(msl.meta_loss(batch, epoch=15.0)[0], expected)
    assert not torch.isclose(msl.meta_loss(batch, epoch=14.0)[0], expected)
    one_step, one_step_msl = make_learner(inner_steps=1), make_learner("maml+msl", inner_steps=1)
    assert torch.equal(one_step.meta_loss(batch)[0], one_step_msl.meta_loss(batch)[0])
    floored = make_learner("maml+msl", msl_floor=0.05)
    assert not torch.isclose(floored.meta_loss(batch, epoch=15.0)[0], expected)


# DA ---------------------------------------------------------------------------------------------


def test_da_flips_the_order_exactly_at_its_epoch(batch):
    def gradient(learner, epoch):
        loss, _ = learner.meta_loss(batch, epoch)
        return flat(torch.autograd.grad(loss, learner.parameters()))

    annealed = make_learner("maml+da")
    first, second = gradient(make_learner("fomaml"), 0), gradient(make_learner("maml"), 0)
    assert torch.equal(gradient(annealed, 49.999), first)
    assert torch.equal(gradient(annealed, 50.0), second)
    assert not torch.allclose(first, second)


def test_first_order_computes_less(batch):
    """Counted, not timed: machines are noisy. `benchmarks/order.py` times it."""

    class Operations(TorchDispatchMode):
        total = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if count := flop_registry.get(func.overloadpacket):
                self.total += count(*args, **(kwargs or {}), out_val=out)
            return out

    def operations(epoch):
        learner = make_learner("maml+da")
        with Operations() as counter:
            learner.meta_loss(batch, epoch)[0].backward()
        return counter.total

    assert operations(49.0) < 0.75 * operations(50.0)


def test_first_order_keeps_less_for_the_way_back(batch):
    def kept(epoch):
        size = 0

        def note(tensor):
            nonlocal size
            size += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss, _ = make_learner("maml+da").meta_loss(batch, epoch)
        graph, stack = set(), [loss.grad_fn]
        while stack:
            node = stack.pop()
            if node is not None and node not in graph:
                graph.add(node)
                stack += [parent for parent, _ in node.next_functions]
        return size, len(graph)

    (first_size, first_nodes), (second_size, second_nodes) = kept(0), kept(50)
    assert first_size < 0.8 * second_size
    assert first_nodes < 0.5 * second_nodes


# Batch norm -------------------------------------------------------------------------------------


def test_per_step_sets_are_one_for_each_state_of_the_weights():
    shapes = {
        "maml": (1, 0),
        "maml+bnrs+bnwb": (STEPS + 1, STEPS + 1),
    }
    for name, (weights, running) in shapes.items():
        for norm in make_learner(name).norms():
            assert norm.weight.shape == norm.bias.shape == (weights, 4)
            assert norm.running_mean.shape == norm.running_var.shape == (running, 4)
    for norm in make_learner(norm_statistics="shared").norms():
        assert norm.running_mean.shape == (1, 4)


def test_training_moves_each_steps_statistics_and_they_differ_between_steps(batch):
    learner = make_learner("maml++")
    for _ in range(50):
        learner.meta_loss(batch)
    for norm in learner.norms():
        for a in range(STEPS + 1):
            assert not torch.equal(norm.running_mean[a], torch.zeros(4))
            for b in range(a):
                assert not torch.allclose(norm.running_mean[a], norm.running_mean[b])
                assert not torch.allclose(norm.running_var[a], norm.running_var[b])


def test_running_statistics_are_the_exponential_mean_of_what_was_seen(batch):
    learner = make_learner("maml+bnrs+bnwb")
    alone = batch.split()
    first = learner.network.blocks[0]
    with torch.no_grad():
        maps = [first.conv(part.support_x[0]) for part in alone]
    learner.meta_loss(batch)
    expected = torch.zeros(4)
    for x in maps:
        expected = 0.95 * expected + 0.05 * x.mean((0, 2, 3))
    torch.testing.assert_close(first.norm.running_mean[0], expected)
    apart = make_learner("maml+bnrs+bnwb")
    for part in alone:
        apart.meta_loss(part)
    torch.testing.assert_close(dict(apart.named_buffers()), dict(learner.named_buffers()))


@pytest.mark.parametrize("kind", ["batch", "shared", "per_step"])
def test_training_normalises_by_the_batch_whatever_evaluation_reads(kind, batch):
    expected = make_learner().meta_loss(batch)[0]
    learner = make_learner(norm_statistics=kind)
    assert torch.equal(learner.meta_loss(batch)[0], expected)
    assert torch.equal(learner.eval().meta_loss(batch)[0], expected)


def test_the_running_reading_is_that_of_its_step(batch, task):
    learner = make_learner("maml+bnrs+bnwb")
    learner.meta_loss(batch)

    def logits(steps):
        return learner.adapt(task.support_x, task.support_y, steps, "running")(task.query_x)

    before = [logits(steps) for steps in range(STEPS + 1)]
    with torch.no_grad():
        for norm in learner.norms():
            norm.running_var[2] *= 3
    after = [logits(steps) for steps in range(STEPS + 1)]
    changed = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert changed == [False, False, True, False]


@pytest.mark.parametrize("reading", ["support", "running", "queries"])
def test_evaluation_leaves_every_statistic_bitwise_unchanged(reading, batch, task):
    learner = make_learner("maml++")
    learner.meta_loss(batch)
    before = snapshot(learner)
    learner.adapt(task.support_x, task.support_y, reading=reading)(task.query_x)
    assert_identical(learner.state_dict(), before)


@pytest.mark.parametrize("kind", ["batch", "shared", "per_step"])
def test_no_query_sees_another_but_by_their_own_statistics(kind, batch, task):
    learner = make_learner(norm_statistics=kind)
    learner.meta_loss(batch)
    order = torch.tensor([5, 3, 1, 0, 2, 4])
    for reading in learner.readings:
        classify = learner.adapt(task.support_x, task.support_y, reading=reading)
        logits = classify(task.query_x)
        permuted = classify(task.query_x[order])
        torch.testing.assert_close(permuted, logits[order], atol=1e-5, rtol=1e-4)
        fewer = classify(task.query_x[:4])
        change = (fewer - logits[:4]).abs().max()
        assert (change > 1e-3) == (reading == "queries")


def test_transductive_is_the_published_evaluation(task, batch):
    # Published code normalises the queries by their own batch, whatever the running ones.
    learner, plain = make_learner("maml+bnrs+bnwb"), make_learner()
    for _ in range(5):
        learner.meta_loss(batch)
    arguments = task.support_x, task.support_y
    published = plain.adapt(*arguments, reading="queries")(task.query_x)
    ours = learner.adapt(*arguments, reading="queries")(task.query_x)
    torch.testing.assert_close(ours, published)
    assert not torch.allclose(learner.adapt(*arguments)(task.query_x), published, atol=1e-3)


def test_each_steps_own_weight_and_bias_act_at_that_step_alone(task):
    learner = make_learner(norm_weights="per_step")

    def logits(steps):
        return learner.adapt(task.support_x, task.support_y, steps)(task.query_x)

    before = [logits(steps) for steps in range(STEPS + 1)]
    with torch.no_grad():
        learner.network.blocks[-1].norm.bias[STEPS] += 1
    after = [logits(steps) for steps in range(STEPS + 1)]
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True] * 3 + [False]


def test_the_inner_loop_does_not_move_batch_norm(batch):
    for name in ("maml", "maml++"):
        assert not [weight for weight in make_learner(name).weights() if ".norm." in weight]


def test_more_steps_than_trained_use_the_last_values_and_warn(task):
    for name in ("maml+bnrs+bnwb", "maml+lslr"):
        with pytest.warns(mamlpp.InputWarning, match="inner steps trained: "):
            make_learner(name).adapt(task.support_x, task.support_y, STEPS + 2)(task.query_x)


# Learned inner rates ----------------------------------------------------------------------------


def test_lslr_holds_a_rate_for_each_layer_and_step():
    rates = make_learner("maml+lslr").rule.rates
    assert rates.shape == (5, STEPS)  # four convolutions and the head
    assert (rates == mamlpp.RECIPES["maml+lslr"].inner_rate).all()


def test_meta_sgd_holds_a_rate_for_each_weight():
    learner = make_learner("meta-sgd")
    rates = sum(parameter.numel() for parameter in learner.rule.parameters())
    assert rates == sum(weight.numel() for weight in learner.weights().values())


@pytest.mark.parametrize("name", ["maml+lslr", "meta-sgd"])
def test_with_all_rates_equal_it_is_maml(name, batch):
    learned, plain = make_learner(name), make_learner()
    assert torch.equal(learned.meta_loss(batch)[0], plain.meta_loss(batch)[0])
    for learner in (learned, plain):
        learner.meta_loss(batch)[0].backward()
    ours, expected = (gradients(learner.network) for learner in (learned, plain))
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)


def test_each_lslr_rate_moves_its_layer_at_its_step(task):
    learner = make_learner("maml+lslr")
    with torch.no_grad():
        learner.rule.rates.zero_()
        learner.rule.rates[4, 1] = 0.5
    for step in range(STEPS):
        for name in learner.weights():
            moved = 0.5 if step == 1 and name.startswith("head.") else 0.0
            assert learner.rule(name, step).item() == moved


def test_a_negative_rate_climbs(task):
    learner = make_learner("meta-sgd", inner_rate=0.05)

    def support_loss(steps):
        logits = learner.adapt(task.support_x, task.support_y, steps)(task.support_x)
        return F.cross_entropy(logits, task.support_y)

    start, down = support_loss(0), support_loss(1)
    with torch.no_grad():
        for rates in learner.rule.parameters():
            rates.neg_()
    assert down < start < support_loss(1)


# CA ---------------------------------------------------------------------------------------------


def test_cosine_annealing_falls_from_max_to_min_and_stays():
    rates = [schedules.outer_rate(1e-3, 1e-5, 100, epoch / 4) for epoch in range(600)]
    assert rates[0] == pytest.approx(1e-3)
    assert rates[200] == pytest.approx(1e-5 + (1e-3 - 1e-5) * (1 + math.cos(math.pi / 2)) / 2)
    assert rates[400:] == pytest.approx([1e-5] * 200)
    assert all(later <= earlier for earlier, later in pairwise(rates))


def test_without_annealing_the_rate_stays():
    assert schedules.outer_rate(1e-3, None, 100, 77) == 1e-3


# What contradicts itself ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"msl_epochs": -1}, "msl_epochs must be 0 or more"),
        ({"msl_epochs": 5, "msl_floor": 0.3}, "msl_floor 0.3 is more than 1 / inner_steps"),
        ({"msl_floor": 0.1}, "msl_floor acts only with a multi-step loss"),
        ({"outer_rate_min": 0.1}, "outer_rate_min 0.1 is above outer_rate 0.001"),
        ({"norm_statistics": "own"}, "norm_statistics must be one of batch, shared, per_step"),
        ({"norm_weights": "own"}, "norm_weights must be one of shared, per_step"),
        ({"inner_rule": "adam"}, "inner_rule must be one of fixed, lslr, meta-sgd"),
    ],
)
def test_fields_that_contradict_each_other_are_named(changes, said):
    with pytest.raises(mamlpp.InputError, match=said):
        mamlpp.RECIPES["maml"].with_(**changes)


@pytest.mark.parametrize("whose", ["query", "support"])
def test_the_statistics_of_every_step_are_written_whoever_normalises_the_queries(whose, batch):
    learner = make_learner("maml+bnrs+bnwb", query_statistics=whose)
    learner.meta_loss(batch)
    for norm in learner.norms():
        assert (norm.running_mean != 0).any(1).tolist() == [True] * (STEPS + 1)
