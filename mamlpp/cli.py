"""The command line: `mamlpp data | train | evaluate`. Every field of a recipe is an option."""

import argparse
import json
import sys
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from mamlpp.data import SPLITS, load_images
from mamlpp.data.images import ImageSet
from mamlpp.data.tasks import TaskSampler
from mamlpp.errors import InputError
from mamlpp.files import replacing
from mamlpp.recipe import RECIPES, Recipe
from mamlpp.run.checkpoints import Run
from mamlpp.run.evaluation import evaluate
from mamlpp.run.training import Trainer, default_device

Dataset = Literal["glyphs", "omniglot", "mini_imagenet"]


@dataclass
class Data:
    """Build or fetch a dataset, say what is in it, and draw a page of it."""

    dataset: tyro.conf.Positional[Dataset] = "glyphs"
    """glyphs is built in; omniglot is downloaded, or read from MAMLPP_DATA; mini_imagenet is read
    from MAMLPP_DATA."""
    picture: Path | None = None
    """Also draw the first 20 drawings of 20 classes of each split: a PNG or SVG file."""

    def __call__(self) -> None:
        """Print one line a split."""
        if self.picture is not None and self.picture.suffix.lower() not in (".png", ".svg"):
            raise InputError(f"the picture must be a .png or .svg file, not {self.picture.name}")
        sets = [load_images(self.dataset, split) for split in SPLITS]
        for images in sets:
            channels, height, width = images.shape
            print(
                f"{images.split:<10}  {len(images):>5} classes x {images.samples} images of "
                f"{height}x{width}x{channels}   {images.name}"
            )
        if self.picture is not None:
            _draw_page(sets, self.picture)
            print(f"drawn to {self.picture}")


@dataclass
class Train:
    """Meta-train a recipe and write the run to a folder; the same command again goes on with it."""

    directory: Path
    """Folder of the run, new or to go on with: recipe, history (CSV), checkpoints and weights."""
    recipe: Annotated[str, tyro.conf.arg(help=f"Recipe to start from: {', '.join(RECIPES)}.")] = (
        "maml"
    )
    dataset: Dataset = "glyphs"
    """What to train on."""
    ways: int = 5
    """Classes of a task."""
    shots: int = 1
    """Support images a class: what the inner loop learns from."""
    queries: int = 1
    """Query images a class: what the adapted weights are judged on."""
    sampling_seed: int = 0
    """Seed of the tasks that are drawn."""
    diagnose_every: int | None = None
    """Meta-steps between two looks at the gradient on its way back, written to gradients.csv."""
    device: str | None = None
    """cpu, cuda, …; the GPU if there is one, unless said."""
    settings: tyro.conf.OmitArgPrefixes[Recipe] = field(default_factory=Recipe)

    def __call__(self) -> None:
        """Train, then say what came out and what to type next."""
        train, validation = (self._sampler(split) for split in ("train", "validation"))
        run = Trainer(self.settings, train, validation, self.directory, self.diagnose_every).fit()
        best = max(run.history.column("validation_accuracy"))
        print(f"best validation accuracy {100 * best:.2f} %; the run is in {self.directory}")
        print(f"next: mamlpp evaluate {self.directory}")

    def _sampler(self, split: str) -> TaskSampler:
        images = load_images(self.dataset, split).to(_device(self.device))
        # The paper turns Omniglot's characters to make more of them; photographs stay upright.
        rotate = split == "train" and self.dataset != "mini_imagenet"
        return TaskSampler(
            images, self.ways, self.shots, self.queries, seed=self.sampling_seed, rotate=rotate
        )


@dataclass
class Evaluate:
    """Accuracy of a run on tasks of unseen classes, with its 95 % interval."""

    directory: tyro.conf.Positional[Path]
    """Folder of the run."""
    tasks: int = 600
    """How many tasks."""
    split: Literal["train", "validation", "test"] = "test"
    """Classes to draw from."""
    steps: int | None = None
    """Inner steps; as many as in training, unless said."""
    ensemble: int = 5
    """Checkpoints whose logits an ensemble averages: those that were best on validation."""
    device: str | None = None
    """cpu, cuda, …; the GPU if there is one, unless said."""

    def __call__(self) -> None:
        """Print a table, and write it with all that it rests on into the run's folder."""
        device = _device(self.device)
        run = Run.load(self.directory)
        run.learner.to(device)
        images = load_images(run.setting.dataset, self.split).to(device)
        print(f"{images.name}, {run.ways}-way {run.shots}-shot, 95 % interval over tasks")
        results = self._evaluate(run, images)
        print(_table(results))
        print("inductive: each query judged alone; transductive: normalised by its neighbours too")
        path = self.directory / f"evaluation-{self.split}.json"
        _write_json(path, self._about(run, images, device) | results)
        print(f"written to {path}")

    def _evaluate(self, run: Run, images: ImageSet) -> dict[str, Any]:
        """Every protocol, with the best checkpoint alone and with an ensemble of the best few."""
        members = len(run.best(self.ensemble))
        sizes = {"best checkpoint": 1}
        if members > 1:
            sizes[f"ensemble of {members}"] = members
        return {
            f"{'transductive' if transductive else 'inductive'}, {name}": evaluate(
                run,
                images,
                self.tasks,
                steps=self.steps,
                transductive=transductive,
                ensemble=size,
            ).as_dict()
            for transductive in (False, True)
            for name, size in sizes.items()
        }

    def _about(self, run: Run, images: ImageSet, device: torch.device) -> dict[str, Any]:
        return {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "images": images.name,
            "setting": asdict(run.setting),
            "recipe": run.recipe.as_dict(),
            "device": str(device),
            "torch": torch.__version__,
        }


def main(arguments: list[str] | None = None) -> None:
    """Run one command; what the user got wrong is said in one sentence, with exit code 1.

    Ctrl-C ends it with exit code 130; a training first finishes its meta-step and is saved.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        _parse(arguments)()
    except InputError as error:
        sys.exit(f"mamlpp: {error}")
    except KeyboardInterrupt as stop:
        print(f"mamlpp: {stop or 'stopped'}", file=sys.stderr)
        sys.exit(130)  # What shells expect of a program that Ctrl-C ended.


def _parse(arguments: list[str]) -> Data | Train | Evaluate:
    # --recipe chooses the defaults of the other options, so it is looked up before they are parsed.
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--recipe", nargs="?", const="maml", default="maml")
    name = early.parse_known_args(arguments)[0].recipe
    if name not in RECIPES:
        raise InputError(f"there is no recipe {name!r}; choose one of {', '.join(RECIPES)}")
    train = Train(directory=tyro.MISSING, recipe=name, settings=RECIPES[name])
    return tyro.cli(
        Annotated[Data, tyro.conf.subcommand("data")]
        | Annotated[Train, tyro.conf.subcommand("train", default=train)]
        | Annotated[Evaluate, tyro.conf.subcommand("evaluate")],
        prog="mamlpp",
        description="Meta-learning on a laptop: MAML, step by step to MAML++.",
        args=arguments,
        config=(tyro.conf.FlagConversionOff,),
    )


def _device(name: str | None) -> torch.device:
    """The device of that name; raises `InputError` where this machine has none."""
    try:
        return torch.empty(0, device=name or default_device()).device
    except (RuntimeError, AssertionError, ImportError) as error:
        raise InputError(
            f"this machine has no device {name!r}; choose cpu, or leave --device out"
        ) from error


def _table(results: dict[str, Any]) -> str:
    """One row a protocol: accuracy, calibration error, and accuracy after each inner step."""
    steps = range(len(next(iter(results.values()))["accuracy_by_step"]))
    head = f"{'':<30}{'accuracy, %':>14}{'calibration':>13}   after step"
    lines = [head + "".join(f"{step:>7}" for step in steps)]
    for name, result in results.items():
        accuracy = f"{100 * result['accuracy']:.2f} ± {100 * result['interval']:.2f}"
        by_step = "".join(f"{100 * step:>7.1f}" for step in result["accuracy_by_step"])
        calibration = f"{100 * result['calibration_error']:.1f} % off"
        lines.append(f"{name:<30}{accuracy:>14}{calibration:>13}             {by_step}")
    return "\n".join(lines)


def _write_json(path: Path, about: dict[str, Any]) -> None:
    try:
        with replacing(path) as part:
            part.write_text(json.dumps(about, indent=1) + "\n")
    except OSError as error:
        raise InputError(
            f"the results above cannot be written to {path} ({error}); make room there"
        ) from error


def _draw_page(sets: list[ImageSet], path: Path) -> None:
    import matplotlib.pyplot as plt

    from mamlpp.show.plots import plot_images, use_style

    use_style()
    figure, axes = plt.subplots(1, len(sets), figsize=(6 * len(sets), 6.5), layout="constrained")
    for images, ax in zip(sets, axes, strict=True):
        page = images.images[:20, :20].flatten(0, 1).float() / 255
        plot_images(page, ax, columns=min(20, images.samples))
        ax.set_title(f"{images.dataset}, {images.split}: a row is a class")
    try:
        with replacing(path) as part:
            figure.savefig(part)
    except OSError as error:
        raise InputError(
            f"no picture can be written to {path} ({error}); choose another file"
        ) from error
