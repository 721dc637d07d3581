"""Right answers that are not written as ours: each check must let them pass."""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.func import grad, vmap

from mamlpp import checks

RIGHT_ANSWERS: list[tuple[Callable[..., None], Callable[..., Any]]] = []


def right(check):
    def note(answer):
        RIGHT_ANSWERS.append((check, answer))
        return answer

    return note


@right(checks.layer_step)
def of_the_layer_alone(L, theta, alpha, layer):
    names = [key for key in theta if key.startswith(layer + ".")]
    gs = torch.autograd.grad(L, [theta[key] for key in names], create_graph=True)
    theta_new = dict(theta)
    for key, g in zip(names, gs, strict=True):
        theta_new[key] = theta[key].sub(g, alpha=alpha)
    return theta_new


@right(checks.layer_step)
def by_a_rate_for_each_weight(loss, weights, rate, layer):
    rates = {name: rate if name.split(".")[0] == layer else 0.0 for name in weights}
    return {
        name: weight + -rates[name] * torch.autograd.grad(loss, weight, create_graph=True)[0]
        for name, weight in weights.items()
    }


@right(checks.momentum_loop)
def by_torch_func(model, weights, x, y, rate, momentum, steps):
    gradient = grad(lambda w: F.cross_entropy(model(w, x), y))

    def step(path, _):
        now, before, gradients = path[-1], path[max(len(path) - 2, 0)], gradient(path[-1])
        return [
            *path,
            {n: w - rate * gradients[n] + momentum * (w - before[n]) for n, w in now.items()},
        ]

    return functools.reduce(step, range(steps), [weights])


@right(checks.momentum_loop)
def with_the_rate_in_the_velocity(model, weights, x, y, rate, momentum, steps):
    path, moves = [weights], [torch.zeros_like(w) for w in weights.values()]
    while len(path) <= steps:
        loss = F.nll_loss(F.log_softmax(model(path[-1], x), dim=-1), y)
        gradients = torch.autograd.grad(loss, list(path[-1].values()), create_graph=True)
        moves = [momentum * m - rate * g for m, g in zip(moves, gradients, strict=True)]
        path.append({n: w + m for (n, w), m in zip(path[-1].items(), moves, strict=True)})
    return tuple(path)


@right(checks.meta_gradients)
def by_autograd(theta, rate, a, b, c):
    found = []
    for create_graph in (True, False):
        start = torch.tensor(theta, dtype=torch.float64, requires_grad=True)
        loss = 0.5 * a * (start - b) ** 2
        (g,) = torch.autograd.grad(loss, start, create_graph=create_graph)
        found.append(torch.autograd.grad(0.5 * (start - rate * g - c) ** 2, start)[0])
    return found


@right(checks.second_order_test)
def by_finite_differences(meta_gradient):
    theta = torch.tensor([0.3, -1.2], dtype=torch.float64)

    def whole(t):
        return ((t - 0.2 * t**3) ** 4).sum()

    h = 1e-6 * torch.eye(2, dtype=torch.float64)
    expected = torch.stack([(whole(theta + d) - whole(theta - d)) / 2e-6 for d in h])
    found = meta_gradient(lambda t: (t**4 / 4).sum(), lambda t: (t**4).sum(), theta, 0.2)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@right(checks.clipped_step)
def by_an_if(loss, weights, rate, limit):
    gradients = torch.autograd.grad(loss, tuple(weights.values()), create_graph=True)
    length = torch.cat([g.flatten() for g in gradients]).norm()
    if length > limit:
        gradients = [limit * g / (length + 1e-6) for g in gradients]
    return {n: w - rate * g for (n, w), g in zip(weights.items(), gradients, strict=True)}


@right(checks.clipped_step)
def by_a_smaller_rate(loss, theta, alpha, limit):
    gs = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
    norms = torch.stack([torch.linalg.vector_norm(g) for g in gs])
    smaller = min(alpha, alpha * limit / torch.linalg.vector_norm(norms))
    return {n: theta[n] - smaller * g for n, g in zip(theta, gs, strict=True)}


@right(checks.growth)
def as_a_tensor(curvatures, rate, steps):
    return (1 - rate * torch.tensor(curvatures, dtype=torch.float64)).abs().max().pow(steps)


@right(checks.growth)
def by_the_two_ends(lambdas, alpha, n):
    return max(abs(1 - alpha * min(lambdas)), abs(1 - alpha * max(lambdas))) ** n


@right(checks.digits)
def by_dist(x, exact):
    return -torch.log10(torch.dist(x.to(exact.dtype), exact) / torch.linalg.vector_norm(exact))


@right(checks.predicted_steps)
def by_multiplying(growth, bits=24):
    n, size = 0, 1.0
    while size < 2**bits:
        n, size = n + 1, size * growth
    return n


@right(checks.first_lost)
def by_filter(gradient, depths, min_digits):
    def lost(n):
        x, exact = gradient(n, torch.float32).double(), gradient(n, torch.float64)
        return torch.log10(torch.dist(x, exact) / exact.norm()) > -min_digits

    return next(filter(lost, depths), 0)


@right(checks.curriculum)
def as_a_vector(steps, msl_epochs, epoch):
    place = (steps - 1) * min(1.0, epoch / msl_epochs)
    v = torch.zeros(steps, dtype=torch.float64)
    before = min(int(place), steps - 1)
    v[before] = 1 - (place - before)
    if before + 1 < steps:
        v[before + 1] = place - before
    return v


@right(checks.curriculum)
def by_numbers_between(steps, msl_epochs, epoch):
    moved = min(epoch, msl_epochs) * (steps - 1) / msl_epochs
    return tuple(max(0, min(1 + i - moved, 1 - i + moved)) for i in range(steps))


@right(checks.lifted)
def by_mixing_with_equal_weights(step_weights, floor):
    v = torch.tensor(step_weights, dtype=torch.float64)
    equal = torch.full_like(v, 1 / len(v))
    return torch.lerp(v, equal, len(v) * floor)


@right(checks.lifted)
def by_giving_the_last_the_rest(step_weights, floor):
    share = 1 - len(step_weights) * floor
    first = [floor + share * v for v in step_weights[:-1]]
    return (*first, 1 - sum(first))


@right(checks.sampled_loss)
def by_searching(model, path, x, y, step_weights, u):
    ends = torch.tensor(step_weights, dtype=torch.float64).cumsum(0)
    step = int(torch.searchsorted(ends, torch.tensor(u, dtype=torch.float64), right=True))
    logits = model(path[1:][step], x)
    return F.nll_loss(logits.log_softmax(-1), y)


@right(checks.sampled_loss)
def by_taking_away(model, path, x, y, step_weights, u):
    step = 0
    while u >= 0 and step < len(step_weights):
        u = u - step_weights[step]
        step += 1
    return F.cross_entropy(model(path[step], x), y)


@right(checks.query_losses)
def in_closed_form(steps, msl_epochs, floor, epochs):
    return epochs + (steps - 1) * (epochs if floor > 0 else min(msl_epochs, epochs))


@right(checks.training_time)
def epoch_by_epoch(epochs, second_order_from, first, second):
    total = 0.0
    for epoch in range(epochs):
        late = second_order_from is not None and epoch >= second_order_from
        total += second if late else first
    return total


@right(checks.earliest_switch)
def by_trying_all(epochs, seconds, first, second):
    return min(n for n in range(epochs + 1) if n * first + (epochs - n) * second <= seconds)


@right(checks.earliest_switch)
def by_dividing(epochs, seconds, first, second):
    return max(math.ceil(epochs - (seconds - epochs * first) / (second - first)), 0)


@right(checks.schedule_epoch)
def as_a_weighted_mean(planned, extended, decided, epoch):
    if epoch < decided:
        return float(epoch)
    left = max(extended - epoch, 0) / (extended - decided)
    return left * decided + (1 - left) * planned


@right(checks.bounded_test)
def at_many_epochs(schedule):
    assert schedule(0.5, 0.1, 40, 0) == 0.5
    for epoch in range(40, 200):
        assert abs(schedule(0.5, 0.1, 40, epoch) - 0.1) < 1e-9


@right(checks.pooled)
def by_mean_squares(means, variances):
    mean = means.sum(0) / len(means)
    return [mean, (variances + means * means).sum(0) / len(means) - mean * mean]


@right(checks.shares)
def batch_by_batch(momentum, batches):
    shares = [1.0]
    for _ in range(batches):
        shares = [(1 - momentum) * share for share in shares] + [momentum]
    return shares


@right(checks.leaks)
def by_vmap(classify, images):
    alone = vmap(lambda image: classify(image[None])[0])(images)
    return ((classify(images) - alone).abs() > 1e-3).any()


@right(checks.sealed_logits)
def by_batch_norm(query, support, filters, head):
    features = support @ filters
    mean, variance = features.mean(0), ((features - features.mean(0)) ** 2).mean(0)
    return F.relu((query @ filters - mean) * torch.rsqrt(variance + 1e-5)).matmul(head)


@right(checks.numbers_learned)
def with_a_dict(shapes, steps):
    layers = {name.rsplit(".", 1)[0]: shape for name, shape in shapes.items()}
    return [steps * len(layers), sum(torch.Size(shape).numel() for shape in shapes.values())]


@right(checks.steps_that_learn)
def backwards(step_weights):
    learns, found = False, []
    for v in reversed(step_weights):
        learns = learns or v > 0
        found.insert(0, learns)
    return found


@right(checks.spread)
def by_adding_zeros(weights, rates, step):
    rows: dict[str, int] = {}
    for name in weights:
        rows.setdefault(name[: name.rindex(".")], len(rows))
    return {
        name: torch.zeros_like(w) + rates[rows[name[: name.rindex(".")]]][step]
        for name, w in weights.items()
    }


@right(checks.best_rate)
def by_dot_products(query, support, curved):
    def inner(one, other):
        return sum(torch.dot(one[n].ravel(), other[n].ravel()) for n in one)

    bend = inner(support, curved)
    return inner(query, support) / bend if bend > 0 else torch.tensor(math.inf)
