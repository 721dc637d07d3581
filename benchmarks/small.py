"""What a student waits for all day, in seconds: `python -m benchmarks.small`.

Each line is the median of a few fresh processes with one thread. The first two count from the start
of Python; the others leave out what comes before.
"""

import subprocess
import sys
import time
from dataclasses import replace
from statistics import median

import torch

from benchmarks.report import ROOT
from benchmarks.timing import seconds

PROCESSES = 3
EVALUATED = 20  # tasks

LINES = {
    "import mamlpp, s": "import mamlpp",
    "first meta-step of sweeps/laptop.toml, cold, s": "small.first_meta_step()",
    "adapt to one task, 5-way 1-shot, ms": "print(1000 * small.adapt())",
    "evaluation at W1, tasks a second": "print(small.evaluation())",
}


def main() -> None:
    """Print a line for each."""
    for what, code in LINES.items():
        numbers = [run(code) for _ in range(PROCESSES)]
        print(f"{what:<48}{median(numbers):>8.2f}", flush=True)


def run(code: str) -> float:
    """What a fresh Python prints for it; if it prints nothing, the seconds that it took."""
    if "small." in code:
        code = f"import torch; torch.set_num_threads(1); from benchmarks import small; {code}"
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return float(done.stdout or time.perf_counter() - start)


def first_meta_step() -> None:
    """MAML's, with the sizes of the sweep for laptops, on the embedded glyphs."""
    import tomllib

    import mamlpp

    sizes = tomllib.loads((ROOT / "sweeps" / "laptop.toml").read_text())["profile"]
    sampler = mamlpp.TaskSampler(mamlpp.load_images("glyphs", "train"), ways=20, shots=1)
    mamlpp.Trainer(mamlpp.RECIPES["maml"].with_(**sizes), sampler, sampler).step()


def adapt() -> float:
    """Seconds for one task of MAML++ with 64 filters: five inner steps, then the queries."""
    import mamlpp
    from benchmarks.workloads import W1

    workload = replace(W1, ways=5)
    learner = mamlpp.MetaLearner(workload.recipe, workload.image_shape, workload.ways)
    task = next(iter(workload.sampler().sample(1)))

    def learn() -> torch.Tensor:
        return learner.adapt(task.support_x, task.support_y)(task.query_x)

    return median(seconds(learn) for _ in range(11))


def evaluation() -> float:
    """Tasks a second."""
    import mamlpp
    from benchmarks.workloads import W1

    learner = mamlpp.MetaLearner(W1.recipe, W1.image_shape, W1.ways)
    sampler = W1.sampler()
    mamlpp.evaluate_tasks(learner, sampler, 2)
    return EVALUATED / seconds(lambda: mamlpp.evaluate_tasks(learner, sampler, EVALUATED))


if __name__ == "__main__":
    main()
