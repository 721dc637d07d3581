"""Refuse what a submission has no business to do, while it is graded.

Python reads this file at its start where its folder is on PYTHONPATH. `MAMLPP_FENCE` holds the
rules as JSON: folders that may be written, that may not be read, and exceptions from the latter.
Each refusal is a PermissionError in the submission's own cell, and a line in the file `log`.

This stops curiosity and accidents, not an attack: whoever sets out to can get around an audit hook
(with ctypes, for one). Only a container stops those.
"""

import json
import os
import sys

RULES = json.loads(os.environ.get("MAMLPP_FENCE", "{}"))
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Which of an event's arguments are paths that change.
CHANGES = {
    "os.remove": (0,),
    "os.rename": (0, 1),
    "os.mkdir": (0,),
    "os.rmdir": (0,),
    "os.chmod": (0,),
    "os.chown": (0,),
    "os.link": (0, 1),
    "os.symlink": (1,),
    "os.truncate": (0,),
    "os.utime": (0,),
    "sqlite3.connect": (0,),
}
LISTS = {"os.listdir", "os.scandir"}
PROGRAMS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"}
HARMLESS = {"uname", "lscpu", "sysctl"}  # with which libraries ask what machine this is
KILLS = {"os.kill", "os.killpg"}


def real(path):
    """Return the path that is meant, links resolved; None for what is no path."""
    if path is None or isinstance(path, int):
        return None
    return os.path.realpath(os.fsdecode(path))


def inside(path, folders):
    """Whether `path` is one of `folders` or below it."""
    return any(path == folder or path.startswith(folder + os.sep) for folder in folders)


def refuse(deed):
    """Note that `deed` was attempted, and raise PermissionError."""
    __tracebackhide__ = True
    with open(RULES["log"], "a", encoding="utf-8") as log:
        log.write(deed + "\n")
    raise PermissionError(f"{deed}: not allowed while a submission is graded")


def check_reading(path):
    """Refuse to read where submissions may not."""
    __tracebackhide__ = True
    path = real(path)
    if path and inside(path, RULES["unread"]) and not inside(path, RULES["read"]):
        refuse(f"reading {os.path.basename(path)} outside its own folder")


def check_writing(path):
    """Refuse to write where submissions may not."""
    __tracebackhide__ = True
    path = real(path)
    if path and path != ":memory:" and not inside(path, RULES["write"]):
        refuse(f"writing {os.path.basename(path)} outside its own folder")


def check_program(program):
    """Refuse to start any program but this Python."""
    __tracebackhide__ = True
    if isinstance(program, list | tuple):
        program = program[0] if program else ""
    name = os.path.basename(os.fsdecode(program).split(" ")[0])
    if real(program) != real(sys.executable) and name not in HARMLESS:
        refuse(f"starting the program {name}")


def guard(event, arguments):
    """Look at what Python is about to do; `sys.addaudithook` calls it before each such deed."""
    __tracebackhide__ = True
    if event == "open":
        path, _, flags = arguments
        (check_writing if flags & WRITING else check_reading)(path)
    elif event in LISTS:
        check_reading(arguments[0])
    elif event == "os.mkdir" and os.path.isdir(arguments[0]):
        pass  # which fails by itself, and is how libraries ask for their caches
    elif event in CHANGES:
        for position in CHANGES[event]:
            check_writing(arguments[position])
    elif event in PROGRAMS:
        # Popen's executable is None where the program is the first of its arguments.
        check_program(next(each for each in (*arguments, "") if each))
    elif event in KILLS and abs(arguments[0]) in RULES["spare"]:
        refuse("stopping the grader")


def limit_memory(amount):
    """Let what asks for more than `amount` bytes have a MemoryError instead."""
    try:
        import resource
    except ImportError:  # Windows
        return
    for name in ("RLIMIT_DATA", "RLIMIT_CORE"):
        limit = amount if name == "RLIMIT_DATA" else 0
        resource.setrlimit(getattr(resource, name), (limit, limit))


if RULES:
    limit_memory(RULES["bytes"])
    sys.addaudithook(guard)
