"""Checks of set 8: eight small programs, each with a defect that published code really had.

For each there is a broken program, a right one, and what can go wrong in repairing it. Which
departures these are is told in chapter 10.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mamlpp.checks.core import (
    Function,
    Wrong,
    attempt,
    generator,
    judge_test,
    judge_trials,
    name_of,
    normal,
    passed,
)

KINDS = {
    "first order": "then a gradient would enter a step as a constant",
    "unread setting": "then something that a user writes down would have no effect",
    "alias": "then two names would stand for one thing that is changed in place",
    "early stop": "then a schedule would leave its line before its end, or at it",
    "iteration for epoch": "then something planned by the epoch would move with every iteration",
    "repeated class": "then a task could have two labels for the same class",
    "transductive": "then the result for an image would depend on its neighbours",
    "deviation over hits": "then an interval would be taken over the wrong things",
    "flat schedule": "then a schedule would begin and end with the same number",
    "shared seed": "then two streams of tasks would be dealt alike",
    "wrong sign": "then something would go up that should go down",
    "uncounted step": "then there would be one step more or less than asked",
}
"""What a defect may be called, and what it would look like."""


def _as_it_is(program: Function, *trial: Any) -> Any:
    return program(*trial)


@dataclass(frozen=True)
class Bug:
    """One of the eight. `probe` runs a program on a trial's inputs and gives plain data."""

    kind: str
    broken: Function
    right: Function
    defect: str
    """What a repair that changes nothing is told."""
    test_hint: str
    """What a test that lets the broken program pass is told."""
    trials: Callable[[torch.Generator], list[tuple[Any, ...]]]
    mistakes: Mapping[str, Function] = field(default_factory=dict)
    probe: Function = _as_it_is
    also_right: Function | None = None


# 1: a gradient that is a constant.


def _inner_steps(create_graph: bool, detach: bool = False) -> Function:
    def adapted(loss: Callable[[Tensor], Tensor], theta: Tensor, rate: float, steps: int) -> Tensor:
        for _ in range(steps):
            [gradient] = torch.autograd.grad(loss(theta), theta, create_graph=create_graph)
            theta = theta - rate * gradient
            theta = theta.detach().requires_grad_() if detach else theta
        return theta

    return adapted


def _one_gradient(
    loss: Callable[[Tensor], Tensor], theta: Tensor, rate: float, steps: int
) -> Tensor:
    [gradient] = torch.autograd.grad(loss(theta), theta, create_graph=True)
    return theta - steps * rate * gradient


def _with_meta_gradient(program: Function, *trial: Any) -> Any:
    loss, theta, rate, steps = trial
    theta = theta.clone().requires_grad_()
    end = program(loss, theta, rate, steps)
    if not isinstance(end, Tensor):
        return end
    if not end.requires_grad:
        return end.detach(), None
    [gradient] = torch.autograd.grad(end.sum(), theta, allow_unused=True)
    return end.detach(), gradient


def _quartic(theta: Tensor) -> Tensor:
    return (theta**4 / 4 + theta**2).sum()


# 2: a setting that nobody reads.

_DEFAULTS: dict[str, float] = {"inner_steps": 5, "inner_rate": 0.1, "outer_rate": 0.001}


def _read(config: Mapping[str, float]) -> dict[str, float]:
    return {name: config.get(name, default) for name, default in _DEFAULTS.items()}


def _read_strictly(config: Mapping[str, float]) -> dict[str, float]:
    for name in config:
        if name not in _DEFAULTS:
            raise ValueError(f"there is no setting {name!r}")
    return _read(config)


def _read_only_complete(config: Mapping[str, float]) -> dict[str, float]:
    if set(config) != set(_DEFAULTS):
        raise ValueError(f"these are not all settings: {list(config)}")
    return _read(config)


def _read_vaguely(config: Mapping[str, float]) -> dict[str, float]:
    if set(config) - set(_DEFAULTS):
        raise ValueError("there is a wrong setting")
    return _read(config)


def _or_refused(program: Function, *trial: Any) -> Any:
    [config] = trial
    try:
        return program(config)
    except (ValueError, KeyError) as error:
        unknown = [name for name in config if name not in _DEFAULTS]
        named = all(name in str(error) for name in unknown)
        return f"refused, {'named' if named and unknown else 'not named'}"


# 3: a backup that is the thing itself.


def _evaluate_with(back_up: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Function:
    def evaluated(statistics: dict[str, Tensor], evaluate: Function) -> Any:
        backup = back_up(statistics)
        result = evaluate(statistics)
        for name, tensor in backup.items():
            statistics[name].copy_(tensor)
        return result

    return evaluated


def _clones(statistics: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in statistics.items()}


def _evaluate_a_copy(statistics: dict[str, Tensor], evaluate: Function) -> Any:
    return evaluate(_clones(statistics))


def _forget_the_result(statistics: dict[str, Tensor], evaluate: Function) -> Any:
    evaluate(_clones(statistics))
    return 0.0


def _evaluate_zeros(statistics: dict[str, Tensor], evaluate: Function) -> Any:
    return evaluate({name: torch.zeros_like(tensor) for name, tensor in statistics.items()})


def _moving_evaluation(statistics: dict[str, Tensor]) -> float:
    statistics["mean"].add_(1.5)
    statistics["variance"].mul_(2.0)
    return float(statistics["mean"].sum() + statistics["variance"].sum())


def _with_statistics_after(program: Function, *trial: Any) -> Any:
    statistics = _clones(trial[0])
    return [program(statistics, _moving_evaluation), statistics]


# 4 and 5: two schedules of the multi-step loss.


def _weights(steps: int, other: float) -> list[float]:
    return [other] * (steps - 1) + [1 - (steps - 1) * other]


def _stops_at_the_end(steps: int, msl_epochs: int, floor: float, epoch: float) -> list[float]:
    if epoch >= msl_epochs:
        return _weights(steps, 0.0)
    return _to_the_floor(steps, msl_epochs, floor, epoch)


def _to_the_floor(steps: int, msl_epochs: int, floor: float, epoch: float) -> list[float]:
    return _weights(steps, 1 / steps + min(epoch / msl_epochs, 1) * (floor - 1 / steps))


def _by(count: Callable[[int, int], float]) -> Function:
    """Weights that fall by 1/(N·E) for each of what `count` makes of (iteration, an epoch's)."""

    def weights(steps: int, msl_epochs: int, per_epoch: int, iteration: int) -> list[float]:
        fall = count(iteration, per_epoch) / (steps * msl_epochs)
        return _weights(steps, max(1 / steps - fall, 0.0))

    return weights


# 6: classes that come twice.


def _with_replacement(classes: int, ways: int, draw: torch.Generator) -> list[int]:
    return torch.randint(classes, (ways,), generator=draw).tolist()


def _without_replacement(classes: int, ways: int, draw: torch.Generator) -> list[int]:
    return torch.randperm(classes, generator=draw)[:ways].tolist()


def _by_sorting(classes: int, ways: int, draw: torch.Generator) -> list[int]:
    return torch.rand(classes, generator=draw).argsort()[:ways].tolist()


def _as_a_set(classes: int, ways: int, draw: torch.Generator) -> list[int]:
    return list(set(_with_replacement(classes, ways, draw)))


def _the_first(classes: int, ways: int, draw: torch.Generator) -> list[int]:
    return list(range(ways))


def _neighbours(classes: int, ways: int, draw: torch.Generator) -> list[int]:
    start = int(torch.randint(classes, (), generator=draw))
    return [(start + i) % classes for i in range(ways)]


def _its_own_draw(classes: int, ways: int, draw: torch.Generator) -> list[int]:
    return torch.randperm(classes)[:ways].tolist()


def _properties_of_draws(program: Function, *trial: Any) -> Any:
    classes, ways, seed = trial
    draw = generator(seed)
    drawn = [program(classes, ways, draw) for _ in range(200)]
    again = [program(classes, ways, draw) for draw in [generator(seed)] for _ in range(5)]
    if not all(isinstance(task, list) for task in drawn):
        return drawn[0]
    return {
        "lengths": all(len(task) == ways for task in drawn),
        "different": all(len(set(task)) == len(task) for task in drawn),
        "every class comes": {c for task in drawn for c in task} == set(range(classes)),
        "any company": any(abs(task[0] - task[1]) not in (1, classes - 1) for task in drawn),
        "repeatable": again == drawn[:5],
    }


# 7: images that see each other.


def _normalised(training: bool) -> Function:
    def features(images: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        return F.batch_norm(images, mean.clone(), variance.clone(), training=training)

    return features


def _half_normalised(images: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    own = images.var((0, 2, 3), correction=0)
    return (images - mean.view(1, -1, 1, 1)) / (own.view(1, -1, 1, 1) + 1e-5).sqrt()


def _by_variance(images: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return (images - mean.view(1, -1, 1, 1)) / (variance.view(1, -1, 1, 1) + 1e-5)


def _each_alone(images: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return F.instance_norm(images)


# 8: a deviation over the wrong things.


def _interval(deviation: Callable[[Tensor], float]) -> Function:
    def accuracy_and_interval(hits: Tensor) -> tuple[float, float]:
        return hits.mean().item(), 1.96 * deviation(hits)

    return accuracy_and_interval


def _over_hits(hits: Tensor) -> float:
    return hits.flatten().std().item() / math.sqrt(hits.numel())


def _over_tasks(hits: Tensor) -> float:
    return hits.mean(1).std().item() / math.sqrt(len(hits))


def _easy_and_hard_tasks(draw: torch.Generator) -> list[tuple[Any, ...]]:
    level = torch.rand(12, 1, generator=draw, dtype=torch.float64)
    return [
        ((torch.rand(12, m, generator=draw, dtype=torch.float64) < level).double(),)
        for m in (5, 25)
    ]


BUGS: dict[int, Bug] = {
    1: Bug(
        kind="first order",
        broken=_inner_steps(create_graph=False),
        right=_inner_steps(create_graph=True),
        defect="the meta-gradient is still that of first order (retain_graph alone does not help)",
        test_hint="differentiate the result with respect to θ, for a loss with curvature",
        trials=lambda draw: [
            (_quartic, normal(draw, 4), rate, n) for rate, n in ((0.1, 2), (0.05, 3))
        ],
        mistakes={
            "the result has no graph back to θ any more: do not detach it": _inner_steps(
                True, True
            ),
            "each step needs the gradient where it stands, not the first one again": _one_gradient,
        },
        probe=_with_meta_gradient,
    ),
    2: Bug(
        kind="unread setting",
        broken=_read,
        right=_read_strictly,
        defect="an unknown name is still swallowed: raise a ValueError that names it",
        test_hint="give it a name that it does not know, and assert that it raises a ValueError",
        trials=lambda draw: [
            ({"inner_steps": 3, "task_rate": 0.01},),
            ({"inner_steps": 3, "outer_rate": 0.01},),
            ({},),
            ({"inner_rate ": 0.5},),
        ],
        mistakes={
            "an unknown name now gets into the settings, where still nobody reads it": (
                lambda config: {**_read(config), **config}
            ),
            "settings that are left out have defaults: refuse only those that are unknown": (
                _read_only_complete
            ),
            "the error should name the setting that it does not know": _read_vaguely,
        },
        probe=_or_refused,
    ),
    3: Bug(
        kind="alias",
        broken=_evaluate_with(lambda statistics: statistics),
        right=_evaluate_with(_clones),
        also_right=_evaluate_a_copy,
        defect=(
            "the statistics still come out changed; a copy of the dict alone (dict(…), .copy()) "
            "holds the same tensors"
        ),
        test_hint="let `evaluate` change the tensors in place, and compare them with clones",
        trials=lambda draw: [({"mean": normal(draw, 3), "variance": normal(draw, 3) ** 2 + 1},)],
        mistakes={
            "the result of the evaluation is lost": _forget_the_result,
            "the evaluation should see the statistics as they are": _evaluate_zeros,
        },
        probe=_with_statistics_after,
    ),
    4: Bug(
        kind="early stop",
        broken=_stops_at_the_end,
        right=_to_the_floor,
        defect="it still jumps to the last step alone, at epoch E",
        test_hint="look at epoch E and after it, with a floor above 0",
        trials=lambda draw: [(n, 10, 0.02, epoch) for n in (3, 5) for epoch in (0, 5, 10, 11, 20)],
        mistakes={
            "after epoch E the fall now goes on, below the floor": lambda n, e, floor, epoch: (
                _weights(n, 1 / n + epoch / e * (floor - 1 / n))
            ),
            "the jump now comes an epoch later": lambda n, e, floor, epoch: (
                _weights(n, 0.0) if epoch > e else _to_the_floor(n, e, floor, epoch)
            ),
            "after epoch E the others count the floor, but the last must take the rest": (
                lambda n, e, floor, epoch: (
                    [floor] * (n - 1) + [1.0] if epoch >= e else _to_the_floor(n, e, floor, epoch)
                )
            ),
        },
    ),
    5: Bug(
        kind="iteration for epoch",
        broken=_by(lambda iteration, per_epoch: iteration),
        right=_by(lambda iteration, per_epoch: iteration // per_epoch),
        defect="it still falls with every iteration by what an epoch should take",
        test_hint="two iterations of one epoch should count alike; E epochs are many iterations",
        trials=lambda draw: [(4, 10, 50, i) for i in (0, 7, 49, 50, 260, 499, 500, 900)],
        mistakes={
            "whole epochs count: within an epoch nothing moves (// and not /)": _by(
                lambda iteration, per_epoch: iteration / per_epoch
            ),
            "it begins again in each epoch: // counts epochs, % the iterations within one": _by(
                lambda iteration, per_epoch: iteration % per_epoch
            ),
            "the number of epochs is a ratio, not a product": _by(
                lambda iteration, per_epoch: iteration * per_epoch
            ),
        },
    ),
    6: Bug(
        kind="repeated class",
        broken=_with_replacement,
        right=_without_replacement,
        also_right=_by_sorting,
        defect="a class still comes twice in a task",
        test_hint=("one draw may be lucky: draw often, or as many ways as there are classes"),
        trials=lambda draw: [(20, 5, int(torch.randint(10**6, (), generator=draw))), (6, 6, 1)],
        mistakes={
            "dropping what comes twice leaves too few classes": _as_a_set,
            "it always takes the same classes": _the_first,
            "the classes are neighbours: any company should be possible": _neighbours,
            "the same generator should deal the same task: draw from the one that is given": (
                _its_own_draw
            ),
        },
        probe=_properties_of_draws,
    ),
    7: Bug(
        kind="transductive",
        broken=_normalised(training=True),
        right=_normalised(training=False),
        defect="the images are still normalised by each other",
        test_hint="ask for the same image in two companies, or compare with the running statistics",
        trials=lambda draw: [
            (2 + normal(draw, m, 3, 2, 2), normal(draw, 3), 1 + normal(draw, 3) ** 2)
            for m in (4, 7)
        ],
        mistakes={
            "only the mean is the running one: the variance is still the batch's": _half_normalised,
            "it divides by the variance: take the square root": _by_variance,
            "each image is normalised by itself: the running statistics are not read at all": (
                _each_alone
            ),
            "without any normalisation nothing leaks, but the features are others": (
                lambda images, mean, variance: images
            ),
        },
    ),
    8: Bug(
        kind="deviation over hits",
        broken=_interval(_over_hits),
        right=_interval(_over_tasks),
        defect="the deviation is still that of single hits",
        test_hint=(
            "take tasks that are all right or all wrong: their queries say nothing new, so that "
            "the interval is far wider than over hits"
        ),
        trials=_easy_and_hard_tasks,
        mistakes={
            "the deviation over tasks is divided by the root of the number of tasks, not of hits": (
                _interval(lambda hits: hits.mean(1).std().item() / math.sqrt(hits.numel()))
            ),
            "it is the deviation of a task, not of the mean: divide by the root of their number": (
                _interval(lambda hits: hits.mean(1).std().item())
            ),
            "it takes the deviation over queries, of means over the tasks: the other way round": (
                _interval(lambda hits: hits.mean(0).std().item() / math.sqrt(hits.shape[1]))
            ),
            "1.96 deviations make the interval": lambda hits: (
                hits.mean().item(),
                _over_tasks(hits),
            ),
        },
    ),
}


def found(number: int, student: Function) -> None:
    """Part a of exercise 8.`number`: the name of the defect."""
    answer = attempt(student)
    if answer not in KINDS:
        raise Wrong(f"{name_of(student)}: {answer!r} is not on the list of kinds")
    if answer != BUGS[number].kind:
        raise Wrong(f"{name_of(student)}: it is not {answer!r}: {KINDS[answer]}")
    passed(student)


def shown(number: int, student: Function) -> None:
    """Part b: a test that passes on the right program and fails on the broken one."""
    bug = BUGS[number]
    right = {"the repaired program": bug.right}
    if bug.also_right:
        right["a program that was repaired in another way"] = bug.also_right
    broken = {f"it lets the broken program pass: {bug.test_hint}": bug.broken}
    judge_test(student, right, broken)
    passed(student)


def fixed(number: int, student: Function, seed: int = 0) -> None:
    """Part c: the program without its defect."""
    bug = BUGS[number]
    programs = {bug.defect: bug.broken, **bug.mistakes}

    def probed(program: Function) -> Function:
        def probe(*trial: Any) -> Any:
            return bug.probe(program, *trial)

        probe.__name__ = name_of(program)
        return probe

    mistakes = {sentence: probed(program) for sentence, program in programs.items()}
    trials = bug.trials(generator(seed))
    judge_trials(probed(student), trials, probed(bug.right), mistakes)
    passed(student)
