"""Refuse what a submission must not do while it is graded.

Python runs this file when it starts with this folder on PYTHONPATH. `MAMLPP_FENCE` holds the rules
as JSON: folders that may be written, folders that may not be read, and exceptions to the latter.
Each refusal raises PermissionError in the submission's cell, and adds a line to the file `log`.

It says in words what `wall.py` would refuse without any. By itself it stops curiosity and
accidents, not attacks: ctypes, for one, gets around an audit hook.
"""

import importlib.machinery
import importlib.util
import json
import os
import sys

WINDOWS = os.name == "nt"
HERE = os.path.dirname(os.path.realpath(__file__))
# Whether SOLUTION.ipynb and solution.ipynb are the same file in the file system of this kit.
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
# Which arguments of an event name the program; the first that is not empty counts.
PROGRAMS = {
    "subprocess.Popen": (0, 1),
    "os.exec": (0,),
    "os.posix_spawn": (0,),
    "os.spawn": (1,),
    "os.startfile": (0,),
    "_winapi.CreateProcess": (0, 1),
}
HARMLESS = {"uname", "lscpu", "sysctl"}  # libraries ask these about the machine
KILLS = {"os.kill", "os.killpg"}


def real(path):
    """Return `path` as an absolute path with links resolved, or None if it is not a path.

    It is in lower case if the file system ignores case.
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
    """Log that `deed` was attempted, and raise PermissionError."""
    __tracebackhide__ = True
    with open(RULES["log"], "a", encoding="utf-8") as log:
        log.write(deed + "\n")
    raise PermissionError(f"{deed}: not allowed while a submission is graded")


def check_reading(path):
    """Refuse to read outside the folders that submissions may read."""
    __tracebackhide__ = True
    path = real(path)
    if path and inside(path, FOLDERS["unread"]) and not inside(path, FOLDERS["read"]):
        refuse(f"reading {os.path.basename(path)} outside its own folder")


def check_writing(path):
    """Refuse to write outside the folders that submissions may write."""
    __tracebackhide__ = True
    if path in (":memory:", b":memory:"):  # a database of sqlite3 in memory
        return
    path = real(path)
    if path and not inside(path, FOLDERS["write"]):
        refuse(f"writing {os.path.basename(path)} outside its own folder")


def check_program(program):
    """Refuse to start any program except this Python."""
    __tracebackhide__ = True
    program = first_word(program)
    name = os.path.basename(program)
    if real(program) not in PYTHONS and name not in HARMLESS:
        refuse(f"starting the program {name}")


def first_word(command):
    """Return the program of `command`: a path, a list of words, or, on Windows, a command line."""
    if isinstance(command, list | tuple):
        return os.fsdecode(command[0]) if command else ""
    command = os.fsdecode(command)
    if not WINDOWS or os.path.exists(command):
        return command
    return command[1:].partition('"')[0] if command.startswith('"') else command.partition(" ")[0]


def guard(event, arguments):
    """Check what Python is about to do; this is the function that `sys.addaudithook` gets."""
    __tracebackhide__ = True
    if event == "open":
        path, _, flags = arguments
        (check_writing if flags & WRITING else check_reading)(path)
    elif event in LISTS:
        check_reading(arguments[0])
    elif event == "os.mkdir" and os.path.isdir(arguments[0]):
        pass  # this fails anyway, and libraries do it to make sure that their caches exist
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
    """Make every request for more than `amount` bytes raise MemoryError."""
    try:
        import resource
    except ImportError:  # Windows
        return
    for name in ("RLIMIT_DATA", "RLIMIT_CORE"):
        limit = amount if name == "RLIMIT_DATA" else 0
        _, hard = resource.getrlimit(getattr(resource, name))
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(getattr(resource, name), (limit, limit))


def run_hidden():
    """Run the `sitecustomize` that Python would have run without this one."""
    others = [folder for folder in sys.path if os.path.realpath(folder) != HERE]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


try:
    run_hidden()
finally:  # even if that one fails
    if RULES:
        limit_memory(RULES["bytes"])
        sys.addaudithook(guard)
