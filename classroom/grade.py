"""Grade the notebooks that a class has handed in: a table of points, and a page of feedback each.

make grade SUBMITTED=folder [SET=01_inner_loop] [ROSTER=roster.csv] [DUE=2027-03-05]
           [LATE="10 % a day, at most 3"]
"""

from mamlpp import stopping

stopping.listen(__name__, "What has been graded is kept: the same command goes on from here.")

import compileall
import importlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Literal

import tyro
from tqdm import tqdm

from classroom import grading
from classroom.handins import Submission, collect, notebooks
from classroom.kernels import Means, Template
from classroom.records import Grade, Workplace, of_other_sets
from classroom.report import Report, keep_rules
from classroom.roster import read_roster
from classroom.rules import lateness
from classroom.sets import ExerciseSet, GradingError, Limits, digest, load_sets, secret_of
from classroom.versions import ROOT, SOURCES
from mamlpp import load_images
from mamlpp.naming import counted

PACKAGE = ROOT / "mamlpp"


@contextmanager
def workplace(sources: Path, submitted: Path, output: Path, profile: str) -> Iterator[Workplace]:
    """Make a temporary folder to grade in."""
    with tempfile.TemporaryDirectory(prefix="grading-", ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        code = [*sorted(PACKAGE.rglob("*.py")), *sorted(Path(__file__).parent.rglob("*.py"))]
        key = digest(path.read_bytes() for path in code)
        yield Workplace(
            folder, sources.resolve(), submitted.resolve(), output.resolve(), key, profile
        )


def copy_package(place: Workplace) -> None:
    """Copy the package, with what Python has compiled of it, for submissions to import."""
    shutil.copytree(PACKAGE, place.folder / "package" / PACKAGE.name, dirs_exist_ok=True)
    compileall.compile_dir(place.folder / "package", quiet=2)


def fill_caches() -> None:
    """Fill the caches once, because submissions may not write to them."""
    importlib.import_module("matplotlib.font_manager")
    load_images("glyphs", "train")


@contextmanager
def kernels(place: Workplace, trust: bool) -> Iterator[Template | None]:
    """Start the process that kernels are forked from, where this system forks; say what is open.

    Raises `GradingError` where something is not contained and the teacher does not `trust`.
    """
    copy_package(place)
    fill_caches()
    with ExitStack() as stack:
        template = None
        if sys.platform == "linux":
            for name in ("home", "root"):
                (place.folder / name).mkdir(exist_ok=True)
            environment = grading.clean_environment(place.folder / "home", place)
            template = stack.enter_context(Template(environment, place.folder / "root"))
        means = template.means if template else Means()
        if means.left_open():
            sentence = f"This system does not keep submissions from {means.left_open()}"
            if not trust:
                raise GradingError(
                    f"{sentence}: add --trust if you know your class, or grade in a container "
                    f"(TEACHING.md)."
                )
            print(f"{sentence}; you trust them.", file=sys.stderr)
        yield template


def preparations(
    submissions: list[Submission], sets: dict[str, ExerciseSet], place: Workplace, trust: bool
) -> AbstractContextManager[Template | None]:
    """Return `kernels`, or nothing where every submission was graded before."""
    if any(grading.must_run(each, sets, place) for each in submissions):
        return kernels(place, trust)
    return nullcontext()


def grade_all(
    submissions: list[Submission],
    sets: dict[str, ExerciseSet],
    place: Workplace,
    template: Template | None,
    workers: int,
) -> Iterator[Grade]:
    """Grade all submissions, `workers` at a time, and yield the grades as they are finished."""
    pool = ThreadPoolExecutor(workers)
    waiting = [pool.submit(grading.grade, each, sets, place, template) for each in submissions]
    try:
        for done in as_completed(waiting):
            yield done.result()
    except OSError as error:
        if not grading.is_full(error):
            raise
        raise GradingError(
            "The disk is full: make room, and type the same command again; what has been graded "
            "is kept."
        ) from error
    finally:
        grading.INTERRUPTED.set()
        pool.shutdown(cancel_futures=True)
        grading.INTERRUPTED.clear()


def check(submitted: Path | None, only: str, sources: Path, output: Path) -> Path:
    """Return the folder `submitted`; raises `GradingError` if there is nothing to grade."""
    if submitted is None or str(submitted) in ("", "."):
        raise GradingError("Which folder? Type 'make grade SUBMITTED=folder'.")
    if not submitted.is_dir():
        raise GradingError(f"There is no folder {submitted}.")
    names = [path.stem for path in sorted(sources.glob("*.ipynb"))]
    if only and only not in names:
        raise GradingError(f"There is no set {only}; there are: {', '.join(names)}.")
    if not notebooks(submitted.resolve(), [output.resolve()]):
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
    trust: bool = False,
    course: str = "",
    roster: Path | None = None,
    due: str = "",
    late: str = "",
) -> list[Grade]:
    """Grade the folder `submitted`, and write what comes of it to `output`.

    All tables and pages are written only at the end: half a table could be mistaken for a complete
    one.
    """
    grades: list[Grade] = []
    people = read_roster(roster)
    lateness(due, late)  # says now what is wrong with them
    with workplace(sources, submitted, output, profile) as place:
        sets = load_sets(sources, place.folder, limits, secret_of(output / "secret.txt"))
        submissions = collect(place.submitted, sets, only, [place.output])
        with (
            preparations(submissions, sets, place, trust) as template,
            tqdm(total=len(submissions), unit="notebook", disable=None) as bar,
        ):
            for each in grade_all(submissions, sets, place, template, workers):
                grades.append(each)
                bar.update()
        names = {each.set for each in grades}
        keep_rules(output, names, due, late)
        report = Report(place, sets, people, course)
        report.write(grades, of_other_sets(output, names))
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
    trust: bool = False,
    roster: Path | None = None,
    due: str = "",
    late: str = "",
    course: str = "",
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
        trust: Grade although this system cannot contain what submissions do.
        roster: Who is in the class: a file of the course system, or with the columns name,id,email.
        due: When the set is due: 2027-03-05, or '2027-03-05 18:00'.
        late: What late days cost: '10 % a day, at most 3' (nothing is accepted after the third).
        course: The course and term of the handout, to find notebooks of another one.

    Returns:
        The exit status: 1 where nothing could be graded.
    """
    limits = Limits(seconds_per_cell, seconds, int(memory * 1e9))
    try:
        folder = check(submitted, set, sources, output)
        grades = grade_class(
            folder, set, sources, output, limits, workers, profile, trust, course, roster, due, late
        )
    except GradingError as error:
        print(error, file=sys.stderr)
        return 1
    full = sum(each.total == each.most > 0 for each in grades)
    none = sum(each.total == 0 for each in grades)
    print(
        f"{counted(len(grades), 'submission')}: {full} with all points, {none} with none, "
        "each with a reason."
    )
    looks = sum(bool(each.flags) for each in grades)
    print(f"Points: {output / 'points.csv'} and grades.csv. Feedback: {output / 'feedback'}.")
    names = sorted({each.set for each in grades if each.set})
    classes = ", ".join(f"class_{name}.html" for name in names)
    first = f"; look at {counted(looks, 'submission')} first" if looks else ""
    print(f"The class: {classes}{first}.")
    return 0


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
