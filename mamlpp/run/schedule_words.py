"""What a recipe's schedules come to in a training of its length, in words."""

from typing import Any

from mamlpp.naming import counted
from mamlpp.recipe import Recipe
from mamlpp.run.changes import MILESTONES


def describe_schedule(recipe: Recipe) -> str:
    """One line: the length, the order of derivatives, the multi-step loss, the outer rate."""
    parts = [
        f"{counted(recipe.epochs, 'epoch')} of {counted(recipe.iterations_per_epoch, 'meta-step')}"
    ]
    start = recipe.second_order_from
    if start is None or start >= recipe.epochs:
        parts.append("first order throughout")
    elif start > 0:
        parts.append(f"first order until epoch {start:.3g}, then second")
    else:
        parts.append("second order throughout")
    if recipe.msl_epochs:
        parts.append(f"multi-step loss until epoch {recipe.msl_epochs:.3g}")
    if recipe.outer_rate is None:
        parts.append("outer rate of the optimizer")
    elif recipe.outer_rate_min is None:
        parts.append(f"outer rate {recipe.outer_rate:g}")
    else:
        parts.append(f"outer rate {recipe.outer_rate:g} annealed to {recipe.outer_rate_min:g}")
    return "schedule: " + "; ".join(parts)


def describe_length(before: Recipe, after: Recipe) -> str:
    """What differs between a recipe and the same at another length: "epochs 20 instead of 10"."""
    both = ((name, getattr(before, name), getattr(after, name)) for name in ("epochs", *MILESTONES))
    return ", ".join(f"{name} {new:g} instead of {old:g}" for name, old, new in both if old != new)


def late_milestones(recipe: Recipe) -> list[str]:
    """A sentence for each milestone that lies beyond the end of the training."""
    sentences = []
    if recipe.second_order_from is not None and recipe.second_order_from >= recipe.epochs:
        sentences.append(
            f"second_order_from is epoch {recipe.second_order_from:g}, but the training ends with "
            f"epoch {recipe.epochs}: it is first order throughout; choose an earlier epoch, or None"
        )
    if recipe.msl_epochs > recipe.epochs:
        sentences.append(
            f"msl_epochs is {recipe.msl_epochs:g}, but the training ends with epoch "
            f"{recipe.epochs}: the multi-step loss will not have become the final loss by then"
        )
    return sentences


def failed_to_learn(recipe: Recipe, rows: list[dict[str, float]], ways: int | None) -> str | None:
    """A sentence, with what to try, where a finished training has learned nothing; else None."""
    skipped = sum("nonfinite" in row for row in rows)
    if skipped > len(rows) / 2:
        return (
            f"{skipped} of {counted(len(rows), 'meta-step')} were skipped, since their "
            f"meta-gradient was not finite: nothing was learned there; try a lower "
            f"inner_rate or outer_rate, or clip_norm"
        )
    found = [row["validation_accuracy"] for row in rows if "validation_accuracy" in row]
    if len(rows) >= LONG_ENOUGH and found and ways and max(found) < 1.15 / ways:
        return (
            f"the best validation accuracy, {100 * max(found):.1f} %, is about that of guessing "
            f"({100 / ways:.1f} %): nothing was learned; try another inner_rate or outer_rate, or "
            f"a longer training"
        )
    return None


def nonfinite_end(recipe: Recipe, rows: list[dict[str, Any]]) -> str | None:
    """Why a training ends here, at a meta-gradient that is not finite; None where it goes on."""
    bad = rows[-1].get("nonfinite") if rows else None
    if bad is None or recipe.nonfinite != "stop":
        return None
    return (
        f"the meta-gradient of iteration {len(rows)} is not finite, first in {bad}, and the recipe "
        f"says stop; train with nonfinite='skip', a lower outer_rate or clip_norm"
    )


LONG_ENOUGH = 50  # meta-steps, before a training that knows nothing is worth a word
