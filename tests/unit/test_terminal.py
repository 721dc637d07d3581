"""Closed pipes, narrow terminals and signals cost no result."""

import io
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

import mamlpp
from mamlpp import terminal
from tests.makers import noise_sampler, noise_trainer

ROOT = Path(__file__).resolve().parents[2]
TRAIN = (
    *("train", "--ways", "3", "--filters", "4", "--inner-steps", "1", "--meta-batch", "2"),
    *("--validation-tasks", "2", "--device", "cpu", "--dataset", "glyphs"),
)


def start(*words, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "mamlpp", *map(str, words)], cwd=ROOT, stderr=subprocess.PIPE,
        env=os.environ | options.pop("env", {}), **{"encoding": "utf-8"} | options,
    )  # fmt: skip


@pytest.mark.slow
def test_a_closed_pipe_costs_no_training(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    words = *TRAIN, "--epochs", "1", "--iterations-per-epoch", "2", "--directory", tmp_path
    process = start(*words, stdout=writer)
    os.close(writer)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert said.count("what it says cannot be written") == 1
    assert "Traceback" not in said
    assert len(mamlpp.Run.load(tmp_path).history.rows) == 2


def test_a_narrow_terminal_gets_what_it_can_show():
    process = start(
        "train", "--help", stdout=subprocess.PIPE, env={"PYTHONIOENCODING": "ascii"},
        encoding="ascii",
    )  # fmt: skip
    said, errors = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in errors) == (0, False)
    assert "--inner-steps" in said


def hear_no_ctrl_c():
    """As a job that a script started in the background."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "first"),
    [("SIGINT", None), ("SIGHUP", None), ("SIGTERM", hear_no_ctrl_c)],
)
def test_a_signal_ends_the_meta_step_saves_it_and_says_so_in_one_line(name, first, tmp_path):
    words = *TRAIN, "--epochs", "9", "--iterations-per-epoch", "999", "--directory", tmp_path
    process = start(*words, stdout=subprocess.PIPE, preexec_fn=first)
    history = tmp_path / "history.csv"
    until = time.monotonic() + 60
    while time.monotonic() < until and (not history.exists() or history.stat().st_size < 300):
        time.sleep(0.05)
    process.send_signal(getattr(signal, name))
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert "mamlpp: stopped after iteration" in said.splitlines()[-1]
    saved = sorted(tmp_path.glob("checkpoint-*"))[-1].stem
    assert int(saved.split("-")[1]) == len(history.read_text("utf-8").splitlines()) - 1


def test_a_warning_is_one_line():
    code = """
import warnings
from mamlpp.errors import InputWarning
from mamlpp.terminal import prepare
prepare()
warnings.warn("it goes on", InputWarning)
warnings.warn("not for users", DeprecationWarning)
"""
    found = subprocess.run([sys.executable, "-W", "always", "-c", code], stderr=subprocess.PIPE)
    first, second, *_ = found.stderr.decode().splitlines()  # From 3.13 on the code follows.
    assert first == "mamlpp: it goes on"
    assert second.endswith("DeprecationWarning: not for users")


# While the command imports


ENTRIES = {  # `python -m mamlpp`, and what the script `mamlpp` of an installation does
    "module": ("-m", "mamlpp"),
    "script": ("-c", "from {} import {} as main; main()"),
}


@pytest.fixture
def slow_torch(tmp_path):
    """An environment where importing torch says so and then takes for ever."""
    # In many short sleeps: a signal just before a long one would be heard only after it.
    text = "import time\nprint('importing', flush=True)\nfor _ in range(6000): time.sleep(0.01)\n"
    (tmp_path / "torch.py").write_text(text, encoding="utf-8")
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}


@pytest.fixture
def script():
    """The module and the function that the script of an installation calls."""
    about = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return about["project"]["scripts"]["mamlpp"].split(":")


@pytest.mark.skipif(os.name == "nt", reason="Windows has other signals")
@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_during_the_imports_ends_the_command_in_one_line(slow_torch, script, entry, name):
    words = [word.format(*script) for word in ENTRIES[entry]]
    with subprocess.Popen(
        [sys.executable, *words, "cache"], cwd=ROOT, env=slow_torch, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "importing\n"
        process.send_signal(getattr(signal, name))
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "mamlpp: stopped\n")


@pytest.mark.skipif(os.name == "nt", reason="Windows has other signals")
def test_a_closed_terminal_that_is_ignored_stays_ignored_during_the_imports(slow_torch):
    (Path(slow_torch["PYTHONPATH"].split(os.pathsep)[0]) / "torch.py").write_text(
        "print('importing', flush=True)\ninput()\nraise SystemExit(7)\n", encoding="utf-8"
    )
    ignore = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    with subprocess.Popen(
        [sys.executable, "-c", f"{ignore}from mamlpp.__main__ import main; main()", "cache"],
        cwd=ROOT, env=slow_torch, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGHUP)
        process.communicate("go on\n", timeout=60)
    assert process.returncode == 7


def test_ctrl_c_is_an_exception_again_once_a_command_runs(monkeypatch, capsys):
    from mamlpp import cli, terminal

    monkeypatch.setattr(cli, "_parse", lambda _: lambda: signal.raise_signal(signal.SIGINT))
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        terminal.end_on_signals()
        with pytest.raises(SystemExit) as ended:
            cli.main(["cache"])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert (ended.value.code, capsys.readouterr().err) == (130, "mamlpp: stopped\n")


def test_a_run_that_may_only_be_read_is_evaluated(tmp_path, capsys, monkeypatch):
    from mamlpp import cli

    noise_trainer(directory=tmp_path).fit()
    monkeypatch.setattr(cli, "load_images", lambda *_: noise_sampler().images)

    monkeypatch.setattr(cli.os, "access", lambda *_: False)
    cli.main(["evaluate", str(tmp_path), "--tasks", "3", "--device", "cpu"])
    out = capsys.readouterr().out
    assert "accuracy in %" in out
    assert "may only be read" in out
    assert not list(tmp_path.glob("evaluation-*.json"))


def test_what_standard_output_cannot_encode_is_replaced(monkeypatch):
    plain = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", plain)
    terminal.say("83.8 ± 0.7 %")
    assert plain.buffer.getvalue() == b"83.8 ? 0.7 %\n"
