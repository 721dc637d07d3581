"""How many processes share a meta-batch, where the user leaves it open: `workers="auto"`.

The choice depends on the machine's cores and free memory and on an estimate of the work, but on no
clock, so that the same machine chooses the same number for the same training.
"""

import os

import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode

from mamlpp.data.tasks import TaskSampler
from mamlpp.learner import MetaLearner

RATE = 2e10  # operations per second of one core, as an order of magnitude
LEAST_STEP, LEAST_TRAINING = 0.1, 60.0  # seconds by that rate: below, starting processes costs more
MEMORY = 1.5e9  # bytes that should be free for each process


def choose_workers(learner: MetaLearner, sampler: TaskSampler) -> int:
    """How many processes to use, this one included; 1 on a GPU."""
    recipe = learner.recipe
    if getattr(sampler, "device", torch.device("cpu")).type != "cpu":
        return 1
    if not isinstance(sampler, TaskSampler) or learner.image_shape is None:
        return 1  # Its work cannot be estimated.
    step = meta_step_operations(learner, sampler) / RATE
    if step < LEAST_STEP or step * recipe.epochs * recipe.iterations_per_epoch < LEAST_TRAINING:
        return 1
    room = int(psutil.virtual_memory().available / MEMORY)
    return max(1, min(available_cores(), recipe.meta_batch, room))


def meta_step_operations(learner: MetaLearner, sampler: TaskSampler) -> float:
    """Operations of a meta-step, from those of one image on its way through the network.

    A step of second order costs about nine times its forward pass, the query set three times.
    """
    recipe = learner.recipe
    images = torch.zeros(2, *learner.image_shape)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        learner(learner.weights(), images)
    support, query = sampler.ways * sampler.shots, sampler.ways * sampler.queries
    passes = recipe.inner_steps * 9 * support + 3 * query
    return counter.get_total_flops() / len(images) * passes * recipe.meta_batch


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
