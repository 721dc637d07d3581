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
LEAST_INNER_STEP = 4e-3  # seconds that the smallest network takes for one, for a task
LEAST_STEP, LEAST_TRAINING = 0.1, 60.0  # seconds by that rate: below, starting processes costs more
MEMORY = 1.5e9  # bytes that should be free for each process


def choose_workers(learner: MetaLearner, sampler: object) -> int:
    """How many processes to use, this one included; 1 on a GPU."""
    if getattr(sampler, "device", torch.device("cpu")).type != "cpu":
        return 1
    step = meta_step_seconds(learner, sampler)
    if step is None or step < LEAST_STEP or step * meta_steps(learner) < LEAST_TRAINING:
        return 1
    room = int(psutil.virtual_memory().available / MEMORY)
    return max(1, min(available_cores(), learner.recipe.meta_batch, room))


def meta_steps(learner: MetaLearner) -> int:
    """How many meta-steps a training takes."""
    return learner.recipe.epochs * learner.recipe.iterations_per_epoch


def meta_step_seconds(learner: MetaLearner, sampler: object) -> float | None:
    """About how long a meta-step takes on one core; None where its work cannot be estimated.

    From the operations of one image on its way through the network: a step of second order costs
    about nine times its forward pass, the query set three times.
    """
    if not isinstance(sampler, TaskSampler) or learner.image_shape is None:
        return None
    recipe = learner.recipe
    images = torch.zeros(2, *learner.image_shape)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        learner(learner.weights(), images)
    support, query = sampler.ways * sampler.shots, sampler.ways * sampler.queries
    passes = recipe.inner_steps * 9 * support + 3 * query
    task = counter.get_total_flops() / len(images) * passes / RATE
    return recipe.meta_batch * max(task, recipe.inner_steps * LEAST_INNER_STEP)


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
