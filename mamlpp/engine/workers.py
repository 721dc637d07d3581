"""The tasks of a meta-batch, divided among processes: on cores, on GPUs, on several machines.

Tasks are independent until their gradients are summed. `Workers` divides them and sums. The main
process, rank 0, is where the `Trainer` runs; the others keep nothing but a copy of its learner, so
nothing is lost with them. `start_workers` starts them on the cores of this machine, from a notebook
too; `torchrun_workers` joins those that `torchrun` started, one for each GPU (NCCL) or core (gloo).
The order of summation is fixed, so as many processes give the same bits every time.
"""

import json
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle
import torch
import torch.distributed as dist
from torch import Tensor, nn

from mamlpp.data.tasks import TaskBatch
from mamlpp.engine.agreement import definition_result, learner_parts, same, unchanged
from mamlpp.engine.threads import keep_priority
from mamlpp.errors import InputError
from mamlpp.gradients import in_a_row
from mamlpp.learner import MetaLearner
from mamlpp.maml import Report
from mamlpp.naming import counted
from mamlpp.network import BatchStatistics
from mamlpp.precision import full_precision
from mamlpp.task_result import TaskResult

if TYPE_CHECKING:
    from mamlpp.engine.engine import Engine

LONG = timedelta(days=365)  # A worker waits for its next message as long as the main process lives.
STARTING = 60.0  # seconds that a worker may take to import the kit
Message = dict[str, Any]  # what a meta-step is about, without its tensors


class WorkerLost(Exception):
    """Another process has ended."""


class Workers:
    """Processes that take the gradient of a meta-batch together; this one has the given rank."""

    def __init__(self, group: Any, rank: int, size: int, device: torch.device) -> None:
        self.group, self.rank, self.size, self.device = group, rank, size, device
        self.lost = False
        self._sent: list[Any] = []  # what the learner that the others have was made of
        self._agrees = False

    # The main process ------------------------------------------------------------------------

    def agree(self, learner: MetaLearner, batch: TaskBatch) -> bool:
        """Whether the others compute what this process computes with this learner.

        They get a copy of it. What was changed in this process alone, a function of the kit that a
        notebook replaced, say, does not reach them. Warns in one sentence if so. A network of the
        user's own is asked about the first task of the batch.
        """
        parts = [learner, learner.recipe, *learner_parts(learner)]
        if self.lost:
            return True  # `meta_gradient` says so.
        if unchanged(self._sent, parts):
            return self._agrees
        one = batch.split()[0] if learner._own_network else None
        self._sent, self._agrees = parts, self._send_learner(learner, one)
        if not self._agrees:
            warnings.warn(
                "the worker processes do not compute what this process does, since something was "
                "changed in it alone (a function replaced in a notebook, say), or changes whenever "
                "the network is called (spectral norm, say); it trains without them",
                UserWarning,
                stacklevel=4,
            )
        return self._agrees

    def _send_learner(self, learner: MetaLearner, one: TaskBatch | None) -> bool:
        if type(learner).meta_loss is not MetaLearner.meta_loss or "meta_loss" in vars(learner):
            return False  # Workers take `task_loss`, task by task.
        try:
            pickled = cloudpickle.dumps((learner, one, definition_result(learner, one)))
        except Exception:  # Whatever a learner of the user's own holds that cannot be sent.
            return False
        with self._losses_in_words():
            self._tell({"kind": "learner"})
            self._spread_bytes(pickled)
            return self._all_agree(True)

    def meta_gradient(
        self, engine: "Engine", learner: MetaLearner, batch: TaskBatch, epoch: float
    ) -> Report:
        """Every parameter's `.grad` becomes that of the mean loss over the tasks.

        Running statistics move towards those of the tasks, in their order. Raises `InputError`
        where there are fewer tasks than processes, or where a process has ended.
        """
        if len(batch) < self.size:
            raise InputError(
                f"{counted(self.size, 'process')} cannot share a meta-batch of "
                f"{counted(len(batch), 'task')}; choose at most {len(batch)}"
            )
        with self._losses_in_words():
            self._tell(_message(batch, epoch, bool(engine.recompute)))
            self._send_numbers(learner, batch)
            result = self._share(engine, learner, batch, epoch)
        learner.update_running(result.statistics)
        return Report(result.loss.mean(), result.accuracy.mean())

    def dismiss(self) -> None:
        """Let the workers end."""
        if self.rank == 0 and not self.lost:
            self.lost = True
            self._tell({"kind": "end"})
            _leave_torchrun()

    # A worker --------------------------------------------------------------------------------

    def serve(self) -> None:
        """A worker's whole life: its share of the tasks of every meta-step, until the end."""
        from mamlpp.engine.engine import Engine

        engine, learner = Engine(), None
        try:
            while (message := self._hear())["kind"] != "end":
                if message["kind"] == "learner":
                    learner = self._receive_learner()
                    continue
                assert learner is not None
                engine.recompute = message["recompute"]
                batch = TaskBatch.unchecked(*map(self._empty, message["shapes"], message["dtypes"]))
                self._send_numbers(learner, batch)
                self._share(engine, learner, batch, message["epoch"])
        except WorkerLost:
            return
        finally:
            _leave_torchrun()

    def _receive_learner(self) -> MetaLearner | None:
        pickled = self._spread_bytes(b"")
        try:
            learner, one, expected = pickle.loads(pickled)
            agrees = same(definition_result(learner, one), expected)
            learner.to(self.device)
        except Exception:  # A class that this process cannot import, say.
            learner, agrees = None, False
        self._all_agree(agrees)
        return learner

    # Both ------------------------------------------------------------------------------------

    def _send_numbers(self, learner: MetaLearner, batch: TaskBatch) -> None:
        """The weights and tasks of the main process, to everyone."""
        weights = torch.cat([in_a_row(parameter) for parameter in learner.parameters()]).detach()
        for numbers in (weights, *_tensors(batch)):
            self._spread(numbers.contiguous())
        if self.rank:
            with torch.no_grad():  # In place: a captured graph reads them where they are.
                for parameter, numbers in _by_parameter(learner, weights):
                    parameter.copy_(numbers)

    @full_precision()
    def _share(
        self, engine: "Engine", learner: MetaLearner, batch: TaskBatch, epoch: float
    ) -> TaskResult:
        """Take every `size`-th task; then sum the results of all processes, as one vector.

        It holds the gradient, and a row for each task that only one process fills in: loss,
        accuracy, batch-norm statistics. The rest is 0, so that the sum has everything.
        """
        if self.rank:
            torch.manual_seed(round(epoch * 1e6) * self.size + self.rank)  # for dropout, say
        learner.zero_grad()
        own = TaskBatch.unchecked(
            *(x[self.rank :: self.size].contiguous() for x in _tensors(batch))
        )
        result = engine.task_results(learner, own, epoch, len(batch))
        rows = _as_rows(result)
        table = rows.new_zeros(len(batch), rows.shape[1])
        table[self.rank :: self.size] = rows
        gradients = [in_a_row(_gradient(parameter)) for parameter in learner.parameters()]
        total = torch.cat([*gradients, table.flatten()])
        self._wait(self.group.allreduce, total)
        flat, table = total[: -table.numel()], total[-table.numel() :].view_as(table)
        for parameter, numbers in _by_parameter(learner, flat):
            parameter.grad = numbers
        return _from_rows(table, result)

    def _all_agree(self, agrees: bool) -> bool:
        votes = torch.tensor([float(agrees)], device=self.device)
        self._wait(self.group.allreduce, votes)
        return votes.item() == self.size

    def _tell(self, message: Message) -> None:
        self._spread_bytes(json.dumps(message).encode())

    def _hear(self) -> Message:
        return json.loads(self._spread_bytes(b""))

    def _spread_bytes(self, text: bytes) -> bytes:
        """The bytes of the main process, to everyone."""
        length = self._spread(torch.tensor([len(text)], device=self.device))
        content = torch.zeros(int(length), dtype=torch.uint8, device=self.device)
        if self.rank == 0:
            content.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
        return bytes(self._spread(content).cpu().numpy())

    def _empty(self, shape: list[int], dtype: str) -> Tensor:
        return torch.empty(shape, dtype=getattr(torch, dtype), device=self.device)

    def _spread(self, numbers: Tensor) -> Tensor:
        """The numbers of the main process, to everyone, in place."""
        return self._wait(self.group.broadcast, numbers, 0)

    def _wait(self, operation: Any, numbers: Tensor, *more: Any) -> Tensor:
        try:
            operation(numbers, *more).wait()
        except RuntimeError as error:
            raise WorkerLost from error
        return numbers

    @contextmanager
    def _losses_in_words(self) -> Iterator[None]:
        try:
            if self.lost:
                raise WorkerLost
            yield
        except WorkerLost as error:
            self.lost = True
            raise InputError(
                "a process that shares the tasks has ended, perhaps for lack of memory; start the "
                "training again, with fewer workers if so: it continues from its last checkpoint"
            ) from error


def _message(batch: TaskBatch, epoch: float, recompute: bool) -> Message:
    return {
        "kind": "meta-step",
        "epoch": epoch,
        "recompute": recompute,
        "shapes": [list(x.shape) for x in _tensors(batch)],
        "dtypes": [str(x.dtype).removeprefix("torch.") for x in _tensors(batch)],
    }


def _tensors(batch: TaskBatch) -> tuple[Tensor, ...]:
    return batch.support_x, batch.support_y, batch.query_x, batch.query_y


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _by_parameter(learner: MetaLearner, flat: Tensor) -> list[tuple[nn.Parameter, Tensor]]:
    """Each parameter, with its share of a vector of all, in its own precision."""
    parameters = list(learner.parameters())
    shares = flat.split([p.numel() * (2 if p.is_complex() else 1) for p in parameters])
    return [(p, _as(p, numbers)) for p, numbers in zip(parameters, shares, strict=True)]


def _as(parameter: Tensor, numbers: Tensor) -> Tensor:
    if parameter.is_complex():
        numbers = torch.view_as_complex(numbers.view(*parameter.shape, 2))
    return numbers.view(parameter.shape).to(parameter.dtype)


def _as_rows(result: TaskResult) -> Tensor:
    """A row for each task: loss, accuracy, then mean and variance of each layer and step."""
    statistics = [x for seen in result.statistics for x in (seen.mean, seen.variance)]
    return torch.cat([result.loss[:, None], result.accuracy[:, None], *statistics], 1)


def _from_rows(rows: Tensor, like: TaskResult) -> TaskResult:
    """The inverse; layers and steps are those of other tasks of the same meta-step."""
    widths = [x.shape[1] for seen in like.statistics for x in (seen.mean, seen.variance)]
    loss, accuracy, *moments = rows.split([1, 1, *widths], 1)
    pairs = zip(like.statistics, moments[::2], moments[1::2], strict=True)
    statistics = [BatchStatistics(seen.layer, seen.step, *both) for seen, *both in pairs]
    return TaskResult(loss[:, 0], accuracy[:, 0], statistics)


# Where the processes come from ---------------------------------------------------------------


def start_workers(size: int) -> Workers:
    """This process and `size - 1` new ones on this machine, a thread each; they end with it.

    Raises `InputError`, with the reason, where one of them cannot start.
    """
    folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    store = str(Path(folder.name, "store"))
    processes = [_start(Path(folder.name), store, rank, size) for rank in range(1, size)]
    try:
        _watch(processes, Path(folder.name), lambda: _all_ready(Path(folder.name), size))
        joining = _join_in_a_thread(store, size)
        _watch(processes, Path(folder.name), joining.done)
        workers = joining.result()
    except BaseException:
        _end(processes, folder)
        raise
    weakref.finalize(workers, _end, processes, folder)
    return workers


def _start(folder: Path, store: str, rank: int, size: int) -> "subprocess.Popen[bytes]":
    # With the search path of the main process, which may have been changed by hand.
    command = [sys.executable, "-P", "-c", _WORKER, json.dumps(sys.path)]
    with (folder / f"error-{rank}").open("wb") as error:
        return subprocess.Popen(
            [*command, store, str(rank), str(size)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stderr=error,
            # Ctrl-C is for the main process alone. The first is for Unix, the second for Windows.
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )


_WORKER = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from mamlpp.engine import workers
workers.serve_as(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
"""


def serve_as(store: str, rank: int, size: int) -> None:
    """The whole life of a worker process: tell the main process, join it, serve."""
    keep_priority()
    _ready(Path(store).parent, rank).touch()
    _join(store, rank, size).serve()


def _ready(folder: Path, rank: int) -> Path:
    return folder / f"ready-{rank}"


def _all_ready(folder: Path, size: int) -> bool:
    """Whether all have imported the kit: they can be joined only together."""
    return all(_ready(folder, rank).exists() for rank in range(1, size))


def _watch(
    processes: "list[subprocess.Popen[bytes]]", folder: Path, done: Callable[[], bool]
) -> None:
    """Wait until it is done, as long as all processes live."""
    until = time.monotonic() + STARTING
    while not done():
        for rank, process in enumerate(processes, start=1):
            if process.poll() is not None:
                words = (folder / f"error-{rank}").read_text("utf-8", "replace").strip()
                reason = words.splitlines()[-1] if words else f"exit code {process.returncode}"
                raise InputError(
                    f"a worker process could not start ({reason}); train with workers=1, or mend "
                    f"that: is there a file beside your script with the name of a package?"
                )
        if time.monotonic() > until:
            raise InputError(
                f"a worker process did not start within {STARTING:.0f} s; train with workers=1"
            )
        time.sleep(0.02)


def _join_in_a_thread(store: str, size: int) -> "Future[Workers]":
    """Joining cannot be interrupted, and never ends where one of the others has."""
    joining: Future[Workers] = Future()

    def join() -> None:
        try:
            joining.set_result(_join(store, 0, size))
        except BaseException as error:
            joining.set_exception(error)

    threading.Thread(target=join, daemon=True).start()
    torch.set_num_threads(1)  # Each thread of Python has a number of its own.
    return joining


def _join(store: str, rank: int, size: int) -> Workers:
    torch.set_num_threads(1)
    group = dist.ProcessGroupGloo(dist.FileStore(store, size), rank, size, LONG)
    return Workers(group, rank, size, torch.device("cpu"))


def _end(processes: "list[subprocess.Popen[bytes]]", folder: Any) -> None:
    for process in processes:
        process.kill()  # It holds nothing that could be lost.
        process.wait()
    folder.cleanup()


def torchrun_workers(device: torch.device) -> Workers | None:
    """The processes that `torchrun` started this one with; None where it did not.

    On GPUs each takes the one of its local rank.
    """
    if not dist.is_torchelastic_launched():
        return None
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=LONG)
    return Workers(dist.group.WORLD, dist.get_rank(), dist.get_world_size(), device)


def _leave_torchrun() -> None:
    """Let the threads of the process group end before the interpreter does."""
    if dist.is_initialized():
        dist.destroy_process_group()
