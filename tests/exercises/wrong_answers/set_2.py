import math

import torch

from mamlpp import checks
from tests.exercises.wrong_answers import wrong


def gradients_of(loss, weights):
    return torch.autograd.grad(loss, list(weights.values()), retain_graph=True)


def norm(tensors):
    return math.sqrt(sum(tensor.square().sum().item() for tensor in tensors))


@wrong(checks.gradient_norms, "the square root is missing")
def forgets_the_root(loss, path):
    return [norm(gradients_of(loss, weights)) ** 2 for weights in path]


@wrong(checks.gradient_norms, "adds the norms of the single tensors")
def adds_norms(loss, path):
    return [sum(g.norm() for g in gradients_of(loss, weights)).item() for weights in path]


@wrong(checks.gradient_norms, "θ_0 first, θ_N last")
def goes_backwards(loss, path):
    return [norm(gradients_of(loss, weights)) for weights in path[::-1]]


@wrong(checks.gradient_norms, "θ_0 is missing")
def forgets_the_start(loss, path):
    return [norm(gradients_of(loss, weights)) for weights in path[1:]]


@wrong(checks.gradient_norms, "norm alone")
def gives_one(loss, path):
    return norm(gradients_of(loss, path[0]))


@wrong(checks.gradient_norms, "of the weights, not of the gradients")
def measures_weights(loss, path):
    return [norm(weights.values()) for weights in path]


@wrong(checks.gradient_norms, "first tensor of each")
def looks_at_one_tensor(loss, path):
    return [gradients_of(loss, weights)[0].norm().item() for weights in path]


@wrong(checks.gradient_norms, "thrown away by the first backward pass")
def frees_the_graph(loss, path):
    return [norm(torch.autograd.grad(loss, list(weights.values()))) for weights in path]


@wrong(checks.growth, "largest curvature alone")
def takes_the_largest(curvatures, rate, steps):
    return abs(1 - rate * max(curvatures)) ** steps


@wrong(checks.growth, "curvature of largest size alone")
def takes_the_largest_in_size(curvatures, rate, steps):
    return abs(1 - rate * max(curvatures, key=abs)) ** steps


@wrong(checks.growth, "take absolute values")
def forgets_absolute_values(curvatures, rate, steps):
    return max(1 - rate * curvature for curvature in curvatures) ** steps


@wrong(checks.growth, "the sign of αλ")
def adds(curvatures, rate, steps):
    return max(abs(1 + rate * curvature) for curvature in curvatures) ** steps


@wrong(checks.growth, "N steps multiply")
def multiplies_by_steps(curvatures, rate, steps):
    return max(abs(1 - rate * curvature) for curvature in curvatures) * steps


@wrong(checks.growth, "of a single step")
def forgets_the_steps(curvatures, rate, steps):
    return max(abs(1 - rate * curvature) for curvature in curvatures)


@wrong(checks.growth, "the rate is missing")
def forgets_the_rate(curvatures, rate, steps):
    return max(abs(1 - curvature) for curvature in curvatures) ** steps


def relative(x, exact):
    return ((x.double() - exact).norm() / exact.norm()).item()


@wrong(checks.digits, "the sign: an error")
def forgets_the_sign(x, exact):
    return math.log10(relative(x, exact))


@wrong(checks.digits, "natural logarithm")
def takes_ln(x, exact):
    return -math.log(relative(x, exact))


@wrong(checks.digits, "binary digits")
def takes_bits(x, exact):
    return -math.log2(relative(x, exact))


@wrong(checks.digits, "divide it by the norm")
def takes_the_absolute_error(x, exact):
    return -math.log10((x.double() - exact).norm())


@wrong(checks.digits, "doubles the digits")
def squares(x, exact):
    return -math.log10(relative(x, exact) ** 2)


@wrong(checks.digits, "compares in float32")
def rounds_first(x, exact):
    error = ((x - exact.float()).norm() / exact.norm()).item()
    return -math.log10(error) if error else math.inf


@wrong(checks.digits, "relative error itself")
def forgets_the_logarithm(x, exact):
    return relative(x, exact)


@wrong(checks.predicted_steps, "one step short")
def rounds_down(growth, bits=24):
    return int(bits * math.log(2) / math.log(growth))


@wrong(checks.predicted_steps, "steps are whole")
def does_not_round(growth, bits=24):
    return bits * math.log(2) / math.log(growth)


@wrong(checks.predicted_steps, "takes bits for decimal digits")
def takes_bits_for_digits(growth, bits=24):
    return math.ceil(bits / math.log10(growth))


@wrong(checks.predicted_steps, "different base")
def mixes_bases(growth, bits=24):
    return math.ceil(bits / math.log(growth))


@wrong(checks.predicted_steps, "not bits divided by the growth")
def divides(growth, bits=24):
    return math.ceil(bits / growth)


def agreement(gradient, steps):
    return -math.log10(relative(gradient(steps, torch.float32), gradient(steps, torch.float64)))


@wrong(checks.first_lost, "the place in the list")
def gives_the_place(gradient, depths, least):
    return next((i for i, n in enumerate(depths) if agreement(gradient, n) < least), 0)


@wrong(checks.first_lost, "the last N that is still good")
def gives_the_last_good(gradient, depths, least):
    good = 0
    for steps in depths:
        if agreement(gradient, steps) < least:
            return good
        good = steps
    return 0


@wrong(checks.first_lost, "the last bad N")
def does_not_stop(gradient, depths, least):
    lost = 0
    for steps in depths:
        if agreement(gradient, steps) < least:
            lost = steps
    return lost


@wrong(checks.first_lost, "the other way round")
def gives_the_first_good(gradient, depths, least):
    return next((n for n in depths if agreement(gradient, n) > least), 0)


@wrong(checks.first_lost, "from which all later ones are bad")
def searches_from_the_end(gradient, depths, least):
    lost = 0
    for steps in list(depths)[::-1]:
        if agreement(gradient, steps) >= least:
            return lost
        lost = steps
    return lost


@wrong(checks.first_lost, "it finds nothing")
def compares_twice_the_same(gradient, depths, least):
    same = [(gradient(n, torch.float64) - gradient(n, torch.float64)).norm() for n in depths]
    return next((n for n, error in zip(depths, same, strict=True) if error > 0), 0)


@wrong(checks.first_lost, "so the answer is 0")
def gives_the_end_if_none(gradient, depths, least):
    return next((n for n in depths if agreement(gradient, n) < least), depths[-1])
