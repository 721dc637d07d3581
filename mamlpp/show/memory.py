"""What a computation holds in memory, counted tensor by tensor.

    graph_bytes(lambda: learner.meta_loss(batch))    # what `backward` will need
    peak_bytes(lambda: meta_gradient(learner))       # the most that was held at once

Tensors that share their memory count once.
"""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only


def graph_bytes(compute: Callable[[], Any]) -> int:
    """Bytes of all tensors that the graph of what `compute` returns keeps for `backward`."""
    alive: weakref.WeakSet[_Kept] = weakref.WeakSet()

    def pack(tensor: Tensor) -> _Kept:
        kept = _Kept(tensor)
        alive.add(kept)
        return kept

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
        graph = compute()  # what is held while this lives
    storages = [kept.tensor.untyped_storage() for kept in alive]
    held = sum({s.data_ptr(): s.nbytes() for s in storages}.values())
    del graph
    return held


def peak_bytes(compute: Callable[[], Any]) -> int:
    """The most bytes that tensors made by `compute` hold at once."""
    with _LiveBytes() as live:
        compute()
    return live.peak


class _Kept:
    """What the graph holds in place of a tensor; when the graph is gone, so is this."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()


class _LiveBytes(TorchDispatchMode):
    """`peak`: the most bytes that tensors made inside held at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        return tree_map_only(Tensor, self._note, operation(*args, **(kwargs or {})))

    def _note(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage not in self.known:
            self.known.add(storage)
            self._count(size := storage.nbytes())
            weakref.finalize(storage, self._count, -size)
        return tensor

    def _count(self, size: int) -> None:
        self.now += size
        self.peak = max(self.peak, self.now)
