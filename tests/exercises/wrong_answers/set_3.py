import math

import torch.nn.functional as F

from mamlpp import checks
from tests.exercises.wrong_answers import all_wrong, wrong


def around(steps, place):
    return [max(0, 1 - abs(step - place)) for step in range(1, steps + 1)]


def done(epoch, msl_epochs):
    return min(epoch / msl_epochs, 1)


def spot(n, e, epoch):
    return around(n, 1 + (n - 1) * done(epoch, e))


def alone(n, step):
    return [1.0 if i == step else 0.0 for i in range(1, n + 1)]


@wrong(checks.curriculum, "the epoch may be a fraction")
def takes_whole_epochs(steps, msl_epochs, epoch):
    return spot(steps, msl_epochs, epoch // 1)


@wrong(checks.curriculum, "after epoch E it goes on")
def never_arrives(steps, msl_epochs, epoch):
    return around(steps, 1 + (steps - 1) * epoch / msl_epochs)


@wrong(checks.curriculum, "the other way round")
def begins_with_the_last(steps, msl_epochs, epoch):
    return around(steps, steps - (steps - 1) * done(epoch, msl_epochs))


@wrong(checks.curriculum, "the two shares are swapped")
def swaps_the_shares(steps, msl_epochs, epoch):
    place = 1 + (steps - 1) * done(epoch, msl_epochs)
    step, share = int(place), place - int(place)
    v = [0.0] * steps
    v[step - 1] = share if share else 1.0
    if share:
        v[step] = 1 - share
    return v


@wrong(checks.curriculum, "earlier steps keep their share")
def adds_steps(steps, msl_epochs, epoch):
    count = int(1 + (steps - 1) * done(epoch, msl_epochs))
    return [1 / count] * count + [0.0] * (steps - count)


@wrong(checks.curriculum, "this is the paper's annealing")
def anneals(steps, msl_epochs, epoch):
    other = (1 - done(epoch, msl_epochs)) / steps
    return [other] * (steps - 1) + [1 - (steps - 1) * other]


@wrong(checks.curriculum, "from the first step to the last at once")
def skips_the_middle(steps, msl_epochs, epoch):
    v = [0.0] * steps
    v[0] += 1 - done(epoch, msl_epochs)
    v[-1] += done(epoch, msl_epochs)
    return v


all_wrong(
    checks.curriculum,
    {
        "it rounds the epoch": lambda n, e, epoch: spot(n, e, round(epoch)),
        "before epoch E: at E": lambda n, e, epoch: spot(n, e - 1, epoch),
        "one epoch late": lambda n, e, epoch: spot(n, e + 1, epoch),
        "E is not always 10": lambda n, e, epoch: spot(n, 10, epoch),
        "yours goes N, and arrives": lambda n, e, epoch: around(n, min(1 + n * done(epoch, e), n)),
        "it begins before the first step": lambda n, e, epoch: around(n, n * done(epoch, e)),
        "it waits at the first step": lambda n, e, epoch: around(n, max(1, n * done(epoch, e))),
        "the nearest: between": lambda n, e, epoch: alone(n, round(1 + (n - 1) * done(epoch, e))),
        "then the next: between": lambda n, e, epoch: alone(n, 1 + (n - 1) * done(epoch, e) // 1),
        "nothing moves": lambda n, e, epoch: alone(n, 1),
        "that is plain MAML": lambda n, e, epoch: alone(n, n),
        "each step has the same weight": lambda n, e, epoch: [1 / n for _ in range(n)],
        "it returns the place": lambda n, e, epoch: 1 + (n - 1) * done(epoch, e),
        "like a cosine": lambda n, e, epoch: around(
            n, 1 + (n - 1) * (0.5 - 0.5 * math.cos(math.pi * done(epoch, e)))
        ),
        "faster and faster": lambda n, e, epoch: around(n, 1 + (n - 1) * done(epoch, e) ** 2),
        "should have 3 entries, not 4": lambda n, e, epoch: [0.0, *spot(n, e, epoch)],
        "your weights sum to 3.00, not to 1": lambda n, e, epoch: [
            3 * v for v in spot(n, e, epoch)
        ],
    },
)


@wrong(checks.lifted, "but nobody pays for it")
def raises_the_small_ones(step_weights, floor):
    return [max(v, floor) for v in step_weights]


@wrong(checks.lifted, "dividing by the sum lowers the raised weights")
def divides_by_the_sum(step_weights, floor):
    raised = [max(v, floor) for v in step_weights]
    return [v / sum(raised) for v in raised]


@wrong(checks.lifted, "the last step alone pays")
def lets_the_last_pay(step_weights, floor):
    raised = [max(v, floor) for v in step_weights[:-1]]
    return [*raised, 1 - sum(raised)]


@wrong(checks.lifted, "the largest weight alone pays")
def lets_the_largest_pay(step_weights, floor):
    raised = [max(v, floor) for v in step_weights]
    raised[raised.index(max(raised))] += 1 - sum(raised)
    return raised


@wrong(checks.lifted, "only the weights above the floor pay")
def lets_the_others_pay(step_weights, floor):
    low = [v < floor for v in step_weights]
    high = sum(v for v, is_low in zip(step_weights, low, strict=True) if not is_low)
    left = 1 - sum(low) * floor
    return [
        floor if is_low else v * left / high for v, is_low in zip(step_weights, low, strict=True)
    ]


@wrong(checks.lifted, "changed what it was given")
def lifts_in_place(step_weights, floor):
    for i, v in enumerate(step_weights):
        step_weights[i] = floor + (1 - len(step_weights) * floor) * v
    return step_weights


def blended(lift):
    """`lift(v, N, floor)` of each weight v."""
    return lambda step_weights, floor: [lift(v, len(step_weights), floor) for v in step_weights]


all_wrong(
    checks.lifted,
    {
        "the floor on top of all it had": blended(lambda v, n, floor: v + floor),
        "leaves a weight of 0 below": blended(lambda v, n, floor: (v + floor) / (1 + n * floor)),
        "it takes the floor away once": blended(lambda v, n, floor: floor + (1 - floor) * v),
        "N − 1 floors": blended(lambda v, n, floor: floor + (1 - (n - 1) * floor) * v),
        "the steps share one floor": blended(lambda v, n, floor: floor / n + (1 - floor) * v),
        "add the floor": blended(lambda v, n, floor: (1 - n * floor) * v),
        "every weight is the floor": blended(lambda v, n, floor: floor),
        "each step gets the same": blended(lambda v, n, floor: 1 / n),
        "come back as they were": blended(lambda v, n, floor: v),
        "`floor` is an argument": blended(lambda v, n, floor: 0.02 + (1 - n * 0.02) * v),
        "it is not always 5": blended(lambda v, n, floor: floor + (1 - 5 * floor) * v),
        "the order is the other way round": lambda v, floor: blended(
            lambda v, n, floor: floor + (1 - n * floor) * v
        )(v[::-1], floor),
        "your weights sum to 2.00, not to 1": blended(
            lambda v, n, floor: 2 * (floor + (1 - n * floor) * v)
        ),
    },
)


def drawn(step_weights, u):
    total = 0.0
    for step, v in enumerate(step_weights, start=1):
        total += v
        if u < total:
            return step
    return len(step_weights)


def sampled(choose, change=lambda loss, v, n: loss, **options):
    """The loss of the step that `choose(step_weights, u)` says, put through `change`."""

    def sampled_loss(model, path, x, y, step_weights, u):
        loss = F.cross_entropy(model(path[choose(step_weights, u)], x), y, **options)
        return change(loss, step_weights[drawn(step_weights, u) - 1], len(step_weights))

    return sampled_loss


@wrong(checks.sampled_loss, "but all N are computed")
def computes_all(model, path, x, y, step_weights, u):
    losses = [F.cross_entropy(model(weights, x), y) for weights in path[1:]]
    return losses[drawn(step_weights, u) - 1]


@wrong(checks.sampled_loss, "this is the multi-step loss itself")
def adds_them_up(model, path, x, y, step_weights, u):
    pairs = zip(step_weights, path[1:], strict=True)
    return sum(v * F.cross_entropy(model(weights, x), y) for v, weights in pairs)


@wrong(checks.sampled_loss, "a step with the weight 0 is drawn")
def takes_the_lower_part(model, path, x, y, step_weights, u):
    step, total = 1, step_weights[0]
    while total < u:
        total += step_weights[step]
        step += 1
    return F.cross_entropy(model(path[step], x), y)


@wrong(checks.sampled_loss, "it compares u with the single weights")
def does_not_add_up(model, path, x, y, step_weights, u):
    for step, v in enumerate(step_weights, start=1):
        if u < v:
            return F.cross_entropy(model(path[step], x), y)
    return F.cross_entropy(model(path[-1], x), y)


@wrong(checks.sampled_loss, "it is cut off from θ_0")
def makes_leaves(model, path, x, y, step_weights, u):
    weights = path[drawn(step_weights, u)]
    leaves = {name: w.detach().requires_grad_() for name, w in weights.items()}
    return F.cross_entropy(model(leaves, x), y)


@wrong(checks.sampled_loss, "cross_entropy takes logits")
def applies_softmax(model, path, x, y, step_weights, u):
    return F.cross_entropy(model(path[drawn(step_weights, u)], x).softmax(1), y)


all_wrong(
    checks.sampled_loss,
    {
        "the loss is multiplied by v_i": sampled(drawn, lambda loss, v, n: v * loss),
        "the loss is divided by v_i": sampled(drawn, lambda loss, v, n: loss / v),
        "the loss is multiplied by N: ": sampled(drawn, lambda loss, v, n: n * loss),
        "the loss is divided by N": sampled(drawn, lambda loss, v, n: loss / n),
        "the loss is multiplied by N · v_i": sampled(drawn, lambda loss, v, n: n * v * loss),
        "yours is one entry too early": sampled(lambda v, u: drawn(v, u) - 1),
        "it is one step too far": sampled(lambda v, u: min(drawn(v, u) + 1, len(v))),
        "each step equally often": sampled(lambda v, u: math.floor(u * len(v)) + 1),
        "from the last to the first": sampled(lambda v, u: len(v) - drawn(v[::-1], u) + 1),
        "that is plain MAML": sampled(lambda v, u: -1),
        "it takes the first step every time": sampled(lambda v, u: 1),
        "the step with the largest weight": sampled(lambda v, u: v.index(max(v)) + 1),
        "it takes the weights before the first step": sampled(lambda v, u: 0),
        "the loss is the sum over the images": sampled(drawn, reduction="sum"),
        "one number for each image": sampled(drawn, reduction="none"),
        "it should return the tensor itself": sampled(drawn, lambda loss, v, n: loss.item()),
        "the dtype is not that of the inputs": sampled(drawn, lambda loss, v, n: loss.half()),
        "reads beyond the last entry": sampled(lambda v, u: len(v) + 1),
    },
)


@wrong(checks.query_losses, "no weight ever becomes 0")
def ignores_floors(steps, msl_epochs, floor, epochs):
    short = min(msl_epochs, epochs)
    return short * steps + epochs - short


@wrong(checks.query_losses, "the others are not computed any more")
def computes_all_to_the_end(steps, msl_epochs, floor, epochs):
    return epochs * steps


@wrong(checks.query_losses, "one epoch too many")
def counts_epoch_e(steps, msl_epochs, floor, epochs):
    all_epochs = epochs if floor else min(msl_epochs + 1, epochs)
    return all_epochs * steps + epochs - all_epochs


@wrong(checks.query_losses, "one epoch too few")
def counts_from_one(steps, msl_epochs, floor, epochs):
    all_epochs = epochs if floor else min(msl_epochs - 1, epochs)
    return all_epochs * steps + epochs - all_epochs


@wrong(checks.query_losses, "one loss is still computed")
def forgets_the_rest(steps, msl_epochs, floor, epochs):
    return (epochs if floor else min(msl_epochs, epochs)) * steps


@wrong(checks.query_losses, "may end before epoch E")
def trains_to_epoch_e(steps, msl_epochs, floor, epochs):
    return epochs * steps if floor else msl_epochs * steps + epochs - msl_epochs


def counted(in_epoch):
    return lambda steps, msl_epochs, floor, epochs: sum(
        in_epoch(steps, floor > 0 or epoch < msl_epochs) for epoch in range(epochs)
    )


all_wrong(
    checks.query_losses,
    {
        "all N losses are computed, the last one too": counted(lambda n, all_n: (n - 1) * all_n),
        "the last of them is counted twice": counted(lambda n, all_n: n * all_n + 1),
        "that is plain MAML": counted(lambda n, all_n: 1),
        "count the whole training": lambda n, e, floor, epochs: n,
        "E is not always 10": lambda n, e, floor, epochs: counted(
            lambda n, all_n: n if all_n else 1
        )(n, 10, floor, epochs),
    },
)


def losses_counted(steps, msl_epochs, floor, epochs):
    with_all = epochs if floor else min(msl_epochs, epochs)
    return steps * with_all + epochs - with_all


all_wrong(
    checks.query_losses,
    {
        "too large by 1": lambda *inputs: losses_counted(*inputs) + 1,
        "the same answer to every call": lambda *inputs: 8,
        "it should give a number, not a list": lambda *inputs: [losses_counted(*inputs)],
    },
)


all_wrong(
    checks.query_losses,
    {
        "too small by 1": lambda n, e, floor, epochs: (
            sum(n if floor > 0 or epoch < e else 1 for epoch in range(epochs)) - 1
        ),
        "it should give a number, not a list": lambda n, e, floor, epochs: [
            n if floor > 0 or epoch < e else 1 for epoch in range(epochs)
        ],
    },
)


all_wrong(
    checks.query_losses,
    {
        "the training is that long": lambda n, e, floor, epochs: n * e + (epochs - e),
        "the mean of an epoch": lambda n, e, floor, epochs: (
            sum(n if epoch < e or floor else 1 for epoch in range(epochs)) / epochs
        ),
        "wrong only where floor is above 0": lambda n, e, floor, epochs: (
            3 * epochs if floor else sum(n if epoch < e else 1 for epoch in range(epochs))
        ),
    },
)
