"""Grade one submission with nbgrader; `tools/grade.py` starts this program for each of them.

The job comes as JSON on the command line. The points, and a sentence about what went wrong, go to
`result.json` in the folder of the job, and the page of feedback goes beside it.
"""

import json
import logging
import os
import re
import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import nbformat
import psutil
from exercises import cell_name, course, grading, is_solution, is_test
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbconvert.preprocessors import ClearMetadataPreprocessor
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell, new_output
from nbgrader.api import Gradebook
from nbgrader.converters import Autograde, GenerateFeedback
from nbgrader.preprocessors import (
    CheckCellMetadata,
    Execute,
    LimitOutput,
    NbGraderPreprocessor,
    SaveAutoGrades,
)
from traitlets import Integer, Unicode

STUDENT = "student"  # to nbgrader; real names hold characters that it takes for patterns
EXERCISE = re.compile(r"^##+ Exercise (\d+\.\d+)", re.MULTILINE)
ANSI_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
PATIENCE = 3  # times the limit, for a cell that gets less than half a core
LONGEST = 200  # characters of an error in the reason
MOST_OUTPUT = 200_000  # characters of one cell's output


# Putting a submission in order


def repair(submission: NotebookNode, released: NotebookNode) -> list[str]:
    """Turn `submission` into one that nbgrader can grade, and return what was changed, in words.

    Cells get back what nbgrader knew of them when they were handed out, a cell of no known name
    loses it, and test cells that are missing come back. (nbgrader itself then puts the tests, the
    hidden ones too, back into the test cells.) Changes `submission`.
    """
    known = {cell_name(cell): cell for cell in released.cells if grading(cell)}
    present = {cell_name(cell): cell for cell in submission.cells if cell_name(cell) in known}
    changed = [n for n, cell in present.items() if is_test(known[n]) and differs(cell, known[n])]
    for cell in submission.cells:
        restore_metadata(cell, known.get(cell_name(cell)))
    missing = [name for name, cell in known.items() if is_test(cell) and name not in present]
    for name in missing:
        insert(submission, known, name)
    absent = [n for n, cell in known.items() if is_solution(cell) and n not in present]
    return [
        *([f"changed test cells were put back ({', '.join(changed)})"] if changed else []),
        *([f"deleted test cells were put back ({', '.join(missing)})"] if missing else []),
        *([f"deleted answer cells ({', '.join(absent)})"] if absent else []),
    ]


def differs(cell: NotebookNode, original: NotebookNode) -> bool:
    """Whether the text of `cell` is not the `original`'s."""
    return cell.source.strip() != original.source.strip()


def restore_metadata(cell: NotebookNode, original: NotebookNode | None) -> None:
    """Give `cell` the kind and the metadata of its `original`; without one, no grading metadata.

    All metadata, since there are tags that keep a cell from being run.
    """
    if original is None:
        cell.metadata.pop("nbgrader", None)
        return
    cell.metadata = nbformat.from_dict(original.metadata)
    if cell.cell_type != original.cell_type:
        source = cell.source
        cell.clear()
        cell.update(nbformat.from_dict(original), source=source)


def insert(notebook: NotebookNode, known: dict[str, NotebookNode], name: str) -> None:
    """Insert the known cell `name` after the last of its predecessors in `notebook`."""
    names = list(known)
    before = set(names[: names.index(name)])
    places = [i for i, cell in enumerate(notebook.cells) if cell_name(cell) in before]
    # With no predecessor left, behind everything: what it tests is defined somewhere above.
    place = places[-1] + 1 if places else len(notebook.cells)
    notebook.cells.insert(place, nbformat.from_dict(known[name]))


# Running it


class Run(Execute):
    """Execute the notebook in its own folder, behind the fence, and go on after failures.

    What runs for too long is interrupted. Where the kernel has died, does not answer, or has used
    up the time of the whole notebook, the cells that are left count as failed.
    """

    notebook_seconds = Integer(600, help="for the whole notebook").tag(config=True)
    folder = Unicode(help="where it runs").tag(config=True)

    def preprocess(self, nb: NotebookNode, resources: Any, km: Any = None) -> Any:
        """Run all cells of `nb`."""
        self.ends = time.monotonic() + self.notebook_seconds
        self.stopped = ""
        self.kept: Counter[int] = Counter()
        self.timeout_func = self.seconds_left
        resources["metadata"]["path"] = self.folder
        return super().preprocess(nb, resources, km)

    def seconds_left(self, cell: NotebookNode) -> int:
        """Return how many seconds the next cell may take: at least one."""
        seconds = int(max(1, min(self.timeout, self.ends - time.monotonic())))
        text = f"stopped after {seconds} s"
        error = {"ename": "CellTimeoutError", "evalue": text, "traceback": [text.capitalize()]}
        self.error_on_timeout = error
        return seconds

    def preprocess_cell(self, cell: NotebookNode, resources: Any, index: int) -> Any:
        """Run `cell`, or mark it as failed if the notebook has been stopped."""
        if not self.stopped and time.monotonic() > self.ends:
            self.stopped = f"the notebook had used up its {self.notebook_seconds} s"
        if not self.stopped:
            self.began = time.monotonic(), self.used()
            try:
                return super().preprocess_cell(cell, resources, index)
            except DeadKernelError:
                self.stopped = "its Python process had died"
            except CellTimeoutError:
                self.stopped = "its Python process could not be interrupted"
        if cell.cell_type == "code":
            text = f"not run to its end, because {self.stopped}"
            cell.outputs.append(new_output("error", ename="NotRun", evalue=text, traceback=[text]))
        return cell, resources

    def used(self) -> float:
        """Return the processor seconds of the kernel and its child processes."""
        try:
            kernel = psutil.Process(self.km.provisioner.pid)
            times = [each.cpu_times() for each in [kernel, *kernel.children(recursive=True)]]
        except psutil.Error:
            return 0.0
        return sum(each.user + each.system for each in times)

    async def _async_handle_timeout(self, timeout: int, cell: Any = None) -> Any:
        """Interrupt the cell, unless it was only waiting for its turn on a busy machine."""
        waited, used = time.monotonic() - self.began[0], self.used() - self.began[1]
        patient = waited < PATIENCE * self.timeout and time.monotonic() < self.ends
        if patient and used < self.timeout / 2:
            return None  # as long again
        return await super()._async_handle_timeout(timeout, cell)

    def output(self, outs: Any, msg: Any, display_id: Any, cell_index: int) -> Any:
        """Keep the output of a cell up to a limit, and errors in a shortened form."""
        if msg["msg_type"] == "error":
            msg["content"] = shortened(msg["content"])
            return super().output(outs, msg, display_id, cell_index)
        size = sum(len(str(value)) for value in msg["content"].values())
        full = self.kept[cell_index] > MOST_OUTPUT
        self.kept[cell_index] += size
        if self.kept[cell_index] <= MOST_OUTPUT:
            return super().output(outs, msg, display_id, cell_index)
        return None if full else outs.append(new_output("stream", text="… and more, not kept\n"))


def shortened(error: dict[str, Any]) -> dict[str, Any]:
    """Return an error message that is short enough to read, whatever the submission put into it."""
    traceback = [line[:5000] for line in error["traceback"]]
    traceback = traceback if len(traceback) < 20 else [*traceback[:10], "…", *traceback[-8:]]
    return error | {"evalue": error["evalue"][:2000], "traceback": traceback}


class JudgeByErrors(NbGraderPreprocessor):
    """Judge a test cell by its error alone; warnings and other outputs do not count."""

    def preprocess_cell(self, cell: NotebookNode, resources: Any, index: int) -> Any:
        """Move the errors of `cell` to the front, and treat its warnings as printed text."""
        if is_test(cell):
            cell.outputs.sort(key=lambda output: output.output_type != "error")
            for output in cell.outputs:
                if output.output_type == "stream":
                    output.name = "stdout"
        return cell, resources


def autograde(job: dict[str, Any], folder: Path) -> None:
    """Run and grade the submission in the course `folder`, with nbgrader."""
    directory, config = course(folder, job["set"])
    config.Run.timeout = job["seconds_per_cell"]
    config.Run.notebook_seconds = job["seconds"]
    config.Run.folder = job["work"]
    config.Run.iopub_timeout = max(5, job["seconds_per_cell"] // 2)  # to answer an interruption
    grader = Autograde(directory, config=config, permissions=644)
    grader.autograde_preprocessors = [
        Run,
        JudgeByErrors,
        ClearMetadataPreprocessor,
        LimitOutput,
        SaveAutoGrades,
        CheckCellMetadata,
    ]
    grader.start()


# Saying what came out


def exercises_of(notebook: NotebookNode, known: dict[str, str]) -> list[str]:
    """Return the exercise of each cell, such as "1.2", from the heading above or from `known`."""
    label, labels = "", []
    for cell in notebook.cells:
        heading = EXERCISE.search(cell.source) if cell.cell_type == "markdown" else None
        label = heading[1] if heading else known.get(cell_name(cell), label)
        labels.append(label)
    return labels


def exercises_by_name(released: NotebookNode) -> dict[str, str]:
    """Return the exercise of each cell that nbgrader manages, or the cell's own name."""
    labels = exercises_of(released, {})
    pairs = zip(released.cells, labels, strict=True)
    return {cell_name(cell): label or cell_name(cell) for cell, label in pairs if grading(cell)}


def error_of(cell: NotebookNode) -> tuple[str, str] | None:
    """Return the name and the text, on one line, of the error in `cell`, or None."""
    for output in reversed(cell.get("outputs", [])):  # what stopped a cell comes last
        if output.output_type == "error":
            text = " ".join(ANSI_COLOUR.sub("", output.evalue).split())
            return output.ename, text if len(text) <= LONGEST else text[:LONGEST] + "…"
    return None


def in_words(error: tuple[str, str]) -> str:
    """Return what an error means, in words for a teacher."""
    name, text = error
    if name == "NotImplementedError":
        return "not answered"
    if name in ("CellTimeoutError", "NotRun"):
        return text
    if name in ("AssertionError", "Wrong"):
        return text or "a test failed"
    return f"{name}: {text}" if text else name


def failures(graded: NotebookNode, known: dict[str, str], lost: set[str]) -> dict[str, str]:
    """Return why each exercise in `lost` lost points; "" stands for cells outside exercises."""
    errors: dict[str, tuple[str, str]] = {}
    for cell, label in zip(graded.cells, exercises_of(graded, known), strict=True):
        error = error_of(cell)
        # A test fails for its own reason, but a missing name is missing for an earlier one.
        if error and (label not in errors or (is_test(cell) and error[0] != "NameError")):
            errors[label] = error
    return {label: in_words(errors[label]) for label in errors if not label or label in lost}


def sentence(parts: list[str]) -> str:
    """Return `parts` as one sentence."""
    text = "; ".join(part.rstrip(".") for part in parts)
    return text[:1].upper() + text[1:] + "." if text else ""


def refusals(log: Path, said: list[str]) -> list[str]:
    """Return what the fence refused, each action once, except what was `said` already."""
    if not log.exists():
        return []
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    deeds = list(dict.fromkeys(line[:LONGEST] for line in lines))[:3]
    return [f"refused: {deed}" for deed in deeds if not any(deed in text for text in said)]


def summary(failed: dict[str, str], points: dict[str, Any]) -> list[str]:
    """Return what `failures` found as parts of the teacher's sentence."""
    if set(failed) == set(points) and set(failed.values()) == {"not answered"}:
        return ["nothing was answered"]
    return [f"{label}: {text}".removeprefix(": ") for label, text in failed.items()]


def heading(points: dict[str, tuple[float, float]], failed: dict[str, str], notes: str) -> str:
    """Return the beginning of the page of feedback: a table of the exercises, and `notes`."""
    rows = [
        f"| {label} | {got:g} of {most:g} | {plain(failed.get(label, ''))} |"
        for label, (got, most) in points.items()
    ]
    total = [f"{sum(values):g}" for values in zip(*points.values(), strict=True)]
    title = f"**{total[0]} of {total[1]} points.** {plain(notes)}"
    wide = "<style>#notebook td, #notebook th {padding: 0.1em 1em 0.1em 0}</style>"
    return "\n".join([wide, "", title, "", "| exercise | points | |", "|---|---|---|", *rows])


def plain(text: str) -> str:
    """Return `text` with everything escaped that Markdown or HTML would interpret."""
    return re.sub(r"([\\`*_{}\[\]<>|$#~])", lambda found: f"&#{ord(found[1])};", text)


def scores(job: dict[str, Any], folder: Path) -> dict[str, tuple[float, float]]:
    """Return points and most points of each test cell, from the course's gradebook."""
    with Gradebook(f"sqlite:///{folder / 'gradebook.db'}") as book:
        found = book.find_submission_notebook(job["set"], job["set"], STUDENT)
        return {grade.name: (grade.score, grade.max_score) for grade in found.grades}


def add_up(
    points: dict[str, tuple[float, float]], known: dict[str, str]
) -> dict[str, tuple[float, float]]:
    """Return points and most points of each exercise."""
    total: dict[str, tuple[float, float]] = {}
    for name in (name for name in known if name in points):
        got, most = total.get(known[name], (0.0, 0.0))
        total[known[name]] = got + points[name][0], most + points[name][1]
    return total


def write_feedback(job: dict[str, Any], folder: Path, graded: NotebookNode, text: str) -> None:
    """Write the page of feedback for the graded notebook, which begins with `text`."""
    path = folder / "autograded" / STUDENT / job["set"] / f"{job['set']}.ipynb"
    graded.cells.insert(0, new_markdown_cell(text))
    nbformat.write(graded, path)
    directory, config = course(folder, job["set"])
    config.HTMLExporter.exclude_anchor_links = True
    GenerateFeedback(directory, config=config).start()


def grade(job: dict[str, Any]) -> dict[str, Any]:
    """Grade the submission of `job` and return its points and the reason for those it lost."""
    folder, name = Path(job["folder"]), f"{job['set']}.ipynb"
    released = nbformat.read(Path(job["course"], "release", job["set"], name), 4)
    submission = nbformat.read(job["submission"], 4)
    notes = [*job["notes"], *repair(submission, released)]
    target = folder / "submitted" / STUDENT / job["set"] / name
    target.parent.mkdir(parents=True)
    nbformat.write(submission, target)
    shutil.copy(Path(job["course"], "gradebook.db"), folder)

    autograde(job, folder)

    graded = nbformat.read(folder / "autograded" / STUDENT / job["set"] / name, 4)
    known = exercises_by_name(released)
    points = add_up(scores(job, folder), known)
    lost = {label for label, (got, most) in points.items() if got < most}
    failed = failures(graded, known, lost)
    notes += refusals(Path(job["fence"]["log"]), list(failed.values()))
    write_feedback(job, folder, graded, heading(points, failed, sentence(notes)))
    return {"points": points, "reason": sentence([*notes, *summary(failed, points)])}


def processor_seconds() -> float:
    """Return the processor time of this process and of its finished child processes."""
    return round(sum(os.times()[:4]), 2)


def main(job: dict[str, Any]) -> None:
    """Grade one submission and write the result into the job's folder."""
    logging.getLogger("traitlets").addHandler(logging.StreamHandler())  # nbgrader's errors
    os.environ["MAMLPP_FENCE"] = json.dumps(
        {**job["fence"], "spare": [os.getpid(), os.getppid(), 1]}
    )
    os.environ["PYTHONPATH"] = os.pathsep.join(job["python_path"])
    result = grade(job) | {"cpu_seconds": processor_seconds()}
    Path(job["folder"], "result.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
