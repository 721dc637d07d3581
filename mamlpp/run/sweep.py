"""A sweep trains and evaluates several recipes, each with several seeds: one run per cell.

`read_sweep` reads the cells from a TOML file (see `sweeps/`). `run_cell` trains and evaluates one
cell in this process. `run_sweep` runs all unfinished cells, on this machine or on a cluster.
"""

import itertools
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import tomllib
import warnings
from collections import Counter
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
from mamlpp.engine import definition_result, keep_priority, same
from mamlpp.errors import InputError, InputWarning
from mamlpp.files import code_version, read_text, replacing
from mamlpp.input_checks import whole_number
from mamlpp.learner import MetaLearner
from mamlpp.naming import counted
from mamlpp.recipe import Recipe
from mamlpp.recipes import RECIPES
from mamlpp.run.checkpoints import KEPT_BEST
from mamlpp.run.evaluation import Evaluation, evaluate_readings
from mamlpp.run.run import Run, read_about
from mamlpp.run.trainer import Trainer, default_device
from mamlpp.terminal import printable

ATTEMPTS = 3  # to run a cell whose process is killed
ENDED = (0, 1)  # exit codes of a worker that ended by itself; one that is killed has another
STOP = "stop\n"  # what a worker is told where Ctrl-C would be pressed
# A process group of its own, on Windows; elsewhere a session of its own does that.
NEW_GROUP: int = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
Result = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One training of a sweep and its evaluation, as plain data that any machine can run."""

    recipe: str
    """A name in `RECIPES`, or of the sweep's own."""
    settings: Recipe
    """That recipe with the sweep's changes and this cell's seed."""
    dataset: str
    ways: int
    shots: int
    queries: int
    tasks: int
    """Number of test tasks."""
    ensemble: int
    """Number of checkpoints in the ensemble; the best checkpoint is evaluated alone as well."""
    point: str = ""
    """Where in the sweep's grid: the fields and their values, such as `outer_rate=0.01`."""

    @property
    def seed(self) -> int:
        """Seed of the initial weights and of the tasks."""
        return self.settings.seed

    @property
    def group(self) -> str:
        """Kind of tasks, such as `omniglot-20way-1shot`, and point: they share a table."""
        dataset = re.sub(r"\W+", "_", Path(self.dataset).name)  # which may be a path
        kind = f"{dataset}-{self.ways}way-{self.shots}shot"
        return f"{kind}-{self.point}" if self.point else kind

    @property
    def name(self) -> str:
        """Unique name in the sweep, and folder of the run inside the sweep's folder."""
        return f"{self.group}/{self.recipe}-{self.seed}"

    @property
    def steps(self) -> int:
        """Number of meta-steps in the whole training."""
        return self.settings.epochs * self.settings.iterations_per_epoch

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Cell":
        """The inverse of `dataclasses.asdict`."""
        return cls(**{**plain, "settings": Recipe(**plain["settings"])})


# The file ------------------------------------------------------------------------------------


def read_sweep(path: Path) -> list[Cell]:
    """Read the cells of a sweep file: seeds × tasks × recipes; each seed completes all tables.

    The file sets `recipes`, `seeds`, `test_tasks` and `ensemble`. Each `[[tasks]]` sets `dataset`,
    `ways`, `shots` and `queries`, and may set recipe fields. `[profile]` sets recipe fields of all
    cells, `[changes.NAME]` those of recipe NAME, which may be a name of your own, with the `recipe`
    that it changes. `[grid]` lists two or more values of recipe fields; each combination of them
    is trained. Where they set the same field, `[grid]` wins over `[changes]`,
    `[changes]` over `[[tasks]]`, and `[[tasks]]` over `[profile]`. Raises `InputError` if the file
    is invalid.
    """
    if not path.exists():
        raise InputError(f"there is no sweep file {path}; the sweeps of this kit are in sweeps/")
    text = read_text(path)
    try:
        return _checked(list(_cells(tomllib.loads(text))))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"the sweep {path} is not valid TOML: {error}") from error
    except (InputError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"the sweep {path} cannot be run: {error}") from error


def _checked(cells: list[Cell]) -> list[Cell]:
    """The cells; `InputError` where two would have the same folder."""
    for name, count in Counter(cell.name for cell in cells).items():
        if count > 1:
            raise InputError(
                f"{count} of its runs would be {name}: give its [[tasks]] other ways, shots or "
                f"names of datasets, or put them into sweeps of their own"
            )
    asked, most = cells[0].ensemble, min(KEPT_BEST, *(cell.settings.epochs for cell in cells))
    if asked > most:
        warnings.warn(
            f"an ensemble of {asked} is asked for, but a run keeps {counted(most, 'checkpoint')} "
            f"here: one for each epoch, at most {KEPT_BEST}",
            InputWarning,
            stacklevel=3,
        )
    return cells


_NEEDED = {"recipes": list, "seeds": list, "test_tasks": int, "ensemble": int, "tasks": list}
_TASK = ("dataset", "ways", "shots", "queries")


def _cells(plain: dict[str, Any]) -> Iterator[Cell]:
    _check(plain)
    changes, grid = plain.get("changes", {}), plain.get("grid", {})
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    for seed, tasks, point, name in itertools.product(
        plain["seeds"], plain["tasks"], points, plain["recipes"]
    ):
        own = {key: value for key, value in tasks.items() if key not in _TASK}
        changed = {k: v for k, v in changes.get(name, {}).items() if k != "recipe"}
        fields = plain.get("profile", {}) | own | changed | point
        setting = {key: tasks[key] for key in _TASK}
        settings = RECIPES[_base(plain, name)].with_(**fields, seed=seed)
        yield Cell(
            **{"recipe": name, "settings": settings, **setting},
            **{"tasks": plain["test_tasks"], "ensemble": plain["ensemble"]},
            point=",".join(f"{field}={value}" for field, value in point.items()),
        )


def _base(plain: dict[str, Any], name: Any) -> Any:
    """The recipe that a name stands for: itself, or the `recipe` of its changes."""
    changes = plain.get("changes", {}).get(name, {})
    if not isinstance(changes, dict):
        raise InputError(f"[changes.{name}] must be a table, not {changes!r}")
    return changes.get("recipe", name)


def _check(plain: dict[str, Any]) -> None:
    unknown = set(plain) - {*_NEEDED, "profile", "changes", "grid"}
    if unknown:
        raise InputError(f"it has unknown keys: {', '.join(sorted(unknown))}; remove them")
    for key, kind in _NEEDED.items():
        if not plain.get(key) or not isinstance(plain[key], kind):
            raise InputError(f"{key} must be a {'list' if kind is list else 'whole number'}")
    whole_number("test_tasks", plain["test_tasks"], least=2)
    whole_number("ensemble", plain["ensemble"])
    for key in ("profile", "changes", "grid"):
        if not isinstance(plain.get(key, {}), dict):
            raise InputError(f"[{key}] must be a table, not {plain[key]!r}")
        if "seed" in plain.get(key, {}):
            raise InputError(f"[{key}] has a seed; give it in the list of seeds")
    for name in plain["recipes"]:
        if not isinstance(name, str) or not name or any(c in name for c in "/\\"):
            raise InputError(
                f"a recipe's name, which becomes a folder, must be a word without slashes, not "
                f"{name!r}"
            )
        if _base(plain, name) not in RECIPES:
            raise InputError(
                f"there is no recipe {name!r}; choose from {', '.join(RECIPES)}, or make it of one "
                f'of them: [changes."{name}"] with recipe = "maml"'
            )
    for key, values in plain.get("grid", {}).items():
        if not isinstance(values, list) or len(set(map(str, values))) < max(2, len(values)):
            raise InputError(
                f"[grid] needs a list of two or more different values of {key}, not {values!r}; "
                f"one value goes to [profile]"
            )
    for tasks in plain["tasks"]:
        if not isinstance(tasks, dict):
            raise InputError(f"[[tasks]] must be tables, not {tasks!r}")
        for key in _TASK:
            if key not in tasks:
                raise InputError(f"one of its [[tasks]] has no {key}; add it")
        if not isinstance(tasks["dataset"], str):
            raise InputError(f"dataset must be a name or a path, not {tasks['dataset']!r}")
        for key in ("ways", "shots", "queries"):
            whole_number(key, tasks[key])
    for seed in plain["seeds"]:
        whole_number("each of seeds", seed, least=0)
    for name in set(plain.get("changes", {})) - set(plain["recipes"]):
        raise InputError(f"[changes] has {name!r}, which is not in its list of recipes")
    for key in ("recipes", "seeds"):
        if len(set(plain[key])) < len(plain[key]):
            raise InputError(f"{key} has duplicates: {plain[key]}; list each value once")


# One cell ------------------------------------------------------------------------------------


def run_cell(cell: Cell, directory: Path, device: str | None = None) -> Result:
    """Train and evaluate a cell. A finished cell is only read; an interrupted training resumes.

    The folder `directory / cell.name` holds the run and, at the end, `result.json`. If another
    process is running the same cell, wait for it and return its result.
    """
    folder = directory / cell.name
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".cell.lock"):
        result = read_result(cell, directory)
        if result is None:
            # One thread: cells run in parallel, and the thread count changes results by rounding.
            torch.set_num_threads(1)
            (folder / "error.txt").unlink(missing_ok=True)
            result = _measure(cell, folder, device or default_device())
            with replacing(folder / "result.json") as part:
                part.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", "utf-8")
    return result


def _measure(cell: Cell, folder: Path, device: str) -> Result:
    train, validation, test = (
        load_images(cell.dataset, split).to(device) for split in ("train", "validation", "test")
    )
    rotate = cell.dataset in ("glyphs", "omniglot")  # As `mamlpp train` does.
    kind = (cell.ways, cell.shots, cell.queries)
    tasks, held_out = (
        TaskSampler(images, *kind, seed=cell.seed, rotate=rotate and images is train)
        for images in (train, validation)
    )
    _check_length(cell, folder)
    run = Trainer(cell.settings, tasks, held_out, folder, workers=1).fit()
    steps = run.history.column("seconds")
    return {
        "cell": asdict(cell),
        "results": _results(run, cell, test),
        "ensemble": min(cell.ensemble, len(run.kept)),
        "seconds": sum(steps),
        "memory_mb": max(run.history.column("memory_mb")),
        "nonfinite": len(run.history.column("nonfinite")),
        "device": torch.cuda.get_device_name() if device != "cpu" else "one core",
        "torch": torch.__version__,
        **code_version(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def _check_length(cell: Cell, folder: Path) -> None:
    """Raise `InputError` where the run there has another length: a sweep makes none longer."""
    there = read_about(folder)[0].epochs if (folder / "run.json").exists() else None
    if there not in (None, cell.settings.epochs):
        raise InputError(
            f"{folder} holds another run: epochs is {there} there and {cell.settings.epochs} here; "
            f"choose another folder"
        )


def _results(run: Run, cell: Cell, test: Any) -> dict[str, dict[str, Any]]:
    """Summaries by reading, then by "single" or "ensemble"."""
    ensemble = min(cell.ensemble, len(run.kept))
    if ensemble < cell.ensemble:
        warnings.warn(
            f"{cell.name} keeps {ensemble} checkpoints, so its ensemble is of {ensemble}, not "
            f"{cell.ensemble}",
            InputWarning,
            stacklevel=2,
        )
    readings = evaluate_readings(run, test, cell.tasks, ensemble=ensemble)
    return {
        reading: {kind: _summary(one) for kind, one in pair.items()}
        for reading, pair in readings.items()
    }


def _summary(evaluation: Evaluation) -> dict[str, Any]:
    about = evaluation.as_dict()
    kept = ("accuracy", "interval", "loss", "accuracy_by_step", "calibration_error")
    return {name: about[name] for name in kept}


def read_result(cell: Cell, directory: Path) -> Result | None:
    """The result that `run_cell` wrote for exactly this cell; None if there is none."""
    try:
        path = directory / cell.name / "result.json"
        result = json.loads(path.read_text(encoding="utf-8"))
        result["results"] = _by_reading(result["results"])
        return result if Cell.from_dict(result["cell"]) == cell else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _by_reading(results: dict[str, Any]) -> dict[str, Any]:
    """Results under the names of the readings. Those of earlier versions had other names."""
    if "inductive" not in results:
        return results
    by_support = results.get("inductive, support's statistics")
    found = {"support": by_support or results["inductive"], "queries": results["transductive"]}
    return found | ({"running": results["inductive"]} if by_support else {})


@dataclass(frozen=True)
class State:
    """Progress of a cell. `word` is "done", "running", "failed", "stopped" or "missing"."""

    word: str
    iteration: int = 0  # meta-steps done
    reason: str = ""  # why it failed


def state(cell: Cell, directory: Path) -> State:
    """Progress of a cell, read from its folder, whichever machine writes there."""
    folder = directory / cell.name
    if read_result(cell, directory) is not None:
        return State("done", cell.steps)
    iteration = last_iteration(folder / "history.csv")
    if (folder / ".cell.lock").exists() and _locked(folder / ".cell.lock"):
        return State("running", iteration)
    if (folder / "error.txt").exists():
        reason = (folder / "error.txt").read_text(encoding="utf-8", errors="replace").strip()
        return State("failed", iteration, reason)
    return State("stopped" if iteration else "missing", iteration)


def _locked(path: Path) -> bool:
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


def last_iteration(history: Path) -> int:
    """The iteration on the last complete line of `history.csv`; 0 if there is none."""
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
    """Run all cells that have no result; return the reason of each failure, by cell name.

    `submit` starts a cell. Progress is shown per run and in total; a failure stops no other run.
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
                    failed[cell.name] = _record_failure(error, directory / cell.name)
                progress.finish(cell, failed.get(cell.name) or _headline(future.result()))
            progress.refresh()
    return failed


def _headline(result: Result) -> str:
    single = result["results"]["support"]["single"]
    return f"{100 * single['accuracy']:.2f} ± {100 * single['interval']:.2f} %"


def _record_failure(error: BaseException, folder: Path) -> str:
    """Write the reason, one line, to the cell's `error.txt`; return it for display."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "error.txt").write_text(reason + "\n", encoding="utf-8")
    return f"failed: {reason}"


class _Progress:
    """Progress bars for each run and the whole sweep; without a terminal, a line per ended run."""

    def __init__(self, cells: Sequence[Cell], directory: Path) -> None:
        self.cells, self.directory = list(cells), directory
        hidden = not sys.stderr.isatty()
        self.bars: dict[str, tqdm] = {}
        self.seen = {cell.name: self._iteration(cell) for cell in cells}
        total = sum(cell.steps for cell in cells) - sum(self.seen.values())
        self.total = tqdm(None, "all runs", total, unit="step", disable=hidden, smoothing=0)

    def _iteration(self, cell: Cell) -> int:
        return last_iteration(self.directory / cell.name / "history.csv")

    def refresh(self) -> None:
        """Read the progress of each run from its folder."""
        for cell in self.cells:
            now = self._iteration(cell)
            if now > self.seen[cell.name]:
                bar = self._bar(cell)
                bar.update(now - bar.n)
                self.total.update(now - self.seen[cell.name])
                self.seen[cell.name] = now

    def _bar(self, cell: Cell) -> tqdm:
        if cell.name not in self.bars:
            self.bars[cell.name] = tqdm(
                None, cell.name, cell.steps, initial=self.seen[cell.name], unit="step",
                disable=self.total.disable, leave=False,
            )  # fmt: skip
        return self.bars[cell.name]

    def finish(self, cell: Cell, outcome: str) -> None:
        """Print the outcome of a run above the bars."""
        self.refresh()
        self.cells.remove(cell)
        if cell.name in self.bars:
            self.bars.pop(cell.name).close()
        self.total.write(printable(f"{cell.name}: {outcome}"))

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        for bar in (*self.bars.values(), self.total):
            bar.close()


# Where cells run ----------------------------------------------------------------------------


class Processes:
    """Runs cells on this machine in worker processes: one per GPU, or one per core without a GPU.

    A worker that is killed is started again and resumes from its checkpoint. If this process is
    killed, its workers stop too.
    """

    def __init__(self, directory: Path, workers: int | None = None, device: str | None = None):
        self.directory, self.device = directory, device or default_device()
        gpus = torch.cuda.device_count() if self.device == "cuda" else 0
        count = workers or gpus or cpu_count()
        self.slots: SimpleQueue[int] = SimpleQueue()
        for slot in range(count):
            self.slots.put(slot % gpus if gpus else slot)
        self.pool = ThreadPoolExecutor(count)
        self.running: set[subprocess.Popen[str]] = set()
        self.stopping = False

    def submit(self, cell: Cell) -> "Future[Result]":
        """Run a cell as soon as a worker is free."""
        # Not in the pool's threads: it seeds PyTorch's random generator, which all threads share.
        return self.pool.submit(self._run, cell, _definition(cell))

    def _run(self, cell: Cell, definition: list[Any]) -> Result:
        slot = self.slots.get()
        try:
            for _ in range(ATTEMPTS):
                code, message = self._run_worker(cell, definition, slot)
                if code in ENDED or self.stopping:
                    break
        finally:
            self.slots.put(slot)
        result = read_result(cell, self.directory)
        if result is None:
            killed = f"its process was killed {ATTEMPTS} times, the last time with exit code {code}"
            raise RuntimeError(message or f"exit code {code}" if code in ENDED else killed)
        return result

    def _run_worker(self, cell: Cell, definition: list[Any], slot: int) -> tuple[int, str]:
        """Run a cell in a worker process; its exit code and its last line on standard error."""
        variables = {"CUDA_VISIBLE_DEVICES": str(slot)} if self.device == "cuda" else {}
        # The same search path as here: a notebook may have changed `sys.path`.
        variables |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "mamlpp.run.sweep"],
            env=os.environ | variables, text=True, stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            start_new_session=True, creationflags=NEW_GROUP,  # Ctrl-C reaches only this process.
        )  # fmt: skip
        job = {"cell": asdict(cell), "directory": str(self.directory), "device": self.device}
        job["definition"] = definition
        with suppress(BrokenPipeError):
            assert process.stdin is not None
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()  # Left open: see `_listen`.
        self.running.add(process)
        if self.stopping:  # Since before it was among those that are told.
            _stop(process)
        assert process.stderr is not None
        lines = process.stderr.read().strip().splitlines()
        code = process.wait()
        self.running.discard(process)
        return code, lines[-1] if lines else ""

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.stopping = kind is not None
        self.pool.shutdown(wait=False, cancel_futures=True)
        for process in list(self.running):  # Empty except after Ctrl-C.
            _stop(process)
        self.pool.shutdown()


def _stop(process: "subprocess.Popen[str]") -> None:
    """Let a worker end its meta-step and save it; in words, since Windows has no such signal."""
    assert process.stdin is not None
    with suppress(OSError):  # It has just ended.
        process.stdin.write(STOP)
        process.stdin.flush()


class Cluster:
    """Runs cells on a Ray cluster (`mamlpp[cluster]`) whose machines share this folder.

    Each cell gets one GPU, or `cores` CPU cores if the cluster has no GPU. If a worker dies, Ray
    starts its cell again, which resumes from its checkpoint.
    """

    def __init__(self, directory: Path, address: str, cores: float = 1, gpus: float | None = None):
        try:
            import ray
        except ImportError as error:
            raise InputError(
                "a cluster needs Ray, which is not installed; run: pip install 'mamlpp[cluster]'"
            ) from error
        try:
            _check_reachable(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(f"no Ray cluster answers at {address} ({error})") from error
        if gpus is None:
            gpus = 1 if ray.cluster_resources().get("GPU") else 0
        self.ray, self.directory = ray, directory.resolve()
        remote = ray.remote(run_cell)
        self.task = remote.options(num_cpus=cores, num_gpus=gpus, max_retries=ATTEMPTS)

    def submit(self, cell: Cell) -> "Future[Result]":
        """Run a cell as soon as a worker of the cluster is free."""
        return self.task.remote(cell, self.directory).future()

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_: object) -> None:
        self.ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raise `OSError` at once if nothing listens there; Ray itself would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


def _definition(cell: Cell) -> list[Any]:
    """What the definition computes in this process, to compare with another process."""
    learner = MetaLearner(cell.settings.with_(filters=1), (1, 28, 28), cell.ways)
    return [numbers.tolist() for numbers in definition_result(learner)]


def _listen() -> None:
    """`STOP` on standard input acts like Ctrl-C; when the input closes, the parent has ended."""
    while sys.stdin.readline() == STOP:
        signal.raise_signal(signal.SIGINT)
    os._exit(1)


def _worker_main() -> None:
    """Run the job, one line of JSON, that comes on standard input; then `_listen` there."""
    keep_priority()
    # A script's background jobs are started with this signal ignored, and hand that on.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_listen, daemon=True).start()
    cell = Cell.from_dict(job["cell"])
    here, there = (list(map(torch.tensor, x)) for x in (_definition(cell), job["definition"]))
    if not same(here, there):
        sys.exit(
            "the worker process computes other numbers than the process that started it, where a "
            "function was probably replaced (in a notebook, say); call run_cell in that process"
        )
    try:
        run_cell(cell, Path(job["directory"]), job["device"])
    except (InputError, KeyboardInterrupt) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    _worker_main()
