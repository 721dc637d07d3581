"""What all tests share: no windows, no time limit on property-test examples, Ctrl-C, a cache."""

import os
import signal
import tempfile

import hypothesis
import matplotlib
import pytest

# What runs in the background may not hear Ctrl-C or SIGHUP; some tests send them.
for name, handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
    number = getattr(signal, name, None)
    if number is not None and signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)

matplotlib.use("Agg")
# The claims that notebooks check in tests are not the user's.
os.environ.setdefault("MAMLPP_CLAIMS", f"{tempfile.mkdtemp()}/claims.jsonl")
# Nor is what tests answer and solve.
os.environ.setdefault("MAMLPP_PROGRESS", f"{tempfile.mkdtemp()}/progress.json")
hypothesis.settings.register_profile("mamlpp", deadline=None)  # shared cores make times jump
hypothesis.settings.load_profile("mamlpp")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder, not there yet, in which this test caches image sets."""
    monkeypatch.setenv("MAMLPP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
