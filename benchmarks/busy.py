"""Chapter 00's training, quiet and beside a busy loop: `python -m benchmarks.busy`.

A busy loop is a process that never sleeps, such as a video call or a browser on a laptop. Quiet and
busy rounds alternate in one run, so that only their ratio counts.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import tyro

import mamlpp
from benchmarks import report
from benchmarks.timing import seconds

RECIPE = mamlpp.RECIPES["maml"].with_(
    filters=32, inner_steps=1, inner_rate=0.4, outer_rate=3e-3, meta_batch=4,
    epochs=1, iterations_per_epoch=30, validation_tasks=50,
)  # fmt: skip


def main(
    rounds: int = 3, loops: int = 1, workers: tuple[int, ...] = (1, 2), output: Path | None = None
) -> None:
    """Measure and print.

    Args:
        rounds: Quiet and busy trainings of each kind.
        loops: How many busy loops run beside a busy training.
        workers: Processes that share the tasks, each number in turn.
        output: A JSON file for the result.
    """
    rows = []
    for count in workers:
        train(count)  # The first is slow: memory is allocated, data is read.
        times: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(rounds):
            for busy in times:
                with busy_loops(loops if busy else 0):
                    times[busy].append(train(count))
        quiet, beside = (median(times[state]) for state in (False, True))
        rows.append({"workers": count, "quiet": quiet, "busy": beside, "ratio": beside / quiet})
        print(
            f"{count} worker{'s' if count > 1 else ''}: {quiet:.2f} s quiet, {beside:.2f} s beside "
            f"{loops} busy loop{'s' if loops > 1 else ''}, {beside / quiet:.2f} times as long",
            flush=True,
        )
    if output is not None:
        about = report.provenance("benchmarks.busy", max(workers))
        report.write(output, about | {"loops": loops, "rows": rows})


def train(workers: int) -> float:
    """Seconds of 30 meta-steps and a validation."""
    images = (mamlpp.load_images("glyphs", split) for split in ("train", "validation"))
    tasks, held_out = (mamlpp.TaskSampler(each, ways=5, shots=1, queries=5) for each in images)
    trainer = mamlpp.Trainer(RECIPE, tasks, held_out, workers=workers)
    trainer.step()  # Worker processes start here.
    return seconds(trainer.fit)


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """So many processes that compute all the time."""
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


if __name__ == "__main__":
    tyro.cli(main)
