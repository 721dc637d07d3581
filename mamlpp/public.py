"""The names that `mamlpp` itself offers: `mamlpp.Trainer`, `from mamlpp import load_images`."""

from mamlpp.data import default_dataset, load_images, register_dataset
from mamlpp.data.images import ImageSet
from mamlpp.data.own import image_folder, image_set
from mamlpp.data.sinusoids import SinusoidSampler
from mamlpp.data.tasks import TaskBatch, TaskSampler
from mamlpp.errors import InputError, InputWarning
from mamlpp.learner import MetaLearner
from mamlpp.maml import Task
from mamlpp.profiles import check_profile, chosen_profile
from mamlpp.recipe import Recipe
from mamlpp.recipes import RECIPES
from mamlpp.run.evaluation import Evaluation, evaluate, evaluate_readings, evaluate_tasks
from mamlpp.run.export import export, plain_network
from mamlpp.run.results import RecordedResult, RecordedRun, load_result
from mamlpp.run.run import Run, load_run
from mamlpp.run.seeds import train_seeds
from mamlpp.run.trainer import Trainer, default_device, tensorboard

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
    "chosen_profile",
    "default_dataset",
    "default_device",
    "evaluate",
    "evaluate_readings",
    "evaluate_tasks",
    "export",
    "image_folder",
    "image_set",
    "load_images",
    "load_result",
    "load_run",
    "plain_network",
    "register_dataset",
    "tensorboard",
    "train_seeds",
]
