"""Training survives kills, full disks and damaged files, and reports what happened."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas
import pytest
import torch

import mamlpp
from mamlpp import files
from mamlpp.run import checkpoints, run_folder
from mamlpp.run import history as histories
from tests.makers import gradients, noise_sampler

RECIPE = mamlpp.RECIPES["maml++"].with_(
    filters=4, inner_steps=2, meta_batch=2, epochs=3, iterations_per_epoch=4, validation_tasks=2
)


def make_trainer(directory=None, **changes):
    train, validation = (noise_sampler(split) for split in ("train", "validation"))
    return mamlpp.Trainer(RECIPE.with_(**changes), train, validation, directory, diagnose_every=2)


# For each line on standard input, forks a training, perhaps kills it, and prints its exit code.
# Forking saves the seconds that importing torch takes. Each training saves after every meta-step.
FORK_SERVER = """
import os, signal, sys, time
sys.path.insert(0, sys.argv[1])
import mamlpp
import test_survival
from mamlpp.run import run_folder

def kill_self(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def die(owner, name, call, before):
    calls, original = [], getattr(owner, name)
    def method(*arguments, **options):
        calls.append(0)
        if len(calls) == call:
            before(*arguments)
            kill_self()
        return original(*arguments, **options)
    setattr(owner, name, method)

def write_half_a_line(path, line):
    with path.open("ab") as file:
        file.write(line[: len(line) // 2])

def write_half_a_file(part, blob):
    with part.open("wb") as file:
        file.write(blob[: len(blob) // 2])

def child(directory, how, when):
    run_folder.CHECKPOINT_SECONDS = 0.0 if how != "epochs" else 1e9
    trainer = test_survival.make_trainer(directory)
    if how == "move":
        die(os, "replace", when, lambda *_: None)
    if how == "remove":
        die(os, "unlink", when, lambda *_: None)
    if how == "line":
        die(test_survival.histories, "_append", when, write_half_a_line)
    if how == "file":
        die(test_survival.Path, "write_bytes", when, write_half_a_file)
    trainer.fit()

test_survival.make_trainer()  # Triggers the imports that PyTorch defers to the first optimizer.
print("ready", flush=True)
for request in sys.stdin:
    directory, how, when = request.split("\\t")
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        child(directory, how, float(when))
        os._exit(0)
    if how in ("seconds", "epochs") and float(when):
        time.sleep(float(when))
        os.kill(pid, signal.SIGKILL)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def train():
    """A function that trains in a forked process, kills it as asked, and returns its exit code."""
    here = Path(__file__).parent
    with subprocess.Popen(
        [sys.executable, "-c", FORK_SERVER, here],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(here.parents[1])},
    ) as server:

        def run(directory, how="seconds", when=0.0):
            print(f"{directory}\t{how}\t{when}", file=server.stdin, flush=True)
            return int(server.stdout.readline())

        assert server.stdout.readline() == "ready\n"
        yield run
        server.stdin.close()


@pytest.fixture(scope="module")
def uninterrupted(train, tmp_path_factory):
    """The folder of an uninterrupted training, and the seconds that each saving mode took."""
    directories, seconds = {}, {}
    for how in ("seconds", "epochs"):
        directories[how] = tmp_path_factory.mktemp("uninterrupted")
        start = time.perf_counter()
        assert train(directories[how], how) == 0
        seconds[how] = time.perf_counter() - start
    return directories["seconds"], seconds


def outcome(directory):
    """The bytes of a training's weights, last checkpoint and history, except times and memory.

    The previous checkpoint is left out, because it depends on the clock.
    """
    table = pandas.read_csv(directory / "history.csv", dtype=str)
    # A look at the gradient rounds in another way in a forked process: it is no part of training.
    table["first_order_cosine"] = table["first_order_cosine"].astype(float).round(4)
    history = table.drop(columns=["seconds", "memory_mb"]).to_csv()
    looks = pandas.read_csv(directory / "gradients.csv")
    history += looks.assign(
        **looks.select_dtypes("float").map(lambda x: float(f"{x:.3g}"))
    ).to_csv()
    [_, latest] = sorted(directory.glob("checkpoint-*"))
    tensors = {
        path.name: {name: (x.shape, x.numpy().tobytes()) for name, x in read(path)[0].items()}
        for path in [latest, *directory.glob("best-*")]
    }
    return history, tensors, list(directory.glob(".part-*"))


def read(path):
    return checkpoints._read(path)


KILLED = -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("how", ["seconds", "epochs"])
@pytest.mark.parametrize("seed", range(2))
def test_random_kills_do_not_change_the_outcome(train, uninterrupted, tmp_path, how, seed):
    directory, seconds = uninterrupted
    moments = random.Random(f"{how} {seed}")
    codes = [train(tmp_path, how, moments.uniform(0, seconds[how] / 2)) for _ in range(3)]
    print(f"seed {seed}: killed {codes.count(KILLED)} times")
    assert KILLED in codes
    assert train(tmp_path, how) == 0
    assert outcome(tmp_path) == outcome(directory)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "calls"),
    [
        ("move", [1, 2, 5, 6, 4]),  # the temporary file is written but not yet moved
        ("remove", [1, 2, 4]),  # the new file is in place, the old one not yet deleted
        ("line", [1, 4, 2]),  # half a line of the history
        ("file", [1, 2, 3, 6]),  # half a checkpoint, half a file of weights
    ],
)
def test_kills_during_writes_do_not_change_the_outcome(train, uninterrupted, tmp_path, how, calls):
    for call in calls:
        assert train(tmp_path, how, call) == KILLED
    assert train(tmp_path) == 0
    assert outcome(tmp_path) == outcome(uninterrupted[0])


# Damage


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A run that Ctrl-C stopped after iteration 6; its checkpoints are those of 4 and 6."""
    trainer = make_trainer(tmp_path / "run")
    with monkeypatch.context() as patch:
        press_ctrl_c(patch, trainer, call=6)
        with pytest.raises(KeyboardInterrupt, match="stopped after iteration 6; the same command"):
            trainer.fit()
    return tmp_path / "run"


def press_ctrl_c(monkeypatch, trainer, call):
    """Send Ctrl-C at the start of the `call`-th meta-step."""
    calls, original = [], trainer.train.sample

    def sample(tasks):
        calls.append(tasks)
        if len(calls) == call:
            signal.raise_signal(signal.SIGINT)
        return original(tasks)

    monkeypatch.setattr(trainer.train, "sample", sample)


def numbers(directory):
    return [int(path.stem[-8:]) for path in sorted(directory.glob("checkpoint-*"))]


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def flip(path):
    path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))


def shorten_history(path):
    if path.stem.endswith("6"):
        os.truncate(path.with_name("history.csv"), len(first_lines(path.parent, 5)))


def first_lines(directory, count):
    return b"".join((directory / "history.csv").read_bytes().splitlines(keepends=True)[:count])


@pytest.mark.parametrize("damage", [truncate, flip, shorten_history])
def test_the_previous_checkpoint_replaces_a_damaged_one(uninterrupted, folder, damage):
    assert numbers(folder) == [4, 6]
    damage(folder / "checkpoint-00000006.safetensors")
    with pytest.warns(mamlpp.InputWarning, match="using the previous checkpoint instead"):
        trainer = make_trainer(folder)
    assert trainer.iteration == 4
    trainer.fit()
    assert numbers(folder) == [8, 12]
    assert outcome(folder) == outcome(uninterrupted[0])


def test_damage_to_all_checkpoints_is_reported(folder):
    for path in folder.glob("checkpoint-*"):
        truncate(path)
    before = (folder / "history.csv").read_bytes()
    with (
        pytest.warns(mamlpp.InputWarning),
        pytest.raises(mamlpp.InputError, match=r"no checkpoint in .* can be read; choose another"),
    ):
        make_trainer(folder)
    assert (folder / "history.csv").read_bytes() == before


def test_latest_weights_come_from_the_latest_readable_checkpoint(folder):
    truncate(folder / "checkpoint-00000006.safetensors")
    with pytest.warns(mamlpp.InputWarning, match=r"checkpoint-00000006.safetensors cannot be read"):
        loaded = mamlpp.Run.load(folder, "latest").learner.state_dict()
    expected = read(folder / "checkpoint-00000004.safetensors")[0]
    assert all(torch.equal(x, expected[f"learner/{name}"]) for name, x in loaded.items())


def test_an_incomplete_line_of_the_history_is_ignored(uninterrupted, folder):
    rows = mamlpp.Run.load(folder).history.rows
    with (folder / "history.csv").open("a") as file:
        file.write("7,1.5,0.0")
    assert mamlpp.Run.load(folder).history.rows == rows
    make_trainer(folder).fit()
    assert outcome(folder) == outcome(uninterrupted[0])


def test_leftovers_are_deleted_and_missing_best_weights_restored(folder):
    (folder / ".part-killed").mkdir()
    (folder / ".part-killed" / "half").write_text("half")
    [best] = folder.glob("best-*")
    best.unlink()
    make_trainer(folder)
    assert not list(folder.glob(".part-*"))
    assert best.exists()


# Ctrl-C


def test_ctrl_c_finishes_the_meta_step_and_loses_nothing(uninterrupted, folder):
    assert numbers(folder) == [4, 6]
    make_trainer(folder).fit()
    assert outcome(folder) == outcome(uninterrupted[0])


def test_without_a_folder_fit_resumes_after_ctrl_c(monkeypatch):
    trainer, handler = make_trainer(), signal.getsignal(signal.SIGINT)
    press_ctrl_c(monkeypatch, trainer, call=2)
    with pytest.raises(KeyboardInterrupt, match=r"after iteration 2; fit\(\) continues from there"):
        trainer.fit()
    assert signal.getsignal(signal.SIGINT) is handler
    expected = make_trainer().fit().history.column("loss")
    assert trainer.fit().history.column("loss") == expected


def test_a_second_ctrl_c_interrupts_at_once(monkeypatch):
    trainer = make_trainer()
    press_ctrl_c(monkeypatch, trainer, call=2)
    press_ctrl_c(monkeypatch, trainer, call=2)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    assert trainer.iteration == 1


# Full disk


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("owner", "name"), [(Path, "write_bytes"), (os, "fsync"), (histories, "_append")]
)
def test_a_full_disk_is_reported_and_leaves_no_partial_file(
    uninterrupted, folder, monkeypatch, owner, name
):
    trainer, before = make_trainer(folder), {path.name for path in folder.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, full)
        with pytest.raises(
            mamlpp.InputError, match=r"cannot be written to .*No space left"
        ) as raised:
            trainer.fit()
    assert "\n" not in str(raised.value)
    assert {path.name for path in folder.iterdir()} == before
    make_trainer(folder).fit()
    assert outcome(folder) == outcome(uninterrupted[0])


def test_fit_resumes_in_the_same_process_once_there_is_space(uninterrupted, folder, monkeypatch):
    trainer = make_trainer(folder)
    with monkeypatch.context() as patch:
        patch.setattr(histories, "_append", full)
        with pytest.raises(mamlpp.InputError):
            trainer.fit()
    trainer.fit()
    assert outcome(folder) == outcome(uninterrupted[0])


def test_half_a_written_line_is_removed(tmp_path):
    class Full:
        """A file on a disk with space for three more bytes."""

        def __init__(self, file):
            self.file, self.space = file, 3

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, line):
            if not self.space:
                full()
            self.file.write(line[: self.space])
            self.space = 0
            return 3

    class Disk:
        def open(self, mode, buffering):
            return Full((tmp_path / "file").open(mode, buffering=buffering))

    (tmp_path / "file").write_bytes(b"whole\n")
    with pytest.raises(OSError, match="No space"):
        histories._append(Disk(), b"another line\n")
    assert (tmp_path / "file").read_bytes() == b"whole\n"


def test_a_full_disk_at_the_start_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(mamlpp.InputError, match=r"no run can be written to .*No space left"):
        make_trainer(tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())


# Checkpoints


def test_a_checkpoint_is_also_written_after_some_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "CHECKPOINT_SECONDS", 0.0)
    make_trainer(tmp_path).fit()
    assert numbers(tmp_path) == [11, 12]


def test_checkpoints_are_safetensors_files_with_json_metadata(folder):
    blob = (folder / "checkpoint-00000006.safetensors").read_bytes()
    header = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])
    about = json.loads(header["__metadata__"]["about"])
    assert about["iteration"] == 6
    assert [number for _, number in about["best"]] == [4]
    assert "sampler/generator" in header


# Meta-gradients that are not finite


def poison(monkeypatch, trainer, call):
    """Make the support set of the `call`-th task drawn from now on infinite."""
    drawn, original = [], trainer.train.sample

    def sample(tasks):
        batch = original(tasks)
        for i in range(tasks):
            drawn.append(i)
            if len(drawn) == call:
                batch.support_x[i] = torch.inf
        return batch

    monkeypatch.setattr(trainer.train, "sample", sample)


def test_a_meta_gradient_that_is_not_finite_changes_neither_weights_nor_statistics(
    tmp_path, monkeypatch
):
    trainer = make_trainer(tmp_path)
    trainer.step()
    before = {name: x.clone() for name, x in trainer.learner.state_dict().items()}
    poison(monkeypatch, trainer, call=2)
    row = trainer.step()
    assert row["nonfinite"] == "network.blocks.0.conv.weight"
    assert all(torch.equal(x, before[name]) for name, x in trainer.learner.state_dict().items())
    assert "nonfinite" not in trainer.step()
    trainer.fit()
    assert all(x.isfinite().all() for x in trainer.learner.state_dict().values())


def test_the_first_step_without_a_finite_gradient_is_recorded():
    trainer = make_trainer()
    trainer.diagnose_every = None
    with torch.no_grad():
        trainer.learner.network.head.weight.fill_(torch.inf)
    row = trainer.step()
    assert row["nonfinite"]
    diagnosis = trainer.diagnosis
    assert row["nonfinite_step"] == diagnosis.first_nonfinite[0]
    assert not diagnosis.norms[diagnosis.first_nonfinite[0]].isfinite().all()
    assert len(trainer._gradient_rows) == diagnosis.norms.numel()


def test_running_statistics_that_are_not_finite_are_detected_too(monkeypatch):
    trainer = make_trainer()
    norm = trainer.learner.network.blocks[1].norm

    def meta_gradient(*arguments, original=trainer.engine.meta_gradient):
        report = original(*arguments)
        norm.update_running(0, torch.zeros(4), torch.full((4,), torch.inf))
        return report

    monkeypatch.setattr(trainer.engine, "meta_gradient", meta_gradient)
    assert trainer.step()["nonfinite"] == "network.blocks.1.norm.running_var"
    assert norm.running_var.isfinite().all()


def test_a_meta_gradient_that_is_not_finite_is_in_the_history(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path)
    poison(monkeypatch, trainer, call=3)  # two tasks per meta-step
    trainer.fit()
    [name] = pandas.read_csv(tmp_path / "history.csv")["nonfinite"].dropna()
    assert name == "network.blocks.0.conv.weight"
    rows = mamlpp.Run.load(tmp_path).history.rows
    assert [row["iteration"] for row in rows if "nonfinite" in row] == [2]


def test_the_recipe_can_stop_at_a_meta_gradient_that_is_not_finite(tmp_path, monkeypatch):
    message = r"of iteration 2 is not finite, first in network.blocks.0.conv.weight, and the recipe"
    trainer = make_trainer(tmp_path, nonfinite="stop")
    poison(monkeypatch, trainer, call=3)
    with pytest.raises(mamlpp.InputError, match=message):
        trainer.fit()
    assert numbers(tmp_path) == [2]
    with pytest.raises(mamlpp.InputError, match=message):
        make_trainer(tmp_path, nonfinite="stop").fit()


# Concurrent trainings


def test_two_trainings_cannot_write_to_the_same_folder(tmp_path, monkeypatch):
    trainer, other = make_trainer(tmp_path), make_trainer(tmp_path)
    refused = []

    def step(original=trainer.step):
        for attempt in (other.fit, lambda: make_trainer(tmp_path)):
            with pytest.raises(mamlpp.InputError, match="another training is at work in") as error:
                attempt()
            refused.append(error)
        return original()

    monkeypatch.setattr(trainer, "step", step)
    uninterrupted = make_trainer().fit()
    assert trainer.fit().history.column("loss") == uninterrupted.history.column("loss")
    assert len(refused) == 24
    make_trainer(tmp_path).fit()


def test_a_file_system_without_locks_costs_a_warning_alone(tmp_path, monkeypatch):
    def acquire(*_, **__):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("filelock.FileLock.acquire", acquire)
    with pytest.warns(mamlpp.InputWarning, match="has no locks .*; the training goes on"):
        trainer = make_trainer(tmp_path)
    assert len(trainer.fit().history.rows) == len(make_trainer().fit().history.rows)


# Clipping


def gradient(**changes):
    trainer = make_trainer(**changes)
    row = trainer.step()
    return torch.cat([x.flatten() for x in gradients(trainer.learner).values()]), row[
        "gradient_norm"
    ]


def test_the_meta_gradient_is_clipped_by_its_norm():
    (free, norm), (clipped, recorded) = gradient(), gradient(clip_norm=0.01)
    assert recorded == norm == pytest.approx(free.norm().item())
    torch.testing.assert_close(clipped, free * 0.01 / norm, rtol=1e-3, atol=1e-9)
    assert torch.equal(gradient(clip_norm=2 * norm)[0], free)


def test_the_meta_gradient_is_clipped_by_value():
    (free, norm), (clipped, recorded) = gradient(), gradient(clip_value=0.01)
    assert recorded == norm
    assert free.abs().max() > 0.01
    assert torch.equal(clipped, free.clamp(-0.01, 0.01))
