"""Freed memory stays with the process while an engine computes."""

import ctypes
import subprocess
import sys

import pytest

SCRIPT = """
import resource, torch
from mamlpp.engine import Engine

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        maps = [torch.ones(2**20) for _ in range(4)]  # 4 MB each
        del maps
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    pages = open("/proc/self/statm").read().split()[1]
    return int(pages) * resource.getpagesize()

engine = Engine()
faults()
print(faults())
before = resident()
engine.dismiss()
print(before - resident())
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "malloc_trim"),
    reason="needs the allocator of glibc",
)
def test_freed_memory_is_kept_until_the_training_is_over():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=100
    )
    faults, returned = map(int, done.stdout.split())
    assert faults < 1000  # A pass touches 4000 pages.
    assert returned > 8e6
