"""Sweeps: reading the file, killed and failed runs, the resulting tables."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType

import psutil
import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

import mamlpp
from mamlpp import cli
from mamlpp.run import sweep
from mamlpp.show import tables

ROOT = Path(__file__).resolve().parents[2]

TINY = """
recipes = ["maml", "maml++"]
seeds = [0]
test_tasks = 4
ensemble = 2
[[tasks]]
dataset = "glyphs"
ways = 3
shots = 1
queries = 1
[profile]
filters = 2
inner_steps = 1
meta_batch = 1
epochs = 2
iterations_per_epoch = 2
validation_tasks = 2
[changes."maml++"]
msl_epochs = 1
second_order_from = 1
"""

TWICE = '[[tasks]]\ndataset = "there/glyphs"\nways = 3\nshots = 1\nqueries = 2\n[profile]'


@pytest.fixture
def write(tmp_path):
    def write(change=lambda text: text):
        path = tmp_path / "tiny.toml"
        path.write_text(change(TINY), encoding="utf-8")
        return path

    return write


def start(path, runs, **options):
    words = ["sweep", str(path), "--directory", str(runs), "--workers", "1"]
    return subprocess.Popen(
        [sys.executable, "-m", "mamlpp", *words],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


# The file


def test_the_cells_are_seeds_x_tasks_x_recipes_and_each_change_has_its_effect(write):
    more = '[[tasks]]\ndataset = "glyphs"\nways = 5\nshots = 2\nqueries = 3\nmeta_batch = 7\n'
    path = write(
        lambda text: text.replace("[0]", "[0, 4]").replace("[profile]", more + "[profile]")
    )
    cells = sweep.read_sweep(path)
    assert [cell.name for cell in cells] == [
        f"glyphs-{task}/{name}-{seed}"
        for seed in (0, 4)
        for task in ("3way-1shot", "5way-2shot")
        for name in ("maml", "maml++")
    ]
    assert {cell.settings.filters for cell in cells} == {2}
    assert {(cell.ways, cell.settings.meta_batch) for cell in cells} == {(3, 1), (5, 7)}
    assert [cell.settings.msl_epochs for cell in cells] == [0, 1] * 4
    assert [cell.settings.seed for cell in cells] == [0] * 4 + [4] * 4


def test_every_point_of_a_grid_is_a_training_with_its_values_and_a_table(write):
    grid = "[grid]\nouter_rate = [0.01, 0.1]\ninner_rate = [0.2, 0.3]\n"
    cells = sweep.read_sweep(write(lambda text: text + grid))
    points = [
        f"outer_rate={outer},inner_rate={inner}" for outer in (0.01, 0.1) for inner in (0.2, 0.3)
    ]
    assert [cell.group for cell in cells[::2]] == [f"glyphs-3way-1shot-{point}" for point in points]
    assert [cell.settings.outer_rate for cell in cells] == [0.01] * 4 + [0.1] * 4
    assert [cell.settings.inner_rate for cell in cells] == [0.2, 0.2, 0.3, 0.3] * 2
    assert sweep.Cell.from_dict(asdict(cells[0])) == cells[0]


def test_an_ensemble_that_is_larger_than_what_is_kept_is_said(write):
    with pytest.warns(mamlpp.InputWarning, match="of 3 is asked for, but a run keeps 2 checkpoint"):
        sweep.read_sweep(write(lambda text: text.replace("ensemble = 2", "ensemble = 3")))


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ('"maml++"]', '"maml+++"]', "no recipe 'maml+++'"),
        ("filters", "filtres", "no field 'filtres'"),
        ("test_tasks = 4", "", "test_tasks must be a whole number"),
        ("seeds = [0]", "seeds = [0, 0]", "seeds has duplicates: [0, 0]"),
        ("queries = 1", "", "has no queries"),
        ("ensemble = 2", "ensemble = 2\nworkers = 3", "unknown keys: workers"),
        ('[changes."maml++"]', '[changes."maml+ca"]', "not in its list of recipes"),
        ("seeds = [0]", "seeds = [0", "is not valid TOML"),
        ("[profile]", "[grid]\nouter_rate = [0.1]\n[profile]", "one value goes to [profile]"),
        ("seeds = [0]", "seeds = [0]\ngrid = 3", "[grid] must be a table, not 3"),
        ("queries = 1", 'queries = "1"', "queries must be a whole number"),
        ("seeds = [0]", 'seeds = ["0"]', "each of seeds must be a whole number"),
        ("[profile]", "[grid]\nouter_rate = 0.1\n[profile]", "different values of outer_rate, not"),
        ("[profile]", "[grid]\nouter_rat = [1, 2]\n[profile]", "no field 'outer_rat'"),
        ("[profile]", '[grid]\nrecipe = ["maml", "maml++"]\n[profile]', "no field 'recipe'"),
        ("[profile]", "[grid]\nseed = [1, 2]\n[profile]", "give it in the list of seeds"),
        ("test_tasks = 4", "test_tasks = 1", "test_tasks must be a whole number, 2 or more"),
        ("ensemble = 2", "ensemble = true", "ensemble must be a whole number, 1 or more, not True"),
        ('"maml++"]', '"my/own"]', "must be a word without slashes, not 'my/own'"),
        ("[profile]", TWICE, "2 of its runs would be glyphs-3way-1shot/maml-0: give"),
        ('"maml++"]', "3]", "must be a word without slashes, not 3"),
        ('dataset = "glyphs"', "dataset = 3", "dataset must be a name or a path, not 3"),
    ],
)
def test_an_error_in_the_file_is_reported_in_one_sentence(write, before, after, sentence):
    with pytest.raises(mamlpp.InputError, match=r"the sweep .*tiny.toml") as error:
        sweep.read_sweep(write(lambda text: text.replace(before, after)))
    assert sentence in str(error.value)


def test_a_recipe_of_ones_own_is_made_of_one_of_the_kit(write):
    own = '[changes.wide]\nrecipe = "fomaml"\nfilters = 7\n'
    cells = sweep.read_sweep(write(lambda text: text.replace('"maml",', '"maml", "wide",') + own))
    [cell, *_] = [cell for cell in cells if cell.recipe == "wide"]
    assert (cell.settings.filters, cell.settings.second_order_from) == (7, None)
    assert cell.name.endswith("/wide-0")


def test_a_file_may_begin_with_a_byte_order_mark(write):
    cells, path = sweep.read_sweep(write()), write(lambda text: "\ufeff" + text)
    assert sweep.read_sweep(path) == cells


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(mamlpp.InputError, match=r"no sweep file .*none.toml; the sweeps of this"):
        sweep.read_sweep(tmp_path / "none.toml")


def test_the_sweeps_of_this_kit_are_the_papers_tables_and_our_own():
    files = {path.stem: sweep.read_sweep(path) for path in (ROOT / "sweeps").glob("*.toml")}
    assert set(files) == {
        *("laptop", "omniglot_20way_5000", "omniglot_20way", "mini_imagenet_5way"),
        "mini_imagenet_1500",
        *("figure1", "rates", "cures", "readings", "leave_one_out", "quick"),
    }
    for name, cells in files.items():
        assert len({cell.name for cell in cells}) == len(cells)
        assert {cell.dataset for cell in cells} <= {"omniglot", "mini_imagenet", "glyphs"}, name
    for cell in files["omniglot_20way"]:
        recipe = mamlpp.RECIPES[cell.recipe].with_(
            seed=cell.seed, meta_batch=16 if cell.shots == 1 else 8
        )
        assert cell.settings == recipe, "at the paper's own size"
    figure = files["figure1"]  # the strided network, MAML against MAML++, three seeds
    assert {(cell.group, cell.settings.pooling) for cell in figure} == {
        ("omniglot-20way-1shot", "stride")
    }
    assert [(cell.recipe, cell.seed) for cell in figure] == [
        (recipe, seed) for seed in range(3) for recipe in ("maml", "maml++")
    ]


def test_each_recipe_of_leave_one_out_is_mamlpp_without_one_improvement():
    without, cures = (
        sweep.read_sweep(ROOT / f"sweeps/{name}.toml") for name in ("leave_one_out", "cures")
    )
    for cell in without:
        same = [c for c in cures if (c.group, c.seed) == (cell.group, cell.seed)]
        plus, maml, alone = (
            next(c.settings.as_dict() for c in same if c.recipe == name)
            for name in ("maml++", "maml", cell.recipe.replace("maml++-without-", "maml+"))
        )
        fields = {name for name in maml if alone[name] != maml[name]}
        left = plus | {name: maml[name] for name in fields}
        assert cell.settings.as_dict() == left
        assert cell.tasks == same[0].tasks


# Running it


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep of which one run failed: its file, the folder, what it said and that run's state."""
    folder = tmp_path_factory.mktemp("swept")
    path, runs = folder / "tiny.toml", folder / "runs"
    path.write_text(TINY)
    first, _ = sweep.read_sweep(path)
    (runs / first.name).mkdir(parents=True)
    (runs / first.name / "run.json").write_text("{")
    with pytest.raises(SystemExit) as end:
        cli.main(["sweep", str(path), "--directory", str(runs), "--workers", "1"])
    return path, runs, str(end.value), sweep.state(first, runs)


def test_a_failed_run_stops_no_other_and_its_reason_is_reported(swept):
    path, runs, said, failed = swept
    first, second = sweep.read_sweep(path)
    assert "1 of 2 runs failed" in said
    assert f"{first.name}: failed: " in said
    assert "is damaged" in said
    assert failed.word == "failed"
    assert "is damaged" in failed.reason
    assert sweep.read_result(second, runs) is not None


def test_a_sweep_runs_missing_cells_and_prints_status_and_tables(swept, tmp_path, capsys):
    path, runs, *_ = swept
    first, second = sweep.read_sweep(path)
    before = (runs / second.name / "result.json").stat().st_mtime_ns

    def command(*words, folder=runs):
        cli.main(["sweep", str(path), "--directory", str(folder), *words])
        return capsys.readouterr().out

    printed = command("--status", folder=tmp_path).splitlines()
    assert printed[-1] == "2 runs: 2 missing"
    (runs / first.name / "run.json").unlink()
    sweep.run_cell(first, runs, "cpu")
    printed = command("--status").splitlines()
    assert [line.split()[1:] for line in printed[:2]] == [["done", "4", "of", "4"]] * 2
    assert printed[2] == "2 runs: 2 done"
    assert "MAML++" in command("--workers", "1")
    assert (runs / second.name / "result.json").stat().st_mtime_ns == before, "it ran only once"

    about = json.loads(command("--table", "json"))
    [table] = about["tables"]
    assert list(table["rows"]) == ["maml", "maml++"]
    [result] = table["rows"]["maml++"]["runs"]
    assert set(result["results"]) == {"support", "running", "queries"}
    assert all(set(kinds) == {"single", "ensemble"} for kinds in result["results"].values())
    assert result["seconds"] > 0
    assert result["memory_mb"] > 0
    assert result["commit"] is None or re.fullmatch("[0-9a-f]{40}", result["commit"])
    again = mamlpp.evaluate(
        mamlpp.Run.load(runs / second.name), mamlpp.load_images("glyphs", "test"), 4
    )
    assert result["results"]["support"]["single"]["accuracy"] == again.accuracy
    accuracy = f"{100 * again.accuracy:.2f}"
    assert accuracy in command("--table", "text")
    assert f"| {accuracy} |" in command("--table", "markdown")
    command("--table", "figure", "--output", str(tmp_path / "table.svg"))
    assert "MAML++" in (tmp_path / "table.svg").read_text()


def test_a_cell_of_another_size_does_not_reuse_the_run_in_its_folder(write, tmp_path):
    [cell, _] = sweep.read_sweep(write())
    sweep.run_cell(cell, tmp_path, "cpu")
    larger = replace(cell, settings=cell.settings.with_(filters=3))
    assert sweep.state(larger, tmp_path).word == "stopped"
    with pytest.raises(mamlpp.InputError, match="filters is 2 there and 3 here"):
        sweep.run_cell(larger, tmp_path, "cpu")
    longer = replace(cell, settings=cell.settings.with_(epochs=3))
    with pytest.raises(mamlpp.InputError, match="epochs is 2 there and 3 here"):
        sweep.run_cell(longer, tmp_path, "cpu")
    more = replace(cell, tasks=5)  # The training is reused for a longer evaluation.
    assert sweep.run_cell(more, tmp_path, "cpu")["cell"]["tasks"] == 5


def test_a_cell_that_is_running_elsewhere_is_waited_for_and_not_trained_again(write, tmp_path):
    [cell, _] = sweep.read_sweep(write())
    done = sweep.run_cell(cell, tmp_path / "elsewhere", "cpu")
    runs, folder = tmp_path / "runs", tmp_path / "runs" / cell.name
    folder.mkdir(parents=True)
    with ThreadPoolExecutor(1) as pool:
        with FileLock(folder / ".cell.lock"):
            future = pool.submit(sweep.run_cell, cell, runs, "cpu")
            with pytest.raises(TimeoutError):
                future.result(0.5)
            assert sweep.state(cell, runs).word == "running"
            shutil.copy(tmp_path / "elsewhere" / cell.name / "result.json", folder)
        assert future.result() == done
    assert not (folder / "history.csv").exists()


def test_the_definition_is_computed_in_one_thread(write, tmp_path, monkeypatch):
    # It seeds PyTorch's random generator, so two threads at once would get wrong numbers.
    threads = []
    monkeypatch.setattr(sweep, "_definition", lambda _: threads.append(threading.get_ident()))
    monkeypatch.setattr(sweep.Processes, "_run", lambda *_: None)
    with sweep.Processes(tmp_path, 2, "cpu") as processes:
        for cell in sweep.read_sweep(write()):
            processes.submit(cell)
    assert threads == [threading.get_ident()] * 2


LONGER = TINY.replace("epochs = 2", "epochs = 8").replace("per_epoch = 2", "per_epoch = 10")
LONGER = LONGER.replace('"maml", ', "")  # one run
TWO = LONGER.replace("seeds = [0]", "seeds = [0, 1]")


@pytest.fixture
def longer(write):
    return write(lambda _: LONGER)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The folder of the same sweep and of one more seed, run without interruption."""
    folder, threads = tmp_path_factory.mktemp("uninterrupted"), torch.get_num_threads()
    (folder / "longer.toml").write_text(TWO)
    for cell in sweep.read_sweep(folder / "longer.toml"):
        sweep.run_cell(cell, folder, "cpu")
    torch.set_num_threads(threads)
    return folder


def weights(cells, runs):
    return [load_file(sorted((runs / cell.name).glob("checkpoint-*"))[-1]) for cell in cells]


def same(some, others):
    return all(
        one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)
        for one, other in zip(some, others, strict=True)
    )


def wait_for(what, seconds=180):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError(f"timed out after {seconds} s")


def training(cells, runs, least=10):
    return [
        cell for cell in cells
        if least <= sweep.last_iteration(runs / cell.name / "history.csv") < cell.steps
    ]  # fmt: skip


@pytest.mark.slow
def test_killing_the_sweep_or_a_worker_does_not_change_its_results(longer, uninterrupted, tmp_path):
    [cell], runs = sweep.read_sweep(longer), tmp_path / "runs"
    process = start(longer, runs)
    wait_for(lambda: training([cell], runs))
    children = psutil.Process(process.pid).children()
    process.kill()
    process.communicate()
    psutil.wait_procs(children, timeout=20)
    assert not any(child.is_running() for child in children), "no worker outlives the sweep"

    killed_at = sweep.last_iteration(runs / cell.name / "history.csv")
    with sweep.Processes(runs, 1, "cpu") as processes:
        future = processes.submit(cell)
        wait_for(lambda: training([cell], runs, killed_at + 1))
        [worker] = processes.running
        worker.kill()
        here = future.result(120)
    assert worker.returncode == -signal.SIGKILL
    assert same(weights([cell], runs), weights([cell], uninterrupted))
    assert here["results"] == sweep.read_result(cell, uninterrupted)["results"]


class Windows(subprocess.Popen):
    """A process there hears no Ctrl-C from another one."""

    def send_signal(self, number):
        raise ValueError(f"Unsupported signal: {number}")


def test_ctrl_c_saves_every_run_in_progress_without_a_signal(write, tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", Windows)
    two = TWO.replace("per_epoch = 10", "per_epoch = 1000")
    path, runs = write(lambda _: two), tmp_path / "runs"
    cells = sweep.read_sweep(path)

    def press():
        wait_for(lambda: len(training(cells, runs, 1)) == 2)
        signal.raise_signal(signal.SIGINT)

    words = ["sweep", str(path), "--directory", str(runs), "--workers", "2"]
    with ThreadPoolExecutor(1) as pool:
        pool.submit(press)
        with pytest.raises(SystemExit) as end:
            cli.main(words)
    assert end.value.code == 130
    for cell in cells:
        assert saved(cell, runs) == sweep.last_iteration(runs / cell.name / "history.csv")
        assert 1 <= saved(cell, runs) < cell.steps


def saved(cell, runs):
    """The iteration of a run's last checkpoint."""
    return int(sorted((runs / cell.name).glob("checkpoint-*"))[-1].stem.split("-")[1])


@pytest.mark.slow
def test_a_background_job_that_is_ended_saves_its_run(longer, tmp_path):
    [cell], runs = sweep.read_sweep(longer), tmp_path / "runs"
    # A script's background job starts with Ctrl-C ignored, and is ended by SIGTERM.
    ignored = lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)  # noqa: E731
    process = start(longer, runs, preexec_fn=ignored)
    wait_for(lambda: training([cell], runs))
    process.terminate()
    assert process.wait(60) == 130, process.stderr.read()
    process.communicate()
    assert saved(cell, runs) == sweep.last_iteration(runs / cell.name / "history.csv") < cell.steps


def test_workers_are_a_group_of_their_own(write, tmp_path, monkeypatch):
    given = {}

    def popen(*_, **options):
        given.update(options)
        raise OSError("enough")

    monkeypatch.setattr(sweep, "NEW_GROUP", 512)
    monkeypatch.setattr(subprocess, "Popen", popen)
    with sweep.Processes(tmp_path, 1, "cpu") as processes, pytest.raises(OSError, match="enough"):
        processes.submit(sweep.read_sweep(write())[0]).result()
    assert (given["creationflags"], given["start_new_session"]) == (512, True)


@pytest.mark.parametrize(
    ("codes", "attempts", "said"),
    [
        ([1], 1, "no room"),
        ([15, 0xC0000005, 1], 3, "no room"),
        ([-9, -9, -9], 3, "its process was killed 3 times, the last time with exit code -9"),
        ([15, 15, 15], 3, "its process was killed 3 times, the last time with exit code 15"),
    ],
)
def test_a_worker_that_was_killed_is_started_again(
    write, tmp_path, monkeypatch, codes, attempts, said
):
    left = list(codes)
    monkeypatch.setattr(sweep.Processes, "_run_worker", lambda *_: (left.pop(0), "no room"))
    with sweep.Processes(tmp_path, 1, "cpu") as processes, pytest.raises(RuntimeError, match=said):
        processes.submit(sweep.read_sweep(write())[0]).result()
    assert len(codes) - len(left) == attempts


def test_the_folders_of_a_sweep_have_names_that_every_system_takes():
    for path in (ROOT / "sweeps").glob("*.toml"):
        names = [cell.name for cell in sweep.read_sweep(path)]
        assert len({name.lower() for name in names}) == len(names), "in capitals or not"
        for part in {part for name in names for part in name.split("/")}:
            assert re.fullmatch(r"[\w+=,.-]*[\w+-]", part), (
                "no colon, and no dot or blank at its end"
            )
            assert not re.match(r"(con|prn|aux|nul|com\d|lpt\d)$", part)


# A cluster


@pytest.mark.slow
def test_an_unreachable_cluster_is_reported(write, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))  # Not asked before.
    words = ["sweep", str(write()), "--directory", str(tmp_path), "--cluster", "127.0.0.1:1"]
    with pytest.raises(SystemExit, match=r"no Ray cluster answers at 127\.0\.0\.1:1"):
        cli.main(words)


@pytest.mark.slow
def test_a_dying_cluster_worker_does_not_change_the_results(write, uninterrupted, tmp_path):
    pytest.importorskip("ray")
    path = write(lambda _: TWO)
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("cluster_with_a_death.py"), path, tmp_path],
        capture_output=True, text=True, timeout=300, check=False,
        env=os.environ
        | {"PYTHONPATH": str(ROOT), "RAY_raylet_start_wait_time_s": "120"},  # for a busy machine
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "killed" in done.stdout
    cells = sweep.read_sweep(path)
    assert same(weights(cells, tmp_path / "runs"), weights(cells, uninterrupted))
    measured = ("seconds", "memory_mb")  # Only these differ from one training to the next.
    found = []
    for folder in (tmp_path / "runs", uninterrupted):
        rows = tables.sweep_tables(cells, folder)[0]["rows"]
        found.append(
            [
                {k: v for k, v in one.items() if k not in measured}
                for r in rows.values()
                for one in r["runs"]
            ]
        )
    assert found[0] == found[1]
