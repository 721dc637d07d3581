"""The command line, as a user sees it: what it prints, what it writes, how it says no."""

import ast
import dataclasses
import inspect
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
from datetime import datetime
from itertools import pairwise
from typing import NamedTuple

import pytest

import mamlpp
from mamlpp import cli
from tests.makers import noise_images

TINY = (
    *("--filters", 4, "--inner-steps", 1, "--meta-batch", 2, "--epochs", 1),
    *("--iterations-per-epoch", 2, "--validation-tasks", 2, "--ways", 3, "--device", "cpu"),
)
SMALL = {"filters": 4, "inner_steps": 1, "epochs": 1, "iterations_per_epoch": 2}


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs `mamlpp ARGUMENTS` in this process, on noise in place of every dataset."""

    def run(*arguments):
        code = 0
        try:
            cli.main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capsys.readouterr()
        if isinstance(code, str):  # What Python prints for `sys.exit("…")`.
            code, err = 1, f"{err}{code}\n"
        return Result(code, out, err)

    monkeypatch.delenv("MAMLPP_DATA", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(cli, "default_dataset", lambda: "glyphs")
    monkeypatch.setattr(cli, "load_images", lambda name, split: noise_images(split, dataset=name))
    return run


@pytest.fixture
def train(command, tmp_path):
    """Runs `mamlpp train` with tiny settings; its result, and what `run.json` holds."""

    def run(*options):
        result = command("train", "--directory", tmp_path / "run", *TINY, *options)
        assert result.code == 0, result.err
        return result, json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))

    return run


def refuse(result, said):
    """It ended with an error that says so, and not with a traceback."""
    assert result.code in (1, 2)
    assert "Traceback" not in result.err
    assert re.search(said, unboxed(result.err)), result.err


def unboxed(text):
    """Help or an error message, without its frame and line breaks."""
    return " ".join(re.sub("[╭╮╰╯│─]", " ", text).split())


# What each command does


def test_train_then_evaluate(train, command, tmp_path):
    trained, about = train()
    assert re.search(r"best validation accuracy \d+\.\d\d %; the run is in ", trained.out)
    assert f"next: mamlpp evaluate {tmp_path / 'run'}\n" in trained.out
    assert about["data"]["dataset"] == "glyphs"
    evaluated = command("evaluate", tmp_path / "run", "--tasks", 3, "--device", "cpu")
    assert re.match(r"glyphs-test-[0-9a-f]{8}, 3-way 1-shot, 3 tasks\n", evaluated.out)
    assert (tmp_path / "run" / "evaluation-test.json").exists()


def test_evaluate_takes_the_split_and_the_steps_that_were_asked_for(train, command, tmp_path):
    train()
    evaluate = ("evaluate", tmp_path / "run", "--tasks", 20, "--device", "cpu")
    assert "glyphs-validation-" in command(*evaluate, "--split", "validation").out
    assert command(*evaluate).out != command(*evaluate, "--steps", 0).out


def test_the_recipe_sets_what_no_option_says(train):
    assert train("--recipe", "fomaml")[1]["recipe"]["second_order_from"] is None


def test_an_option_overrides_the_recipe(train):
    recipe = train("--recipe=fomaml", "--second-order-from", 2, "--outer-rate", 0.5)[1]["recipe"]
    assert (recipe["second_order_from"], recipe["outer_rate"]) == (2.0, 0.5)


@pytest.mark.parametrize("name", ["maml++-quick", "maml"])
def test_the_options_change_the_recipe_that_is_named_or_the_one_for_a_laptop(train, name):
    said, about = train(*([] if name == "maml++-quick" else ["--recipe", name]))
    tiny = {
        str(name).removeprefix("--").replace("-", "_"): value
        for name, value in zip(TINY[::2], TINY[1::2], strict=True)
    }
    fields = {name: value for name, value in tiny.items() if name in about["recipe"]}
    assert about["recipe"] == mamlpp.RECIPES[name].with_(**fields).as_dict()
    assert said.out.startswith(f"{name} on glyphs, 3-way 1-shot\nschedule: ")


@pytest.mark.parametrize("found", ["glyphs", "omniglot"])
def test_without_options_the_laptop_s_recipe_trains_on_what_data_there_is(
    command, tmp_path, monkeypatch, found
):
    recipe = mamlpp.RECIPES["maml++-quick"].with_(**SMALL)
    monkeypatch.setitem(mamlpp.RECIPES, "maml++-quick", recipe)
    monkeypatch.setattr(cli, "default_dataset", lambda: found)
    monkeypatch.chdir(tmp_path)
    trained = command("train")
    assert trained.code == 0, trained.err
    assert trained.out.startswith(f"maml++-quick on {found}, 5-way 1-shot\n")
    run = mamlpp.Run.load(tmp_path / "runs" / "maml++-quick")
    assert (run.recipe, run.data.dataset) == (recipe, found)
    monkeypatch.setattr(cli, "default_dataset", lambda: "mini_imagenet")
    assert command("train").out.startswith(f"the recipe of this run on {found}, 5-way 1-shot\n")


def test_a_folder_with_a_run_sets_what_no_option_says(train, command, tmp_path):
    _, begun = train("--recipe", "maml+msl", "--dataset", "omniglot", "--sampling-seed", 3)
    words = ("train", "--directory", tmp_path / "run", "--device", "cpu")
    again = command(*words)
    assert again.code == 0, again.err
    assert again.out.startswith("the recipe of this run on omniglot, 3-way 1-shot\n")
    with pytest.warns(mamlpp.InputWarning, match=r"epochs 2 instead of 1, msl_epochs 0\.2 instead"):
        assert command(*words, "--epochs", 2).code == 0
    assert command(*words).code == 0, "at the length that is in force"
    assert len(mamlpp.Run.load(tmp_path / "run").history.rows) == 4
    assert json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8")) == begun
    refuse(command(*words, "--filters", 5), "^mamlpp: .* filters is 4 there and 5 here")
    refuse(command(*words, "--recipe", "maml"), "^mamlpp: .* holds another run: filters is 4")


def test_first_order_can_be_asked_for(train):
    assert train("--second-order-from", "None")[1]["recipe"]["second_order_from"] is None


@pytest.mark.parametrize("dataset", ["glyphs", "mini_imagenet"])
def test_drawings_are_turned_and_photographs_are_not(command, monkeypatch, dataset):
    rotated = []
    monkeypatch.setattr(cli, "TaskSampler", lambda *_, rotate, **__: rotated.append(rotate))
    monkeypatch.setattr(cli, "Trainer", lambda *_, **__: sys.exit(0))
    command("train", "--directory", "never-written", "--dataset", dataset)
    assert rotated == [dataset != "mini_imagenet", False]


def test_data_says_what_is_there(command):
    lines = command("data", "omniglot").out.splitlines()
    for line, split in zip(lines, ("train", "validation", "test"), strict=True):
        assert line.startswith(split)
        assert "6 classes x 4 images of 16x16x1" in line
        assert re.search(rf"omniglot-{split}-[0-9a-f]{{8}}$", line)


@pytest.mark.parametrize(("name", "begins"), [("page.png", b"\x89PNG"), ("page.SVG", b"<?xml")])
def test_data_draws_a_page(command, tmp_path, name, begins):
    picture = tmp_path / "new" / name
    assert f"drawn to {picture}" in command("data", "--picture", picture).out
    assert picture.read_bytes().startswith(begins)
    assert [path.name for path in picture.parent.iterdir()] == [name]


# Paths, as a person types them


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The home folder, which is not the current one."""
    for name in ("home", "here"):
        (tmp_path / name).mkdir()
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


def test_train_and_evaluate_take_the_home_folder(command, home):
    trained = command("train", "--directory=~/my runs/one", *TINY)
    assert trained.code == 0, trained.err
    assert f"the run is in {home / 'my runs' / 'one'}\n" in trained.out
    assert (home / "my runs" / "one" / "run.json").exists()
    words = shlex.split(trained.out.splitlines()[-1].removeprefix("next: mamlpp "))
    assert words == ["evaluate", "~/my runs/one"]
    evaluated = command(*words, "--tasks", 3, "--device", "cpu")
    assert evaluated.code == 0, evaluated.err
    written = home / "my runs" / "one" / "evaluation-test.json"
    assert f"all numbers are in {written}\n" in evaluated.out
    assert str(home) not in json.loads(written.read_text(encoding="utf-8"))["command"]
    assert not list((home.parent / "here").iterdir())


def test_data_takes_the_home_folder(command, home):
    assert f"drawn to {home / 'page.png'}" in command("data", "--picture", "~/page.png").out
    assert (home / "page.png").exists()


SWEEP = """
recipes = ["maml"]
seeds = [0]
test_tasks = 3
ensemble = 1
[profile]
filters = 4
[[tasks]]
dataset = "glyphs"
ways = 3
shots = 1
queries = 1
"""


def test_sweep_takes_the_home_folder(command, home):
    (home / "tiny.toml").write_text(SWEEP, encoding="utf-8")
    options = ("sweep", "~/tiny.toml", "--directory", "~/out")
    assert command(*options, "--status").out.endswith("1 run: 1 missing\n")
    out = re.escape(str(home / "out"))
    refuse(command(*options, "--table=json"), f"is done in {out}; run the sweep first")


def test_a_sweeps_table_goes_to_the_home_folder_and_names_no_folder_of_this_machine(
    command, home, monkeypatch
):
    (home / "tiny.toml").write_text(SWEEP, encoding="utf-8")
    found = [{"rows": {"maml": {"runs": 1}}}]
    monkeypatch.setattr("mamlpp.show.tables.sweep_tables", lambda *_: found)
    said = command("sweep", "~/tiny.toml", "--table=json", "--output=~/table.json")
    assert said.out == f"written to {home / 'table.json'}\n", said.err
    text = (home / "table.json").read_text(encoding="utf-8")
    assert json.loads(text)["tables"] == found
    assert str(home) not in text
    assert shlex.split(json.loads(text)["command"])[2:] == [
        "~/tiny.toml",
        "--directory",
        "runs/tiny",
    ]


def test_sweep_loads_every_split_before_it_starts(command, home, monkeypatch):
    (home / "tiny.toml").write_text(SWEEP, encoding="utf-8")
    loaded = []

    def load(dataset, split):
        loaded.append((dataset, split))
        if split == "test":
            raise mamlpp.InputError("no test split")

    monkeypatch.setattr(cli, "load_images", load)
    refuse(command("sweep", "~/tiny.toml"), "^mamlpp: no test split$")
    assert loaded == [("glyphs", "train"), ("glyphs", "validation"), ("glyphs", "test")]


# The cache


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache with two sets and a download, used one, two and three days ago."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("MAMLPP_CACHE", str(folder))
    (folder / "omniglot").mkdir(parents=True)
    names = (
        *("omniglot-train-v1-ab.safetensors", "mini_imagenet-test-v1-cd.safetensors"),
        "omniglot/images_background.zip",
    )
    for days, name in enumerate(names, 1):
        (folder / name).write_bytes(bytes(days * 1_000_000))
        used = datetime(2026, 1, 10 - days, 12, 30).timestamp()
        os.utime(folder / name, (used, used))
    (folder / "mine.txt").write_text("not of the cache", encoding="utf-8")
    return folder


def test_cache_lists_what_is_kept(command, cache):
    lines = command("cache").out.splitlines()
    assert [line.split() for line in lines[:-1]] == [
        ["dataset", "split", "MB", "last", "use", "file"],
        ["omniglot", "train", "1.0", "2026-01-09", "12:30", "omniglot-train-v1-ab.safetensors"],
        [
            *("mini_imagenet", "test", "2.0", "2026-01-08", "12:30"),
            "mini_imagenet-test-v1-cd.safetensors",
        ],
        ["omniglot", "download", "3.0", "2026-01-07", "12:30", "images_background.zip"],
    ]
    assert lines[-1] == (
        f"3 files, 6.0 MB in {cache}; decoded images are kept up to 10 GB (MAMLPP_CACHE_LIMIT)"
    )


def test_cache_clear_removes_what_is_kept_and_nothing_else(command, cache):
    assert command("cache", "--clear").out == f"removed 6.0 MB from {cache}\n"
    assert [path.name for path in cache.rglob("*") if path.is_file()] == ["mine.txt"]
    assert command("cache").out.startswith(f"0 files, 0.0 MB in {cache}; ")


def test_cache_says_what_is_wrong_with_its_folder(command, cache, monkeypatch):
    monkeypatch.setenv("MAMLPP_CACHE", str(cache / "mine.txt"))
    refuse(command("cache"), "^mamlpp: MAMLPP_CACHE is .*, which is a file; set it to a folder")


# What help says


def comments(kind):
    """The text below each field that has one, which becomes its help."""
    [defined] = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    return {
        field.target.id: unboxed(comment.value.value)
        for field, comment in pairwise(defined.body)
        if isinstance(field, ast.AnnAssign) and isinstance(comment, ast.Expr)
    }


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("data", cli.Data),
        ("train", cli.Train),
        ("train", mamlpp.Recipe),
        ("evaluate", cli.Evaluate),
        ("sweep", cli.Sweep),
        ("cache", cli.Cache),
    ],
)
def test_help_has_the_comment_of_every_field(command, name, kind):
    result = command(name, "--help")
    assert result.code == 0
    assert comments(kind)
    for comment in comments(kind).values():
        assert comment in unboxed(result.out)


def test_every_field_of_a_recipe_is_an_option_of_train(command):
    said = command("train", "--help").out
    for field in dataclasses.fields(mamlpp.Recipe):
        assert re.search(rf"--{field.name.replace('_', '-')} ", said), field.name


def test_help_names_the_commands(command):
    said = command("--help").out
    assert all(name in said for name in ("data", "train", "evaluate", "sweep", "cache"))


# What users get wrong


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--recipe", "mamml"],
            "^mamlpp: there is no recipe 'mamml'; choose one of maml, fomaml, ",
        ),
        (["--filtres", 3], "Unrecognized options: --filtres"),
        (["--filters", "many"], "Error parsing --filters: .*'many'"),
        (["--pooling", "mean"], "invalid choice 'mean' for argument '--pooling'"),
        (["--filters", 0], "^mamlpp: filters must be a whole number from 1 on, not 0$"),
        (["--outer-rate", "nan"], "^mamlpp: outer_rate must be positive or None, not nan$"),
        (["--ways", 7], "^mamlpp: 7-way tasks need 7 classes, but glyphs train has 6"),
        (["--validation-tasks", 1], "^mamlpp: validation_tasks must be 2 or more"),
        (["--device", "gpu"], "^mamlpp: this machine has no device 'gpu'; choose cpu, or leave"),
        (["--device", "cuda:99"], "^mamlpp: this machine has no device 'cuda:99'"),
    ],
)
def test_train_says_what_is_wrong_and_leaves_no_folder(command, tmp_path, options, said):
    refuse(command("train", "--directory", tmp_path / "run", *options), said)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["train", "--directory", "a", "--epochs", 5, "--epochs", 6], "--epochs"),
        (["train", "--directory", "a", "--epochs=5", "--filters", 3, "--epochs", 5], "--epochs"),
        (["train", "--directory", "a", "--inner-steps=1", "--inner_steps=2"], "--inner_steps"),
        (["train", "--recipe", "maml", "--recipe", "maml++"], "--recipe"),
        (["data", "--picture", "a.png", "--picture", "b.png"], "--picture"),
        (["evaluate", "a", "--tasks", 5, "--tasks", 6], "--tasks"),
        (["sweep", "a", "--status", "--status"], "--status"),
        (["cache", "--clear", "--clear"], "--clear"),
    ],
)
def test_an_option_that_is_given_twice_is_refused(command, tmp_path, monkeypatch, words, option):
    monkeypatch.chdir(tmp_path)
    refuse(command(*words), f"^mamlpp: {option} is given more than once; give it once$")
    assert not list(tmp_path.iterdir())


def test_a_value_may_be_the_name_of_an_option(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refuse(command("evaluate", "--tasks", 3, "tasks"), "^mamlpp: .*tasks holds no run")


def test_train_leaves_another_run_that_is_there_alone(train, command, tmp_path):
    train()
    again = command("train", "--directory", tmp_path / "run", *TINY, "--sampling-seed", 5)
    refuse(again, "^mamlpp: .* holds another run: training_seed is 0 there and 5 here, ")


def test_more_epochs_continue_a_finished_run_and_fewer_are_refused(train, command, tmp_path):
    words = ["train", "--directory", tmp_path / "run", *TINY]
    train()
    words[words.index("--epochs") + 1] = 3
    with pytest.warns(mamlpp.InputWarning, match="goes on with epochs 3 instead of 1, "):
        longer = command(*words)
    assert longer.code == 0, longer.err
    assert len(mamlpp.Run.load(tmp_path / "run").history.rows) == 6
    words[words.index("--epochs") + 1] = 2
    refuse(command(*words), "^mamlpp: .* has trained 3 epochs already; choose epochs from 3 on")


def test_the_same_command_again_says_the_same(train):
    assert train("--recipe", "maml")[0].out == train("--recipe", "maml")[0].out


def test_ctrl_c_stops_after_the_meta_step_and_the_same_command_goes_on(
    train, command, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(cli.TaskSampler, "sample", pressing_ctrl_c(cli.TaskSampler.sample))
        stopped = command("train", "--directory", tmp_path / "run", *TINY)
    assert stopped.code == 130
    last = stopped.err.splitlines()[-1]
    assert last == "mamlpp: stopped after iteration 1; the same command continues from there"
    train()
    assert len(mamlpp.Run.load(tmp_path / "run").history.rows) == 2


def pressing_ctrl_c(method):
    def pressed(*arguments):
        signal.raise_signal(signal.SIGINT)
        return method(*arguments)

    return pressed


@pytest.mark.parametrize("arguments", [["frobnicate"], []])
def test_an_unknown_command_is_refused(command, arguments):
    refuse(command(*arguments), "data.*train.*evaluate.*sweep.*cache")


def test_evaluate_says_that_there_is_no_run(command, tmp_path):
    refuse(command("evaluate", tmp_path), "^mamlpp: .* holds no run; give the folder that")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tasks", 1], "^mamlpp: a confidence interval needs at least 2 tasks, not 1$"),
        (["--steps", -1], "^mamlpp: steps must be 0 or more, not -1$"),
        (["--device", "gpu"], "^mamlpp: this machine has no device 'gpu'"),
        (["--split", "exam"], "invalid choice 'exam' for argument '--split'"),
    ],
)
def test_evaluate_says_what_is_wrong(train, command, tmp_path, options, said):
    train()
    refuse(command("evaluate", tmp_path / "run", *options), said)


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        ("page.bmp", "the picture must be a .png or .svg file, not page.bmp"),
        ("page", "the picture must be a .png or .svg file, not page"),
        ("file/page.png", "no picture can be written to .*page.png .*; choose another file"),
    ],
)
def test_data_says_where_it_cannot_draw(command, tmp_path, picture, said):
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    refuse(command("data", "--picture", tmp_path / picture), said)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("module", ["mamlpp", "mamlpp.cli"])
def test_python_runs_it_as_a_module(module, tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", module, "evaluate", str(tmp_path)], capture_output=True, text=True
    )
    assert result.returncode == 1
    assert result.stderr.startswith(f"mamlpp: {tmp_path} holds no run")


# What an import costs


IMPORT = """
import sys

touched = []
sys.addaudithook(lambda event, args: touched.extend(
    event for value in args if isinstance(value, str) and value.startswith(sys.argv[1])
))
import torch
from mamlpp import *

heavy = {"IPython", "matplotlib", "pandas", "pooch", "requests", "seaborn", "tyro"}
print(touched, sorted(heavy & set(sys.modules)), torch.cuda.is_initialized())
"""


def test_importing_reads_no_data_and_imports_nothing_heavy_but_torch(tmp_path):
    folders = {name: str(tmp_path / name) for name in ("MAMLPP_CACHE", "MAMLPP_DATA")}
    result = subprocess.run(
        [sys.executable, "-c", IMPORT, str(tmp_path)],
        env=os.environ | folders,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.split("\n")[0] == "[] [] False"
    assert not list(tmp_path.iterdir())
