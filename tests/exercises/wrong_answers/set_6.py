import math

import torch

from mamlpp import checks
from tests.exercises.wrong_answers import wrong


def layer_of(name):
    return name.rpartition(".")[0]


def layers_of(names):
    return list(dict.fromkeys(map(layer_of, names)))


def count(shapes):
    return sum(math.prod(shape) for shape in shapes.values())


@wrong(checks.numbers_learned, "which its weight and bias share")
def counts_tensors(shapes, steps):
    return len(shapes) * steps, count(shapes)


@wrong(checks.numbers_learned, "yours has N + 1")
def counts_one_step_more(shapes, steps):
    return len(layers_of(shapes)) * (steps + 1), count(shapes)


@wrong(checks.numbers_learned, "each layer AND step")
def forgets_the_steps(shapes, steps):
    return len(layers_of(shapes)), count(shapes)


@wrong(checks.numbers_learned, "the same rates at all steps")
def multiplies_meta_sgd(shapes, steps):
    return len(layers_of(shapes)) * steps, count(shapes) * steps


@wrong(checks.numbers_learned, "multiply a shape")
def adds_shapes(shapes, steps):
    return len(layers_of(shapes)) * steps, sum(sum(shape) for shape in shapes.values())


@wrong(checks.numbers_learned, "the two are swapped")
def swaps(shapes, steps):
    return count(shapes), len(layers_of(shapes)) * steps


def lslr(weights, gradients, rate):
    layers = layers_of(weights)
    return {
        name: weights[name] - rate(layers.index(layer_of(name))) * gradients[name]
        for name in weights
    }


@wrong(checks.lslr_step, "the step goes up")
def lslr_climbs(weights, gradients, rates, step):
    return lslr(weights, gradients, lambda layer: -rates[layer, step])


@wrong(checks.lslr_step, "yours reads rates[step, layer]")
def transposes(weights, gradients, rates, step):
    return lslr(weights, gradients, lambda layer: rates[step, layer])


@wrong(checks.lslr_step, "always uses the rates of step 0")
def ignores_the_step(weights, gradients, rates, step):
    return lslr(weights, gradients, lambda layer: rates[layer, 0])


@wrong(checks.lslr_step, "steps are counted from 0")
def counts_steps_from_one(weights, gradients, rates, step):
    return lslr(weights, gradients, lambda layer: rates[layer, step - 1])


@wrong(checks.lslr_step, "counts tensors where it should count layers")
def walks_through_tensors(weights, gradients, rates, step):
    return {
        name: weights[name] - rates[place % len(rates), step] * gradients[name]
        for place, name in enumerate(weights)
    }


@wrong(checks.lslr_step, "no gradient reaches them")
def takes_items(weights, gradients, rates, step):
    return lslr(weights, gradients, lambda layer: rates[layer, step].item())


@wrong(checks.lslr_step, "IndexError")
def runs_out_of_rows(weights, gradients, rates, step):
    return {
        name: weights[name] - rates[place, step] * gradients[name]
        for place, name in enumerate(weights)
    }


@wrong(checks.lslr_step, "averages the rates over the steps")
def averages_steps(weights, gradients, rates, step):
    return lslr(weights, gradients, lambda layer: rates[layer].mean())


def meta_sgd(weights, gradients, rates, change):
    return {name: weights[name] - change(rates[name]) * gradients[name] for name in weights}


@wrong(checks.meta_sgd_step, "the step goes up")
def meta_sgd_climbs(weights, gradients, rates):
    return meta_sgd(weights, gradients, rates, lambda rate: -rate)


@wrong(checks.meta_sgd_step, "one rate a tensor")
def averages(weights, gradients, rates):
    return meta_sgd(weights, gradients, rates, torch.mean)


@wrong(checks.meta_sgd_step, "absolute values")
def takes_absolute_values(weights, gradients, rates):
    return meta_sgd(weights, gradients, rates, torch.abs)


@wrong(checks.meta_sgd_step, "clips the rates")
def clips(weights, gradients, rates):
    return meta_sgd(weights, gradients, rates, torch.relu)


@wrong(checks.meta_sgd_step, "plain numbers")
def detaches(weights, gradients, rates):
    return meta_sgd(weights, gradients, rates, torch.detach)


@wrong(checks.meta_sgd_step, "the change, not the changed weights")
def gives_the_change(weights, gradients, rates):
    return {name: -rates[name] * gradients[name] for name in weights}


@wrong(checks.rate_gradient, "the sign")
def forgets_the_sign(query, support):
    return sum((query[name] * support[name]).sum().item() for name in query)


@wrong(checks.rate_gradient, "the cosine of the angle")
def takes_the_cosine(query, support):
    a, b = (torch.cat([part.flatten() for part in g.values()]) for g in (query, support))
    return -torch.cosine_similarity(a, b, dim=0).item()


@wrong(checks.rate_gradient, "not the first alone")
def stops_at_the_first(query, support):
    for name in query:
        return -(query[name] * support[name]).sum().item()


@wrong(checks.rate_gradient, "a number for each tensor")
def does_not_add_up(query, support):
    return {name: -(query[name] * support[name]).sum().item() for name in query}


@wrong(checks.rate_gradient, "the mean over the weights")
def takes_the_mean(query, support):
    a, b = (torch.cat([part.flatten() for part in g.values()]) for g in (query, support))
    return -(a * b).mean().item()


@wrong(checks.rate_gradient, "it multiplies the lengths")
def multiplies_lengths(query, support):
    a, b = (torch.cat([part.flatten() for part in g.values()]) for g in (query, support))
    return -(a.norm() * b.norm()).item()
