"""mamlpp: the core of a teaching kit that builds MAML up to MAML++ step by step.

The map. Each line may import the lines above it:

    errors, input_checks, precision                what a user gets wrong; full float32
    schedules, recipe, inner_rates, network, maml  the algorithm: read maml.py first
    task_result, learner, diagnostics              a network with its recipe; its gradient, followed
    ------------------------------------------------ above this line: the definition, torch only
    data/       image sets and tasks
    engine/     the same numbers sooner; it follows an edit of the definition
    run/        training, evaluation, folders, sweeps: the only user of the engine
    show/       plots, explorers, the live panel
    checks/     what the exercises call
    cli         the command line
"""

from mamlpp.data import default_dataset, load_images
from mamlpp.data.images import ImageSet
from mamlpp.data.sinusoids import SinusoidSampler
from mamlpp.data.tasks import TaskBatch, TaskSampler
from mamlpp.errors import InputError, InputWarning
from mamlpp.learner import MetaLearner
from mamlpp.maml import Task
from mamlpp.profiles import check_profile
from mamlpp.recipe import RECIPES, Recipe
from mamlpp.run.evaluation import Evaluation, evaluate, evaluate_readings, evaluate_tasks
from mamlpp.run.results import RecordedResult, RecordedRun, load_result
from mamlpp.run.run import Run
from mamlpp.run.seeds import train_seeds
from mamlpp.run.trainer import Trainer, default_device

__all__ = [
    "RECIPES",
    "Evaluation",
    "ImageSet",
    "InputError",
    "InputWarning",
    "MetaLearner",
    "Recipe",
    "RecordedResult",
    "RecordedRun",
    "Run",
    "SinusoidSampler",
    "Task",
    "TaskBatch",
    "TaskSampler",
    "Trainer",
    "check_profile",
    "default_dataset",
    "default_device",
    "evaluate",
    "evaluate_readings",
    "evaluate_tasks",
    "load_images",
    "load_result",
    "train_seeds",
]
