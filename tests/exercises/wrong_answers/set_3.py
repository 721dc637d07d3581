import math

import torch
import torch.nn.functional as F

from mamlpp import checks
from tests.exercises.wrong_answers import all_wrong, wrong


def fall(steps, other):
    return [other] * (steps - 1) + [1 - (steps - 1) * other]


@wrong(checks.step_weights, "all weights fall together")
def loses_what_falls(steps, msl_epochs, epoch):
    return [(1 - min(epoch / msl_epochs, 1)) / steps] * steps


@wrong(checks.step_weights, "goes on below zero")
def falls_for_ever(steps, msl_epochs, epoch):
    return fall(steps, (1 - epoch / msl_epochs) / steps)


@wrong(checks.step_weights, "goes the other way")
def anneals_backwards(steps, msl_epochs, epoch):
    return fall(steps, min(epoch / msl_epochs, 1) / steps)


@wrong(checks.step_weights, "the first step takes")
def feeds_the_first(steps, msl_epochs, epoch):
    return fall(steps, (1 - min(epoch / msl_epochs, 1)) / steps)[::-1]


@wrong(checks.step_weights, "stay at 1/N")
def never_anneals(steps, msl_epochs, epoch):
    return [1 / steps] * steps


@wrong(checks.step_weights, "only the last step counts from the start")
def counts_the_last(steps, msl_epochs, epoch):
    return fall(steps, 0.0)


@wrong(checks.step_weights, "by 1/(N·E) an epoch")
def falls_too_fast(steps, msl_epochs, epoch):
    return fall(steps, 1 / steps - min(epoch / msl_epochs, 1))


@wrong(checks.step_weights_floor, "it falls to zero")
def ignores_the_floor(steps, msl_epochs, floor, epoch):
    return fall(steps, (1 - min(epoch / msl_epochs, 1)) / steps)


@wrong(checks.step_weights_floor, "clips a fall to zero")
def clips(steps, msl_epochs, floor, epoch):
    return fall(steps, max((1 - min(epoch / msl_epochs, 1)) / steps, floor))


@wrong(checks.step_weights_floor, "added to a fall to zero")
def adds_the_floor(steps, msl_epochs, floor, epoch):
    return fall(steps, (1 - min(epoch / msl_epochs, 1)) / steps + floor)


@wrong(checks.step_weights_floor, "as published code does")
def stops_dead(steps, msl_epochs, floor, epoch):
    done = epoch / msl_epochs
    return fall(steps, 0.0 if done >= 1 else (1 - done) / steps + done * floor)


@wrong(checks.step_weights_floor, "goes on after epoch E")
def falls_through_the_floor(steps, msl_epochs, floor, epoch):
    done = epoch / msl_epochs
    return fall(steps, (1 - done) / steps + done * floor)


@wrong(checks.step_weights_floor, "the last step must take what the others lose")
def forgets_the_last(steps, msl_epochs, floor, epoch):
    done = min(epoch / msl_epochs, 1)
    return [(1 - done) / steps + done * floor] * steps


def losses_on(model, path, x, y):
    return [F.cross_entropy(model(weights, x), y) for weights in path]


def weighted(step_weights, losses):
    return sum(v * loss for v, loss in zip(step_weights, losses, strict=True))


@wrong(checks.meta_loss, "yours counts θ_0")
def starts_at_zero(model, path, x, y, step_weights):
    return weighted(step_weights, losses_on(model, path[:-1], x, y))


@wrong(checks.meta_loss, "it divides by N")
def takes_the_mean(model, path, x, y, step_weights):
    return weighted(step_weights, losses_on(model, path[1:], x, y)) / len(step_weights)


@wrong(checks.meta_loss, "that is plain MAML")
def judges_the_last(model, path, x, y, step_weights):
    return losses_on(model, path, x, y)[-1]


@wrong(checks.meta_loss, "unweighted")
def ignores_the_weights(model, path, x, y, step_weights):
    return sum(losses_on(model, path[1:], x, y))


@wrong(checks.meta_loss, "step by step")
def does_not_add(model, path, x, y, step_weights):
    return [
        v * loss for v, loss in zip(step_weights, losses_on(model, path[1:], x, y), strict=True)
    ]


@wrong(checks.meta_loss, "in the opposite order")
def counts_backwards(model, path, x, y, step_weights):
    return weighted(step_weights[::-1], losses_on(model, path[1:], x, y))


@wrong(checks.meta_loss, "averages the weights")
def averages_the_weights(model, path, x, y, step_weights):
    middle = {name: weighted(step_weights, [w[name] for w in path[1:]]) for name in path[0]}
    return F.cross_entropy(model(middle, x), y)


@wrong(checks.query_losses, "no weight ever becomes 0")
def ignores_floors(steps, msl_epochs, floor, epochs):
    short = min(msl_epochs, epochs)
    return short * steps + epochs - short


@wrong(checks.query_losses, "the others are not computed any more")
def computes_all(steps, msl_epochs, floor, epochs):
    return epochs * steps


@wrong(checks.query_losses, "one epoch too many")
def counts_epoch_e(steps, msl_epochs, floor, epochs):
    all_epochs = epochs if floor else min(msl_epochs + 1, epochs)
    return all_epochs * steps + epochs - all_epochs


@wrong(checks.query_losses, "one epoch too few")
def counts_from_one(steps, msl_epochs, floor, epochs):
    all_epochs = epochs if floor else min(msl_epochs - 1, epochs)
    return all_epochs * steps + epochs - all_epochs


@wrong(checks.query_losses, "one loss is still computed")
def forgets_the_rest(steps, msl_epochs, floor, epochs):
    return (epochs if floor else min(msl_epochs, epochs)) * steps


@wrong(checks.query_losses, "may end before epoch E")
def trains_to_epoch_e(steps, msl_epochs, floor, epochs):
    return epochs * steps if floor else msl_epochs * steps + epochs - msl_epochs


def rest(epoch, msl_epochs):
    return 1 - min(epoch / msl_epochs, 1)


def annealed(other):
    return lambda steps, msl_epochs, epoch: fall(steps, other(steps, msl_epochs, epoch))


all_wrong(
    checks.step_weights,
    {
        "the epoch may be a fraction": annealed(
            lambda n, e, epoch: (1 - min(epoch // 1 / e, 1)) / n
        ),
        "the fall ends one epoch late": annealed(
            lambda n, e, epoch: (1 - min(epoch / (e + 1), 1)) / n
        ),
        "forgotten before epoch E": annealed(lambda n, e, epoch: rest(epoch, e - 1) / n),
        "and stops at 0": annealed(lambda n, e, epoch: max(1 / n - epoch / e, 0)),
        "E is not always the same": annealed(lambda n, e, epoch: rest(epoch, 10) / n),
        "should have 3 entries, not 4": lambda n, e, epoch: (
            [(1 - min(epoch / e, 1)) / n] * n + [1 - (n - 1) * (1 - min(epoch / e, 1)) / n]
        ),
        "of the earlier steps alone": lambda n, e, epoch: (1 - min(epoch / e, 1)) / n,
        "in a straight line": annealed(lambda n, e, epoch: (1 - min(epoch / e, 1)) ** 2 / n),
    },
)


def to_floor(other):
    return lambda n, e, floor, epoch: fall(n, other(n, min(epoch / e, 1), floor))


def on_line(n, done, floor):
    return (1 - done) / n + done * floor


all_wrong(
    checks.step_weights_floor,
    {
        "the epoch may be a fraction": lambda n, e, floor, epoch: to_floor(on_line)(
            n, e, floor, int(epoch)
        ),
        "at the floor from the start": to_floor(lambda n, done, floor: floor),
        "the line starts at 1": to_floor(lambda n, done, floor: 1 - done + done * floor),
        "the line ends at floor/N": to_floor(lambda n, done, floor: (1 - done + done * floor) / n),
        "`floor` is an argument": to_floor(lambda n, done, floor: on_line(n, done, 0.03)),
        "`msl_epochs` is an argument": lambda n, e, floor, epoch: to_floor(on_line)(
            n, 10, floor, epoch
        ),
        "the first step takes": lambda n, e, floor, epoch: to_floor(on_line)(n, e, floor, epoch)[
            ::-1
        ],
    },
)


def terms(model, path, x, y, step_weights):
    losses = losses_on(model, path[1:], x, y)
    return [v * loss for v, loss in zip(step_weights, losses, strict=True)]


def averages_logits(model, path, x, y, step_weights):
    logits = [v * model(w, x) for v, w in zip(step_weights, path[1:], strict=True)]
    return F.cross_entropy(sum(logits), y)


def keeps_images_apart(model, path, x, y, step_weights):
    pairs = zip(step_weights, path[1:], strict=True)
    return sum(v * F.cross_entropy(model(w, x), y, reduction="none") for v, w in pairs)


def makes_leaves(model, path, x, y, step_weights):
    leaves = [{n: w.detach().requires_grad_() for n, w in weights.items()} for weights in path]
    return sum(terms(model, leaves, x, y, step_weights))


all_wrong(
    checks.meta_loss,
    {
        "it is cut off from θ_0": makes_leaves,
        "a plain number": lambda *inputs: sum(terms(*inputs)).item(),
        "one number for each step": lambda *inputs: torch.stack(terms(*inputs)),
        "one number for each image": keeps_images_apart,
        "averages the logits": averages_logits,
        "times its weight: add up": lambda *inputs: terms(*inputs)[-1],
        "it returns inside the loop": lambda *inputs: terms(*inputs)[0],
        "their weights v_i are missing": lambda model, path, x, y, step_weights: torch.stack(
            losses_on(model, path[1:], x, y)
        ).mean(),
        "the dtype is not that of the inputs": lambda *inputs: sum(terms(*inputs)).half(),
    },
)


def counted(in_epoch):
    return lambda steps, msl_epochs, floor, epochs: sum(
        in_epoch(steps, floor > 0 or epoch < msl_epochs) for epoch in range(epochs)
    )


all_wrong(
    checks.query_losses,
    {
        "all N losses are computed, the last one too": counted(lambda n, all_n: (n - 1) * all_n),
        "the last of them is counted twice": counted(lambda n, all_n: n * all_n + 1),
        "that is plain MAML": counted(lambda n, all_n: 1),
        "count the whole training": lambda n, e, floor, epochs: n,
        "E is not always 10": lambda n, e, floor, epochs: counted(
            lambda n, all_n: n if all_n else 1
        )(n, 10, floor, epochs),
    },
)


def first_ten(steps, msl_epochs, epoch):
    other = (1 - min(epoch, msl_epochs) / 10) / steps
    return [other] * (steps - 1) + [1 - (steps - 1) * other]


wrong(checks.step_weights, "an argument in both places")(first_ten)


def losses_counted(steps, msl_epochs, floor, epochs):
    with_all = epochs if floor else min(msl_epochs, epochs)
    return steps * with_all + epochs - with_all


all_wrong(
    checks.query_losses,
    {
        "too large by 1": lambda *inputs: losses_counted(*inputs) + 1,
        "the same answer to every call": lambda *inputs: 8,
        "it should give a number, not a list": lambda *inputs: [losses_counted(*inputs)],
    },
)


def falling(n, e, epoch):
    return max((1 - epoch / e) / n, 0)


all_wrong(
    checks.step_weights,
    {
        "the last weight is 1 from the start": lambda n, e, epoch: (
            [falling(n, e, epoch)] * (n - 1) + [1]
        ),
        "nothing moves before epoch E": lambda n, e, epoch: (
            [1 / n] * n if epoch < e else [0] * (n - 1) + [1]
        ),
        "it rounds to three decimals": lambda n, e, epoch: (
            [round(falling(n, e, epoch), 3)] * (n - 1)
            + [round(1 - (n - 1) * falling(n, e, epoch), 3)]
        ),
        "your weights sum to 4.00 at epoch 0": lambda n, e, epoch: [
            1 + v for v in [falling(n, e, epoch)] * (n - 1) + [1 - (n - 1) * falling(n, e, epoch)]
        ],
    },
)


def others(weight):
    """Weights of which all but the last are `weight(steps, msl_epochs, floor, epoch)`."""

    def step_weights(n, e, floor, epoch):
        v = weight(n, e, floor, epoch)
        return [v] * (n - 1) + [1 - (n - 1) * v]

    return step_weights


all_wrong(
    checks.step_weights_floor,
    {
        "the floor is reached one epoch early": others(
            lambda n, e, floor, epoch: max(1 / n - epoch * (1 / n - floor) / (e - 1), floor)
        ),
        "and is not shared by them": others(
            lambda n, e, floor, epoch: (
                falling(n, e, epoch) + min(epoch / e, 1) * floor / max(n - 1, 1)
            )
        ),
        "the fall stops at floor/N": others(
            lambda n, e, floor, epoch: max(falling(n, e, epoch), floor / n)
        ),
    },
)


def losses_of(model, path, x, y, reduction="mean"):
    return [F.cross_entropy(model(weights, x), y, reduction=reduction) for weights in path[1:]]


all_wrong(
    checks.meta_loss,
    {
        "the loss is the sum over the images": lambda model, path, x, y, v: sum(
            a * loss for a, loss in zip(v, losses_of(model, path, x, y, "sum"), strict=True)
        ),
        "the steps before the last entered as constants": lambda model, path, x, y, v: (
            sum(
                a * loss.item()
                for a, loss in zip(v[:-1], losses_of(model, path, x, y)[:-1], strict=True)
            )
            + v[-1] * losses_of(model, path, x, y)[-1]
        ),
    },
)
all_wrong(
    checks.query_losses,
    {
        "too small by 1": lambda n, e, floor, epochs: (
            sum(n if floor > 0 or epoch < e else 1 for epoch in range(epochs)) - 1
        ),
        "it should give a number, not a list": lambda n, e, floor, epochs: [
            n if floor > 0 or epoch < e else 1 for epoch in range(epochs)
        ],
    },
)


def remaining(steps, weight):
    return [weight] * (steps - 1) + [1 - (steps - 1) * weight]


def progress(epoch, epochs):
    return min(epoch / epochs, 1)


all_wrong(
    checks.step_weights,
    {
        "like an exponential": lambda n, e, epoch: remaining(n, math.exp(-epoch / e) / n),
        "like a cosine": lambda n, e, epoch: remaining(
            n, 0.5 * (1 + math.cos(math.pi * progress(epoch, e))) / n
        ),
        "N times too slowly": lambda n, e, epoch: remaining(n, (1 - progress(epoch, e * n)) / n),
        "not 1/(N − 1)": lambda n, e, epoch: remaining(n, (1 - progress(epoch, e)) / (n - 1)),
        "it rounds the epoch": lambda n, e, epoch: remaining(
            n, (1 - progress(round(epoch), e)) / n
        ),
        "the step before the last": lambda n, e, epoch: [
            (1 - progress(epoch, e)) / n + progress(epoch, e) * (i == n - 2) for i in range(n)
        ],
    },
)
all_wrong(
    checks.step_weights_floor,
    {
        "the line runs the other way": lambda n, e, floor, epoch: remaining(
            n, progress(epoch, e) / n + (1 - progress(epoch, e)) * floor
        ),
        "too low by the floor": lambda n, e, floor, epoch: remaining(
            n, (1 - progress(epoch, e)) * (1 / n - floor)
        ),
        "it jumps to the floor": lambda n, e, floor, epoch: remaining(
            n, (1 - epoch / e) / n if epoch < e else floor
        ),
        "by a share `floor` of themselves": lambda n, e, floor, epoch: remaining(
            n, (1 - progress(epoch, e) * floor) / n
        ),
        "it begins above 1/N": lambda n, e, floor, epoch: remaining(
            n, (1 - floor) * (1 - progress(epoch, e)) / n + floor
        ),
    },
)


def judged(model, path, x, y, step_weights, change):
    pairs = zip(step_weights, path[1:], strict=True)
    return sum(change(v, model(weights, x), y) for v, weights in pairs)


all_wrong(
    checks.meta_loss,
    {
        "applies the softmax itself": lambda *inputs: judged(
            *inputs, lambda v, logits, y: v * F.cross_entropy(logits.softmax(-1), y)
        ),
        "not the logits": lambda *inputs: judged(
            *inputs, lambda v, logits, y: F.cross_entropy(v * logits, y)
        ),
        "the sum ends with": lambda model, path, x, y, v: judged(
            model, path[:-1], x, y, v[:-1], lambda v, logits, y: v * F.cross_entropy(logits, y)
        ),
    },
)
all_wrong(
    checks.query_losses,
    {
        "the training is that long": lambda n, e, floor, epochs: n * e + (epochs - e),
        "the mean of an epoch": lambda n, e, floor, epochs: (
            sum(n if epoch < e or floor else 1 for epoch in range(epochs)) / epochs
        ),
        "wrong only where floor is above 0": lambda n, e, floor, epochs: (
            3 * epochs if floor else sum(n if epoch < e else 1 for epoch in range(epochs))
        ),
    },
)
