"""The command line: `mamlpp data | train | evaluate | export | sweep | cache | doctor`.

Every field of a recipe is an option of `train`. Paths may begin with `~`.
"""

import argparse
import itertools
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from mamlpp.data import SPLITS, cache, default_dataset, load_images
from mamlpp.data.folders import cache_folder
from mamlpp.data.images import ImageSet
from mamlpp.data.tasks import TaskSampler
from mamlpp.engine import Workers, torchrun_workers
from mamlpp.errors import InputError
from mamlpp.files import code_version, replacing, user_path
from mamlpp.learner import Reading
from mamlpp.naming import counted
from mamlpp.recipe import Recipe
from mamlpp.recipes import RECIPES
from mamlpp.run import sweep
from mamlpp.run.evaluation import EVALUATION_SEED, READINGS, Evaluation, evaluate_readings
from mamlpp.run.export import export, mapping, plain_network
from mamlpp.run.results import record
from mamlpp.run.run import Run, read_begun
from mamlpp.run.schedule_words import describe_schedule
from mamlpp.run.trainer import Trainer, default_device, tensorboard
from mamlpp.terminal import STOPPED, exit_code, prepare, say

LAPTOP = "maml++-quick"  # what `train` trains unless told

Dataset = Annotated[
    str,
    tyro.conf.arg(
        metavar="NAME|PATH",
        help="glyphs (built in), omniglot (from MAMLPP_DATA, or downloaded), mini_imagenet (from "
        "MAMLPP_DATA); auto: omniglot where it is at hand, otherwise glyphs; or your own: a folder "
        "with a folder of pictures for each class, as PATH@28x1 (squares of 28, in grey; 3 for "
        "RGB), or module:function, called with a split.",
    ),
]


@dataclass
class Data:
    """Build or download a dataset, say what is in it, and draw a page of its images."""

    dataset: tyro.conf.Positional[Dataset] = "glyphs"
    picture: Path | None = None
    """PNG or SVG file to draw 20 images of 20 classes of each split to."""

    def __call__(self) -> None:
        """Print one line for each split."""
        if self.picture is not None and self.picture.suffix.lower() not in (".png", ".svg"):
            raise InputError(f"the picture must be a .png or .svg file, not {self.picture.name}")
        sets = [load_images(_named(self.dataset), split) for split in SPLITS]
        for images in sets:
            channels, height, width = images.shape
            say(
                f"{images.split:<10}  {len(images):>5} classes x {images.samples} images of "
                f"{height}x{width}x{channels}   {images.name}"
            )
        if self.picture is not None:
            picture = user_path(self.picture)
            _draw_page(sets, picture)
            say(f"drawn to {picture}")


@dataclass
class Train:
    """Meta-train a recipe and keep the run in a folder. The same command again continues it; with
    more --epochs, it goes on to those. A folder that holds a run sets the options not given."""

    directory: Path = Path("runs", LAPTOP)
    """Folder of the run, new or to be continued; by default runs/RECIPE. It gets the recipe, the
    history (as CSV), the checkpoints and the weights."""
    recipe: Annotated[str, tyro.conf.arg(help=f"Recipe to start from: {', '.join(RECIPES)}.")] = (
        LAPTOP
    )
    dataset: Dataset = "auto"
    ways: int = 5
    """Classes in each task."""
    shots: int = 1
    """Support images of each class: what the inner loop learns from."""
    queries: int = 1
    """Query images of each class: what the adapted weights are judged on."""
    sampling_seed: int = 0
    """Seed that decides which tasks are drawn."""
    diagnose_every: int | None = None
    """Record the gradient on its way back through the inner loop once in this many meta-steps, in
    gradients.csv."""
    device: str | None = None
    """cpu, cuda, …; by default the GPU if there is one."""
    patience: int | None = None
    """End after this many validations without a better one."""
    tensorboard: bool = False
    """Write the history for TensorBoard too, into the same folder (pip install tensorboard)."""
    workers: int | Literal["auto"] = "auto"
    """Processes that share the tasks of each meta-batch, one for each core; auto: as many as pay
    here. To use several GPUs: torchrun --nproc-per-node GPUS -m mamlpp train …"""
    settings: tyro.conf.OmitArgPrefixes[Recipe] = field(default_factory=Recipe)
    """Everything that defines a training but the data. Defaults are those of the recipe."""

    def __call__(self) -> None:
        """Train, then print the best accuracy and what to type next."""
        others = torchrun_workers(_device(self.device))
        if others is not None and others.rank:
            return others.serve()
        device = _device(self.device) if others is None else others.device
        self.dataset, directory = _named(self.dataset), user_path(self.directory)
        say(f"{self.recipe} on {self.dataset}, {self.ways}-way {self.shots}-shot")
        say(describe_schedule(self.settings))
        try:
            workers = self.workers if others is None else others
            run = self._trainer(directory, device, workers).fit()
        finally:
            if others is not None:
                others.dismiss()
        best = max(run.history.column("validation_accuracy"))
        say(f"best validation accuracy {100 * best:.2f} %; the run is in {directory}")
        say(f"next: {_command('evaluate', str(self.directory))}")

    def _trainer(
        self, directory: Path, device: torch.device, workers: int | Workers | Literal["auto"]
    ) -> Trainer:
        train, validation = (self._sampler(split, device) for split in ("train", "validation"))
        callbacks = [tensorboard(directory)] if self.tensorboard else []
        arguments = self.settings, train, validation, directory, self.diagnose_every, workers
        return Trainer(*arguments, callbacks=callbacks, patience=self.patience)

    def _sampler(self, split: str, device: torch.device) -> TaskSampler:
        images = load_images(self.dataset, split).to(device)
        # The paper turns Omniglot's characters to make more of them; photographs stay upright.
        rotate = split == "train" and self.dataset in ("glyphs", "omniglot")
        return TaskSampler(
            images, self.ways, self.shots, self.queries, seed=self.sampling_seed, rotate=rotate
        )


@dataclass
class Evaluate:
    """Measure a run on tasks of unseen classes: print tables, and keep all numbers as JSON."""

    directory: tyro.conf.Positional[Path]
    """Folder of the run. The numbers are written to evaluation-SPLIT.json in it."""
    tasks: int = 600
    """Number of tasks."""
    split: Literal["train", "validation", "test"] = "test"
    """Which classes the tasks are drawn from."""
    ways: int | None = None
    """Classes in each task: as many as in training, for the network has an output for each."""
    shots: int | None = None
    """Support images of each class; by default as many as in training."""
    queries: int | None = None
    """Query images of each class; by default as many as in training."""
    steps: int | None = None
    """Inner steps; by default as many as in training."""
    ensemble: int = 5
    """How many checkpoints, the best on validation, the ensemble averages the logits of."""
    seed: int = EVALUATION_SEED
    """Seed that decides which tasks are drawn. With any seed, these are other tasks than those of
    training and validation."""
    device: str | None = None
    """cpu, cuda, …; by default the GPU if there is one."""

    def __call__(self) -> None:
        """Evaluate by each reading, single and ensemble; print and write the numbers."""
        device, directory = _device(self.device), user_path(self.directory)
        run = self._run(directory)
        run.learner.to(device)
        images = load_images(run.data.dataset, self.split).to(device)
        members = min(self.ensemble, len(run.kept))
        steps = run.recipe.inner_steps if self.steps is None else self.steps
        kind = {
            "shots": run.shots if self.shots is None else self.shots,
            "queries": run.queries if self.queries is None else self.queries,
        }
        results = evaluate_readings(
            run, images, self.tasks, steps=steps, ensemble=members, seed=self.seed, **kind
        )
        say(f"{images.name}, {run.ways}-way {kind['shots']}-shot, {counted(self.tasks, 'task')}")
        say(f"checkpoints selected by validation, queries normalised {READINGS[run.selected_by]}")
        if members < self.ensemble:
            say(f"note: an ensemble of {self.ensemble} was asked for, the run keeps {members}")
        say(_tables(results, members))
        path = directory / f"evaluation-{self.split}.json"
        options = {"ways": run.ways, **kind, "steps": steps, "ensemble": members}
        about = self._about(run, images, options) | {"results": _plain(results)}
        if not os.access(directory, os.W_OK):
            say(f"\n{directory} may only be read, so the numbers are not kept there")
            return
        _write(path, json.dumps(about, indent=1, allow_nan=False) + "\n")
        say(f"\nall numbers are in {path}")

    def _run(self, directory: Path) -> Run:
        """The run in the folder; raises `InputError` where its network is made for other ways."""
        run = Run.load(directory)
        if self.ways not in (None, run.ways):
            raise InputError(
                f"the network in {directory} tells {run.ways} classes apart, so it cannot be "
                f"evaluated on {self.ways}-way tasks; leave --ways out, or train a run with "
                f"--ways {self.ways}"
            )
        return run

    def _about(self, run: Run, images: ImageSet, options: dict[str, Any]) -> dict[str, Any]:
        """What was evaluated, and the command that does it again."""
        device = str(images.images.device)
        options = {"tasks": self.tasks, "split": self.split, **options, "seed": self.seed}
        words = [f"--{name}={value}" for name, value in (options | {"device": device}).items()]
        return {
            "command": shlex.join(["mamlpp", "evaluate", str(self.directory), *words]),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "device": device,
            "torch": torch.__version__,
            **code_version(),
            "dataset": {"name": images.name, "checksum": images.checksum},
            **options,
            "recipe": run.recipe.as_dict(),
            "data": asdict(run.data),
            "selected_by": run.selected_by,
        }


Results = dict[Reading, dict[str, Evaluation]]


def _tables(results: Results, members: int) -> str:
    """Accuracy, accuracy after each step, and calibration: tables with a row for each reading."""

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
        ("accuracy in %, with its 95 % interval over tasks; queries normalised", kinds, accuracy),
        (
            "accuracy in % of the best checkpoint after 0, 1, … inner steps",
            [str(step) for step in range(len(by_step[0]))],
            by_step,
        ),
        ("calibration error in %: how far confidence is from accuracy", kinds, error),
    ]
    return "\n".join(_table(list(results), *table) for table in tables)


def _table(readings: list[Reading], title: str, columns: list[str], rows: list[list[str]]) -> str:
    """A title above right-aligned columns, with a row for each reading."""
    words = [READINGS[reading] for reading in readings]
    lines = [["", *columns], *([name, *row] for name, row in zip(words, rows, strict=True))]
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
            f"the results cannot be written to {path} ({error}); make room there, or choose "
            f"another place"
        ) from error


@dataclass
class Export:
    """Write the best weights of a run for use without this kit."""

    directory: tyro.conf.Positional[Path]
    """Folder of the run."""
    output: Path | None = None
    """File: .safetensors, or any other as torch.save does. By default weights.safetensors in the
    run's folder."""
    step: int = 0
    """Of batch norm with values for each inner step, which to take."""

    def __call__(self) -> None:
        """Write them, and say which layers they fit."""
        directory = user_path(self.directory)
        run = Run.load(directory)
        output = self.output or directory / "weights.safetensors"
        say(f"written to {export(run, output, self.step)}, for")
        say(str(plain_network(run.learner, self.step)))
        for name, origin in mapping(run.learner).items():
            say(f"  {name:<16} is {origin.replace('[step]', f', step {self.step}')}")


@dataclass
class Sweep:
    """Run the trainings of a table side by side. The same command again runs what is missing."""

    file: tyro.conf.Positional[Path]
    """File of the sweep, such as sweeps/laptop.toml: its recipes, tasks, seeds and sizes."""
    directory: Path | None = None
    """Folder of the runs; by default runs/NAME, where NAME is that of the file."""
    workers: int | None = None
    """How many runs at the same time; by default one for each GPU, or for each core if there is no
    GPU."""
    device: str | None = None
    """cpu or cuda; by default the GPUs if there are any."""
    cluster: str | None = None
    """Address of a Ray cluster to run on, or auto. Its machines must share the directory."""
    cores: float = 1.0
    """Cores for each run on a cluster. Each run also gets a GPU if the cluster has any."""
    only: str | None = None
    """Only the runs whose name contains this: a recipe, a number of ways, a seed (mamlpp sweep FILE
    --status shows the names)."""
    status: bool = False
    """Only show how far each run is."""
    table: Literal["text", "markdown", "json", "figure", "record"] | None = None
    """Only show the tables of the runs that are done, beside the paper's; or record them with their
    histories, for results/, beside those that the file of --output holds already."""
    output: Path | None = None
    """File for the table. A figure needs one; other tables are printed if there is none."""

    def __call__(self) -> None:
        """Run the sweep or show it; exit code 1 where a run failed."""
        cells = sweep.read_sweep(user_path(self.file))
        if self.only is not None:
            names = [cell.name for cell in cells]
            cells = [cell for cell in cells if self.only in cell.name]
            if not cells:
                raise InputError(f"no run has {self.only!r} in its name, such as {names[0]}")
        directory = user_path(self._directory())
        if self.status:
            say(_status(cells, directory))
        elif self.table is not None:
            self._tell(cells, directory, self.table)
        else:
            self._run(cells, directory)

    def _directory(self) -> Path:
        """The folder of the runs as a person would type it."""
        return self.directory or Path("runs", self.file.stem)

    def _run(self, cells: list[sweep.Cell], directory: Path) -> None:
        from mamlpp.run import sweep

        # Here, so that missing data is reported once, and data is downloaded and decoded once.
        for name, split in itertools.product(sorted({cell.dataset for cell in cells}), SPLITS):
            load_images(name, split)
        engine = (
            sweep.Processes(directory, self.workers, self.device)
            if self.cluster is None
            else sweep.Cluster(directory, self.cluster, self.cores)
        )
        with engine:
            failed = sweep.run_sweep(cells, directory, engine.submit)
        from mamlpp.show import tables  # now: what draws takes a second to be imported

        for table in tables.sweep_tables(cells, directory):
            say("\n" + tables.as_text(table))
        if failed:
            reasons = "".join(f"\n  {name}: {reason}" for name, reason in failed.items())
            runs = "run" if len(cells) == 1 else "runs"
            raise InputError(f"{len(failed)} of {len(cells)} {runs} failed:{reasons}")

    def _tell(self, cells: list[sweep.Cell], directory: Path, form: str) -> None:
        from mamlpp.show import tables

        found = tables.sweep_tables(cells, directory)
        if not any(row["runs"] for table in found for row in table["rows"].values()):
            raise InputError(f"no run of {self.file} is done in {directory}; run the sweep first")
        if form == "figure":
            self._draw(found)
            return
        if form == "record":
            command = shlex.join(["mamlpp", "sweep", self.file.as_posix()])
            earlier = None if self.output is None else user_path(self.output)
            text = record(cells, directory, command, earlier).rstrip("\n")
        elif form == "json":
            text = json.dumps(self._about() | {"tables": found}, indent=1, allow_nan=False)
        else:
            show = tables.as_text if form == "text" else tables.as_markdown
            kinds = ["single", "ensemble"]
            text = "\n\n".join(show(table, kind) for table in found for kind in kinds)
        if self.output is None:
            say(text)
        else:
            output = user_path(self.output)
            _write(output, text + "\n")
            say(f"written to {output}")

    def _draw(self, found: list[dict[str, Any]]) -> None:
        from mamlpp.show import plots, tables

        if self.output is None or self.output.suffix.lower() not in (".png", ".svg", ".pdf"):
            raise InputError("a figure needs --output with a .png, .svg or .pdf file")
        plots.use_style()
        figure, output = tables.draw_tables(found), user_path(self.output)
        try:
            with replacing(output) as part:
                figure.savefig(part, facecolor="white")
        except OSError as error:
            raise InputError(
                f"no figure can be written to {output} ({error}); choose another file"
            ) from error
        say(f"drawn to {output}")

    def _about(self) -> dict[str, Any]:
        """Where the numbers come from; paths as they were typed, so that they fit elsewhere too."""
        paths = self.file.as_posix(), self._directory().as_posix()
        words = ["mamlpp", "sweep", paths[0], "--directory", paths[1]]
        return {
            "command": shlex.join(words),
            "date": datetime.now(UTC).date().isoformat(),
            "torch": torch.__version__,
            **code_version(),
        }


@dataclass
class Cache:
    """List the decoded images and the downloads that are kept on disk, or remove them."""

    clear: bool = False
    """Remove all of them. They are decoded or downloaded again when they are needed."""

    def __call__(self) -> None:
        """Print one line for each file, and the total; or remove them."""
        if self.clear:
            freed = cache.clear()
            say(f"removed {freed / 1e6:,.1f} MB from {cache_folder()}")
        found = cache.entries()
        if found or not self.clear:
            say(_cache_table(found))


def _cache_table(found: list[cache.Entry]) -> str:
    """A line for each file in the cache, the most recently used first, and the total."""
    rows = [("dataset", "split", "MB", "last use", "file")]
    for entry in found:
        used = datetime.fromtimestamp(entry.used).isoformat(" ", "minutes")
        size = f"{entry.size / 1e6:,.1f}"
        rows.append((entry.dataset, entry.split or "download", size, used, entry.path.name))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        f"{dataset:<{widths[0]}}  {split:<{widths[1]}}  {size:>{widths[2]}}  "
        f"{used:<{widths[3]}}  {file}"
        for dataset, split, size, used, file in rows
    ]
    total = sum(entry.size for entry in found) / 1e6
    lines.append(
        f"{counted(len(found), 'file')}, {total:,.1f} MB in {cache_folder()}; decoded "
        f"images are kept up to {cache.limit_gb():g} GB ({cache.LIMIT})"
    )
    return "\n".join(lines if found else lines[1:])


@dataclass
class Doctor:
    """What is installed, what this machine has, and what to do about each thing that is wrong."""

    def __call__(self) -> None:
        """Print the page; exit code 1 where something is wrong."""
        from mamlpp import doctor

        sys.exit(doctor.main())


def _status(cells: list[sweep.Cell], directory: Path) -> str:
    """A line for each cell, and how many are in each state."""
    lines, words = [], []
    for cell in cells:
        found = sweep.state(cell, directory)
        words.append(found.word)
        lines.append(
            f"{cell.name:<44} {found.word:<8} {found.iteration:>6} of {cell.steps} {found.reason}"
        )
    counts = ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))
    return "\n".join([*map(str.rstrip, lines), f"{counted(len(cells), 'run')}: {counts}"])


def main(arguments: list[str] | None = None) -> None:
    """Run one command. A user's mistake is explained in one sentence, with exit code 1.

    Ctrl-C, SIGTERM and SIGHUP end it with exit code 130. A training first finishes its meta-step,
    and is saved.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        prepare()
        _parse(arguments)()
        sys.stdout.flush()
        if exit_code():
            sys.exit(exit_code())
    except InputError as error:
        sys.exit(f"mamlpp: {error}")
    except BrokenPipeError:  # `| head` has read enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
    except KeyboardInterrupt as stop:
        print(f"mamlpp: {str(stop) or 'stopped'}", file=sys.stderr)
        sys.exit(STOPPED)


def _parse(arguments: list[str]) -> Data | Train | Evaluate | Export | Sweep | Cache | Doctor:
    options = _options(arguments)
    train = _train_defaults(arguments)
    start = train.settings
    command = tyro.cli(
        Annotated[Data, tyro.conf.subcommand("data")]
        | Annotated[Train, tyro.conf.subcommand("train", default=train)]
        | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
        | Annotated[Export, tyro.conf.subcommand("export")]
        | Annotated[Sweep, tyro.conf.subcommand("sweep")]
        | Annotated[Cache, tyro.conf.subcommand("cache")]
        | Annotated[Doctor, tyro.conf.subcommand("doctor")],
        prog="mamlpp",
        description="Meta-learning on a laptop: MAML, step by step to MAML++.",
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    if isinstance(command, Train):
        given = {k: v for k, v in command.settings.as_dict().items() if k in options}
        command.settings = start.with_(**given)  # So that milestones follow the length.
    return command


def _train_defaults(arguments: list[str]) -> Train:
    """What `train` does without further options: of the run in its folder, or of its recipe.

    These two set the defaults of the other options, so they are read before those are parsed.
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in ("--recipe", "--directory"):
        early.add_argument(option, nargs="?")
    given = early.parse_known_args(arguments)[0]
    name = given.recipe or LAPTOP
    if name not in RECIPES:
        raise InputError(f"there is no recipe {name!r}; choose one of {', '.join(RECIPES)}")
    train = Train(Path(given.directory or f"runs/{name}"), name, settings=RECIPES[name])
    begun = read_begun(user_path(train.directory))
    if arguments[:1] != ["train"] or begun is None:
        return train
    recipe, data = begun
    if given.recipe is None:
        train.recipe, train.settings = "the recipe of this run", recipe
    train.dataset, train.sampling_seed = data.dataset, data.training_seed or 0
    for option in ("ways", "shots", "queries"):
        setattr(train, option, getattr(data, option) or getattr(train, option))
    return train


def _named(dataset: str) -> str:
    return default_dataset() if dataset == "auto" else dataset


def _options(arguments: list[str]) -> set[str]:
    """The options that are given, by the names of their fields; `InputError` for one given twice.

    The parser would take the last of them, and say nothing.
    """
    options: set[str] = set()
    for word in arguments:
        option = word.partition("=")[0]
        if not option.startswith("--"):
            continue  # It is a value.
        name = option.removeprefix("--").replace("-", "_")
        if name in options:
            raise InputError(f"{option} is given more than once; give it once")
        options.add(name)
    return options


def _command(*words: str) -> str:
    """`mamlpp` and the words, as one types them here; the file system's odd names in quotes."""
    here = shutil.which("mamlpp") is not None or not Path(sys.argv[0]).name.startswith("mamlpp")
    line = ["mamlpp" if here else sys.argv[0], *words]
    return subprocess.list2cmdline(line) if os.name == "nt" else shlex.join(line)


def _device(name: str | None) -> torch.device:
    """The device with that name; raises `InputError` where this machine has none."""
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
        ax.set_title(f"{images.dataset}, {images.split}: one class in each row")
    try:
        with replacing(path) as part:
            figure.savefig(part)
    except OSError as error:
        raise InputError(
            f"no picture can be written to {path} ({error}); choose another file"
        ) from error


if __name__ == "__main__":
    main()
