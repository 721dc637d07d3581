"""A run: the recipe, the data, the trained learner and its history; in memory or in a folder.

The folder holds `run.json` (recipe and data), `history.csv`, `gradients.csv`, `changes.csv` if the
recipe or its length was changed, and the checkpoints and best weights (see `checkpoints.py`).
"""

import copy
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from mamlpp.errors import InputError
from mamlpp.files import code_version, replacing, user_path
from mamlpp.input_checks import whole_number
from mamlpp.learner import MetaLearner, Reading
from mamlpp.naming import counted
from mamlpp.precision import gradients_on
from mamlpp.recipe import Recipe, with_milestones
from mamlpp.run.changes import (
    CHANGE_COLUMNS,
    MILESTONES,
    check_rate,
    in_force,
    same_milestone,
    use_recipe,
    with_length,
)
from mamlpp.run.checkpoints import KEPT_BEST, Best, latest_weights, read_best
from mamlpp.run.history import GRADIENT_COLUMNS, History
from mamlpp.run.outer import seeded


@dataclass(frozen=True)
class DataSettings:
    """The data of a run: images (as dataset-split-checksum), the kind of tasks, sampler seeds.

    Of a sampler of the user's own it has the name of its class, and what the sampler says.
    """

    dataset: str
    ways: int | None
    shots: int | None
    queries: int | None
    image_shape: tuple[int, ...] | None
    training_images: str
    training_seed: int | None
    training_rotate: bool
    validation_images: str
    validation_seed: int | None
    validation_rotate: bool
    validation_queries: int | None


@dataclass(eq=False)
class Run:
    """A finished training; `learner` has the weights with the best validation accuracy.

    `kept` holds up to `KEPT_BEST` weights, best first. `gradients` holds the norms along the inner
    loop for the diagnosed meta-steps. `recipe` is the recipe at the start of training, `changes`
    the changes made during it, those of its length too, and `learner.recipe` the recipe in force at
    the learner's weights.
    """

    recipe: Recipe
    data: DataSettings
    learner: MetaLearner
    history: History
    directory: Path | None = None
    kept: tuple[Best, ...] = ()
    gradients: History = field(default_factory=lambda: History(columns=GRADIENT_COLUMNS))
    changes: History = field(default_factory=lambda: History(columns=CHANGE_COLUMNS))
    selected_by: Reading = "support"
    """The reading whose validation accuracy selected the weights."""

    @property
    def ways(self) -> int | None:
        """Classes per task."""
        return self.data.ways

    @property
    def shots(self) -> int | None:
        """Support images per class."""
        return self.data.shots

    @property
    def queries(self) -> int | None:
        """Query images per class."""
        return self.data.queries

    def __repr__(self) -> str:
        """What was trained, how far, and how well, in a few lines."""
        found = self.history.column("validation_accuracy")
        score = f", best validation accuracy {100 * max(found):.2f} %" if found else ""
        where = "in memory" if self.directory is None else f"in {self.directory}"
        tasks = "" if self.ways is None else f" {self.ways}-way {self.shots}-shot"
        return (
            f"<Run of {self.data.dataset}{tasks}, {counted(len(self.history.rows), 'meta-step')}"
            f"{score}, {where}\n  {self.learner!r}>"
        )

    def best(self, k: int = KEPT_BEST) -> list[MetaLearner]:
        """The up to `k` learners with the best validation accuracy, best first.

        A run keeps at most `KEPT_BEST`. Raises `InputError` if their files cannot be read.
        """
        whole_number("k", k)
        return [self._member(best) for best in self._kept()[:k]]

    @gradients_on()
    def _member(self, best: Best) -> MetaLearner:
        learner = copy.deepcopy(self.learner)
        learner.load_state_dict(best.weights)
        use_recipe(learner, in_force(self.recipe, self.changes, best.iteration))
        return learner

    def _kept(self) -> tuple[Best, ...]:
        return self.kept or (read_best(self.directory) if self.directory else ())

    @classmethod
    def load(
        cls, directory: Path | str, weights: str = "best",
        learner: "MetaLearner | MakeLearner | None" = None,
    ) -> "Run":  # fmt: skip
        """Load the run in a folder with its `"best"` or `"latest"` weights.

        What was trained with a `learner` of your own needs the same one, to load the weights into,
        or its class. Raises `InputError` if the folder holds no run, was trained with another
        learner, or if its files are damaged.
        """
        if weights not in ("best", "latest"):
            raise InputError(f"weights must be 'best' or 'latest', not {weights!r}")
        typed, directory = directory, user_path(directory)
        recipe, data = read_about(directory)
        kept = read_best(directory) if weights == "best" else ()
        state = kept[0].weights if kept else latest_weights(directory)
        used = read_used(directory, recipe)
        if learner is None and {k: used[k] for k in KIT} != _kit(recipe):
            raise InputError(
                f"the run in {directory} was trained with {_said(used)}, which only you have; give "
                f"it in Python: mamlpp.load_run({str(typed)!r}, learner=…)"
            )
        learner = make_learner(learner, recipe, data.image_shape, data.ways).eval()
        found = names_of(learner, used["optimizer"])
        if found != used:
            raise InputError(
                f"the run in {directory} was trained with {_said(used)}, and this is "
                f"{_said(found)}; give the same"
            )
        try:
            learner.load_state_dict(state)
        except RuntimeError as error:
            reason = str(error).split("\n\t")[1]  # PyTorch writes a line per weight.
            raise InputError(
                f"the weights in {directory} do not fit the recipe in its run.json ({reason})"
            ) from error
        history = History.load(directory / "history.csv")
        run = cls(recipe, data, learner, history, directory, kept)
        run.selected_by = read_selection(directory)
        if (directory / "gradients.csv").exists():
            run.gradients = History.load(directory / "gradients.csv")
        if (directory / "changes.csv").exists():
            run.changes = History.load(directory / "changes.csv")
            until = kept[0].iteration if kept else math.inf
            use_recipe(learner, in_force(recipe, run.changes, until))
        return run


def load_run(
    directory: Path | str, weights: str = "best",
    learner: "MetaLearner | MakeLearner | None" = None,
) -> Run:  # fmt: skip
    """`Run.load`: the run in a folder, with its `"best"` or `"latest"` weights.

    What was trained with a `learner` of your own needs the same one, or its class. Raises
    `InputError` if the folder holds no run, one of another learner, or damaged files.
    """
    return Run.load(directory, weights, learner)


MakeLearner = Callable[[Recipe, Any, Any], MetaLearner]  # of a recipe, image_shape and ways
KIT = ("learner", "network", "rule", "loss")  # what a learner consists of


def make_learner(
    given: MetaLearner | MakeLearner | None, recipe: Recipe, shape: Any, ways: int | None
) -> MetaLearner:
    """The kit's learner, the one that is given, or what its class or function makes.

    The common generators are seeded by the recipe for that: the same seed draws the same weights.
    Raises `InputError` where it is no learner, or one of another recipe.
    """
    if given is None and shape is None:
        raise InputError(
            "these tasks have no images of one shape, for which the kit has a network; give yours: "
            "learner=MetaLearner(recipe, network=…, loss=…)"
        )
    if given is None:
        return MetaLearner(recipe, shape, ways)
    learner = given if isinstance(given, MetaLearner) else None
    if learner is None and callable(given) and not isinstance(given, torch.nn.Module):
        with seeded(recipe.seed, "learner"):
            learner = given(recipe, shape, ways)
    if not isinstance(learner, MetaLearner):
        raise InputError(
            f"learner must be a MetaLearner, or its class, or a function of (recipe, image_shape, "
            f"ways) that makes one, not {type(given).__name__}; of a network, "
            f"MetaLearner(recipe, network=…)"
        )
    if learner.recipe != recipe:
        raise InputError("the learner was made with another recipe; give both the same one")
    check_rate(learner)
    return learner


def names_of(learner: MetaLearner, optimizer: str) -> dict[str, str]:
    """The names of what a run uses, which it writes down."""
    loss = getattr(learner._loss, "__name__", type(learner._loss).__name__)
    parts = {"learner": learner, "network": learner.network, "rule": learner.rule}
    names = {part: type(value).__name__ for part, value in parts.items()}
    return names | {"loss": loss, "optimizer": optimizer}


def _kit(recipe: Recipe) -> dict[str, str]:
    rule = {"fixed": "FixedRate", "lslr": "LSLR", "meta-sgd": "MetaSGD"}[recipe.inner_rule]
    names = ("MetaLearner", "ConvNet", rule, "cross_entropy")
    return dict(zip(KIT, names, strict=True))


def is_kits_own(used: dict[str, str], recipe: Recipe) -> bool:
    """Whether a run uses nothing but what the kit has for its recipe."""
    return used == _kit(recipe) | {"optimizer": "Adam"}


def read_used(directory: Path, recipe: Recipe) -> dict[str, str]:
    """The names of what a run uses; earlier versions had the kit's own alone."""
    about = json.loads((directory / "run.json").read_text(encoding="utf-8"))
    return about.get("used") or _kit(recipe) | {"optimizer": "Adam"}


def _said(used: dict[str, str]) -> str:
    return ", ".join(f"{part} {name}" for part, name in used.items())


def open_directory(
    directory: Path, recipe: Recipe, data: DataSettings, workers: int, used: dict[str, str]
) -> Recipe:
    """Create the folder of a new run, or check that an existing folder holds this run.

    The recipe that the run began with: it may differ in its length, and in milestones that follow
    the length. Raises `InputError`, and changes nothing, if the folder holds another run or cannot
    be written.
    """
    about = directory / "run.json"
    if about.exists():
        return _check_same(directory, recipe, data, used)
    plain = {"recipe": asdict(recipe), "data": asdict(data), **code_version()}
    try:
        with replacing(about) as part:
            part.write_text(
                json.dumps(plain | {"workers": workers, "selected_by": "support", "used": used}),
                encoding="utf-8",
            )
    except OSError as error:
        raise InputError(
            f"no run can be written to {directory} ({error}); choose another folder"
        ) from error
    return recipe


def read_workers(directory: Path) -> int | None:
    """The number of processes that a run began with; None where there is no run yet.

    Runs of earlier versions do not say it: 1, which was their default.
    """
    if not (directory / "run.json").exists():
        return None
    read_about(directory)
    return json.loads((directory / "run.json").read_text(encoding="utf-8")).get("workers", 1)


def read_selection(directory: Path | None) -> Reading:
    """The reading whose validation accuracy selects the best checkpoints of the run in a folder.

    Earlier versions did not write it down: by running statistics where there were some.
    """
    if directory is None or not (directory / "run.json").exists():
        return "support"
    recipe, _ = read_about(directory)
    about = json.loads((directory / "run.json").read_text(encoding="utf-8"))
    return about.get("selected_by", "support" if recipe.norm_statistics == "batch" else "running")


def read_about(directory: Path) -> tuple[Recipe, DataSettings]:
    """Read the recipe and data of the run in a folder; raises `InputError` if that fails."""
    path = directory / "run.json"
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        data = about.get("data") or about["setting"]  # "setting" in earlier versions.
        if data["image_shape"] is not None:
            data["image_shape"] = tuple(data["image_shape"])  # JSON has no tuples.
        return Recipe(**about["recipe"]), DataSettings(**data)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(
            f"{directory} holds no run; give the folder that `mamlpp train --directory` wrote"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({error}); train the run again") from error


def read_begun(directory: Path) -> tuple[Recipe, DataSettings] | None:
    """The recipe and data to go on with, at the length that is in force; None without a run."""
    if not (directory / "run.json").exists():
        return None
    recipe, data = read_about(directory)
    if (directory / "changes.csv").exists():
        now = in_force(recipe, History.load(directory / "changes.csv"), math.inf)
        recipe = with_length(recipe, now, now)
    return with_milestones(recipe, *MILESTONES), data


def _check_same(
    directory: Path, recipe: Recipe, data: DataSettings, used: dict[str, str]
) -> Recipe:
    first, first_data = read_about(directory)
    there = {**asdict(first), **asdict(first_data), **read_used(directory, first)}
    here = {**asdict(recipe), **asdict(data), **used}
    free = {"epochs", *(name for name in MILESTONES if same_milestone(name, recipe, first))}
    differing = [
        f"{name} is {there[name]} there and {here[name]} here"
        for name in here
        if there[name] != here[name] and name not in free
    ]
    if differing:
        raise InputError(
            f"{directory} holds another run: {', '.join(differing)}; choose another folder"
        )
    return recipe if recipe == first else first
