"""Tasks: N-way K-shot classification problems, drawn a meta-batch at a time.

Letters: B tasks, N ways (classes of a task), K shots (support images of a class), Q queries (query
images of a class).
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mamlpp.data.images import ImageSet
from mamlpp.errors import InputError
from mamlpp.input_checks import (
    BRIGHTEST,
    as_tensor,
    check_finite,
    from_bytes,
    tasks_of,
    whole_number,
)
from mamlpp.maml import Task
from mamlpp.naming import counted
from mamlpp.precision import torch_defaults

PARTS = ("support_x", "support_y", "query_x", "query_y")


@dataclass(frozen=True, eq=False)
class TaskBatch:
    """A meta-batch: B tasks of equal size. Iterating gives one `Task` after another.

    For images: `support_x` `[B, N·K, C, H, W]` and `query_x` `[B, N·Q, C, H, W]`, float32 in
    [0, 1]; `support_y` `[B, N·K]` and `query_y` `[B, N·Q]`, int64 labels in 0 … N-1. Any tensors
    with these two leading dimensions make a batch, regression targets too.

    Arrays and lists become tensors, whole numbers as labels int64, uint8 images floats in [0, 1].
    Raises `InputError` for anything that is no batch of finite numbers.
    """

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor

    def __post_init__(self) -> None:
        for name in PARTS:
            object.__setattr__(self, name, _as_part(name, getattr(self, name)))
        for part in ("support", "query"):
            x, y = getattr(self, f"{part}_x"), getattr(self, f"{part}_y")
            if x.ndim < 2 or x.shape[:2] != y.shape[:2]:
                raise InputError(
                    f"{part}_x {list(x.shape)} and {part}_y {list(y.shape)} must start with the "
                    f"same [tasks, examples]"
                )
            if not len(x) or not x.shape[1]:
                raise InputError(
                    f"{part}_x {list(x.shape)} is empty; give at least one task and one example"
                )
        if len(self.support_x) != len(self.query_x):
            raise InputError(
                f"{counted(len(self.support_x), 'support set')} came with "
                f"{counted(len(self.query_x), 'query set')}; "
                f"give one of each a task"
            )
        devices = sorted({str(getattr(self, name).device) for name in PARTS})
        if len(devices) > 1:
            raise InputError(
                f"the parts of a batch are on {' and '.join(devices)}; move them to one device"
            )
        for name in PARTS:
            _check_values(name, getattr(self, name))

    @classmethod
    def unchecked(cls, *parts: Tensor) -> "TaskBatch":
        """A batch of four tensors that are known to be one: reads nothing, so no GPU waits."""
        batch = object.__new__(cls)
        vars(batch).update(zip(PARTS, parts, strict=True))
        return batch

    def __len__(self) -> int:
        return len(self.support_x)

    def __repr__(self) -> str:
        """How many tasks, and the shapes of their parts."""
        shapes = ", ".join(f"{name} {list(getattr(self, name).shape)}" for name in PARTS)
        return f"<TaskBatch of {counted(len(self), 'task')}: {shapes}>"

    def __iter__(self) -> Iterator[Task]:
        tasks = zip(self.support_x, self.support_y, self.query_x, self.query_y, strict=True)
        return (Task(*task) for task in tasks)

    def split(self, tasks: int = 1) -> list["TaskBatch"]:
        """The same tasks in smaller batches of at most `tasks` each."""
        parts = (self.support_x, self.support_y, self.query_x, self.query_y)
        return [
            TaskBatch.unchecked(*some)
            for some in zip(*(x.split(tasks) for x in parts), strict=True)
        ]


def as_batch(drawn: Any, tasks: int | None = None) -> TaskBatch:
    """What a sampler has drawn as a batch: a `TaskBatch`, or a list of tasks of equal size.

    Raises `InputError` for anything else, and where it was asked for another number of `tasks`.
    """
    if not isinstance(drawn, TaskBatch):
        parts: list[Any] = [list(part) for part in zip(*tasks_of(drawn), strict=True)]
        drawn = TaskBatch(*parts)
    if tasks is not None and len(drawn) != tasks:
        raise InputError(f"a sampler was asked for {counted(tasks, 'task')} and gave {len(drawn)}")
    return drawn


def _as_part(name: str, value: Any) -> Tensor:
    """A part of a batch as a tensor: labels int64, images floats."""
    part = as_tensor(name, value)
    if name.endswith("_y"):
        return part if part.dtype.is_floating_point else part.long()
    if part.dtype == torch.uint8 and part.ndim == 5:
        return from_bytes(name, part, True, torch.float32)
    return part


def _check_values(name: str, part: Tensor) -> None:
    if part.dtype.is_floating_point:
        check_finite(name, part, BRIGHTEST if part.ndim == 5 else math.inf)
    elif name.endswith("_y") and part.min() < 0:
        raise InputError(f"{name} has a negative label, {part.min()}; labels are 0, 1, 2, …")


class TaskSampler:
    """Draws N-way K-shot tasks from an image set: N different classes, K + Q different images each.

    The labels of a task are given to its classes at random. With `rotate`, each class of a task is
    turned by a random multiple of 90° (the paper's augmentation of Omniglot, for training only).
    The images stay on their device, as uint8. What is drawn is decided on the CPU, so that the same
    seed and split give the same tasks on every device. Two splits never share random numbers.

    `augment` is a function of images `[M, C, H, W]` that returns as many, drawn by torch's common
    generator, which the sampler seeds.

    Raises `InputError` where a number is not a whole number, 1 or more (0 or more for `seed`), or
    where the image set cannot supply such tasks.
    """

    def __init__(
        self,
        images: ImageSet,
        ways: int,
        shots: int,
        queries: int = 1,
        *,
        seed: int = 0,
        rotate: bool = False,
        augment: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if not isinstance(images, ImageSet):
            raise InputError(
                f"images must be an ImageSet, such as load_images gives, not a "
                f"{type(images).__name__}"
            )
        if augment is not None and not callable(augment):
            raise InputError(f"augment must be a function of images, not {augment!r}")
        self.images, self.rotate, self.augment = images, rotate, augment
        self.ways, self.shots, self.queries = (
            whole_number(name, number)
            for name, number in (("ways", ways), ("shots", shots), ("queries", queries))
        )
        self.seed = whole_number("seed", seed, least=0)
        self._check()
        self._seed = stream_seed(seed, images.split)
        self.restart()
        self._rotations = 4 if rotate else 1
        self._pictures = self._in_one_row()

    def __getstate__(self) -> dict[str, Any]:
        """All but the pictures in one row, which another process makes from the image set."""
        return {name: value for name, value in vars(self).items() if name != "_pictures"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._pictures = self._in_one_row()

    def _in_one_row(self) -> Tensor:
        """All pictures, `[turns·classes·samples, C, H, W]`: a draw is then a single gather.

        Without rotation this is a view of the image set, so that processes which map the same file
        share it. With rotation it holds each picture four times: to turn pictures after the
        gather instead makes a draw half as long again.
        """
        images = self.images.images
        if not self.rotate:
            return images.flatten(0, 1)
        turned = images.new_empty(self._rotations, *images.shape)
        for turns, pictures in enumerate(turned):
            pictures.copy_(images.rot90(turns, (-2, -1)))
        return turned.flatten(0, 2)

    def with_seed(self, seed: int) -> "TaskSampler":
        """The same sampler with another seed, at its first task."""
        options: dict[str, Any] = {"rotate": self.rotate, "augment": self.augment}
        kind = self.ways, self.shots, self.queries
        return TaskSampler(self.images, *kind, seed=seed, **options)

    def __repr__(self) -> str:
        """What it draws, in a line."""
        turned = ", rotated" if self.rotate else ""
        return (
            f"<TaskSampler {self.ways}-way {self.shots}-shot, {self.queries} queries a class, seed "
            f"{self.seed}{turned}, of {self.images!r}>"
        )

    def restart(self) -> None:
        """Start over: the next tasks are the first ones again."""
        self.generator = torch.Generator().manual_seed(self._seed)

    @property
    def device(self) -> torch.device:
        """The device of the images, and of the tasks."""
        return self._pictures.device

    @torch_defaults()
    def sample(self, tasks: int) -> TaskBatch:
        """The next `tasks` tasks."""
        tasks = whole_number("tasks", tasks)
        chosen = self._draw(tasks).to(self.device)  # [B, N, K+Q]
        label = torch.arange(self.ways, device=self.device)
        label = label.expand(tasks, self.ways).unsqueeze(-1)  # [B, N, 1]
        parts = []
        for picture in chosen.split([self.shots, self.queries], dim=-1):
            parts += [self._look_up(picture.flatten(1)), label.expand_as(picture).flatten(1)]
        if self.augment is not None:
            seed = int(torch.randint(2**62, (1,), generator=self.generator))
            parts[::2] = (self._augmented(x, seed + i) for i, x in enumerate(parts[::2]))
        return TaskBatch.unchecked(*parts)

    def _augmented(self, x: Tensor, seed: int) -> Tensor:
        assert self.augment is not None
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            found = self.augment(x.flatten(0, 1))
        if not isinstance(found, Tensor) or found.shape != x.flatten(0, 1).shape:
            raise InputError(
                f"augment must return images of the shape it got, {list(x.flatten(0, 1).shape)}, "
                f"not {type(found).__name__} {list(getattr(found, 'shape', []))}"
            )
        if found.device.type == "cpu":
            check_finite("what augment returned", found, BRIGHTEST)
        return found.to(x.dtype).view_as(x)

    def _check(self) -> None:
        images, each = self.images, self.shots + self.queries
        if self.ways > len(images):
            raise InputError(
                f"{self.ways}-way tasks need {counted(self.ways, 'class')}, but "
                f"{images.dataset} {images.split} has {len(images)}; choose fewer ways"
            )
        least = images.samples if images.counts is None else int(images.counts.min())
        if each > least:
            raise InputError(
                f"{counted(self.shots, 'shot')} and {counted(self.queries, 'query')} need {each} "
                f"images in each class, but {images.dataset} {images.split} has "
                f"{least}; choose fewer"
            )
        if not isinstance(self.rotate, bool):
            raise InputError(f"rotate must be True or False, not {self.rotate!r}")
        if self.rotate and images.shape[1] != images.shape[2]:
            raise InputError(
                f"only square images can be turned by 90°, and these are "
                f"{images.shape[1]}x{images.shape[2]}; choose rotate=False"
            )

    def _look_up(self, picture: Tensor) -> Tensor:
        """Rows of `_pictures` as numbers in [0, 1]: `[B, N·K]` to `[B, N·K, C, H, W]`."""
        # On a CPU, index_select is 20 times as fast as indexing, and dividing floats in place 20
        # times as fast as dividing the bytes.
        x = self._pictures.index_select(0, picture.flatten()).float().div_(255)
        return x.unflatten(0, picture.shape)

    def _draw(self, tasks: int) -> Tensor:
        """Which pictures: rows of `_pictures`, [B, N, K+Q]."""
        classes, samples = len(self.images), self.images.samples
        each = self.shots + self.queries
        who = self._choose(self.ways, (tasks, classes))  # [B, N]
        counts = self.images.counts
        sizes = None if counts is None else counts.cpu()[who].unsqueeze(-1)
        if self.rotate:
            turns = torch.randint(self._rotations, who.shape, generator=self.generator)
            who = turns * classes + who
        which = self._choose(each, (tasks, self.ways, samples), sizes)  # [B, N, K+Q]
        return who.unsqueeze(-1) * samples + which

    def _choose(self, count: int, shape: tuple[int, ...], sizes: Tensor | None = None) -> Tensor:
        """`count` different indices into the last dimension of `shape`, in random order.

        Where there are `sizes`, an index is below its size.
        """
        lots = torch.rand(shape, generator=self.generator)
        if sizes is not None:
            lots = lots.masked_fill(torch.arange(shape[-1]) >= sizes, -1.0)
        return lots.topk(count).indices


def stream_seed(seed: int, stream: str) -> int:
    """A 63-bit seed for one named stream of random numbers: train, validation and test differ.

    Raises `InputError` where `seed` is not a whole number, 0 or more.
    """
    digest = hashlib.sha256(f"{whole_number('seed', seed, least=0)}/{stream}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
