"""Bytes of a graph, and of all tensors at once."""

import torch

from mamlpp.show.memory import graph_bytes, peak_bytes


def test_a_graph_holds_what_backward_needs_and_shared_memory_once():
    x = torch.ones(1000, requires_grad=True)
    assert graph_bytes(lambda: x.exp().sum()) == 4000  # exp keeps its result
    assert graph_bytes(lambda: (x * x).sum()) == 4000  # both factors are one tensor
    assert graph_bytes(lambda: (2 * x).sum()) == 0
    assert graph_bytes(lambda: x.exp().exp()) == 8000


def test_the_peak_is_what_lived_at_once():
    def one_after_another():
        for _ in range(5):
            torch.ones(1000)

    assert peak_bytes(one_after_another) in (4000, 8000)  # the next is made before the last goes
    assert peak_bytes(lambda: [torch.ones(1000) for _ in range(5)]) == 20_000
