"""The outer loop's own parts: the optimizer with its scheduler, and the tasks of any sampler."""

import copy
import inspect
import json
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from mamlpp.data.tasks import TaskBatch, TaskSampler, as_batch, stream_seed
from mamlpp.errors import InputError, InputWarning
from mamlpp.gradients import listed
from mamlpp.recipe import Recipe
from mamlpp.run.checkpoints import State
from mamlpp.schedules import outer_rate

MakeOptimizer = Callable[[list[nn.Parameter]], Any]
Value = TypeVar("Value")


class Fixed(Generic[Value]):
    """An attribute that is set once. To replace it raises `InputError`, with how it is given.

    Only the trainer itself changes it afterwards, in its `vars`.
    """

    def __init__(self, given: str) -> None:
        self.given = given

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Value:
        if self.name not in vars(instance):
            raise AttributeError(self.name)
        return vars(instance)[self.name]

    def __set__(self, instance: Any, value: Value) -> None:
        if self.name in vars(instance):
            raise InputError(f"the {self.name} of a trainer is given when it is made: {self.given}")
        vars(instance)[self.name] = value


class Outer:
    """The optimizer of the meta-weights: the recipe's Adam, or what `make` makes of them.

    `make` returns an optimizer, or an optimizer with its scheduler, which then takes a step after
    each meta-step; `ReduceLROnPlateau` after each validation. Where the recipe has an `outer_rate`,
    the recipe decides every group's rate, so the optimizer must begin with it. Raises `InputError`
    where it does not, and for a scheduler.
    """

    def __init__(self, learner: nn.Module, recipe: Recipe, make: MakeOptimizer | None) -> None:
        parameters = [p for p in learner.parameters() if p.requires_grad]
        self.own, self.scheduler = make is not None, None
        self._make(parameters, recipe, make)
        self._check_parameters(learner)
        self._parameters = list(map(id, learner.parameters()))
        self._moved, self._rates = list(map(id, self._own_parameters())), self._rates_now()

    def _make(
        self, parameters: list[nn.Parameter], recipe: Recipe, make: MakeOptimizer | None
    ) -> None:
        if make is None:
            if recipe.outer_rate is None:
                raise InputError("the recipe's outer_rate is None: give it, or an optimizer")
            fused = parameters[0].device.type == "cuda"  # One kernel for all, not one for each.
            self.optimizer: Any = torch.optim.Adam(
                parameters, lr=recipe.outer_rate, fused=fused or None
            )
            return
        made = make(parameters) if callable(make) else make
        pair = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
        self.optimizer, self.scheduler = pair
        if not callable(make) or not isinstance(self.optimizer, torch.optim.Optimizer):
            what = f"returned {type(made).__name__}" if callable(make) else f"is {made!r}"
            raise InputError(
                f"optimizer must be a function of the parameters that returns a "
                f"torch.optim.Optimizer, or one with its scheduler, such as "
                f"lambda p: SGD(p, lr=0.1); it {' '.join(what.split())}"
            )
        self._check_steps()
        self._check_rates(recipe)

    def _check_steps(self) -> None:
        """Raise `InputError` where optimizer or scheduler cannot take a step by itself."""
        closure = inspect.signature(type(self.optimizer).step).parameters.get("closure")
        if closure is not None and closure.default is closure.empty:
            raise InputError(
                f"{type(self.optimizer).__name__} computes the loss several times in a step, which "
                f"a meta-step does once; choose an optimizer whose step() needs no closure"
            )
        scheduler = self.scheduler
        if scheduler is None:
            return
        if not hasattr(scheduler, "step") or not hasattr(scheduler, "state_dict"):
            raise InputError(
                f"the scheduler of an optimizer must be one of torch.optim.lr_scheduler, not "
                f"{type(scheduler).__name__}"
            )
        if getattr(scheduler, "optimizer", self.optimizer) is not self.optimizer:
            raise InputError("the scheduler is that of another optimizer; make it of this one")

    def _check_parameters(self, learner: nn.Module) -> None:
        """Raise `InputError` for parameters of something else; warn of what is left out."""
        names = {id(p): name for name, p in learner.named_parameters() if p.requires_grad}
        found = set(map(id, self._own_parameters()))
        if not found <= names.keys():
            raise InputError(
                "the optimizer holds parameters that are not the learner's; make it of those that "
                "it is called with: optimizer=lambda parameters: SGD(parameters, lr=0.1)"
            )
        if left := [name for number, name in names.items() if number not in found]:
            warnings.warn(
                f"the optimizer was not given {listed(left)}: the outer loop does not learn it",
                InputWarning,
                stacklevel=4,
            )

    def _own_parameters(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _rates_now(self) -> set[float]:
        return {float(group["lr"]) for group in self.optimizer.param_groups}

    def _check_rates(self, recipe: Recipe) -> None:
        rates = self._rates_now()
        if recipe.outer_rate is None or (rates == {recipe.outer_rate} and self.scheduler is None):
            return
        which = "a scheduler" if self.scheduler else f"the rate {sorted(rates)}"
        raise InputError(
            f"the optimizer has {which}, but the recipe's outer_rate, {recipe.outer_rate:g}, is "
            f"set before each meta-step; make it with lr=recipe.outer_rate, or leave its "
            f"rates to it with recipe.with_(outer_rate=None, outer_rate_min=None)"
        )

    def check_unchanged(self, learner: nn.Module, recipe: Recipe, epoch: float) -> None:
        """Raise `InputError` where somebody changed parameters, or a rate that would not act."""
        self._check_same_parameters(learner)
        if recipe.outer_rate is not None:
            self._check_nothing_attached(recipe, epoch)

    def _check_same_parameters(self, learner: nn.Module) -> None:
        now = list(map(id, learner.parameters()))
        if now != self._parameters or list(map(id, self._own_parameters())) != self._moved:
            known = {*self._parameters}
            new = [name for name, p in learner.named_parameters() if id(p) not in known]
            raise InputError(
                f"the learner and the optimizer do not have the parameters that they had when the "
                f"trainer was made{': new is ' + listed(new) if new else ''}; make a Trainer with "
                f"the learner you mean: Trainer(…, learner=…)"
            )

    def _check_nothing_attached(self, recipe: Recipe, epoch: float) -> None:
        rates = self._rates_now()
        if "initial_lr" in self.optimizer.param_groups[0] or not rates <= self._rates:
            raise InputError(
                "the rate of the trainer's optimizer was changed by hand, or by a scheduler, but "
                "the recipe's outer_rate is set before each meta-step; anneal it with "
                "outer_rate_min, change it with trainer.change(outer_rate=…), or give "
                "Trainer(…, optimizer=lambda p: (opt := SGD(p, 0.1), StepLR(opt, 10))) and the "
                "recipe outer_rate=None"
            )
        arguments = recipe.outer_rate, recipe.outer_rate_min, recipe.epochs
        self._rates = rates | {float(outer_rate(*arguments, epoch))}

    @property
    def name(self) -> str:
        """Its classes, as a run writes them down."""
        parts = [self.optimizer, *([self.scheduler] if self.scheduler else [])]
        return " with ".join(type(part).__name__ for part in parts)

    def after_step(self) -> None:
        """Let the scheduler take its step."""
        if self.scheduler is not None and not isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step()

    def after_validation(self, row: dict[str, Any]) -> None:
        """Tell a scheduler that waits for it the validation loss; or, in mode "max", accuracy."""
        if isinstance(self.scheduler, ReduceLROnPlateau):
            loss = row["validation_loss"]
            best = row.get("validation_accuracy", -loss) if self.scheduler.mode == "max" else loss
            self.scheduler.step(best)

    def state(self) -> tuple[State, dict[str, Any]]:
        """All tensors of the optimizer, by name; and, of one's own, all the rest as plain data."""
        whole = self.optimizer.state_dict()
        items = {f"{i}/{k}": v for i, some in whole["state"].items() for k, v in some.items()}
        tensors = {name: value for name, value in items.items() if isinstance(value, torch.Tensor)}
        if not self.own:
            return tensors, {}
        plain = {
            "groups": [
                {k: v for k, v in g.items() if k != "params"} for g in whole["param_groups"]
            ],
            "numbers": {name: value for name, value in items.items() if name not in tensors},
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
        }
        try:
            json.dumps(plain)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"the state of {self.name} holds more than tensors and numbers ({error}), so that "
                f"a run in a folder could not continue; choose another, or train without a folder"
            ) from error
        return tensors, plain

    def restore(self, tensors: State, plain: dict[str, Any]) -> None:
        """Load what `state` returned, in place."""
        whole, state = self.optimizer.state_dict(), dict[int, dict[str, Any]]()
        for name, value in (tensors | plain.get("numbers", {})).items():
            index, _, rest = name.partition("/")
            state.setdefault(int(index), {})[rest] = value
        groups = whole["param_groups"]
        if plain:
            groups = [own | kept for own, kept in zip(groups, plain["groups"], strict=True)]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        if self.scheduler is not None:
            self.scheduler.load_state_dict(plain["scheduler"])
        self._rates = self._rates_now()


class TrainingTasks:
    """The meta-batches of a sampler, from its first task on, and again from where it stopped.

    Any object with `sample(tasks)` is a sampler. It may draw with torch, numpy or `random`, whose
    common generators are seeded for each meta-batch; or keep a `torch.Generator` named `generator`.
    Where it keeps neither, a resumed run draws the batches before once more, and drops them.
    """

    def __init__(self, sampler: Any, seed: int) -> None:
        self.sampler, self.seed = sampler, seed

    def sample(self, tasks: int, number: int) -> TaskBatch:
        """The meta-batch of a meta-step."""
        own = isinstance(getattr(self.sampler, "generator", None), torch.Generator)
        with nullcontext() if own else seeded(self.seed, f"meta-batch {number}"):
            return as_batch(self.sampler.sample(tasks), tasks)

    def state(self) -> State:
        """The state of its generator, if it has one."""
        generator = getattr(self.sampler, "generator", None)
        if not isinstance(generator, torch.Generator):
            return {}
        return {"generator": generator.get_state()}

    def restore(self, state: State, tasks: int, drawn: int) -> None:
        """Go on after `drawn` meta-batches of so many tasks."""
        if "generator" in state:
            self.sampler.generator.set_state(state["generator"])
            return
        for number in range(drawn):
            self.sample(tasks, number)


class SameTasks:
    """The tasks of a sampler that cannot `restart`: drawn once, and the same ones every time."""

    def __init__(self, sampler: Any, seed: int) -> None:
        self.sampler, self.seed = sampler, seed
        self._drawn: list[TaskBatch] = []
        self.restart()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "sampler":
            raise AttributeError(name)
        return getattr(self.sampler, name)

    def restart(self) -> None:
        """Begin with the first task again."""
        self._next = 0

    def sample(self, tasks: int) -> TaskBatch:
        """The next tasks; asked for the same numbers of tasks, it gives the same ones."""
        if self._next == len(self._drawn):
            with seeded(self.seed, f"validation {self._next}"):
                self._drawn.append(as_batch(self.sampler.sample(tasks), tasks))
        self._next += 1
        return self._drawn[self._next - 1]


def at_start(sampler: Any) -> Any:
    """A copy that draws the sampler's tasks from the first on, and shares its images.

    A sampler that cannot `restart` is used as it is.
    """
    if not hasattr(sampler, "restart"):
        return sampler
    own = copy.copy(sampler)
    own.restart()
    return own


def validation_tasks(sampler: Any, seed: int) -> Any:
    """A sampler that gives the same tasks after each `restart`."""
    if isinstance(sampler, TaskSampler) or hasattr(sampler, "restart"):
        return at_start(sampler)
    return SameTasks(sampler, seed)


@contextmanager
def seeded(seed: int, stream: str) -> Iterator[None]:
    """Seed the common generators of torch, numpy and Python; afterwards they are as before."""
    number = stream_seed(seed, stream)
    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_available() else []):
        torch.manual_seed(number)
        random.seed(number)
        np.random.seed(number % 2**32)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
