"""The authors' published MAML++ code, run unchanged from the user's checkout of it.

Only its training and evaluation iterations run, on our tasks, without its option parser, its data
loader and its files. That part still runs unchanged on PyTorch 2.13.
"""

import importlib
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from math import ceil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from benchmarks.race import Step
from benchmarks.workloads import Workload
from mamlpp.data.tasks import TaskBatch
from mamlpp.errors import InputError
from mamlpp.network import BLOCKS

SYSTEM = "few_shot_learning_system"
Batch = tuple[Tensor, ...]


def check(checkout: Path) -> None:
    """Raise `InputError` if this folder is not a checkout of the published code."""
    if not (checkout / f"{SYSTEM}.py").is_file():
        raise InputError(
            f"{checkout} has no {SYSTEM}.py; pass --against the folder of a checkout of the "
            f"authors' code (HowToTrainYourMAMLPytorch)"
        )


def published(workload: Workload, checkout: Path) -> Step:
    """Its training iteration, on our tasks and with the settings of our recipe."""
    theirs, sample = _with_tasks(workload, checkout)
    return lambda: theirs.run_train_iter(sample(), epoch=0)


def evaluation(workload: Workload, checkout: Path) -> Step:
    """Its evaluation iteration, on one meta-batch of our tasks."""
    theirs, sample = _with_tasks(workload, checkout)
    return lambda: theirs.run_validation_iter(sample())


def _with_tasks(workload: Workload, checkout: Path) -> tuple[Any, Callable[[], Batch]]:
    theirs, pack = system(workload, checkout)
    sampler = workload.sampler()
    return theirs, lambda: pack(sampler.sample(workload.recipe.meta_batch))


def system(workload: Workload, checkout: Path) -> tuple[Any, Callable[[TaskBatch], Batch]]:
    """Its learner, and what turns our tasks into its `[B, N, K or Q, …]`."""
    sys.path.insert(0, str(checkout))
    channels, height, width = workload.image_shape
    shape = (2, channels, height, width)
    make = importlib.import_module(SYSTEM).MAMLFewShotClassifier

    def pack(batch: TaskBatch) -> Batch:
        parts = batch.support_x, batch.query_x, batch.support_y, batch.query_y
        return tuple(x.unflatten(1, (workload.ways, -1)) for x in parts)

    with redirect_stdout(None):  # It prints every parameter.
        return make(shape, torch.device("cpu"), settings(workload)), pack


def settings(workload: Workload) -> SimpleNamespace:
    """A workload in the terms of its configuration files."""
    recipe = workload.recipe
    per_step = recipe.norm_weights == "per_step"
    return SimpleNamespace(
        batch_size=recipe.meta_batch,
        num_classes_per_set=workload.ways,
        number_of_training_steps_per_iter=recipe.inner_steps,
        number_of_evaluation_steps_per_iter=recipe.inner_steps,
        task_learning_rate=recipe.inner_rate,
        learnable_per_layer_per_step_inner_loop_learning_rate=recipe.inner_rule == "lslr",
        meta_learning_rate=recipe.outer_rate,
        min_learning_rate=recipe.outer_rate_min or recipe.outer_rate,
        total_epochs=recipe.epochs,
        use_multi_step_loss_optimization=recipe.msl_epochs > 0,
        multi_step_loss_num_epochs=recipe.msl_epochs or 1,
        second_order=True,
        first_order_to_second_order_epoch=ceil(recipe.second_order_from or 0) - 1,
        per_step_bn_statistics=per_step,
        learnable_bn_gamma=True,
        learnable_bn_beta=True,
        enable_inner_loop_optimizable_bn_params=False,
        norm_layer="batch_norm",
        cnn_num_filters=recipe.filters,
        num_stages=BLOCKS,
        conv_padding=1,
        max_pooling=True,
        dataset_name="noise",
        use_cuda=False,
        seed=recipe.seed,
    )
