import math
from functools import cache

import torch
import torch.nn.functional as F

from mamlpp import checks
from mamlpp.checks.set_8_bug_hunt import BUGS
from tests.exercises.wrong_answers import all_wrong, wrong


@cache
def part(check, number):
    """One part of the three that exercise 8.`number` asks for, as a check of its own."""

    def bug(answer):
        check(number, answer)

    bug.__name__ = f"bug_{number}_{check.__name__}"
    return bug


def found(number):
    return part(checks.found, number)


def shown(number):
    return part(checks.shown, number)


def fixed(number):
    return part(checks.fixed, number)


GUESSES = {
    1: ("wrong sign", "uncounted step", "alias"),
    2: ("flat schedule", "shared seed", "alias"),
    3: ("unread setting", "transductive", "shared seed"),
    4: ("flat schedule", "iteration for epoch", "uncounted step"),
    5: ("early jump", "flat schedule", "wrong sign"),
    6: ("shared seed", "transductive", "uncounted step"),
    7: ("alias", "unread setting", "deviation over hits"),
    8: ("transductive", "wrong sign", "shared seed"),
}


def shows(number):
    """Arguments for which program `number` is wrong."""
    return {
        1: lambda: (lambda t: (3 / 2 * t**2).sum(), torch.ones(2, requires_grad=True), 0.1, 2),
        2: lambda: ({"task_rate": 0.01},),
        3: lambda: ({"mean": torch.ones(3)}, lambda s: s["mean"].add_(5).sum().item()),
        4: lambda: (5, 10, 0.02, 10),
        5: lambda: (4, 10, 50, 49),
        6: lambda: (10, 10, torch.Generator().manual_seed(0)),
        7: lambda: (torch.arange(24.0).view(3, 2, 2, 2), torch.zeros(2), torch.ones(2)),
        8: lambda: (torch.tensor([[1.0] * 4, [0.0] * 4]),),
    }[number]()


def shows_nothing(number):
    """Arguments for which program `number` does what it should."""
    return {
        1: lambda: (lambda t: 3 * t.sum(), torch.ones(2, requires_grad=True), 0.1, 2),
        2: lambda: ({"inner_rate": 0.01},),
        3: lambda: ({"mean": torch.ones(3)}, lambda s: s["mean"].sum().item()),
        4: lambda: (5, 10, 0.02, 9),
        5: lambda: (4, 10, 50, 0),
        6: lambda: (10, 1, torch.Generator().manual_seed(0)),
        7: lambda: (torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1), torch.zeros(1), torch.ones(1)),
        8: lambda: (torch.tensor([[1.0], [0.0]]),),
    }[number]()


for _number, _kinds in GUESSES.items():
    for _kind in _kinds:

        def guesses(kind=_kind, number=_number):
            return kind, shows(number)

        wrong(found(_number), f"it is not '{_kind}'")(guesses)

    def shows_no_difference(number=_number):
        return BUGS[number].kind, shows_nothing(number)

    def gives_no_tuple(number=_number):
        return BUGS[number].kind, shows(number)[0]

    def gives_too_few(number=_number):
        return BUGS[number].kind, ()

    wrong(found(_number), "does what it should")(shows_no_difference)
    wrong(found(_number), "the arguments are a tuple")(gives_no_tuple)
    wrong(found(_number), ", not 0")(gives_too_few)
    wrong(found(_number), "'typo' is not in the list")(lambda: ("typo", ()))
    wrong(found(_number), "did you mean 'first order'")(lambda: ("first_order", ()))
    wrong(found(_number), "as a string, not a list")(lambda: (["alias"], ()))
    wrong(found(_number), "return two things")(lambda: "alias")


@wrong(shown(1), "differentiate the result")
def looks_at_the_value(program):
    theta = torch.tensor([1.0], requires_grad=True)
    assert torch.allclose(program(lambda t: (t**2).sum(), theta, 0.1, 1), torch.tensor([0.8]))


@wrong(fixed(1), "still that of first order")
def retains_the_graph(loss, theta, rate, steps):
    for _ in range(steps):
        [gradient] = torch.autograd.grad(loss(theta), theta, retain_graph=True)
        theta = theta - rate * gradient
    return theta


@wrong(fixed(1), "has no graph back to θ")
def detaches(loss, theta, rate, steps):
    for _ in range(steps):
        [gradient] = torch.autograd.grad(loss(theta), theta, create_graph=True)
        theta = (theta - rate * gradient).detach().requires_grad_()
    return theta


@wrong(fixed(1), "not the first one again")
def keeps_one_gradient(loss, theta, rate, steps):
    [gradient] = torch.autograd.grad(loss(theta), theta, create_graph=True)
    return theta - steps * rate * gradient


DEFAULTS = {"inner_steps": 5, "inner_rate": 0.1, "outer_rate": 0.001}


@wrong(shown(2), "give it a name that it does not know")
def gives_what_is_known(program):
    assert program({"inner_rate": 0.5})["inner_rate"] == 0.5


@wrong(shown(2), "stopped: ValueError")
def does_not_catch(program):
    assert program({"task_rate": 0.5})


@wrong(fixed(2), "gets into the settings")
def takes_everything(config):
    return DEFAULTS | config


@wrong(fixed(2), "refuse only those that are unknown")
def wants_everything(config):
    if set(config) != set(DEFAULTS):
        raise ValueError(f"{list(config)} are not {list(DEFAULTS)}")
    return dict(config)


@wrong(fixed(2), "should name the setting")
def names_nothing(config):
    if set(config) - set(DEFAULTS):
        raise ValueError("what is this?")
    return DEFAULTS | config


def restored(statistics, evaluate, backup):
    result = evaluate(statistics)
    for name, tensor in backup.items():
        statistics[name].copy_(tensor)
    return result


@wrong(shown(3), "let `evaluate` change the tensors in place")
def changes_nothing(program):
    statistics = {"mean": torch.ones(3)}
    program(statistics, lambda s: s["mean"].sum())
    assert torch.equal(statistics["mean"], torch.ones(3))


@wrong(shown(3), "let `evaluate` change the tensors in place")
def compares_with_an_alias(program):
    statistics = {"mean": torch.ones(3)}
    before = statistics["mean"]
    program(statistics, lambda s: s["mean"].add_(1))
    assert torch.equal(statistics["mean"], before)


@wrong(fixed(3), "holds the same tensors")
def copies_the_dict(statistics, evaluate):
    return restored(statistics, evaluate, dict(statistics))


@wrong(fixed(3), "the result of the evaluation is lost")
def loses_the_result(statistics, evaluate):
    restored(statistics, evaluate, {name: t.clone() for name, t in statistics.items()})
    return 0.0


@wrong(fixed(3), "see the statistics as they are")
def evaluates_zeros(statistics, evaluate):
    return evaluate({name: torch.zeros_like(t) for name, t in statistics.items()})


def to_floor(n, e, floor, epoch, bound=1.0):
    other = 1 / n + min(epoch / e, bound) * (floor - 1 / n)
    return [other] * (n - 1) + [1 - (n - 1) * other]


@wrong(shown(4), "with a floor above 0")
def tests_without_a_floor(program):
    assert program(5, 10, 0.0, 12)[-1] == 1


@wrong(fixed(4), "it still jumps")
def still_jumps(n, e, floor, epoch):
    return [0.0] * (n - 1) + [1.0] if epoch >= e else to_floor(n, e, floor, epoch)


@wrong(fixed(4), "just after epoch E")
def jumps_later(n, e, floor, epoch):
    return [0.0] * (n - 1) + [1.0] if epoch > e else to_floor(n, e, floor, epoch)


@wrong(fixed(4), "below the floor")
def falls_on(n, e, floor, epoch):
    return to_floor(n, e, floor, epoch, bound=math.inf)


@wrong(fixed(4), "the last must take the rest")
def keeps_the_one(n, e, floor, epoch):
    return [floor] * (n - 1) + [1.0] if epoch >= e else to_floor(n, e, floor, epoch)


def fallen(steps, msl_epochs, epoch):
    other = max(1 / steps - epoch / (steps * msl_epochs), 0.0)
    return [other] * (steps - 1) + [1 - (steps - 1) * other]


@wrong(shown(5), "two iterations of one epoch should give the same")
def looks_at_both_ends(program):
    assert program(4, 10, 50, 0)[0] == 0.25
    assert program(4, 10, 50, 500)[0] == 0


@wrong(fixed(5), "in every iteration")
def keeps_the_iteration(steps, msl_epochs, iterations_per_epoch, iteration):
    return fallen(steps, msl_epochs, iteration)


@wrong(fixed(5), "whole epochs count")
def takes_fractions(steps, msl_epochs, iterations_per_epoch, iteration):
    return fallen(steps, msl_epochs, iteration / iterations_per_epoch)


@wrong(fixed(5), "begins again in each epoch")
def takes_the_rest(steps, msl_epochs, iterations_per_epoch, iteration):
    return fallen(steps, msl_epochs, iteration % iterations_per_epoch)


@wrong(fixed(5), "a ratio, not a product")
def multiplies(steps, msl_epochs, iterations_per_epoch, iteration):
    return fallen(steps, msl_epochs, iteration * iterations_per_epoch)


@wrong(shown(6), "one draw may be lucky")
def draws_two_of_many(program):
    classes = program(1000, 2, torch.Generator().manual_seed(0))
    assert len(set(classes)) == 2


@wrong(fixed(6), "still comes twice")
def sorts(classes, ways, generator):
    return torch.randint(classes, (ways,), generator=generator).sort().values.tolist()


@wrong(fixed(6), "too few classes")
def takes_a_set(classes, ways, generator):
    return list(set(torch.randint(classes, (ways,), generator=generator).tolist()))


@wrong(fixed(6), "always takes the first classes")
def takes_the_first(classes, ways, generator):
    return list(range(ways))


@wrong(fixed(6), "should give the same tasks")
def ignores_the_generator(classes, ways, generator):
    return torch.randperm(classes)[:ways].tolist()


@wrong(fixed(6), "are neighbours")
def takes_neighbours(classes, ways, generator):
    start = torch.randint(classes, (), generator=generator).item()
    return [(start + i) % classes for i in range(ways)]


@wrong(shown(7), "the same image alone and among others")
def looks_at_the_shape(program):
    assert program(torch.ones(3, 2, 4, 4), torch.zeros(2), torch.ones(2)).shape == (3, 2, 4, 4)


@wrong(fixed(7), "still normalised by each other")
def sets_no_momentum(images, mean, variance):
    return F.batch_norm(images, mean, variance, training=True, momentum=0.0)


@wrong(fixed(7), "changed what it was given")
def forgets_to_clone(images, mean, variance):
    return F.batch_norm(images, mean, variance, training=True)


@wrong(fixed(7), "normalised by itself")
def normalises_each(images, mean, variance):
    return F.instance_norm(images)


@wrong(fixed(7), "without any normalisation")
def normalises_nothing(images, mean, variance):
    return images


@wrong(fixed(7), "take the square root")
def divides_by_variance(images, mean, variance):
    return (images - mean.view(1, -1, 1, 1)) / (variance.view(1, -1, 1, 1) + 1e-5)


@wrong(shown(8), "all right or all wrong")
def looks_at_the_accuracy(program):
    assert program(torch.ones(4, 5))[0] == 1


@wrong(fixed(8), "still that of single hits")
def keeps_hits(hits):
    return hits.mean().item(), 1.96 * hits.std().item() / math.sqrt(hits.numel())


@wrong(fixed(8), "not of hits")
def divides_by_hits(hits):
    return hits.mean().item(), 1.96 * hits.mean(1).std().item() / math.sqrt(hits.numel())


@wrong(fixed(8), "not of the mean")
def does_not_divide(hits):
    return hits.mean().item(), 1.96 * hits.mean(1).std().item()


@wrong(fixed(8), "the other way round")
def takes_the_other_mean(hits):
    return hits.mean().item(), 1.96 * hits.mean(0).std().item() / math.sqrt(hits.shape[1])


@wrong(fixed(8), "the factor 1.96 is missing")
def gives_one_deviation(hits):
    return hits.mean().item(), hits.mean(1).std().item() / math.sqrt(len(hits))


def descended(step, create_graph=lambda i, steps: True):
    def fixed_1(loss, theta, rate, steps):
        for i in range(steps):
            [gradient] = torch.autograd.grad(
                loss(theta), theta, create_graph=create_graph(i, steps), retain_graph=True
            )
            theta = step(theta, gradient, rate)
        return theta

    return fixed_1


right_1 = descended(lambda theta, g, rate: theta - rate * g)

all_wrong(
    fixed(1),
    {
        "θ entered the step as a constant": descended(lambda t, g, rate: t.detach() - rate * g),
        "only the last step keeps its graph": descended(
            lambda t, g, rate: t - rate * g, lambda i, steps: i + 1 == steps
        ),
        "only the first step keeps its graph": descended(
            lambda t, g, rate: t - rate * g, lambda i, steps: i == 0
        ),
        "that is a single step": lambda loss, theta, rate, steps: right_1(loss, theta, rate, 1),
        "it takes one step more": lambda loss, theta, rate, n: right_1(loss, theta, rate, n + 1),
        "it takes one step less": lambda loss, theta, rate, n: right_1(loss, theta, rate, n - 1),
        "the step goes up the loss": descended(lambda t, g, rate: t + rate * g),
        "the rate is missing": descended(lambda t, g, rate: t - g),
    },
)


def raising(error):
    def fixed_2(config):
        for name in config:
            if name not in DEFAULTS:
                raise error(name, config)
        return DEFAULTS | config

    return fixed_2


def strict_but(read):
    def fixed_2(config):
        unknown = [name for name in config if name not in DEFAULTS]
        if unknown:
            raise ValueError(f"{unknown} are no settings, only {list(DEFAULTS)} are")
        return read(config)

    return fixed_2


all_wrong(
    fixed(2),
    {
        "it raises a KeyError": raising(lambda name, config: KeyError(name)),
        "it raises a TypeError": raising(lambda name, config: TypeError(f"what is {name}?")),
        "it uses `assert`": raising(lambda name, config: AssertionError(name)),
        "it raises a plain Exception": raising(lambda name, config: Exception(f"no {name}")),
        "repeats the whole config": raising(lambda name, config: ValueError(f"look at {config}")),
        "write `raise`, not `return`": lambda config: (
            ValueError("no") if set(config) - set(DEFAULTS) else DEFAULTS | config
        ),
        "only the defaults come back": strict_but(lambda config: dict(DEFAULTS)),
        "are missing": strict_but(dict),
    },
)


def clones(statistics):
    return {name: tensor.clone() for name, tensor in statistics.items()}


def never_copies_back(statistics, evaluate):
    backup = clones(statistics)
    return evaluate(statistics) if backup else None


def swaps_clones_in(statistics, evaluate):
    backup = clones(statistics)
    result = evaluate(statistics)
    statistics.update(backup)
    return result


def evaluates_twice(statistics, evaluate):
    evaluate(clones(statistics))
    return evaluate(clones(statistics))


def returns_the_statistics(statistics, evaluate):
    evaluate(clones(statistics))
    return statistics


def restores_one(statistics, evaluate):
    name = next(iter(statistics))
    return restored(statistics, evaluate, {name: statistics[name].clone()})


all_wrong(
    fixed(3),
    {
        "holds the same tensors": never_copies_back,
        "the tensors that it held before are changed": swaps_clones_in,
        "it evaluates twice": evaluates_twice,
        "it returns the statistics": returns_the_statistics,
        "only the first tensor": restores_one,
    },
)


def on_line(share, end=lambda floor: floor):
    def fixed_4(n, e, floor, epoch):
        other = 1 / n + share(epoch, e) * (end(floor) - 1 / n)
        return [other] * (n - 1) + [1 - (n - 1) * other]

    return fixed_4


all_wrong(
    fixed(4),
    {
        "it falls to 0": on_line(lambda epoch, e: min(epoch / e, 1), lambda floor: 0),
        "the epoch may be a fraction": on_line(lambda epoch, e: min(epoch // 1 / e, 1)),
        "an epoch too early": on_line(lambda epoch, e: min(epoch / (e - 1), 1)),
        "an epoch too late": on_line(lambda epoch, e: min(epoch / (e + 1), 1)),
        "not always 10": on_line(lambda epoch, e: min(epoch / 10, 1)),
        "not always 0.02": on_line(lambda epoch, e: min(epoch / e, 1), lambda floor: 0.02),
        "from the start": on_line(lambda epoch, e: 1),
        "the list should have": lambda n, e, floor, epoch: [floor] * (n + 1),
    },
)


def by_epoch(epochs, msl_epochs_of=lambda e: e):
    return lambda n, e, per_epoch, iteration: fallen(
        n, msl_epochs_of(e), epochs(iteration, per_epoch)
    )


all_wrong(
    fixed(5),
    {
        "epochs are counted from 0": by_epoch(lambda i, per_epoch: i // per_epoch + 1),
        "it rounds the number of epochs": by_epoch(lambda i, per_epoch: round(i / per_epoch)),
        "one iteration too early": by_epoch(lambda i, per_epoch: (i + 1) // per_epoch),
        "upside down": by_epoch(lambda i, per_epoch: per_epoch // i if i else 0),
        "not always 50": by_epoch(lambda i, per_epoch: i // 50),
        "not always 10": by_epoch(lambda i, per_epoch: i // per_epoch, lambda e: 10),
        "nothing moves any more": by_epoch(lambda i, per_epoch: 0),
        "goes on below 0": lambda n, e, per_epoch, i: to_floor(
            n, e, 0, i // per_epoch, bound=math.inf
        ),
    },
)


def shuffled(pick):
    return lambda classes, ways, generator: pick(classes, ways, generator).tolist()


def moves_on(classes, ways, generator):
    task = []
    for c in torch.randint(classes, (ways,), generator=generator).tolist():
        while c in task:
            c = (c + 1) % classes
        task.append(c)
    return task


all_wrong(
    fixed(6),
    {
        "makes neighbours more likely": moves_on,
        "the first `ways` classes alone": shuffled(lambda n, k, g: torch.randperm(k, generator=g)),
        "the last class never comes": shuffled(
            lambda n, k, g: torch.randperm(max(n - 1, k), generator=g)[:k]
        ),
        "end at classes − 1": shuffled(lambda n, k, g: torch.randperm(n, generator=g)[:k] + 1),
        "it returns all classes": shuffled(lambda n, k, g: torch.randperm(n, generator=g)),
        "it returns a tensor": lambda n, k, g: torch.randperm(n, generator=g)[:k],
        "every task is the same": lambda n, k, g: torch.randperm(
            n, generator=torch.Generator().manual_seed(1)
        )[:k].tolist(),
        "one class less": shuffled(lambda n, k, g: torch.randperm(n, generator=g)[: k - 1]),
    },
)


def by(mean, variance, images, eps=1e-5):
    return (images - mean.view(1, -1, 1, 1)) / (variance.view(1, -1, 1, 1) + eps).sqrt()


def own(images):
    return images.mean((0, 2, 3)), images.var((0, 2, 3), correction=0)


all_wrong(
    fixed(7),
    {
        "only the mean is the running one": lambda x, mean, variance: by(mean, own(x)[1], x),
        "only the variance is the running one": lambda x, mean, variance: by(
            own(x)[0], variance, x
        ),
        "eps is missing": lambda x, mean, variance: by(mean, variance, x, eps=0),
        "nothing is divided": lambda x, mean, variance: x - mean.view(1, -1, 1, 1),
        "another shape": lambda x, mean, variance: by(mean, variance, x)[0],
        "should give a tensor, not a list": lambda x, mean, variance: list(by(mean, variance, x)),
    },
)


def interval(width):
    return lambda hits: (hits.mean().item(), width(hits.mean(1), hits))


all_wrong(
    fixed(8),
    {
        "of tasks, not of queries": interval(
            lambda a, hits: 1.96 * a.std().item() / math.sqrt(hits.shape[1])
        ),
        "divide by its square root": interval(lambda a, hits: 1.96 * a.std().item() / len(a)),
        "the root of T − 1": interval(
            lambda a, hits: 1.96 * a.std().item() / math.sqrt(len(a) - 1)
        ),
        "the deviation divides by T": interval(
            lambda a, hits: 1.96 * a.std(correction=0).item() / math.sqrt(len(a))
        ),
        "it takes the variance": interval(lambda a, hits: 1.96 * a.var() / math.sqrt(len(a))),
        "within the tasks": interval(lambda a, hits: 1.96 * hits.std(1).mean() / math.sqrt(len(a))),
        "the whole width": interval(lambda a, hits: 3.92 * a.std() / math.sqrt(len(a))),
        "the two are swapped": lambda hits: (
            1.96 * hits.mean(1).std().item() / math.sqrt(len(hits)),
            hits.mean().item(),
        ),
    },
)


@wrong(fixed(3), "`evaluate` is never called")
def returns_the_statistics(statistics, evaluate):
    return statistics


@wrong(fixed(4), "in both places")
def is_ten_epochs_long(n, e, floor, epoch):
    other = 1 / n + min(epoch, e) / 10 * (floor - 1 / n)
    return [other] * (n - 1) + [1 - (n - 1) * other]


@wrong(fixed(6), "the classes are in a row")
def takes_a_row(classes, ways, generator):
    start = torch.randint(classes - ways + 1, (), generator=generator).item()
    return list(range(start, start + ways))


@wrong(fixed(6), "a set puts its numbers into an order of its own")
def collects_a_set(classes, ways, generator):
    task = set()
    while len(task) < ways:
        task.add(torch.randint(classes, (), generator=generator).item())
    return list(task)


@wrong(fixed(6), "a class in a task is a list")
def nests(classes, ways, generator):
    return [torch.randperm(classes, generator=generator)[:ways].tolist()]


@wrong(fixed(7), "line up with the width")
def does_not_view(images, mean, variance):
    return (images - mean) / torch.sqrt(variance + 1e-5)


@wrong(fixed(8), "the deviation of a coin")
def tosses_a_coin(hits):
    p = hits.mean().item()
    return p, 1.96 * math.sqrt(p * (1 - p) / len(hits))


def at(line):
    """Weights of which all but the last are `line(steps, msl_epochs, floor, epoch)`."""

    def weights(n, e, floor, epoch):
        weight = line(n, e, floor, epoch)
        return [weight] * (n - 1) + [1 - (n - 1) * weight]

    return weights


all_wrong(
    fixed(4),
    {
        "the line is bounded by 0": at(
            lambda n, e, floor, epoch: max(0, 1 / n - epoch / e * (1 / n - floor))
        ),
        "it clips a fall to zero at the floor": at(
            lambda n, e, floor, epoch: max(floor, 1 / n - epoch / (n * e))
        ),
        "the last weight falls with the others": lambda n, e, floor, epoch: (
            [max(floor, 1 / n - epoch / e * (1 / n - floor))] * n
        ),
    },
)


def by_epoch(epochs):
    return lambda n, e, per_epoch, i: at(lambda n, e, _, epoch: max(1 / n - epoch / (n * e), 0.0))(
        n, e, 0.0, epochs(i, per_epoch)
    )


all_wrong(
    fixed(5),
    {
        "round down, not up": by_epoch(lambda i, per_epoch: math.ceil(i / per_epoch)),
        "begins one iteration too late": by_epoch(lambda i, per_epoch: (i - 1) // per_epoch),
    },
)
all_wrong(
    fixed(6),
    {
        "the classes are sorted": lambda classes, ways, generator: sorted(
            torch.randperm(classes, generator=generator)[:ways].tolist()
        ),
        "`unique` leaves out": lambda classes, ways, generator: torch.unique(
            torch.randint(classes, (ways,), generator=generator)
        ).tolist(),
    },
)
wrong(fixed(7), "that is layer norm")(
    lambda images, mean, variance: torch.nn.functional.layer_norm(images, images.shape[1:])
)
all_wrong(
    fixed(8),
    {
        "it takes the median of the tasks": lambda hits: (
            hits.mean(1).median().item(),
            1.96 * hits.mean(1).std().item() / math.sqrt(len(hits)),
        ),
        "it counts the hits of a task": lambda hits: (
            hits.sum(1).mean().item(),
            1.96 * hits.sum(1).std().item() / math.sqrt(len(hits)),
        ),
    },
)
