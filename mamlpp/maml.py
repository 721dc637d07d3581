"""MAML: the inner loop and the meta-loss. The algorithm itself is the three functions at the top.

Finn, Abbeel, Levine 2017, algorithm 2; Antoniou, Edwards, Storkey 2019, section 2. Letters: B
tasks, N ways, K shots, Q queries, S inner steps.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from mamlpp import schedules
from mamlpp.data.tasks import Task, TaskBatch
from mamlpp.errors import InputError
from mamlpp.fast import Statistics, classify, fast_model
from mamlpp.inner_rules import LSLR, FixedRate, MetaSGD
from mamlpp.network import BatchNorm, ConvNet, Seen
from mamlpp.precision import full_precision
from mamlpp.recipe import Recipe

Weights = dict[str, Tensor]
Model = Callable[[Weights, Tensor, int], Tensor]  # (weights, inputs, steps taken) -> outputs
Rule = Callable[[str, int], Tensor | float]  # (name of a weight, step) -> α
Loss = Callable[[Tensor, Tensor], Tensor]  # (outputs, targets) -> scalar


def inner_step(
    loss: Tensor, weights: Weights, rule: Rule, step: int, second_order: bool
) -> Weights:
    """`θ' = θ − α ∇θ loss`. With `second_order` the gradient itself stays part of the graph."""
    gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=second_order)
    return {
        name: weight - rule(name, step) * gradient
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
    }


def inner_loop(
    model: Model,
    weights: Weights,
    support: tuple[Tensor, Tensor],
    steps: int,
    rule: Rule,
    second_order: bool,
    loss: Loss = F.cross_entropy,
) -> list[Weights]:
    """The weights before and after each step on the support set (x, y): θ_0, θ_1, …, θ_S."""
    x, y = support
    path = [weights]
    for step in range(steps):
        support_loss = loss(model(path[step], x, step), y)
        path.append(inner_step(support_loss, path[step], rule, step, second_order))
    return path


def task_loss(
    model: Model,
    weights: Weights,
    task: Task,
    step_weights: Sequence[float],
    rule: Rule,
    second_order: bool,
    loss: Loss = F.cross_entropy,
) -> tuple[Tensor, Tensor]:
    """What one task adds to the meta-loss, and the outputs after the last step.

    `step_weights` say what the query loss after each of the steps 1 … S counts (MSL; the paper's
    equation 3); one that counts 0 is not computed. The last must count.
    """
    support = task.support_x, task.support_y
    path = inner_loop(model, weights, support, len(step_weights), rule, second_order, loss)
    losses = []
    for step, counts in enumerate(step_weights, start=1):
        if counts > 0:
            outputs = model(path[step], task.query_x, step)
            losses.append(counts * loss(outputs, task.query_y))
    return torch.stack(losses).sum(), outputs


class Report(NamedTuple):
    """What a meta-step saw, averaged over its tasks: scalars, detached, on the tasks' device."""

    loss: Tensor
    accuracy: Tensor


class Part(NamedTuple):
    """What one task gives a meta-step: its weighted query loss, with its graph; the share of its
    queries that came out right after the last step; the statistics that batch norm saw.
    """

    loss: Tensor
    accuracy: Tensor
    seen: list[Seen]


class MetaLearner(nn.Module):
    """The initial weights that MAML learns, and how a task adapts them.

    `image_shape` is (channels, height, width). The module's parameters are what the outer loop
    learns; of them the inner loop moves `weights()`: all of the network but batch norm (section 4).
    """

    def __init__(
        self, recipe: Recipe, image_shape: tuple[int, int, int], ways: int, seed: int | None = None
    ) -> None:
        super().__init__()
        self.recipe, self.ways = recipe, ways
        channels, height, width = image_shape
        self.image_shape = (channels, height, width)
        sets = {"shared": 1, "per_step": recipe.inner_steps + 1, "batch": 0}
        norm_sets = sets[recipe.norm_weights], sets[recipe.norm_statistics]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed if seed is None else seed)
            self.network = ConvNet(image_shape, ways, recipe.filters, recipe.pooling, norm_sets)
        self.rule = _rule(recipe, self.weights())

    def weights(self) -> Weights:
        """θ: the parameters that the inner loop moves, by their names in `network`."""
        norms = [name for name, part in self.network.named_modules() if isinstance(part, BatchNorm)]
        return {
            name: parameter
            for name, parameter in self.network.named_parameters()
            if name.rpartition(".")[0] not in norms
        }

    def forward(self, weights: Weights, x: Tensor, step: int = 0, **norm: Any) -> Tensor:
        """Logits `[M, N]` of images `[M, C, H, W]` under weights that have taken `step` steps.

        `norm` says what batch norm uses, as in `ConvNet.forward`; by default the images' own.
        """
        return functional_call(self.network, weights, (x,), {"step": step, **norm})

    def meta_loss(self, batch: TaskBatch, epoch: float = 0.0) -> tuple[Tensor, Report]:
        """The mean over the tasks of their weighted query losses, to call `.backward()` on.

        Images `[B, M, C, H, W]` as `TaskBatch` has them. Running statistics of batch norm, where
        the recipe has them, move towards those of the tasks. The graph of all B tasks is alive
        until `backward`: `batch.split()` gives the same gradient in less memory, task by task.
        """
        parts = [self.part(task, epoch) for task in batch]
        self.absorb(parts)
        loss = torch.stack([part.loss for part in parts]).mean()
        return loss, Report(loss.detach(), torch.stack([part.accuracy for part in parts]).mean())

    def part(self, task: Task, epoch: float = 0.0, fast: bool = False) -> Part:
        """What one task gives the meta-loss; running statistics stay as they are until `absorb`.

        `fast` as in `task_model`.
        """
        self.check(task.support_x, task.support_y)
        seen: list[Seen] = []
        counts, order = self.schedule(epoch)
        model = self.task_model(task, seen, fast)
        loss, logits = task_loss(model, self.weights(), task, counts, self.rule, order)
        return Part(loss, (logits.argmax(-1) == task.query_y).float().mean(), seen)

    @property
    def keeps_statistics(self) -> bool:
        """Whether batch norm has running statistics."""
        return self.recipe.norm_statistics != "batch"

    def absorb(self, parts: Iterable[Part]) -> None:
        """Move the running statistics of batch norm, where there are any, towards the tasks', one
        task after another.
        """
        together: dict[tuple[BatchNorm, int], list[tuple[Tensor, Tensor]]] = {}
        for norm, step, mean, variance in (seen for part in parts for seen in part.seen):
            row = step if len(norm.running_mean) > 1 else 0
            together.setdefault((norm, row), []).append((mean, variance))
        for (norm, row), notes in together.items():
            means, variances = zip(*notes, strict=True)
            norm.absorb(row, torch.stack(means), torch.stack(variances))

    def task_model(self, task: Task, seen: list[Seen] | None = None, fast: bool = False) -> Model:
        """The network as training calls it on one task; batch norm notes in `seen` what it saw.

        `fast` is the same function in closed form, where there is one: not for queries that are
        normalised by the support's statistics.
        """
        support = task.support_x if self.recipe.query_statistics == "support" else None
        if fast and support is None:
            return fast_model(self.network, seen if self.keeps_statistics else None)

        def model(weights: Weights, x: Tensor, step: int) -> Tensor:
            reference = None if x is task.support_x else support
            return self(weights, x, step, reference=reference, seen=seen)

        return model

    def schedule(self, epoch: float) -> tuple[list[float], bool]:
        """At an epoch: what the query loss after each step counts; whether in second order."""
        recipe = self.recipe
        counts = schedules.step_weights(
            recipe.inner_steps, recipe.msl_epochs, recipe.msl_floor, epoch
        )
        return counts, schedules.second_order(recipe.second_order_from, epoch)

    def with_recipe(self, **changes: Any) -> "MetaLearner":
        """A copy of this learner under a changed recipe, to be evaluated otherwise than trained.

        Raises `InputError` where the change asks for weights that this learner has not.
        """
        other = MetaLearner(self.recipe.with_(**changes), self.image_shape, self.ways)
        ours, theirs = self.state_dict(), other.state_dict()
        needed = [name for name, x in theirs.items() if x.numel()]  # not statistics it ignores
        missing = [n for n in needed if n not in ours or ours[n].shape != theirs[n].shape]
        if missing:
            raise InputError(
                f"a recipe with {', '.join(changes)} changed like this has other weights "
                f"({missing[0]}), which have not been trained; train it"
            )
        other.load_state_dict(theirs | {name: ours[name] for name in needed})
        return other.to(next(self.parameters()).device)

    def follow(self, recipe: Recipe) -> None:
        """Go on under a recipe with another fixed inner rate or other schedules."""
        self.recipe = recipe
        if isinstance(self.rule, FixedRate):
            self.rule.rate = recipe.inner_rate

    def adapt(
        self,
        support_x: Tensor,
        support_y: Tensor,
        steps: int | None = None,
        transductive: bool = False,
    ) -> Callable[[Tensor], Tensor]:
        """Learn one task: support images `[N·K, C, H, W]` with labels `[N·K]` to a classifier.

        The result maps images `[M, C, H, W]` to logits `[M, N]`, without a graph, and no image's
        logits depend on its neighbours: batch norm uses the running statistics where the recipe has
        them, else those of the support set under the adapted weights. `transductive=True` instead
        normalises the M images by each other, as published code does. The learner stays as it was.
        """
        path = self.adapted_path(support_x, support_y, steps)
        return self.classifier(path, len(path) - 1, support_x, transductive)

    @full_precision()
    def adapted_path(
        self, support_x: Tensor, support_y: Tensor, steps: int | None = None
    ) -> list[Weights]:
        """The weights before and after each step on a support set, θ_0 … θ_S, without a graph."""
        self.check(support_x, support_y)
        steps = self.recipe.inner_steps if steps is None else steps
        start = {name: weight.detach().requires_grad_() for name, weight in self.weights().items()}
        with torch.enable_grad():
            model = fast_model(self.network)
            path = inner_loop(model, start, (support_x, support_y), steps, self.rule, False)
        return [{name: w.detach() for name, w in weights.items()} for weights in path]

    def classifier(
        self, path: list[Weights], step: int, support_x: Tensor, transductive: bool = False
    ) -> Callable[[Tensor], Tensor]:
        """What `adapt` gives, after `step` steps of an adapted path."""
        network, weights = self.network, path[step]
        if transductive:
            predict = torch.no_grad()(lambda images: fast_model(network)(weights, images, step))
            return full_precision()(predict)
        statistics = self.statistics(weights, support_x, step)
        return full_precision()(lambda x: classify(network, weights, x, step, statistics))

    @full_precision()
    @torch.no_grad()
    def statistics(
        self,
        weights: Weights,
        support_x: Tensor,
        step: int,
        make: Callable[[ConvNet, list[Seen]], Model] | None = None,
    ) -> Statistics:
        """What inductive predictions normalise by: running statistics, or those that the support
        set has in the network, which `make` (by default `fast_model`) makes a function of.
        """
        if self.keeps_statistics:
            norms = (part for part in self.network.modules() if isinstance(part, BatchNorm))
            return {norm: norm.running(step) for norm in norms}
        seen: list[Seen] = []
        (make or fast_model)(self.network, seen)(weights, support_x, step)
        return {norm: (mean, variance) for norm, _, mean, variance in seen}

    def check(self, images: Tensor, labels: Tensor) -> None:
        """Raise `InputError` where images `[M, C, H, W]` or labels `[M]` are not this learner's."""
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


def _rule(recipe: Recipe, weights: Weights) -> nn.Module:
    if recipe.inner_rule == "lslr":
        return LSLR(weights, recipe.inner_steps, recipe.inner_rate)
    if recipe.inner_rule == "meta-sgd":
        return MetaSGD(weights, recipe.inner_rate)
    return FixedRate(recipe.inner_rate)
