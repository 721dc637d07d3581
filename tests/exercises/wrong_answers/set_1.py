import torch
import torch.nn.functional as F

from mamlpp import checks
from tests.exercises.wrong_answers import wrong


def gradients_of(loss, weights, create_graph=True):
    return dict(
        zip(
            weights,
            torch.autograd.grad(loss, list(weights.values()), create_graph=create_graph),
            strict=True,
        )
    )


@wrong(checks.inner_step, "goes up the loss")
def climbs(loss, weights, rate):
    gradients = gradients_of(loss, weights)
    return {name: weights[name] + rate * gradients[name] for name in weights}


@wrong(checks.inner_step, "multiply it by the rate")
def forgets_the_rate(loss, weights, rate):
    gradients = gradients_of(loss, weights)
    return {name: weights[name] - gradients[name] for name in weights}


@wrong(checks.inner_step, "it gives the gradients")
def gives_gradients(loss, weights, rate):
    return gradients_of(loss, weights)


@wrong(checks.inner_step, "first-order MAML")
def forgets_create_graph(loss, weights, rate):
    gradients = gradients_of(loss, weights, create_graph=False)
    return {name: weights[name] - rate * gradients[name] for name in weights}


@wrong(checks.inner_step, "have lost their graph")
def detaches(loss, weights, rate):
    gradients = gradients_of(loss, weights)
    return {name: (weights[name] - rate * gradients[name]).detach() for name in weights}


@wrong(checks.inner_step, "changed what it was given")
def writes_into_data(loss, weights, rate):
    for name, gradient in gradients_of(loss, weights).items():
        weights[name].data -= rate * gradient
    return weights


@wrong(checks.inner_step, "writes into a weight")
def writes_into_leaves(loss, weights, rate):
    for name, gradient in gradients_of(loss, weights).items():
        weights[name] -= rate * gradient
    return weights


@wrong(checks.inner_step, "it gives a list")
def gives_a_list(loss, weights, rate):
    gradients = gradients_of(loss, weights)
    return [weights[name] - rate * gradients[name] for name in weights]


@wrong(checks.inner_step, "does it end with `return`?")
def forgets_return(loss, weights, rate):
    gradients_of(loss, weights)


@wrong(checks.inner_step, "TypeError")
def stops(loss, weights, rate):
    return weights - rate


def step(model, weights, x, y, rate, create_graph=True):
    gradients = gradients_of(F.cross_entropy(model(weights, x), y), weights, create_graph)
    return {name: weights[name] - rate * gradients[name] for name in weights}


@wrong(checks.inner_loop, "θ_0, the weights before the first step, belong")
def forgets_the_start(model, weights, x, y, rate, steps):
    path = []
    for _ in range(steps):
        weights = step(model, weights, x, y, rate)
        path.append(weights)
    return path


@wrong(checks.inner_loop, "the last weights alone")
def gives_the_end(model, weights, x, y, rate, steps):
    for _ in range(steps):
        weights = step(model, weights, x, y, rate)
    return weights


@wrong(checks.inner_loop, "starts again from θ_0")
def starts_again(model, weights, x, y, rate, steps):
    return [weights] + [step(model, weights, x, y, rate) for _ in range(steps)]


@wrong(checks.inner_loop, "the gradient at θ_0")
def keeps_the_first_gradient(model, weights, x, y, rate, steps):
    path, loss = [weights], F.cross_entropy(model(weights, x), y)
    gradients = gradients_of(loss, weights)
    for _ in range(steps):
        path.append({name: path[-1][name] - rate * gradients[name] for name in weights})
    return path


@wrong(checks.inner_loop, "it took 3 steps where 2")
def takes_one_more(model, weights, x, y, rate, steps):
    path = [weights]
    for _ in range(steps + 1):
        path.append(step(model, path[-1], x, y, rate))
    return path


@wrong(checks.inner_loop, "without create_graph=True")
def loops_in_first_order(model, weights, x, y, rate, steps):
    path = [weights]
    for _ in range(steps):
        path.append(step(model, path[-1], x, y, rate, create_graph=False))
    return path


@wrong(checks.inner_loop, "the path is cut")
def cuts_the_path(model, weights, x, y, rate, steps):
    path = [weights, step(model, weights, x, y, rate)]
    for _ in range(steps - 1):
        leaves = {name: w.detach().requires_grad_() for name, w in path[-1].items()}
        path.append(step(model, leaves, x, y, rate))
    return path


@wrong(checks.meta_gradients, "the two are swapped")
def swaps(theta, rate, a, b, c):
    first = theta - rate * a * (theta - b) - c
    return first, (1 - rate * a) * first


@wrong(checks.meta_gradients, "both ignore the adaptation")
def judges_before_the_step(theta, rate, a, b, c):
    return (1 - rate * a) * (theta - c), theta - c


@wrong(checks.meta_gradients, "the sign of the second derivative")
def adds_the_curvature(theta, rate, a, b, c):
    first = theta - rate * a * (theta - b) - c
    return (1 + rate * a) * first, first


@wrong(checks.meta_gradients, "needs the rate")
def forgets_alpha(theta, rate, a, b, c):
    first = theta - rate * a * (theta - b) - c
    return (1 - a) * first, first


@wrong(checks.meta_gradients, "chain rule vanish")
def kills_the_chain(theta, rate, a, b, c):
    return (1 - rate * a) * (theta - rate * a * (theta - b) - c), 0.0


@wrong(checks.meta_gradients, "both are the same")
def sees_no_difference(theta, rate, a, b, c):
    first = theta - rate * a * (theta - b) - c
    return first, first


def parabola(curvature, centre):
    return lambda t: (curvature / 2 * (t - centre) ** 2).sum()


THETA = torch.tensor([1.0, -2.0], dtype=torch.float64)


@wrong(checks.second_order_test, "it lets first-order MAML pass")
def has_no_curvature(meta_gradient):
    found = meta_gradient(lambda t: 3 * t.sum(), parabola(1, 4.0), THETA, 0.2)
    assert torch.allclose(found, THETA - 0.6 - 4.0)


@wrong(checks.second_order_test, "with I + αH pass")
def only_differs_from_first_order(meta_gradient):
    found = meta_gradient(parabola(3, 0.5), parabola(1, 4.0), THETA, 0.2)
    first_order = THETA - 0.6 * (THETA - 0.5) - 4.0
    assert not torch.allclose(found, first_order)


@wrong(checks.second_order_test, "which is right: an assertion without a message")
def expects_first_order(meta_gradient):
    found = meta_gradient(parabola(3, 0.5), parabola(1, 4.0), THETA, 0.2)
    assert torch.allclose(found, THETA - 0.6 * (THETA - 0.5) - 4.0)


@wrong(checks.second_order_test, "never calls")
def calls_nothing(meta_gradient):
    assert THETA.sum() == -1


@wrong(checks.second_order_test, "a test returns nothing")
def returns_a_truth(meta_gradient):
    found = meta_gradient(parabola(3, 0.5), parabola(1, 4.0), THETA, 0.2)
    return bool(torch.allclose(found, 0.4 * (THETA - 0.6 * (THETA - 0.5) - 4.0)))
