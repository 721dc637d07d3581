"""Time whole meta-steps of our implementation and its peers, which take turns in one run.

python -m benchmarks                            on an otherwise idle machine
python -m benchmarks --against PATH             also time a checkout of the authors' published code
python -m benchmarks accuracy GOAL              time until a training reaches an accuracy
python -m benchmarks gpu-report                 all that is to be measured on a GPU, with a report
"""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal, get_args

import tyro

from benchmarks import accuracy, floor, gpu_report, published, report
from benchmarks.contenders import PEERS, Name, start, start_published
from benchmarks.race import Contender, race
from benchmarks.workloads import WORKLOADS, Workload
from mamlpp.errors import InputError

WorkloadName = Literal["W1", "W2", "W3", "W4"]


@dataclass(frozen=True)
class Row:
    """The result of one contender on one workload."""

    workload: str
    contender: str
    seconds: float
    """Median time of a meta-step."""
    ratio: float | None
    """Speed relative to the baseline, median over rounds; None if the baseline has no result."""
    floor: float
    """Fraction of that time that the convolutions alone would take."""
    megabytes: float | None
    """Peak memory above that of the idle process; None if the system does not report it."""


def main(
    workloads: tuple[WorkloadName, ...] = get_args(WorkloadName),
    contenders: tuple[Name, ...] = get_args(Name),
    rounds: int = 5,
    against: Path | None = None,
    baseline: str | None = None,
    cores: int = 2,
    output: Path | None = None,
) -> int:
    """Time whole meta-steps of our implementation and its peers, taking turns on the same cores.

    Args:
        workloads: The kinds of meta-steps to time.
        contenders: The contenders to time, if installed and able to run the workload.
        rounds: Timed turns per contender, after one warm-up turn.
        against: A checkout of the authors' published code, to time as well.
        baseline: The contender that ratios refer to; by default published if
            it takes part, otherwise textbook.
        cores: CPU cores per contender, used as processes or as threads of one process.
        output: JSON file for the results.

    Returns:
        The exit status: 1 if `against` is not a checkout of the published code.
    """
    baseline = baseline or ("textbook" if against is None else "published")
    try:
        if against is not None:
            published.check(against)
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Compare CPUs: JAX, for one, would use a GPU.
    installed = [name for name in contenders if _installed(name)]
    about = report.provenance("benchmarks", cores)
    print(*(f"{name}: {value}" for name, value in about.items()), sep="\n")
    print(f"ratio: speed relative to {baseline} (2 is twice as fast)\n\n{HEADER}")
    floors, rows = {}, []
    for name in workloads:
        started = start_all(installed, WORKLOADS[name], against, cores)
        floors[name], new = compare(name, WORKLOADS[name], started, rounds, cores, baseline)
        print(*map(line, new), describe(name, floors[name]), sep="\n", flush=True)
        rows += new
    if output is not None:
        result = {"baseline": baseline, "floors": floors, "rows": [asdict(row) for row in rows]}
        report.write(output, about | result)
    return 0


def start_all(
    names: Sequence[str], workload: Workload, against: Path | None, cores: int
) -> list[Contender]:
    """Start the contenders that support a workload, and the authors' code given a checkout."""
    started = [start(name, workload, cores) for name in names]
    if against is not None:
        started.append(start_published(workload, against, cores))
    return [contender for contender in started if contender is not None]


def compare(
    name: str, workload: Workload, contenders: Sequence[Contender], rounds: int, cores: int,
    baseline: str,
) -> tuple[dict[str, float], list[Row]]:  # fmt: skip
    """The floor of a workload, and a row for each contender that finished."""
    seconds, memory = race([*contenders, *floor.contenders(workload, cores)], rounds)
    rate = floor.rate(workload, cores, {who: median(times) for who, times in seconds.items()})
    count = floor.meta_step_operations(workload)
    bound = {"operations": count, "operations_a_second": rate, "seconds": count / rate}
    rows = []
    for who in (contender.name for contender in contenders if contender.name in seconds):
        typical, ratio = median(seconds[who]), speed_ratio(seconds.get(baseline), seconds[who])
        rows.append(Row(name, who, typical, ratio, bound["seconds"] / typical, memory[who]))
    return bound, rows


def speed_ratio(base: Sequence[float] | None, own: Sequence[float]) -> float | None:
    """Median over rounds of the baseline's time over `own`; None without a baseline."""
    return None if base is None else median(b / t for b, t in zip(base, own, strict=True))


# The columns show the fields of `Row`.
HEADER = f"{'workload':<9}{'contender':<18}{'s/step':>8}{'ratio':>7}{'floor':>7}{'MB':>7}"


def line(row: Row) -> str:
    """Format a row of the table."""
    ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
    megabytes = "-" if row.megabytes is None else f"{row.megabytes:.0f}"
    numbers = f"{row.seconds:>8.3f}{ratio:>7}{row.floor:>7.0%}{megabytes:>7}"
    return f"{row.workload:<9}{row.contender:<18}{numbers}"


def describe(name: str, bound: dict[str, Any]) -> str:
    """Describe a workload and its floor in a sentence."""
    work, rate = (bound[part] / 1e9 for part in ("operations", "operations_a_second"))
    seconds = f"{work:.0f} GFLOP at {rate:.0f} GFLOP/s = {bound['seconds']:.3f} s"
    return f"{name}: {WORKLOADS[name].about}; floor: {seconds}\n"


def _installed(name: str) -> bool:
    peer = PEERS.get(name)
    if peer is None or peer.installed:
        return True
    print(f"{name}: not installed; left out", file=sys.stderr)
    return False


if __name__ == "__main__":
    others: dict[str, Callable[..., int | None]] = {
        "accuracy": accuracy.main,
        "gpu-report": gpu_report.main,
    }
    if sys.argv[1:] and sys.argv[1] in others:
        sys.exit(tyro.cli(others[sys.argv[1]], args=sys.argv[2:]))
    sys.exit(tyro.cli(main))
