import torch

from mamlpp import checks
from tests.exercises.wrong_answers import all_wrong, wrong


def scaled(x, weight, bias, eps, dims=(0, 2, 3), correction=0):
    variance, mean = torch.var_mean(x, dims, correction=correction, keepdim=True)
    x = (x - mean) / torch.sqrt(variance + eps)
    return x * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)


def moved(running, rows, batch, momentum):
    new = running.clone()
    new[rows] = (1 - momentum) * new[rows] + momentum * batch
    return new


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


def updated(row, blend=lambda old, new, m: (1 - m) * old + m * new):
    def update_running(running, step, batch, momentum):
        new = running.clone()
        place = row(step, len(running))
        new[place] = blend(running[place], batch, momentum)
        return new

    return update_running


def bounded(step, rows):
    return min(step, rows - 1)


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


@wrong(checks.leaks, "takes several images")
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


def between(means):
    return means.var(0, correction=0)


all_wrong(
    checks.pooled,
    {
        "forgets how far the tasks' means lie apart": lambda m, v: (m.mean(0), v.mean(0)),
        "forgets the variances within the tasks": lambda m, v: (m.mean(0), between(m)),
        "correction=0": lambda m, v: (m.mean(0), v.mean(0) + m.var(0)),
        "it adds the square of the mean": lambda m, v: (m.mean(0), v.mean(0) + m.mean(0) ** 2),
        "subtract the square of the mean": lambda m, v: (m.mean(0), (v + m**2).mean(0)),
        "it subtracts how far the means": lambda m, v: (m.mean(0), v.mean(0) - between(m)),
        "are averaged, not added": lambda m, v: (m.mean(0), v.sum(0) + between(m)),
        "it adds the deviation": lambda m, v: (m.mean(0), v.mean(0) + m.std(0, correction=0)),
        "it averages deviations": lambda m, v: (m.mean(0), v.sqrt().mean(0) ** 2 + between(m)),
        "it returns the deviation": lambda m, v: (m.mean(0), (v.mean(0) + between(m)).sqrt()),
        "averages over the channels": lambda m, v: (m.mean(1), v.mean(1) + between(m.T)),
        "over the tasks, not added": lambda m, v: (m.sum(0), v.mean(0) + between(m)),
        "the mean comes first": lambda m, v: (v.mean(0) + between(m), m.mean(0)),
        "the first task alone": lambda m, v: (m[0], v[0]),
        "the means entered as constants": lambda m, v: (
            m.detach().mean(0),
            v.mean(0) + between(m.detach()),
        ),
        "it should return 2 values": lambda m, v: v.mean(0) + between(m),
    },
)


def mixed(momentum, batches):
    """The shares, by mixing a list."""
    parts = [1.0]
    for _ in range(batches):
        parts = [(1 - momentum) * part for part in parts] + [momentum]
    return parts


all_wrong(
    checks.shares,
    {
        "the other way round: the start": lambda m, n: mixed(m, n)[::-1],
        "the start has a share too": lambda m, n: mixed(m, n)[1:],
        "has the whole share m": lambda m, n: [1 - n * m] + [m] * n,
        "and so does the start": lambda m, n: [(1 - m) ** n] + [m] * n,
        "an average would give all": lambda m, n: [1 / (n + 1)] * (n + 1),
        "the old values keep": lambda m, n: mixed(1 - m, n),
        "once too often": lambda m, n: [mixed(m, n)[0]] + [(1 - m) * x for x in mixed(m, n)[1:]],
        "also with the last": lambda m, n: [(1 - m) ** (n - 1), *mixed(m, n)[1:]],
        "what one batch leaves": lambda m, n: [1 - m, *mixed(m, n)[1:]],
        "how far each has faded": lambda m, n: [mixed(m, n)[0]] + [x / m for x in mixed(m, n)[1:]],
        "the newest has": lambda m, n: [mixed(m, n)[0], *mixed(m, n)[:0:-1]],
        "one batch too many": lambda m, n: mixed(m, n + 1),
        "it is not always 0.1": lambda m, n: mixed(0.1, n),
        "the share of the start alone": lambda m, n: (1 - m) ** n,
        "your shares sum to": lambda m, n: [m**k for k in range(n, -1, -1)],
    },
)

all_wrong(
    checks.pooled,
    {
        "each channel has its own mean": lambda means, variances: (
            means.mean(0),
            variances.mean(0) + ((means - means.mean()) ** 2).mean(0),
        ),
        "all channels are put together": lambda means, variances: (
            means.mean(),
            variances.mean() + means.var(correction=0),
        ),
        "[F] is asked for, not [1, F]": lambda means, variances: (
            means.mean(0, keepdim=True),
            (variances + means**2).mean(0, keepdim=True) - means.mean(0, keepdim=True) ** 2,
        ),
        "variances entered as a constant": lambda means, variances: (
            means.mean(0),
            variances.detach().mean(0) + means.var(0, correction=0),
        ),
        "it should return 2 values": lambda means, variances: torch.stack(
            [means.mean(0), variances.mean(0) + means.var(0, correction=0)]
        ),
    },
)
all_wrong(
    checks.shares,
    {
        "comes in with m and keeps 1 − m": lambda m, n: (
            [(1 - m) ** n] + [(1 - m) * m ** (n - i) for i in range(1, n + 1)]
        ),
        "it counts one batch too few": lambda m, n: (
            [(1 - m) ** n] + [m * (1 - m) ** (n - i) for i in range(1, n)]
        ),
    },
)


@wrong(checks.leaks, "answers the other way round")
def says_whether_it_is_sealed(classify, images):
    alone = torch.cat([classify(image[None]) for image in images])
    return torch.allclose(classify(images), alone, rtol=1e-3, atol=1e-4)


@wrong(checks.leaks, "with those that it gets alone")
def compares_with_half_of_them(classify, images):
    return not torch.allclose(classify(images)[:4], classify(images[:4]), rtol=1e-3, atol=1e-4)


def by_support(query, support, filters):
    features = support @ filters
    deviation = torch.sqrt(features.var(0, correction=0) + 1e-5)
    return ((query @ filters - features.mean(0)) / deviation).relu()


all_wrong(
    checks.sealed_logits,
    {
        "the 1e-5 is outside of the root": lambda q, s, f, h: (
            ((q @ f - (s @ f).mean(0)) / ((s @ f).std(0, correction=0) + 1e-5)).relu() @ h
        ),
        "these are probabilities": lambda q, s, f, h: (by_support(q, s, f) @ h).softmax(1),
        "these are the predicted classes": lambda q, s, f, h: (by_support(q, s, f) @ h).argmax(1),
    },
)


all_wrong(
    checks.pooled,
    {
        "how much they vary": lambda means, variances: (
            means.mean(0),
            variances.var(0, correction=0) + means.var(0, correction=0),
        ),
        "takes the median": lambda means, variances: (
            means.median(0).values,
            variances.mean(0) + means.var(0, correction=0),
        ),
    },
)


def with_features(change):
    def sealed_logits(query, support, filters, head):
        return change(query @ filters, support @ filters, head)

    return sealed_logits


def normalised(x, r, eps=1e-5):
    return (x - r.mean(0)) / torch.sqrt(r.var(0, correction=0) + eps)


all_wrong(
    checks.sealed_logits,
    {
        "takes running statistics as constants": with_features(
            lambda x, r, head: (
                torch.nn.functional.batch_norm(x, r.mean(0), r.var(0, correction=0)).relu() @ head
            )
        ),
        "by .std() + 1e-5": with_features(
            lambda x, r, head: ((x - r.mean(0)) / (r.std(0) + 1e-5)).relu() @ head
        ),
        "among the support images": with_features(
            lambda x, r, head: torch.stack(
                [normalised(one, torch.cat([r, one[None]])).relu() @ head for one in x]
            )
        ),
        "yours is on the logits": with_features(
            lambda x, r, head: (normalised(x, r) @ head).relu()
        ),
        "yours is on the head": with_features(lambda x, r, head: normalised(x, r) @ head.relu()),
        "after the normalisation, not before": with_features(
            lambda x, r, head: normalised(x.relu(), r.relu()) @ head
        ),
        "below the root is 1e-5, as": with_features(
            lambda x, r, head: normalised(x, r, eps=1e-3).relu() @ head
        ),
    },
)
