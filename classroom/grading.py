"""Grade one submission, whatever is wrong with it: repair, run, points, reasons."""

import contextlib
import errno
import json
import os
import stat
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import nbformat

from classroom import canary, flags, questions, stamps
from classroom.execution import run
from classroom.handins import Submission, changed, read_submission
from classroom.kernels import INSIDE, Template, manager
from classroom.reasons import failures, points_of, refusals, sentence, summary
from classroom.records import Grade, Workplace, fingerprint, recall, remember
from classroom.repair import repair
from classroom.sets import ExerciseSet, Limits
from classroom.versions import ROOT
from mamlpp.data.folders import cache_folder
from mamlpp.files import replacing

INTERRUPTED = threading.Event()  # by the teacher
PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "MAMLPP_DATA")
# Without these, Windows starts no program, or has no network, which kernels talk over.
PASSED_ON_WINDOWS = ("SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT", "PROGRAMDATA")
HOMES = ("HOME", "USERPROFILE", "APPDATA", "LOCALAPPDATA", "TMPDIR", "TEMP", "TMP", "IPYTHONDIR")
ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
MOST_REFUSALS = 100_000  # characters of the hook's log that are read


class Interruption(Exception):
    """The grader was stopped while it graded this submission."""


def grade(
    submission: Submission,
    sets: dict[str, ExerciseSet],
    place: Workplace,
    template: Template | None,
) -> Grade:
    """Grade `submission`; return its last grade if nothing has changed."""
    try:
        if submission.fault:
            return refuse(submission, sets, place, submission.fault)
        exercise_set = sets[submission.set]
        key = fingerprint(submission, exercise_set, place)
        known = recall(submission, place, key)
        if known:
            return replace(known, handed_in=changed(submission))
        return grade_anew(submission, exercise_set, place, template, key)
    except Interruption:
        raise
    except Exception as error:  # which must not stop the others
        if is_full(error):
            raise
        problem = f"{type(error).__name__}: {error}"[:200]
        return refuse(submission, sets, place, f"the grader failed on it ({problem})")


def must_run(submission: Submission, sets: dict[str, ExerciseSet], place: Workplace) -> bool:
    """Whether a submission can be run, and has not been graded as it is."""
    if submission.fault:
        return False
    with contextlib.suppress(Exception):  # which is for `grade` to tell
        key = fingerprint(submission, sets[submission.set], place)
        return recall(submission, place, key) is None
    return True


def is_full(error: BaseException) -> bool:
    """Whether `error` says that there is no space left."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)


def grade_anew(
    submission: Submission,
    exercise_set: ExerciseSet,
    place: Workplace,
    template: Template | None,
    key: str,
) -> Grade:
    """Run a notebook, count its points, and keep what came out."""
    assert submission.path is not None
    notebook = read_submission(submission.path)
    found = flags.in_notebook(notebook, exercise_set)
    stamp = stamps.stamp_of(notebook)
    exercise_set = stamps.variant(exercise_set, str(stamp.get("student", "")))
    open_answer = questions.open_answer(notebook, exercise_set.released)
    notes = [*submission.notes, *stamps.changes(notebook, exercise_set)]
    notes += repair(notebook, exercise_set)
    answers = flags.answers_of(notebook, exercise_set)
    canary.add(notebook, exercise_set)
    with tempfile.TemporaryDirectory(prefix="grading-", ignore_cleanup_errors=True) as name:
        job = job_of(exercise_set.limits, place, Path(name).resolve())
        excess, seconds = run(
            notebook,
            manager(job, template),
            exercise_set.limits,
            Path(job["write"][0]),
            job["environment"],
            INTERRUPTED.is_set,
        )
        if INTERRUPTED.is_set():
            raise Interruption
        log = read_log(Path(job["log"]))
    sang = canary.remove(notebook)
    points = points_of(notebook, exercise_set)
    lost = {label for label, (got, most) in points.items() if got < most}
    failed = failures(notebook, exercise_set, lost)
    notes += refusals(log, list(failed.values()))
    notes = [*([excess] if excess else []), *notes]
    made = Grade(
        student=submission.student,
        set=submission.set,
        points=points,
        reason=sentence([*notes, *summary(failed, set(points))]),
        cpu_seconds=round(seconds, 2),
        failed=failed,
        notes=notes,
        flags=[*submission.flags, *found, *sang],
        answers=answers,
        open_answer=open_answer,
        stamp={name: stamp.get(name, "") for name in ("course", "student") if stamp},
        executed=True,
        handed_in=changed(submission),
    )
    with replacing(place.executed(submission)) as part:
        nbformat.write(notebook, part)
    remember(made, place.state(submission), key)
    return made


def refuse(
    submission: Submission, sets: dict[str, ExerciseSet], place: Workplace, fault: str
) -> Grade:
    """Give no points to a submission that cannot be run, and say why."""
    most = sets[submission.set].most if submission.set else {}
    reason = sentence([*submission.notes, fault])
    points = {name: (0.0, points) for name, points in most.items()}
    made = Grade(submission.student, submission.set, points, reason, notes=[fault])
    made = replace(made, flags=list(submission.flags), handed_in=changed(submission))
    if submission.set:
        remember(made, place.state(submission), "")
    return made


def read_log(path: Path) -> list[str]:
    """Return the lines of the audit hook's log.

    A submission may have put a link to a file of the teacher's in its place, or a pipe.
    """
    flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with contextlib.suppress(OSError), os.fdopen(os.open(path, flags), "rb") as file:
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return file.read(MOST_REFUSALS).decode("utf-8", "replace").splitlines()
    return []


def job_of(limits: Limits, place: Workplace, folder: Path) -> dict[str, Any]:
    """Return what a kernel needs to know; what it may write is in `folder`."""
    work, sockets = folder / "work", folder / "k"  # short: a socket's path has 107 characters
    for each in (work, work / ".home", sockets, folder / "root"):
        each.mkdir()
    package = place.folder / "package"
    read = [sys.prefix, sys.base_prefix, INSIDE, package, ROOT / "tools" / "matplotlibrc"]
    read += [cache_folder(), Path(matplotlib.get_cachedir())]
    read += [Path(os.environ[name]) for name in ("MAMLPP_DATA",) if name in os.environ]
    unread = [ROOT, place.sources, place.submitted, place.output, place.folder]
    fence = {
        "write": [str(work), str(sockets), os.devnull, "/dev/shm"],
        "unread": [str(path) for path in [*unread, folder]],
        "read": [str(path) for path in [work, sockets, *read]],
        "bytes": limits.bytes,
        "log": str(work / ".refused"),
        "spare": [os.getpid(), os.getppid()],
    }
    return {
        "write": [str(work), str(sockets)],  # where a submission cannot put a link in their place
        "read": [str(path) for path in read],
        "root": str(folder / "root"),
        "errors": str(work / ".errors"),
        "log": fence["log"],
        "connection": str(sockets / "connection.json"),
        "sockets": str(sockets / "k"),
        "bytes": limits.bytes,
        "disk": limits.disk,
        "processes": 10 * limits.processes,  # which counts threads too
        "environment": environment(work, sockets, place, fence),
    }


def environment(
    work: Path, sockets: Path, place: Workplace, fence: dict[str, Any]
) -> dict[str, str]:
    """Return the environment of a submission: no secrets, one thread, a home in its own folder."""
    return clean_environment(work / ".home", place) | {
        "JUPYTER_RUNTIME_DIR": str(sockets),
        "MAMLPP_FENCE": json.dumps(fence),
    }


def clean_environment(home: Path, place: Workplace) -> dict[str, str]:
    """Return the environment of the process that submissions are forked from."""
    passed_on = [name for name in PASSED_ON + PASSED_ON_WINDOWS if name in os.environ]
    return (
        {name: os.environ[name] for name in passed_on}
        | dict.fromkeys(HOMES, str(home))
        | dict.fromkeys(ONE_THREAD, "1")
        | {
            "CUDA_VISIBLE_DEVICES": "",
            "JUPYTER_PATH": str(Path(sys.prefix, "share", "jupyter")),
            "MAMLPP_CACHE": str(cache_folder()),
            "MAMLPP_CACHE_READ_ONLY": "1",
            "MAMLPP_PROFILE": place.profile,  # not the one that a submission chooses
            "MATPLOTLIBRC": str(ROOT / "tools" / "matplotlibrc"),
            "MPLBACKEND": "agg",
            "MPLCONFIGDIR": matplotlib.get_cachedir(),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": os.pathsep.join([str(INSIDE), str(place.folder / "package")]),
            "PYTHONUTF8": "1",  # the same default encoding on every system
        }
    )
