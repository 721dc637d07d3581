"""The numbers that the kit computes with, whatever its caller has set for torch.

By default PyTorch lets a GPU's convolutions round their factors to ten bits (TF32). A meta-gradient
through ReLU and max-pooling does not tolerate that: rounding flips some of their choices.
"""

import threading
from collections.abc import Iterator
from contextlib import ContextDecorator, contextmanager
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

CONVOLUTIONS: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]


class full_precision(ContextDecorator):
    """While any thread is inside, no convolution uses TF32; afterwards the setting is restored."""

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


_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def torch_defaults() -> Iterator[None]:
    """As torch starts: new tensors are float32, on the CPU, and may be differentiated.

    Afterwards the settings are restored.
    """
    with _ONE_AT_A_TIME:  # These settings, and torch's generator, belong to the whole process.
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            with torch.device("cpu"), torch.inference_mode(False):
                yield
        finally:
            torch.set_default_dtype(before)


@contextmanager
def gradients_on() -> Iterator[None]:
    """With gradients, also where the caller has turned them off; and with gradients of those.

    PyTorch's fast kernels for attention have no second derivative.
    """
    with torch.inference_mode(False), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        yield
