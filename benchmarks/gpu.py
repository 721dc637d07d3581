"""The meta-step on a GPU: `python -m benchmarks.gpu`, on one that has nothing else to do.

Three ways of the meta-gradient take turns: task by task, all tasks batched, and these captured as
one CUDA graph; then the whole meta-step of a `Trainer`, which captures.
"""

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal, get_args

import torch
import tyro

import mamlpp
from benchmarks import report
from benchmarks.floor import meta_step_operations, operations
from benchmarks.race import Step
from benchmarks.timing import seconds
from benchmarks.workloads import WORKLOADS, Workload
from mamlpp.engine import Engine
from mamlpp.engine.batched import task_gradients
from mamlpp.network import BLOCKS
from mamlpp.precision import full_precision

WorkloadName = Literal["W1", "W2", "W3", "W4"]
PAPER = 75_000  # meta-steps of the paper's training on Omniglot: 150 epochs of 500


@dataclass(frozen=True)
class Row:
    """One way of a workload's meta-step."""

    workload: str
    way: str
    milliseconds: float
    """The median."""
    ratio: float
    """Times as fast as task by task."""
    floor: float
    """What the convolutions alone would take, as a share of it."""
    busy: float | None
    """Share of it in which the GPU computes; None where there is none."""
    megabytes: float | None
    """The most that was allocated on the GPU."""


def main(
    workloads: tuple[WorkloadName, ...] = get_args(WorkloadName),
    rounds: int = 30,
    device: str = "cuda",
    output: Path | None = None,
) -> int:
    """Time the ways of a meta-step on one device.

    Args:
        workloads: What kinds of meta-steps.
        rounds: How many turns every way has, after three that do not count.
        device: Which GPU.
        output: A JSON file for the result.

    Returns:
        The exit status: 1 where there is no GPU.
    """
    if device != "cpu" and not torch.cuda.is_available():
        print("this machine has no GPU that PyTorch can use", file=sys.stderr)
        return 1
    about = report.provenance("benchmarks.gpu", 1)
    if device != "cpu":
        about["device"] = torch.cuda.get_device_name(device)
    print(*(f"{name}: {value}" for name, value in about.items()), sep="\n")
    print(f"\n{HEADER}")
    rows = []
    for name in workloads:
        found = measure(name, WORKLOADS[name], rounds, torch.device(device))
        print(*map(line, found), f"{name}: {WORKLOADS[name].about}\n", sep="\n", flush=True)
        rows += found
    if output is not None:
        report.write(output, about | {"rows": [asdict(row) for row in rows]})
    return 0


@full_precision()
def measure(name: str, workload: Workload, rounds: int, device: torch.device) -> list[Row]:
    """A row for each way."""
    made = {way: make(workload, device) for way, make in WAYS.items()}
    times: dict[str, list[float]] = {way: [] for way in made}
    for _ in range(rounds + 3):
        for way, step in made.items():
            times[way].append(seconds(_awaited(step, device)))
    middle = {way: median(turns[3:]) for way, turns in times.items()}
    least, slowest = floor_seconds(workload, device), middle["task by task"]
    rows = []
    for way, own in middle.items():
        busy, peak = _watch(made[way], device)
        share = None if busy is None else min(busy / own, 1.0)
        rows.append(Row(name, way, 1000 * own, slowest / own, least / own, share, peak))
    return rows


def _gradient(take: Callable[..., Any]) -> Callable[[Workload, torch.device], Step]:
    """A way that takes the meta-gradient alone, always of the same tasks."""

    def make(workload: Workload, device: torch.device) -> Step:
        learner = mamlpp.MetaLearner(workload.recipe, workload.image_shape, workload.ways)
        learner.to(device)
        tasks = workload.sampler().sample(workload.recipe.meta_batch)
        parts = (tasks.support_x, tasks.support_y, tasks.query_x, tasks.query_y)
        batch = mamlpp.TaskBatch(*(part.to(device) for part in parts))

        def step() -> None:
            learner.zero_grad()
            take(learner, batch)

        return step

    return make


def _task_by_task(learner: mamlpp.MetaLearner, batch: mamlpp.TaskBatch) -> None:
    Engine(batched=False).task_results(learner, batch, 0.0, len(batch))


def _batched(learner: mamlpp.MetaLearner, batch: mamlpp.TaskBatch) -> None:
    gradients, _ = task_gradients(learner, batch, *learner.schedule(0.0), len(batch))
    for parameter, gradient in zip(learner.parameters(), gradients, strict=True):
        parameter.grad = gradient


def _captured(workload: Workload, device: torch.device) -> Step:
    engine = Engine(batched=True)
    take = _gradient(lambda learner, batch: engine.task_results(learner, batch, 0.0, len(batch)))
    return take(workload, device)


def _trainer(workload: Workload, device: torch.device) -> Step:
    images = workload.sampler().images.to(device)
    sampler = mamlpp.TaskSampler(images, workload.ways, workload.shots, workload.queries)
    return mamlpp.Trainer(workload.recipe, sampler, sampler).step


WAYS: dict[str, Callable[[Workload, torch.device], Step]] = {
    "task by task": _gradient(_task_by_task),
    "batched": _gradient(_batched),
    "CUDA graph": _captured,
    "Trainer.step": _trainer,
}


def floor_seconds(workload: Workload, device: torch.device) -> float:
    """What a meta-step's convolutions would take at the rate of such ones, of all tasks together
    under the same weights, forward and back.
    """
    images = workload.recipe.meta_batch * workload.ways * workload.queries
    layers = [_layer(workload, block, images, device) for block in range(BLOCKS)]

    def step() -> None:
        for layer in layers:
            layer()

    count = operations(step)
    best = min(seconds(_awaited(step, device)) for _ in range(10))
    return meta_step_operations(workload) / (count / best)


def _layer(workload: Workload, block: int, images: int, device: torch.device) -> Step:
    channels, height, width = workload.image_shape
    filters, size = workload.recipe.filters, (height >> block, width >> block)
    x = torch.rand(images, filters if block else channels, *size, device=device)
    weight = torch.rand(filters, x.shape[1], 3, 3, device=device)
    out = torch.rand(images, filters, *size, device=device)
    how: tuple[Any, ...] = [1, 1], [1, 1], [1, 1], False, [0, 0], 1

    def step() -> None:
        torch.ops.aten.convolution(x, weight, None, *how)
        torch.ops.aten.convolution_backward(out, x, weight, None, *how, [block > 0, True, False])

    return step


def _awaited(step: Step, device: torch.device) -> Step:
    def awaited() -> None:
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return awaited


def _watch(step: Step, device: torch.device, times: int = 5) -> tuple[float | None, float | None]:
    """Of one step: seconds of its kernels, and MB at the peak; None without a GPU."""
    if device.type != "cuda":
        return None, None
    torch.cuda.reset_peak_memory_stats(device)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(times):
            step()
        torch.cuda.synchronize(device)
    busy = sum(event.self_device_time_total for event in profile.key_averages()) / 1e6 / times
    return busy, torch.cuda.max_memory_allocated(device) / 1e6


# Columns: as in `Row`, and the minutes that the paper's training on Omniglot would take.
HEADER = (
    f"{'workload':<9}{'way':<14}{'ms/step':>9}{'ratio':>7}{'floor':>7}{'busy':>6}{'MB':>7}"
    f"{'75,000 in':>11}"
)


def line(row: Row) -> str:
    """A row of the table as text."""
    busy = "-" if row.busy is None else f"{row.busy:.0%}"
    megabytes = "-" if row.megabytes is None else f"{row.megabytes:.0f}"
    return (
        f"{row.workload:<9}{row.way:<14}{row.milliseconds:>9.2f}{row.ratio:>7.2f}{row.floor:>7.0%}"
        f"{busy:>6}{megabytes:>7}{PAPER * row.milliseconds / 60e3:>7.0f} min"
    )


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
