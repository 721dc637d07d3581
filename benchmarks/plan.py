"""How long the paper's tables take on several GPUs, one run on each, as a Ray cluster runs them.

python -m benchmarks.gpu --output gpu.json
python -m benchmarks.plan gpu.json
python -m benchmarks.plan --seconds 0.01        with a time of your own for W1's meta-step

A simulation: the measured seconds of W1's meta-step (of W4's for larger images), times the
operations of a run over those of that meta-step.
"""

import heapq
import json
import sys
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import tyro

import mamlpp
from benchmarks import report
from benchmarks.floor import meta_step_operations, operations
from benchmarks.workloads import WORKLOADS, Workload
from mamlpp.run.sweep import Cell, read_sweep

TABLES = tuple(
    report.ROOT / "sweeps" / f"{n}.toml" for n in ("omniglot_20way", "mini_imagenet_5way")
)


def main(
    measured: tyro.conf.Positional[Path | None] = None,
    seconds: float | None = None,
    sweeps: tuple[Path, ...] = TABLES,
    gpus: tuple[int, ...] = (1, 8, 64),
) -> int:
    """Print the hours and GPU-hours of sweeps on each number of GPUs.

    Args:
        measured: What `benchmarks.gpu --output` wrote.
        seconds: Seconds of W1's meta-step, instead.
        sweeps: Files of sweeps; their runs are taken in the order of the files.
        gpus: Numbers of GPUs.

    Returns:
        The exit status: 1 without measured seconds.
    """
    known = {"W1": seconds} if seconds else read(measured) if measured else {}
    if "W1" not in known:
        print("no seconds of W1: give what benchmarks.gpu wrote, or --seconds", file=sys.stderr)
        return 1
    runs = [run_seconds(cell, known) for path in sweeps for cell in read_sweep(path)]
    print(
        f"{len(runs)} runs, the longest {max(runs) / 3600:.2f} h; {sum(runs) / 3600:.1f} GPU-hours"
    )
    for count in gpus:
        print(f"{count:>3} GPUs: {makespan(runs, count) / 3600:.1f} h")
    return 0


def makespan(seconds: Iterable[float], machines: int) -> float:
    """When the last run ends, if each run in turn goes to the machine that is free first."""
    free = [0.0] * machines
    for duration in seconds:
        heapq.heapreplace(free, free[0] + duration)
    return max(free)


def read(path: Path) -> dict[str, float]:
    """Seconds of a meta-step as a CUDA graph, by workload."""
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return {
        row["workload"]: row["milliseconds"] / 1e3 for row in rows if row["way"] == "CUDA graph"
    }


def run_seconds(cell: Cell, known: dict[str, float]) -> float:
    """Seconds of a run's meta-steps, from the time of the workload that is most like it."""
    shape = (3, 84, 84) if cell.dataset == "mini_imagenet" else (1, 28, 28)
    like = "W4" if shape[0] == 3 and "W4" in known else "W1"
    recipe = cell.settings.with_(seed=0)
    count = run_operations(Workload("", recipe, cell.ways, cell.shots, cell.queries, shape))
    return known[like] * count / _of(like)


@cache
def _of(name: str) -> int:
    return meta_step_operations(WORKLOADS[name])


@cache
def run_operations(workload: Workload) -> int:
    """Operations of all meta-steps of a training; those of its epochs differ by MSL and DA."""
    recipe = workload.recipe
    learner = mamlpp.MetaLearner(recipe, workload.image_shape, workload.ways)
    task = next(iter(workload.sampler().sample(1)))
    kinds: Counter[tuple[bool, ...]] = Counter()
    one: dict[tuple[bool, ...], int] = {}
    for epoch in range(recipe.epochs):
        weights, second_order = learner.schedule(epoch)
        kinds[kind := (second_order, *(weight > 0 for weight in weights))] += 1
        if kind not in one:
            one[kind] = _task_operations(learner, task, epoch)
    each = recipe.meta_batch * recipe.iterations_per_epoch
    return each * sum(count * one[kind] for kind, count in kinds.items())


def _task_operations(learner: mamlpp.MetaLearner, task: mamlpp.Task, epoch: int) -> int:
    return operations(lambda: learner.task_loss(task, epoch).loss.backward())


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
