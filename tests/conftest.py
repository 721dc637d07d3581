"""What all tests share: no windows, no time limit on property-test examples, Ctrl-C, a cache."""

import signal

import hypothesis
import matplotlib
import pytest

# Who is started in the background may not hear Ctrl-C, which some tests send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

matplotlib.use("Agg")
hypothesis.settings.register_profile("mamlpp", deadline=None)  # shared cores make times jump
hypothesis.settings.load_profile("mamlpp")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder, not there yet, in which this test caches image sets."""
    monkeypatch.setenv("MAMLPP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
