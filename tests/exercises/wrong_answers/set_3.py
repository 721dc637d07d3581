import torch
import torch.nn.functional as F

from mamlpp import checks
from tests.exercises.wrong_answers import wrong


def fall(steps, other):
    return [other] * (steps - 1) + [1 - (steps - 1) * other]


@wrong(checks.step_weights, "your weights sum to 0.60 at epoch 4")
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


@wrong(checks.step_weights, "N times as slowly as yours")
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


@wrong(checks.step_weights_floor, "the final step must take what the others lose")
def forgets_the_last(steps, msl_epochs, floor, epoch):
    done = min(epoch / msl_epochs, 1)
    return [(1 - done) / steps + done * floor] * steps


def losses_on(model, path, x, y):
    return [F.cross_entropy(model(weights, x), y) for weights in path]


def weighted(counts, losses):
    return sum(v * loss for v, loss in zip(counts, losses, strict=True))


@wrong(checks.meta_loss, "yours counts θ_0")
def starts_at_zero(model, path, x, y, counts):
    return weighted(counts, losses_on(model, path[:-1], x, y))


@wrong(checks.meta_loss, "it divides by N")
def takes_the_mean(model, path, x, y, counts):
    return weighted(counts, losses_on(model, path[1:], x, y)) / len(counts)


@wrong(checks.meta_loss, "that is plain MAML")
def judges_the_last(model, path, x, y, counts):
    return losses_on(model, path, x, y)[-1]


@wrong(checks.meta_loss, "unweighted")
def ignores_the_weights(model, path, x, y, counts):
    return sum(losses_on(model, path[1:], x, y))


@wrong(checks.meta_loss, "step by step")
def does_not_add(model, path, x, y, counts):
    return [v * loss for v, loss in zip(counts, losses_on(model, path[1:], x, y), strict=True)]


@wrong(checks.meta_loss, "in the opposite order")
def counts_backwards(model, path, x, y, counts):
    return weighted(counts[::-1], losses_on(model, path[1:], x, y))


@wrong(checks.meta_loss, "averages the weights")
def averages_the_weights(model, path, x, y, counts):
    middle = {name: weighted(counts, [w[name] for w in path[1:]]) for name in path[0]}
    return F.cross_entropy(model(middle, x), y)


@wrong(checks.meta_loss, "its graph is gone")
def takes_items(model, path, x, y, counts):
    return torch.tensor(weighted(counts, losses_on(model, path[1:], x, y)).item())


@wrong(checks.query_losses, "with a floor no loss ever counts 0")
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
