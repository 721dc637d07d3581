"""The command line: `mamlpp data | train | evaluate | sweep | doctor`.

The fields of a recipe are options of `train`.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Callable
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
from mamlpp.run import sweep
from mamlpp.run.checkpoints import Run
from mamlpp.run.evaluation import EVALUATION_SEED, Evaluation, evaluate_protocols
from mamlpp.run.parallel import Team, torchrun_team
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
    workers: int = 1
    """Processes that share the tasks of each meta-batch, on as many cores. On several GPUs:
    torchrun --nproc-per-node GPUS -m mamlpp train …"""
    settings: tyro.conf.OmitArgPrefixes[Recipe] = field(default_factory=Recipe)

    def __call__(self) -> None:
        """Train, then say what came out and what to type next."""
        team = torchrun_team(_device(self.device))
        if team is not None and team.rank:
            return team.serve()
        device = _device(self.device) if team is None else team.device
        try:
            run = self._trainer(device, self.workers if team is None else team).fit()
        finally:
            if team is not None:
                team.dismiss()
        best = max(run.history.column("validation_accuracy"))
        print(f"best validation accuracy {100 * best:.2f} %; the run is in {self.directory}")
        print(f"next: mamlpp evaluate {self.directory}")

    def _trainer(self, device: torch.device, workers: int | Team) -> Trainer:
        train, validation = (self._sampler(split, device) for split in ("train", "validation"))
        return Trainer(
            self.settings, train, validation, self.directory, self.diagnose_every, workers
        )

    def _sampler(self, split: str, device: torch.device) -> TaskSampler:
        images = load_images(self.dataset, split).to(device)
        # The paper turns Omniglot's characters to make more of them; photographs stay upright.
        rotate = split == "train" and self.dataset != "mini_imagenet"
        return TaskSampler(
            images, self.ways, self.shots, self.queries, seed=self.sampling_seed, rotate=rotate
        )


@dataclass
class Evaluate:
    """How good a run is on tasks of unseen classes: a table, and all numbers as a JSON file."""

    directory: tyro.conf.Positional[Path]
    """Folder of the run; the numbers go to evaluation-SPLIT.json in it."""
    tasks: int = 600
    """How many tasks."""
    split: Literal["train", "validation", "test"] = "test"
    """Classes to draw from."""
    steps: int | None = None
    """Inner steps; as many as in training, unless said."""
    ensemble: int = 5
    """Checkpoints, the best on validation, whose logits the ensemble averages."""
    seed: int = EVALUATION_SEED
    """Seed of the tasks; whatever it is, they are none of training's or validation's."""
    device: str | None = None
    """cpu, cuda, …; the GPU if there is one, unless said."""

    def __call__(self) -> None:
        """Evaluate under both protocols, alone and as an ensemble; print and write the numbers."""
        device = _device(self.device)
        run = Run.load(self.directory)
        run.learner.to(device)
        images = load_images(run.setting.dataset, self.split).to(device)
        members = min(self.ensemble, len(run.kept))
        steps = run.recipe.inner_steps if self.steps is None else self.steps
        results = evaluate_protocols(
            run, images, self.tasks, steps=steps, ensemble=members, seed=self.seed
        )
        print(f"{images.name}, {run.ways}-way {run.shots}-shot, {self.tasks} tasks")
        if members < self.ensemble:
            print(f"note: {self.ensemble} checkpoints were asked for, the run keeps {members}")
        print(_tables(results, members))
        path = self.directory / f"evaluation-{self.split}.json"
        about = self._about(run, images, steps, members) | {"results": _plain(results)}
        _write(path, json.dumps(about, indent=1, allow_nan=False) + "\n")
        print(f"\nall numbers are in {path}")

    def _about(self, run: Run, images: ImageSet, steps: int, members: int) -> dict[str, Any]:
        """What was evaluated, and how to do it again."""
        device = str(images.images.device)
        options = {
            **{"tasks": self.tasks, "split": self.split, "steps": steps},
            **{"ensemble": members, "seed": self.seed},
        }
        words = [f"--{name}={value}" for name, value in (options | {"device": device}).items()]
        return {
            "command": shlex.join(["mamlpp", "evaluate", str(self.directory), *words]),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "device": device,
            "torch": torch.__version__,
            "dataset": {"name": images.name, "checksum": images.checksum},
            **options,
            "recipe": run.recipe.as_dict(),
            "setting": asdict(run.setting),
        }


Results = dict[str, dict[str, Evaluation]]
_PROTOCOLS = (
    "inductive (each query image judged by itself)",
    "transductive (all judged together, as published)",
)


def _tables(results: Results, members: int) -> str:
    """Accuracy, accuracy after each step, and calibration: tables with a row a protocol."""

    def each(say: Callable[[Evaluation], str]) -> list[list[str]]:
        return [[say(one) for one in pair.values()] for pair in results.values()]

    kinds = ["best checkpoint", f"ensemble of {members}"][: min(members, 2)]
    accuracy = each(lambda one: f"{100 * one.accuracy:.2f} ± {100 * one.interval:.2f}")
    by_step = [
        [f"{100 * value:.2f}" for value in pair["single"].accuracy_by_step]
        for pair in results.values()
    ]
    error = each(lambda one: f"{100 * one.calibration_error:.2f}")
    tables = [
        ("accuracy in %, with its 95 % interval over tasks", kinds, accuracy),
        (
            "accuracy in % of the best checkpoint after 0, 1, … inner steps",
            [str(step) for step in range(len(by_step[0]))],
            by_step,
        ),
        ("calibration error in %: how far confidence is from accuracy", kinds, error),
    ]
    return "\n".join(_table(*table) for table in tables)


def _table(title: str, columns: list[str], rows: list[list[str]]) -> str:
    """A title over right-aligned columns, a row a protocol."""
    lines = [["", *columns], *([name, *row] for name, row in zip(_PROTOCOLS, rows, strict=True))]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return f"\n{title}\n" + "\n".join(
        "  ".join([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])])
        for name, *cells in lines
    )


def _plain(results: Results) -> dict[str, dict[str, Any]]:
    return {
        name: {kind: one.as_dict() for kind, one in pair.items()} for name, pair in results.items()
    }


def _write(path: Path, text: str) -> None:
    try:
        with replacing(path) as part:
            part.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"the results cannot be written to {path} ({error}); make room there"
        ) from error


@dataclass
class Sweep:
    """Run a table of trainings: what is missing of it, side by side; the same command goes on."""

    file: tyro.conf.Positional[Path]
    """The sweep, such as sweeps/laptop.toml: recipes, tasks, seeds and sizes."""
    directory: Path | None = None
    """Folder of the runs; runs/NAME, after the file, unless said."""
    workers: int | None = None
    """Runs side by side; as many as GPUs, or as cores if there is none, unless said."""
    device: str | None = None
    """cpu or cuda; the GPUs if there are any, unless said."""
    cluster: str | None = None
    """Address of a Ray cluster to run on, or auto; its machines must share the directory."""
    cores: float = 1.0
    """Cores that each run takes on a cluster; and a GPU, where it has any."""
    status: bool = False
    """Only say how far each run is."""
    table: Literal["text", "markdown", "json", "figure"] | None = None
    """Only write the tables of what is done: ours beside the paper's."""
    output: Path | None = None
    """File for the table; a figure needs one, everything else is printed without."""

    def __call__(self) -> None:
        """Run it, or tell of it; exit code 1 where a run failed."""
        cells = sweep.read_sweep(self.file)
        directory = self.directory or Path("runs", self.file.stem)
        if self.status:
            print(_status(cells, directory))
        elif self.table is not None:
            self._tell(cells, directory, self.table)
        else:
            self._run(cells, directory)

    def _run(self, cells: list[sweep.Cell], directory: Path) -> None:
        from mamlpp.run import sweep
        from mamlpp.show import tables

        for name in sorted({cell.dataset for cell in cells}):
            load_images(name, "train")  # Missing data is said once, and fetched once.
        engine = (
            sweep.Processes(directory, self.workers, self.device)
            if self.cluster is None
            else sweep.Cluster(directory, self.cluster, self.cores)
        )
        with engine:
            failed = sweep.run_sweep(cells, directory, engine.submit)
        for table in tables.sweep_tables(cells, directory):
            print("\n" + tables.as_text(table))
        if failed:
            reasons = "".join(f"\n  {name}: {reason}" for name, reason in failed.items())
            raise InputError(f"{len(failed)} of {len(cells)} runs failed:{reasons}")

    def _tell(self, cells: list[sweep.Cell], directory: Path, form: str) -> None:
        from mamlpp.show import tables

        found = tables.sweep_tables(cells, directory)
        if not any(row["runs"] for table in found for row in table["rows"].values()):
            raise InputError(f"no run of {self.file} is done in {directory}; run the sweep first")
        if form == "figure":
            self._draw(found)
            return
        if form == "json":
            text = json.dumps(self._about(directory) | {"tables": found}, indent=1, allow_nan=False)
        else:
            show = tables.as_text if form == "text" else tables.as_markdown
            kinds = ["single", "ensemble"]
            text = "\n\n".join(show(table, kind) for table in found for kind in kinds)
        if self.output is None:
            print(text)
        else:
            _write(self.output, text + "\n")
            print(f"written to {self.output}")

    def _draw(self, found: list[dict[str, Any]]) -> None:
        from mamlpp.show import plots, tables

        if self.output is None or self.output.suffix.lower() not in (".png", ".svg", ".pdf"):
            raise InputError("a figure needs --output with a .png, .svg or .pdf file")
        plots.use_style()
        figure = tables.draw_tables(found)
        try:
            with replacing(self.output) as part:
                figure.savefig(part, facecolor="white")
        except OSError as error:
            raise InputError(
                f"no figure can be written to {self.output} ({error}); choose another file"
            ) from error
        print(f"drawn to {self.output}")

    def _about(self, directory: Path) -> dict[str, Any]:
        """Where the numbers come from."""
        words = ["mamlpp", "sweep", self.file.as_posix(), "--directory", directory.as_posix()]
        return {
            "command": shlex.join(words),
            "date": datetime.now(UTC).date().isoformat(),
            "torch": torch.__version__,
        }


@dataclass
class Doctor:
    """What is installed, what this machine has, and what to do about each thing that is wrong."""

    def __call__(self) -> None:
        """Print the page; exit code 1 where something is wrong."""
        from mamlpp import doctor

        sys.exit(doctor.main())


def _status(cells: list[sweep.Cell], directory: Path) -> str:
    """A line a cell, and how many are in which state."""
    lines, words = [], []
    for cell in cells:
        found = sweep.state(cell, directory)
        words.append(found.word)
        lines.append(
            f"{cell.name:<44} {found.word:<8} {found.iteration:>6} of {cell.steps} {found.reason}"
        )
    counts = ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))
    return "\n".join([*map(str.rstrip, lines), f"{len(cells)} runs: {counts}"])


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


def _parse(arguments: list[str]) -> Data | Train | Evaluate | Sweep | Doctor:
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
        | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
        | Annotated[Sweep, tyro.conf.subcommand("sweep")]
        | Annotated[Doctor, tyro.conf.subcommand("doctor")],
        prog="mamlpp",
        description="Meta-learning on a laptop: MAML, step by step to MAML++.",
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff,),
    )


def _device(name: str | None) -> torch.device:
    """The device of that name; raises `InputError` where this machine has none."""
    try:
        return torch.empty(0, device=name or default_device()).device
    except (RuntimeError, AssertionError, ImportError) as error:
        raise InputError(
            f"this machine has no device {name!r}; choose cpu, or leave --device out"
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


if __name__ == "__main__":
    main()
