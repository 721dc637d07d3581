"""MAML, each improvement alone, MAML++: the paper's table, at a size for one laptop.

    .venv/bin/python tools/improvements.py            Omniglot 20-way 1-shot, two seeds

Every run is a folder and goes on where it was stopped; the results, with all that they rest on, go
to `figures/omniglot_20way.json`, which notebook 09 draws. About 8 minutes a run on one core, as
many side by side as there are cores.
"""

import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import tyro
from joblib import Parallel, cpu_count, delayed

import mamlpp
from mamlpp.files import replacing

ROOT = Path(__file__).resolve().parents[1]
# A hundredth of the paper's meta-steps, so the epochs of MSL and DA are shortened alike.
SIZE: dict[str, Any] = {
    **{"filters": 32, "inner_steps": 3, "inner_rate": 0.2, "outer_rate": 3e-3, "meta_batch": 4},
    **{"epochs": 7, "iterations_per_epoch": 100, "validation_tasks": 100},
}
TASKS = 600  # of test classes, for each run
MSL, DA = {"msl_epochs": 1.0}, {"second_order_from": 2.0}
ROWS: dict[str, mamlpp.Recipe] = {
    "maml": mamlpp.RECIPES["maml"].with_(**SIZE),
    "maml+msl": mamlpp.RECIPES["maml+msl"].with_(**SIZE, **MSL),
    "maml+lslr": mamlpp.RECIPES["maml+lslr"].with_(**SIZE),
    "maml+bnrs+bnwb": mamlpp.RECIPES["maml+bnrs+bnwb"].with_(**SIZE),
    "maml+ca": mamlpp.RECIPES["maml+ca"].with_(**SIZE),
    "maml+da": mamlpp.RECIPES["maml+da"].with_(**SIZE, **DA),
    "maml++": mamlpp.RECIPES["maml++"].with_(**SIZE, **MSL, **DA),
}


def main(
    directory: Path = ROOT / "runs" / "omniglot_20way",
    dataset: str = "omniglot",
    seeds: tuple[int, ...] = (0, 1),
    workers: int | None = None,
    output: Path = ROOT / "figures" / "omniglot_20way.json",
) -> None:
    """Train and evaluate every row with every seed, and write the results.

    Args:
        directory: Folder of the runs.
        dataset: What to train on.
        seeds: Of initial weights and tasks.
        workers: Runs side by side; as many as cores, unless said.
        output: The results.
    """
    cells = [(name, seed) for name in ROWS for seed in seeds]
    jobs = (delayed(measure)(name, seed, dataset, directory) for name, seed in cells)
    results = Parallel(workers or min(cpu_count(), len(cells)))(jobs)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in ROWS}
    for (name, _), result in zip(cells, results, strict=True):
        rows[name].append(result)
    with replacing(output) as part:
        part.write_text(json.dumps(_about(dataset, rows), indent=1, allow_nan=False) + "\n")
    print(f"written to {output}")


def measure(name: str, seed: int, dataset: str, directory: Path) -> dict[str, Any]:
    """One run, trained or gone on with, and what it reaches on the test tasks; done only once."""
    torch.set_num_threads(1)
    folder = directory / f"{name}-{seed}"
    if (folder / "result.json").exists():
        return json.loads((folder / "result.json").read_text())
    train, validation = (
        mamlpp.TaskSampler(
            mamlpp.load_images(dataset, split), 20, 1, 1, seed=seed, rotate=split == "train"
        )
        for split in ("train", "validation")
    )
    run = mamlpp.Trainer(ROWS[name].with_(seed=seed), train, validation, folder).fit()
    images = mamlpp.load_images(dataset, "test")
    protocols = mamlpp.evaluate_protocols(run, images, TASKS)
    if run.recipe.norm_statistics != "batch":
        # Whose statistics the queries read is chosen at evaluation: the same weights, both ways.
        support = run.with_recipe(norm_statistics="batch")
        others = mamlpp.evaluate_protocols(support, images, TASKS)
        protocols["inductive, support's statistics"] = others["inductive"]
    result = {
        "seed": seed,
        "results": {name: _summary(kinds["single"]) for name, kinds in protocols.items()},
    }
    with replacing(folder / "result.json") as part:
        part.write_text(json.dumps(result, allow_nan=False))
    return result


def _summary(evaluation: mamlpp.Evaluation) -> dict[str, Any]:
    about = evaluation.as_dict()
    kept = ("accuracy", "interval", "loss", "accuracy_by_step", "calibration_error")
    return {name: about[name] for name in kept}


def _about(dataset: str, rows: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    return {
        "made_by": "tools/improvements.py",
        "date": datetime.now(UTC).date().isoformat(),
        "dataset": dataset,
        "setting": f"20-way 1-shot, 1 query a class, {TASKS} test tasks",
        "size": SIZE | {"msl_epochs": MSL["msl_epochs"], "da_epoch": DA["second_order_from"]},
        "machine": f"one core each, {platform.machine()}, torch {torch.__version__}",
        "rows": rows,
    }


if __name__ == "__main__":
    tyro.cli(main)
