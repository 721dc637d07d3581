"""Whether a trainer can be made of what it is given, and what it writes down of its data."""

import inspect
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from mamlpp.data.images import ImageSet
from mamlpp.data.sinusoids import SinusoidSampler
from mamlpp.data.tasks import TaskSampler
from mamlpp.errors import InputError
from mamlpp.input_checks import check_is_recipe, check_is_sampler, is_whole
from mamlpp.learner import MetaLearner
from mamlpp.recipe import Recipe
from mamlpp.run.changes import check_rate
from mamlpp.run.run import DataSettings, names_of


def check_training(
    recipe: Recipe, train: Any, validation: Any, diagnose_every: int | None, patience: int | None,
    callbacks: Any,
) -> None:  # fmt: skip
    """Raise `InputError` where these cannot be trained; validation is a sampler, or several."""
    check_is_recipe(recipe)
    for name, number in (("diagnose_every", diagnose_every), ("patience", patience)):
        if number is not None and not (is_whole(number) and number >= 1):
            what = "meta-steps" if name == "diagnose_every" else "validations"
            raise InputError(f"{name} must be a number of {what} from 1 on, or None, not {number}")
    if not isinstance(callbacks, Sequence) or not all(map(_takes_two, callbacks)):
        raise InputError(
            f"callbacks must be a list of functions of (trainer, row), not {callbacks!r}"
        )
    several = list(validation.values()) if isinstance(validation, Mapping) else [validation]
    if not several:
        raise InputError("validation has no sampler; give one, or several by name")
    for sampler in (train, *several):
        check_is_sampler(sampler)
    for sampler in several:
        if isinstance(train, TaskSampler) and isinstance(sampler, TaskSampler):
            _check_pair(train, sampler)
        _check_other_tasks(train, sampler)


def _takes_two(callback: Any) -> bool:
    """Whether it can be called with two values, as far as can be told."""
    if not callable(callback):
        return False
    try:
        inspect.signature(callback).bind(None, {})
    except TypeError:
        return False
    except ValueError:  # Some functions written in C have no signature.
        return True
    return True


def _check_other_tasks(train: Any, validation: Any) -> None:
    """Raise `InputError` where both begin with the same tasks."""
    waves = isinstance(train, SinusoidSampler) and isinstance(validation, SinusoidSampler)
    one = train is validation and hasattr(train, "restart") and not isinstance(train, TaskSampler)
    if one or (waves and train.seed == validation.seed):
        raise InputError(
            "training and validation draw the same tasks, so that validation would measure what is "
            "remembered; give validation a sampler with another seed"
        )


def _check_pair(train: TaskSampler, validation: TaskSampler) -> None:
    for name in ("ways", "shots"):
        ours, theirs = getattr(train, name), getattr(validation, name)
        if ours != theirs:
            raise InputError(
                f"{name} are {ours} in training tasks and {theirs} in validation tasks; "
                f"give both samplers the same"
            )
    if train.images.shape != validation.images.shape:
        raise InputError(
            f"training images are {list(train.images.shape)} and validation images "
            f"{list(validation.images.shape)}; give both samplers images of the same dataset"
        )
    if train.device != validation.device:
        raise InputError(
            f"training images are on {train.device} and validation images on "
            f"{validation.device}; move both sets to one device with .to"
        )


def check_other_classes(train: Any, validations: Iterable[Any]) -> None:
    """Raise `InputError` where classes of validation are classes of training, too."""
    images = [s.images for s in (train, *validations) if isinstance(s, TaskSampler)]
    for other in images[1:] if isinstance(train, TaskSampler) else ():
        both = _shared_classes(images[0], other)
        if both:
            raise InputError(
                f"{len(both)} of the {len(other)} validation classes are training classes too, so "
                f"that validation would measure what is remembered; give images of other classes: "
                f"load_images(…, 'validation')"
            )


def _shared_classes(train: ImageSet, other: ImageSet) -> set[int]:
    """Classes of `other` that have, in any order, the first and the last picture of one class."""
    having: defaultdict[int, set[int]] = defaultdict(set)  # classes of `other`, by fingerprint
    for c, pictures in enumerate(other.images):
        for picture in pictures:
            having[_fingerprint(picture)].add(c)
    shared: set[int] = set()
    ends = [train.samples - 1] * len(train) if train.counts is None else (train.counts - 1).tolist()
    for pictures, end in zip(train.images, ends, strict=True):
        first, last = (having.get(_fingerprint(pictures[i]), set()) for i in (0, end))
        shared |= first & last
    return shared


def _fingerprint(picture: torch.Tensor) -> int:
    return hash(picture.cpu().numpy().tobytes())


def check_workers(workers: Any, recipe: Recipe, device: torch.device) -> None:
    """Raise `InputError` where so many processes cannot share a meta-batch.

    `workers` is a number, "auto", or `engine.Workers`, which have a `size`.
    """
    if workers == "auto":
        return
    if isinstance(workers, bool) or not (isinstance(workers, int) or hasattr(workers, "size")):
        raise InputError(f"workers must be a whole number or 'auto', not {workers!r}")
    count = workers if isinstance(workers, int) else workers.size
    if not 1 <= count <= recipe.meta_batch:
        raise InputError(
            f"workers must be 1 to {recipe.meta_batch}, the tasks of a meta-batch that they share, "
            f"not {count}"
        )
    if isinstance(workers, int) and workers > 1 and device.type != "cpu":
        raise InputError(
            "several workers on GPUs are started by torchrun --nproc-per-node GPUS -m mamlpp train"
        )


def _check_recipe_of(learner: MetaLearner, recipe: Recipe) -> None:
    """Raise `InputError` where the learner was given another recipe, or another fixed rate."""
    if learner.recipe != recipe:
        raise InputError(
            "the learner's recipe is no longer the trainer's; change fields of both with "
            "trainer.change(outer_rate=…), or make another Trainer"
        )
    check_rate(learner)


def check_unchanged(
    used: dict[str, str], learner: MetaLearner, optimizer: str, recipe: Recipe
) -> None:
    """Raise `InputError` where what the run wrote down is not what would be trained."""
    now = names_of(learner, optimizer)
    for part, name in used.items():
        if now[part] != name:
            raise InputError(
                f"the trainer's {part} was {name} and is {now[part]} now; make a Trainer with the "
                f"one you mean: Trainer(…, learner=…)"
            )
    _check_recipe_of(learner, recipe)


def device_of(sampler: Any) -> torch.device:
    """Where a sampler's tasks are; the CPU where it does not say."""
    return torch.device(getattr(sampler, "device", "cpu"))


def ways_of(sampler: Any) -> int | None:
    """How many classes its tasks have; None where it does not say."""
    return getattr(sampler, "ways", None)


def shape_of(sampler: Any) -> tuple[int, ...] | None:
    """The shape of one input; None where the sampler does not say."""
    images = getattr(sampler, "images", None)
    return images.shape if isinstance(images, ImageSet) else None


def data_settings(train: Any, validation: Any, learner: MetaLearner) -> DataSettings:
    """What a run writes down of its tasks."""

    def images(sampler: Any, part: str) -> str:
        found = getattr(sampler, "images", None)
        return getattr(found, part) if isinstance(found, ImageSet) else type(sampler).__name__

    return DataSettings(
        dataset=images(train, "dataset"),
        ways=learner.ways,
        shots=getattr(train, "shots", None),
        queries=getattr(train, "queries", None),
        image_shape=learner.image_shape,
        training_images=images(train, "name"),
        training_seed=getattr(train, "seed", None),
        training_rotate=getattr(train, "rotate", False),
        validation_images=images(validation, "name"),
        validation_seed=getattr(validation, "seed", None),
        validation_rotate=getattr(validation, "rotate", False),
        validation_queries=getattr(validation, "queries", None),
    )
