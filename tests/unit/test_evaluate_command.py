"""The command `mamlpp evaluate`: the tables it prints and the JSON file it writes."""

import json
import re
import shutil
from datetime import UTC, datetime

import pytest
import torch

import mamlpp
from mamlpp import cli
from mamlpp.run.evaluation import EVALUATION_SEED, READINGS

TASKS, STEPS, EPOCHS = 4, 2, 3


def noise(dataset, split):
    draw = torch.Generator().manual_seed(len(split))
    images = torch.randint(0, 256, (6, 4, 1, 16, 16), generator=draw, dtype=torch.uint8)
    return mamlpp.ImageSet(images, (*"abcdef",), dataset, split)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run of three epochs, which keeps three checkpoints."""
    recipe = mamlpp.RECIPES["maml++"].with_(
        **{"filters": 4, "inner_steps": STEPS, "meta_batch": 1},
        **{"epochs": EPOCHS, "iterations_per_epoch": 1, "validation_tasks": 2},
    )
    train, validation = (
        mamlpp.TaskSampler(noise("glyphs", split), 3, 1, 2) for split in ("train", "validation")
    )
    directory = tmp_path_factory.mktemp("trained")
    mamlpp.Trainer(recipe, train, validation, directory).fit()
    return directory


@pytest.fixture
def folder(trained, tmp_path, monkeypatch):
    """A copy of that folder."""
    monkeypatch.setattr(cli, "load_images", noise)
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def evaluate(folder, capsys):
    """A function that runs `mamlpp evaluate FOLDER OPTIONS` and returns what it prints."""

    def run(*options):
        options = [f"--tasks={TASKS}", "--device=cpu", *options]
        capsys.readouterr()
        cli.main(["evaluate", str(folder), *options])
        return capsys.readouterr().out

    return run


def written(folder, split="test"):
    return json.loads((folder / f"evaluation-{split}.json").read_text())


def numbers(row):
    return re.findall(r"\d+\.\d\d", row)


def percent(value):
    return f"{100 * value:.2f}"


def test_it_prints_every_reading_single_and_ensemble(folder, evaluate):
    _, accuracy, by_step, calibration, _ = evaluate("--ensemble=3").split("\n\n")
    results = written(folder)["results"]
    assert accuracy.startswith("accuracy in %, with its 95 % interval")
    assert calibration.startswith("calibration error in %")
    for table in (accuracy, calibration):
        assert re.fullmatch(" +best checkpoint  ensemble of 3", table.splitlines()[1])
    assert by_step.splitlines()[1].split() == ["0", "1", "2"]
    for index, (name, pair) in enumerate(results.items(), start=2):
        rows = [table.splitlines()[index] for table in (accuracy, by_step, calibration)]
        assert all(row.startswith(READINGS[name]) for row in rows)
        both = [pair["single"], pair["ensemble"]]
        expected = [percent(one[key]) for one in both for key in ("accuracy", "interval")]
        assert numbers(rows[0]) == expected
        assert numbers(rows[1]) == [percent(value) for value in pair["single"]["accuracy_by_step"]]
        assert numbers(rows[2]) == [percent(one["calibration_error"]) for one in both]


def test_columns_are_aligned(evaluate):
    for table in evaluate().split("\n\n")[1:4]:
        assert len({len(line) for line in table.splitlines()[1:]}) == 1


def test_the_file_agrees_with_the_python_function(folder, evaluate):
    evaluate("--ensemble=3")
    results = written(folder)["results"]
    run, images = mamlpp.Run.load(folder), noise("glyphs", "test")
    assert list(results) == list(READINGS)
    for reading, pair in results.items():
        for members, found in zip((1, 3), (pair["single"], pair["ensemble"]), strict=True):
            expected = mamlpp.evaluate(run, images, TASKS, reading=reading, ensemble=members)
            assert found["accuracies"] == expected.accuracies[-1].tolist()
            assert found["loss_by_step"] == pytest.approx(expected.loss_by_step)
            assert found["calibration"]["counts"] == expected.calibration.counts.tolist()


def test_the_file_records_what_was_evaluated_and_how(folder, evaluate):
    evaluate("--ensemble=2", "--split=validation")
    about, images = written(folder, "validation"), noise("glyphs", "validation")
    age = datetime.now(UTC) - datetime.fromisoformat(about["date"])
    assert 0 <= age.total_seconds() < 60
    assert about["dataset"] == {"name": images.name, "checksum": images.checksum}
    assert about["recipe"] == mamlpp.Run.load(folder).recipe.as_dict()
    assert about["data"]["shots"] == 1
    assert (about["device"], about["torch"]) == ("cpu", torch.__version__)
    assert (about["tasks"], about["steps"], about["ensemble"]) == (TASKS, STEPS, 2)
    assert (about["split"], about["seed"]) == ("validation", EVALUATION_SEED)
    assert len(about["dataset"]["checksum"]) == 64


def test_the_recorded_command_reproduces_the_numbers(folder, evaluate, capsys):
    evaluate("--steps=1")
    first = written(folder)
    program, *words = first["command"].split()
    assert program == "mamlpp"
    cli.main(words)
    assert written(folder)["results"] == first["results"]


def test_other_shots_and_queries_than_in_training(folder, evaluate):
    evaluate()
    trained = written(folder)
    assert [trained[name] for name in ("ways", "shots", "queries")] == [3, 1, 2]
    printed = evaluate("--shots=2", "--queries=1")
    assert re.match(r"glyphs-test-\w{8}, 3-way 2-shot, 4 tasks\n", printed)
    about = written(folder)
    assert [about[name] for name in ("ways", "shots", "queries")] == [3, 2, 1]
    assert {"--ways=3", "--shots=2", "--queries=1"} <= {*about["command"].split()}
    assert about["data"] == trained["data"], "what it was trained with"
    for reading, pair in about["results"].items():
        assert sum(pair["single"]["calibration"]["counts"]) == TASKS * 3 * 1
        losses = pair["single"]["loss_by_step"]
        assert losses != trained["results"][reading]["single"]["loss_by_step"]
    first = about["results"]
    cli.main(about["command"].split()[1:])
    assert written(folder)["results"] == first


def test_the_python_functions_take_other_shots_and_queries(folder, evaluate):
    evaluate("--shots=2", "--queries=1", "--ensemble=1")
    run, images = mamlpp.Run.load(folder), noise("glyphs", "test")
    kind = {"shots": 2, "queries": 1}
    both = mamlpp.evaluate_readings(run, images, TASKS, **kind)["support"]["single"]
    one = mamlpp.evaluate(run, images, TASKS, **kind)
    found = written(folder)["results"]["support"]["single"]
    assert both.loss_by_step == one.loss_by_step == found["loss_by_step"]


def test_the_ways_are_those_of_training(folder, evaluate):
    evaluate("--ways=3")
    before = written(folder)
    for ways in (2, 4):
        said = (
            rf"^mamlpp: the network in \S*run tells 3 classes apart, so it cannot be evaluated on "
            rf"{ways}-way tasks; leave --ways out, or train a run with --ways {ways}$"
        )
        with pytest.raises(SystemExit, match=said):
            evaluate(f"--ways={ways}")
    assert written(folder) == before


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--shots=0", "shots must be a whole number, 1 or more, not 0"),
        (
            "--queries=9",
            "1 shot and 9 queries need 10 images in each class, but glyphs test has 4",
        ),
    ],
)
def test_shots_and_queries_that_cannot_be_drawn_are_refused(evaluate, option, said):
    with pytest.raises(SystemExit, match=said):
        evaluate(option)


def test_an_ensemble_has_at_most_the_checkpoints_that_were_kept(folder, evaluate):
    printed = evaluate()
    assert f"note: an ensemble of 5 was asked for, the run keeps {EPOCHS}\n" in printed
    assert written(folder)["ensemble"] == EPOCHS
    assert "note" not in evaluate("--ensemble=3")


def test_an_ensemble_of_one_prints_only_the_best_checkpoint(folder, evaluate):
    printed = evaluate("--ensemble=1")
    assert "best checkpoint" in printed
    assert "ensemble of" not in printed
    assert [list(pair) for pair in written(folder)["results"].values()] == [["single"]] * 3


def test_another_seed_draws_other_tasks(folder, evaluate):
    def losses(*options):
        evaluate(*options)
        return written(folder)["results"]["support"]["single"]["loss_by_step"]

    assert losses() == losses(f"--seed={EVALUATION_SEED}") != losses("--seed=1")
    assert written(folder)["seed"] == 1
    assert "--seed=1" in written(folder)["command"]


def test_a_diverged_run_can_be_evaluated_and_its_file_is_strict_json(folder, evaluate, monkeypatch):
    run = mamlpp.Run.load(folder)
    for weights in (run.learner.state_dict(), *(best.weights for best in run.kept)):
        weights["network.head.weight"].fill_(torch.nan)
    monkeypatch.setattr(cli.Run, "load", lambda _: run)
    assert "nan" in evaluate().split("\n\n")[3]
    text = (folder / "evaluation-test.json").read_text()
    results = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    ensemble = results["results"]["support"]["ensemble"]
    assert (ensemble["loss"], ensemble["calibration_error"]) == (None, None)


def test_steps_and_split_are_respected(folder, evaluate):
    printed = evaluate("--steps=0", "--split=train")
    assert re.match(r"glyphs-train-\w{8}, 3-way 1-shot, 4 tasks\n", printed)
    assert len(written(folder, "train")["results"]["support"]["single"]["accuracy_by_step"]) == 1
    assert not (folder / "evaluation-test.json").exists()


def test_only_the_json_file_is_added_to_the_run(folder, evaluate):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    evaluate()
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert after.keys() - before.keys() == {"evaluation-test.json"}
    assert all(after[name] == content for name, content in before.items())


def test_a_full_disk_is_reported_and_the_old_file_is_kept(folder, evaluate, monkeypatch):
    evaluate()
    old = written(folder)

    def full(*_, **__):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(cli.Path, "write_text", full)
        with pytest.raises(SystemExit, match=r"No space left on device.*make room"):
            evaluate("--steps=0")
    assert written(folder) == old


def test_an_empty_ensemble_is_refused(evaluate):
    with pytest.raises(SystemExit, match="ensemble needs at least 1 checkpoint, not 0"):
        evaluate("--ensemble=0")
