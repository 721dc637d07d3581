"""A run: the recipe, the data, the trained learner and its history; in memory or in a folder.

The folder holds `run.json` (recipe and data), `history.csv`, `gradients.csv`, `changes.csv` if the
recipe or its length was changed, and the checkpoints and best weights (see `checkpoints.py`).
"""

import copy
import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mamlpp.errors import InputError
from mamlpp.files import replacing
from mamlpp.learner import MetaLearner, Reading
from mamlpp.precision import gradients_on
from mamlpp.recipe import Recipe
from mamlpp.run.changes import CHANGE_COLUMNS, MILESTONES, in_force, same_milestone
from mamlpp.run.checkpoints import KEPT_BEST, Best, latest_weights, read_best
from mamlpp.run.history import GRADIENT_COLUMNS, History


@dataclass(frozen=True)
class DataSettings:
    """The data of a run: images (as dataset-split-checksum), the kind of tasks, sampler seeds."""

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
    def ways(self) -> int:
        """Classes per task."""
        return self.data.ways

    @property
    def shots(self) -> int:
        """Support images per class."""
        return self.data.shots

    @property
    def queries(self) -> int:
        """Query images per class."""
        return self.data.queries

    def best(self, k: int = KEPT_BEST) -> list[MetaLearner]:
        """The up to `k` learners with the best validation accuracy, best first.

        A run keeps at most `KEPT_BEST`. Raises `InputError` if their files cannot be read.
        """
        if k < 1:
            raise InputError(f"k must be at least 1, not {k}")
        return [self._member(best) for best in self._kept()[:k]]

    @gradients_on()
    def _member(self, best: Best) -> MetaLearner:
        learner = copy.deepcopy(self.learner)
        learner.load_state_dict(best.weights)
        learner.update_recipe(in_force(self.recipe, self.changes, best.iteration))
        return learner

    def _kept(self) -> tuple[Best, ...]:
        return self.kept or (read_best(self.directory) if self.directory else ())

    @classmethod
    def load(cls, directory: Path | str, weights: str = "best") -> "Run":
        """Load the run in a folder with its `"best"` or `"latest"` weights.

        Raises `InputError` if the folder holds no run or its files are damaged.
        """
        if weights not in ("best", "latest"):
            raise InputError(f"weights must be 'best' or 'latest', not {weights!r}")
        directory = Path(directory).expanduser().absolute()
        recipe, data = read_about(directory)
        kept = read_best(directory) if weights == "best" else ()
        state = kept[0].weights if kept else latest_weights(directory)
        learner = MetaLearner(recipe, data.image_shape, data.ways)
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
            learner.update_recipe(in_force(recipe, run.changes, until))
        return run


def open_directory(directory: Path, recipe: Recipe, data: DataSettings, workers: int) -> Recipe:
    """Create the folder of a new run, or check that an existing folder holds this run.

    The recipe that the run began with: it may differ in its length, and in milestones that follow
    the length. Raises `InputError`, and changes nothing, if the folder holds another run or cannot
    be written.
    """
    about = directory / "run.json"
    if about.exists():
        return _check_same(directory, recipe, data)
    plain = {"recipe": asdict(recipe), "data": asdict(data)}
    try:
        with replacing(about) as part:
            part.write_text(
                json.dumps(plain | {"workers": workers, "selected_by": "support"}),
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
        data["image_shape"] = tuple(data["image_shape"])  # JSON has no tuples.
        return Recipe(**about["recipe"]), DataSettings(**data)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(
            f"{directory} holds no run; give the folder that `mamlpp train --directory` wrote"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({error}); train the run again") from error


def _check_same(directory: Path, recipe: Recipe, data: DataSettings) -> Recipe:
    first, first_data = read_about(directory)
    there, here = ({**asdict(r), **asdict(d)} for r, d in ((first, first_data), (recipe, data)))
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
