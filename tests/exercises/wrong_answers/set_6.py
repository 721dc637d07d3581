import math

import torch

from mamlpp import checks
from tests.exercises.wrong_answers import all_wrong, wrong


def layer_of(name):
    return name.rpartition(".")[0]


def layers_of(names):
    return list(dict.fromkeys(map(layer_of, names)))


def count(shapes):
    return sum(math.prod(shape) for shape in shapes.values())


@wrong(checks.numbers_learned, "which its tensors share")
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


@wrong(checks.numbers_learned, "multiply the sizes in a shape")
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


@wrong(checks.lslr_step, "the rates of the step before")
def counts_steps_from_one(weights, gradients, rates, step):
    return lslr(weights, gradients, lambda layer: rates[layer, step - 1])


@wrong(checks.lslr_step, "entered as plain numbers (.item()")
def takes_items(weights, gradients, rates, step):
    return lslr(weights, gradients, lambda layer: rates[layer, step].item())


@wrong(checks.lslr_step, "counts tensors where it should count layers")
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


@wrong(checks.meta_sgd_step, "one rate for a tensor, the mean")
def averages(weights, gradients, rates):
    return meta_sgd(weights, gradients, rates, torch.mean)


@wrong(checks.meta_sgd_step, "absolute values")
def takes_absolute_values(weights, gradients, rates):
    return meta_sgd(weights, gradients, rates, torch.abs)


@wrong(checks.meta_sgd_step, "clips the rates")
def clips(weights, gradients, rates):
    return meta_sgd(weights, gradients, rates, torch.relu)


@wrong(checks.meta_sgd_step, "entered as plain numbers (.detach()")
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


def lslr_count(layers):
    return lambda shapes, steps: (layers(shapes) * steps, count(shapes))


all_wrong(
    checks.numbers_learned,
    {
        "instead of halving": lslr_count(lambda shapes: len(shapes) // 2),
        "instead of rounding up half": lslr_count(lambda shapes: (len(shapes) + 1) // 2),
        "no tensor called weight": lslr_count(lambda shapes: sum("weight" in n for n in shapes)),
        "yours ends at the first dot": lslr_count(
            lambda shapes: len({name.split(".")[0] for name in shapes})
        ),
        "yours takes one word": lslr_count(
            lambda shapes: len({name.split(".")[-2] for name in shapes})
        ),
        "multiplied, not added": lambda shapes, steps: (
            len(layers_of(shapes)) + steps,
            count(shapes),
        ),
        "not one for each weight and step": lambda shapes, steps: (
            count(shapes) * steps,
            count(shapes),
        ),
        "not for each tensor": lambda shapes, steps: (len(layers_of(shapes)) * steps, len(shapes)),
        "rates for biases too": lambda shapes, steps: (
            len(layers_of(shapes)) * steps,
            count({n: s for n, s in shapes.items() if "bias" not in n}),
        ),
    },
)


def lslr_row(index):
    return lambda weights, gradients, rates, step: {
        name: w - rates[index(list(weights), name), step] * gradients[name]
        for name, w in weights.items()
    }


def lslr_change(change):
    def lslr_step(weights, gradients, rates, step):
        layers = layers_of(weights)
        return {
            name: change(w, rates[layers.index(layer_of(name)), step], gradients[name])
            for name, w in weights.items()
        }

    return lslr_step


all_wrong(
    checks.lslr_step,
    {
        "the rates of the step after": lambda weights, gradients, rates, step: lslr(
            weights, gradients, lambda layer: rates[layer, step + 1]
        ),
        "the rates of the last step": lambda weights, gradients, rates, step: lslr(
            weights, gradients, lambda layer: rates[layer, -1]
        ),
        "the first layer's rates for all": lambda weights, gradients, rates, step: lslr(
            weights, gradients, lambda layer: rates[0, step]
        ),
        "it sorts the layers": lslr_row(
            lambda names, name: sorted(layers_of(names)).index(layer_of(name))
        ),
        "yours ends at the first dot": lslr_row(
            lambda names, name: list(dict.fromkeys(n.split(".")[0] for n in names)).index(
                name.split(".")[0]
            )
        ),
        "the gradients are missing": lslr_change(lambda w, rate, g: w - rate),
        "it returns the change": lslr_change(lambda w, rate, g: -rate * g),
        "the weights entered as constants": lslr_change(lambda w, rate, g: w.detach() - rate * g),
        "the gradients entered as constants": lslr_change(lambda w, rate, g: w - rate * g.detach()),
        "the result has no graph": lslr_change(lambda w, rate, g: (w - rate * g).detach()),
        "the dtype is not that of the inputs": lslr_change(
            lambda w, rate, g: (w - rate * g).to(torch.float16)
        ),
    },
)


def sgd(change):
    return lambda weights, gradients, rates: {
        name: change(w, rates[name], gradients[name]) for name, w in weights.items()
    }


all_wrong(
    checks.meta_sgd_step,
    {
        "one rate for a tensor, the first": sgd(lambda w, rate, g: w - rate.flatten()[0] * g),
        "one inner product from all weights": sgd(lambda w, rate, g: w - (rate * g).sum()),
        "they belong to the gradients": sgd(lambda w, rate, g: rate * w - g),
        "the rates are missing": sgd(lambda w, rate, g: w - g),
        "the gradients are missing": sgd(lambda w, rate, g: w - rate),
        "the weights entered as constants": sgd(lambda w, rate, g: w.data - rate * g),
        "the gradients entered as constants": sgd(lambda w, rate, g: w - rate * g.data),
        "it returns a list": lambda *inputs: list(
            sgd(lambda w, rate, g: w - rate * g)(*inputs).values()
        ),
        "the result has no graph": sgd(lambda w, rate, g: (w - rate * g).detach()),
    },
)


def long(gradients, query):
    return torch.cat([gradients[name].flatten() for name in query])


def from_vectors(formula):
    return lambda query, support: formula(long(query, query), long(support, query)).item()


all_wrong(
    checks.rate_gradient,
    {
        "the length of one gradient": from_vectors(lambda q, s: -q.dot(s) / s.norm()),
        "not the last alone": lambda query, support: [
            -(query[name] * support[name]).sum().item() for name in query
        ][-1],
        "it multiplies the sums": from_vectors(lambda q, s: -q.sum() * s.sum()),
        "absolute values": from_vectors(lambda q, s: -(q * s).abs().sum()),
        "the square of the support gradient": from_vectors(lambda q, s: -s.dot(s)),
        "the square of the query gradient": from_vectors(lambda q, s: -q.dot(q)),
        "the query gradient alone": from_vectors(lambda q, s: -q.sum()),
        "one number is asked for": lambda query, support: (
            -long(query, query) * long(support, query)
        ),
    },
)


def usual_ends(name):
    return name.replace(".weight", "").replace(".bias", "")


wrong(checks.numbers_learned, "its name is what comes before the last dot")(
    lambda shapes, steps: (len({usual_ends(name) for name in shapes}) * steps, count(shapes))
)
wrong(checks.numbers_learned, "it should return 2 values")(lambda shapes, steps: count(shapes))


def rows(number):
    """LSLR's step, where `number` gives the row of a tensor from all layers and its place."""

    def lslr_step(weights, gradients, rates, step):
        layers = layers_of(weights)
        return {
            name: w - rates[number(layers, layer_of(name), place), step] * gradients[name]
            for place, (name, w) in enumerate(weights.items())
        }

    return lslr_step


wrong(checks.lslr_step, "takes two tensors for a layer")(rows(lambda _, layer, place: place // 2))
wrong(checks.lslr_step, "a set has no order")(
    rows(lambda layers, layer, place: (layers.index(layer) + 1) % len(layers))
)


@wrong(checks.rate_gradient, "@ is a matrix product")
def multiplies_matrices(query, support):
    return -sum((query[name] @ support[name]).sum() for name in query)


@wrong(checks.rate_gradient, "one number is asked for")
def leaves_a_matrix(query, support):
    return -sum(query[name] * support[name] for name in query if name == "head.weight")
