"""Ours and its peers at whole meta-steps, in one run in which they take turns.

python -m benchmarks                            on a machine that has nothing else to do
python -m benchmarks --against PATH             with a checkout of the authors' published code
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal, get_args

import tyro

from benchmarks import floor, published, report
from benchmarks.contenders import PEERS, Name, enter, enter_published
from benchmarks.race import Player, race
from benchmarks.workloads import WORKLOADS, Workload
from mamlpp.errors import InputError

WorkloadName = Literal["W1", "W2", "W3", "W4"]


@dataclass(frozen=True)
class Row:
    """One contender at one workload."""

    workload: str
    contender: str
    seconds: float
    """A meta-step's, the median."""
    ratio: float | None
    """Times as fast as the baseline: the median over rounds; None where that has no such row."""
    floor: float
    """What the convolutions alone would take, as a share of it."""
    megabytes: float | None
    """Memory at its peak above the idle process; None where the system does not tell."""


def main(
    workloads: tuple[WorkloadName, ...] = get_args(WorkloadName),
    contenders: tuple[Name, ...] = get_args(Name),
    rounds: int = 5,
    against: Path | None = None,
    baseline: str | None = None,
    cores: int = 2,
    output: Path | None = None,
) -> int:
    """Time ours and its peers at whole meta-steps, all on the same cores, taking turns.

    Args:
        workloads: What kinds of meta-steps.
        contenders: Who takes part, where it is installed and can do the workload.
        rounds: How many turns everyone has, after one that does not count.
        against: A checkout of the authors' published code, to take part too.
        baseline: Whose time is divided by everyone's; by default the published code's, or else the
            textbook loop's.
        cores: How many: as processes, or as threads of one process.
        output: A JSON file for the result.

    Returns:
        The exit status: 1 where `against` is no checkout.
    """
    baseline = baseline or ("textbook" if against is None else "published")
    try:
        if against is not None:
            published.check(against)
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Cores are compared; some would take a GPU they see.
    entrants = [name for name in contenders if _installed(name)]
    about = report.provenance("benchmarks", cores)
    print(*(f"{name}: {value}" for name, value in about.items()), sep="\n")
    print(f"ratio: times as fast as {baseline}\n\n{HEADER}")
    floors, rows = {}, []
    for name in workloads:
        entered = enter_all(entrants, WORKLOADS[name], against, cores)
        floors[name], found = compete(name, WORKLOADS[name], entered, rounds, cores, baseline)
        print(*map(line, found), describe(name, floors[name]), sep="\n", flush=True)
        rows += found
    if output is not None:
        result = {"baseline": baseline, "floors": floors, "rows": [asdict(row) for row in rows]}
        report.write(output, about | result)
    return 0


def enter_all(
    names: Sequence[str], workload: Workload, against: Path | None, cores: int
) -> list[Player]:
    """Start those that can do a workload, the authors' code too where there is a checkout."""
    entered = [enter(name, workload, cores) for name in names]
    if against is not None:
        entered.append(enter_published(workload, against, cores))
    return [player for player in entered if player is not None]


def compete(
    name: str,
    workload: Workload,
    entered: Sequence[Player],
    rounds: int,
    cores: int,
    baseline: str,
) -> tuple[dict[str, float], list[Row]]:
    """The floor of a workload, and a row for each contender that came through."""
    seconds, memory = race([*entered, *floor.players(workload, cores)], rounds)
    rate = floor.rate(workload, cores, {who: median(times) for who, times in seconds.items()})
    count = floor.meta_step_operations(workload)
    least = {"operations": count, "operations_a_second": rate, "seconds": count / rate}
    rows = []
    for who in (player.name for player in entered if player.name in seconds):
        middle, faster = median(seconds[who]), times_as_fast(seconds.get(baseline), seconds[who])
        rows.append(Row(name, who, middle, faster, least["seconds"] / middle, memory[who]))
    return least, rows


def times_as_fast(base: Sequence[float] | None, own: Sequence[float]) -> float | None:
    """The median over rounds of how many times as fast as the baseline, if there is one."""
    return None if base is None else median(b / t for b, t in zip(base, own, strict=True))


# Columns: the floor as a share of the time that it took, and memory above the idle process.
HEADER = f"{'workload':<9}{'contender':<18}{'s/step':>8}{'ratio':>7}{'floor':>7}{'MB':>7}"


def line(row: Row) -> str:
    """A row of the table as text."""
    ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
    megabytes = "-" if row.megabytes is None else f"{row.megabytes:.0f}"
    numbers = f"{row.seconds:>8.3f}{ratio:>7}{row.floor:>7.0%}{megabytes:>7}"
    return f"{row.workload:<9}{row.contender:<18}{numbers}"


def describe(name: str, least: dict[str, Any]) -> str:
    """The floor in words."""
    work, rate = (least[part] / 1e9 for part in ("operations", "operations_a_second"))
    seconds = f"{work:.0f} GFLOP at {rate:.0f} a second: {least['seconds']:.3f} s"
    return f"{name}: {WORKLOADS[name].about}; floor {seconds}\n"


def _installed(name: str) -> bool:
    peer = PEERS.get(name)
    if peer is None or peer.installed:
        return True
    print(f"{name} is not installed; left out", file=sys.stderr)
    return False


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
