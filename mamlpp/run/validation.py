"""Validation: scores on the same tasks each time, what selects weights by them, and patience."""

from collections.abc import Mapping
from typing import Any

from mamlpp.learner import MetaLearner, Reading
from mamlpp.recipe import Recipe
from mamlpp.run.checkpoints import Best, keep_best
from mamlpp.run.evaluation import evaluate_tasks
from mamlpp.run.history import COLUMNS, History, Row
from mamlpp.run.outer import validation_tasks


class Validation:
    """One sampler, or several by name; the first selects weights, and patience goes by it.

    By the highest accuracy; where there are no classes, by the lowest loss.
    """

    def __init__(self, given: Any, seed: int) -> None:
        several = given if isinstance(given, Mapping) else {"": given}
        firsts = [f"validation_{name}_" if i else "validation_" for i, name in enumerate(several)]
        samplers = (validation_tasks(each, seed) for each in several.values())
        self.samplers = dict(zip(firsts, samplers, strict=True))  # by the start of their columns
        self.first = self.samplers["validation_"]
        self.best: list[Best] = []

    def columns(self, learner: MetaLearner) -> list[str]:
        """What it adds to the columns of a history."""
        scores = ("loss", *(["accuracy"] if learner.ways is not None else []), *learner.metrics)
        names = [f"{start}{score}" for start in self.samplers for score in scores]
        return [name for name in names if name not in COLUMNS]

    def row(
        self, learner: MetaLearner, recipe: Recipe, iteration: int, reading: Reading,
        engine: Any,
    ) -> Row:  # fmt: skip
        """Scores on the same tasks each time; keeps the weights of the best few."""
        row: Row = {}
        for start, sampler in self.samplers.items():
            sampler.restart()
            tasks = recipe.validation_tasks
            result = evaluate_tasks(learner, sampler, tasks, reading=reading, engine=engine)
            row |= {f"{start}{score}": value for score, value in result.scores.items()}
        state = learner.state_dict()
        weights = {name: tensor.to("cpu", copy=True) for name, tensor in state.items()}
        self.best = keep_best(self.best, Best(self._score(row), iteration, weights))
        return row

    def out_of_patience(self, history: History, patience: int | None) -> bool:
        """Whether the last so many validations were no better than one before them."""
        scores = [self._score(row) for row in history.rows if "validation_loss" in row]
        if patience is None or not scores:
            return False
        return len(scores) - 1 - scores.index(max(scores)) >= patience

    def _score(self, row: Row) -> float:
        accuracy = row.get("validation_accuracy")
        return -row["validation_loss"] if accuracy is None else accuracy
