import math

import torch

from mamlpp import checks
from tests.exercises.wrong_answers import all_wrong, wrong


def gradients_of(loss, weights, create_graph=True):
    found = torch.autograd.grad(loss, list(weights.values()), create_graph=create_graph)
    return dict(zip(weights, found, strict=True))


def norm(gradients):
    return torch.sqrt(sum(g.square().sum() for g in gradients.values()))


def leashed(factor, change=lambda w, g, rate: w - rate * g, **options):
    """A step along the gradients times `factor(their dict, the limit)`."""

    def clipped_step(loss, weights, rate, limit):
        gradients = gradients_of(loss, weights, **options)
        share = factor(gradients, limit)
        return {name: change(w, share * gradients[name], rate) for name, w in weights.items()}

    return clipped_step


def right_factor(gradients, limit):
    return torch.clamp(limit / norm(gradients), max=1)


def by_size(size):
    return leashed(lambda gradients, limit: torch.clamp(limit / size(gradients), max=1))


@wrong(checks.clipped_step, "the length of the gradient entered as a constant")
def decides_by_a_number(loss, weights, rate, limit):
    gradients = gradients_of(loss, weights)
    length = norm(gradients).item()
    if length > limit:
        gradients = {name: g * limit / length for name, g in gradients.items()}
    return {name: w - rate * gradients[name] for name, w in weights.items()}


@wrong(checks.clipped_step, "it shortens each tensor on its own")
def clips_each_tensor(loss, weights, rate, limit):
    gradients = gradients_of(loss, weights)
    return {
        name: w - rate * gradients[name] * torch.clamp(limit / gradients[name].norm(), max=1)
        for name, w in weights.items()
    }


@wrong(checks.clipped_step, "it clips each number on its own")
def clips_each_number(loss, weights, rate, limit):
    gradients = gradients_of(loss, weights)
    return {name: w - rate * gradients[name].clip(-limit, limit) for name, w in weights.items()}


@wrong(checks.clipped_step, "it measures the weights")
def measures_the_weights(loss, weights, rate, limit):
    factor = torch.clamp(limit / norm(weights), max=1)
    return leashed(lambda gradients, limit: factor)(loss, weights, rate, limit)


@wrong(checks.clipped_step, "it limits rate · gradient")
def limits_the_whole_step(loss, weights, rate, limit):
    changes = {name: rate * g for name, g in gradients_of(loss, weights).items()}
    factor = torch.clamp(limit / norm(changes), max=1)
    return {name: w - factor * changes[name] for name, w in weights.items()}


@wrong(checks.clipped_step, "it is not always 1")
def takes_a_limit_of_one(loss, weights, rate, limit):
    return leashed(right_factor)(loss, weights, rate, 1)


@wrong(checks.clipped_step, "it returns a list")
def gives_a_list(*inputs):
    return list(leashed(right_factor)(*inputs).values())


@wrong(checks.clipped_step, "changed what it was given")
def writes_into_the_weights(loss, weights, rate, limit):
    for name, w in leashed(right_factor)(loss, weights, rate, limit).items():
        weights[name] = w
    return weights


@wrong(checks.clipped_step, "freed the graph")
def asks_one_by_one(loss, weights, rate, limit):
    gradients = {name: torch.autograd.grad(loss, w)[0] for name, w in weights.items()}
    factor = right_factor(gradients, limit)
    return {name: w - rate * factor * gradients[name] for name, w in weights.items()}


@wrong(checks.clipped_step, "the outer loop needs")
def clips_in_place(loss, weights, rate, limit):
    loss.backward()
    torch.nn.utils.clip_grad_norm_(weights.values(), limit)
    return {name: w - rate * w.grad for name, w in weights.items()}


all_wrong(
    checks.clipped_step,
    {
        "the length of the gradient entered as a constant": leashed(
            lambda gradients, limit: right_factor(gradients, limit).detach()
        ),
        "the outer loop needs": leashed(right_factor, create_graph=False),
        "the old weight enters the step as a constant": leashed(
            right_factor, lambda w, g, rate: w.detach() - rate * g
        ),
        "the new weights are cut off": leashed(
            right_factor, lambda w, g, rate: (w - rate * g).detach().requires_grad_()
        ),
        "a short gradient is made longer": leashed(lambda g, limit: limit / norm(g)),
        "it lengthens short gradients": leashed(lambda g, limit: max(1.0, limit / norm(g))),
        "the gradient is never shortened": leashed(lambda g, limit: 1),
        "a long gradient is dropped": leashed(lambda g, limit: 0 if norm(g) > limit else 1),
        "it adds the lengths of the single tensors": by_size(
            lambda gradients: sum(g.norm() for g in gradients.values())
        ),
        "the longest of the single tensors": by_size(
            lambda gradients: max(g.norm() for g in gradients.values())
        ),
        "the first tensor alone": by_size(lambda gradients: gradients["body.weight"].norm()),
        "the last tensor alone": by_size(lambda gradients: gradients["head.bias"].norm()),
        "the square root is missing": by_size(lambda gradients: norm(gradients) ** 2),
        "absolute values (the 1-norm)": by_size(
            lambda gradients: sum(g.abs().sum() for g in gradients.values())
        ),
        "the largest number of the gradient": by_size(
            lambda gradients: max(g.abs().max() for g in gradients.values())
        ),
        "the root of the mean of the squares": by_size(
            lambda gradients: (
                torch.cat([g.flatten() for g in gradients.values()]).square().mean().sqrt()
            )
        ),
        "goes up the loss": leashed(right_factor, lambda w, g, rate: w + rate * g),
        "multiply the gradient by the rate": leashed(right_factor, lambda w, g, rate: w - g),
        "it returns the gradients": leashed(right_factor, lambda w, g, rate: g),
    },
)


@wrong(checks.growth, "largest curvature alone")
def takes_the_largest(curvatures, rate, steps):
    return abs(1 - rate * max(curvatures)) ** steps


@wrong(checks.growth, "curvature of largest size alone")
def takes_the_largest_in_size(curvatures, rate, steps):
    return abs(1 - rate * max(curvatures, key=abs)) ** steps


@wrong(checks.growth, "take absolute values")
def forgets_absolute_values(curvatures, rate, steps):
    return max(1 - rate * curvature for curvature in curvatures) ** steps


@wrong(checks.growth, "check the sign of αλ")
def adds(curvatures, rate, steps):
    return max(abs(1 + rate * curvature) for curvature in curvatures) ** steps


@wrong(checks.growth, "do not multiply it by N")
def multiplies_by_steps(curvatures, rate, steps):
    return max(abs(1 - rate * curvature) for curvature in curvatures) * steps


@wrong(checks.growth, "over a single step")
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


@wrong(checks.digits, "the error is absolute")
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


@wrong(checks.predicted_steps, "the two logarithms differ in their base")
def mixes_bases(growth, bits=24):
    return math.ceil(bits / math.log(growth))


@wrong(checks.predicted_steps, "not bits divided by the growth")
def divides(growth, bits=24):
    return math.ceil(bits / growth)


def agreement(gradient, steps):
    return -math.log10(relative(gradient(steps, torch.float32), gradient(steps, torch.float64)))


@wrong(checks.first_lost, "the place in the list")
def gives_the_place(gradient, depths, min_digits):
    return next((i for i, n in enumerate(depths) if agreement(gradient, n) < min_digits), 0)


@wrong(checks.first_lost, "the last N that is still good")
def gives_the_last_good(gradient, depths, min_digits):
    good = 0
    for steps in depths:
        if agreement(gradient, steps) < min_digits:
            return good
        good = steps
    return 0


@wrong(checks.first_lost, "the last bad N")
def does_not_stop(gradient, depths, min_digits):
    lost = 0
    for steps in depths:
        if agreement(gradient, steps) < min_digits:
            lost = steps
    return lost


@wrong(checks.first_lost, "the other way round")
def gives_the_first_good(gradient, depths, min_digits):
    return next((n for n in depths if agreement(gradient, n) > min_digits), 0)


@wrong(checks.first_lost, "from which all later ones are bad")
def searches_from_the_end(gradient, depths, min_digits):
    lost = 0
    for steps in list(depths)[::-1]:
        if agreement(gradient, steps) >= min_digits:
            return lost
        lost = steps
    return lost


@wrong(checks.first_lost, "it never finds a bad depth")
def compares_twice_the_same(gradient, depths, min_digits):
    same = [(gradient(n, torch.float64) - gradient(n, torch.float64)).norm() for n in depths]
    return next((n for n, error in zip(depths, same, strict=True) if error > 0), 0)


@wrong(checks.first_lost, "the answer is 0")
def gives_the_end_if_none(gradient, depths, min_digits):
    return next((n for n in depths if agreement(gradient, n) < min_digits), depths[-1])


def grown(combine):
    return lambda curvatures, rate, steps: combine([abs(1 - rate * c) for c in curvatures], steps)


all_wrong(
    checks.growth,
    {
        "it never goes below 1": grown(lambda sizes, n: max(1, *sizes) ** n),
        "the power is one too low": grown(lambda sizes, n: max(sizes) ** (n - 1)),
        "the power is one too high": grown(lambda sizes, n: max(sizes) ** (n + 1)),
        "the direction that shrinks the most": grown(lambda sizes, n: min(sizes) ** n),
        "smallest curvature alone": lambda cs, rate, n: abs(1 - rate * min(cs)) ** n,
        "first curvature alone": lambda cs, rate, n: abs(1 - rate * cs[0]) ** n,
        "not |αλ|": lambda cs, rate, n: max(abs(rate * c) for c in cs) ** n,
        "adds up all directions": grown(lambda sizes, n: sum(size**n for size in sizes)),
        "multiplies the directions": grown(lambda sizes, n: math.prod(sizes) ** n),
    },
)

all_wrong(
    checks.digits,
    {
        "the error is relative to x": lambda x, exact: (
            -math.log10((x.double() - exact).norm() / x.double().norm())
        ),
        "rounds to whole digits": lambda x, exact: int(-math.log10(relative(x, exact)) // 1),
        "the largest relative error": lambda x, exact: (
            -math.log10(((x.double() - exact) / exact).abs().max())
        ),
        "averages the digits": lambda x, exact: (
            -torch.log10(((x.double() - exact) / exact).abs()).mean().item()
        ),
        "divides the 1-norms": lambda x, exact: (
            -math.log10((x.double() - exact).abs().sum() / exact.abs().sum())
        ),
    },
)


def ratio(growth, bits):
    return bits * math.log(2) / math.log(growth)


all_wrong(
    checks.predicted_steps,
    {
        "rounding down and adding 1": lambda growth, bits: int(ratio(growth, bits)) + 1,
        "nearest whole number": lambda growth, bits: round(ratio(growth, bits)),
        "upside down": lambda growth, bits: math.ceil(1 / ratio(growth, bits)),
        "it multiplies the logarithms": lambda growth, bits: math.ceil(bits * math.log2(growth)),
        "not always that for 24": lambda growth, bits: math.ceil(ratio(growth, 24)),
        "not always that for 3": lambda growth, bits: math.ceil(ratio(3, bits)),
    },
)


def returns_inside(gradient, depths, min_digits):
    for steps in depths:
        return steps if agreement(gradient, steps) < min_digits else 0


all_wrong(
    checks.first_lost,
    {
        "it stops after the first depth": returns_inside,
        "it sorts the depths": lambda gradient, depths, least: next(
            (n for n in sorted(depths) if agreement(gradient, n) < least), 0
        ),
        "returns all bad depths": lambda gradient, depths, least: [
            n for n in depths if agreement(gradient, n) < least
        ],
        "compare by <, not by <=": lambda gradient, depths, least: next(
            (n for n in depths if agreement(gradient, n) <= least), 0
        ),
        "it returns True or False": lambda gradient, depths, least: any(
            agreement(gradient, n) < least for n in depths
        ),
        "it ignores the minimum": lambda gradient, depths, least: next(
            (n for n in depths if agreement(gradient, n) < 3), 0
        ),
    },
)


def ratios(x, exact):
    return (x.double() - exact) / exact


all_wrong(
    checks.digits,
    {
        "divides number by number and takes the norm": lambda x, exact: (
            -math.log10(ratios(x, exact).norm())
        ),
        "compares the lengths of the two tensors": lambda x, exact: (
            -math.log10((x.double().norm() - exact.norm()).abs() / exact.norm())
        ),
        "in which they cancel": lambda x, exact: (
            -math.log10((x.double() - exact).mean().abs() / exact.norm())
        ),
        "it rounds to three decimals": lambda x, exact: (
            -round(math.log10((x.double() - exact).norm() / exact.norm()), 3)
        ),
    },
)

all_wrong(
    checks.predicted_steps,
    {
        "too small by 1": lambda growth, bits: math.ceil(bits / math.log2(growth) - 1e-9) - 1,
        "the same answer to every call": lambda growth, bits: 16,
        "returned None": lambda growth, bits: print(math.ceil(bits / math.log2(growth))),
    },
)

all_wrong(
    checks.growth,
    {
        "smallest curvature alone": lambda curvatures, rate, steps: (
            abs(max(1 - rate * c for c in curvatures)) ** steps
        )
    },
)


def adds_up(loss, path):
    norms, total = [], 0.0
    for weights in path:
        total += norm(gradients_of(loss, weights))
        norms.append(total)
    return norms


def returns_in_the_loop(loss, path):
    for weights in path:
        return [norm(gradients_of(loss, weights))]


all_wrong(
    checks.growth,
    {
        "it squares the factor": grown(lambda sizes, n: max(s**2 for s in sizes) ** n),
        "it averages the directions": grown(lambda sizes, n: (sum(sizes) / len(sizes)) ** n),
        "of 1 − αλ, not of λ": lambda cs, rate, n: max(1 - rate * abs(c) for c in cs) ** n,
        "multiplies a list or a tuple": lambda cs, rate, n: abs(1 - rate * cs) ** n,
        "changed what it was given": lambda cs, rate, n: cs.sort() or abs(1 - rate * cs[0]) ** n,
    },
)
all_wrong(
    checks.digits,
    {
        "it stops at 0": lambda x, exact: max(0, -math.log10(relative(x, exact))),
        "not one for each entry": lambda x, exact: -((x.double() - exact) / exact).abs().log10(),
        "too large by 1": lambda x, exact: 1 - math.log10(relative(x, exact)),
        "a logarithm, or a root, of a number that has none": lambda x, exact: (
            -math.log10(((x.double() - exact) / exact).min())
        ),
    },
)


def counts_until(growth, bits):
    n = 0
    while growth**n <= 2**bits:
        n += 1
    return n


all_wrong(
    checks.predicted_steps,
    {
        "it counts one bit less": lambda growth, bits: math.ceil(ratio(growth, bits - 1)),
        "too large by 1": lambda growth, bits: math.ceil(ratio(growth, bits) - 1e-9) + 1,
        "too large by 0.5": lambda growth, bits: math.ceil(ratio(growth, bits) - 1e-9) + 0.5,
    },
)
wrong(checks.predicted_steps, "rounding down and adding 1")(counts_until)
all_wrong(
    checks.first_lost,
    {
        "rounds the digits before": lambda gradient, depths, least: next(
            (n for n in depths if round(agreement(gradient, n)) < least), 0
        ),
        "the two gradients are swapped": lambda gradient, depths, least: next(
            (n for n in depths if swapped_agreement(gradient, n) < least), 0
        ),
        "return 0 and not −1": lambda gradient, depths, least: next(
            (n for n in depths if agreement(gradient, n) < least), -1
        ),
    },
)


def swapped_agreement(gradient, steps):
    exact, x = gradient(steps, torch.float64), gradient(steps, torch.float32).double()
    return -math.log10((x - exact).norm() / x.norm())


@wrong(checks.first_lost, "it reads beyond the last entry")
def takes_the_first_of_all(gradient, depths, min_digits):
    lost = [n for n in depths if agreement(gradient, n) < min_digits]
    return lost[0]


def sizes(loss, path):
    gradients = [torch.autograd.grad(loss, list(w.values()), retain_graph=True) for w in path]
    return [math.sqrt(sum(g.square().sum().item() for g in parts)) for parts in gradients]


all_wrong(
    checks.growth,
    {
        "belongs to the factor": lambda curvatures, rate, steps: (
            max(abs(1 - rate * abs(c)) for c in curvatures) ** steps
        ),
        "do not divide by it": lambda curvatures, rate, steps: (
            max(abs(1 - c / rate) for c in curvatures) ** steps
        ),
        "right for": lambda curvatures, rate, steps: (
            max(abs(1 - rate * c) for c in sorted(curvatures)[1:] or curvatures) ** steps
        ),
    },
)
all_wrong(
    checks.digits,
    {
        "a root of a mean by a norm": lambda x, exact: (
            -math.log10((x.double() - exact).pow(2).mean().sqrt() / exact.norm())
        ),
        "the largest error with the largest number": lambda x, exact: (
            -math.log10((x.double() - exact).abs().max() / exact.abs().max())
        ),
        "averages the relative errors": lambda x, exact: (
            -math.log10(((x.double() - exact) / exact).abs().mean())
        ),
        "it rounds the result": lambda x, exact: round(
            -math.log10((x.double() - exact).norm() / exact.norm()), 1
        ),
    },
)
all_wrong(
    checks.predicted_steps,
    {
        "its logarithm is bits": lambda growth, bits=24: math.ceil(math.log(bits, growth)),
        "it is no quotient": lambda growth, bits=24: math.ceil(2**bits / growth),
        "how far `bits` steps get": lambda growth, bits=24: math.ceil(growth**bits),
    },
)


all_wrong(
    checks.first_lost,
    {
        "the N with the fewest digits": lambda gradient, depths, minimum: min(
            depths, key=lambda n: agreement(gradient, n)
        ),
        "it counts the bad depths": lambda gradient, depths, minimum: sum(
            agreement(gradient, n) < minimum for n in depths
        ),
        "int() cuts the digits": lambda gradient, depths, minimum: next(
            (n for n in depths if int(agreement(gradient, n)) < minimum), 0
        ),
    },
)
