"""A training that is killed, has no room, or finds damage: nothing is lost, and it is said."""

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
from tests.makers import gradients

RECIPE = mamlpp.RECIPES["maml++"].with_(
    filters=4, inner_steps=2, meta_batch=2, epochs=3, iterations_per_epoch=4, validation_tasks=2
)


def make_trainer(directory=None, **changes):
    draw = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (6, 4, 1, 16, 16), generator=draw, dtype=torch.uint8)
    train, validation = (
        mamlpp.TaskSampler(mamlpp.ImageSet(noise, (*"abcdef",), "noise", split), 3, 1, 2)
        for split in ("train", "validation")
    )
    return mamlpp.Trainer(RECIPE.with_(**changes), train, validation, directory, diagnose_every=2)


# Forks a training for each line it reads and says how that ended: a process of its own for each
# kill, without the seconds that importing torch takes. Each training saves after every meta-step.
NURSERY = """
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

def half_a_line(path, line):
    with path.open("ab") as file:
        file.write(line[: len(line) // 2])

def half_a_file(part, blob):
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
        die(test_survival.histories, "_append", when, half_a_line)
    if how == "file":
        die(test_survival.Path, "write_bytes", when, half_a_file)
    trainer.fit()

test_survival.make_trainer()  # Imports what PyTorch does when an optimizer is made.
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
    """Trains in a process of its own, which is killed as said; returns its exit code."""
    here = Path(__file__).parent
    with subprocess.Popen(
        [sys.executable, "-c", NURSERY, here],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(here.parents[1])},
    ) as nursery:

        def run(directory, how="seconds", when=0.0):
            print(f"{directory}\t{how}\t{when}", file=nursery.stdin, flush=True)
            return int(nursery.stdout.readline())

        assert nursery.stdout.readline() == "ready\n"
        yield run
        nursery.stdin.close()


@pytest.fixture(scope="module")
def undisturbed(train, tmp_path_factory):
    """The folder of a training that nothing stopped, and the seconds that each way took."""
    directories, seconds = {}, {}
    for how in ("seconds", "epochs"):
        directories[how] = tmp_path_factory.mktemp("undisturbed")
        start = time.perf_counter()
        assert train(directories[how], how) == 0
        seconds[how] = time.perf_counter() - start
    return directories["seconds"], seconds


def outcome(directory):
    """All that a training leaves but times and memory: bytes of weights, checkpoint, history.

    Not the checkpoint before the last, for it depends on the clock.
    """
    table = pandas.read_csv(directory / "history.csv", dtype=str)
    history = table.drop(columns=["seconds", "memory_mb"]).to_csv()
    history += (directory / "gradients.csv").read_text()
    [_, latest] = sorted(directory.glob("checkpoint-*"))
    tensors = {
        path.name: {name: (x.shape, x.numpy().tobytes()) for name, x in read(path)[0].items()}
        for path in [latest, *directory.glob("best-*")]
    }
    return history, tensors, list(directory.glob(".part-*"))


def read(path):
    return checkpoints._read(path)


KILLED = -signal.SIGKILL


@pytest.mark.parametrize("how", ["seconds", "epochs"])
@pytest.mark.parametrize("seed", range(4))
def test_a_training_killed_at_random_moments_ends_the_same(train, undisturbed, tmp_path, how, seed):
    directory, seconds = undisturbed
    moments = random.Random(f"{how} {seed}")
    codes = [train(tmp_path, how, moments.uniform(0, seconds[how] / 2)) for _ in range(3)]
    print(f"seed {seed}: killed {codes.count(KILLED)} times")
    assert KILLED in codes
    assert train(tmp_path, how) == 0
    assert outcome(tmp_path) == outcome(directory)


@pytest.mark.parametrize(
    ("how", "calls"),
    [
        ("move", [1, 2, 5, 6, 4]),  # the part is written, and not yet in its place
        ("remove", [1, 2, 4]),  # the new one is in its place, the old one not yet removed
        ("line", [1, 4, 2]),  # half a line of the history
        ("file", [1, 2, 3, 6]),  # half a checkpoint, half a file of weights
    ],
)
def test_a_training_killed_within_a_write_ends_the_same(train, undisturbed, tmp_path, how, calls):
    for call in calls:
        assert train(tmp_path, how, call) == KILLED
    assert train(tmp_path) == 0
    assert outcome(tmp_path) == outcome(undisturbed[0])


# Damage


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A run that Ctrl-C stopped after iteration 6; its checkpoints are of 4 and 6."""
    trainer = make_trainer(tmp_path / "run")
    with monkeypatch.context() as patch:
        press_ctrl_c(patch, trainer, call=6)
        with pytest.raises(KeyboardInterrupt, match="stopped after iteration 6; the same command"):
            trainer.fit()
    return tmp_path / "run"


def press_ctrl_c(monkeypatch, trainer, call):
    """At the beginning of a meta-step."""
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


def no_history(path):
    if path.stem.endswith("6"):
        os.truncate(path.with_name("history.csv"), len(first_lines(path.parent, 5)))


def first_lines(directory, count):
    return b"".join((directory / "history.csv").read_bytes().splitlines(keepends=True)[:count])


@pytest.mark.parametrize("damage", [truncate, flip, no_history])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(undisturbed, folder, damage):
    assert numbers(folder) == [4, 6]
    damage(folder / "checkpoint-00000006.safetensors")
    with pytest.warns(mamlpp.InputWarning, match="the checkpoint before it, if there is one, is"):
        trainer = make_trainer(folder)
    assert trainer.iteration == 4
    trainer.fit()
    assert numbers(folder) == [8, 12]
    assert outcome(folder) == outcome(undisturbed[0])


def test_if_all_checkpoints_are_damaged_it_is_said(folder):
    for path in folder.glob("checkpoint-*"):
        truncate(path)
    before = (folder / "history.csv").read_bytes()
    with (
        pytest.warns(mamlpp.InputWarning),
        pytest.raises(mamlpp.InputError, match=r"no checkpoint in .* can be read; choose another"),
    ):
        make_trainer(folder)
    assert (folder / "history.csv").read_bytes() == before


def test_latest_weights_come_from_the_checkpoint_before_a_damaged_one(folder):
    truncate(folder / "checkpoint-00000006.safetensors")
    with pytest.warns(mamlpp.InputWarning, match=r"checkpoint-00000006.safetensors cannot be read"):
        loaded = mamlpp.Run.load(folder, "latest").learner.state_dict()
    expected = read(folder / "checkpoint-00000004.safetensors")[0]
    assert all(torch.equal(x, expected[f"learner/{name}"]) for name, x in loaded.items())


def test_a_line_without_its_end_is_left_out(undisturbed, folder):
    rows = mamlpp.Run.load(folder).history.rows
    with (folder / "history.csv").open("a") as file:
        file.write("7,1.5,0.0")
    assert mamlpp.Run.load(folder).history.rows == rows
    make_trainer(folder).fit()
    assert outcome(folder) == outcome(undisturbed[0])


def test_leftovers_are_removed_and_missing_best_weights_written_again(folder):
    (folder / ".part-killed").mkdir()
    (folder / ".part-killed" / "half").write_text("half")
    [best] = folder.glob("best-*")
    best.unlink()
    make_trainer(folder)
    assert not list(folder.glob(".part-*"))
    assert best.exists()


# Ctrl-C


def test_ctrl_c_ends_the_meta_step_and_loses_nothing(undisturbed, folder):
    assert numbers(folder) == [4, 6]
    make_trainer(folder).fit()
    assert outcome(folder) == outcome(undisturbed[0])


def test_without_a_folder_fit_goes_on_after_ctrl_c(monkeypatch):
    trainer, listening = make_trainer(), signal.getsignal(signal.SIGINT)
    press_ctrl_c(monkeypatch, trainer, call=2)
    with pytest.raises(KeyboardInterrupt, match=r"after iteration 2; fit\(\) continues from there"):
        trainer.fit()
    assert signal.getsignal(signal.SIGINT) is listening
    expected = make_trainer().fit().history.column("loss")
    assert trainer.fit().history.column("loss") == expected


def test_a_second_ctrl_c_interrupts_at_once(monkeypatch):
    trainer = make_trainer()
    press_ctrl_c(monkeypatch, trainer, call=2)
    press_ctrl_c(monkeypatch, trainer, call=2)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    assert trainer.iteration == 1


# No room


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("owner", "name"), [(Path, "write_bytes"), (os, "fsync"), (histories, "_append")]
)
def test_a_full_disk_is_said_and_nothing_half_written_left(
    undisturbed, folder, monkeypatch, owner, name
):
    trainer, before = make_trainer(folder), {path.name for path in folder.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, full)
        with pytest.raises(
            mamlpp.InputError, match=r"cannot be written to .*No space left"
        ) as said:
            trainer.fit()
    assert "\n" not in str(said.value)
    assert {path.name for path in folder.iterdir()} == before
    make_trainer(folder).fit()
    assert outcome(folder) == outcome(undisturbed[0])


def test_fit_goes_on_in_the_same_process_once_there_is_room(undisturbed, folder, monkeypatch):
    trainer = make_trainer(folder)
    with monkeypatch.context() as patch:
        patch.setattr(histories, "_append", full)
        with pytest.raises(mamlpp.InputError):
            trainer.fit()
    trainer.fit()
    assert outcome(folder) == outcome(undisturbed[0])


def test_half_a_line_is_taken_back(tmp_path):
    class Full:
        """A file that has room for three bytes more."""

        def __init__(self, file):
            self.file, self.room = file, 3

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, line):
            if not self.room:
                full()
            self.file.write(line[: self.room])
            self.room = 0
            return 3

    class Disk:
        def open(self, mode, buffering):
            return Full((tmp_path / "file").open(mode, buffering=buffering))

    (tmp_path / "file").write_bytes(b"whole\n")
    with pytest.raises(OSError, match="No space"):
        histories._append(Disk(), b"another line\n")
    assert (tmp_path / "file").read_bytes() == b"whole\n"


def test_a_run_that_cannot_be_written_at_its_start_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(mamlpp.InputError, match=r"no run can be written to .*No space left"):
        make_trainer(tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())


# What is written, and when


def test_a_checkpoint_comes_after_so_many_seconds_too(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "CHECKPOINT_SECONDS", 0.0)
    make_trainer(tmp_path).fit()
    assert numbers(tmp_path) == [11, 12]


def test_checkpoints_are_safetensors_with_plain_data(folder):
    blob = (folder / "checkpoint-00000006.safetensors").read_bytes()
    header = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])
    about = json.loads(header["__metadata__"]["about"])
    assert about["iteration"] == 6
    assert [number for _, number in about["best"]] == [4]
    assert "sampler/generator" in header


# Meta-gradients that are not finite


def poison(monkeypatch, trainer, call):
    """The support set of the `call`-th task from now on is infinite."""
    drawn, original = [], trainer.train.sample

    def sample(tasks):
        batch = original(tasks)
        for i in range(tasks):
            drawn.append(i)
            if len(drawn) == call:
                batch.support_x[i] = torch.inf
        return batch

    monkeypatch.setattr(trainer.train, "sample", sample)


def test_a_meta_gradient_that_is_not_finite_moves_neither_weights_nor_statistics(
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


def test_where_the_gradient_stopped_being_finite_is_recorded():
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


def test_statistics_that_are_not_finite_count_as_such_by_themselves(monkeypatch):
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
    poison(monkeypatch, trainer, call=3)  # two tasks a meta-step
    trainer.fit()
    [name] = pandas.read_csv(tmp_path / "history.csv")["nonfinite"].dropna()
    assert name == "network.blocks.0.conv.weight"
    rows = mamlpp.Run.load(tmp_path).history.rows
    assert [row["iteration"] for row in rows if "nonfinite" in row] == [2]


def test_the_recipe_can_stop_at_a_meta_gradient_that_is_not_finite(tmp_path, monkeypatch):
    said = r"of iteration 2 is not finite, first in network.blocks.0.conv.weight, and the recipe"
    trainer = make_trainer(tmp_path, nonfinite="stop")
    poison(monkeypatch, trainer, call=3)
    with pytest.raises(mamlpp.InputError, match=said):
        trainer.fit()
    assert numbers(tmp_path) == [2]
    with pytest.raises(mamlpp.InputError, match=said):
        make_trainer(tmp_path, nonfinite="stop").fit()


# Two at once


def test_two_trainings_do_not_write_to_one_folder(tmp_path, monkeypatch):
    trainer, other = make_trainer(tmp_path), make_trainer(tmp_path)
    refused = []

    def step(original=trainer.step):
        for attempt in (other.fit, lambda: make_trainer(tmp_path)):
            with pytest.raises(mamlpp.InputError, match="another training is at work in") as error:
                attempt()
            refused.append(error)
        return original()

    monkeypatch.setattr(trainer, "step", step)
    undisturbed = make_trainer().fit()
    assert trainer.fit().history.column("loss") == undisturbed.history.column("loss")
    assert len(refused) == 24
    make_trainer(tmp_path).fit()


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
