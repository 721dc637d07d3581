"""A training or whole notebooks, quiet and beside a busy loop.

    python -m benchmarks.busy                                          chapter 00's training
    python -m benchmarks.busy --notebooks notebooks/08_*.ipynb         chapter 08 from start to end

A busy loop is a process that never sleeps, such as a video call or a browser on a laptop. Quiet and
busy rounds alternate in one run, so that only their ratio counts.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

import papermill
import tyro

import mamlpp
from benchmarks import report
from benchmarks.timing import seconds
from mamlpp.naming import counted

RECIPE = mamlpp.RECIPES["maml"].with_(
    filters=32, inner_steps=1, inner_rate=0.4, outer_rate=3e-3, meta_batch=4,
    epochs=1, iterations_per_epoch=30, validation_tasks=50,
)  # fmt: skip


def main(
    rounds: int = 3, loops: int = 1, workers: tuple[int, ...] = (1, 2),
    notebooks: tuple[Path, ...] = (), profile: str = "smoke", output: Path | None = None,
) -> None:  # fmt: skip
    """Measure and print.

    Args:
        rounds: Quiet and busy trainings of each kind.
        loops: How many busy loops run beside a busy training.
        workers: Processes that share the tasks, each number in turn.
        notebooks: Notebooks to run in place of the training.
        profile: The profile of the notebooks.
        output: A JSON file for the result.
    """
    jobs: dict[str, Callable[[], float]] = {
        path.stem: partial(run_notebook, path, profile) for path in notebooks
    } or {counted(count, "worker"): partial(train, count) for count in workers}
    rows = [measure(name, job, rounds, loops) for name, job in jobs.items()]
    if output is not None:
        about = report.provenance("benchmarks.busy", 1 if notebooks else max(workers))
        report.write(output, about | {"loops": loops, "rows": rows})


def measure(name: str, job: Callable[[], float], rounds: int, loops: int) -> dict[str, object]:
    """The median seconds of a job, quiet and busy in turns; `job` returns its seconds."""
    job()  # The first is slow: memory is allocated, data is read.
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(rounds):
        for busy in times:
            with busy_loops(loops if busy else 0):
                times[busy].append(job())
    quiet, beside = (median(times[state]) for state in (False, True))
    print(
        f"{name}: {quiet:.2f} s quiet, {beside:.2f} s beside "
        f"{counted(loops, 'busy loop')}, {beside / quiet:.2f} times as long",
        flush=True,
    )
    return {"name": name, "quiet": quiet, "busy": beside, "ratio": beside / quiet}


def run_notebook(path: Path, profile: str) -> float:
    """Seconds of a whole notebook, its kernel's start included."""
    with tempfile.TemporaryDirectory() as folder:
        return seconds(
            lambda: papermill.execute_notebook(
                path, Path(folder, path.name), {"profile": profile}, cwd=path.parent,
                progress_bar=False, log_output=False,
            )
        )  # fmt: skip


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
