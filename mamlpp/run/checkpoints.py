"""A run's tensor files: its last two checkpoints, and the weights that were best on validation.

A checkpoint, such as `checkpoint-00001500.safetensors`, holds everything that training needs to
resume after that iteration. Best weights have names such as `best-00001000.safetensors`. All files
use the safetensors format, which executes no code when loaded. Writes are atomic, and each file
holds a checksum of its contents.
"""

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mamlpp.errors import InputError, InputWarning
from mamlpp.files import replacing

KEPT_BEST = 5
State = dict[str, Tensor]


class Best(NamedTuple):
    """Weights that are among the best on validation, and their validation accuracy in 0 … 1.

    Where there are no classes, the accuracy is minus the validation loss.
    """

    accuracy: float
    iteration: int
    weights: State

    def __repr__(self) -> str:
        """Without the weights."""
        return f"<Best of iteration {self.iteration}: {self.accuracy:.4g}>"


class Checkpoint(NamedTuple):
    """Everything that training resumes from: `state` has "learner", "adam" and "sampler".

    Where the optimizer is not the recipe's, "adam" has its tensors all the same, and `plain` what
    are no tensors.
    """

    iteration: int
    history_size: int  # length of `history.csv` in bytes at this iteration
    state: dict[str, State]
    best: list[Best]
    plain: dict[str, Any]


def save_checkpoint(directory: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint and the best weights, then delete the files that they replace."""
    path = directory / f"checkpoint-{checkpoint.iteration:08}.safetensors"
    tensors = {
        f"{part}/{name}": tensor
        for part, some in _all_parts(checkpoint).items()
        for name, tensor in some.items()
    }
    best = [[best.accuracy, best.iteration] for best in checkpoint.best]
    about = {"iteration": checkpoint.iteration, "history_size": checkpoint.history_size}
    plain = {"plain": checkpoint.plain} if checkpoint.plain else {}
    _write(path, tensors, about | {"best": best} | plain)
    others = [other for other in _checkpoints(directory) if other != path]
    previous = [other for other in others if other < path][-1:]
    _remove(set(others) - set(previous))
    write_best(directory, checkpoint.best)


def latest_checkpoint(directory: Path) -> Checkpoint | None:
    """The latest readable checkpoint; None if there are no checkpoints.

    Warns about each damaged checkpoint. Raises `InputError` if all of them are damaged.
    """
    paths = _checkpoints(directory)
    for path in reversed(paths):
        try:
            return _read_checkpoint(path)
        except InputError as error:
            message = f"{error}; using the previous checkpoint instead, if there is one"
            warnings.warn(message, InputWarning, stacklevel=5)  # Points at the caller of `Trainer`.
    if paths:
        raise InputError(
            f"no checkpoint in {directory} can be read; choose another folder, or delete this one"
        )
    return None


def _read_checkpoint(path: Path) -> Checkpoint:
    tensors, about = _read(path)
    parts: dict[str, State] = {}
    for name, tensor in tensors.items():
        part, _, rest = name.partition("/")
        parts.setdefault(part, {})[rest] = tensor
    best = [Best(score, number, parts.pop(f"best-{number}")) for score, number in about["best"]]
    history = path.with_name("history.csv")
    if not history.exists() or history.stat().st_size < about["history_size"]:
        raise InputError(f"{history} is shorter than it was when {path.name} was written")
    numbers = about["iteration"], about["history_size"]
    return Checkpoint(*numbers, parts, best, about.get("plain", {}))


def _all_parts(checkpoint: Checkpoint) -> dict[str, State]:
    return checkpoint.state | {f"best-{best.iteration}": best.weights for best in checkpoint.best}


def _checkpoints(directory: Path) -> list[Path]:
    return sorted(directory.glob("checkpoint-*.safetensors"))


def latest_weights(directory: Path) -> State:
    """The weights of the latest checkpoint; raises `InputError` if there is none."""
    checkpoint = latest_checkpoint(directory)
    if checkpoint is None:
        raise InputError(f"{directory} has no checkpoint yet; let the run write its first one")
    return checkpoint.state["learner"]


def keep_best(kept: list[Best], new: Best) -> list[Best]:
    """Add `new` and keep the best `KEPT_BEST`, best first; if tied, the later iteration first."""
    others = [best for best in kept if best.iteration != new.iteration]
    return sorted([*others, new], key=lambda best: best[:2], reverse=True)[:KEPT_BEST]


def write_best(directory: Path, kept: list[Best]) -> None:
    """Write the kept weights that have no file yet, then delete the files of all others."""
    paths = {directory / f"best-{best.iteration:08}.safetensors": best for best in kept}
    for path, best in paths.items():
        if not path.exists():
            _write(path, best.weights, {"accuracy": best.accuracy, "iteration": best.iteration})
    _remove(set(directory.glob("best-*.safetensors")) - set(paths))


def _remove(paths: Iterable[Path]) -> None:
    """Delete files that have been replaced; the next call tries again where one is being read."""
    for path in paths:
        with suppress(PermissionError):  # On Windows, while another process reads it.
            path.unlink()


def read_best(directory: Path) -> tuple[Best, ...]:
    """Read the best weights in a folder, best first; raises `InputError` if there are none."""
    kept: list[Best] = []
    for path in directory.glob("best-*.safetensors"):
        weights, about = _read(path)
        kept = keep_best(kept, Best(about["accuracy"], about["iteration"], weights))
    if not kept:
        raise InputError(f"{directory} has no best weights yet; let the run finish its first epoch")
    return tuple(kept)


def _write(path: Path, tensors: State, about: dict[str, Any]) -> None:
    """Write tensors and plain data to a safetensors file, atomically; raises `OSError`."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    shared = Counter(tensor.data_ptr() for tensor in tensors.values())  # Tied weights are.
    tensors = {n: x.clone() if shared[x.data_ptr()] > 1 else x for n, x in tensors.items()}
    text = json.dumps(about)
    try:
        data = save(tensors, {"about": text, "checksum": _checksum(tensors, text)})
    except KeyError as error:
        raise InputError(
            f"a folder cannot hold numbers of {error}; take others, or train without a folder"
        ) from error
    with replacing(path) as part:
        part.write_bytes(data)


def _read(path: Path) -> tuple[State, dict[str, Any]]:
    """Read what `_write` wrote; raises `InputError` if the file is unreadable or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            text, checksum = (file.metadata()[name] for name in ("about", "checksum"))
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error})") from error
    if checksum != _checksum(tensors, text):
        raise InputError(f"{path} is damaged: its contents do not match its checksum")
    return tensors, json.loads(text)


def _checksum(tensors: State, text: str) -> str:
    return hashlib.sha256(save(tensors) + text.encode()).hexdigest()
