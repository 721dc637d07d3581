"""Run every notebook from the first cell to the last, and say which ones failed.

make walkthrough PROFILE=laptop DATASET=auto
"""

from mamlpp import stopping

stopping.listen(
    __name__,
    "The notebooks that had run to their end are in build/notebooks.",
    kill_first=True,  # a kernel that is asked to end takes seconds, and its processes print errors
)

import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import frozen_explorers
import nbformat
import papermill
import tyro
from clean_outputs import drop_bars
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm

from mamlpp.files import replacing
from mamlpp.show import claims

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
PLAIN_MATPLOTLIB = ROOT / "tools" / "matplotlibrc"

ANSI_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
FAILING_LINE = re.compile(r"^-+> *\d+ (.*)$", re.MULTILINE)
MESSAGE_LINES = 12


class NotebookError(Exception):
    """A notebook failed; the message names the notebook, the cell and the reason."""


@dataclass(frozen=True)
class Result:
    """How the run of one notebook ended; `error` is empty if it passed."""

    name: str
    seconds: float
    error: str


def run_notebook(
    path: Path,
    output: Path,
    parameters: Mapping[str, object],
    *,
    seconds_per_cell: int | None = None,
    progress: bool = False,
) -> None:
    """Run the notebook `path` in its own folder and keep the executed copy in `output`.

    Raises `NotebookError` if a cell fails, or if the notebook lacks one of the `parameters`. The
    copy is kept if a cell fails, but not if the kernel dies or the run is interrupted.
    """
    bar = {"desc": f"  {path.stem}", "position": 1, "leave": False, "disable": None}
    options = {"execution_timeout": seconds_per_cell, "progress_bar": bar if progress else False}
    try:
        _check_parameters(path, parameters)
        _execute(path.resolve(), output.resolve(), dict(parameters), options)
    except NotebookError:
        raise
    except PapermillExecutionError as error:
        raise NotebookError(_explain(path, error)) from None
    except Exception as error:  # a kernel that died, a cell that took too long, a broken file
        raise NotebookError(f"{path.name}, {type(error).__name__}: {error}") from error


def _execute(
    path: Path, output: Path, parameters: dict[str, object], options: Mapping[str, object]
) -> None:
    failure = None
    with own_environment(), replacing(output) as part:
        os.environ["JPY_SESSION_NAME"] = str(path)  # as in the lab: claims say their chapter
        try:
            papermill.execute_notebook(
                _literal(path),
                _literal(part),
                parameters,
                kernel_name="python3",
                cwd=path.parent,
                request_save_on_cell_execute=False,  # else it saves the whole copy twice a cell
                extra_arguments=["--log-level=CRITICAL"],  # its log would tear the bar
                **options,
            )
        except Exception as error:
            if not part.exists():
                raise
            failure = error
        _finish(part)
    if failure is not None:
        raise failure


def _finish(copy: Path) -> None:
    """Take the progress bars out of an executed notebook; write of which kit its results are."""
    notebook = nbformat.read(copy, 4)
    drop_bars(notebook)
    notebook.metadata["kit"] = frozen_explorers.kit_digest()
    nbformat.write(notebook, copy)


def _literal(path: Path) -> str:
    """Return `path` with its braces escaped: papermill would replace what is between them."""
    return str(path).replace("{", "{{").replace("}", "}}")


@contextmanager
def own_environment() -> Iterator[None]:
    """Keep the user's own settings away from the notebooks.

    The kernel of this Python takes precedence over any other named python3. Start-up files of
    Python and IPython, and settings of matplotlib, are ignored.
    """
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        own = str(Path(sys.prefix, "share", "jupyter"))
        os.environ["JUPYTER_PATH"] = os.pathsep.join(
            filter(None, [own, before.get("JUPYTER_PATH")])
        )
        os.environ["MATPLOTLIBRC"] = str(PLAIN_MATPLOTLIB)
        os.environ["IPYTHONDIR"] = folder
        for name in ("PYTHONSTARTUP", "MPLBACKEND", "MAMLPP_PROFILE"):
            os.environ.pop(name, None)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def _check_parameters(path: Path, parameters: Mapping[str, object]) -> None:
    """Raise `NotebookError` for a parameter that the notebook lacks: papermill would only warn."""
    known = papermill.inspect_notebook(_literal(path))
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        has = ", ".join(known) or "none"
        raise NotebookError(f"{path.name} has no parameter {', '.join(unknown)} (it has: {has})")


def _explain(path: Path, error: PapermillExecutionError) -> str:
    traceback = ANSI_COLOUR.sub("", "\n".join(error.traceback))
    line = FAILING_LINE.search(traceback)  # the first one is the cell's own, not a library's
    reason = f"{error.ename}: {error.evalue}" if error.evalue else error.ename
    reason = ANSI_COLOUR.sub("", reason).splitlines()[:MESSAGE_LINES]
    code = [line[1].strip()] if line else []
    return "\n    ".join([f"{path.name}, cell In [{error.exec_count}]", *code, *reason])


def run_all(notebooks: list[Path], folder: Path, parameters: Mapping[str, object]) -> list[Result]:
    """Run the notebooks one after another, even if an earlier one fails."""
    results = []
    with tqdm(notebooks, unit="notebook") as bar:
        for path in bar:
            bar.set_description(path.stem)
            results.append(_run_one(path, folder / path.name, for_notebook(path, parameters)))
            if results[-1].error:
                tqdm.write(results[-1].error)
    return results


def for_notebook(path: Path, parameters: Mapping[str, object]) -> dict[str, object]:
    """Return those of the parameters that the notebook has: some have no profile, or none."""
    known = papermill.inspect_notebook(_literal(path))
    return {name: value for name, value in parameters.items() if name in known}


def _run_one(path: Path, output: Path, parameters: Mapping[str, object]) -> Result:
    start = time.perf_counter()
    error = ""
    try:
        run_notebook(path, output, parameters, progress=True)
    except NotebookError as problem:
        error = str(problem)
    return Result(path.name, time.perf_counter() - start, error)


def table(results: list[Result]) -> str:
    """Return a line per notebook: its name, how many seconds it took, and how it ended."""
    width = max(len(result.name) for result in results)
    lines = [f"{'notebook':{width}}  seconds  result"]
    for result in results:
        outcome = "FAILED" if result.error else "passed"
        lines.append(f"{result.name:{width}}  {result.seconds:7.1f}  {outcome}")
    return "\n".join(lines)


def main(
    profile: str = "laptop",
    dataset: str = "auto",
    notebooks: Path = NOTEBOOKS,
    output: Path = ROOT / "build" / "notebooks",
    only: tuple[str, ...] = (),
) -> int:
    """Run every notebook and print a table of the results.

    Args:
        profile: How long the notebooks train, such as smoke or laptop.
        dataset: The images they train on.
        notebooks: The folder that holds them.
        output: Where the executed copies go.
        only: Beginnings of their names, such as 02 04; by default all of them.

    Returns:
        The exit status: 1 if a notebook failed.
    """
    paths = [p for p in sorted(notebooks.glob("*.ipynb")) if p.name.startswith(only or "")]
    if not paths:
        print(f"No notebook in {notebooks}.", file=sys.stderr)
        return 1
    results = run_all(paths, output, {"profile": profile, "dataset": dataset})
    print(f"\n{table(results)}\n\nThe executed notebooks are in {output}.\n")
    print(f"What the chapters claim:\n{claims.ledger().to_string(index=False, justify='left')}")
    if not only:
        print("\nNow the explorers are drawn for 'make book'.", flush=True)
        frozen_explorers.freeze_all()
    return int(any(result.error for result in results))


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
