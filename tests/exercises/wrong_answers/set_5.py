import torch

from mamlpp import checks
from tests.exercises.wrong_answers import all_wrong, wrong


def scaled(x, weight, bias, eps, dims=(0, 2, 3), correction=0):
    variance, mean = torch.var_mean(x, dims, correction=correction, keepdim=True)
    x = (x - mean) / torch.sqrt(variance + eps)
    return x * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)


@wrong(checks.normalise, "correction=0")
def is_unbiased(x, weight, bias, eps):
    return scaled(x, weight, bias, eps, correction=1)


@wrong(checks.normalise, "that is instance norm")
def normalises_each_image(x, weight, bias, eps):
    return scaled(x, weight, bias, eps, dims=(2, 3))


@wrong(checks.normalise, "one mean for all channels")
def mixes_channels(x, weight, bias, eps):
    return scaled(x, weight, bias, eps, dims=(0, 1, 2, 3))


@wrong(checks.normalise, "each pixel has a mean of its own")
def normalises_each_pixel(x, weight, bias, eps):
    return scaled(x, weight, bias, eps, dims=0)


@wrong(checks.normalise, "eps is missing")
def forgets_eps(x, weight, bias, eps):
    return scaled(x, weight, bias, 0.0)


@wrong(checks.normalise, "eps is outside of the root")
def adds_eps_late(x, weight, bias, eps):
    x = (x - x.mean((0, 2, 3), keepdim=True)) / (
        x.var((0, 2, 3), correction=0, keepdim=True).sqrt() + eps
    )
    return x * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)


@wrong(checks.normalise, "weight and bias are missing")
def forgets_to_scale(x, weight, bias, eps):
    return scaled(x, torch.ones_like(weight), torch.zeros_like(bias), eps)


@wrong(checks.normalise, "take the square root")
def forgets_the_root(x, weight, bias, eps):
    variance, mean = torch.var_mean(x, (0, 2, 3), correction=0, keepdim=True)
    x = (x - mean) / (variance + eps)
    return x * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)


def moved(running, rows, batch, momentum):
    new = running.clone()
    new[rows] = (1 - momentum) * new[rows] + momentum * batch
    return new


@wrong(checks.update_running, "all rows moved")
def moves_all(running, step, batch, momentum):
    return moved(running, slice(None), batch, momentum)


@wrong(checks.update_running, "old and new are swapped")
def turns_momentum_round(running, step, batch, momentum):
    return moved(running, min(step, len(running) - 1), batch, 1 - momentum)


@wrong(checks.update_running, "the row is one too low")
def counts_from_one(running, step, batch, momentum):
    return moved(running, min(step, len(running) - 1) - 1, batch, momentum)


@wrong(checks.update_running, "start again from the first")
def wraps_round(running, step, batch, momentum):
    return moved(running, step % len(running), batch, momentum)


@wrong(checks.update_running, "should only move towards them")
def replaces(running, step, batch, momentum):
    return moved(running, min(step, len(running) - 1), batch, 1.0)


@wrong(checks.update_running, "returns the moved row alone")
def gives_one_row(running, step, batch, momentum):
    row = min(step, len(running) - 1)
    return moved(running, row, batch, momentum)[row]


@wrong(checks.update_running, "the sum grows for ever")
def only_adds(running, step, batch, momentum):
    new = running.clone()
    new[min(step, len(running) - 1)] += momentum * batch
    return new


@wrong(checks.update_running, "changed what it was given")
def writes_in_place(running, step, batch, momentum):
    running[min(step, len(running) - 1)].lerp_(batch, momentum)
    return running


@wrong(checks.update_running, "has no row of its own")
def falls_off_the_end(running, step, batch, momentum):
    return moved(running, step, batch, momentum)


def agree(a, b):
    return torch.allclose(a, b, rtol=1e-3, atol=1e-4)


@wrong(checks.leaks, "sees a leak where there is none")
def wants_every_digit(classify, images):
    return not torch.equal(classify(images)[:1], classify(images[:1]))


@wrong(checks.leaks, "are still the same images")
def shuffles(classify, images):
    return not agree(classify(images), classify(images.flip(0)).flip(0))


@wrong(checks.leaks, "a leak into all images but the first")
def looks_at_the_first(classify, images):
    return not agree(classify(images)[:1], classify(images[:1]))


@wrong(checks.leaks, "finds no leak at all")
def asks_the_same_twice(classify, images):
    return not agree(classify(images), classify(images))


@wrong(checks.leaks, "never calls")
def calls_nothing(classify, images):
    return False


@wrong(checks.leaks, "should return True or False")
def gives_the_difference(classify, images):
    return (classify(images)[0] - classify(images[:1])[0]).abs().max()


def logits(features, reference, head):
    mean, variance = reference.mean(0), reference.var(0, correction=0)
    return ((features - mean) / torch.sqrt(variance + 1e-5)).relu() @ head


@wrong(checks.sealed_logits, "still normalised by each other")
def changes_nothing(query, support, filters, head):
    return logits(query @ filters, query @ filters, head)


@wrong(checks.sealed_logits, "only the mean was replaced")
def replaces_the_mean(query, support, filters, head):
    x = query @ filters
    variance = x.var(0, correction=0)
    return ((x - (support @ filters).mean(0)) / torch.sqrt(variance + 1e-5)).relu() @ head


@wrong(checks.sealed_logits, "only the variance was replaced")
def replaces_the_variance(query, support, filters, head):
    x = query @ filters
    variance = (support @ filters).var(0, correction=0)
    return ((x - x.mean(0)) / torch.sqrt(variance + 1e-5)).relu() @ head


@wrong(checks.sealed_logits, "normalised together")
def takes_all_together(query, support, filters, head):
    return logits(query @ filters, torch.cat([support, query]) @ filters, head)


@wrong(checks.sealed_logits, "it is another network")
def removes_the_layer(query, support, filters, head):
    return (query @ filters).relu() @ head


@wrong(checks.sealed_logits, "that is layer norm")
def normalises_each_query(query, support, filters, head):
    x = query @ filters
    variance, mean = torch.var_mean(x, 1, correction=0, keepdim=True)
    return ((x - mean) / torch.sqrt(variance + 1e-5)).relu() @ head


@wrong(checks.sealed_logits, "logits of the support images")
def classifies_the_support(query, support, filters, head):
    return logits(support @ filters, support @ filters, head)


def own_statistics(x):
    return x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)


def by_channel(t):
    return t.view(1, -1, 1, 1)


def forgets_keepdim(x, weight, bias, eps):
    x = (x - x.mean((0, 2, 3))) / torch.sqrt(x.var((0, 2, 3), correction=0) + eps)
    return x * by_channel(weight) + by_channel(bias)


def forgets_view(x, weight, bias, eps):
    mean, variance = own_statistics(x)
    return (x - mean) / torch.sqrt(variance + eps) * weight + bias


def detaches_statistics(x, weight, bias, eps):
    mean, variance = own_statistics(x.detach())
    return (x - mean) / torch.sqrt(variance + eps) * by_channel(weight) + by_channel(bias)


def forgets_the_mean(x, weight, bias, eps):
    _, variance = own_statistics(x)
    return x / torch.sqrt(variance + eps) * by_channel(weight) + by_channel(bias)


def adds_the_bias_first(x, weight, bias, eps):
    mean, variance = own_statistics(x)
    return ((x - mean) / torch.sqrt(variance + eps) + by_channel(bias)) * by_channel(weight)


def is_numpy_like(x, weight, bias, eps):
    return scaled(x, weight, bias, eps).tolist()


all_wrong(
    checks.normalise,
    {
        "lost their keepdim=True": forgets_keepdim,
        "do not line up with the channels": forgets_view,
        "mean and variance entered as constants": detaches_statistics,
        "the mean is not subtracted": forgets_the_mean,
        "scale first, then shift": adds_the_bias_first,
        "that is layer norm": lambda x, w, b, eps: scaled(x, w, b, eps, dims=(1, 2, 3)),
        "it averages over images and channels": lambda x, w, b, eps: scaled(
            x, w, b, eps, dims=(0, 1)
        ),
        "it is not always 1e-5": lambda x, w, b, eps: scaled(x, w, b, 1e-5),
        "the weight is missing": lambda x, w, b, eps: scaled(x, torch.ones_like(w), b, eps),
        "the bias is missing": lambda x, w, b, eps: scaled(x, w, torch.zeros_like(b), eps),
        "weight and bias are swapped": lambda x, w, b, eps: scaled(x, b, w, eps),
        "it should give a tensor, not a list": is_numpy_like,
        "the result has no graph": lambda x, w, b, eps: scaled(x, w, b, eps).detach(),
        "the dtype is not that of the inputs": lambda x, w, b, eps: scaled(x, w, b, eps).half(),
    },
)


def updated(row, blend=lambda old, new, m: (1 - m) * old + m * new):
    def update_running(running, step, batch, momentum):
        new = running.clone()
        place = row(step, len(running))
        new[place] = blend(running[place], batch, momentum)
        return new

    return update_running


def bounded(step, rows):
    return min(step, rows - 1)


all_wrong(
    checks.update_running,
    {
        "are ignored": lambda running, step, batch, m: (
            moved(running, step, batch, m) if step < len(running) else running
        ),
        "the one before the last": updated(lambda step, rows: step if step < rows else rows - 2),
        "the row is one too high": updated(lambda step, rows: min(step + 1, rows - 1)),
        "always moves the first row": updated(lambda step, rows: 0),
        "always moves the last row": updated(lambda step, rows: -1),
        "it is not always 0.1": updated(bounded, lambda old, new, m: 0.9 * old + 0.1 * new),
        "moves away from the batch": updated(bounded, lambda old, new, m: old - m * (new - old)),
        "come back as they were": lambda running, step, batch, m: running,
        "the dtype is not that of the inputs": lambda running, step, batch, m: updated(bounded)(
            running, step, batch, m
        ).float(),
        "it should give a tensor, not a list": lambda running, step, batch, m: updated(bounded)(
            running, step, batch, m
        ).tolist(),
    },
)


@wrong(checks.leaks, "a leak into all images but the last")
def looks_at_the_last(classify, images):
    return not agree(classify(images)[-1:], classify(images[-1:]))


def of_features(features, correction=0):
    return features.mean(0), features.var(0, correction=correction)


def sealed(statistics, finish=lambda x, head: x.relu() @ head, eps=1e-5):
    def sealed_logits(query, support, filters, head):
        mean, variance = statistics(support, filters)
        return finish((query @ filters - mean) / torch.sqrt(variance + eps), head)

    return sealed_logits


def right(support, filters):
    return of_features(support @ filters)


def normalises_images(query, support, filters, head):
    mean, variance = of_features(support)
    return ((query - mean) / torch.sqrt(variance + 1e-5) @ filters).relu() @ head


def divides_by_variance(query, support, filters, head):
    mean, variance = right(support, filters)
    return ((query @ filters - mean) / (variance + 1e-5)).relu() @ head


all_wrong(
    checks.sealed_logits,
    {
        "divides by the count less one": sealed(lambda s, f: of_features(s @ f, correction=1)),
        "those of the support images": normalises_images,
        "one mean for all features": sealed(
            lambda s, f: ((s @ f).mean(), (s @ f).var(correction=0))
        ),
        "the ReLU is missing": sealed(right, lambda x, head: x @ head),
        "the head is missing": sealed(right, lambda x, head: x.relu()),
        "below the root is missing": sealed(right, eps=0),
        "takes the square root": divides_by_variance,
        "entered as constants": sealed(lambda s, f: right(s.detach(), f.detach())),
        "the result has no graph": lambda *inputs: sealed(right)(*inputs).detach(),
    },
)


@wrong(checks.normalise, "is normalised over its channels")
def averages_over_channels(x, weight, bias, eps):
    return scaled(x, weight, bias, eps, dims=1)


@wrong(checks.update_running, "it moves a column")
def moves_a_column(running, step, batch, momentum):
    new, place = running.clone(), min(step, len(running) - 1)
    new[:, place] = (1 - momentum) * running[:, place] + momentum * batch
    return new


@wrong(checks.leaks, "when one particular image is away")
def looks_at_one_in_the_middle(classify, images):
    return not agree(classify(images)[3], classify(images[3:4])[0])


@wrong(checks.leaks, "with those that it gets alone")
def leaves_the_first_out(classify, images):
    return not agree(classify(images)[1:], classify(images[1:]))


@wrong(checks.leaks, "with those that it gets alone")
def compares_two_halves(classify, images):
    together, half = classify(images), len(images) // 2
    return not agree(together[:half], classify(images[:half]))


@wrong(checks.leaks, "line up their dimensions")
def forgets_the_first_dimension(classify, images):
    return not agree(classify(images), torch.cat([classify(image) for image in images]))


@wrong(checks.leaks, "returned None")
def prints_the_answer(classify, images):
    print(not agree(classify(images)[:1], classify(images[:1])))


@wrong(checks.leaks, "sees a leak where there is none")
def compares_different_images(classify, images):
    return not agree(classify(images)[0], classify(images)[1])


@wrong(checks.leaks, "changed what it was given")
def blackens_an_image(classify, images):
    before = classify(images)
    images[0] = 0
    return not agree(before[1:], classify(images)[1:])


@wrong(checks.sealed_logits, "by itself alone")
def classifies_each_alone(query, support, filters, head):
    return torch.cat([logits(x, x, head) for x in (query @ filters).unsqueeze(1)])
