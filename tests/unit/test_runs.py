"""The folder of a run: what training writes, what loading returns, how bad folders are reported."""

import json
import math

import pandas
import pytest
import torch

import mamlpp
from mamlpp.files import replacing
from mamlpp.run import checkpoints, validation
from mamlpp.run.evaluation import Evaluation
from mamlpp.run.history import COLUMNS, History

RECIPE = mamlpp.RECIPES["fomaml"].with_(
    filters=4, inner_steps=1, meta_batch=2, epochs=2, iterations_per_epoch=2, validation_tasks=2
)


def make_trainer(directory=None, size=16, shots=1, seed=0, rotate=False, ink=0, **changes):
    draw = torch.Generator().manual_seed(ink)
    noise = torch.randint(0, 256, (6, 4, 1, size, size), generator=draw, dtype=torch.uint8)
    train, validation = (
        mamlpp.TaskSampler(
            mamlpp.ImageSet(pictures, (*"abcdef",), "noise", split),
            3,
            shots,
            2,
            seed=seed,
            rotate=turn,
        )
        for split, pictures, turn in (
            ("train", noise, rotate),
            ("validation", noise.flip(-1), False),
        )
    )
    return mamlpp.Trainer(RECIPE.with_(**changes), train, validation, directory)


@pytest.fixture
def trainer(tmp_path, monkeypatch):
    """A finished training in `tmp_path / "run"`, best after the first of its two epochs."""
    accuracies = iter([0.9, 0.5])

    def evaluate_tasks(*_, **__):
        return Evaluation(torch.tensor([next(accuracies)]), torch.ones(1))

    monkeypatch.setattr(validation, "evaluate_tasks", evaluate_tasks)
    trainer = make_trainer(tmp_path / "run")
    trainer.fit()
    return trainer


@pytest.fixture
def folder(trainer):
    return trainer.directory


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def logits(learner):
    images = torch.linspace(0, 1, 6 * 256).view(6, 1, 16, 16).sin()
    return learner.adapt(images[:3], torch.arange(3))(images[3:])


def refuse(message, function, *arguments):
    """Check that the call raises `InputError` with this message, in one sentence."""
    with pytest.raises(mamlpp.InputError, match=message) as raised:
        function(*arguments)
    assert "\n" not in str(raised.value)


# Save and load


def test_a_loaded_run_equals_the_saved_one(trainer, folder):
    run = trainer.fit()
    loaded = mamlpp.Run.load(str(folder))
    assert torch.equal(logits(loaded.learner), logits(run.learner))
    assert (loaded.recipe, loaded.data, loaded.directory) == (RECIPE, run.data, folder)
    assert (loaded.ways, loaded.shots, loaded.queries) == (3, 1, 2)
    assert loaded.history.rows == run.history.rows


def test_best_and_latest_weights_can_be_chosen(trainer, folder):
    best, latest = (logits(mamlpp.Run.load(folder, which).learner) for which in ("best", "latest"))
    assert torch.equal(best, logits(trainer.fit().learner))
    assert torch.equal(latest, logits(trainer.learner))
    assert not torch.equal(best, latest)


def test_the_folder_holds_exactly_these_files(folder):
    assert sorted(contents(folder)) == [
        *("best-00000002.safetensors", "best-00000004.safetensors"),
        *("checkpoint-00000002.safetensors", "checkpoint-00000004.safetensors"),
        *("gradients.csv", "history.csv", "run.json"),
    ]


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = make_trainer().fit()
    assert run.directory is None
    assert not list(tmp_path.iterdir())


def test_validating_twice_keeps_one_copy_of_the_weights(tmp_path):
    trainer = make_trainer(tmp_path)
    for _ in range(2):
        trainer.validate()
    assert [best.iteration for best in trainer.fit().kept].count(0) == 1
    assert make_trainer(tmp_path).iteration == 4


def test_a_file_that_is_being_read_may_not_be_removed_on_windows(tmp_path, monkeypatch):
    def unlink(path, *_, **__):
        raise PermissionError(13, "The process cannot access the file", str(path))

    trainer = make_trainer(tmp_path, epochs=4)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.Path, "unlink", unlink)
        for _ in range(6):
            trainer.advance()
    assert len(list(tmp_path.glob("checkpoint-*"))) == 3
    trainer.fit()
    assert [path.stem[-1] for path in sorted(tmp_path.glob("checkpoint-*"))] == ["6", "8"]


# The history


def test_the_history_can_be_read_during_training(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path)
    monkeypatch.setattr(trainer.validation, "sample", interrupt_second(trainer.validation.sample))
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    table = pandas.read_csv(tmp_path / "history.csv")
    assert list(table) == list(COLUMNS)
    assert table["iteration"].tolist() == [1, 2, 3]
    assert table["validation_loss"].notna().tolist() == [False, True, False]


def interrupt_second(method):
    calls = []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return method(*arguments)

    return interrupted


def test_numbers_that_are_not_finite_survive_saving_and_loading(tmp_path):
    history = History(tmp_path / "history.csv")
    values = [math.nan, math.inf, -math.inf, 0.1 + 0.2]
    for value in values:
        history.append(dict.fromkeys(COLUMNS[:7], value))
    loaded = History.load(tmp_path / "history.csv")
    assert loaded.column("loss") == pytest.approx(values, rel=0, abs=0, nan_ok=True)
    assert loaded.column("validation_loss") == []


def test_a_new_history_replaces_an_old_file(tmp_path):
    for _ in range(2):
        History(tmp_path / "history.csv").append(dict.fromkeys(COLUMNS, 1.0))
    assert len(History.load(tmp_path / "history.csv").rows) == 1


# Unusable folders


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"filters": 5}, "filters is 4 there and 5 here; choose another folder"),
        (
            {"outer_rate": 0.5, "nonfinite": "stop"},
            "outer_rate is 0.001 there and 0.5 here, nonfinite is skip there and stop here",
        ),
        ({"size": 20}, r"image_shape is \(1, 16, 16\) there and \(1, 20, 20\) here"),
        ({"shots": 2}, "shots is 1 there and 2 here"),
        ({"seed": 7}, "training_seed is 0 there and 7 here"),
        ({"rotate": True}, "training_rotate is False there and True here"),
        ({"ink": 1}, "training_images is noise-train-.{8} there and noise-train-.{8} here, valida"),
    ],
)
def test_a_folder_with_another_run_is_refused_and_not_changed(folder, changes, message):
    before = contents(folder)
    (folder / ".part-left").mkdir()
    refuse(f"holds another run: .*{message}", lambda: make_trainer(folder, **changes))
    (folder / ".part-left").rmdir()
    assert contents(folder) == before


def test_fitting_a_finished_run_returns_its_result_at_once_and_writes_nothing(folder, monkeypatch):
    before, first = contents(folder), mamlpp.Run.load(folder)
    trainer = make_trainer(folder)
    monkeypatch.setattr(trainer, "step", None)
    run = trainer.fit()
    assert torch.equal(logits(run.learner), logits(first.learner))
    assert run.history.rows == first.history.rows
    assert contents(folder) == before


@pytest.mark.parametrize("below", ["", "run", "many/runs"])
def test_a_folder_that_cannot_be_created_is_refused(tmp_path, below):
    file = tmp_path / "file"
    file.write_text("in the way")
    refuse("no run can be written to", make_trainer, file / below)
    assert contents(tmp_path) == {"file": b"in the way"}


def test_a_training_that_cannot_start_creates_no_folder(tmp_path):
    refuse("too small", make_trainer, tmp_path / "run", 8)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", [".", "nowhere", "file", "file/run"])
def test_a_path_without_a_run_is_reported(tmp_path, place):
    (tmp_path / "file").write_text("no folder")
    refuse("holds no run; give the folder that", mamlpp.Run.load, tmp_path / place)


@pytest.mark.parametrize(
    "damage",
    [
        lambda about: b"",
        lambda about: b'{"recipe": ',
        lambda about: b"\xff\xfe",
        lambda about: b"[1, 2]",
        lambda about: json.dumps({"recipe": about["recipe"]}).encode(),
        lambda about: json.dumps(about | {"recipe": {"depth": 4}}).encode(),
        lambda about: json.dumps(about | {"data": {"ways": 5}}).encode(),
    ],
    ids=["empty", "truncated", "not text", "not a mapping", "no data", "unknown field", "half"],
)
def test_a_damaged_run_json_is_reported(folder, damage):
    path = folder / "run.json"
    path.write_bytes(damage(json.loads(path.read_text("utf-8"))))
    refuse(r"run\.json is damaged .*; train the run again", mamlpp.Run.load, folder)


@pytest.mark.parametrize("length", [0, 7, 300, -1])
def test_truncated_weights_are_reported(folder, length):
    path = folder / "best-00000002.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    refuse(r"best-00000002\.safetensors cannot be read", mamlpp.Run.load, folder)


def test_a_flipped_bit_is_detected(folder):
    path = folder / "best-00000002.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    refuse(r"best-00000002\.safetensors is damaged", mamlpp.Run.load, folder)


def test_missing_weights_are_reported(tmp_path):
    make_trainer(tmp_path)  # no meta-step yet
    refuse("has no best weights yet; let the run finish its first epoch", mamlpp.Run.load, tmp_path)
    refuse("has no checkpoint yet; let the run write", mamlpp.Run.load, tmp_path, "latest")


def test_weights_other_than_best_or_latest_are_refused(folder):
    refuse("must be 'best' or 'latest', not 'first'", mamlpp.Run.load, folder, "first")


# The best checkpoints


def test_the_best_learners_are_returned_best_first(trainer, folder):
    run, loaded = trainer.fit(), mamlpp.Run.load(folder)
    for learners in (run.best(), loaded.best(), mamlpp.Run.load(folder, "latest").best(9)):
        assert len(learners) == 2
        assert torch.equal(logits(learners[0]), logits(run.learner))
        assert torch.equal(logits(learners[1]), logits(trainer.learner))
    [first] = loaded.best(1)
    assert torch.equal(logits(first), logits(run.learner))
    refuse("k must be a whole number, 1 or more, not 0", run.best, 0)


def test_only_the_best_are_kept_and_of_equals_the_later(tmp_path, monkeypatch):
    accuracies = iter([0.1, 0.9, 0.5, 0.5, 0.2, 0.3, 0.5])

    def evaluate_tasks(*_, **__):
        return Evaluation(torch.tensor([next(accuracies)]), torch.ones(1))

    monkeypatch.setattr(validation, "evaluate_tasks", evaluate_tasks)
    run = make_trainer(tmp_path, epochs=7).fit()
    assert [best.iteration for best in run.kept] == [4, 14, 8, 6, 12]
    assert [best.iteration for best in mamlpp.Run.load(tmp_path).kept] == [4, 14, 8, 6, 12]


def test_weights_of_another_network_are_reported(folder):
    about = json.loads((folder / "run.json").read_text("utf-8"))
    about["recipe"]["filters"] = 5
    (folder / "run.json").write_text(json.dumps(about))
    refuse(r"do not fit the recipe in its run.json \(size mismatch", mamlpp.Run.load, folder)


@pytest.mark.parametrize("text", [None, "iteration,loss\n1,low\n", "iteration\n1,2\n", "a\n\xff\n"])
def test_a_damaged_history_is_reported(folder, text):
    (folder / "history.csv").unlink()
    if text is not None:
        (folder / "history.csv").write_text(text, encoding="latin-1")
    refuse(r"history\.csv cannot be read", mamlpp.Run.load, folder)


# Atomic writes


@pytest.mark.parametrize("before", [None, "old"])
def test_replacing_keeps_the_old_file_if_the_block_fails(tmp_path, before):
    target = tmp_path / "made" / "target.txt"
    if before is not None:
        target.parent.mkdir()
        target.write_text(before)

    def write():
        with replacing(target) as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert contents(target.parent) == ({} if before is None else {"target.txt": b"old"})


def test_replacing_puts_the_complete_file_in_place(tmp_path):
    target = tmp_path / "target.txt"
    target.write_text("old")
    with replacing(target) as part:
        part.write_text("new")
        assert target.read_text("utf-8") == "old"
        assert part.suffix == ".txt"
    assert contents(tmp_path) == {"target.txt": b"new"}
