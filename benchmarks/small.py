"""The waiting times that a student meets most often: `python -m benchmarks.small`.

Each line is the median over a few fresh single-threaded processes. The first two lines include the
start of Python; the others do not include imports and set-up.
"""

import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
import tyro

import mamlpp
from benchmarks import published
from benchmarks.race import Contender, Step, race
from benchmarks.report import ROOT
from benchmarks.timing import seconds
from benchmarks.workloads import W1, Workload
from mamlpp.errors import InputError

PROCESSES, ROUNDS = 3, 5
TURNS = 3  # timed evaluations, each of one meta-batch of tasks

QUICK = Workload(
    "maml++-quick, 28x28, 5-way, 5 queries per class", mamlpp.RECIPES["maml++-quick"],
    ways=5, queries=5,
)  # fmt: skip

LINES = {
    "import mamlpp, s": "import mamlpp",
    "first meta-step, sweeps/laptop.toml, cold, s": "small.first_meta_step()",
    "adapt to one task, 5-way 1-shot, ms": "print(1000 * small.adapt())",
    "evaluation at W1, tasks per second": "print(small.evaluation(small.W1))",
    "evaluation, maml++-quick, tasks per second": "print(small.evaluation(small.QUICK))",
}


def main(against: Path | None = None) -> int:
    """Print a line for each of `LINES`.

    Args:
        against: A checkout of the authors' published code, to compare the evaluation with.

    Returns:
        The exit status: 1 if `against` is not a checkout of that code, or the code fails.
    """
    try:
        if against is not None:
            published.check(against)
        for what, code in LINES.items():
            show(what, median(run(code) for _ in range(PROCESSES)))
        if against is not None:
            for name, workload in {"at W1": W1, "of maml++-quick": QUICK}.items():
                times = evaluation_against(workload, against)
                show(f"evaluation {name}, relative to published", times)
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def show(what: str, number: float) -> None:
    """Print one line."""
    print(f"{what:<48}{number:>8.2f}", flush=True)


def run(code: str) -> float:
    """The number that `code` prints in a fresh Python process; if none, the seconds it took."""
    if "small." in code:
        code = f"import torch; torch.set_num_threads(1); from benchmarks import small; {code}"
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return float(done.stdout or time.perf_counter() - start)


def first_meta_step() -> None:
    """One meta-step of MAML at the sizes of the laptop sweep, on the built-in glyphs."""
    sizes = tomllib.loads((ROOT / "sweeps" / "laptop.toml").read_text(encoding="utf-8"))["profile"]
    train, validation = (
        mamlpp.TaskSampler(mamlpp.load_images("glyphs", split), ways=20, shots=1)
        for split in ("train", "validation")
    )
    mamlpp.Trainer(mamlpp.RECIPES["maml"].with_(**sizes), train, validation).step()


def adapt() -> float:
    """Seconds for one task of MAML++ with 64 filters: five inner steps, then classification."""
    workload = replace(W1, ways=5)
    learner = mamlpp.MetaLearner(workload.recipe, workload.image_shape, workload.ways)
    task = next(iter(workload.sampler().sample(1)))

    def learn() -> torch.Tensor:
        return learner.adapt(task.support_x, task.support_y)(task.query_x)

    return median(seconds(learn) for _ in range(11))


def evaluation(workload: Workload) -> float:
    """Tasks evaluated per second."""
    step = evaluate_some(workload)
    step()
    tasks = TURNS * workload.recipe.meta_batch
    return tasks / seconds(lambda: [step() for _ in range(TURNS)])


def evaluate_some(workload: Workload) -> Step:
    """Our evaluation of one meta-batch of tasks."""
    learner = mamlpp.MetaLearner(workload.recipe, workload.image_shape, workload.ways)
    sampler = workload.sampler()
    return lambda: mamlpp.evaluate_tasks(learner, sampler, workload.recipe.meta_batch)


def evaluation_against(workload: Workload, checkout: Path) -> float:
    """Speed of our evaluation relative to the published code, on one core."""
    ours = Contender("ours", evaluate_some, workload)
    theirs = Contender("published", published.evaluation, workload, checkout)
    seconds, _ = race([ours, theirs], ROUNDS)
    if "published" not in seconds:
        raise InputError(f"the code in {checkout} failed; see the error printed above")
    ratios = zip(seconds["published"], seconds["ours"], strict=True)
    return median(their / our for their, our in ratios)


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
