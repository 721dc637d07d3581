"""What all tests share: no windows, no time limit on property-test examples, Ctrl-C, a cache."""

import os
import signal
import tempfile
from functools import partial
from pathlib import Path

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


# The groups that take minutes begin first, so that no process is left alone with one at the end.
LONGEST = ("browser", "test_sweep", "test_live", "real sets", "test_checks")


def pytest_addoption(parser):
    """Let `--slow` run the slow tests too."""
    parser.addoption("--slow", action="store_true", help="run the tests marked slow, too")


def pytest_configure(config):
    """Let xdist keep the order of the groups. By default those of the most tests begin."""
    config.option.loadscopereorder = False


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config, items):
    """Keep a file's tests in one process, since they share what takes long to make.

    Notebooks share nothing: they fill the gaps at the end. Slow tests are skipped, unless one asks
    for them, or names a single test.
    """
    if not config.option.slow and not any("::" in argument for argument in config.args):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow: run it with --slow"))
    notebooks = Path(__file__).parent / "notebooks"
    for item in items:
        if item.get_closest_marker("xdist_group") is None and notebooks not in item.path.parents:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
    items.sort(key=partial(_turn, notebooks))


def _turn(notebooks, item):
    """The longest groups, then all others, then the notebooks."""
    if notebooks in item.path.parents:
        return len(LONGEST) + 1
    group = item.get_closest_marker("xdist_group").args[0]
    return LONGEST.index(group) if group in LONGEST else len(LONGEST)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder, not there yet, in which this test caches image sets."""
    monkeypatch.setenv("MAMLPP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
