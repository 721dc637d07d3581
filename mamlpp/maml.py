"""MAML: the inner loop and the meta-loss. The algorithm itself is the three functions at the top.

Finn, Abbeel, Levine 2017, algorithm 2; Antoniou, Edwards, Storkey 2019, section 2. Letters: B
tasks, N ways, K shots, Q queries, S inner steps.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from mamlpp import schedules
from mamlpp.data.tasks import Task, TaskBatch
from mamlpp.errors import InputError
from mamlpp.network import BatchNorm, ConvNet
from mamlpp.recipe import Recipe

Weights = dict[str, Tensor]
Model = Callable[[Weights, Tensor], Tensor]  # (weights, inputs [M, …]) -> outputs [M, …]
Loss = Callable[[Tensor, Tensor], Tensor]  # (outputs, targets) -> scalar


def inner_step(loss: Tensor, weights: Weights, rate: float, second_order: bool) -> Weights:
    """`θ' = θ − α ∇θ loss`. With `second_order` the gradient itself stays part of the graph."""
    gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=second_order)
    return {
        name: weight - rate * gradient
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
    }


def inner_loop(
    model: Model,
    weights: Weights,
    support: tuple[Tensor, Tensor],
    steps: int,
    rate: float,
    second_order: bool,
    loss: Loss = F.cross_entropy,
) -> list[Weights]:
    """The weights before and after each step on the support set (x, y): θ_0, θ_1, …, θ_S."""
    x, y = support
    path = [weights]
    for _ in range(steps):
        path.append(inner_step(loss(model(path[-1], x), y), path[-1], rate, second_order))
    return path


def task_loss(
    model: Model,
    weights: Weights,
    task: Task,
    steps: int,
    rate: float,
    second_order: bool,
    loss: Loss = F.cross_entropy,
) -> tuple[Tensor, Tensor]:
    """What one task adds to the meta-loss, its query loss after adaptation; and the outputs."""
    support = task.support_x, task.support_y
    path = inner_loop(model, weights, support, steps, rate, second_order, loss)
    outputs = model(path[-1], task.query_x)
    return loss(outputs, task.query_y), outputs


class Report(NamedTuple):
    """What a meta-step saw, averaged over its tasks: scalars, detached, on the tasks' device."""

    loss: Tensor
    accuracy: Tensor


class MetaLearner(nn.Module):
    """The initial weights that MAML learns, and how a task adapts them.

    `image_shape` is (channels, height, width). The module's parameters are what the outer loop
    learns; of them the inner loop moves `weights()`: all but those of batch norm (section 4).
    """

    def __init__(
        self, recipe: Recipe, image_shape: tuple[int, int, int], ways: int, seed: int | None = None
    ) -> None:
        super().__init__()
        self.recipe, self.image_shape, self.ways = recipe, tuple(image_shape), ways
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed if seed is None else seed)
            self.network = ConvNet(image_shape, ways, recipe.filters, recipe.pooling)

    def weights(self) -> Weights:
        """θ: the parameters that the inner loop moves, by their names in `network`."""
        norms = [name for name, part in self.network.named_modules() if isinstance(part, BatchNorm)]
        return {
            name: parameter
            for name, parameter in self.network.named_parameters()
            if name.rpartition(".")[0] not in norms
        }

    def forward(self, weights: Weights, x: Tensor, reference: Tensor | None = None) -> Tensor:
        """Logits `[M, N]` of images `[M, C, H, W]` under the given weights."""
        return functional_call(self.network, weights, (x, reference))

    def meta_loss(self, batch: TaskBatch, epoch: float = 0.0) -> tuple[Tensor, Report]:
        """The mean query loss over the tasks, to call `.backward()` on; and what was seen.

        Images `[B, M, C, H, W]` as `TaskBatch` has them. The graph of all B tasks is alive until
        `backward`: `batch.split()` gives the same gradient in less memory, a task at a time.
        """
        self._check(batch.support_x[0], batch.support_y)
        losses, hits = [], []
        for task in batch:
            loss, logits = self._task_loss(task, epoch)
            losses.append(loss)
            hits.append((logits.argmax(-1) == task.query_y).float().mean())
        loss = torch.stack(losses).mean()
        return loss, Report(loss.detach(), torch.stack(hits).mean())

    def _task_loss(self, task: Task, epoch: float) -> tuple[Tensor, Tensor]:
        recipe = self.recipe
        support = task.support_x if recipe.query_statistics == "support" else None

        def model(weights: Weights, x: Tensor) -> Tensor:
            return self(weights, x, None if x is task.support_x else support)

        order = schedules.second_order(recipe.second_order_from, epoch)
        return task_loss(model, self.weights(), task, recipe.inner_steps, recipe.inner_rate, order)

    def adapt(
        self,
        support_x: Tensor,
        support_y: Tensor,
        steps: int | None = None,
        transductive: bool = False,
    ) -> Callable[[Tensor], Tensor]:
        """Learn one task: support images `[N·K, C, H, W]` with labels `[N·K]` to a classifier.

        The result maps images `[M, C, H, W]` to logits `[M, N]`, without a graph. Its batch norm
        uses the statistics of the support set under the adapted weights, so that an image's logits
        do not depend on its neighbours; `transductive=True` normalises the M images by each other
        instead, as published code does. The learner itself is left as it was.
        """
        self._check(support_x, support_y)
        steps = self.recipe.inner_steps if steps is None else steps
        start = {name: weight.detach().requires_grad_() for name, weight in self.weights().items()}
        with torch.enable_grad():
            support = support_x, support_y
            path = inner_loop(self, start, support, steps, self.recipe.inner_rate, False)
        adapted = {name: weight.detach() for name, weight in path[-1].items()}
        reference = None if transductive else support_x

        @torch.no_grad()
        def classify(images: Tensor) -> Tensor:
            return self(adapted, images, reference)

        return classify

    def _check(self, images: Tensor, labels: Tensor) -> None:
        if images.ndim != 4 or tuple(images.shape[1:]) != self.image_shape:
            raise InputError(
                f"the learner was made for images {list(self.image_shape)}, but these are "
                f"{list(images.shape[1:])}"
            )
        if labels.device.type == "cpu" and not (labels.min() >= 0 and labels.max() < self.ways):
            raise InputError(
                f"labels must be 0 … {self.ways - 1} for a {self.ways}-way learner, but these go "
                f"from {labels.min()} to {labels.max()}"
            )
