"""Prints, as JSON, what each entry point of the kit on PYTHONPATH computes from the same tasks.

`python -P numbers_of_a_kit.py FOLDER [processes]`, with the folder that holds `tests` as the second
entry of PYTHONPATH; with `processes` also the entry points that start some.
"""

import contextlib
import io
import json
import sys
import warnings
from pathlib import Path

import torch

import mamlpp
from mamlpp.diagnostics import diagnose
from mamlpp.run.background import Background
from mamlpp.run.sweep import Cell, Processes
from tests.makers import noise_sampler, noise_trainer

SIZE = {"meta_batch": 2, "epochs": 1, "iterations_per_epoch": 1}


def numbers():
    trainer = noise_trainer("maml++", **SIZE)
    learner, batch = trainer.learner, noise_sampler().sample(2)
    task = next(iter(batch))
    loss, _ = mamlpp.MetaLearner(trainer.recipe, (1, 16, 16), 3).meta_loss(batch)
    logits = learner.adapt(task.support_x, task.support_y, reading="queries")(task.query_x)
    evaluation = mamlpp.evaluate_tasks(learner, noise_sampler(), 2, reading="queries")
    definition = [
        torch.nn.functional.cross_entropy(
            learner.adapt(t.support_x, t.support_y, reading="queries")(t.query_x), t.query_y
        )
        for t in batch
    ]
    live = Background([noise_trainer("maml++", **SIZE)]).result()[0]
    return {
        "meta_loss": loss.item(),
        "Trainer": trainer.step()["loss"],
        "recompute": noise_trainer("maml++", memory="recompute", **SIZE).step()["loss"],
        "live": live.history.rows[0]["loss"],
        "adapt": logits.norm().item(),
        "diagnose": diagnose(learner, batch).meta_norm,
        "evaluate": [evaluation.loss, torch.stack(definition).mean().item()],
    }


def numbers_of_processes(folder):
    trainer = noise_trainer("maml++", workers=2, **SIZE)
    samplers, recipes = (noise_sampler(), noise_sampler("validation")), {"maml++": trainer.recipe}
    seeds = mamlpp.train_seeds(recipes, *samplers, seeds=(0, 1), workers=2)
    cell = Cell("maml++", trainer.recipe.with_(validation_tasks=2), "glyphs", 5, 1, 1, 2, 1)
    with Processes(Path(folder), 1, "cpu") as engine:
        engine.submit(cell).result()
    images = mamlpp.load_images("glyphs", "train")
    sampler = mamlpp.TaskSampler(images, 5, 1, 1, seed=0, rotate=True)
    sweep, _ = mamlpp.MetaLearner(cell.settings, images.shape, 5).meta_loss(sampler.sample(2))
    history = mamlpp.Run.load(Path(folder) / cell.name).history
    return {
        "two workers": trainer.step()["loss"],
        "train_seeds": seeds["maml++"][0].history.rows[0]["loss"],
        "sweep": [history.rows[0]["loss"], sweep.item()],
    }


if __name__ == "__main__":
    with warnings.catch_warnings(record=True) as said, contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("always")
        found = numbers()
        if sys.argv[2:]:
            found |= numbers_of_processes(sys.argv[1])
    print(json.dumps(found | {"said": sorted({str(warning.message) for warning in said})}))
