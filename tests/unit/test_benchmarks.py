"""The benchmarks at tiny sizes: their results, tables and messages. No test checks a time."""

import json
import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch.nn import Module

import mamlpp
from benchmarks import __main__ as table
from benchmarks import (
    accuracy,
    busy,
    floor,
    gpu,
    gpu_report,
    growth,
    plan,
    precision,
    report,
    small,
)
from benchmarks.contenders import PEERS, start
from benchmarks.report import ROOT
from benchmarks.workloads import W1, W2


def tiny(workload):
    recipe = workload.recipe.with_(filters=2, inner_steps=2, meta_batch=2)
    return replace(workload, recipe=recipe, ways=2, image_shape=(1, 16, 16))


@pytest.mark.parametrize(("first", "found"), [("-m", "1"), ("-c", "None")])
def test_only_as_a_program_they_turn_progress_bars_off(monkeypatch, first, found):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    code = f"import os, sys; sys.argv[0] = {first!r}; import benchmarks"
    code += "; print(os.environ.get('TQDM_DISABLE'))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == found


@pytest.mark.slow
def test_the_table_has_a_row_for_each_contender():
    names = ["ours-store", "textbook"]
    started = table.start_all(names, tiny(W1), None, cores=2)
    bound, rows = table.compare("W1", tiny(W1), started, rounds=1, cores=2, baseline="textbook")
    assert [row.contender for row in rows] == names
    assert rows[1].ratio == 1
    assert all(row.floor == pytest.approx(bound["seconds"] / row.seconds) for row in rows)
    lines = [table.line(row) for row in rows]
    assert all(len(line) == len(table.HEADER) for line in lines)


def test_the_gpu_table_has_a_row_for_each_way(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu, "WORKLOADS", {"W1": tiny(W1)})
    path = tmp_path / "gpu.json"
    assert gpu.main(("W1",), rounds=1, device="cpu", output=path) == 0
    rows = json.loads(path.read_text())["rows"]
    assert [row["way"] for row in rows] == list(gpu.WAYS)
    assert rows[0]["ratio"] == 1
    assert all(row["milliseconds"] > 0 and row["floor"] > 0 for row in rows)
    table_lines = [text for text in capsys.readouterr().out.splitlines() if "min" in text]
    assert len(table_lines) == len(gpu.WAYS)
    assert {len(text) for text in table_lines} == {len(gpu.HEADER)}


def test_all_ways_on_a_gpu_give_the_same_gradient(monkeypatch):
    learners = []
    monkeypatch.setattr(
        mamlpp.MetaLearner,
        "zero_grad",
        lambda self: learners.append(self) or Module.zero_grad(self),
    )
    for way in ("task by task", "batched", "CUDA graph"):
        gpu.WAYS[way](tiny(W1), torch.device("cpu"))()
    first, *others = (
        [parameter.grad for parameter in learner.parameters()] for learner in learners
    )
    for other in others:
        torch.testing.assert_close(first, other, rtol=1e-3, atol=1e-5)


def test_the_gpu_benchmark_refuses_to_run_without_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main() == 1
    assert capsys.readouterr().err.startswith("this machine has no GPU that PyTorch can use;")


def test_the_gpu_report_needs_a_gpu(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_report.main(tmp_path / "gpu") == 1
    said = capsys.readouterr().err
    assert said == "this machine has no GPU that PyTorch can use; run it on another\n"
    assert not list(tmp_path.iterdir())


def test_the_gpu_report_goes_on_after_a_failure_and_after_a_time_limit(monkeypatch, tmp_path):
    rows = {"rows": [{"way": "CUDA graph", "milliseconds": 8.0, "ratio": 12.0}]}
    made, kept = tmp_path / "made.json", tmp_path / "gpu" / "meta_step.json"
    made.write_text(json.dumps(rows))
    some = [
        gpu_report.Step("Fails", ("-c", "raise SystemExit('no memory')"), 60),
        gpu_report.Step("Too slow", ("-c", "import time; time.sleep(60)"), 1),
        gpu_report.Step(
            "W1", ("-c", f"import shutil; shutil.copy({str(made)!r}, {str(kept)!r})"), 60
        ),
    ]
    monkeypatch.setattr(gpu, "no_gpu", lambda: False)
    monkeypatch.setattr(gpu_report, "steps", lambda *_: some)
    monkeypatch.setattr(report, "provenance", lambda *_: {"device": "a GPU"})
    assert gpu_report.main(kept.parent) == 1
    found = json.loads((kept.parent / "report.json").read_text())
    ends = [step["result"] for step in found["steps"]]
    assert ends == ["failed with exit code 1", "stopped at its time limit", "passed"]
    assert found["goals"][0].startswith("W1 as a CUDA graph: 8.00 ms (goal: at most 10), 12.0 ")
    text = (kept.parent / "report.md").read_text()
    assert "- device: a GPU\n" in text
    assert "no memory" in text


def test_every_step_of_the_gpu_report_is_a_command_that_is_there(tmp_path):
    for step in gpu_report.steps(tmp_path, 480):
        first, second, *_ = step.command
        place = second.replace(".", "/") if first == "-m" else first.removesuffix(".py")
        assert second in ("pytest", "mamlpp") or list(report.ROOT.glob(f"{place}*"))
    assert sum(step.limit for step in gpu_report.steps(tmp_path, 480)) <= 2000


@pytest.mark.parametrize("name", ["textbook", "higher", "torchopt", "jax"])
def test_a_peer_takes_a_meta_step(name):
    peer = PEERS[name]
    if not peer.installed:
        pytest.skip(f"{name} is not installed")
    step = peer.build(tiny(W2))
    step()
    step()


def test_libraries_run_only_plain_maml():
    assert W2.plain
    assert not W1.plain
    assert [name for name, peer in PEERS.items() if not peer.plain_only] == ["textbook"]
    assert start("higher", W1, cores=1) is None


def test_the_ratio_is_the_median_over_rounds():
    assert table.speed_ratio([2.0, 20.0, 6.0], [1.0, 5.0, 2.0]) == 3
    assert table.speed_ratio(None, [1.0]) is None


def test_operations_agree_with_a_count_by_hand():
    x, weight = torch.rand(5, 3, 8, 8), torch.rand(4, 3, 3, 3, requires_grad=True)

    def forward():
        return torch.nn.functional.conv2d(x, weight, padding=1)

    once = 2 * 5 * (4 * 8 * 8) * (3 * 3 * 3)  # 2 x images x outputs per image x products per output
    assert floor.operations(forward) == once
    assert floor.operations(lambda: forward().sum().backward()) == 2 * once


@pytest.mark.parametrize("workload", [W1, W2])
def test_second_order_takes_more_operations_than_first_order(workload):
    first = replace(workload, recipe=workload.recipe.with_(second_order_from=None))
    counts = [floor.meta_step_operations(tiny(each)) for each in (first, workload)]
    assert counts[0] < counts[1]


def test_a_folder_without_the_published_code_is_refused_in_one_sentence(tmp_path, capsys):
    assert table.main(against=tmp_path / "nothing") == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "few_shot_learning_system.py" in printed.err
    assert printed.err.count("\n") == 1


def test_growth_is_drawn_from_its_rows():
    sizes = {"inner_steps": (1, 2), "ways": (5, 10)}
    rows = [
        {"axis": axis, "size": size, "mode": mode, "seconds": 0.1 * size, "megabytes": 10.0}
        for axis, some in sizes.items()
        for size in some
        for mode in growth.MODES
    ]
    figure = growth.plot_growth(rows)
    assert [ax.get_xlabel() for ax in figure.axes[2:]] == ["inner steps", "ways"]
    assert all(len(ax.lines) == len(growth.MODES) for ax in figure.axes)
    for ax in figure.axes:
        bottom, top = ax.get_ylim()
        assert bottom == 0
        assert top >= max(max(line.get_ydata()) for line in ax.lines)


def test_growth_is_a_power_of_the_size():
    rows = [
        {"axis": "ways", "mode": "store", "size": n, "seconds": 0.1 * n**2, "megabytes": 5.0}
        for n in (1, 2, 5)
    ]
    assert growth.exponent(rows, "seconds") == pytest.approx(2)
    said = "ways, store: time grows with its power 2.00, memory with 0.00"
    assert list(growth.summary(rows)) == [said]
    assert math.isnan(growth.exponent([row | {"megabytes": None} for row in rows], "megabytes"))


@pytest.mark.parametrize("axis", growth.SIZES)
def test_growth_changes_one_size(axis, monkeypatch):
    made = []
    monkeypatch.setattr(growth, "Contender", lambda *arguments: made.append(arguments))
    monkeypatch.setattr(growth, "race", lambda *_: ({}, {}))
    for size in growth.SIZES[axis][:2]:
        growth.measure(axis, size, rounds=1)
    one, other = (str(arguments[2:]) for arguments in made[:: len(growth.MODES)])
    assert one != other


# The paper's tables on several GPUs


def test_each_run_goes_to_the_gpu_that_is_free_first():
    assert plan.makespan([3, 1, 1, 1, 2], machines=1) == 8
    assert plan.makespan([3, 1, 1, 1, 2], machines=2) == 5
    assert plan.makespan([3, 1, 1, 1, 2], machines=64) == 3


def test_a_run_takes_as_long_as_its_operations_say():
    recipe = tiny(W1).recipe.with_(epochs=4, iterations_per_epoch=3)
    always = replace(tiny(W1), recipe=recipe.with_(msl_epochs=0, second_order_from=0.0))
    once = floor.meta_step_operations(always)
    assert plan.run_operations(always) == 4 * 3 * once
    first = replace(always, recipe=always.recipe.with_(second_order_from=2.0))
    assert 6 * once < plan.run_operations(first) < 12 * once


def test_a_plan_needs_measured_seconds(capsys):
    assert plan.main() == 1
    assert capsys.readouterr().err.startswith("no seconds of W1")


def test_a_plan_of_a_sweep(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "_of", lambda name: 185e9)
    measured = tmp_path / "gpu.json"
    row = {"workload": "W1", "way": "CUDA graph", "milliseconds": 10.0}
    measured.write_text(json.dumps({"rows": [row]}))
    assert plan.main(measured, sweeps=(report.ROOT / "sweeps" / "quick.toml",), gpus=(1, 8)) == 0
    whole, one, eight = capsys.readouterr().out.splitlines()
    assert whole.startswith("24 runs, the longest 0.0")
    assert [one[:8], eight[:8]] == ["  1 GPUs", "  8 GPUs"]


def test_precision_compares_both_networks_with_float64(tmp_path, capsys):
    sizes = {"ways": 3, "filters": 2, "inner_steps": (1,), "tasks": 1, "seeds": 1, "trained": 2}
    precision.main(**sizes, output=tmp_path / "precision.json")
    printed, result = capsys.readouterr().out, json.loads((tmp_path / "precision.json").read_text())
    assert [row["trained"] for row in result["errors"]] == [0, 2]
    assert all(
        0 < row[network] < 1e-3 for row in result["errors"] for network in ("definition", "fast")
    )
    assert [run["network"] for run in result["runs"]] == ["definition", "fast"]
    assert result["runs"][0]["norms"] != result["runs"][1]["norms"]  # They ran different code.
    assert "0 of 1" in printed


def test_bfloat16_is_less_exact_than_float32():
    recipe = mamlpp.Recipe(filters=4, inner_steps=1)
    learner = mamlpp.MetaLearner(recipe, W1.image_shape, ways=3)
    task = next(iter(replace(W1, ways=3).sampler().sample(1)))
    found = precision.errors(learner, task, 1, ("definition", "bfloat16"))
    assert 10 * found["definition"] < found["bfloat16"] < 1


def test_a_recorded_command_has_no_absolute_path(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["benchmarks", "--against", str(tmp_path / "checkout")])
    command = report.provenance("benchmarks", 1)["command"]
    assert command == "python -m benchmarks --against checkout"


def test_failing_published_code_is_reported(monkeypatch, tmp_path, capsys):
    (tmp_path / "few_shot_learning_system.py").touch()
    monkeypatch.setattr(small, "LINES", {})
    monkeypatch.setattr(small, "Contender", lambda *_: None)
    monkeypatch.setattr(small, "race", lambda *_: ({"ours": [1.0]}, {}))
    assert small.main(tmp_path) == 1
    assert "failed; see the error" in capsys.readouterr().err


def test_a_busy_loop_beside_a_training(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(busy, "RECIPE", busy.RECIPE.with_(filters=2, iterations_per_epoch=2))
    busy.main(rounds=1, workers=(1,), output=tmp_path / "busy.json")
    [row] = json.loads((tmp_path / "busy.json").read_text(encoding="utf-8"))["rows"]
    assert row["ratio"] == row["busy"] / row["quiet"]
    assert "1 worker: " in capsys.readouterr().out


# Time to accuracy


def test_trainings_take_turns_until_the_level_or_the_end(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(accuracy.GOALS, "glyphs-5way", accuracy.Goal("glyphs", 5, 1, (0.0, 2.0)))
    monkeypatch.setitem(
        mamlpp.RECIPES, "maml", mamlpp.Recipe(filters=2, inner_steps=1, meta_batch=1, epochs=1)
    )
    path = tmp_path / "accuracy.json"
    accuracy.main("glyphs-5way", ("maml",), (0, 1), meta_steps=3, turn=2, output=path)
    points = [accuracy.Point(**point) for point in json.loads(path.read_text())["points"]]
    assert [(p.seed, p.meta_steps) for p in points] == [(0, 2), (1, 2), (0, 3), (1, 3)]
    assert all(set(p.accuracy) == {"support", "queries"} for p in points)
    assert all(p.seconds > 0 and p.core_seconds > 0 for p in points)
    *_, all_reach, none_reaches = capsys.readouterr().out.splitlines()
    assert all_reach.startswith("maml: 0% in ")
    assert all_reach.endswith("2 of 2 seeds")
    assert none_reaches == "maml: 200% in –, 0 of 2 seeds"
    assert path.with_suffix(".svg").read_text().startswith("<?xml")

    monkeypatch.setitem(accuracy.GOALS, "glyphs-5way", accuracy.Goal("glyphs", 5, 1, (0.0,)))
    accuracy.main("glyphs-5way", ("maml",), (0,), meta_steps=3, turn=2, stop=True, output=path)
    [only] = json.loads(path.read_text())["points"]
    assert only["meta_steps"] == 2


def test_a_level_is_reached_at_the_first_point_that_has_it():
    def point(meta_steps, **judged):
        return accuracy.Point("maml", 0, meta_steps, 10.0 * meta_steps, 1.0, judged)

    points = [point(1, support=0.5), point(2, support=0.9), point(3, support=0.8)]
    assert accuracy.first_at(points, 0.7) == {("maml", 0): points[1]}
    assert accuracy.first_at(points, 0.95) == {("maml", 0): None}
    by_queries = point(4, queries=0.9)
    assert accuracy.first_at([by_queries], 0.8) == {("maml", 0): by_queries}
    assert accuracy.summary(points, [0.7]) == [
        "maml: 70% in 20 s, 1 core-seconds (medians), 1 of 1 seeds"
    ]
