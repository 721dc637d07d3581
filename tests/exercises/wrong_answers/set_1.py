import torch
import torch.nn.functional as F

from mamlpp import checks
from tests.exercises.wrong_answers import all_wrong, wrong


def gradients_of(loss, weights, create_graph=True):
    found = torch.autograd.grad(loss, list(weights.values()), create_graph=create_graph)
    return dict(zip(weights, found, strict=True))


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


def of_layer(change, rest=lambda w: w, create_graph=True, moves=str.startswith):
    """A step that changes the weights of a layer, and puts all others through `rest`."""

    def layer_step(loss, weights, rate, layer):
        gradients = gradients_of(loss, weights, create_graph)
        return {
            name: change(w, gradients[name], rate) if moves(name, layer) else rest(w)
            for name, w in weights.items()
        }

    return layer_step


def down(w, g, rate):
    return w - rate * g


@wrong(checks.layer_step, "changed what it was given")
def writes_into_data(loss, weights, rate, layer):
    for name, gradient in gradients_of(loss, weights).items():
        if name.startswith(layer):
            weights[name].data -= rate * gradient
    return weights


@wrong(checks.layer_step, "writes into a weight")
def writes_into_leaves(loss, weights, rate, layer):
    for name, gradient in gradients_of(loss, weights).items():
        if name.startswith(layer):
            weights[name] -= rate * gradient
    return weights


@wrong(checks.layer_step, "first-order MAML")
def backs_up(loss, weights, rate, layer):
    loss.backward()
    return {n: w - rate * w.grad if n.startswith(layer) else w for n, w in weights.items()}


@wrong(checks.layer_step, "first-order MAML")
def asks_for_the_layer_alone(loss, weights, rate, layer):
    names = [name for name in weights if name.startswith(layer)]
    gradients = torch.autograd.grad(loss, [weights[name] for name in names])
    moved = {n: weights[n] - rate * g for n, g in zip(names, gradients, strict=True)}
    return weights | moved


@wrong(checks.layer_step, "it returns a list")
def gives_a_list(loss, weights, rate, layer):
    return list(of_layer(down)(loss, weights, rate, layer).values())


@wrong(checks.layer_step, "does every way through it end with")
def forgets_return(loss, weights, rate, layer):
    gradients_of(loss, weights)


@wrong(checks.layer_step, "stopped: TypeError")
def stops(loss, weights, rate, layer):
    return weights - rate


@wrong(checks.layer_step, "it prints its result")
def prints(loss, weights, rate, layer):
    print({name: w - rate for name, w in weights.items()})


@wrong(checks.layer_step, "the other layers are missing")
def gives_the_layer_alone(loss, weights, rate, layer):
    after = of_layer(down)(loss, weights, rate, layer)
    return {name: w for name, w in after.items() if name.startswith(layer)}


@wrong(checks.layer_step, "only the first tensor of the layer")
def moves_one(loss, weights, rate, layer):
    first = next(name for name in weights if name.startswith(layer))
    return {**weights, first: weights[first] - rate * gradients_of(loss, weights)[first]}


@wrong(checks.layer_step, "by the norm of the layer's gradient")
def makes_the_gradient_one_long(loss, weights, rate, layer):
    gradients = gradients_of(loss, weights)
    length = torch.cat([g.flatten() for n, g in gradients.items() if n.startswith(layer)]).norm()
    return of_layer(lambda w, g, rate: w - rate * g / length)(loss, weights, rate, layer)


@wrong(checks.layer_step, "a loop over a dict gives names")
def loops_over_names(loss, weights, rate, layer):
    return {w: w - rate * g for w, g in gradients_of(loss, weights).items()}


@wrong(checks.layer_step, "returns a tuple, even of a single gradient")
def multiplies_a_tuple(loss, weights, rate, layer):
    return {
        name: w - rate * torch.autograd.grad(loss, w, create_graph=True)
        for name, w in weights.items()
    }


@wrong(checks.layer_step, "should take 4 arguments")
def takes_no_layer(loss, weights, rate):
    return weights


@wrong(checks.layer_step, "the names are not those")
def numbers_the_weights(loss, weights, rate, layer):
    return dict(enumerate(of_layer(down)(loss, weights, rate, layer).values()))


@wrong(checks.layer_step, "freed the graph")
def asks_one_by_one(loss, weights, rate, layer):
    gradients = {n: torch.autograd.grad(loss, w)[0] for n, w in weights.items()}
    return {n: w - rate * gradients[n] for n, w in weights.items() if n.startswith(layer)}


wrong(checks.layer_step, "give the check the function itself")({"head.bias": torch.zeros(3)})
all_wrong(
    checks.layer_step,
    {
        "the other layers come back as constants": of_layer(down, rest=torch.Tensor.detach),
        "every weight takes the step": of_layer(down, moves=lambda name, layer: True),
        "the other way round": of_layer(down, moves=lambda name, layer: layer not in name),
        "come back as zeros": of_layer(down, rest=lambda w: 0 * w),
        "it is not always the head": of_layer(down, moves=lambda name, layer: "head" in name),
        "no weight moves": of_layer(down, moves=lambda name, layer: name == layer),
        "only the first tensor of the layer": of_layer(
            down, moves=lambda name, layer: name == layer + ".weight"
        ),
        "goes up the loss": of_layer(lambda w, g, rate: w + rate * g),
        "multiply the gradient by the rate": of_layer(lambda w, g, rate: w - g),
        "it returns the gradients": of_layer(lambda w, g, rate: g),
        "first-order MAML": of_layer(down, create_graph=False),
        "the old weight enters the step as a constant": of_layer(
            lambda w, g, rate: w.detach() - rate * g
        ),
        "the weights of the layer are cut off": of_layer(
            lambda w, g, rate: (w - rate * g).detach().requires_grad_()
        ),
        "the new weights are cut off": of_layer(
            lambda w, g, rate: (w - rate * g).detach(), rest=torch.Tensor.detach
        ),
        "the dtype is not that of the inputs": of_layer(lambda w, g, rate: (w - rate * g).float()),
        "the change of the weights": of_layer(lambda w, g, rate: -rate * g),
        "divides the gradient by the rate": of_layer(lambda w, g, rate: w - g / rate),
        "the rate multiplies the weight as well": of_layer(lambda w, g, rate: rate * (w - g)),
        "`rate` is an argument": of_layer(lambda w, g, rate: w - 0.1 * g),
        "averages each gradient to one number": of_layer(lambda w, g, rate: w - rate * g.mean()),
        "weight decay": of_layer(lambda w, g, rate: w * (1 - rate) - rate * g),
        "the sign of the gradient only": of_layer(lambda w, g, rate: w - rate * torch.sign(g)),
        "one unit long": of_layer(lambda w, g, rate: w - rate * g / g.norm()),
        "it should give a tensor, not a list": of_layer(lambda w, g, rate: (w - rate * g,)),
        "is 2 times what it should be": of_layer(
            lambda w, g, rate: 2 * (w - rate * g), rest=lambda w: 2 * w
        ),
    },
)


def speeding(speed, move=down, keep=lambda path: path, loss_of=F.cross_entropy, **options):
    """A loop with momentum: `speed(momentum, old velocity, gradient)` is the new velocity."""

    def momentum_loop(model, weights, x, y, rate, momentum, steps):
        path, v = [weights], dict.fromkeys(weights, 0.0)
        for _ in range(steps):
            gradients = gradients_of(loss_of(model(path[-1], x), y), path[-1], **options)
            v = {name: speed(momentum, v[name], g) for name, g in gradients.items()}
            path.append({name: move(w, v[name], rate) for name, w in path[-1].items()})
        return keep(path)

    return momentum_loop


def heavy(mu, v, g):
    return mu * v + g


@wrong(checks.momentum_loop, "one step more than")
def takes_one_more(model, weights, x, y, rate, momentum, steps):
    return speeding(heavy)(model, weights, x, y, rate, momentum, steps + 1)


@wrong(checks.momentum_loop, "starts again from θ_0")
def starts_again(model, weights, x, y, rate, momentum, steps):
    path, v = [weights], dict.fromkeys(weights, 0.0)
    for _ in range(steps):
        gradients = gradients_of(F.cross_entropy(model(weights, x), y), weights)
        v = {name: momentum * v[name] + g for name, g in gradients.items()}
        path.append({name: w - rate * v[name] for name, w in weights.items()})
    return path


@wrong(checks.momentum_loop, "the gradient at θ_0")
def keeps_the_first_gradient(model, weights, x, y, rate, momentum, steps):
    path, v = [weights], dict.fromkeys(weights, 0.0)
    gradients = gradients_of(F.cross_entropy(model(weights, x), y), weights)
    for _ in range(steps):
        v = {name: momentum * v[name] + g for name, g in gradients.items()}
        path.append({name: w - rate * v[name] for name, w in path[-1].items()})
    return path


@wrong(checks.momentum_loop, "the path is cut between the steps")
def cuts_the_path(model, weights, x, y, rate, momentum, steps):
    path, here, v = [weights], weights, dict.fromkeys(weights, 0.0)
    for _ in range(steps):
        gradients = gradients_of(F.cross_entropy(model(here, x), y), here)
        v = {name: momentum * v[name] + g for name, g in gradients.items()}
        path.append({name: w - rate * v[name] for name, w in here.items()})
        here = {name: w.detach().requires_grad_() for name, w in path[-1].items()}
    return path


@wrong(checks.momentum_loop, "the path is cut: ")
def detaches_each_step(model, weights, x, y, rate, momentum, steps):
    path, v = [weights], dict.fromkeys(weights, 0.0)
    for _ in range(steps):
        gradients = gradients_of(F.cross_entropy(model(path[-1], x), y), path[-1], False)
        v = {name: momentum * v[name] + g for name, g in gradients.items()}
        stepped = {name: w.detach() - rate * v[name] for name, w in path[-1].items()}
        path.append({name: w.requires_grad_() for name, w in stepped.items()})
    return path


@wrong(checks.momentum_loop, "it remembers the last gradient alone")
def remembers_one(model, weights, x, y, rate, momentum, steps):
    path, last = [weights], dict.fromkeys(weights, 0.0)
    for _ in range(steps):
        gradients = gradients_of(F.cross_entropy(model(path[-1], x), y), path[-1])
        path.append(
            {n: w - rate * (gradients[n] + momentum * last[n]) for n, w in path[-1].items()}
        )
        last = gradients
    return path


@wrong(checks.momentum_loop, "counts its gradient twice")
def begins_with_the_gradient(model, weights, x, y, rate, momentum, steps):
    path, v = [weights], gradients_of(F.cross_entropy(model(weights, x), y), weights)
    for _ in range(steps):
        gradients = gradients_of(F.cross_entropy(model(path[-1], x), y), path[-1])
        v = {name: momentum * v[name] + g for name, g in gradients.items()}
        path.append({name: w - rate * v[name] for name, w in path[-1].items()})
    return path


@wrong(checks.momentum_loop, "the rate counts twice")
def counts_the_rate_twice(model, weights, x, y, rate, momentum, steps):
    path, v = [weights], dict.fromkeys(weights, 0.0)
    for _ in range(steps):
        gradients = gradients_of(F.cross_entropy(model(path[-1], x), y), path[-1])
        v = {name: momentum * v[name] + rate * g for name, g in gradients.items()}
        path.append({name: w - rate * v[name] for name, w in path[-1].items()})
    return path


@wrong(checks.momentum_loop, "make a new dict in each step")
def shares_one_dict(model, weights, x, y, rate, momentum, steps):
    path, current, v = [weights], dict(weights), dict.fromkeys(weights, 0.0)
    for _ in range(steps):
        gradients = gradients_of(F.cross_entropy(model(current, x), y), current)
        v = {name: momentum * v[name] + g for name, g in gradients.items()}
        current.update({name: w - rate * v[name] for name, w in current.items()})
        path.append(current)
    return path


@wrong(checks.momentum_loop, "or the `.grad` of a tensor")
def uses_grad(model, weights, x, y, rate, momentum, steps):
    path = [weights]
    for _ in range(steps):
        F.cross_entropy(model(path[-1], x), y).backward()
        path.append({name: w - rate * w.grad for name, w in path[-1].items()})
    return path


all_wrong(
    checks.momentum_loop,
    {
        "without create_graph=True": speeding(heavy, create_graph=False),
        "the velocity of the step before entered as a constant": speeding(
            lambda mu, v, g: mu * torch.as_tensor(v).detach() + g
        ),
        "the old weight enters the step as a constant": speeding(
            heavy, lambda w, v, rate: w.detach() - rate * v
        ),
        "the velocity is only the gradient": speeding(lambda mu, v, g: g),
        "it averages: the gradient": speeding(lambda mu, v, g: mu * v + (1 - mu) * g),
        "the share 1 − momentum of the velocity": speeding(lambda mu, v, g: (1 - mu) * v + g),
        "it multiplies the gradient by the momentum": speeding(lambda mu, v, g: v + mu * g),
        "the momentum multiplies the new velocity": speeding(lambda mu, v, g: mu * (v + g)),
        "nothing is forgotten": speeding(lambda mu, v, g: v + g),
        "it does not go back": speeding(lambda mu, v, g: g - mu * v),
        "it is not always 0.9": speeding(lambda mu, v, g: 0.9 * v + g),
        "goes up the loss": speeding(heavy, lambda w, v, rate: w + rate * v),
        "as long as the velocity": speeding(heavy, lambda w, v, rate: w - v),
        "θ_0, the weights before the first step, belongs": speeding(
            heavy, keep=lambda path: path[1:]
        ),
        "the last weights alone": speeding(heavy, keep=lambda path: path[-1]),
        "one step less than": speeding(heavy, keep=lambda path: path[:-1]),
        "the path goes backwards": speeding(heavy, keep=lambda path: path[::-1]),
        "every entry of the path holds the last weights": speeding(
            heavy, keep=lambda path: [path[-1] for _ in path]
        ),
        "does `return` stand inside the loop?": speeding(heavy, keep=lambda path: path[:2]),
        "`append` belongs into the loop": speeding(heavy, keep=lambda path: [path[0], path[-1]]),
        "it should give a list, not a dict": speeding(
            heavy, keep=lambda path: dict(enumerate(path))
        ),
        "the loss is the sum over the images": speeding(
            heavy, loss_of=lambda logits, y: F.cross_entropy(logits, y, reduction="sum")
        ),
        "cross_entropy takes logits": speeding(
            heavy, loss_of=lambda logits, y: F.cross_entropy(logits.softmax(1), y)
        ),
        "the loss is the squared error": speeding(
            heavy, loss_of=lambda logits, y: F.mse_loss(logits, F.one_hot(y, 3).to(logits))
        ),
        "the dtype is not that of the inputs": speeding(
            heavy, keep=lambda path: [{n: w.float() for n, w in p.items()} for p in path]
        ),
    },
)
