"""A learner that was meta-trained in advance, so that a page has one to play with at once.

    learner, made_by = ready_learner()
    classify = learner.adapt(support_x, support_y)

Its weights, `ready.safetensors` beside this file, are written by `tools/ready_learner.py`.
"""

import json
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save

from mamlpp.files import replacing
from mamlpp.learner import MetaLearner
from mamlpp.recipe import Recipe

WEIGHTS = Path(__file__).with_name("ready.safetensors")


def ready_learner(path: Path = WEIGHTS) -> tuple[MetaLearner, str]:
    """The learner in a file, for 5-way tasks of 28x28 drawings, and a sentence on how it was made.

    It takes images `[M, 1, 28, 28]` in 0 … 1, ink 1 on paper 0.
    """
    with safe_open(str(path), "pt") as file:
        about = json.loads(file.metadata()["about"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    recipe = Recipe(**about["recipe"])
    learner = MetaLearner(recipe, tuple(about["image_shape"]), about["ways"])
    learner.load_state_dict(tensors)
    return learner, about["made_by"]


def write_ready_learner(learner: MetaLearner, made_by: str, path: Path = WEIGHTS) -> None:
    """Write a learner with its recipe, as `ready_learner` reads it."""
    about = {
        **{"recipe": learner.recipe.as_dict(), "image_shape": list(learner.image_shape or ())},
        **{"ways": learner.ways, "made_by": made_by},
    }
    with replacing(path) as part:
        part.write_bytes(save(learner.state_dict(), {"about": json.dumps(about)}))
