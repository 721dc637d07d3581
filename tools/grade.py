"""Grade the notebooks that a class has handed in: a table of points, and a page of feedback each.

make grade SUBMITTED=folder [SET=01_inner_loop]

nbgrader runs each submission in a separate process (`tools/grade_one.py`), so that no submission
can stop the others. A submission that was graded is graded again only when it changes.
"""

import stopping

stopping.listen(__name__, "What has been graded is kept: the same command goes on from here.")

import compileall
import csv
import hashlib
import html
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import matplotlib
import nbformat
import psutil
import tyro
from exercises import (
    ROOT,
    SOURCES,
    SourceError,
    cell_name,
    for_class,
    grading,
    read_source,
    release,
)
from grade_one import STUDENT, exercises_by_name
from nbformat import NotebookNode
from tqdm import tqdm

from mamlpp import load_images
from mamlpp.data.folders import cache_folder
from mamlpp.files import replacing

TOOLS = Path(__file__).resolve().parent
PACKAGE = ROOT / "mamlpp"
LARGEST = 50_000_000  # bytes of a submission
MOST_PROCESSES = 60  # of one submission
POLL_SECONDS = 0.5
GRACE_SECONDS = 120  # for nbgrader, beside what the notebook takes
MARK = "MAMLPP_GRADING"  # in the environment of whatever a submission starts
INTERRUPTED = threading.Event()  # by the teacher
PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "MAMLPP_DATA")
# Without these, Windows starts no program, or has no network, which kernels talk over.
PASSED_ON_WINDOWS = ("SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT", "PROGRAMDATA")
HOMES = ("HOME", "USERPROFILE", "APPDATA", "LOCALAPPDATA", "TMPDIR", "TEMP", "TMP", "IPYTHONDIR")
# Names that Windows keeps for devices, whatever follows after a dot.
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)\s*(\.|$)", re.IGNORECASE)
ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class GradingError(Exception):
    """Nothing can be graded; the message says why, in one sentence."""


class Interruption(Exception):
    """The grader was stopped while it graded this submission."""


@dataclass(frozen=True)
class Limits:
    """What a submission may use: seconds per cell and in all, and bytes of memory."""

    seconds_per_cell: int = 60
    seconds: int = 600
    bytes: int = 3_000_000_000


@dataclass(frozen=True)
class ExerciseSet:
    """A set that is ready for grading: its name, cell names, and highest points per exercise.

    `course` is the folder of nbgrader with the tests; `limits` is what submissions may use.
    """

    name: str
    cells: frozenset[str]
    most: dict[str, float]
    course: Path
    limits: Limits
    key: str


@dataclass(frozen=True)
class Submission:
    """A file that was handed in, its student and set; `fault` says why it cannot be run, if so."""

    student: str
    set: str
    path: Path | None
    fault: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Grade:
    """The points of a submission for each exercise, the most possible, and why some are missing."""

    student: str
    set: str
    points: dict[str, tuple[float, float]] = field(default_factory=dict)
    reason: str = ""
    cpu_seconds: float = 0.0

    @property
    def total(self) -> float:
        """The sum of all points."""
        return sum(got for got, _ in self.points.values())

    @property
    def most(self) -> float:
        """The highest possible sum."""
        return sum(most for _, most in self.points.values())


# The sets


def load_sets(sources: Path, folder: Path, limits: Limits) -> dict[str, ExerciseSet]:
    """Return every set of the folder `sources`, prepared for grading in `folder`."""
    paths = sorted(sources.glob("*.ipynb"))
    if not paths:
        raise GradingError(f"There is no exercise set in {sources}.")
    try:
        return {path.stem: load_set(path, folder, limits) for path in paths}
    except SourceError as error:
        raise GradingError(f"A source is faulty, see 'make exercises': {error}") from error


def load_set(path: Path, folder: Path, limits: Limits) -> ExerciseSet:
    """Return the set of the source `path`.

    A source may ask for more time, in its metadata: `"grading": {"seconds_per_cell": 300}`.
    """
    source = read_source(path)
    released = nbformat.read(release(for_class(source), path.stem, folder), 4)
    labels, most = exercises_by_name(released), dict[str, float]()
    for cell in released.cells:
        if grading(cell).get("grade"):
            label = labels[cell_name(cell)]
            most[label] = most.get(label, 0.0) + float(grading(cell)["points"])
    own = source.metadata.get("grading", {})
    allowed = {name: max(value, own.get(name, 0)) for name, value in asdict(limits).items()}
    cells = frozenset(labels)
    return ExerciseSet(path.stem, cells, most, folder, Limits(**allowed), digest([path]))


def digest(paths: list[Path]) -> str:
    """Return a fingerprint of the contents of files."""
    sums = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    return hashlib.sha256("".join(sums).encode()).hexdigest()


# The submissions


def collect(folder: Path, sets: dict[str, ExerciseSet], only: str) -> list[Submission]:
    """Return what was handed in below `folder` for the set `only`, or for any set if empty."""
    found = [identify(path, folder, sets, only) for path in notebooks(folder)]
    wanted = [each for each in found if not only or each.set == only]
    names = {each.student for each in found}
    check_names(names)
    empty = [
        path.name
        for path in sorted(folder.iterdir())
        if path.is_dir() and not hidden(path) and path.name not in names
    ]
    missing = [Submission(name, only, None, "no notebook was handed in") for name in empty]
    return sorted([*newest(wanted), *missing], key=lambda each: (each.student, each.set))


def check_names(students: Collection[str]) -> None:
    """Raise `GradingError` if two names would share a folder, as they may on Windows and macOS."""
    known: dict[str, str] = {}
    for name in sorted(students):
        other = known.setdefault(folder_name(name).casefold(), name)
        if other != name:
            raise GradingError(
                f"'{other}' and '{name}' are one name to some systems: rename one of the two, or "
                f"put what they handed in into one folder."
            )


def notebooks(folder: Path) -> list[Path]:
    """Return all notebooks below `folder`, except checkpoints and other hidden ones."""
    paths = [path for path in sorted(folder.rglob("*.ipynb")) if path.is_file()]
    return [
        path for path in paths if not any(map(hidden, map(Path, path.relative_to(folder).parts)))
    ]


def hidden(path: Path) -> bool:
    """Whether a file or folder is one that nobody handed in on purpose."""
    return path.name.startswith((".", "__"))


def identify(path: Path, folder: Path, sets: dict[str, ExerciseSet], only: str) -> Submission:
    """Find out the student and the set of the notebook `path`, from its cells or else its name."""
    named = next((name for name in sets if name in path.stem), "")
    student = student_of(path, folder, named)
    try:
        held = held_set(read_submission(path), sets)
    except GradingError as error:
        return Submission(student, named or only, path, str(error))
    if not held:
        fault = f"it has no cell of {named or only or 'any set'}: is it from another course?"
        return Submission(student, named or only, path, fault)
    if only and held != only:
        return Submission(student, named or held, path, f"it holds {held}, not {only}")
    notes = () if named == held else (f"the file was named {path.name}",)
    return Submission(student, held, path, notes=notes)


def student_of(path: Path, folder: Path, named: str) -> str:
    """Return the student: the name of the subfolder, or of the file without the name of the set."""
    parts = path.relative_to(folder).parts
    if len(parts) > 1:
        return parts[0]
    before, _, after = path.stem.partition(named) if named else (path.stem, "", "")
    return before.strip("_- ") or after.strip("_- ") or path.stem


def read_submission(path: Path) -> NotebookNode:
    """Return the notebook `path`; raises `GradingError` if the file is not a notebook."""
    size = path.stat().st_size
    if size == 0:
        raise GradingError("the file is empty")
    if size > LARGEST:
        raise GradingError(f"the file is larger than {LARGEST // 1_000_000} MB")
    try:
        notebook = nbformat.read(path, as_version=4)
        # Small faults of form do no harm, but cells there must be.
        if not [cell_name(cell) + cell.source + cell.cell_type for cell in notebook.cells]:
            raise GradingError("the notebook has no cells")
    except GradingError:
        raise
    except Exception as error:  # nbformat raises many kinds, and JSON may hold anything
        raise GradingError("the file is no notebook, or it is damaged") from error
    return notebook


def held_set(notebook: NotebookNode, sets: dict[str, ExerciseSet]) -> str:
    """Return the set to which most cells of `notebook` belong; empty if no cell belongs to any."""
    names = {cell_name(cell) for cell in notebook.cells}
    shared = {each.name: len(names & each.cells) for each in sets.values()}
    best = max(shared, key=lambda name: shared[name])
    return best if shared[best] else ""


def newest(submissions: list[Submission]) -> list[Submission]:
    """Return, for each student and set, the submission that was changed last."""
    chosen: dict[tuple[str, str], Submission] = {}
    for each in sorted(submissions, key=lambda each: each.path.stat().st_mtime if each.path else 0):
        before = chosen.get((each.student, each.set))
        if before and before.path and each.path:
            note = f"{each.path.name} is newer than {before.path.name}"
            each = replace(each, notes=(*each.notes, note))
        chosen[each.student, each.set] = each
    return list(chosen.values())


# Grading one, in a process of its own


@dataclass(frozen=True)
class Workplace:
    """Where the grading of a class takes place."""

    folder: Path  # temporary: nbgrader's course, and a copy of the package for the submissions
    sources: Path
    submitted: Path
    output: Path
    key: str  # of the package and of the grader itself
    profile: str = "laptop"

    def state(self, submission: Submission) -> Path:
        """Return the file that keeps the grade of `submission` for the next run."""
        return self.output / "state" / folder_name(submission.student) / f"{submission.set}.json"

    def feedback(self, submission: Submission) -> Path:
        """Return the page of feedback for `submission`."""
        name = submission.set or "unknown"
        return self.output / "feedback" / folder_name(submission.student) / f"{name}.html"

    def executed(self, submission: Submission) -> Path:
        """Return the notebook of `submission` as it came out of grading."""
        return (
            self.output / "executed" / folder_name(submission.student) / f"{submission.set}.ipynb"
        )


def folder_name(student: str) -> str:
    """Return `student` as a folder name that every system accepts."""
    name = student.rstrip(". ") or "_"
    return f"{name}_" if RESERVED.match(name) or name != student else name


def grade(submission: Submission, sets: dict[str, ExerciseSet], place: Workplace) -> Grade:
    """Grade `submission`, whatever is wrong with it, and write its page of feedback."""
    if submission.fault:
        return refuse(submission, sets, place, submission.fault)
    try:
        return grade_readable(submission, sets, place)
    except Interruption:
        raise
    except Exception as error:  # which must not stop the others
        problem = f"{type(error).__name__}: {error}"[:200]
        return refuse(submission, sets, place, f"the grader failed on it ({problem})")


def grade_readable(submission: Submission, sets: dict[str, ExerciseSet], place: Workplace) -> Grade:
    """Grade a notebook, or return its last grade if nothing has changed since."""
    exercise_set = sets[submission.set]
    key = fingerprint(submission, exercise_set, place)
    known = recall(submission, place, key)
    if known:
        return known
    with tempfile.TemporaryDirectory(prefix="grading-", ignore_cleanup_errors=True) as folder:
        result = run(job_of(submission, exercise_set, place, Path(folder)), exercise_set.limits)
        if INTERRUPTED.is_set():
            raise Interruption
        if "points" not in result:
            return refuse(submission, sets, place, result["reason"])
        keep(Path(folder), submission, place)
    made = Grade(
        submission.student,
        submission.set,
        {name: (got, most) for name, (got, most) in result["points"].items()},
        result["reason"],
        result["cpu_seconds"],
    )
    remember(made, place.state(submission), key)
    return made


def refuse(
    submission: Submission, sets: dict[str, ExerciseSet], place: Workplace, fault: str
) -> Grade:
    """Give no points to a submission that cannot be run, and say why in its feedback."""
    most = sets[submission.set].most if submission.set else {}
    notes = [*submission.notes, fault]
    reason = "; ".join(notes)
    reason = f"{reason[:1].upper()}{reason[1:]}".rstrip(".?") + (
        "?" if fault.endswith("?") else "."
    )
    title = html.escape(submission.set or "Not graded")
    with replacing(place.feedback(submission)) as part:
        part.write_text(
            f"<!DOCTYPE html><meta charset='utf-8'><title>{title}</title><body style='font-family:"
            f"sans-serif; margin: 3em'><h1>{title}</h1><p>0 points. {html.escape(reason)}</p>"
            f"</body>",
            encoding="utf-8",
            errors="backslashreplace",
        )
    points = {name: (0.0, points) for name, points in most.items()}
    return Grade(submission.student, submission.set, points, reason)


def fingerprint(submission: Submission, exercise_set: ExerciseSet, place: Workplace) -> str:
    """Return a fingerprint of everything that the grade depends on."""
    assert submission.path is not None
    parts = [digest([submission.path]), exercise_set.key, place.key, place.profile]
    parts.append(str(exercise_set.limits))
    return hashlib.sha256("".join([*parts, *submission.notes]).encode()).hexdigest()


def recall(submission: Submission, place: Workplace, key: str) -> Grade | None:
    """Return the grade that the same submission got before, or None."""
    try:
        kept = json.loads(place.state(submission).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if kept.pop("key", None) != key or not place.feedback(submission).exists():
        return None
    points = {name: (got, most) for name, (got, most) in kept.pop("points").items()}
    return Grade(points=points, **kept)


def remember(made: Grade, path: Path, key: str) -> None:
    """Keep a grade in the file `path`."""
    with replacing(path) as part:
        part.write_text(json.dumps(asdict(made) | {"key": key}), encoding="utf-8")


def keep(folder: Path, submission: Submission, place: Workplace) -> None:
    """Move the page of feedback and the executed notebook out of the job's `folder`."""
    for step, target in [
        ("feedback", place.feedback(submission)),
        ("autograded", place.executed(submission)),
    ]:
        made = folder / step / STUDENT / submission.set / f"{submission.set}{target.suffix}"
        with replacing(target) as part:
            shutil.copyfile(made, part)


def job_of(
    submission: Submission, exercise_set: ExerciseSet, place: Workplace, folder: Path
) -> dict[str, Any]:
    """Return what `tools/grade_one.py` needs to know; it writes everything into `folder`."""
    folder = folder.resolve()
    work = folder / "work"
    work.mkdir()
    return {
        "submission": str(submission.path),
        "set": submission.set,
        "profile": place.profile,
        "notes": submission.notes,
        "course": str(exercise_set.course),
        "folder": str(folder),
        "work": str(work),
        "seconds_per_cell": exercise_set.limits.seconds_per_cell,
        "seconds": exercise_set.limits.seconds,
        "python_path": [str(TOOLS / "fence"), str(place.folder / "package")],
        "fence": {
            "write": [str(work), os.devnull, "/dev/shm"],
            "unread": [
                str(ROOT),
                str(place.sources),
                str(place.submitted),
                str(place.output),
                str(folder),
                str(place.folder),
            ],
            "read": [
                str(work),
                sys.prefix,
                str(place.folder / "package"),
                str(TOOLS / "fence"),
                str(TOOLS / "matplotlibrc"),
            ],
            "bytes": exercise_set.limits.bytes,
            "log": str(work / ".refused"),
        },
    }


def run(job: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """Grade one submission in a separate process; return its result, or only a reason."""
    mark = uuid.uuid4().hex
    errors = Path(job["folder"], "errors.txt")
    command = [sys.executable, str(TOOLS / "grade_one.py"), json.dumps(job)]
    with errors.open("wb") as stream:
        process = subprocess.Popen(
            command,
            env=environment(Path(job["work"]), mark, job["profile"]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stream,
            start_new_session=True,
        )
    try:
        excess = watch(process, limits)
    finally:
        stop([process.pid])
        process.wait()
        stop(marked(mark))
    return outcome(job, excess, errors)


def outcome(job: dict[str, Any], excess: str, errors: Path) -> dict[str, Any]:
    """Return the result that the process wrote, with the limit it broke, or only a reason."""
    try:
        result = json.loads(Path(job["folder"], "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        last = errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        return {"reason": excess or f"the grader failed on it ({''.join(last)[:200]})"}
    if excess:
        result["reason"] = f"{excess[:1].upper()}{excess[1:]}. {result['reason']}"
    return result


def environment(work: Path, mark: str, profile: str) -> dict[str, str]:
    """Return the environment of a submission: no secrets, one thread, a home in its own folder."""
    home, runtime = work / ".home", work / ".runtime"
    for folder in (home, runtime):
        folder.mkdir()
    passed_on = [name for name in PASSED_ON + PASSED_ON_WINDOWS if name in os.environ]
    return (
        {name: os.environ[name] for name in passed_on}
        | dict.fromkeys(HOMES, str(home))
        | dict.fromkeys(ONE_THREAD, "1")
        | {
            MARK: mark,
            "JUPYTER_PATH": str(Path(sys.prefix, "share", "jupyter")),
            "JUPYTER_RUNTIME_DIR": str(runtime),
            "MAMLPP_CACHE": str(cache_folder()),
            "MAMLPP_CACHE_READ_ONLY": "1",
            "MAMLPP_PROFILE": profile,  # not the one that a submission chooses
            "MATPLOTLIBRC": str(TOOLS / "matplotlibrc"),
            "MPLBACKEND": "agg",
            "MPLCONFIGDIR": matplotlib.get_cachedir(),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUTF8": "1",  # the same default encoding on every system
        }
    )


def watch(process: subprocess.Popen[bytes], limits: Limits) -> str:
    """Wait for `process`; stop its children if they break a limit, and say which one."""
    excess, ends = "", time.monotonic() + limits.seconds + GRACE_SECONDS
    while process.poll() is None and not INTERRUPTED.wait(POLL_SECONDS):
        children = psutil.Process(process.pid).children(recursive=True) if not excess else []
        excess = excess or too_much(children, limits)
        if excess and children:
            stop([child.pid for child in children])
            ends = time.monotonic() + GRACE_SECONDS
        if time.monotonic() > ends:
            return excess or f"it took more than {limits.seconds + GRACE_SECONDS} s"
    return excess or ("it was interrupted" if process.poll() is None else "")


def too_much(processes: list[psutil.Process], limits: Limits) -> str:
    """Return which limit `processes` break, in words; empty if none."""
    if len(processes) > MOST_PROCESSES:
        return f"it was stopped when it ran more than {MOST_PROCESSES} processes"
    if sum(map(memory, processes)) > limits.bytes:
        return f"it was stopped when it used more than {limits.bytes / 1e9:g} GB of memory"
    return ""


def memory(process: psutil.Process) -> int:
    """Return the bytes of memory that `process` uses, 0 if it has ended."""
    try:
        return process.memory_info().rss
    except psutil.Error:
        return 0


def marked(mark: str) -> list[int]:
    """Return the processes that a submission started and left behind."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return found


def stop(processes: list[int]) -> None:
    """Kill `processes` and all that they started."""
    for pid in processes:
        try:
            process = psutil.Process(pid)
            for each in [*process.children(recursive=True), process]:
                each.kill()
        except psutil.Error:
            continue


# A class


@contextmanager
def workplace(sources: Path, submitted: Path, output: Path, profile: str) -> Iterator[Workplace]:
    """Make a temporary folder with a copy of the package, from which submissions import it."""
    with tempfile.TemporaryDirectory(prefix="grading-", ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PACKAGE, folder / "package" / PACKAGE.name, ignore=skip)
        fill_caches()
        compileall.compile_dir(folder / "package", quiet=2)
        code = [*sorted(PACKAGE.rglob("*.py")), *sorted(TOOLS.rglob("*.py"))]
        handed_in, made = submitted.resolve(), output.resolve()
        yield Workplace(folder, sources.resolve(), handed_in, made, digest(code), profile)


def fill_caches() -> None:
    """Fill the caches once, because submissions may not write to them."""
    importlib.import_module("matplotlib.font_manager")
    load_images("glyphs", "train")


def grade_all(
    submissions: list[Submission],
    sets: dict[str, ExerciseSet],
    place: Workplace,
    workers: int,
) -> Iterator[Grade]:
    """Grade all submissions, `workers` at a time, and yield the grades as they are finished."""
    pool = ThreadPoolExecutor(workers)
    waiting = [pool.submit(grade, each, sets, place) for each in submissions]
    try:
        for done in as_completed(waiting):
            yield done.result()
    finally:
        INTERRUPTED.set()
        pool.shutdown(cancel_futures=True)
        INTERRUPTED.clear()


def write_table(grades: list[Grade], sets: dict[str, ExerciseSet], path: Path) -> None:
    """Write one line per submission: student, set, points by exercise, total, maximum, reason."""
    names = sorted({each.set for each in grades if each.set})
    exercises = list(dict.fromkeys(label for name in names for label in sets[name].most))
    with (
        replacing(path) as part,
        part.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        table = csv.writer(file)
        table.writerow(["student", "set", *exercises, "total", "max", "reason"])
        for each in sorted(grades, key=lambda each: (each.student, each.set)):
            points = [
                shown(each.points[name][0]) if name in each.points else "" for name in exercises
            ]
            row = [
                each.student,
                each.set,
                *points,
                shown(each.total),
                shown(each.most),
                each.reason,
            ]
            table.writerow(map(as_text, row))


def as_text(value: str) -> str:
    """Return `value` in a form that no spreadsheet reads as a formula."""
    return f"'{value}" if value.startswith(("=", "+", "-", "@")) else value


def shown(points: float) -> str:
    """Return points as people write them: 2, not 2.0."""
    return f"{points:.2f}".rstrip("0").rstrip(".")


def check(submitted: Path | None, only: str, sources: Path) -> Path:
    """Return the folder `submitted`; raises `GradingError` if there is nothing to grade."""
    if submitted is None or str(submitted) in ("", "."):
        raise GradingError("Which folder? Type 'make grade SUBMITTED=folder'.")
    if not submitted.is_dir():
        raise GradingError(f"There is no folder {submitted}.")
    names = [path.stem for path in sorted(sources.glob("*.ipynb"))]
    if only and only not in names:
        raise GradingError(f"There is no set {only}; there are: {', '.join(names)}.")
    if not notebooks(submitted):
        raise GradingError(f"There is no notebook in {submitted}.")
    return submitted


def grade_class(
    submitted: Path,
    only: str,
    sources: Path,
    output: Path,
    limits: Limits,
    workers: int,
    profile: str,
) -> list[Grade]:
    """Grade the folder `submitted`, and write the table and the feedback to `output`.

    The table is written only at the end: half a table could be mistaken for a complete one.
    """
    grades: list[Grade] = []
    with workplace(sources, submitted, output, profile) as place:
        sets = load_sets(sources, place.folder, limits)
        submissions = collect(submitted.resolve(), sets, only)
        with tqdm(total=len(submissions), unit="notebook", disable=None) as bar:
            for each in grade_all(submissions, sets, place, workers):
                grades.append(each)
                bar.update()
    try:
        write_table(grades, sets, output / "points.csv")
    except PermissionError as error:
        raise GradingError(
            f"{output / 'points.csv'} cannot be written: close it where it is open, and type the "
            f"same command again; what has been graded is kept."
        ) from error
    return grades


def main(
    submitted: Path | None = None,
    set: str = "",
    sources: Path = SOURCES,
    output: Path = ROOT / "build" / "grades",
    workers: int = 2,
    profile: Literal["smoke", "laptop"] = "laptop",
    seconds_per_cell: int = Limits.seconds_per_cell,
    seconds: int = Limits.seconds,
    memory: float = Limits.bytes / 1e9,
) -> int:
    """Grade a folder of submissions.

    Args:
        submitted: One folder a student, or files that are named for set and student.
        set: The only set to grade, such as 01_inner_loop; every set, if empty.
        sources: The folder of the sets' sources.
        output: Where points.csv and feedback/ go.
        workers: How many submissions are graded at a time.
        profile: How long the sets train that train, whatever the submissions say.
        seconds_per_cell: How long a cell may take.
        seconds: How long a whole notebook may take.
        memory: How many GB a submission may use.

    Returns:
        The exit status: 1 where nothing could be graded.
    """
    limits = Limits(seconds_per_cell, seconds, int(memory * 1e9))
    try:
        folder = check(submitted, set, sources)
        grades = grade_class(folder, set, sources, output, limits, workers, profile)
    except GradingError as error:
        print(error, file=sys.stderr)
        return 1
    full = sum(each.total == each.most > 0 for each in grades)
    none = sum(each.total == 0 for each in grades)
    print(
        f"{len(grades)} submissions: {full} with all points, {none} with none, each with a reason."
    )
    print(f"Points: {output / 'points.csv'}. Feedback: {output / 'feedback'}.")
    return 0


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
