"""Several tasks, in training and evaluation: at once on a GPU, which one alone leaves idle.

At once, the weights of B tasks have one more dimension in front, B. The tasks' maps lie side by
side, as those of one network that is B times as wide and whose convolutions are in B groups, so
that no task sees another one. The gradient of the sum of the tasks' losses is then, row by row,
each task's own: the inner loop is that of `maml.py`, as it is.
"""

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from mamlpp import lean as one_by_one
from mamlpp.data.tasks import TaskBatch
from mamlpp.fast import Statistics
from mamlpp.maml import MetaLearner, Part, Weights, inner_loop
from mamlpp.network import Block, ConvNet, Seen
from mamlpp.operations import batch_norm, convolution, max_pool, over
from mamlpp.precision import full_precision

Gradient = tuple[tuple[Tensor | None, ...], list[Part]]  # of each parameter; what each task saw


class Kind(NamedTuple):
    """What kind of meta-step: all but its numbers."""

    asked: tuple[int, ...]
    """The steps after which the query loss counts."""
    second_order: bool
    tasks: int
    """Of the whole meta-batch, of which these may be some."""


def backward(
    learner: MetaLearner,
    batch: TaskBatch,
    epoch: float,
    tasks: int,
    lean: bool,
    wide: "Callable[[MetaLearner, TaskBatch, Tensor, Kind], Gradient] | None" = None,
) -> list[Part]:
    """Add to every `.grad` what these of `tasks` tasks give the meta-gradient; their parts.

    `wide` may stand for `wide_gradient`, with results that are good until its next call.
    """
    if not at_once(learner, batch.support_x.device) or lean:
        return [one_by_one.backward(learner, task, epoch, tasks, lean) for task in batch]
    counts, second_order = learner.schedule(epoch)
    asked = tuple(step for step, count in enumerate(counts, start=1) if count > 0)
    weights = batch.support_x.new_tensor([counts[step - 1] for step in asked])
    kind = Kind(asked, second_order, tasks)
    gradients, parts = (wide or wide_gradient)(learner, batch, weights, kind)
    for parameter, gradient in zip(learner.parameters(), gradients, strict=True):
        if gradient is not None:
            before = parameter.grad
            parameter.grad = gradient if before is None else before + gradient
    return parts


def at_once(learner: MetaLearner, device: torch.device) -> bool:
    """Whether `backward` takes all tasks at once, where it is not to save memory."""
    return gains(device) and learner.recipe.query_statistics != "support"


def gains(device: torch.device) -> bool:
    """Whether several tasks at once take less time there than in turn."""
    return device.type == "cuda"


def wide_gradient(learner: MetaLearner, batch: TaskBatch, weights: Tensor, kind: Kind) -> Gradient:
    """What all tasks at once give the meta-gradient.

    The query loss after each of the steps that are asked counts by its number in `weights`.
    """
    seen: list[Seen] = []
    noted = seen if learner.keeps_statistics else None
    model = wide_model(learner.network, len(batch), noted)
    start, support = _spread(learner.weights(), len(batch)), (batch.support_x, batch.support_y)
    steps, total = learner.recipe.inner_steps, _total_loss
    path = inner_loop(model, start, support, steps, learner.rule, kind.second_order, total)
    losses = []
    for step in kind.asked:
        logits = model(path[step], batch.query_x, step)
        losses.append(_losses(logits, batch.query_y))
    loss = weights @ torch.stack(losses)
    gradients = torch.autograd.grad(
        loss.sum() / kind.tasks, list(learner.parameters()), allow_unused=True
    )
    accuracy = (logits.argmax(-1) == batch.query_y).float().mean(1)
    return gradients, [
        Part(*part, [(norm, step, mean[i], variance[i]) for norm, step, mean, variance in seen])
        for i, part in enumerate(zip(loss.detach(), accuracy, strict=True))
    ]


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each task, `[B]`: logits `[B, M, N]`, labels `[B, M]`."""
    return F.cross_entropy(logits.mT, labels, reduction="none").mean(1)


def _total_loss(logits: Tensor, labels: Tensor) -> Tensor:
    return _losses(logits, labels).sum()


def _spread(weights: Weights, tasks: int) -> Weights:
    return {name: weight.expand(tasks, *weight.shape) for name, weight in weights.items()}


def wide_model(
    network: ConvNet, tasks: int, seen: list[Seen] | None = None
) -> Callable[[Weights, Tensor, int], Tensor]:
    """A function (weights `[B, …]`, images `[B, M, C, H, W]`, steps taken) to `[B, M, ways]`.

    It is `network` for B tasks, each under weights of its own; batch norm uses the statistics of a
    task's images, noted in `seen`, `[B, F]`. As for `fast.fast_model`, patches without their mean
    are kept, and it is good for two derivatives.
    """
    known: list[tuple[Tensor, Tensor, Tensor]] = []
    own = _spread(dict(network.named_parameters()), tasks)
    blocks = cast("list[Block]", list(network.blocks))

    def model(weights: Weights, x: Tensor, step: int) -> Tensor:
        if not any(images is x for images, _, _ in known):
            known.append((x, *_cut(x, blocks[0].conv.stride[0])))
        patches, mean = next(rest for images, *rest in known if images is x)
        given = own | weights  # ANIL, say, adapts only some.
        kernel = given["blocks.0.conv.weight"].flatten(2)  # [B, F, 9C]
        lost = (kernel.detach().double() @ mean).to(x.dtype)  # [B, F, 1]
        maps = convolution(patches, kernel.flatten(0, 1)[..., None, None], 1, 0, tasks)
        maps = _after_convolution(blocks[0], maps, step, seen, lost.squeeze(2))
        for i, block in enumerate(blocks[1:], start=1):
            kernel = given[f"blocks.{i}.conv.weight"].flatten(0, 1)  # [B·F, F, 3, 3]
            maps = convolution(maps, kernel, block.conv.stride[0], 1, tasks)
            maps = _after_convolution(block, maps, step, seen, torch.zeros_like(lost.squeeze(2)))
        return _head(network, given, maps)

    return model


def _head(network: ConvNet, given: Weights, maps: Tensor) -> Tensor:
    """Maps `[M, B·F, h, w]` to logits `[B, M, ways]`."""
    maps = maps.unflatten(1, (len(given["head.bias"]), -1)).transpose(0, 1)  # [B, M, F, h, w]
    maps = maps.flatten(2) if network.pooling == "max" else maps.mean((3, 4))
    return torch.baddbmm(given["head.bias"][:, None], maps, given["head.weight"].mT)


def _cut(images: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Images `[B, M, C, H, W]` in patches without their mean, `[M, B·9C, h, w]`; the mean
    `[B, 9C, 1]`, float64.
    """
    tasks = len(images)
    # Views of the padded images: a GPU would run `F.unfold` image by image.
    windows = F.pad(images.flatten(0, 1), (1, 1, 1, 1)).unfold(2, 3, stride).unfold(3, 3, stride)
    rows = windows.permute(0, 1, 4, 5, 2, 3).flatten(1, 3).unflatten(0, (tasks, -1))
    mean = rows.mean((1, 3, 4), dtype=torch.float64)  # of [B, M, 9C, h, w]
    rows = (rows - mean[:, None, :, None, None]).to(images.dtype)
    return rows.transpose(0, 1).flatten(1, 2).contiguous(), mean[..., None]


def _after_convolution(
    block: Block, maps: Tensor, step: int, seen: list[Seen] | None, lost: Tensor
) -> Tensor:
    """The rest of a block: maps `[M, B·F, H, W]` that lack `lost` `[B, F]`, to `[M, B·F, h, w]`."""
    weight, bias = (x.repeat(len(lost)) for x in block.norm.affine(step))
    maps, mean, variance = batch_norm(maps, weight, bias, block.norm.eps)
    if seen is not None:
        seen.append((block.norm, step, mean.view_as(lost) + lost, variance.view_as(lost)))
    return F.relu(max_pool(maps) if block.pools else maps)


# Evaluation ----------------------------------------------------------------------------------


@full_precision()
def wide_path(learner: MetaLearner, batch: TaskBatch, steps: int | None) -> list[Weights]:
    """`MetaLearner.adapted_path` of all tasks at once: weights `[B, …]`."""
    learner.check(batch.support_x[0], batch.support_y)
    tasks, support = len(batch), (batch.support_x, batch.support_y)
    steps = learner.recipe.inner_steps if steps is None else steps
    own = _spread(learner.weights(), tasks)
    start = {name: weight.detach().requires_grad_() for name, weight in own.items()}
    with torch.enable_grad():
        model = wide_model(learner.network, tasks)
        path = inner_loop(model, start, support, steps, learner.rule, False, _total_loss)
    return [{name: weight.detach() for name, weight in weights.items()} for weights in path]


@full_precision()
@torch.no_grad()
def wide_logits(
    learner: MetaLearner, batch: TaskBatch, path: list[Weights], step: int, transductive: bool
) -> Tensor:
    """What `MetaLearner.classifier` says of all tasks' queries after `step` steps: `[B, M, N]`."""
    network, weights, tasks = learner.network, path[step], len(batch)
    if transductive:
        return wide_model(network, tasks)(weights, batch.query_x, step)
    statistics = learner.statistics(
        weights, batch.support_x, step, lambda network, seen: wide_model(network, tasks, seen)
    )
    return _wide_classify(network, weights, batch.query_x, step, statistics)


def _wide_classify(
    network: ConvNet, weights: Weights, images: Tensor, step: int, statistics: Statistics
) -> Tensor:
    """`fast.classify` of all tasks: weights `[B, …]`, images `[B, M, C, H, W]`. Statistics are
    `[B, F]`, or the same for all, `[F]`.
    """
    tasks = len(images)
    given = _spread(dict(network.named_parameters()), tasks) | weights
    maps = images.transpose(0, 1).flatten(1, 2)
    for i, block in enumerate(cast("list[Block]", list(network.blocks))):
        (weight, bias), (mean, variance) = block.norm.affine(step), statistics[block.norm]
        scale = (weight * (variance + block.norm.eps).rsqrt()).expand(tasks, -1)
        kernel = (given[f"blocks.{i}.conv.weight"] * scale[..., None, None, None]).flatten(0, 1)
        maps = F.conv2d(maps, kernel, None, block.conv.stride[0], 1, groups=tasks)
        maps = F.max_pool2d(maps, 2) if block.pools else maps
        maps = F.relu(maps + over((bias - mean * scale).flatten()))
    return _head(network, given, maps)
