"""The meta-gradient of several tasks: at once on a GPU, which one alone leaves idle; else in turn.

At once, the weights of B tasks have one more dimension in front, B. The tasks' maps lie side by
side, as those of one network that is B times as wide and whose convolutions are in B groups, so
that no task sees another one. The gradient of the sum of the tasks' losses is then, row by row,
each task's own: the inner loop is that of `maml.py`, as it is.
"""

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from mamlpp import lean as one_by_one
from mamlpp.data.tasks import TaskBatch
from mamlpp.maml import MetaLearner, Part, Weights, inner_loop
from mamlpp.network import Block, ConvNet, Seen
from mamlpp.operations import batch_norm, convolution, max_pool


def backward(
    learner: MetaLearner, batch: TaskBatch, epoch: float, tasks: int, lean: bool
) -> list[Part]:
    """Add to every `.grad` what these of `tasks` tasks give the meta-gradient; their parts."""
    if at_once(learner, batch.support_x.device) and not lean:
        return wide_backward(learner, batch, epoch, tasks)
    return [one_by_one.backward(learner, task, epoch, tasks, lean) for task in batch]


def at_once(learner: MetaLearner, device: torch.device) -> bool:
    """Whether `backward` takes all tasks at once, where it is not to save memory."""
    return device.type == "cuda" and learner.recipe.query_statistics != "support"


def wide_backward(learner: MetaLearner, batch: TaskBatch, epoch: float, tasks: int) -> list[Part]:
    """`backward` of all tasks at once."""
    counts, second_order = learner.schedule(epoch)
    seen: list[Seen] = []
    noted = seen if learner.keeps_statistics else None
    model = wide_model(learner.network, len(batch), noted)
    weights, support = _spread(learner.weights(), len(batch)), (batch.support_x, batch.support_y)
    steps, total = len(counts), _total_loss
    path = inner_loop(model, weights, support, steps, learner.rule, second_order, total)
    losses = []
    for step, count in enumerate(counts, start=1):
        if count > 0:
            logits = model(path[step], batch.query_x, step)
            losses.append(count * _losses(logits, batch.query_y))
    loss = torch.stack(losses).sum(0)
    (loss.sum() / tasks).backward()
    accuracy = (logits.argmax(-1) == batch.query_y).float().mean(1)
    return [
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
        maps = maps.unflatten(1, (tasks, -1)).transpose(0, 1)  # [B, M, F, h, w]
        maps = maps.flatten(2) if network.pooling == "max" else maps.mean((3, 4))
        return torch.baddbmm(given["head.bias"][:, None], maps, given["head.weight"].mT)

    return model


def _cut(images: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Images `[B, M, C, H, W]` in patches without their mean, `[M, B·9C, h, w]`; the mean
    `[B, 9C, 1]`, float64.
    """
    tasks, count, _, height, width = images.shape
    rows = F.unfold(images.flatten(0, 1), 3, padding=1, stride=stride)
    rows = rows.unflatten(0, (tasks, count))  # [B, M, 9C, P]
    mean = rows.mean((1, 3), dtype=torch.float64)
    rows = rows - mean[:, None, :, None]
    size = (height - 1) // stride + 1, (width - 1) // stride + 1
    maps = rows.to(images.dtype).transpose(0, 1).flatten(1, 2).unflatten(2, size)
    return maps.contiguous(), mean[..., None]


def _after_convolution(
    block: Block, maps: Tensor, step: int, seen: list[Seen] | None, lost: Tensor
) -> Tensor:
    """The rest of a block: maps `[M, B·F, H, W]` that lack `lost` `[B, F]`, to `[M, B·F, h, w]`."""
    weight, bias = (x.repeat(len(lost)) for x in block.norm.affine(step))
    maps, mean, variance = batch_norm(maps, weight, bias, block.norm.eps)
    if seen is not None:
        seen.append((block.norm, step, mean.view_as(lost) + lost, variance.view_as(lost)))
    return F.relu(max_pool(maps) if block.pools else maps)
