import torch
import torch.nn.functional as F

import mamlpp
from mamlpp import checks
from tests.exercises.wrong_answers import all_wrong, wrong


def loss_of(
    learner, task, epoch, step_weights=None, order=None, rate=None, query_step=1, query=slice(2, 4)
):
    scheduled, second_order = learner.schedule(epoch)
    weights, total = learner.weights(), 0
    for step, v in enumerate(scheduled if step_weights is None else step_weights):
        loss = F.cross_entropy(learner(weights, task.support_x, step), task.support_y)
        gradients = torch.autograd.grad(
            loss, list(weights.values()), create_graph=second_order if order is None else order
        )
        weights = {
            name: w - (rate or learner.rule)(name, step) * g
            for (name, w), g in zip(weights.items(), gradients, strict=True)
        }
        x, y = task[query]
        total = total + v * F.cross_entropy(learner(weights, x, step + query_step), y)
    return total


@wrong(checks.task_loss, "the network that has taken i steps")
def judges_with_the_step_before(learner, task, epoch):
    return loss_of(learner, task, epoch, query_step=0)


@wrong(checks.task_loss, "the rate of step 0 at every step")
def takes_the_first_rate(learner, task, epoch):
    return loss_of(learner, task, epoch, rate=lambda name, step: learner.rule(name, 0))


@wrong(checks.task_loss, "the recipe's single inner_rate")
def takes_one_rate(learner, task, epoch):
    return loss_of(learner, task, epoch, rate=lambda name, step: learner.recipe.inner_rate)


def last_alone(learner):
    return [0.0] * (learner.recipe.inner_steps - 1) + [1.0]


all_wrong(
    checks.task_loss,
    {
        "is plain MAML": lambda learner, task, epoch: loss_of(
            learner, task, epoch, step_weights=last_alone(learner)
        ),
        "are those of epoch 0": lambda learner, task, epoch: loss_of(
            learner, task, epoch, step_weights=learner.schedule(0)[0]
        ),
        "not weighted": lambda learner, task, epoch: loss_of(
            learner, task, epoch, step_weights=[1] * learner.recipe.inner_steps
        ),
        "divided by the number of steps": lambda learner, task, epoch: (
            loss_of(learner, task, epoch) / learner.recipe.inner_steps
        ),
        "the epoch may be a fraction": lambda learner, task, epoch: loss_of(
            learner, task, int(epoch)
        ),
        "the rates entered as constants": lambda learner, task, epoch: loss_of(
            learner, task, epoch, rate=lambda name, step: learner.rule(name, step).item()
        ),
        ".item() and float() throw": lambda learner, task, epoch: loss_of(
            learner, task, epoch
        ).item(),
    },
)


@wrong(checks.task_loss, "of second order at every epoch")
def is_always_second_order(learner, task, epoch):
    return loss_of(learner, task, epoch, order=True)


@wrong(checks.task_loss, "of first order at every epoch")
def is_always_first_order(learner, task, epoch):
    return loss_of(learner, task, epoch, order=False)


@wrong(checks.task_loss, "judged on the support set")
def judges_on_the_support_set(learner, task, epoch):
    return loss_of(learner, task, epoch, query=slice(0, 2))


def trained(answer):
    """The first mark, in the cheap profile."""
    checks.reaches(answer, 1, "smoke")


trained.__name__ = "reaches"


def new_learner(train):
    recipe = mamlpp.RECIPES["maml"].with_(filters=2, inner_steps=1)
    return mamlpp.MetaLearner(recipe, train.images.shape, ways=5)


@wrong(trained, "no better than guessing")
def does_not_train(train, validation, tasks):
    return new_learner(train)


@wrong(trained, "more than 480 tasks of the train characters")
def draws_too_many(train, validation, tasks):
    train.with_seed(1).sample(400)
    train.sample(400)


@wrong(trained, "stopped: filters must be")
def asks_for_no_filters(train, validation, tasks):
    mamlpp.RECIPES["maml++"].with_(filters=0)


@wrong(trained, "more than 480 tasks of the train characters")
def makes_a_sampler_of_its_own(train, validation, tasks):
    mamlpp.TaskSampler(mamlpp.load_images("glyphs", "train"), ways=5, shots=1).sample(500)


@wrong(trained, "more than 480 tasks of the validation characters")
def trains_on_the_validation_characters(train, validation, tasks):
    validation.with_seed(7).sample(500)


@wrong(trained, "are for the judge")
def looks_at_the_test_characters(train, validation, tasks):
    mamlpp.TaskSampler(mamlpp.load_images("glyphs", "test"), ways=5, shots=1).sample(1)


def not_finite(train):
    learner = new_learner(train)
    for parameter in learner.parameters():
        parameter.data /= 0
    return learner


def trains_without_a_graph(train, validation, tasks):
    with torch.no_grad():
        new_learner(train).meta_loss(train.sample(2))[0].backward()


all_wrong(
    trained,
    {
        "returned a dict: return the trained learner": lambda train, validation, tasks: dict(
            new_learner(train).weights()
        ),
        "returned a list: return the trained learner": lambda train, validation, tasks: (
            new_learner(train),
            0.78,
        ),
        "returned a number": lambda train, validation, tasks: 0.78,
        "returned None": lambda train, validation, tasks: print("accuracy 0.78"),
        "its .fit() trains": lambda train, validation, tasks: mamlpp.Trainer(
            mamlpp.RECIPES["maml-quick"], train, validation
        ),
        "made for 3-way tasks": lambda train, validation, tasks: mamlpp.MetaLearner(
            mamlpp.RECIPES["maml"].with_(filters=2), train.images.shape, ways=3
        ),
        "made for images [3, 84, 84]": lambda train, validation, tasks: mamlpp.MetaLearner(
            mamlpp.RECIPES["maml"].with_(filters=2), (3, 84, 84), ways=5
        ),
        "nan or infinite": lambda train, validation, tasks: not_finite(train),
        "something that has no graph": trains_without_a_graph,
        "a recipe has no field 'filter'": lambda train, validation, tasks: mamlpp.RECIPES[
            "maml"
        ].with_(filter=32),
        "should take 3 arguments": lambda train, validation: new_learner(train),
    },
)
wrong(trained, "give the check the function itself")(0.78)


def at_whole_epochs(**options):
    return lambda learner, task, epoch: loss_of(learner, task, int(epoch), **options)


def rate_of_step_0(learner, task, epoch, **options):
    return loss_of(learner, task, epoch, rate=lambda name, step: learner.rule(name, 0), **options)


all_wrong(
    checks.task_loss,
    {
        "all three mistakes": lambda learner, task, epoch: rate_of_step_0(
            learner, task, int(epoch), query_step=0
        ),
        "about the learner and the rates": lambda learner, task, epoch: rate_of_step_0(
            learner, task, epoch, query_step=0
        ),
        "about the learner and the epoch": at_whole_epochs(query_step=0),
        "about the rates and the epoch": lambda learner, task, epoch: rate_of_step_0(
            learner, task, int(epoch)
        ),
    },
)

all_wrong(
    checks.task_loss,
    {
        "the switch's own epoch": lambda learner, task, epoch: loss_of(
            learner, task, epoch, order=epoch > learner.recipe.second_order_from
        ),
        "the epoch is one too many": lambda learner, task, epoch: loss_of(learner, task, epoch + 1),
        "the last step is missing": lambda learner, task, epoch: loss_of(
            learner, task, epoch, step_weights=learner.schedule(epoch)[0][:-1]
        ),
        "result has no graph": lambda learner, task, epoch: loss_of(learner, task, epoch).detach(),
        "a dict": lambda learner, task, epoch: {"loss": loss_of(learner, task, epoch)},
    },
)
