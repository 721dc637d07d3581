"""Who takes part: ours, and peers."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import mamlpp
from benchmarks import peers
from benchmarks.published import published
from benchmarks.race import Player, Step
from benchmarks.workloads import Workload

Memory = Literal["store", "recompute"]
Name = Literal[
    "ours-store",
    "ours-recompute",
    "ours-store-threads",
    "ours-recompute-threads",
    "textbook",
    "higher",
    "torchopt",
    "jax",
]


def ours(workload: Workload, memory: Memory, processes: int) -> Step:
    """A `Trainer`'s meta-step, shared out over processes or by one alone."""
    sampler, recipe = workload.sampler(), workload.recipe.with_(memory=memory)
    return mamlpp.Trainer(recipe, sampler, sampler, workers=processes).step


def with_jax(workload: Workload) -> Step:
    """Plain MAML in JAX, which only this contender's process imports."""
    from benchmarks.with_jax import with_jax

    return with_jax(workload)


@dataclass(frozen=True)
class Peer:
    """A contender that is not ours: what makes it, the package that it needs, what it can do."""

    build: Callable[[Workload], Step]
    package: str = "torch"
    plain_only: bool = True

    @property
    def installed(self) -> bool:
        """Whether its package is here; nothing is imported."""
        return importlib.util.find_spec(self.package) is not None


PEERS: dict[str, Peer] = {
    "textbook": Peer(peers.textbook, plain_only=False),
    "higher": Peer(peers.with_higher, "higher"),
    "torchopt": Peer(peers.with_torchopt, "torchopt"),
    "jax": Peer(with_jax, "jax"),
}
OURS: dict[str, tuple[Memory, bool]] = {
    "ours-store": ("store", True),
    "ours-recompute": ("recompute", True),
    "ours-store-threads": ("store", False),
    "ours-recompute-threads": ("recompute", False),
}  # by name: the mode, and whether by a process a core, or by one process with a thread a core


def enter(name: str, workload: Workload, cores: int) -> Player | None:
    """Start a contender for a workload, on all cores; None where it cannot do it."""
    if name in OURS:
        memory, shared = OURS[name]
        return Player(name, ours, workload, memory, cores if shared else 1, threads=cores)
    peer = PEERS[name]
    if peer.plain_only and not workload.plain:
        return None
    return Player(name, peer.build, workload, threads=cores)


def enter_published(workload: Workload, checkout: Path, cores: int) -> Player:
    """Start the authors' code."""
    return Player("published", published, workload, checkout, threads=cores)
