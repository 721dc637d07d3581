"""The same meta-steps by other implementations: a textbook loop, and libraries.

All train the same network on the same tasks with the same optimizer. The libraries support plain
MAML only, and their inner loop also updates batch norm's weights and biases.
"""

from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from benchmarks.race import Step
from benchmarks.workloads import Workload
from mamlpp import Task
from mamlpp.network import BLOCKS


def textbook(workload: Workload) -> Step:
    """Second-order MAML or MAML++ in plain PyTorch, holding the graphs of all tasks at once.

    It leaves out running statistics, which a meta-step writes but does not read.
    """
    recipe, sampler, network = workload.recipe, workload.sampler(), make_network(workload)
    weights = {name: w for name, w in network.named_parameters() if "norm" not in name}
    norms = _norms(network, recipe.inner_steps + 1 if recipe.norm_weights == "per_step" else 1)
    rates = [
        {name: nn.Parameter(torch.tensor(recipe.inner_rate)) for name in weights}
        for _ in range(recipe.inner_steps)
    ]
    last = [0.0] * (recipe.inner_steps - 1) + [1.0]
    step_weights = [1 / recipe.inner_steps] * recipe.inner_steps if recipe.msl_epochs else last
    learned = [*weights.values(), *(w for some in norms for w in some.values())]
    if recipe.inner_rule == "lslr":
        learned += [rate for some in rates for rate in some.values()]
    optimizer = torch.optim.Adam(learned, recipe.outer_rate or 0.0)

    def loss(fast: dict[str, Tensor], step: int, x: Tensor, y: Tensor) -> Tensor:
        norm = norms[min(step, len(norms) - 1)]
        return F.cross_entropy(functional_call(network, fast | norm, (x,)), y)

    def task_loss(task: Task) -> Tensor:
        fast: dict[str, Tensor] = dict(weights)
        losses = []
        for step, step_weight in enumerate(step_weights):
            support = loss(fast, step, task.support_x, task.support_y)
            gradients = torch.autograd.grad(support, list(fast.values()), create_graph=True)
            pairs = zip(fast.items(), gradients, strict=True)
            fast = {name: w - rates[step][name] * gradient for (name, w), gradient in pairs}
            if step_weight:
                losses.append(step_weight * loss(fast, step + 1, task.query_x, task.query_y))
        return torch.stack(losses).sum()

    def meta_step() -> None:
        optimizer.zero_grad()
        tasks = sampler.sample(recipe.meta_batch)
        torch.stack([task_loss(task) for task in tasks]).mean().backward()
        optimizer.step()

    return meta_step


def with_higher(workload: Workload) -> Step:
    """Plain MAML with `higher`, task by task."""
    import higher

    recipe, sampler, network = workload.recipe, workload.sampler(), make_network(workload)
    optimizer = torch.optim.Adam(network.parameters(), recipe.outer_rate or 0.0)
    inner = torch.optim.SGD(network.parameters(), recipe.inner_rate)

    def meta_step() -> None:
        optimizer.zero_grad()
        for task in sampler.sample(recipe.meta_batch):
            context = higher.innerloop_ctx(network, inner, copy_initial_weights=False)
            with context as (model, fast_optimizer):
                for _ in range(recipe.inner_steps):
                    fast_optimizer.step(F.cross_entropy(model(task.support_x), task.support_y))
                loss = F.cross_entropy(model(task.query_x), task.query_y)
                (loss / recipe.meta_batch).backward()
        optimizer.step()

    return meta_step


def with_torchopt(workload: Workload) -> Step:
    """Plain MAML with `torchopt`, task by task."""
    import torchopt

    recipe, sampler, network = workload.recipe, workload.sampler(), make_network(workload)
    optimizer = torch.optim.Adam(network.parameters(), recipe.outer_rate or 0.0)
    inner = torchopt.MetaSGD(network, lr=recipe.inner_rate)

    def meta_step() -> None:
        optimizer.zero_grad()
        parts: tuple[Any, ...] = network, inner
        start = [torchopt.extract_state_dict(part, by="reference") for part in parts]
        for task in sampler.sample(recipe.meta_batch):
            for _ in range(recipe.inner_steps):
                inner.step(F.cross_entropy(network(task.support_x), task.support_y))
            loss = F.cross_entropy(network(task.query_x), task.query_y)
            (loss / recipe.meta_batch).backward()
            for part, state in zip(parts, start, strict=True):
                torchopt.recover_state_dict(part, state)
        optimizer.step()

    return meta_step


def make_network(workload: Workload) -> nn.Module:
    """The four-block network, built from PyTorch's own modules."""
    channels, height, width = workload.image_shape
    filters = workload.recipe.filters
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for block in range(BLOCKS):
        before = filters if block else channels
        parts[f"conv{block}"] = nn.Conv2d(before, filters, 3, padding=1, bias=False)
        parts[f"norm{block}"] = nn.BatchNorm2d(filters, track_running_stats=False)
        parts[f"relu{block}"] = nn.ReLU()
        parts[f"pool{block}"] = nn.MaxPool2d(2)
    parts["flat"] = nn.Flatten()
    cells = (height >> BLOCKS) * (width >> BLOCKS)
    parts["head"] = nn.Linear(filters * cells, workload.ways)
    torch.manual_seed(0)
    for part in parts.values():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(part.weight)
    return nn.Sequential(parts)


def _norms(network: nn.Module, sets: int) -> list[dict[str, nn.Parameter]]:
    own = {name: w for name, w in network.named_parameters() if "norm" in name}
    return [
        {name: nn.Parameter(w.detach().clone()) for name, w in own.items()} for _ in range(sets)
    ]
