"""Time to accuracy: how long a training takes until it classifies new tasks well enough.

    python -m benchmarks accuracy glyphs-5way
    python -m benchmarks accuracy glyphs-5way --against PATH   the authors' published code as well

All trainings take turns in one run, a part of an epoch each, and are judged on the same validation
tasks. Only meta-steps are timed. Ours is judged by the support set's statistics and by the queries'
own; the published code can only be judged by the latter.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Literal

import matplotlib.pyplot as plt
import psutil
import tyro
from matplotlib.axes import Axes

import mamlpp
from benchmarks import published, report
from benchmarks.workloads import Workload
from mamlpp.show.plots import COLOURS, METHODS, use_style


@dataclass(frozen=True)
class Goal:
    """Tasks of one kind, and the validation accuracies to reach."""

    dataset: str
    ways: int
    queries: int
    levels: tuple[float, ...]

    device: str = "cpu"

    def sampler(self, split: Literal["train", "validation"], seed: int) -> mamlpp.TaskSampler:
        """1-shot tasks; in training, characters are also turned."""
        images = mamlpp.load_images(self.dataset, split).to(self.device)
        return mamlpp.TaskSampler(
            images, self.ways, 1, self.queries, seed=seed, rotate=split == "train"
        )


GOALS = {
    "glyphs-5way": Goal("glyphs", 5, 5, (0.8, 0.85)),
    "omniglot-5way": Goal("omniglot", 5, 5, (0.95, 0.98)),
    "omniglot-20way": Goal("omniglot", 20, 1, (0.9, 0.95)),
}
GoalName = Literal["glyphs-5way", "omniglot-5way", "omniglot-20way"]


@dataclass(frozen=True)
class Point:
    """A training after some meta-steps."""

    contender: str
    seed: int
    meta_steps: int
    seconds: float
    """Wall time of the meta-steps so far."""
    core_seconds: float
    """Processor time of them, of worker processes too."""
    accuracy: dict[str, float]
    """By each reading that the contender has."""

    @property
    def judged(self) -> float:
        """By the support's statistics; of the published code, by the queries' own."""
        return self.accuracy["support" if "support" in self.accuracy else "queries"]


class Training:
    """One training of one contender: `turn` takes some meta-steps, and judges."""

    def __init__(
        self, name: str, recipe: mamlpp.Recipe, goal: Goal, seed: int, checkout: Path | None,
        workers: int,
    ) -> None:  # fmt: skip
        self.name, self.seed = name, seed
        self.total = recipe.epochs * recipe.iterations_per_epoch
        recipe = recipe.with_(seed=seed)
        self._step, self._judge = (
            _published(recipe, goal, seed, checkout)
            if checkout
            else _ours(recipe, goal, seed, workers)
        )
        self.taken, self.seconds, self.core_seconds = 0, 0.0, 0.0

    def turn(self, meta_steps: int) -> Point:
        """Take up to so many meta-steps, and judge."""
        start, used = time.perf_counter(), _processor_seconds()
        for _ in range(min(meta_steps, self.total - self.taken)):
            self._step(self.taken)
            self.taken += 1
        self.seconds += time.perf_counter() - start
        self.core_seconds += _processor_seconds() - used
        times = round(self.seconds, 3), round(self.core_seconds, 3)
        return Point(self.name, self.seed, self.taken, *times, self._judge())


Parts = tuple[Callable[[int], object], Callable[[], dict[str, float]]]


def _ours(recipe: mamlpp.Recipe, goal: Goal, seed: int, workers: int) -> Parts:
    train, validation = (goal.sampler(split, seed) for split in ("train", "validation"))
    trainer = mamlpp.Trainer(recipe, train, validation, workers=workers)

    def judge() -> dict[str, float]:
        accuracy = {}
        for reading in ("support", "queries"):
            validation.restart()
            judged = mamlpp.evaluate_tasks(
                trainer.learner, validation, recipe.validation_tasks, reading=reading
            )
            accuracy[reading] = judged.accuracy
        return accuracy

    return lambda _: trainer.step(), judge


def _published(recipe: mamlpp.Recipe, goal: Goal, seed: int, checkout: Path) -> Parts:
    train, validation = (goal.sampler(split, seed) for split in ("train", "validation"))
    channels, height, width = train.images.shape
    workload = Workload("", recipe, goal.ways, 1, goal.queries, (channels, height, width))
    system, pack = published.system(workload, checkout)

    def step(taken: int) -> None:
        batch = pack(train.sample(recipe.meta_batch))
        system.run_train_iter(batch, epoch=taken // recipe.iterations_per_epoch)

    def judge() -> dict[str, float]:
        validation.restart()
        batches = range(0, recipe.validation_tasks, recipe.meta_batch)
        found = [
            system.run_validation_iter(pack(validation.sample(recipe.meta_batch)))[0]["accuracy"]
            for _ in batches
        ]
        return {"queries": float(sum(found) / len(found))}

    return step, judge


def _processor_seconds() -> float:
    process = psutil.Process()
    alive = [process, *process.children(recursive=True)]
    return sum(sum(each.cpu_times()[:2]) for each in alive)


def main(
    goal: tyro.conf.Positional[GoalName] = "glyphs-5way",
    contenders: tuple[str, ...] = ("maml", "maml++", "maml-quick", "maml++-quick"),
    seeds: tuple[int, ...] = (0, 1, 2), against: Path | None = None, budget: float = 1800.0,
    meta_steps: int | None = None, turn: int = 50, workers: int = 1, device: str = "cpu",
    stop: bool = False, output: Path | None = None,
) -> None:  # fmt: skip
    """Train, taking turns, and print when each contender reached each level.

    Raises `InputError` where `against` is not a checkout of the published code.

    Args:
        goal: The kind of tasks, and with it the levels.
        contenders: Names of recipes in `mamlpp.RECIPES`.
        seeds: One training of each contender for each.
        against: A checkout of the authors' published code: trains each recipe there as well.
        budget: Seconds of meta-steps after which a training gives up.
        meta_steps: Length of a training; by default that of its recipe.
        turn: Meta-steps between two validations.
        workers: Processes that share a meta-step's tasks in our code.
        device: The cpu or a GPU; the published code decides for itself.
        stop: End a training that has reached the highest level.
        output: A JSON file for the numbers; the figure goes beside it.
    """
    about = report.provenance("benchmarks", workers, device)
    reach = replace(GOALS[goal], device=device)
    trainings = start(reach, contenders, seeds, against, meta_steps, workers)
    points = []
    enough = max(reach.levels) if stop else math.inf
    for point in take_turns(trainings, turn, budget, enough):
        points.append(point)
        shown = ", ".join(f"{100 * a:.1f} % by {r}" for r, a in point.accuracy.items())
        print(
            f"{point.contender} seed {point.seed}: {point.meta_steps} meta-steps, "
            f"{point.seconds:.0f} s, {shown}",
            flush=True,
        )
    print(*summary(points, GOALS[goal].levels), sep="\n")
    if output is not None:
        report.write(output, about | {"goal": goal, "points": [asdict(point) for point in points]})
        draw(output)


def start(
    goal: Goal, contenders: Sequence[str], seeds: Sequence[int], against: Path | None = None,
    meta_steps: int | None = None, workers: int = 1,
) -> list[Training]:  # fmt: skip
    """The trainings of each contender, ready for their first turn."""
    if against is not None:
        published.check(against)
    trainings = []
    for name in contenders:
        recipe = mamlpp.RECIPES[name].with_(validation_tasks=100)
        if meta_steps is not None:
            recipe = recipe.with_(iterations_per_epoch=max(1, meta_steps // recipe.epochs))
        for seed in seeds:
            trainings.append(Training(name, recipe, goal, seed, None, workers))
            if against is not None:
                theirs = f"{name}, published code"
                trainings.append(Training(theirs, recipe, goal, seed, against, 1))
    return trainings


def take_turns(
    trainings: Sequence[Training], turn: int, budget: float, enough: float = math.inf
) -> Iterator[Point]:
    """Yield a `Point` for each turn, until all are done, out of budget, or accurate `enough`."""
    going = list(trainings)
    while going:
        for training in list(going):
            yield (point := training.turn(turn))
            ended = training.taken >= training.total or training.seconds > budget
            if ended or point.judged >= enough:
                going.remove(training)


def first_at(points: Sequence[Point], level: float) -> dict[tuple[str, int], Point | None]:
    """For each contender and seed: where its validation first reached a level, or None."""
    found: dict[tuple[str, int], Point | None] = {}
    for point in points:
        key = point.contender, point.seed
        if found.get(key) is None:
            found[key] = point if point.judged >= level else None
    return found


TIMES = ("seconds", "core_seconds")


def summary(points: Sequence[Point], levels: Sequence[float]) -> list[str]:
    """A line for each contender and level."""
    lines = []
    for level in levels:
        found = sorted(first_at(points, level).items(), key=lambda entry: entry[0])
        for name, group in groupby(found, key=lambda entry: entry[0][0]):
            firsts = [point for _, point in group]
            done = [point for point in firsts if point is not None]
            shown = "–"
            if done:
                wall, core = (median(getattr(p, k) for p in done) for k in TIMES)
                shown = f"{wall:.0f} s, {core:.0f} core-seconds (medians)"
            lines.append(f"{name}: {level:.0%} in {shown}, {len(done)} of {len(firsts)} seeds")
    return lines


def draw(path: Path) -> None:
    """Draw the figure beside a file of numbers; the same numbers give the same bytes."""
    use_style()
    stored = json.loads(path.read_text(encoding="utf-8"))
    figure, ax = plt.subplots(figsize=(8, 4), layout="constrained")
    plot([Point(**point) for point in stored["points"]], ax, GOALS[stored["goal"]].levels)
    ax.set_title(f"{stored['goal']}: new tasks classified, while training")
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None}, facecolor="white")
    plt.close(figure)


def plot(points: Sequence[Point], ax: Axes, levels: Sequence[float] = ()) -> Axes:
    """Validation accuracy against seconds: a colour for each contender, a line for each seed.

    Dashed for the published code; the levels are thin lines.
    """
    for level in levels:
        ax.axhline(100 * level, color="0.4", linewidth=1)
    named = set()
    for name, seed in dict.fromkeys((point.contender, point.seed) for point in points):
        own = [p for p in points if (p.contender, p.seed) == (name, seed)]
        recipe, *published_code = name.split(", ")
        method = METHODS.get(recipe, recipe)
        label = ", ".join([method, *published_code])
        ax.plot(
            [p.seconds for p in own], [100 * p.judged for p in own],
            color=COLOURS.get(method), linestyle="--" if published_code else "-",
            label="" if label in named else label,
        )  # fmt: skip
        named.add(label)
    ax.set(xlabel="seconds of meta-steps", ylabel="accuracy, %")
    ax.legend(loc="lower right", fontsize=9)
    return ax
