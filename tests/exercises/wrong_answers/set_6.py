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


def meta_sgd(weights, gradients, rates, change):
    return {name: weights[name] - change(rates[name]) * gradients[name] for name in weights}


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


def sgd(change):
    return lambda weights, gradients, rates: {
        name: change(w, rates[name], gradients[name]) for name, w in weights.items()
    }


def long(gradients, query):
    return torch.cat([gradients[name].flatten() for name in query])


def from_vectors(formula):
    return lambda query, support: formula(long(query, query), long(support, query)).item()


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


def last_counted(step_weights):
    return max(step for step, v in enumerate(step_weights) if v > 0)


def before(last):
    return lambda v: [step < last(v) for step in range(len(v))]


right_steps = before(lambda v: last_counted(v) + 1)

all_wrong(
    checks.steps_that_learn,
    {
        "from every later loss too": lambda v: [weight > 0 for weight in v],
        "after the last loss that counts": lambda v: [True] * len(v),
        "one step too few": before(last_counted),
        "one step too many": before(lambda v: last_counted(v) + 2),
        "it stops at the first loss": before(
            lambda v: next(step for step, weight in enumerate(v) if weight > 0) + 1
        ),
        "every loss comes after it": lambda v: [False, *right_steps(v)[1:]],
        "the last step learns only if": lambda v: [*right_steps(v)[:-1], True],
        "from the first loss on": lambda v: [sum(v[: step + 1]) > 0 for step in range(len(v))],
        "True stands for a rate that learns": lambda v: [not x for x in right_steps(v)],
        "the last step alone": lambda v: [step == len(v) - 1 for step in range(len(v))],
        "the step of the last loss": lambda v: [step == last_counted(v) for step in range(len(v))],
        "a small weight is a weight": lambda v: right_steps([round(x, 2) for x in v]),
        "it returns 0 or 1": lambda v: [int(x) for x in right_steps(v)],
        "it returns how many learn": lambda v: sum(right_steps(v)),
        "it returns the steps that learn": lambda v: list(range(last_counted(v) + 1)),
    },
)


def rates_of(rate, row=lambda layers, layer, place: layers.index(layer), fit=None):
    """Rates of all weights; `rate` picks one, `row` finds its row, `fit` gives it its shape."""

    def spread(weights, rates, step):
        layers = layers_of(weights)
        fitted = fit or (lambda number, weight: number.expand_as(weight))
        return {
            name: fitted(rate(rates, row(layers, layer_of(name), place), step), weight)
            for place, (name, weight) in enumerate(weights.items())
        }

    return spread


def picked(rates, layer, step):
    return rates[layer, step]


all_wrong(
    checks.spread,
    {
        "yours reads rates[step, layer]": rates_of(lambda r, layer, step: r[step, layer]),
        "the rates of step 0": rates_of(lambda r, layer, step: r[layer, 0]),
        "the rates of the last step": rates_of(lambda r, layer, step: r[layer, -1]),
        "the rates of the step before": rates_of(lambda r, layer, step: r[layer, step - 1]),
        "the rates of the step after": rates_of(lambda r, layer, step: r[layer, step + 1]),
        "it averages the rates": rates_of(lambda r, layer, step: r[layer].mean()),
        "the first layer's rate for all": rates_of(lambda r, layer, step: r[0, step]),
        "it counts tensors": rates_of(picked, lambda layers, layer, place: place),
        "it takes two tensors for a layer": rates_of(
            picked, lambda layers, layer, place: place // 2
        ),
        "it sorts the layers": rates_of(
            picked, lambda layers, layer, place: sorted(layers).index(layer)
        ),
        "a set has no order": rates_of(
            picked, lambda layers, layer, place: (layers.index(layer) + 1) % len(layers)
        ),
        "one number for each tensor": rates_of(picked, fit=lambda rate, weight: rate),
        "each weight is multiplied": rates_of(picked, fit=lambda rate, weight: rate * weight),
        "so that no gradient reaches them": rates_of(
            picked, fit=lambda rate, weight: torch.full_like(weight, rate.item())
        ),
        "it returns a list": lambda *inputs: list(rates_of(picked)(*inputs).values()),
        "the dtype is not that of the inputs": rates_of(
            picked, fit=lambda rate, weight: rate.float().expand_as(weight)
        ),
    },
)


def inner(a, b):
    return sum((a[name] * b[name]).sum() for name in a).item()


def searched(rate, otherwise=math.inf):
    """The rate of a parabola that opens upwards."""
    return lambda query, support, curved: (
        rate(query, support, curved) if inner(support, curved) > 0 else otherwise
    )


def first_alone(*gradients):
    first = next(iter(gradients[0]))
    query, support, curved = ({first: part[first]} for part in gradients)
    return (
        inner(query, support) / inner(support, curved) if inner(support, curved) > 0 else math.inf
    )


all_wrong(
    checks.best_rate,
    {
        "or is a line": lambda q, g, b: inner(q, g) / inner(g, b),
        "math.inf is asked for, not 0": searched(lambda q, g, b: inner(q, g) / inner(g, b), 0.0),
        "the sign: the slope": searched(lambda q, g, b: -inner(q, g) / inner(g, b)),
        "it is upside down": searched(lambda q, g, b: inner(g, b) / inner(q, g)),
        "a 2 too many": searched(lambda q, g, b: inner(q, g) / inner(g, b) / 2),
        "a 2 too few": searched(lambda q, g, b: 2 * inner(q, g) / inner(g, b)),
        "not along the query gradient": searched(lambda q, g, b: inner(q, q) / inner(g, b)),
        "the query gradient is missing": searched(lambda q, g, b: inner(g, g) / inner(g, b)),
        "not ⟨query, curved⟩": searched(lambda q, g, b: inner(q, g) / inner(q, b)),
        "not its square": searched(lambda q, g, b: inner(q, g) / inner(b, b)),
        "the curvature is missing": searched(lambda q, g, b: inner(q, g)),
        "so add up first": searched(
            lambda q, g, b: sum((q[n] * g[n] / (g[n] * b[n])).sum() for n in q).item()
        ),
        "@ is a matrix product": lambda q, g, b: sum((q[n] @ g[n]).sum() for n in q),
        "it divides lengths": searched(
            lambda q, g, b: math.sqrt(inner(q, q)) / math.sqrt(inner(b, b))
        ),
        "the first tensor alone": first_alone,
    },
)


def counted(shapes, steps):
    """The right numbers, LSLR's and Meta-SGD's."""
    layers = {name.rpartition(".")[0] for name in shapes}
    return len(layers) * steps, sum(math.prod(shape) for shape in shapes.values())


all_wrong(
    checks.numbers_learned,
    {
        "both count tensors": lambda shapes, n: (counted(shapes, n)[0], len(shapes) * n),
        "not only for the first": lambda shapes, n: (
            counted(shapes, n)[0],
            math.prod(next(iter(shapes.values()))),
        ),
        "they are not added to them": lambda shapes, n: (
            counted(shapes, n)[0],
            sum(counted(shapes, n)),
        ),
        "yours has N − 1": lambda shapes, n: (counted(shapes, n - 1)[0], counted(shapes, n)[1]),
    },
)
all_wrong(
    checks.steps_that_learn,
    {
        "it stops at the largest weight": lambda v: [i <= v.index(max(v)) for i in range(len(v))],
        "it should give True or False, not a number": lambda v: [sum(v[i:]) for i in range(len(v))],
        "it should give a list, not True or False": lambda v: any(x > 0 for x in v),
    },
)


def row_of(weights, name):
    layers = list(dict.fromkeys(each.rpartition(".")[0] for each in weights))
    return layers.index(name.rpartition(".")[0])


all_wrong(
    checks.spread,
    {
        "it gives each layer's rates of all steps": lambda weights, rates, step: {
            name: rates[row_of(weights, name)] for name in weights
        },
        "but not its shape": lambda weights, rates, step: {
            name: rates[row_of(weights, name), step].repeat(weight.numel())
            for name, weight in weights.items()
        },
        "the names are not those": lambda weights, rates, step: {
            name.rpartition(".")[0]: rates[row_of(weights, name), step] for name in weights
        },
    },
)


def products(query, support, curved):
    pairs = ((query, support), (support, curved))
    return [sum((one[n] * other[n]).sum().item() for n in query) for one, other in pairs]


def rate_or(otherwise, change=float):
    def best_rate(query, support, curved):
        slope, bend = products(query, support, curved)
        return change(slope / bend) if bend > 0 else otherwise

    return best_rate


all_wrong(
    checks.best_rate,
    {
        "no abs()": rate_or(math.inf, abs),
        "do not stop at 0": rate_or(math.inf, lambda rate: max(rate, 0.0)),
        "not nan": rate_or(math.nan),
        "does every way through it end": rate_or(None),
    },
)


def both(layers, weights=lambda shapes: sum(map(math.prod, shapes.values()))):
    return lambda shapes, steps: (layers(shapes, steps), weights(shapes))


all_wrong(
    checks.numbers_learned,
    {
        "take away single letters": both(
            lambda s, n: n * len({name.rstrip(".weight").rstrip(".bias") for name in s})
        ),
        "cuts off seven letters": both(lambda s, n: n * len({name[:-7] for name in s})),
        "the words after the last dot": both(
            lambda s, n: n * len({name.split(".")[-1] for name in s})
        ),
        "to the power of steps": both(lambda s, n: len(layers_of(s)) ** n),
        "yours counts dimensions": both(
            lambda s, n: n * len(layers_of(s)), lambda s: sum(map(len, s.values()))
        ),
        "the first dimension alone": both(
            lambda s, n: n * len(layers_of(s)), lambda s: sum(shape[0] for shape in s.values())
        ),
    },
)
all_wrong(
    checks.steps_that_learn,
    {
        "it counts the weights above 0": lambda v: [
            i < len([x for x in v if x > 0]) for i in range(len(v))
        ],
        "not from those before": lambda v: [sum(v[:i]) > 0 for i in range(len(v))],
        "the next alone": lambda v: [sum(v[i : i + 2]) > 0 for i in range(len(v))],
        "looks at the last weight alone": lambda v: [v[-1] > 0] * len(v),
    },
)
all_wrong(
    checks.spread,
    {
        "adds up the rates": lambda weights, rates, step: {
            name: rates[layers_of(weights).index(name.rpartition(".")[0]), : step + 1]
            .sum()
            .expand_as(weight)
            for name, weight in weights.items()
        },
        "the signs are lost": lambda weights, rates, step: {
            name: rates[layers_of(weights).index(name.rpartition(".")[0]), step]
            .abs()
            .expand_as(weight)
            for name, weight in weights.items()
        },
    },
)


def product(one, other):
    return sum((one[name] * other[name]).sum().item() for name in one)


all_wrong(
    checks.best_rate,
    {
        "do not take its absolute value": lambda query, support, curved: (
            product(query, support) / abs(product(support, curved))
        ),
        "not the slope": lambda query, support, curved: (
            product(query, support) / product(support, curved)
            if product(query, support) > 0
            else math.inf
        ),
        "small tensors count more": lambda query, support, curved: (
            sum((query[n] * support[n]).mean().item() for n in query)
            / sum((support[n] * curved[n]).mean().item() for n in query)
        ),
    },
)
