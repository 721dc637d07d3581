"""The tasks of a meta-batch shared out over processes: on cores, on GPUs, over machines.

Tasks are independent until their gradients are summed, and a `Team` does both. Its leader, rank 0,
is where the `Trainer` lives; the others know nothing but the order of the moment, so there is
nothing to lose in them. `local_team` starts them on the cores of this machine, from a notebook too;
`torchrun_team` joins those that `torchrun` started: a process a GPU (NCCL), or a core (gloo). What
is summed does not depend on who was faster, so as many processes give the same bits every time.
"""

import json
import os
import subprocess
import sys
import tempfile
import weakref
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mamlpp.data.tasks import TaskBatch
from mamlpp.errors import InputError
from mamlpp.maml import MetaLearner, Part, Report
from mamlpp.precision import full_precision
from mamlpp.recipe import Recipe
from mamlpp.recorded import Recorder
from mamlpp.together import backward

LONG = timedelta(days=365)  # A worker waits for its next order as long as its leader lives.
Order = dict[str, Any]  # what a meta-step is about, but for its numbers: plain data


class Lost(Exception):
    """Another process of the team is no more."""


class Team:
    """Processes that take the gradient of a meta-batch together."""

    def __init__(self, group: Any, rank: int, size: int, device: torch.device) -> None:
        self.group, self.rank, self.size, self.device = group, rank, size, device
        self.lost, self._recorder = False, Recorder()

    def backward(
        self, learner: MetaLearner, batch: TaskBatch, epoch: float, lean: bool = False
    ) -> Report:
        """The leader's: every parameter's `.grad` becomes that of the mean loss over the tasks.

        Running statistics absorb what the tasks saw, in their order. Raises `InputError` where
        there are fewer tasks than processes, or where one of the processes is no more.
        """
        if len(batch) < self.size:
            raise InputError(
                f"{self.size} processes cannot share a meta-batch of {len(batch)} tasks; choose at "
                f"most {len(batch)} processes"
            )
        try:
            if self.lost:
                raise Lost
            self._tell(_order(learner, batch, epoch, lean))
            self._hand_out(learner, batch)
            return self._share(learner, batch, epoch, lean)
        except Lost as error:
            self.lost = True
            raise InputError(
                "a process that shares the tasks has ended, perhaps for want of memory; start the "
                "training again, with fewer processes if so: it goes on from its last checkpoint"
            ) from error

    def serve(self) -> None:
        """A worker's whole life: its share of every order's tasks, as long as there is a leader."""
        learner, about = None, None
        try:
            while (order := self._hear()) is not None:
                if learner is None or order["about"] != about:
                    about, learner = order["about"], _make_learner(order["about"], self.device)
                batch = TaskBatch(*map(self._empty, order["shapes"], order["kinds"]))
                self._hand_out(learner, batch)
                self._share(learner, batch, order["epoch"], order["lean"])
        except Lost:
            return

    def dismiss(self) -> None:
        """The leader's last word, after which the workers end."""
        if self.rank == 0 and not self.lost:
            self.lost = True
            self._tell(None)

    def _hand_out(self, learner: MetaLearner, batch: TaskBatch) -> None:
        """The leader's weights and tasks become everyone's."""
        weights = torch.nn.utils.parameters_to_vector(learner.parameters()).detach()
        for numbers in (weights, *_parts(batch)):
            self._spread(numbers.contiguous())
        if self.rank:
            with torch.no_grad():  # In place: a recording reads them where they are.
                for parameter, numbers in _by_parameter(learner, weights):
                    parameter.copy_(numbers)

    @full_precision()
    def _share(self, learner: MetaLearner, batch: TaskBatch, epoch: float, lean: bool) -> Report:
        """Take every `size`-th task; then sum what came out of all of them, in one vector.

        It holds the gradient, and a line for each task that only one process fills in: loss,
        accuracy, statistics of batch norm. All else is 0, so that the sum has everything.
        """
        learner.zero_grad()
        own = TaskBatch(*(x[self.rank :: self.size] for x in _parts(batch)))
        parts = backward(learner, own, epoch, len(batch), lean, self._recorder)
        lines = torch.stack([_line(part) for part in parts])
        table = lines.new_zeros(len(batch), lines.shape[1])
        table[self.rank :: self.size] = lines
        gradients = [_gradient(parameter).flatten() for parameter in learner.parameters()]
        total = torch.cat([*gradients, table.flatten()])
        self._sum(total)
        flat, table = total[: -table.numel()], total[-table.numel() :].view_as(table)
        for parameter, numbers in _by_parameter(learner, flat):
            parameter.grad = numbers
        learner.absorb(parts[0]._replace(seen=_seen(line, parts[0])) for line in table)
        return Report(table[:, 0].mean(), table[:, 1].mean())

    def _tell(self, order: Order | None) -> None:
        text = torch.tensor(list(json.dumps(order).encode()), device=self.device)
        self._spread(torch.tensor([len(text)], device=self.device))
        self._spread(text)

    def _hear(self) -> Order | None:
        length = self._spread(self._empty([1], "int64"))
        return json.loads(bytes(self._spread(self._empty([int(length)], "int64")).tolist()))

    def _empty(self, shape: list[int], kind: str) -> Tensor:
        return torch.empty(shape, dtype=getattr(torch, kind), device=self.device)

    def _spread(self, numbers: Tensor) -> Tensor:
        """The leader's numbers, to everyone, in place."""
        return self._together(self.group.broadcast, numbers, 0)

    def _sum(self, numbers: Tensor) -> Tensor:
        """The sum of everyone's numbers, to everyone, in place."""
        return self._together(self.group.allreduce, numbers)

    def _together(self, what: Any, numbers: Tensor, *more: Any) -> Tensor:
        try:
            what(numbers, *more).wait()
        except RuntimeError as error:
            raise Lost from error
        return numbers


def _order(learner: MetaLearner, batch: TaskBatch, epoch: float, lean: bool) -> Order:
    about = [learner.recipe.as_dict(), learner.image_shape, learner.ways]
    return {
        "about": about,
        "epoch": epoch,
        "lean": lean,
        "shapes": [list(part.shape) for part in _parts(batch)],
        "kinds": [str(part.dtype).removeprefix("torch.") for part in _parts(batch)],
    }


def _make_learner(about: list[Any], device: torch.device) -> MetaLearner:
    recipe, image_shape, ways = about
    return MetaLearner(Recipe(**recipe), tuple(image_shape), ways).to(device)


def _parts(batch: TaskBatch) -> tuple[Tensor, ...]:
    return batch.support_x, batch.support_y, batch.query_x, batch.query_y


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _by_parameter(learner: MetaLearner, flat: Tensor) -> list[tuple[nn.Parameter, Tensor]]:
    """Each parameter, with its share of numbers for all of them."""
    parameters = list(learner.parameters())
    shares = flat.split([parameter.numel() for parameter in parameters])
    return [(p, numbers.view_as(p)) for p, numbers in zip(parameters, shares, strict=True)]


def _line(part: Part) -> Tensor:
    """Of a task, flat: loss, accuracy, then mean and variance of each layer and step."""
    statistics = [x for _, _, *both in part.seen for x in both]
    return torch.cat([torch.stack([part.loss, part.accuracy]), *statistics])


def _seen(line: Tensor, like: Part) -> list[Any]:
    """The statistics in a line, for the layers and steps of another task of the same meta-step."""
    widths = [len(x) for _, _, *both in like.seen for x in both]
    numbers = iter(line[2:].split(widths)) if widths else iter(())
    return [(norm, step, next(numbers), next(numbers)) for norm, step, _, _ in like.seen]


# Where the processes come from ---------------------------------------------------------------


def local_team(size: int) -> Team:
    """This process and `size - 1` new ones on this machine, a thread each; they end with it."""
    folder = tempfile.TemporaryDirectory()
    store = str(Path(folder.name, "store"))
    processes = [_start(store, rank, size) for rank in range(1, size)]
    team = _join(store, 0, size)
    weakref.finalize(team, _end, processes, folder)
    return team


def _start(store: str, rank: int, size: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", _WORKER, store, str(rank), str(size)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,  # Ctrl-C is for the leader alone.
    )


_WORKER = """
import sys
from mamlpp.run import parallel
parallel._join(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])).serve()
"""


def _join(store: str, rank: int, size: int) -> Team:
    torch.set_num_threads(1)
    group = dist.ProcessGroupGloo(dist.FileStore(store, size), rank, size, LONG)
    return Team(group, rank, size, torch.device("cpu"))


def _end(processes: "list[subprocess.Popen[bytes]]", folder: Any) -> None:
    for process in processes:
        process.kill()  # It holds nothing that could be lost.
        process.wait()
    folder.cleanup()


def torchrun_team(device: torch.device) -> Team | None:
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
    return Team(dist.group.WORLD, dist.get_rank(), dist.get_world_size(), device)
