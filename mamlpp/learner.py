"""A network, its recipe and its batch-norm statistics together: what MAML trains and a task adapts.

Letters: B tasks, M images, N ways, K shots, F filters, S inner steps.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mamlpp import input_checks, schedules
from mamlpp.calls import call
from mamlpp.classifier import Classifier
from mamlpp.inner_rates import LSLR, FixedRate, MetaSGD
from mamlpp.maml import Loss, Model, Rule, Task, Weights, cross_entropy, inner_loop, task_loss
from mamlpp.naming import describe
from mamlpp.network import BatchNorm, BatchStatistics, ConvNet, Statistics
from mamlpp.precision import full_precision, gradients_on, torch_defaults
from mamlpp.recipe import Recipe
from mamlpp.task_result import Report, TaskResult, as_statistics, stack

Path = list[Weights]  # θ_0 … θ_S
Reading = Literal["support", "running", "queries"]  # whose statistics normalise a query


class MetaLearner(nn.Module):
    """The initial weights that MAML learns, and how a task adapts them.

    `image_shape` is (channels, height, width). The outer loop learns all parameters of the module;
    the inner loop adapts `weights()`: all of the network but batch norm (section 4).

        learner = MetaLearner(RECIPES["maml++"], images.shape, ways=5)
        classify = learner.adapt(support_x, support_y)  # a function: images to logits

    `network`, any module, takes the place of the recipe's `ConvNet`. It is called with inputs, and
    with `step`, `statistics` and `collect` where its `forward` has parameters of these names. What
    is frozen stays so. `image_shape` None is any shape; `ways` None is for targets that are no
    classes, with a `loss` of outputs and targets. `metrics` are more such functions, for validation
    and evaluation; `rule` makes the inner rule of the weights (`inner_rates`).
    """

    def __init__(
        self, recipe: Recipe, image_shape: tuple[int, ...] | None = None, ways: int | None = None,
        seed: int | None = None, network: nn.Module | None = None, *, loss: Loss = cross_entropy,
        metrics: Mapping[str, Loss] | None = None, rule: Callable[[Weights], Rule] | None = None,
    ) -> None:  # fmt: skip
        input_checks.check_learner(recipe, image_shape, ways, seed, network, loss, metrics)
        super().__init__()
        self.recipe, self._loss = recipe, loss
        self.image_shape: Any = None if image_shape is None else tuple(image_shape)
        self.ways: Any = ways  # or None
        self.metrics, self._own_network = dict(metrics or {}), network is not None
        sets = {"shared": 1, "per_step": recipe.inner_steps + 1, "batch": 0}
        norm_sets = sets[recipe.norm_weights], sets[recipe.norm_statistics]
        with torch_defaults(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed if seed is None else seed)
            if network is None:
                sizes: Any = (image_shape, ways, recipe.filters, recipe.pooling, norm_sets)
                network = ConvNet(*sizes)
            self.network = network
            self.frozen = input_checks.frozen_parameters(network)
            self.rule = input_checks.make_rule(rule or recipe_rule(recipe), self.weights())

    __repr__ = describe

    def weights(self) -> Weights:
        """θ: the parameters that the inner loop adapts, by their names in `network`."""
        norms = {id(p) for norm in self.norms() for p in norm.parameters()}
        named = self.network.named_parameters()
        return {n: p for n, p in named if id(p) not in norms and n not in self.frozen}

    def norms(self) -> list[BatchNorm]:
        """The batch-norm layers of the network."""
        return [module for module in self.network.modules() if isinstance(module, BatchNorm)]

    def forward(self, weights: Weights, x: Tensor, step: int = 0, **norm: Any) -> Tensor:
        """Logits `[M, N]` of images `[M, C, H, W]` under weights that have taken `step` steps.

        `norm` are options of `ConvNet.forward`; by default a batch is normalised by itself.
        """
        options = {"step": step} | norm
        found = call(self.network, weights, x, options, self.network.forward)
        return input_checks.as_outputs(self, found)

    def features(self, images: Any) -> Tensor:
        """What the head is given of images before any inner step, `[M, F]`, without a graph."""
        return Classifier(self, self.weights(), 0, checks=True).features(images)

    def meta_loss(self, batch: Iterable[Task], epoch: float = 0.0) -> tuple[Tensor, Report]:
        """The mean over B tasks of their weighted query losses, to call `.backward()` on.

        Running statistics, where the recipe has them, move towards those of the tasks. The graph of
        all tasks is alive until `backward`; `batch.split()` gives the same gradient task by task,
        in less memory. Raises `InputError` for images or labels that are not this learner's.
        """
        results = [self.task_loss(task, epoch) for task in input_checks.tasks_of(batch)]
        self.update_running(stack(results).statistics)
        loss, accuracy = (torch.stack(x).mean() for x in list(zip(*results, strict=True))[:2])
        return loss, Report(loss.detach(), accuracy)

    def task_loss(self, task: Task, epoch: float = 0.0) -> TaskResult:
        """What one task adds to the meta-loss. Running statistics stay as they are."""
        task = input_checks.as_task(self, task)
        statistics: list[BatchStatistics] = []
        model, query_model = self.models(task, statistics if self.has_running else None)
        step_weights, second_order = self.schedule(epoch)
        loss, logits = task_loss(
            model, self.weights(), task, step_weights, self.rule, second_order, self.loss,
            query_model, self.query_loss,
        )  # fmt: skip
        return TaskResult(loss, self.accuracy(logits, task.query_y), statistics)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """A scalar: the loss of the inner loop, on the support set; cross-entropy by default."""
        return input_checks.as_loss(self._loss, outputs, targets)

    def query_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """A scalar: the loss of the query set, which the outer loop lowers; by default `loss`."""
        return self.loss(outputs, targets)

    def accuracy(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """A scalar: how many are of the right class, in 0 … 1; NaN where there are no classes."""
        hits = outputs.argmax(-1) == targets if self.ways else outputs.new_tensor(math.nan)
        return hits.float().mean()

    def models(
        self, task: Task, collect: list[BatchStatistics] | None = None
    ) -> tuple[Model, Model]:
        """The network as training calls it: on the support set, and on the query set.

        Statistics that batch norm computes are appended to `collect`.
        """
        options = {} if collect is None else {"collect": collect}

        def model(weights: Weights, x: Tensor, step: int) -> Tensor:
            return self(weights, x, step, **options)

        def by_support(weights: Weights, x: Tensor, step: int) -> Tensor:
            seen: list[BatchStatistics] = []
            self(weights, task.support_x, step, collect=seen)
            if collect is not None:
                collect.extend(seen)
            return self(weights, x, step, statistics=as_statistics(seen))

        return model, by_support if self.recipe.query_statistics == "support" else model

    def schedule(self, epoch: float) -> tuple[list[float], bool]:
        """At an epoch: the weight of the query loss after each step, and whether second order."""
        r, epoch = self.recipe, input_checks.as_epoch(epoch)
        step_weights = schedules.step_weights(r.inner_steps, r.msl_epochs, r.msl_floor, epoch)
        return step_weights, schedules.second_order(r.second_order_from, epoch)

    @property
    def has_running(self) -> bool:
        """Whether batch norm has running statistics."""
        return self.recipe.norm_statistics != "batch"

    @property
    def readings(self) -> list[Reading]:
        """The readings that this learner has: "running" where statistics are collected."""
        return ["support", "running", "queries"] if self.has_running else ["support", "queries"]

    def update_running(self, statistics: Iterable[BatchStatistics]) -> None:
        """Move the running statistics towards those of B tasks `[B, F]`, one after another."""
        rows: dict[tuple[BatchNorm, int], list[tuple[Tensor, Tensor]]] = {}
        for layer, step, mean, variance in statistics if self.has_running else ():
            row = step if len(layer.running_mean) > 1 else 0
            rows.setdefault((layer, row), []).append((mean, variance))
        for (layer, row), pairs in rows.items():
            both = (torch.stack(each, 1).flatten(0, 1) for each in zip(*pairs, strict=True))
            layer.update_running(row, *both)

    def adapt(
        self, support_x: Tensor, support_y: Tensor, steps: int | None = None,
        reading: Reading = "support",
    ) -> Classifier:  # fmt: skip
        """Learn one task from support images `[N·K, C, H, W]` with labels `[N·K]`: a classifier.

        Arrays and lists serve too. The result maps images `[M, C, H, W]` to logits `[M, N]`,
        without a graph. Batch norm normalises them by the statistics of the `reading`: those of the
        support set under the adapted weights; the running ones, collected in training; or, as
        published code does, those of the M images themselves (transductive). Only with "queries"
        do an image's logits depend on another image. Raises `InputError` for another kind of task.
        """
        support_x, support_y = input_checks.as_support(self, support_x, support_y, steps)
        path = self.adapted_path(support_x, support_y, steps)
        classify = self.classifier(path, len(path) - 1, support_x, reading)
        return replace(classify, checks=True)

    @full_precision()
    @gradients_on()
    def adapted_path(self, support_x: Tensor, support_y: Tensor, steps: int | None = None) -> Path:
        """The weights before and after each step on a support set, θ_0 … θ_S, without a graph."""
        input_checks.check_task(self, support_x, support_y)
        steps = self.recipe.inner_steps if steps is None else steps
        start = {name: weight.detach().requires_grad_() for name, weight in self.weights().items()}
        task = Task(support_x, support_y, None, support_y)
        path = inner_loop(self.models(task)[0], start, task[:2], steps, self.rule, False, self.loss)
        return [{name: w.detach() for name, w in weights.items()} for weights in path]

    def classifier(
        self, path: Path, step: int, support_x: Tensor, reading: Reading = "support"
    ) -> Classifier:
        """The classifier of `adapt` after `step` steps of an adapted path."""
        statistics = self.statistics(path[step], support_x, step, reading)
        return Classifier(self, path[step], step, statistics)

    @full_precision()
    @torch.no_grad()
    def statistics(
        self, weights: Weights, support_x: Tensor, step: int, reading: Reading = "support"
    ) -> Statistics | None:
        """What a reading normalises by; None: each batch by itself, or there is no batch norm."""
        input_checks.check_reading(self, reading)
        if reading == "queries" or not self.norms():
            return None
        if reading == "running":
            return {norm: norm.running(step) for norm in self.norms()}
        collect: list[BatchStatistics] = []
        self(weights, support_x, step, collect=collect)
        return as_statistics(collect)


def recipe_rule(recipe: Recipe) -> Callable[[Weights], Rule]:
    """The recipe's inner rule, as a function of the weights."""
    rate, steps = recipe.inner_rate, recipe.inner_steps
    learned = {"lslr": lambda w: LSLR(w, steps, rate), "meta-sgd": lambda w: MetaSGD(w, rate)}
    return learned.get(recipe.inner_rule, lambda w: FixedRate(rate))
