"""A sweep: the recipes of a table, each with several seeds, each of these a run in its own folder.

A TOML file says which (`sweeps/`); `read_sweep` gives its cells. `run_cell` trains and evaluates
one, on whatever machine it is called; `run_sweep` all that are missing, on this one or on many.
"""

import itertools
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch
from filelock import FileLock, Timeout
from joblib import cpu_count
from tqdm.auto import tqdm

from mamlpp.data import load_images
from mamlpp.data.tasks import TaskSampler
from mamlpp.engine import definition_result, same
from mamlpp.errors import InputError
from mamlpp.files import replacing
from mamlpp.learner import MetaLearner
from mamlpp.recipe import RECIPES, Recipe
from mamlpp.run.evaluation import Evaluation, evaluate_protocols
from mamlpp.run.run import Run
from mamlpp.run.trainer import Trainer, default_device

ATTEMPTS = 3  # at a cell whose process was killed
Result = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One training of a sweep, and how it is evaluated: plain data, the same on every machine."""

    recipe: str
    """Name in `RECIPES`."""
    settings: Recipe
    """That recipe, as the sweep changes it; its seed is the cell's."""
    dataset: str
    ways: int
    shots: int
    queries: int
    tasks: int
    """Test tasks."""
    ensemble: int
    """Best checkpoints whose logits are averaged, beside the best one alone."""

    @property
    def seed(self) -> int:
        """Of the initial weights and the tasks."""
        return self.settings.seed

    @property
    def group(self) -> str:
        """What its tasks are, which table it belongs to."""
        return f"{self.dataset}-{self.ways}way-{self.shots}shot"

    @property
    def name(self) -> str:
        """Unique in a sweep; also its folder there."""
        return f"{self.group}/{self.recipe}-{self.seed}"

    @property
    def steps(self) -> int:
        """Meta-steps of the whole training."""
        return self.settings.epochs * self.settings.iterations_per_epoch

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Cell":
        """The inverse of `dataclasses.asdict`."""
        return cls(**{**plain, "settings": Recipe(**plain["settings"])})


# The file ------------------------------------------------------------------------------------


def read_sweep(path: Path) -> list[Cell]:
    """The cells of a sweep's file: recipes × tasks × seeds, the most valuable first.

    The file has `recipes`, `seeds`, `test_tasks`, `ensemble`; one `[[tasks]]` for each `dataset`,
    `ways`, `shots` and `queries`, with fields of the recipe that go with it; the `[profile]`, with
    fields of every recipe; and `[changes.NAME]`, with those of one. Of several that set the same
    field the changes win, then the tasks. Raises `InputError` where the file says something else.
    """
    try:
        plain = tomllib.loads(path.read_text(encoding="utf-8"))
        return list(_cells(plain))
    except FileNotFoundError as error:
        raise InputError(f"there is no sweep {path}; those of this kit are in sweeps/") from error
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"the sweep {path} cannot be read ({error})") from error
    except InputError as error:
        raise InputError(f"the sweep {path} cannot be run: {error}") from error


_NEEDED = {"recipes": list, "seeds": list, "test_tasks": int, "ensemble": int, "tasks": list}
_TASK = ("dataset", "ways", "shots", "queries")


def _cells(plain: dict[str, Any]) -> Iterator[Cell]:
    _check(plain)
    changes = plain.get("changes", {})
    for seed, tasks, name in itertools.product(plain["seeds"], plain["tasks"], plain["recipes"]):
        own = {key: value for key, value in tasks.items() if key not in _TASK}
        fields = plain.get("profile", {}) | own | changes.get(name, {}) | {"seed": seed}
        setting = {key: tasks[key] for key in _TASK}
        settings = RECIPES[name].with_(**fields)
        yield Cell(name, settings, **setting, tasks=plain["test_tasks"], ensemble=plain["ensemble"])


def _check(plain: dict[str, Any]) -> None:
    unknown = set(plain) - {*_NEEDED, "profile", "changes"}
    if unknown:
        raise InputError(f"it has no use for {', '.join(sorted(unknown))}")
    for key, kind in _NEEDED.items():
        if not plain.get(key) or not isinstance(plain[key], kind):
            raise InputError(f"{key} must be a {'list' if kind is list else 'whole number'}")
    for name in (*plain["recipes"], *plain.get("changes", {})):
        if name not in RECIPES:
            raise InputError(f"there is no recipe {name!r}; choose from {', '.join(RECIPES)}")
    for tasks in plain["tasks"]:
        missing = [key for key in _TASK if key not in tasks]
        if missing:
            raise InputError(f"one of its [[tasks]] has no {missing[0]}")
    for name in set(plain.get("changes", {})) - set(plain["recipes"]):
        raise InputError(f"[changes] has {name!r}, which is not among its recipes")
    for key in ("recipes", "seeds"):
        if len(set(plain[key])) < len(plain[key]):
            raise InputError(f"each of {key} counts once, but these are {plain[key]}")


# One cell ------------------------------------------------------------------------------------


def run_cell(cell: Cell, directory: Path, device: str | None = None) -> Result:
    """Train a cell, or go on with it, and evaluate it; what was done before is only read.

    Its folder `directory / cell.name` holds the run, and at the end `result.json`. Where another
    process is at work on the same cell this one waits, and takes its result.
    """
    folder = directory / cell.name
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".cell.lock"):
        result = read_result(cell, directory)
        if result is None:
            # A thread each: cells run side by side, and the number of threads changes the last bit.
            torch.set_num_threads(1)
            (folder / "error.txt").unlink(missing_ok=True)
            result = _measure(cell, folder, device or default_device())
            with replacing(folder / "result.json") as part:
                part.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    return result


def _measure(cell: Cell, folder: Path, device: str) -> Result:
    train, validation, test = (
        load_images(cell.dataset, split).to(device) for split in ("train", "validation", "test")
    )
    rotate = cell.dataset != "mini_imagenet"  # As `mamlpp train` does.
    kind = (cell.ways, cell.shots, cell.queries)
    tasks, held_out = (
        TaskSampler(images, *kind, seed=cell.seed, rotate=rotate and images is train)
        for images in (train, validation)
    )
    run = Trainer(cell.settings, tasks, held_out, folder, workers=1).fit()
    steps = run.history.column("seconds")
    return {
        "cell": asdict(cell),
        "results": _results(run, cell, test),
        "seconds": sum(steps),
        "memory_mb": max(run.history.column("memory_mb")),
        "nonfinite": len(run.history.column("nonfinite")),
        "device": torch.cuda.get_device_name() if device != "cpu" else "one core",
        "torch": torch.__version__,
        "commit": _commit(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def _commit() -> str | None:
    """Of the code that this is, where it is a git checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _results(run: Run, cell: Cell, test: Any) -> dict[str, dict[str, Any]]:
    """By protocol, then "single" or "ensemble"."""
    ensemble = min(cell.ensemble, len(run.kept))
    protocols = evaluate_protocols(run, test, cell.tasks, ensemble=ensemble)
    if run.recipe.norm_statistics != "batch":
        # Whose statistics the queries read is chosen at evaluation: the same weights, both ways.
        support = run.with_recipe(norm_statistics="batch")
        others = evaluate_protocols(support, test, cell.tasks, ensemble=ensemble)
        protocols["inductive, support's statistics"] = others["inductive"]
    return {
        protocol: {kind: _summary(one) for kind, one in protocols[protocol].items()}
        for protocol in sorted(protocols)
    }


def _summary(evaluation: Evaluation) -> dict[str, Any]:
    about = evaluation.as_dict()
    kept = ("accuracy", "interval", "loss", "accuracy_by_step", "calibration_error")
    return {name: about[name] for name in kept}


def read_result(cell: Cell, directory: Path) -> Result | None:
    """What `run_cell` wrote of exactly this cell; None if it is not done."""
    try:
        result = json.loads((directory / cell.name / "result.json").read_text())
        same = Cell.from_dict(result["cell"]) == cell
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return result if same else None


@dataclass(frozen=True)
class State:
    """How far a cell is: meta-steps done, and "done", "running", "failed", "stopped", "missing"."""

    word: str
    iteration: int = 0
    reason: str = ""


def state(cell: Cell, directory: Path) -> State:
    """How far a cell is, by what its folder holds; whichever machine wrote it."""
    folder = directory / cell.name
    if read_result(cell, directory) is not None:
        return State("done", cell.steps)
    iteration = last_iteration(folder / "history.csv")
    if (folder / ".cell.lock").exists() and _locked(folder / ".cell.lock"):
        return State("running", iteration)
    if (folder / "error.txt").exists():
        return State("failed", iteration, (folder / "error.txt").read_text().strip())
    return State("stopped" if iteration else "missing", iteration)


def _locked(path: Path) -> bool:
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


def last_iteration(history: Path) -> int:
    """The iteration of the last whole line of a history; 0 if there is none."""
    try:
        with history.open("rb") as file:
            file.seek(max(0, history.stat().st_size - 2000))
            lines = file.read().rpartition(b"\n")[0].splitlines()
        return int(lines[-1].split(b",")[0])
    except (OSError, ValueError, IndexError):
        return 0


# All cells -----------------------------------------------------------------------------------

Submit = Callable[[Cell], "Future[Result]"]


def run_sweep(cells: Sequence[Cell], directory: Path, submit: Submit) -> dict[str, str]:
    """Run what is missing, wherever `submit` runs it; why each cell that failed did, by name.

    Shows a line a run, and how long all of them will take. One that fails stops no other.
    """
    missing = [cell for cell in cells if read_result(cell, directory) is None]
    futures = {submit(cell): cell for cell in missing}
    failed: dict[str, str] = {}
    with _Progress(missing, directory) as progress:
        pending = set(futures)
        while pending:
            done, pending = wait(pending, timeout=1, return_when=FIRST_COMPLETED)
            for future in done:
                cell, error = futures[future], future.exception()
                if error is not None:
                    failed[cell.name] = _note(error, directory / cell.name)
                progress.finish(cell, failed.get(cell.name) or _headline(future.result()))
            progress.look()
    return failed


def _headline(result: Result) -> str:
    single = result["results"]["inductive"]["single"]
    return f"{100 * single['accuracy']:.2f} ± {100 * single['interval']:.2f} %"


def _note(error: BaseException, folder: Path) -> str:
    """The reason in one line, also kept in the cell's folder."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "error.txt").write_text(reason + "\n")
    return f"failed: {reason}"


class _Progress:
    """A bar a run and one for the whole where there is a terminal; else a line when a run ends."""

    def __init__(self, cells: Sequence[Cell], directory: Path) -> None:
        self.cells, self.directory = list(cells), directory
        hidden = not sys.stderr.isatty()
        self.bars: dict[str, tqdm] = {}
        self.seen = {cell.name: self._iteration(cell) for cell in cells}
        total = sum(cell.steps for cell in cells) - sum(self.seen.values())
        self.all = tqdm(None, "all runs", total, unit="step", disable=hidden, smoothing=0)

    def _iteration(self, cell: Cell) -> int:
        return last_iteration(self.directory / cell.name / "history.csv")

    def look(self) -> None:
        """Read how far each run is, from its folder."""
        for cell in self.cells:
            now = self._iteration(cell)
            if now > self.seen[cell.name]:
                bar = self._bar(cell)
                bar.update(now - bar.n)
                self.all.update(now - self.seen[cell.name])
                self.seen[cell.name] = now

    def _bar(self, cell: Cell) -> tqdm:
        if cell.name not in self.bars:
            self.bars[cell.name] = tqdm(
                None, cell.name, cell.steps, initial=self.seen[cell.name], unit="step",
                disable=self.all.disable, leave=False,
            )  # fmt: skip
        return self.bars[cell.name]

    def finish(self, cell: Cell, words: str) -> None:
        """Say what came out of a run, above the bars."""
        self.look()
        self.cells.remove(cell)
        if cell.name in self.bars:
            self.bars.pop(cell.name).close()
        self.all.write(f"{cell.name}: {words}")

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        for bar in (*self.bars.values(), self.all):
            bar.close()


# Engines -------------------------------------------------------------------------------------


class Processes:
    """Runs cells on this machine: a process for each GPU, or for each core if there is none.

    A process that was killed is started again, and goes on from its checkpoint; if this one is
    killed, they end too.
    """

    def __init__(self, directory: Path, workers: int | None = None, device: str | None = None):
        self.directory, self.device = directory, device or default_device()
        gpus = torch.cuda.device_count() if self.device == "cuda" else 0
        count = workers or gpus or cpu_count()
        self.slots: SimpleQueue[int] = SimpleQueue()
        for slot in range(count):
            self.slots.put(slot % gpus if gpus else slot)
        self.pool = ThreadPoolExecutor(count)
        self.alive: set[subprocess.Popen[str]] = set()
        self.ending = False

    def submit(self, cell: Cell) -> "Future[Result]":
        """Run a cell as soon as there is room."""
        return self.pool.submit(self._run, cell)

    def _run(self, cell: Cell) -> Result:
        slot = self.slots.get()
        try:
            for _ in range(ATTEMPTS):
                code, last = self._process(cell, slot)
                if code >= 0 or self.ending:
                    break
        finally:
            self.slots.put(slot)
        result = read_result(cell, self.directory)
        if result is None:
            killed = f"its process was killed {ATTEMPTS} times, last by signal {-code}"
            raise RuntimeError(killed if code < 0 else last or f"it ended with code {code}")
        return result

    def _process(self, cell: Cell, slot: int) -> tuple[int, str]:
        """Exit code and last words of a process that runs a cell."""
        variables = {"CUDA_VISIBLE_DEVICES": str(slot)} if self.device == "cuda" else {}
        # With this process's own search path, which may have been changed by hand.
        variables |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "mamlpp.run.sweep"],
            env=os.environ | variables, text=True, stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches it once: from here.
        )  # fmt: skip
        self.alive.add(process)
        order = {"cell": asdict(cell), "directory": str(self.directory), "device": self.device}
        order["definition"] = _definition(cell)
        with suppress(BrokenPipeError):
            assert process.stdin is not None
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()  # And left open: when it closes, this process is no more.
        assert process.stderr is not None
        words = process.stderr.read().strip().splitlines()
        code = process.wait()
        self.alive.discard(process)
        return code, words[-1] if words else ""

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.ending = kind is not None
        self.pool.shutdown(wait=False, cancel_futures=True)
        for process in list(self.alive):  # None, but after Ctrl-C.
            process.send_signal(signal.SIGINT)
        self.pool.shutdown()


class Cluster:
    """Runs cells on the workers of a Ray cluster that share this folder; `mamlpp[cluster]`.

    One cell a GPU, or on `cores` of a machine without. Ray starts a cell again whose worker died,
    and it goes on from its checkpoint.
    """

    def __init__(self, directory: Path, address: str, cores: float = 1, gpus: float | None = None):
        try:
            import ray
        except ImportError as error:
            raise InputError(
                "a cluster needs Ray, which is not installed here: pip install 'mamlpp[cluster]'"
            ) from error
        try:
            _knock(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(f"no Ray cluster answers at {address} ({error})") from error
        if gpus is None:
            gpus = 1 if ray.cluster_resources().get("GPU") else 0
        self.ray, self.directory = ray, directory.resolve()
        self.remote = ray.remote(run_cell).options(
            num_cpus=cores, num_gpus=gpus, max_retries=ATTEMPTS
        )

    def submit(self, cell: Cell) -> "Future[Result]":
        """Run a cell as soon as a worker has room."""
        return self.remote.remote(cell, self.directory).future()

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_: object) -> None:
        self.ray.shutdown()


def _knock(address: str) -> None:
    """Raises `OSError` at once where nobody listens; Ray itself would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


def _definition(cell: Cell) -> list[Any]:
    """What this process's definition computes, to compare it with another process's."""
    learner = MetaLearner(cell.settings.with_(filters=1), (1, 28, 28), cell.ways)
    return [numbers.tolist() for numbers in definition_result(learner)]


def _child() -> None:
    """Run the cell whose description comes on the standard input; end when that closes."""
    order = json.loads(sys.stdin.readline())

    def watch() -> None:
        sys.stdin.read()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    cell = Cell.from_dict(order["cell"])
    here, there = (list(map(torch.tensor, x)) for x in (_definition(cell), order["definition"]))
    if not same(here, there):
        sys.exit(
            "this process does not compute what the one that started it does, in which something "
            "was changed (a function replaced in a notebook, say); call run_cell there"
        )
    try:
        run_cell(cell, Path(order["directory"]), order["device"])
    except (InputError, KeyboardInterrupt) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    _child()
