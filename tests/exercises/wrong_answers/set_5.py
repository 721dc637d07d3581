import torch

from mamlpp import checks
from tests.exercises.wrong_answers import wrong


def scaled(x, weight, bias, eps, dims=(0, 2, 3), correction=0):
    variance, mean = torch.var_mean(x, dims, correction=correction, keepdim=True)
    x = (x - mean) / torch.sqrt(variance + eps)
    return x * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)


@wrong(checks.normalise, "correction=0")
def is_unbiased(x, weight, bias, eps):
    return scaled(x, weight, bias, eps, correction=1)


@wrong(checks.normalise, "that is instance norm")
def normalises_each_image(x, weight, bias, eps):
    return scaled(x, weight, bias, eps, dims=(2, 3))


@wrong(checks.normalise, "one mean for all channels")
def mixes_channels(x, weight, bias, eps):
    return scaled(x, weight, bias, eps, dims=(0, 1, 2, 3))


@wrong(checks.normalise, "each pixel has a mean of its own")
def normalises_each_pixel(x, weight, bias, eps):
    return scaled(x, weight, bias, eps, dims=0)


@wrong(checks.normalise, "eps is missing")
def forgets_eps(x, weight, bias, eps):
    return scaled(x, weight, bias, 0.0)


@wrong(checks.normalise, "eps is outside of the root")
def adds_eps_late(x, weight, bias, eps):
    x = (x - x.mean((0, 2, 3), keepdim=True)) / (
        x.var((0, 2, 3), correction=0, keepdim=True).sqrt() + eps
    )
    return x * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)


@wrong(checks.normalise, "weight and bias are missing")
def forgets_to_scale(x, weight, bias, eps):
    return scaled(x, torch.ones_like(weight), torch.zeros_like(bias), eps)


@wrong(checks.normalise, "take the square root")
def forgets_the_root(x, weight, bias, eps):
    variance, mean = torch.var_mean(x, (0, 2, 3), correction=0, keepdim=True)
    x = (x - mean) / (variance + eps)
    return x * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)


def moved(running, rows, batch, momentum):
    new = running.clone()
    new[rows] = (1 - momentum) * new[rows] + momentum * batch
    return new


@wrong(checks.update_running, "all steps moved")
def moves_all(running, step, batch, momentum):
    return moved(running, slice(None), batch, momentum)


@wrong(checks.update_running, "yours forgets nearly all")
def turns_momentum_round(running, step, batch, momentum):
    return moved(running, min(step, len(running) - 1), batch, 1 - momentum)


@wrong(checks.update_running, "the row is one too low")
def counts_from_one(running, step, batch, momentum):
    return moved(running, min(step, len(running) - 1) - 1, batch, momentum)


@wrong(checks.update_running, "start again from the first")
def wraps_round(running, step, batch, momentum):
    return moved(running, step % len(running), batch, momentum)


@wrong(checks.update_running, "should only move towards them")
def replaces(running, step, batch, momentum):
    return moved(running, min(step, len(running) - 1), batch, 1.0)


@wrong(checks.update_running, "the moved row alone")
def gives_one_row(running, step, batch, momentum):
    row = min(step, len(running) - 1)
    return moved(running, row, batch, momentum)[row]


@wrong(checks.update_running, "the sum grows for ever")
def only_adds(running, step, batch, momentum):
    new = running.clone()
    new[min(step, len(running) - 1)] += momentum * batch
    return new


@wrong(checks.update_running, "changed what it was given")
def writes_in_place(running, step, batch, momentum):
    running[min(step, len(running) - 1)].lerp_(batch, momentum)
    return running


@wrong(checks.update_running, "IndexError")
def falls_off_the_end(running, step, batch, momentum):
    return moved(running, step, batch, momentum)


def agree(a, b):
    return torch.allclose(a, b, rtol=1e-3, atol=1e-4)


@wrong(checks.leaks, "accuses a classifier that is innocent")
def wants_every_digit(classify, images):
    return not torch.equal(classify(images)[:1], classify(images[:1]))


@wrong(checks.leaks, "in another order are no other company")
def shuffles(classify, images):
    return not agree(classify(images), classify(images.flip(0)).flip(0))


@wrong(checks.leaks, "all images but the first")
def looks_at_the_first(classify, images):
    return not agree(classify(images)[:1], classify(images[:1]))


@wrong(checks.leaks, "finds no leak at all")
def asks_the_same_twice(classify, images):
    return not agree(classify(images), classify(images))


@wrong(checks.leaks, "never calls")
def calls_nothing(classify, images):
    return False


@wrong(checks.leaks, "True or False is asked")
def gives_the_difference(classify, images):
    return (classify(images)[0] - classify(images[:1])[0]).abs().max()


def logits(features, reference, head):
    mean, variance = reference.mean(0), reference.var(0, correction=0)
    return ((features - mean) / torch.sqrt(variance + 1e-5)).relu() @ head


@wrong(checks.sealed_logits, "still normalised by each other")
def changes_nothing(query, support, filters, head):
    return logits(query @ filters, query @ filters, head)


@wrong(checks.sealed_logits, "only the mean was replaced")
def replaces_the_mean(query, support, filters, head):
    x = query @ filters
    variance = x.var(0, correction=0)
    return ((x - (support @ filters).mean(0)) / torch.sqrt(variance + 1e-5)).relu() @ head


@wrong(checks.sealed_logits, "only the variance was replaced")
def replaces_the_variance(query, support, filters, head):
    x = query @ filters
    variance = (support @ filters).var(0, correction=0)
    return ((x - x.mean(0)) / torch.sqrt(variance + 1e-5)).relu() @ head


@wrong(checks.sealed_logits, "normalised together")
def takes_all_together(query, support, filters, head):
    return logits(query @ filters, torch.cat([support, query]) @ filters, head)


@wrong(checks.sealed_logits, "it is another network")
def removes_the_layer(query, support, filters, head):
    return (query @ filters).relu() @ head


@wrong(checks.sealed_logits, "that is layer norm")
def normalises_each_query(query, support, filters, head):
    x = query @ filters
    variance, mean = torch.var_mean(x, 1, correction=0, keepdim=True)
    return ((x - mean) / torch.sqrt(variance + 1e-5)).relu() @ head


@wrong(checks.sealed_logits, "logits of the support images")
def classifies_the_support(query, support, filters, head):
    return logits(support @ filters, support @ filters, head)
