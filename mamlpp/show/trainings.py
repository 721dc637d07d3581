"""Trainings of the chapters that take longer than a minute: recorded, or trained here.

    runs = trainings.runs("03_multi_step_loss", recipes, train, validation, seeds, here=False)

A recorded training is shown only where it is the same one: equal recipes, seeds and tasks. All
others are trained here, as `train_seeds` does. `tools/record_trainings.py` records those that the
chapters ask for, in `results/trainings/`: weights in half precision, the histories, what made them
in how many seconds, and a checksum.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mamlpp.data import default_dataset
from mamlpp.data.tasks import TaskSampler
from mamlpp.errors import InputError
from mamlpp.files import code_version, replacing
from mamlpp.learner import MetaLearner
from mamlpp.naming import counted
from mamlpp.recipe import Recipe
from mamlpp.run.checkpoints import Best
from mamlpp.run.history import History
from mamlpp.run.results import RESULTS
from mamlpp.run.run import DataSettings, Run
from mamlpp.run.seeds import train_seeds

FOLDER = RESULTS / "trainings"
RECORD = "MAMLPP_RECORD_TRAININGS"  # set while they are recorded
COLUMNS = (
    "iteration", "epoch", "outer_rate", "loss", "accuracy", "gradient_norm", "validation_loss",
    "validation_accuracy",
)  # fmt: skip

Runs = dict[str, list[Run]]


def runs(
    name: str, recipes: Mapping[str, Recipe], train: TaskSampler, validation: TaskSampler,
    seeds: Sequence[int], *, here: bool, members: int = 1,
) -> Runs:  # fmt: skip
    """What `train_seeds` gives: the recorded runs if they are the same ones and not `here`.

    `name` is that of the file in `results/trainings/`. It keeps, of each run, the `members` best
    weights. Says in one line which of the two it was.
    """
    asked = _asked(recipes, train, validation, seeds)
    path = FOLDER / f"{name}.safetensors"
    if not here and (found := _read(path, asked)) is not None:
        return found
    if not here:
        print("these settings are not recorded: they are trained here")
    start = perf_counter()
    trained = train_seeds(recipes, train, validation, seeds)
    if RECORD in os.environ:
        _write(path, asked, trained, members, seconds=perf_counter() - start)
    return trained


def dataset(asked: str, *, here: bool) -> str:
    """The images of a chapter: "auto" is the glyphs, of which the records are.

    Where it trains here, "auto" is what is at hand.
    """
    if asked != "auto":
        return asked
    return default_dataset() if here else "glyphs"


def _asked(
    recipes: Mapping[str, Recipe], train: TaskSampler, validation: TaskSampler, seeds: Sequence[int]
) -> dict[str, Any]:
    # Not the pixels: another version of matplotlib draws its letters a little differently.
    tasks = [
        [s.images.dataset, s.images.split, s.ways, s.shots, s.queries, s.seed, s.rotate]
        for s in (train, validation)
    ]
    plain = {name: recipe.as_dict() for name, recipe in recipes.items()}
    return json.loads(json.dumps({"recipes": plain, "seeds": list(seeds), "tasks": tasks}))


def _write(
    path: Path, asked: dict[str, Any], trained: Runs, members: int, *, seconds: float
) -> None:
    tensors: dict[str, Tensor] = {}
    best = {}
    for name, several in trained.items():
        for seed, run in zip(asked["seeds"], several, strict=True):
            rows = [[row.get(c, float("nan")) for c in COLUMNS] for row in run.history.rows]
            tensors[f"{name}/{seed}/history"] = torch.tensor(rows, dtype=torch.float32)
            best[f"{name}/{seed}"] = [[b.accuracy, b.iteration] for b in run.kept[:members]]
            for rank, member in enumerate(run.kept[:members]):
                for key, tensor in member.weights.items():
                    half = tensor.detach().cpu()
                    tensors[f"{name}/{seed}/{rank}/{key}"] = (
                        half.half() if half.is_floating_point() else half
                    )
    some = next(iter(trained.values()))[0]
    about = {
        **{"asked": asked, "data": asdict(some.data), "best": best},
        "command": f"tools/record_trainings.py --only {path.stem[:2]}",
        "date": datetime.now(UTC).date().isoformat(),
        **{"seconds": round(seconds, 1), "device": f"{os.cpu_count()} cores"},
        **{"torch": str(torch.__version__), **code_version()},
    }
    text = json.dumps(about)
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as part:
        part.write_bytes(save(tensors, {"about": text, "checksum": _checksum(text, tensors)}))


def _checksum(about: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(about.encode())
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def _read(path: Path, asked: dict[str, Any]) -> Runs | None:
    """The recorded runs in a file; None where there is none, or one of other trainings.

    Raises `InputError` where the file was changed.
    """
    if not path.exists():
        return None
    try:
        with safe_open(str(path), "pt") as file:
            text, checksum = (file.metadata()[name] for name in ("about", "checksum"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError):
        text, checksum, tensors = "", "none", {}
    if _checksum(text, tensors) != checksum:
        raise InputError(f"{path} was changed or cut short; restore it, or record it again")
    about = json.loads(text)
    if about["asked"] != asked:
        return None
    data = DataSettings(**about["data"] | {"image_shape": tuple(about["data"]["image_shape"])})
    found: Runs = {
        name: [
            _run(Recipe(**recipe).with_(seed=seed), data, tensors, f"{name}/{seed}", about["best"])
            for seed in asked["seeds"]
        ]
        for name, recipe in asked["recipes"].items()
    }
    every = [run for several in found.values() for run in several]
    print(
        f"recorded {about['date']}: {counted(len(every), 'training')} of {len(every[0].history)} "
        f"meta-steps (compute_here = True trains them on this machine)"
    )
    return found


def _run(
    recipe: Recipe, data: DataSettings, tensors: dict[str, Tensor], prefix: str,
    best: dict[str, list],
) -> Run:  # fmt: skip
    history = History()
    for values in tensors[f"{prefix}/history"].tolist():
        pairs = zip(COLUMNS, values, strict=True)
        history.rows.append({c: float(f"{v:.7g}") for c, v in pairs if v == v})  # no NaN
    kept = tuple(
        Best(accuracy, iteration, _weights(tensors, f"{prefix}/{rank}/"))
        for rank, (accuracy, iteration) in enumerate(best[prefix])
    )
    learner = MetaLearner(recipe, data.image_shape, data.ways).eval()
    learner.load_state_dict(kept[0].weights)
    return Run(recipe, data, learner, history, kept=kept)


def _weights(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
