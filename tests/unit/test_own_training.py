"""A `Trainer` with what is the user's own: network, learner, sampler, inner rule, optimizer."""

import random
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mamlpp
from mamlpp import maml
from mamlpp.diagnostics import diagnose
from mamlpp.network import BatchNorm
from tests.makers import (
    SHAPE,
    WAYS,
    assert_identical,
    flat_weights,
    make_batch,
    noise_images,
    noise_sampler,
    snapshot,
)
from tests.unit.test_own_modules import TinyResNet

RECIPE = mamlpp.Recipe(
    filters=4, inner_steps=2, meta_batch=3, epochs=2, iterations_per_epoch=2, validation_tasks=4
)


class Attention(nn.Module):
    """A small attention over the rows of an image."""

    def __init__(self, rows=16, width=8):
        super().__init__()
        self.embed = nn.Linear(rows, width)
        self.mixed = nn.MultiheadAttention(width, 2, batch_first=True)
        self.head = nn.Linear(width, WAYS)

    def forward(self, x):
        rows = self.embed(x.squeeze(1))
        return self.head(self.mixed(rows, rows, rows, need_weights=False)[0].mean(1))


class Tied(nn.Module):
    """Two layers with the same weight, and batch norm of its own for each step."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)
        self.second.weight = self.first.weight
        self.norm = BatchNorm(1, affine_sets=3)
        self.head = nn.Linear(16 * 16, WAYS)

    def forward(self, x, step):
        x = self.norm(torch.tanh(self.first(x)), step)
        return self.head(torch.tanh(self.second(x)).flatten(1))


def vectors():
    return nn.Sequential(nn.Linear(8, 10), nn.Tanh(), nn.Dropout(0.2), nn.Linear(10, WAYS))


def residual():
    return TinyResNet(WAYS, width=8)


class Vectors:
    """A sampler of the user's own: tasks as a list, of vectors, drawn by numpy's generator."""

    def sample(self, tasks):
        return [self._task() for _ in range(tasks)]

    def _task(self):
        centres = np.random.randn(WAYS, 1, 8)
        x = (centres + 0.1 * np.random.randn(WAYS, 4, 8)).astype("float32")
        y = np.tile(np.arange(WAYS)[:, None], (1, 2))
        return mamlpp.Task(
            x[:, :2].reshape(-1, 8), y.flatten(), x[:, 2:].reshape(-1, 8), y.flatten()
        )


def made(network, **options):
    """A function of the recipe and the tasks that makes a learner with such a network."""

    def make(recipe, shape, ways):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return mamlpp.MetaLearner(recipe, shape, ways or WAYS, network=network(), **options)

    return make


NETWORKS = {
    "vectors": (vectors, lambda split: Vectors()),
    "residual": (residual, noise_sampler),
    "attention": (Attention, noise_sampler),
    "tied": (Tied, noise_sampler),
}


def trainer(learner, sampler=noise_sampler, directory=None, recipe=RECIPE, workers=1, **options):
    return mamlpp.Trainer(
        recipe, sampler("train"), sampler("validation"), directory, workers=workers,
        learner=learner, **options
    )  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_trained_resumed_evaluated_and_diagnosed(name, tmp_path):
    network, sampler = NETWORKS[name]
    whole = trainer(made(network), sampler).fit()
    part = trainer(made(network), sampler, tmp_path, diagnose_every=1)
    with part.alone():
        part.advance()
        part.save()
    torch.rand(3), random.random(), np.random.rand()
    again = trainer(made(network), sampler, tmp_path, diagnose_every=1)
    assert again.iteration == 1
    run = again.fit()
    assert_identical(run.learner.state_dict(), whole.learner.state_dict())
    assert run.history.column("loss") == whole.history.column("loss")
    assert len(run.gradients.rows) == 4 * 3 * len({row["layer"] for row in run.gradients.rows})

    loaded = mamlpp.load_run(tmp_path, learner=made(network))
    assert_identical(loaded.learner.state_dict(), run.learner.state_dict())
    test = sampler("test")
    result = mamlpp.evaluate(loaded, test, tasks=4, ensemble=2)
    assert result.accuracies.shape == (3, 4)
    task = next(iter(mamlpp.data.tasks.as_batch(test.sample(1))))
    logits = loaded.learner.adapt(task.support_x, task.support_y)(task.query_x)
    assert logits.shape == (len(task.query_x), WAYS)


def test_workers_get_the_same_network():
    one, two = (trainer(made(residual), workers=workers) for workers in (1, 2))
    for each in (one, two):
        each.learner.double()
        each.train._pictures = each.train._pictures  # bytes: the learner decides the numbers
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for each in (one, two):
            each.fit()
    assert two.engine.workers.size == 2
    torch.testing.assert_close(flat_weights(two.learner), flat_weights(one.learner))
    assert flat_weights(one.learner).dtype == torch.float64


def test_the_trainer_does_what_the_twenty_lines_do():
    learner = made(residual)(RECIPE, SHAPE, WAYS).double()
    found = trainer(made(residual), workers=2)
    found.learner.double()
    found.fit()
    optimizer, sampler = torch.optim.Adam(learner.parameters(), lr=1e-3), noise_sampler("train")

    def model(weights, x, step):
        return torch.func.functional_call(learner.network, weights, (x,))

    for _ in range(4):
        optimizer.zero_grad()
        for task in sampler.sample(3):
            task = task._replace(support_x=task.support_x.double(), query_x=task.query_x.double())
            loss, _ = maml.task_loss(model, learner.weights(), task, [0.0, 1.0], learner.rule, True)
            (loss / 3).backward()
        optimizer.step()
    torch.testing.assert_close(
        flat_weights(found.learner), flat_weights(learner), rtol=1e-9, atol=0
    )


# Rules of the inner loop --------------------------------------------------------------------------


class Momentum:
    def update(self, name, weight, gradient, step, velocity):
        velocity = gradient if velocity is None else 0.9 * velocity + gradient
        return weight - 0.1 * velocity, velocity


class WeightDecay:
    def update(self, name, weight, gradient, step, state):
        return weight - 0.1 * (gradient + 0.01 * weight), None


class Sign:
    def update(self, name, weight, gradient, step, state):
        return weight - 0.01 * gradient.sign(), None


class Preconditioned(nn.Module):
    def __init__(self, weights):
        super().__init__()
        self.names = list(weights)
        self.scale = nn.ParameterList(torch.full_like(w, 0.1) for w in weights.values())

    def update(self, name, weight, gradient, step, state):
        return weight - self.scale[self.names.index(name)] * gradient, None


RULES = {
    "momentum": (lambda weights: Momentum(), {"lr": 0.1, "momentum": 0.9}),
    "weight decay": (lambda weights: WeightDecay(), {"lr": 0.1, "weight_decay": 0.01}),
    "preconditioned": (Preconditioned, {"lr": 0.1}),
}


def with_rule(rule, recipe=RECIPE):
    return mamlpp.MetaLearner(recipe, SHAPE, WAYS, rule=rule).double()


@pytest.mark.parametrize("name", RULES)
def test_an_inner_loop_of_a_rule_is_that_of_the_optimizer_of_torch(name):
    rule, options = RULES[name]
    learner, batch = with_rule(rule), make_batch()
    task = next(iter(batch))
    path = learner.adapted_path(task.support_x, task.support_y, 4)
    weights = {n: w.detach().clone().requires_grad_() for n, w in learner.weights().items()}
    optimizer = torch.optim.SGD(weights.values(), **options)
    for _ in range(4):
        optimizer.zero_grad()
        F.cross_entropy(learner(weights, task.support_x), task.support_y).backward()
        optimizer.step()
    torch.testing.assert_close(path[-1], {n: w.detach() for n, w in weights.items()})


def test_sign_descent_moves_every_weight_by_its_rate():
    learner, task = with_rule(lambda weights: Sign()), next(iter(make_batch()))
    before, after = learner.adapted_path(task.support_x, task.support_y, 1)
    moved = torch.cat([(after[name] - before[name]).abs().flatten() for name in before])
    assert ((moved - 0.01).abs() < 1e-9).double().mean() > 0.9  # a gradient may be 0


@pytest.mark.parametrize("memory", ["store", "recompute"])
def test_the_engine_follows_a_rule_or_leaves_it_to_the_definition(memory):
    for rule in (lambda weights: Momentum(), Preconditioned):
        learner, batch = with_rule(rule, RECIPE.with_(memory=memory)), make_batch()
        maml.meta_gradient(learner, batch, 0.0)
        expected = {n: p.grad.clone() for n, p in learner.named_parameters()}
        learner.zero_grad()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mamlpp.engine.Engine(memory).meta_gradient(learner, batch, 0.0)
        found = {n: p.grad for n, p in learner.named_parameters()}
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_a_preconditioner_learns_and_a_fixed_rate_cannot_be_turned_there(tmp_path):
    def make(recipe, shape, ways):
        return mamlpp.MetaLearner(recipe, shape, ways, rule=Preconditioned)

    own = trainer(make, directory=tmp_path)
    before = snapshot(own.learner.rule)
    with pytest.raises(mamlpp.InputError, match="inner rule is Preconditioned"):
        own.change(inner_rate=0.2)
    run = own.fit()
    assert not torch.equal(run.learner.rule.scale[0], before["scale.0"])
    with pytest.raises(mamlpp.InputError, match=r"rule Preconditioned.* only you have.*learner="):
        mamlpp.load_run(tmp_path)
    with pytest.raises(mamlpp.InputError, match="rule is Preconditioned there and FixedRate here"):
        trainer(None, directory=tmp_path)


# Learners -----------------------------------------------------------------------------------------


class ANIL(mamlpp.MetaLearner):
    """MAML whose inner loop moves the head alone, as chapter 11 has it."""

    def weights(self):
        return {n: w for n, w in super().weights().items() if n.startswith("head")}


class Entropic(mamlpp.MetaLearner):
    """Confident in the inner loop; and on the queries, whose labels it does not use for that."""

    def loss(self, outputs, targets):
        return super().loss(outputs, targets) - 0.1 * outputs.log_softmax(-1).mean()

    def query_loss(self, outputs, targets):
        spread = -(outputs.softmax(-1) * outputs.log_softmax(-1)).sum(-1).mean()
        return F.cross_entropy(outputs, targets) + 0.1 * spread


@pytest.mark.parametrize("kind", [ANIL, Entropic])
def test_a_learner_is_trained_as_its_own_meta_loss_says_by_workers_too(kind, tmp_path):
    runs = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*fast engine.*")
        for workers in (1, 2):
            runs.append(trainer(kind, directory=tmp_path / str(workers), workers=workers).fit())
    learner = kind(RECIPE, SHAPE, WAYS)
    optimizer, sampler = torch.optim.Adam(learner.parameters(), lr=1e-3), noise_sampler("train")
    for _ in range(4):
        optimizer.zero_grad()
        learner.meta_loss(sampler.sample(3))[0].backward()
        optimizer.step()
    latest = mamlpp.load_run(tmp_path / "1", "latest", learner=kind).learner
    torch.testing.assert_close(flat_weights(latest), flat_weights(learner), rtol=1e-4, atol=1e-5)
    latest = mamlpp.load_run(tmp_path / "2", "latest", learner=kind).learner
    torch.testing.assert_close(flat_weights(latest), flat_weights(learner), rtol=1e-4, atol=1e-5)
    assert type(runs[0].learner) is kind
    with pytest.raises(mamlpp.InputError, match=f"learner {kind.__name__}, network ConvNet"):
        mamlpp.load_run(tmp_path / "1")
    with pytest.raises(mamlpp.InputError, match="this is learner MetaLearner"):
        mamlpp.load_run(tmp_path / "1", learner=mamlpp.MetaLearner)


def test_a_diagnosis_and_an_evaluation_follow_the_losses():
    learner, batch = Entropic(RECIPE, SHAPE, WAYS).double(), make_batch()
    learner.meta_loss(batch.split()[0])[0].backward()
    expected = torch.cat([p.grad.flatten() for p in learner.parameters()]).norm().item()
    assert diagnose(learner, batch.split()[0]).meta_norm == pytest.approx(expected)
    losses = []
    for task in batch:
        logits = learner.adapt(task.support_x, task.support_y)(task.query_x)
        losses.append(learner.query_loss(logits, task.query_y).item())
    sampler = SimpleNamespace(sample=lambda tasks: batch)
    result = mamlpp.evaluate_tasks(learner, sampler, 3)
    assert result.losses[-1].tolist() == pytest.approx(losses)


# Regression, and any sampler ----------------------------------------------------------------------


def sines(recipe, shape, ways):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(1, 20), nn.Tanh(), nn.Linear(20, 1))
    metrics = {"largest": lambda outputs, targets: (outputs - targets).abs().max()}
    return mamlpp.MetaLearner(recipe, network=network, loss=F.mse_loss, metrics=metrics)


def waves(split):
    return mamlpp.SinusoidSampler(seed=("train", "validation", "test").index(split))


def test_sine_waves_are_trained_resumed_and_evaluated(tmp_path):
    recipe = RECIPE.with_(inner_rate=0.02, epochs=3)
    whole = trainer(sines, waves, recipe=recipe).fit()
    with (part := trainer(sines, waves, tmp_path, recipe)).alone():
        part.advance()
        part.save()
    run = trainer(sines, waves, tmp_path, recipe, workers=1).fit()
    assert_identical(run.learner.state_dict(), whole.learner.state_dict())
    losses = run.history.column("validation_loss")
    assert not run.history.column("accuracy")
    assert len(losses) == 3
    assert -run.kept[0].accuracy == min(losses)

    result = mamlpp.evaluate(mamlpp.load_run(tmp_path, learner=sines), waves("test"), tasks=5)
    task = next(iter(waves("test").sample(5)))
    outputs = run.learner.adapt(task.support_x, task.support_y)(task.query_x)
    assert result.losses[-1, 0].item() == pytest.approx(F.mse_loss(outputs, task.query_y).item())
    assert result.scores["largest"] == pytest.approx(result.frame()["largest"].mean())
    assert str(result).startswith("loss ")
    assert "accuracy" not in result.frame()
    with pytest.raises(mamlpp.InputError, match="sampler of its own"):
        mamlpp.evaluate(run, noise_images())


def test_a_regression_needs_a_network_and_a_loss():
    with pytest.raises(mamlpp.InputError, match="give yours: learner"):
        trainer(None, waves)
    without = mamlpp.MetaLearner(RECIPE, network=nn.Linear(1, 1))
    with pytest.raises(mamlpp.InputError, match="of a regression give another loss"):
        trainer(without, waves).fit()


# The outer loop -----------------------------------------------------------------------------------


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)


def stepped(parameters):
    optimizer = torch.optim.AdamW(parameters, lr=0.1)
    return optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.1)


def test_an_optimizer_keeps_its_moments_when_the_run_is_resumed(tmp_path):
    free = RECIPE.with_(outer_rate=None)
    for number, (optimizer, recipe) in enumerate([(sgd, RECIPE), (stepped, free)]):
        folder = tmp_path / str(number)
        whole = trainer(None, recipe=recipe, optimizer=optimizer).fit()
        with (part := trainer(None, directory=folder, recipe=recipe, optimizer=optimizer)).alone():
            part.advance()
            part.save()
        run = trainer(None, directory=folder, recipe=recipe, optimizer=optimizer).fit()
        assert_identical(run.learner.state_dict(), whole.learner.state_dict())
        with pytest.raises(mamlpp.InputError, match=r"optimizer is (SGD|AdamW with StepLR) there"):
            trainer(None, directory=folder, recipe=RECIPE if number == 0 else recipe.with_(
                outer_rate=1e-3))  # fmt: skip
    assert run.history.column("outer_rate") == pytest.approx([0.1, 0.1, 0.01, 0.01])


def test_rates_that_would_be_overwritten_are_refused():
    with pytest.raises(mamlpp.InputError, match=r"rate \[0.1\], but the recipe's outer_rate"):
        trainer(None, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    with pytest.raises(mamlpp.InputError, match="has a scheduler"):
        trainer(None, optimizer=stepped)
    with pytest.raises(mamlpp.InputError, match="not list"):
        trainer(None, optimizer=list)
    attached = trainer(None)
    torch.optim.lr_scheduler.StepLR(attached.optimizer, 1)
    with pytest.raises(mamlpp.InputError, match="a scheduler is attached"):
        attached.fit()
    with pytest.raises(mamlpp.InputError, match="give it, or an optimizer"):
        trainer(None, recipe=RECIPE.with_(outer_rate=None))


def test_callbacks_see_every_row_and_may_stop():
    rows = []

    def note(trainer, row):
        rows.append(row)
        if row["iteration"] == 3:
            trainer.stop()

    run = trainer(None, callbacks=[note]).fit()
    assert [row["iteration"] for row in rows] == [1, 2, 3]
    assert rows == run.history.rows
    assert ["validation_accuracy" in row for row in rows] == [False, True, False]


def test_patience_ends_a_training_where_nothing_gets_better(tmp_path):
    recipe = RECIPE.with_(epochs=20, outer_rate=1e-12)  # moves nothing
    run = trainer(None, directory=tmp_path, recipe=recipe, patience=2).fit()
    assert len(run.history.column("validation_accuracy")) == 3
    again = trainer(None, directory=tmp_path, recipe=recipe, patience=2)
    assert again.done
    assert not trainer(None, directory=tmp_path, recipe=recipe, patience=3).done


def test_several_validation_sets_are_columns_and_the_first_selects():
    several = {"here": noise_sampler("validation"), "there": noise_sampler("test")}
    run = mamlpp.Trainer(RECIPE, noise_sampler("train"), several, workers=1).fit()
    alone = trainer(None).fit()
    name = "validation_accuracy"
    assert run.history.column(name) == alone.history.column(name)
    assert len(run.history.column("validation_there_accuracy")) == 2
    assert run.kept[0].iteration == alone.kept[0].iteration


# What would be silent -----------------------------------------------------------------------------


def test_what_is_put_into_a_trainer_afterwards_is_refused():
    found = trainer(None)
    with pytest.raises(mamlpp.InputError, match="when it is made"):
        found.learner = ANIL(RECIPE, SHAPE, WAYS)
    with pytest.raises(mamlpp.InputError, match="when it is made"):
        found.optimizer = sgd(found.learner.parameters())
    found.learner.__class__ = ANIL
    with pytest.raises(mamlpp.InputError, match="was MetaLearner and is ANIL now"):
        found.fit()


def test_step_weights_that_would_be_dropped_are_refused():
    learner, task = mamlpp.MetaLearner(RECIPE, SHAPE, WAYS).double(), next(iter(make_batch()))
    for weights, words in (([1.0, 0.0], "last"), ([-1.0, 1.0], "from 0 on"), ([], "at least one")):
        with pytest.raises(mamlpp.InputError, match=words):
            maml.task_loss(learner, learner.weights(), task, weights, learner.rule, True)


def test_an_inner_loop_runs_where_gradients_are_off():
    learner, task = mamlpp.MetaLearner(RECIPE, SHAPE, WAYS).double(), next(iter(make_batch()))
    arguments = learner, learner.weights(), (task.support_x, task.support_y), 2, learner.rule, False
    with torch.no_grad():
        path = maml.inner_loop(*arguments)
    torch.testing.assert_close(path[-1], maml.inner_loop(*arguments)[-1])


def test_a_learner_that_gets_a_parameter_goes_to_the_workers_again():
    found = trainer(None, workers=2)
    with found.alone():
        found.advance()
        found.learner.more = nn.Parameter(torch.zeros(3))
        found.advance()
    assert found.learner.more.grad.tolist() == [0, 0, 0]
    found.engine.dismiss()


def test_frozen_layers_stay_out_of_both_loops():
    network = residual()
    network.stem.requires_grad_(False)
    with pytest.warns(
        mamlpp.InputWarning, match=r"neither loop moves them: stem.bias, stem.weight"
    ):
        learner = mamlpp.MetaLearner(RECIPE, SHAPE, WAYS, network=network)
    before = network.stem.weight.clone()
    for workers in (1, 2):
        decay = lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.5)  # noqa: E731
        run = trainer(learner, workers=workers, optimizer=decay).fit()
        assert torch.equal(run.learner.network.stem.weight, before)
    late = mamlpp.MetaLearner(RECIPE, SHAPE, WAYS)
    late.network.head.requires_grad_(False)
    with pytest.raises(mamlpp.InputError, match=r"the inner loop is to move head\.weight"):
        late.meta_loss(noise_sampler().sample(1))


def test_what_cannot_be_a_network_is_refused_by_name():
    norm = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(WAYS))
    with pytest.raises(mamlpp.InputError, match=r"1 is a BatchNorm2d with running.*GroupNorm"):
        mamlpp.MetaLearner(RECIPE, SHAPE, WAYS, network=norm)
    unused = residual()
    unused.other = nn.Linear(2, 2)
    learner = mamlpp.MetaLearner(RECIPE, SHAPE, WAYS, network=unused)
    with pytest.raises(mamlpp.InputError, match=r"not depend on other.weight, other.bias, which"):
        learner.meta_loss(noise_sampler().sample(1))
    with pytest.raises(mamlpp.InputError, match="nothing to learn"):
        mamlpp.MetaLearner(RECIPE, SHAPE, WAYS, network=nn.Flatten())


def test_validation_of_the_training_classes_is_refused():
    for images in (noise_images(), noise_images("train", classes=4)):
        with pytest.raises(mamlpp.InputError, match="validation classes are training classes"):
            mamlpp.Trainer(RECIPE, noise_sampler(), mamlpp.TaskSampler(images, WAYS, 1, 2))


def test_doors_say_what_they_expect():
    run = trainer(None).fit()
    with pytest.raises(mamlpp.InputError, match=r"load_images\('omniglot', 'test'\)"):
        mamlpp.evaluate(run, "omniglot")
    with pytest.raises(mamlpp.InputError, match="a MetaLearner is expected, not Run"):
        mamlpp.evaluate_tasks(run, noise_sampler(), 4)
    with pytest.raises(mamlpp.InputError, match="a MetaLearner is expected, not Linear"):
        diagnose(nn.Linear(1, 1), make_batch())
    one = mamlpp.evaluate(run, noise_sampler("test"), tasks=4)
    assert one.frame().shape == (4, 2)


def test_seeds_train_a_learner_of_ones_own():
    samplers = noise_sampler("train"), noise_sampler("validation")
    with pytest.raises(mamlpp.InputError, match="a learner of its own"):
        mamlpp.train_seeds({"a": RECIPE}, *samplers, learner=ANIL(RECIPE, SHAPE, WAYS))
    for kind in (ANIL, made(residual)):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*fast engine.*")
            runs = mamlpp.train_seeds({"a": RECIPE}, *samplers, (0,), 1, learner=kind)["a"]
            alone = trainer(kind, recipe=RECIPE).fit()
        assert runs[0].history.column("loss") == alone.history.column("loss")
        assert type(runs[0].learner) is type(alone.learner)
