"""Float32 is float32 on a GPU too.

By default PyTorch lets a GPU's convolutions round what they multiply to ten bits (TF32), which is
more than the kinks of a meta-gradient forgive.
"""

import threading
from contextlib import ContextDecorator
from typing import Any

import torch

CONVOLUTIONS: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]


class full_precision(ContextDecorator):
    """While any thread is inside, no convolution rounds; afterwards PyTorch is as it was."""

    _lock, _inside, _before = threading.Lock(), 0, ""

    def __enter__(self) -> None:
        with full_precision._lock:
            if not full_precision._inside:
                full_precision._before = CONVOLUTIONS.fp32_precision
                CONVOLUTIONS.fp32_precision = "ieee"
            full_precision._inside += 1

    def __exit__(self, *_: object) -> None:
        with full_precision._lock:
            full_precision._inside -= 1
            if not full_precision._inside:
                CONVOLUTIONS.fp32_precision = full_precision._before
