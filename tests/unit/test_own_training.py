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
    """Two layers with the same weight, one of them used twice; batch norm for each step."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)
        self.second.weight = self.first.weight
        self.again = self.second
        self.norm = BatchNorm(1, affine_sets=3)
        self.head = nn.Linear(16 * 16, WAYS)

    def forward(self, x, step):
        x = self.norm(torch.tanh(self.first(x)), step)
        return self.head(torch.tanh(self.again(torch.tanh(self.second(x)))).flatten(1))


class Odd(nn.Module):
    """Complex numbers, several precisions, a weight that does not lie in order in memory."""

    def __init__(self):
        super().__init__()
        self.waves = nn.Parameter(0.1 * torch.randn(256, 4, dtype=torch.complex64))
        self.mixed = nn.Parameter(torch.randn(4, 4).t())
        self.head = nn.Linear(4, WAYS, dtype=torch.float64)

    def forward(self, x):
        seen = (x.flatten(1).to(torch.complex64) @ self.waves).abs().to(self.mixed.dtype)
        return self.head(torch.tanh(seen @ self.mixed).double())


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
    "odd": (Odd, noise_sampler),
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


def test_a_learner_is_drawn_by_the_seed_of_its_recipe():
    def make(recipe, shape, ways):
        return mamlpp.MetaLearner(recipe, shape, ways, network=residual())

    one, same, other = (
        trainer(make, recipe=RECIPE.with_(seed=seed)).learner.network.stem.weight
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_workers_get_the_same_network():
    one, two = (trainer(made(Odd), workers=workers) for workers in (1, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for each in (one, two):
            each.fit()
    assert two.engine.workers.size == 2
    tolerance = {"rtol": 1e-4, "atol": 1e-6}  # of the float32 in it
    torch.testing.assert_close(flat_weights(two.learner), flat_weights(one.learner), **tolerance)
    assert two.history.column("loss") == pytest.approx(one.history.column("loss"), rel=1e-4)


def test_the_trainer_does_what_the_twenty_lines_do():
    learner = made(residual)(RECIPE, SHAPE, WAYS).double()
    found = trainer(made(residual), workers=2)
    found.learner.double()
    found.fit()
    assert found.engine.workers.size == 2
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


def test_what_is_no_rule_is_refused():
    task = next(iter(make_batch()))
    for rule, words in (
        (Momentum(), "such as lambda weights: Momentum"),
        (0.1, "'float' object is not callable"),
        (mamlpp.inner_rates.LSLR, "missing 2 required"),
        (lambda weights: 0.1, "it made float"),
    ):
        with pytest.raises(mamlpp.InputError, match=words):
            with_rule(rule)
    for result, words in (
        (lambda w, g: w - g, r"not Tensor \[4, 1, 3, 3\]"),
        (lambda w, g: ((w - g).flatten(), None), "not tuple"),
        (lambda w, g: ((w - g).detach(), None), "without a graph"),
    ):
        rule = SimpleNamespace(update=lambda n, w, g, step, state, result=result: result(w, g))
        with pytest.raises(mamlpp.InputError, match=words):
            with_rule(lambda weights, rule=rule: rule).meta_loss([task])


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
    learner.query_loss = lambda outputs, targets: outputs.new_tensor(7.0)
    assert mamlpp.evaluate_tasks(learner, sampler, 3).loss == 7


class Shy(mamlpp.MetaLearner):
    """It answers nothing, and is content with that."""

    def adapt(self, *task, **options):
        return lambda x: 0 * mamlpp.MetaLearner.adapt(self, *task, **options)(x)

    def accuracy(self, outputs, targets):
        return 1 - outputs.abs().amax()


@pytest.mark.filterwarnings("ignore:the network or the inner loop")
def test_an_evaluation_follows_adapt_and_accuracy():
    sampler = SimpleNamespace(sample=lambda tasks: make_batch())
    result = mamlpp.evaluate_tasks(Shy(RECIPE, SHAPE, WAYS), sampler, 3, every_step=True)
    assert result.accuracies.tolist() == [[1.0] * 3] * 3
    assert result.losses.flatten().tolist() == pytest.approx([np.log(WAYS)] * 9)


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
    for wrong, words in (
        (list, "returned list"),
        (sgd([nn.Parameter(torch.zeros(1))]), "it is SGD"),
        (torch.optim.LBFGS, "whose step.. needs no closure"),
        (lambda p: sgd([nn.Parameter(torch.zeros(1))]), "not the learner's"),
        (lambda p: (sgd(p), "cosine"), "must be one of torch.optim.lr_scheduler, not str"),
        (lambda p: (sgd(p), stepped(p)[1]), "of another optimizer"),
    ):
        with pytest.raises(mamlpp.InputError, match=words):
            trainer(None, optimizer=wrong)
    with pytest.warns(mamlpp.InputWarning, match=r"not given .*head.bias: the outer loop"):
        trainer(None, optimizer=lambda p: sgd(p[:-1]))
    for attach in (
        lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1),
        lambda optimizer: optimizer.param_groups[0].update(lr=0.5),  # as ReduceLROnPlateau does
    ):
        attached = trainer(None)
        attach(attached.optimizer)
        with pytest.raises(mamlpp.InputError, match="by hand, or by a scheduler"):
            attached.fit()
    with pytest.raises(mamlpp.InputError, match="give it, or an optimizer"):
        trainer(None, recipe=RECIPE.with_(outer_rate=None))


def test_a_plateau_is_one_of_validations(tmp_path):
    free, rates = RECIPE.with_(outer_rate=None, epochs=4), [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]

    def flat(parameters):
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=9)
        return optimizer, plateau

    with (part := trainer(None, directory=tmp_path, recipe=free, optimizer=flat)).alone():
        for _ in range(3):
            part.advance()
        part.save()
    run = trainer(None, directory=tmp_path, recipe=free, optimizer=flat).fit()
    assert run.history.column("outer_rate")[:6] == pytest.approx(rates)


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
    for name in ("train", "validation", "directory", "workers", "recipe"):
        with pytest.raises(mamlpp.InputError, match=f"the {name} of a trainer is given when"):
            setattr(found, name, None)
    for change, words in (
        (lambda own: setattr(own, "__class__", ANIL), "was MetaLearner and is ANIL now"),
        (lambda own: setattr(own.network, "head", nn.Linear(4, WAYS)), "new is network.head.weig"),
        (lambda own: setattr(own, "more", nn.Parameter(torch.zeros(3))), "new is more; make"),
        (lambda own: setattr(own, "recipe", RECIPE.with_(inner_steps=1)), "no longer the trainer"),
        (lambda own: setattr(own.rule, "rate", 0.3), r"with_\(inner_rate=0.3\)"),
    ):
        found = trainer(None)
        change(found.learner)
        with pytest.raises(mamlpp.InputError, match=words):
            found.fit()
    fixed = made(residual, rule=lambda weights: mamlpp.inner_rates.FixedRate(0.3))
    with pytest.raises(mamlpp.InputError, match="and the recipe the inner_rate"):
        trainer(fixed)


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
    engine, learner = mamlpp.engine.Engine(workers=2), mamlpp.MetaLearner(RECIPE, SHAPE, WAYS)
    engine.meta_gradient(learner, noise_sampler().sample(3), 0.0)
    learner.more = nn.Parameter(torch.zeros(3))
    engine.meta_gradient(learner, noise_sampler().sample(3), 0.0)
    assert learner.more.grad.tolist() == [0, 0, 0]
    engine.dismiss()


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
    linear, old = nn.Sequential(nn.Flatten(), nn.Linear(256, WAYS)), nn.utils.weight_norm
    for network, words in (
        (nn.Flatten(), "nothing to learn"),
        (nn.Sequential(nn.Flatten(), nn.LazyLinear(WAYS)), "1 is a LazyLinear that has not seen"),
        (nn.DataParallel(linear), "wrapped in DataParallel"),
        (torch.optim.swa_utils.AveragedModel(linear), "forward of AveragedModel takes anything"),
        (nn.InstanceNorm1d(1, affine=True, track_running_stats=True), "InstanceNorm1d with runn"),
    ):
        with pytest.raises(mamlpp.InputError, match=words):
            mamlpp.MetaLearner(RECIPE, SHAPE, WAYS, network=network)
    with (
        pytest.warns(FutureWarning),
        pytest.raises(mamlpp.InputError, match="which cannot be copi"),
    ):
        mamlpp.MetaLearner(RECIPE, SHAPE, WAYS, network=nn.Sequential(old(nn.Linear(1, 1))))
    one, two = nn.Sequential(linear, nn.Flatten(0)), nn.Sequential(nn.Flatten(), nn.Linear(256, 2))
    embedding = nn.Sequential(nn.Flatten(), nn.EmbeddingBag(2, WAYS))
    embedding[0].register_forward_hook(lambda *given: given[-1].long())
    several = nn.Sequential(nn.Flatten(), nn.Linear(256, WAYS))
    several.register_forward_hook(lambda *given: {"logits": given[-1]})
    for network, words in (
        (one, r"\[images, 3\], not \[9\]"),
        (two, r"\[images, 3\], not \[3, 2\]"),
        (several, "must return one tensor, not dict"),
        (embedding, "no second derivative.*second_order_from=None"),
    ):
        with pytest.raises(mamlpp.InputError, match=words):
            trainer(made(lambda network=network: network)).fit()


@pytest.mark.filterwarnings("ignore:the network or the inner loop")
def test_scores_that_are_none_are_refused():
    def own(**options):
        return trainer(lambda *given: mamlpp.MetaLearner(*given, **options)).fit()

    for options, words in (
        ({"loss": "mse"}, "loss must be a function of"),
        ({"loss": lambda x, y: F.cross_entropy(x, y, reduction="none")}, r"the mean, not \[3\]"),
        ({"metrics": [F.mse_loss]}, "metrics must be functions of .* by name"),
        ({"metrics": {"accuracy": F.mse_loss}}, "cannot be named 'accuracy'"),
        ({"metrics": {"m": lambda x, y: x.argmax(-1) == y}}, r"'m' must be one number .*\[6\]"),
    ):
        with pytest.raises(mamlpp.InputError, match=words):
            own(**options)
    flat = lambda tasks: [mamlpp.Task(*[torch.rand(4, 1), torch.rand(4)] * 2)] * tasks  # noqa: E731
    learner = mamlpp.MetaLearner(RECIPE, network=nn.Linear(1, 1), loss=F.mse_loss)
    with pytest.raises(mamlpp.InputError, match=r"targets \[4\], so that each would be compared"):
        trainer(learner, lambda split: SimpleNamespace(sample=flat)).fit()


def test_samplers_that_would_go_unnoticed_are_refused():
    draw = Vectors().sample
    few = SimpleNamespace(sample=lambda tasks: draw(tasks)[:2])
    with pytest.raises(mamlpp.InputError, match="asked for 3 tasks and gave 2"):
        trainer(made(vectors), lambda split: few).fit()
    with pytest.raises(mamlpp.InputError, match=r"Vectors is a class.*give Vectors\(…\)"):
        trainer(made(vectors), lambda split: Vectors)
    with pytest.raises(mamlpp.InputError, match="give validation a sampler with another seed"):
        trainer(sines, lambda split: mamlpp.SinusoidSampler(seed=0))


def test_validation_of_the_training_classes_is_refused():
    turned = mamlpp.ImageSet(noise_images().images.flip(0, 1), [*"abcdef"], "noise", "validation")
    for images in (noise_images(), noise_images("train", classes=4), turned):
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
    with pytest.raises(mamlpp.InputError, match=r"epoch must be a number, .* not '0'"):
        run.learner.meta_loss(noise_sampler().sample(1), "0")
    support = torch.zeros(1, 2), torch.zeros(1)
    with pytest.raises(mamlpp.InputError, match=r"rule must be a function .* not 0.1"):
        mamlpp.maml.inner_loop(
            lambda w, x, _: x @ w["w"], {"w": torch.ones(2)}, support, 1, 0.1, False
        )
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
