"""The contenders: our implementation and its peers."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import mamlpp
from benchmarks import peers
from benchmarks.published import published
from benchmarks.race import Contender, Step
from benchmarks.workloads import Workload
from mamlpp.engine.workers import start_workers

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
    """The meta-step of a `Trainer`, with the tasks divided among `processes` processes."""
    train, validation = workload.sampler(), workload.sampler(seed=1)
    trainer = mamlpp.Trainer(workload.recipe.with_(memory=memory), train, validation)
    if processes > 1:  # Now, so that their memory before the first step is known.
        trainer.engine.workers = start_workers(processes)
    return trainer.step


def with_jax(workload: Workload) -> Step:
    """Plain MAML in JAX, imported only in this contender's process."""
    from benchmarks.with_jax import with_jax

    return with_jax(workload)


@dataclass(frozen=True)
class Peer:
    """Another implementation: how to build it, the package it needs, whether it has only MAML."""

    build: Callable[[Workload], Step]
    package: str = "torch"
    plain_only: bool = True

    @property
    def installed(self) -> bool:
        """Whether its package is installed; does not import it."""
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
}  # name: (memory mode, whether to use one process per core rather than one thread per core)


def start(name: str, workload: Workload, cores: int) -> Contender | None:
    """Start a contender for a workload, on all cores; None if it does not support the workload."""
    if name in OURS:
        memory, processes = OURS[name]
        return Contender(name, ours, workload, memory, cores if processes else 1, threads=cores)
    peer = PEERS[name]
    if peer.plain_only and not workload.plain:
        return None
    return Contender(name, peer.build, workload, threads=cores)


def start_published(workload: Workload, checkout: Path, cores: int) -> Contender:
    """Start the authors' published code from a checkout of it."""
    return Contender("published", published, workload, checkout, threads=cores)
