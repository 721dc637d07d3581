import torch
import torch.nn.functional as F

from mamlpp import checks
from tests.exercises.wrong_answers import all_wrong, wrong


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


@wrong(checks.inner_step, "multiply the gradient by the rate")
def forgets_the_rate(loss, weights, rate):
    gradients = gradients_of(loss, weights)
    return {name: weights[name] - gradients[name] for name in weights}


@wrong(checks.inner_step, "it returns the gradients")
def gives_gradients(loss, weights, rate):
    return gradients_of(loss, weights)


@wrong(checks.inner_step, "first-order MAML")
def forgets_create_graph(loss, weights, rate):
    gradients = gradients_of(loss, weights, create_graph=False)
    return {name: weights[name] - rate * gradients[name] for name in weights}


@wrong(checks.inner_step, "the new weights are cut off")
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


@wrong(checks.inner_step, "it returns a list")
def gives_a_list(loss, weights, rate):
    gradients = gradients_of(loss, weights)
    return [weights[name] - rate * gradients[name] for name in weights]


@wrong(checks.inner_step, "does every way through it end with")
def forgets_return(loss, weights, rate):
    gradients_of(loss, weights)


@wrong(checks.inner_step, "stopped: TypeError")
def stops(loss, weights, rate):
    return weights - rate


def step(model, weights, x, y, rate, create_graph=True):
    gradients = gradients_of(F.cross_entropy(model(weights, x), y), weights, create_graph)
    return {name: weights[name] - rate * gradients[name] for name in weights}


@wrong(checks.inner_loop, "θ_0, the weights before the first step, belongs")
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


@wrong(checks.inner_loop, "one step more than")
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


@wrong(checks.inner_loop, "the path is cut between the steps")
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


@wrong(checks.meta_gradients, "does not make the whole derivative 0")
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


@wrong(checks.second_order_test, "which is right: its assertion has no message")
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


def stepped(change, create_graph=True):
    """An inner step that makes each new weight from the weight, its gradient and the rate."""

    def inner_step(loss, weights, rate):
        gradients = gradients_of(loss, weights, create_graph)
        return {name: change(weights[name], gradients[name], rate) for name in weights}

    return inner_step


def prints(loss, weights, rate):
    print({name: w - rate for name, w in weights.items()})


def backs_up(loss, weights, rate):
    loss.backward()
    return {name: w - rate * w.grad for name, w in weights.items()}


def moves_one(loss, weights, rate):
    first = next(iter(weights))
    gradient = gradients_of(loss, weights)[first]
    return {n: w - rate * gradient if n == first else w for n, w in weights.items()}


all_wrong(
    checks.inner_step,
    {
        "the old weight enters the step as a constant": stepped(
            lambda w, g, rate: w.detach() - rate * g
        ),
        "the new weights are cut off": stepped(
            lambda w, g, rate: (w - rate * g).detach().requires_grad_()
        ),
        "the dtype is not that of the inputs": stepped(lambda w, g, rate: (w - rate * g).float()),
        "the change of the weights": stepped(lambda w, g, rate: -rate * g),
        "divides the gradient by the rate": stepped(lambda w, g, rate: w - g / rate),
        "the rate multiplies the weight as well": stepped(lambda w, g, rate: rate * (w - g)),
        "the sign of the gradient only": stepped(lambda w, g, rate: w - rate * torch.sign(g)),
        "one unit long": stepped(lambda w, g, rate: w - rate * g / g.norm()),
        "the step is missing": lambda loss, weights, rate: dict(weights),
        "only the first tensor": moves_one,
        "it prints its result": prints,
        "first-order MAML": backs_up,
    },
)


def looped(one_step, keep=lambda path: path):
    def inner_loop(model, weights, x, y, rate, steps):
        path = [weights]
        for _ in range(steps):
            path.append(one_step(F.cross_entropy(model(path[-1], x), y), path[-1], rate))
        return keep(path)

    return inner_loop


right_step = stepped(lambda w, g, rate: w - rate * g)


def uses_grad(model, weights, x, y, rate, steps):
    path = [weights]
    for _ in range(steps):
        F.cross_entropy(model(path[-1], x), y).backward()
        path.append({name: w - rate * w.grad for name, w in path[-1].items()})
    return path


def forgets_the_mean(model, weights, x, y, rate, steps):
    path = [weights]
    for _ in range(steps):
        loss = F.cross_entropy(model(path[-1], x), y, reduction="sum")
        path.append(right_step(loss, path[-1], rate))
    return path


def applies_softmax(model, weights, x, y, rate, steps):
    path = [weights]
    for _ in range(steps):
        loss = F.cross_entropy(model(path[-1], x).softmax(1), y)
        path.append(right_step(loss, path[-1], rate))
    return path


all_wrong(
    checks.inner_loop,
    {
        "the old weight enters the step as a constant": looped(
            stepped(lambda w, g, rate: w.detach() - rate * g)
        ),
        "one step less than": looped(right_step, lambda path: path[:-1]),
        "the path goes backwards": looped(right_step, lambda path: path[::-1]),
        "every entry of the path holds the last weights": looped(
            right_step, lambda path: [path[-1] for _ in path]
        ),
        "or the `.grad` of a tensor": uses_grad,
        "the loss is the sum over the images": forgets_the_mean,
        "cross_entropy takes logits": applies_softmax,
        "the dtype is not that of the inputs": looped(
            right_step, lambda path: [{n: w.float() for n, w in p.items()} for p in path]
        ),
    },
)


def slope_and_factor(formula):
    def meta_gradients(theta, rate, a, b, c):
        return formula(theta - rate * a * (theta - b) - c, 1 - rate * a)

    return meta_gradients


all_wrong(
    checks.meta_gradients,
    {
        "both have the factor": slope_and_factor(lambda slope, factor: (factor * slope,) * 2),
        "only the factors": slope_and_factor(lambda slope, factor: (factor, 1)),
        "is θ' − c, not c − θ'": slope_and_factor(lambda slope, f: (-f * slope, -slope)),
        "the ½ is lost": slope_and_factor(lambda slope, f: (2 * f * slope, 2 * slope)),
        "these are the losses": slope_and_factor(lambda slope, f: (slope**2 / 2,) * 2),
        "it should return 2 values": slope_and_factor(lambda slope, f: f * slope),
        "needs the curvature": lambda theta, rate, a, b, c: (
            (1 - rate) * (theta - rate * a * (theta - b) - c),
            theta - rate * a * (theta - b) - c,
        ),
    },
)


@wrong(checks.second_order_test, "a meta-gradient pass that is always 0")
def makes_the_answer_zero(meta_gradient):
    found = meta_gradient(parabola(5, 0.5), parabola(1, 4.0), THETA, 0.2)
    assert torch.allclose(found, torch.zeros(2, dtype=torch.float64))


@wrong(checks.second_order_test, "whose query loss is taken before the step")
def takes_a_straight_query_loss(meta_gradient):
    found = meta_gradient(parabola(3, 0.5), lambda t: 2 * t.sum(), THETA, 0.2)
    assert torch.allclose(found, torch.full_like(found, 0.8))


@wrong(checks.second_order_test, "choose a rate other than 1")
def takes_rate_one(meta_gradient):
    found = meta_gradient(parabola(3, 0.5), parabola(1, 4.0), THETA, 1.0)
    assert torch.allclose(found, -2 * (THETA - 3 * (THETA - 0.5) - 4.0))


@wrong(checks.second_order_test, "stopped: ")
def calls_with_too_little(meta_gradient):
    meta_gradient(parabola(3, 0.5), THETA, 0.2)


@wrong(checks.inner_step, "a loop over a dict gives names")
def loops_over_names(loss, weights, rate):
    gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
    return {w: w - rate * g for w, g in zip(weights, gradients, strict=True)}


@wrong(checks.inner_step, "returns a tuple, even of a single gradient")
def multiplies_a_tuple(loss, weights, rate):
    return {
        name: w - rate * torch.autograd.grad(loss, w, create_graph=True)
        for name, w in weights.items()
    }


@wrong(checks.inner_step, "should take 3 arguments")
def takes_no_rate(loss, weights):
    return weights


wrong(checks.inner_step, "give the check the function itself")({"head.bias": torch.zeros(3)})


@wrong(checks.inner_step, "is 2 times what it should be")
def takes_the_step_twice_over(loss, weights, rate):
    gradients = gradients_of(loss, weights)
    return {name: 2 * (weights[name] - rate * gradients[name]) for name in weights}


@wrong(checks.meta_gradients, "the same answer to every call")
def is_right_for_the_first_call(theta, rate, a, b, c):
    return 2.2197, 3.171


@wrong(checks.second_order_test, "only by chance")
def draws_its_curvature(meta_gradient):
    a = float(torch.randint(2, ()))
    found = meta_gradient(parabola(a, 0.5), parabola(1, 4.0), THETA, 0.2)
    assert torch.allclose(found, (1 - 0.2 * a) * (THETA - 0.2 * a * (THETA - 0.5) - 4.0))


@wrong(checks.second_order_test, "it lets first-order MAML pass")
def takes_a_wide_tolerance(meta_gradient):
    found = meta_gradient(parabola(0.01, 0.5), parabola(1, 4.0), THETA, 0.2)
    assert torch.allclose(found, (1 - 0.002) * (THETA - 0.002 * (THETA - 0.5) - 4.0), rtol=0.01)


@wrong(checks.second_order_test, "it lets first-order MAML pass")
def looks_at_the_shape(meta_gradient):
    assert meta_gradient(parabola(3, 0.5), parabola(1, 4.0), THETA, 0.2).shape == (2,)


@wrong(checks.second_order_test, "it lets first-order MAML pass")
def asks_only_for_a_direction(meta_gradient):
    found = meta_gradient(parabola(3, 0.5), parabola(1, 4.0), THETA, 0.2)
    assert (found < 0).all()


@wrong(checks.second_order_test, "should take 1 argument")
def wants_the_losses_too(meta_gradient, support_loss):
    meta_gradient(support_loss, support_loss, THETA, 0.2)


def shares_one_dict(model, weights, x, y, rate, steps):
    path, current = [weights], dict(weights)
    for _ in range(steps):
        current.update(right_step(F.cross_entropy(model(current, x), y), current, rate))
        path.append(current)
    return path


def returns_in_the_loop(model, weights, x, y, rate, steps):
    path = [weights]
    for _ in range(steps):
        path.append(step(model, path[-1], x, y, rate))
        return path


all_wrong(
    checks.inner_step,
    {
        "`rate` is an argument": stepped(lambda w, g, rate: w - 0.1 * g),
        "averages each gradient to one number": stepped(lambda w, g, rate: w - rate * g.mean()),
        "weight decay": stepped(lambda w, g, rate: w * (1 - rate) - rate * g),
        "it should give a tensor, not a list": stepped(lambda w, g, rate: (w - rate * g,)),
    },
)
all_wrong(
    checks.inner_loop,
    {
        "make a new dict in each step": shares_one_dict,
        "does `return` stand inside the loop?": returns_in_the_loop,
        "it should give a list, not a dict": looped(right_step, lambda path: dict(enumerate(path))),
    },
)
all_wrong(
    checks.meta_gradients,
    {
        "1 − αa, not αa − 1": slope_and_factor(lambda slope, f: (-f * slope, slope)),
        "the 1, of θ itself, is missing": slope_and_factor(
            lambda slope, f: ((f - 1) * slope, slope)
        ),
        "has no a: only the support loss": lambda theta, rate, a, b, c: (
            a * (1 - rate * a) * (theta - rate * a * (theta - b) - c),
            a * (theta - rate * a * (theta - b) - c),
        ),
        "at c, not at b": lambda theta, rate, a, b, c: (
            (1 - rate * a) * (theta - rate * a * (theta - b) - b),
            theta - rate * a * (theta - b) - b,
        ),
        "the inner step goes down": lambda theta, rate, a, b, c: (
            (1 + rate * a) * (theta + rate * a * (theta - b) - c),
            theta + rate * a * (theta - b) - c,
        ),
        "it rounds to two decimals": slope_and_factor(
            lambda slope, f: (round(f * slope, 2), round(slope, 2))
        ),
    },
)


@wrong(checks.second_order_test, "it lets first-order MAML pass")
def catches_its_own_assertion(meta_gradient):
    try:
        found = meta_gradient(parabola(3, 0.5), parabola(1, 4.0), THETA, 0.2)
        assert torch.allclose(found, 0.4 * (THETA - 0.6 * (THETA - 0.5) - 4.0))
    except AssertionError:
        print("wrong")


@wrong(checks.second_order_test, "it lets first-order MAML pass")
def forgets_to_assert(meta_gradient):
    found = meta_gradient(parabola(3, 0.5), parabola(1, 4.0), THETA, 0.2)
    torch.allclose(found, 0.4 * (THETA - 0.6 * (THETA - 0.5) - 4.0))


def moved(weights, gradients, change):
    pairs = zip(weights.items(), gradients, strict=True)
    return {name: change(weight, gradient) for (name, weight), gradient in pairs}


@wrong(checks.inner_step, "by the norm of the whole gradient")
def makes_the_gradient_one_long(loss, weights, rate):
    gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
    length = torch.sqrt(sum((g**2).sum() for g in gradients))
    return moved(weights, gradients, lambda w, g: w - rate * g / length)


@wrong(checks.inner_step, "the names are not those")
def numbers_the_weights(loss, weights, rate):
    gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
    return {i: w - rate * g for i, (w, g) in enumerate(zip(weights.values(), gradients))}  # noqa: B905


@wrong(checks.inner_loop, "`append` belongs into the loop")
def appends_once(model, weights, x, y, rate, steps):
    path = [weights]
    for _ in range(steps):
        weights = step(model, weights, x, y, rate)
    path.append(weights)
    return path


@wrong(checks.inner_loop, "gets smaller from step to step")
def lets_the_rate_fade(model, weights, x, y, rate, steps):
    path = [weights]
    for i in range(steps):
        path.append(step(model, path[-1], x, y, rate / (i + 1)))
    return path


@wrong(checks.inner_loop, "the loss is the squared error")
def takes_the_squared_error(model, weights, x, y, rate, steps):
    path = [weights]
    for _ in range(steps):
        loss = F.mse_loss(model(path[-1], x), F.one_hot(y, 3).to(x.dtype))
        gradients = torch.autograd.grad(loss, list(path[-1].values()), create_graph=True)
        path.append(moved(path[-1], gradients, lambda w, g: w - rate * g))
    return path


def stepped(theta, rate, a, b):
    return theta - rate * a * (theta - b)


all_wrong(
    checks.meta_gradients,
    {
        "counts once, not squared": lambda theta, rate, a, b, c: (
            (1 - rate * a) ** 2 * (stepped(theta, rate, a, b) - c),
            stepped(theta, rate, a, b) - c,
        ),
        "not along the loss": lambda theta, rate, a, b, c: (
            (1 - rate * a) * (theta - rate * a / 2 * (theta - b) ** 2 - c),
            theta - rate * a / 2 * (theta - b) ** 2 - c,
        ),
        "its rate is missing in the inner step": lambda theta, rate, a, b, c: (
            (1 - rate * a) * (stepped(theta, 1, a, b) - c),
            stepped(theta, 1, a, b) - c,
        ),
        "the second ignores the adaptation": lambda theta, rate, a, b, c: (
            (1 - rate * a) * (stepped(theta, rate, a, b) - c),
            theta - c,
        ),
        "yours keeps −αa": lambda theta, rate, a, b, c: (
            (1 - rate * a) * (stepped(theta, rate, a, b) - c),
            -rate * a * (stepped(theta, rate, a, b) - c),
        ),
        "the first of the two is right": lambda theta, rate, a, b, c: (
            (1 - rate * a) * (stepped(theta, rate, a, b) - c),
            3 * theta - c * b,
        ),
    },
)


@wrong(checks.inner_loop, "is it your own inner_step that does?")
def climbs_in_each_step(model, weights, x, y, rate, steps):
    path = [weights]
    for _ in range(steps):
        path.append(step(model, path[-1], x, y, -rate))
    return path
