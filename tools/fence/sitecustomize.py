"""Refuse what a submission has no business to do, while it is graded.

Python reads this file at its start where its folder is on PYTHONPATH. `MAMLPP_FENCE` holds the
rules as JSON: folders that may be written, that may not be read, and exceptions from the latter.
Each refusal is a PermissionError in the submission's own cell, and a line in the file `log`.

This stops curiosity and accidents, not an attack: an audit hook can be got around (with ctypes, for
one). Only a container stops those who set out to do that.
"""

import importlib.machinery
import importlib.util
import json
import os
import sys

WINDOWS = os.name == "nt"
HERE = os.path.dirname(os.path.realpath(__file__))
# Whether this kit lies in a file system where SOLUTION.ipynb is solution.ipynb.
ANY_CASE = os.path.exists(os.path.join(HERE, os.path.basename(__file__).swapcase()))
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
# Which of an event's arguments name the program: the first of them that is given.
PROGRAMS = {
    "subprocess.Popen": (0, 1),
    "os.exec": (0,),
    "os.posix_spawn": (0,),
    "os.spawn": (1,),
    "os.startfile": (0,),
    "_winapi.CreateProcess": (0, 1),
}
HARMLESS = {"uname", "lscpu", "sysctl"}  # with which libraries ask what machine this is
KILLS = {"os.kill", "os.killpg"}


def real(path):
    """Return the path that is meant, links resolved; None for what is no path.

    Where upper and lower case are the same to the file system, it is in lower case.
    """
    if path is None or isinstance(path, int):
        return None
    path = os.path.realpath(os.fsdecode(path))
    return os.path.normcase(path.casefold() if ANY_CASE else path)


FOLDERS = {name: list(map(real, RULES.get(name, []))) for name in ("write", "unread", "read")}
PYTHONS = {real(sys.executable), real(getattr(sys, "_base_executable", sys.executable))}


def inside(path, folders):
    """Whether `path` is one of `folders` or below it."""
    return any(
        path == folder or path.startswith(folder.rstrip(os.sep) + os.sep) for folder in folders
    )


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
    if path and inside(path, FOLDERS["unread"]) and not inside(path, FOLDERS["read"]):
        refuse(f"reading {os.path.basename(path)} outside its own folder")


def check_writing(path):
    """Refuse to write where submissions may not."""
    __tracebackhide__ = True
    if path in (":memory:", b":memory:"):  # which sqlite3 takes for a database in memory
        return
    path = real(path)
    if path and not inside(path, FOLDERS["write"]):
        refuse(f"writing {os.path.basename(path)} outside its own folder")


def check_program(program):
    """Refuse to start any program but this Python."""
    __tracebackhide__ = True
    program = first_word(program)
    name = os.path.basename(program)
    if real(program) not in PYTHONS and name not in HARMLESS:
        refuse(f"starting the program {name}")


def first_word(command):
    """Return the program of `command`: a path, a list of words, or on Windows one string of all."""
    if isinstance(command, list | tuple):
        return os.fsdecode(command[0]) if command else ""
    command = os.fsdecode(command)
    if not WINDOWS or os.path.exists(command):
        return command
    return command[1:].partition('"')[0] if command.startswith('"') else command.partition(" ")[0]


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
        named = [arguments[position] for position in PROGRAMS[event] if arguments[position]]
        check_program(named[0] if named else "")
    elif event == "os.system":  # whose command may hold several
        refuse(f"starting the program {os.path.basename(os.fsdecode(arguments[0]).split(' ')[0])}")
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


def run_hidden():
    """Run the `sitecustomize` of this Python, which Python does not find because of this one."""
    others = [folder for folder in sys.path if os.path.realpath(folder) != HERE]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


try:
    run_hidden()
finally:  # whatever that one does
    if RULES:
        limit_memory(RULES["bytes"])
        sys.addaudithook(guard)
