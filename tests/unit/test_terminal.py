"""Closed pipes, narrow terminals and signals cost no result."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import mamlpp
from tests.makers import noise_sampler, noise_trainer

ROOT = Path(__file__).resolve().parents[2]
TRAIN = (
    *("train", "--ways", "3", "--filters", "4", "--inner-steps", "1", "--meta-batch", "2"),
    *("--validation-tasks", "2", "--device", "cpu"),
)


def start(*words, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "mamlpp", *map(str, words)], cwd=ROOT, stderr=subprocess.PIPE,
        env=os.environ | options.pop("env", {}), **{"encoding": "utf-8"} | options,
    )  # fmt: skip


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


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_narrow_terminal_gets_what_it_can_show(encoding):
    process = start(
        "train", "--help", stdout=subprocess.PIPE, env={"PYTHONIOENCODING": encoding},
        encoding=encoding,
    )  # fmt: skip
    said, errors = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in errors) == (0, False)
    assert "--inner-steps" in said


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_the_meta_step_saves_it_and_says_so_in_one_line(name, tmp_path):
    words = *TRAIN, "--epochs", "9", "--iterations-per-epoch", "999", "--directory", tmp_path
    process = start(*words, stdout=subprocess.PIPE)
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
