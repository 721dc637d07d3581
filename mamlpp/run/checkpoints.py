"""A run: what was trained, on what, and how it went; in memory, or as a folder.

The folder holds `run.json` (recipe and setting), `history.csv` and `gradients.csv`, `changes.csv`
where the recipe was changed by hand while it ran, and safetensors files, which load without
executing code: the latest two checkpoints, `checkpoint-00001500.safetensors`, with all that a
training needs to go on after that iteration; and the weights that were best on validation,
`best-00001000.safetensors`. Each is written whole or not at all, and knows its own checksum.
"""

import copy
import hashlib
import json
import math
import warnings
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mamlpp.errors import InputError, InputWarning
from mamlpp.files import replacing
from mamlpp.maml import MetaLearner
from mamlpp.recipe import Recipe
from mamlpp.run.changes import CHANGE_COLUMNS, in_force
from mamlpp.run.history import GRADIENT_COLUMNS, History

KEPT_BEST = 5
State = dict[str, Tensor]


@dataclass(frozen=True)
class Setting:
    """What a run is trained on: images (dataset, split, checksum), its tasks and their seeds."""

    dataset: str
    ways: int
    shots: int
    queries: int
    image_shape: tuple[int, int, int]
    training_images: str
    training_seed: int
    training_rotate: bool
    validation_images: str
    validation_seed: int
    validation_rotate: bool
    validation_queries: int


class Best(NamedTuple):
    """Weights that were among the best on validation. They compare by accuracy, then iteration."""

    accuracy: float
    iteration: int
    weights: State


class Checkpoint(NamedTuple):
    """All that a training goes on from: the tensors of each `part` of it, by name."""

    iteration: int
    history_size: int  # bytes of `history.csv`
    parts: dict[str, State]
    best: list[Best]


@dataclass(eq=False)
class Run:
    """A training that was done: `learner` carries the weights that were best on validation.

    `kept` are the best few, best first; a run that was loaded has them where they were needed.
    `gradients` are the norms along the inner loop, of the meta-steps that were diagnosed. `recipe`
    is what it began with, `changes` what was changed by hand, and `learner.recipe` what it came to.
    """

    recipe: Recipe
    setting: Setting
    learner: MetaLearner
    history: History
    directory: Path | None = None
    kept: tuple[Best, ...] = ()
    gradients: History = field(default_factory=lambda: History(columns=GRADIENT_COLUMNS))
    changes: History = field(default_factory=lambda: History(columns=CHANGE_COLUMNS))

    @property
    def ways(self) -> int:
        """Classes of a task."""
        return self.setting.ways

    @property
    def shots(self) -> int:
        """Support images a class."""
        return self.setting.shots

    @property
    def queries(self) -> int:
        """Query images a class."""
        return self.setting.queries

    def best(self, k: int = KEPT_BEST) -> list[MetaLearner]:
        """The `k` checkpoints that were best on validation, best first; fewer if there are not k.

        At most `KEPT_BEST` are kept. Raises `InputError` where their files cannot be read.
        """
        if k < 1:
            raise InputError(f"k must be at least 1, not {k}")
        return [self._member(best) for best in self._kept()[:k]]

    def _member(self, best: Best) -> MetaLearner:
        learner = copy.deepcopy(self.learner)
        learner.load_state_dict(best.weights)
        learner.follow(in_force(self.recipe, self.changes, best.iteration))
        return learner

    def with_recipe(self, **changes: Any) -> "Run":
        """The same weights under a changed recipe, as in `MetaLearner.with_recipe`."""
        learner = self.learner.with_recipe(**changes)
        kept = tuple(
            Best(best.accuracy, best.iteration, member.with_recipe(**changes).state_dict())
            for best, member in zip(self._kept(), self.best(), strict=True)
        )
        recipe, others = self.recipe.with_(**changes), History(columns=CHANGE_COLUMNS)
        others.append(*(row for row in self.changes.rows if row["field"] not in changes))
        return replace(self, recipe=recipe, learner=learner, kept=kept, changes=others)

    def _kept(self) -> tuple[Best, ...]:
        return self.kept or (read_best(self.directory) if self.directory else ())

    @classmethod
    def load(cls, directory: Path | str, weights: str = "best") -> "Run":
        """The run in a folder, with its `"best"` or `"latest"` weights."""
        if weights not in ("best", "latest"):
            raise InputError(f"weights must be 'best' or 'latest', not {weights!r}")
        directory = Path(directory)
        recipe, setting = read_about(directory)
        kept = read_best(directory) if weights == "best" else ()
        state = kept[0].weights if kept else _latest_weights(directory)
        learner = MetaLearner(recipe, setting.image_shape, setting.ways)
        try:
            learner.load_state_dict(state)
        except RuntimeError as error:
            reason = str(error).split("\n\t")[1]  # PyTorch has a line for each weight.
            raise InputError(
                f"the weights in {directory} are not those of its run.json ({reason})"
            ) from error
        history = History.load(directory / "history.csv")
        run = cls(recipe, setting, learner, history, directory, kept)
        if (directory / "gradients.csv").exists():
            run.gradients = History.load(directory / "gradients.csv")
        if (directory / "changes.csv").exists():
            run.changes = History.load(directory / "changes.csv")
            until = kept[0].iteration if kept else math.inf
            learner.follow(in_force(recipe, run.changes, until))
        return run


# The folder


def open_directory(directory: Path, recipe: Recipe, setting: Setting) -> None:
    """Make a new run's folder, or see that it is this run that the folder holds.

    Raises `InputError`, and changes nothing, where the folder holds another run.
    """
    about = directory / "run.json"
    if about.exists():
        _check_same(directory, recipe, setting)
        return
    try:
        with replacing(about) as part:
            part.write_text(json.dumps({"recipe": asdict(recipe), "setting": asdict(setting)}))
    except OSError as error:
        raise InputError(
            f"no run can be written to {directory} ({error}); choose another folder"
        ) from error


def read_about(directory: Path) -> tuple[Recipe, Setting]:
    """Recipe and setting of the run in a folder."""
    path = directory / "run.json"
    try:
        about = json.loads(path.read_text())
        setting = about["setting"]
        setting["image_shape"] = tuple(setting["image_shape"])  # JSON has lists only.
        return Recipe(**about["recipe"]), Setting(**setting)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(
            f"{directory} holds no run; give the folder that `mamlpp train --directory` wrote"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}); train the run again") from error


def _check_same(directory: Path, recipe: Recipe, setting: Setting) -> None:
    there, here = (
        {**asdict(r), **asdict(s)} for r, s in (read_about(directory), (recipe, setting))
    )
    differing = [
        f"{name} is {there[name]} there and {here[name]} here"
        for name in here
        if there[name] != here[name]
    ]
    if differing:
        raise InputError(
            f"{directory} holds another run: {', '.join(differing)}; choose another folder"
        )


# Checkpoints


def save_checkpoint(directory: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint and the best weights; then remove those that are too many."""
    path = directory / f"checkpoint-{checkpoint.iteration:08}.safetensors"
    tensors = {
        f"{part}/{name}": tensor
        for part, some in _all_parts(checkpoint).items()
        for name, tensor in some.items()
    }
    best = [[best.accuracy, best.iteration] for best in checkpoint.best]
    about = {"iteration": checkpoint.iteration, "history_size": checkpoint.history_size}
    _write(path, tensors, about | {"best": best})
    others = set(_checkpoints(directory)) - {path}
    before = sorted(other for other in others if other < path)
    for old in others - set(before[-1:]):
        old.unlink()
    write_best(directory, checkpoint.best)


def latest_checkpoint(directory: Path) -> Checkpoint | None:
    """The latest checkpoint that can be read, with a warning for each that cannot; None for none.

    Raises `InputError` where there are checkpoints but all of them are damaged.
    """
    paths = _checkpoints(directory)
    for path in reversed(paths):
        try:
            return _read_checkpoint(path)
        except InputError as error:
            message = f"{error}; the checkpoint before it, if there is one, is used instead"
            warnings.warn(message, InputWarning, stacklevel=4)  # Who made the `Trainer`.
    if paths:
        raise InputError(
            f"no checkpoint in {directory} can be read; choose another folder, or remove it"
        )
    return None


def _read_checkpoint(path: Path) -> Checkpoint:
    tensors, about = _read(path)
    parts: dict[str, State] = {}
    for name, tensor in tensors.items():
        part, _, rest = name.partition("/")
        parts.setdefault(part, {})[rest] = tensor
    best = [Best(score, number, parts.pop(f"best-{number}")) for score, number in about["best"]]
    history = path.with_name("history.csv")
    if not history.exists() or history.stat().st_size < about["history_size"]:
        raise InputError(f"{history} ends before {path.name}")
    return Checkpoint(about["iteration"], about["history_size"], parts, best)


def _all_parts(checkpoint: Checkpoint) -> dict[str, State]:
    return checkpoint.parts | {f"best-{best.iteration}": best.weights for best in checkpoint.best}


def _checkpoints(directory: Path) -> list[Path]:
    return sorted(directory.glob("checkpoint-*.safetensors"))


def _latest_weights(directory: Path) -> State:
    checkpoint = latest_checkpoint(directory)
    if checkpoint is None:
        raise InputError(f"{directory} holds no weights; has the run written a checkpoint?")
    return checkpoint.parts["learner"]


# The best weights


def keep_best(kept: list[Best], new: Best) -> list[Best]:
    """The best few, best first and of equals the later one; `new` replaces its own iteration's."""
    others = [best for best in kept if best.iteration != new.iteration]
    return sorted([*others, new], key=lambda best: best[:2], reverse=True)[:KEPT_BEST]


def write_best(directory: Path, kept: list[Best]) -> None:
    """Write those that are not there yet, then remove the others that are."""
    paths = {directory / f"best-{best.iteration:08}.safetensors": best for best in kept}
    for path, best in paths.items():
        if not path.exists():
            _write(path, best.weights, {"accuracy": best.accuracy, "iteration": best.iteration})
    for old in set(directory.glob("best-*.safetensors")) - set(paths):
        old.unlink()


def read_best(directory: Path) -> tuple[Best, ...]:
    """The best weights in a folder, best first; raises `InputError` if there are none."""
    kept: list[Best] = []
    for path in directory.glob("best-*.safetensors"):
        weights, about = _read(path)
        kept = keep_best(kept, Best(about["accuracy"], about["iteration"], weights))
    if not kept:
        raise InputError(f"{directory} holds no best weights; has the run finished an epoch?")
    return tuple(kept)


# One file


def _write(path: Path, tensors: State, about: dict[str, Any]) -> None:
    """Tensors and plain data as one safetensors file, whole or not at all; raises `OSError`."""
    tensors = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
    text = json.dumps(about)
    with replacing(path) as part:
        part.write_bytes(save(tensors, {"about": text, "checksum": _checksum(tensors, text)}))


def _read(path: Path) -> tuple[State, dict[str, Any]]:
    """What `_write` wrote; raises `InputError` if that is not what is there."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            text, checksum = (file.metadata()[name] for name in ("about", "checksum"))
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error})") from error
    if checksum != _checksum(tensors, text):
        raise InputError(f"{path} is damaged: its checksum is not that of its contents")
    return tensors, json.loads(text)


def _checksum(tensors: State, text: str) -> str:
    return hashlib.sha256(save(tensors) + text.encode()).hexdigest()
