"""A run: what was trained, on what, and how it went; in memory, or as a folder.

The folder holds `run.json` (recipe and task), `history.csv`, and the weights in safetensors files,
which load without executing code: `best.safetensors` (by validation) and `latest.safetensors`.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_model, save_model

from mamlpp.errors import InputError
from mamlpp.files import replacing
from mamlpp.maml import MetaLearner
from mamlpp.recipe import Recipe
from mamlpp.run.history import History


@dataclass(frozen=True)
class Setting:
    """What a run is trained on: the name of the dataset, the size of its tasks and images."""

    dataset: str
    ways: int
    shots: int
    queries: int
    image_shape: tuple[int, int, int]


@dataclass(eq=False)
class Run:
    """A training that was done: `learner` carries the weights that were best on validation."""

    recipe: Recipe
    setting: Setting
    learner: MetaLearner
    history: History
    directory: Path | None = None

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

    @classmethod
    def load(cls, directory: Path | str, weights: str = "best") -> "Run":
        """The run in a folder, with its `"best"` or `"latest"` weights."""
        directory = Path(directory)
        recipe, setting = read_about(directory)
        learner = MetaLearner(recipe, setting.image_shape, setting.ways)
        path = directory / f"{weights}.safetensors"
        try:
            load_model(learner, path)
        except (OSError, SafetensorError, RuntimeError) as error:
            reason = " ".join(str(error).split())  # PyTorch's goes over several lines.
            raise InputError(
                f"the weights {path} cannot be read ({reason}); has the run finished an epoch?"
            ) from error
        return cls(recipe, setting, learner, History.load(directory / "history.csv"), directory)


def save_weights(learner: MetaLearner, directory: Path, name: str) -> None:
    """Write the weights as `directory/name.safetensors`, whole or not at all."""
    with replacing(directory / f"{name}.safetensors") as part:
        save_model(learner, str(part))


def start_directory(directory: Path, recipe: Recipe, setting: Setting) -> None:
    """Make the folder of a new run; raises `InputError` where one cannot begin."""
    about = directory / "run.json"
    if about.exists():
        raise InputError(f"{directory} already holds a run; choose another folder, or remove it")
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
