"""The workloads to time. Images are noise, because times do not depend on their contents."""

from dataclasses import dataclass, replace

import torch

import mamlpp


@dataclass(frozen=True)
class Workload:
    """One kind of meta-step: every contender runs it, on tasks from `sampler()`."""

    about: str
    recipe: mamlpp.Recipe
    ways: int = 20
    shots: int = 1
    queries: int = 1
    image_shape: tuple[int, int, int] = (1, 28, 28)

    @property
    def plain(self) -> bool:
        """Whether this is second-order MAML without any of MAML++'s improvements."""
        maml = mamlpp.RECIPES["maml"]
        switches = ("msl_epochs", "inner_rule", "norm_weights", "norm_statistics")
        return all(getattr(self.recipe, name) == getattr(maml, name) for name in switches)

    def sampler(self, seed: int = 0) -> mamlpp.TaskSampler:
        """A sampler of tasks of noise, the same for every contender; each seed has its classes."""
        size = (2 * self.ways, self.shots + self.queries, *self.image_shape)
        draw = torch.Generator().manual_seed(seed)
        noise = torch.randint(0, 256, size, generator=draw, dtype=torch.uint8)
        names = tuple(map(str, range(len(noise))))
        images = mamlpp.ImageSet(noise, names, "noise", "train")
        return mamlpp.TaskSampler(images, self.ways, self.shots, self.queries)


MAML = mamlpp.RECIPES["maml"].with_(meta_batch=8)
MAML_PLUS_PLUS = mamlpp.RECIPES["maml++"].with_(meta_batch=8, second_order_from=0.0)

W1 = Workload("MAML++, second order, 28x28, 20-way, 64 filters, 8 tasks", MAML_PLUS_PLUS)
W2 = Workload("MAML, second order, 28x28, 20-way, 64 filters, 8 tasks", MAML)
WORKLOADS = {
    "W1": W1,
    "W2": W2,
    "W3": replace(W2, about="MAML, second order, 28x28, 5-way, 64 filters, 8 tasks", ways=5),
    "W4": Workload(
        "MAML++, second order, 84x84 RGB, 5-way, 15 queries per class, 48 filters, 2 tasks",
        MAML_PLUS_PLUS.with_(filters=48, inner_rate=0.01, meta_batch=2),
        ways=5,
        queries=15,
        image_shape=(3, 84, 84),
    ),
}
