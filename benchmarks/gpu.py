"""Time the meta-step on an otherwise idle GPU: `python -m benchmarks.gpu`.

Three ways to compute the meta-gradient take turns: task by task, all tasks batched, and batched in
a CUDA graph; then the whole meta-step of a `Trainer`, which uses the CUDA graph.
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
PAPER_STEPS = 75_000  # meta-steps of the paper's Omniglot training: 150 epochs of 500


@dataclass(frozen=True)
class Row:
    """The result of one way to compute a workload's meta-step."""

    workload: str
    way: str
    milliseconds: float
    """Median time of a meta-step."""
    ratio: float
    """Speed relative to task by task."""
    floor: float
    """Fraction of the time that the convolutions alone would take."""
    busy: float | None
    """Fraction of the time in which the GPU runs kernels; None on a CPU."""
    megabytes: float | None
    """Peak of the memory that PyTorch takes from the GPU for it; None on a CPU."""


def main(
    workloads: tuple[WorkloadName, ...] = get_args(WorkloadName),
    rounds: int = 30,
    device: str = "cuda",
    output: Path | None = None,
) -> int:
    """Time the ways to compute a meta-step on one device.

    Args:
        workloads: The kinds of meta-steps to time.
        rounds: Timed turns for each way, after three warm-up turns.
        device: The GPU, such as cuda or cuda:1.
        output: JSON file for the results.

    Returns:
        The exit status: 1 if there is no GPU.
    """
    if device != "cpu" and no_gpu():
        return 1
    about = report.provenance("benchmarks.gpu", 1, device)
    print(*(f"{name}: {value}" for name, value in about.items()), sep="\n")
    print(f"\n{HEADER}")
    rows = []
    for name in workloads:
        new = measure(name, WORKLOADS[name], rounds, torch.device(device))
        print(*map(line, new), f"{name}: {WORKLOADS[name].about}\n", sep="\n", flush=True)
        rows += new
    if output is not None:
        report.write(output, about | {"rows": [asdict(row) for row in rows]})
    return 0


def no_gpu() -> bool:
    """Whether there is no GPU; then says so."""
    if torch.cuda.is_available():
        return False
    print("this machine has no GPU that PyTorch can use; run it on another", file=sys.stderr)
    return True


@full_precision()
def measure(name: str, workload: Workload, rounds: int, device: torch.device) -> list[Row]:
    """Time the meta-step of a workload: a row for each of `WAYS`."""
    made, memory = {}, {}
    for way in WAYS:
        made[way], memory[way] = _made(way, workload, device)
    times: dict[str, list[float]] = {way: [] for way in made}
    for _ in range(rounds + 3):
        for way, step in made.items():
            times[way].append(seconds(_synchronized(step, device)))
    medians = {way: median(turns[3:]) for way, turns in times.items()}
    floor, baseline = floor_seconds(workload, device), medians["task by task"]
    rows = []
    for way, own in medians.items():
        busy = _busy(made[way], device)
        fraction = None if busy is None else min(busy / own, 1.0)
        rows.append(Row(name, way, 1000 * own, baseline / own, floor / own, fraction, memory[way]))
    return rows


def _made(way: str, workload: Workload, device: torch.device) -> tuple[Step, float | None]:
    """A step of this way, and the MB that it makes PyTorch take from the GPU, its graph's too."""
    if device.type != "cuda":
        return WAYS[way](workload, device), None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_reserved(device)
    step = _synchronized(WAYS[way](workload, device), device)
    for _ in range(3):
        step()
    return step, (torch.cuda.max_memory_reserved(device) - before) / 1e6


def _gradient(compute: Callable[..., Any]) -> Callable[[Workload, torch.device], Step]:
    """A way that computes only the meta-gradient, always of the same tasks."""

    def make(workload: Workload, device: torch.device) -> Step:
        learner = mamlpp.MetaLearner(workload.recipe, workload.image_shape, workload.ways)
        learner.to(device)
        tasks = workload.sampler().sample(workload.recipe.meta_batch)
        parts = (tasks.support_x, tasks.support_y, tasks.query_x, tasks.query_y)
        batch = mamlpp.TaskBatch(*(part.to(device) for part in parts))

        def step() -> None:
            learner.zero_grad()
            compute(learner, batch)

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
    make = _gradient(lambda learner, batch: engine.task_results(learner, batch, 0.0, len(batch)))
    return make(workload, device)


def _trainer(workload: Workload, device: torch.device) -> Step:
    kind = workload.ways, workload.shots, workload.queries
    train, validation = (
        mamlpp.TaskSampler(workload.sampler(seed).images.to(device), *kind) for seed in (0, 1)
    )
    return mamlpp.Trainer(workload.recipe, train, validation).step


WAYS: dict[str, Callable[[Workload, torch.device], Step]] = {
    "task by task": _gradient(_task_by_task),
    "batched": _gradient(_batched),
    "CUDA graph": _captured,
    "Trainer.step": _trainer,
}


def floor_seconds(workload: Workload, device: torch.device) -> float:
    """Seconds for a meta-step's convolutions alone, at the rate at which the device computes
    forward and backward convolutions of all tasks with shared weights.
    """
    images = workload.recipe.meta_batch * workload.ways * workload.queries
    layers = [_layer(workload, block, images, device) for block in range(BLOCKS)]

    def step() -> None:
        for layer in layers:
            layer()

    count = operations(step)
    best = min(seconds(_synchronized(step, device)) for _ in range(10))
    return meta_step_operations(workload) / (count / best)


def _layer(workload: Workload, block: int, images: int, device: torch.device) -> Step:
    channels, height, width = workload.image_shape
    filters, size = workload.recipe.filters, (height >> block, width >> block)
    x = torch.rand(images, filters if block else channels, *size, device=device)
    weight = torch.rand(filters, x.shape[1], 3, 3, device=device)
    gradient = torch.rand(images, filters, *size, device=device)
    options: tuple[Any, ...] = [1, 1], [1, 1], [1, 1], False, [0, 0], 1
    mask = [block > 0, True, False]

    def step() -> None:
        torch.ops.aten.convolution(x, weight, None, *options)
        torch.ops.aten.convolution_backward(gradient, x, weight, None, *options, mask)

    return step


def _synchronized(step: Step, device: torch.device) -> Step:
    def synchronized() -> None:
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return synchronized


def _busy(step: Step, device: torch.device, times: int = 5) -> float | None:
    """Seconds of kernels per step; None on a CPU."""
    if device.type != "cuda":
        return None
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(times):
            step()
        torch.cuda.synchronize(device)
    return sum(event.self_device_time_total for event in profile.key_averages()) / 1e6 / times


# The columns show the fields of `Row`, then the time for the paper's training on Omniglot.
HEADER = (
    f"{'workload':<9}{'way':<14}{'ms/step':>9}{'ratio':>7}{'floor':>7}{'busy':>6}{'MB':>7}"
    f"{'75,000 in':>11}"
)


def line(row: Row) -> str:
    """Format a row of the table."""
    busy = "-" if row.busy is None else f"{row.busy:.0%}"
    megabytes = "-" if row.megabytes is None else f"{row.megabytes:.0f}"
    return (
        f"{row.workload:<9}{row.way:<14}{row.milliseconds:>9.2f}{row.ratio:>7.2f}{row.floor:>7.0%}"
        f"{busy:>6}{megabytes:>7}{PAPER_STEPS * row.milliseconds / 60e3:>7.0f} min"
    )


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
