"""Sine waves: the smallest few-shot problem (Finn et al. 2017, section 5.1)."""

import math

import torch
from torch import Tensor

from mamlpp.data.tasks import TaskBatch, stream_seed
from mamlpp.input_checks import whole_number
from mamlpp.naming import counted
from mamlpp.precision import torch_defaults


class SinusoidSampler:
    """Draws regression tasks `y = amplitude · sin(x + phase)`.

    The amplitude is uniform in [0.1, 5], the phase in [0, π], x in [-5, 5]. A task shows `shots`
    points and asks for `queries` others. These are no classes: `ways` is None. Raises `InputError`
    where the numbers are not whole ones, 1 or more (0 or more for `seed`).
    """

    def __init__(self, shots: int = 10, queries: int = 10, *, seed: int = 0) -> None:
        self.shots = whole_number("shots", shots)
        self.queries = whole_number("queries", queries)
        self.ways, self.seed, self._seed = None, seed, stream_seed(seed, "sinusoids")
        self.restart()

    def __repr__(self) -> str:
        dealt = f"{counted(self.shots, 'shot')}, {counted(self.queries, 'query')}"
        return f"<SinusoidSampler {dealt}, seed {self.seed}>"

    def restart(self) -> None:
        """Start over: the next tasks are the first ones again."""
        self.generator = torch.Generator().manual_seed(self._seed)

    def with_seed(self, seed: int) -> "SinusoidSampler":
        """The same sampler with another seed, at its first task."""
        return SinusoidSampler(self.shots, self.queries, seed=seed)

    @torch_defaults()
    def sample(self, tasks: int) -> TaskBatch:
        """The next `tasks` tasks: x and y `[B, K, 1]` for support, `[B, Q, 1]` for query."""
        tasks = whole_number("tasks", tasks)
        amplitude = self._uniform(0.1, 5.0, (tasks, 1, 1))
        phase = self._uniform(0.0, math.pi, (tasks, 1, 1))
        x = self._uniform(-5.0, 5.0, (tasks, self.shots + self.queries, 1))
        y = amplitude * torch.sin(x + phase)
        parts = [self.shots, self.queries]
        (support_x, query_x), (support_y, query_y) = x.split(parts, 1), y.split(parts, 1)
        return TaskBatch.unchecked(support_x, support_y, query_x, query_y)

    def _uniform(self, low: float, high: float, shape: tuple[int, ...]) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=self.generator)
