"""What a person reads: fields in `help`, names that are missing, a learner, numbers with nouns."""

import ast
import inspect
import textwrap
from itertools import pairwise
from typing import Any, TypeVar

from mamlpp.errors import InputError

Class = TypeVar("Class", bound=type)


class Named(dict[str, Any]):
    """A dictionary that says which names there are where one is missing."""

    kind = "recipe"

    def __repr__(self) -> str:
        """The names alone."""
        return f"<{counted(len(self), self.kind)}: {', '.join(self)}>"

    def __missing__(self, name: object) -> Any:
        raise InputError(f"there is no {self.kind} {name!r}; choose one of {', '.join(self)}")


def documented(cls: Class) -> Class:
    """The class; its docstring, which `help` prints, lists the fields with what is said of each."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    except (OSError, TypeError):  # There is no source: in a frozen program, say.
        return cls
    body = tree.body if isinstance(tree, ast.ClassDef) else []
    lines = [cls.__doc__ or "", ""]
    for one, following in pairwise(body):
        if isinstance(one, ast.AnnAssign) and isinstance(following, ast.Expr):
            assert isinstance(following.value, ast.Constant)
            words = " ".join(str(following.value.value).split())
            entry = f"{ast.unparse(one.target)}: {words}"
            lines += textwrap.wrap(entry, 96, initial_indent="    ", subsequent_indent="        ")
    cls.__doc__ = "\n".join(lines)
    return cls


def describe(learner: Any) -> str:
    """A learner in a line."""
    moved = sum(weight.numel() for weight in learner.weights().values())
    every = sum(parameter.numel() for parameter in learner.parameters())
    ways = f"{learner.ways}-way" if learner.ways else "no classes"
    return (
        f"{type(learner).__name__}({ways}, {type(learner.network).__name__}, "
        f"{counted(learner.recipe.inner_steps, 'inner step')} by {type(learner.rule).__name__} "
        f"move {moved:,} of {every:,} numbers)"
    )


def counted(number: float, noun: str) -> str:
    """A number with its noun: "1 class", "2 classes"; "1 query", "2 queries"; "0.5 epochs"."""
    several = noun + ("es" if noun.endswith("s") else "s")
    if noun.endswith("y"):
        several = noun[:-1] + "ies"
    whole = int(number) if number == int(number) else number
    return f"{whole:,} {noun if number == 1 else several}"
