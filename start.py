"""Install this kit and start it, with nothing but Python 3.11 to 3.13.

    python start.py                   install into .venv, once, then open JupyterLab
    python start.py doctor            say what is installed and what is wrong
    python start.py walkthrough       run every notebook into build/notebooks/
    python start.py book              the notebooks with their results, build/book/index.html
    python start.py exercises         what students open, notebooks/exercises/, from exercises/
    python start.py solutions         every answer, for teachers, into build/solutions/
    python start.py handout           what students get of a set, a zip (--set 01_inner_loop)
    python start.py grade             grade what a class handed in (--submitted folder)
    python start.py test              check everything but what is slow (--slow: that too)
    python start.py check             check what you changed, in less than a minute
    python start.py gpu               measure everything on a GPU, into build/gpu/report.md
    python start.py setup             install, and do nothing else

What follows the name of a command is passed on to it. An installation that was interrupted goes on
where it stopped. `make` calls this file.
"""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

KIT = Path(__file__).resolve().parent
OLDEST, NEWEST = (3, 11), (3, 13)
NEEDED_BYTES = 3e9  # while packages are unpacked
NOTEBOOK = "notebooks/00_start_here.ipynb"
HELP = ("help", "-h", "--help")
EXTRAS = {
    **dict.fromkeys(("exercises", "solutions", "handout", "grade"), "classroom"),
    **{"book": "book", "test": "dev", "check": "dev", "gpu": "dev"},
}
WORDS = {"classroom": "grading needs", "book": "the book needs", "dev": "the tests need"}
FOREIGN = (
    "MPLBACKEND", "PIP_PREFIX", "PIP_TARGET", "PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP",
)  # what users have set for other programs  # fmt: skip


class Obstacle(Exception):
    """The kit cannot be installed here; the message says why, and what to do."""


# Which Python, and which computer


def good(version):
    """Whether the kit runs with this version of Python, a pair of numbers."""
    return OLDEST <= tuple(version[:2]) <= NEWEST


def find_python():
    """Return a Python of a version that will do: this one, or another that is installed."""
    if good(sys.version_info) and has_venv([sys.executable]):
        return [sys.executable]
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        for command in ([f"python3.{minor}"], ["py", f"-3.{minor}"]):
            if shutil.which(command[0]) and has_venv(command):
                return command
    raise Obstacle(
        f"This kit needs Python 3.11 to 3.13 with venv and pip, and {sys.executable!r}, Python "
        f"{platform.python_version()}, is not that. Install Python 3.12 (python.org; on Debian and "
        f"Ubuntu: apt install python3-venv) and give the same command again with it."
    )


def has_venv(command):
    """Whether a Python runs, has a version that will do, and can make environments."""
    code = "import ensurepip, sys, venv; print(*sys.version_info[:2])"
    try:
        found = subprocess.run([*command, "-c", code], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    return good(tuple(map(int, found.stdout.split())))


def check_computer(system, machine, free):
    """Raise `Obstacle` where PyTorch has no build for this computer, or the disk is too full."""
    elsewhere = "Use the kit in a browser instead: Binder, Colab or Codespaces (book/ways_in.md)."
    if system == "Darwin" and machine == "x86_64":
        raise Obstacle(
            "PyTorch no longer comes in a version for Macs with Intel processors. (On a Mac with "
            f"an Apple processor, this is a Python for Intel: install another.) {elsewhere}"
        )
    if system == "Windows" and machine.upper() in ("ARM64", "AARCH64"):
        raise Obstacle(
            "pip finds no PyTorch for Windows on ARM. Install the 64-bit Python for Intel and AMD "
            f"(x86-64), which runs here too, and give the same command again with it. {elsewhere}"
        )
    if free < NEEDED_BYTES:
        raise Obstacle(
            f"The disk has {free / 1e9:.1f} GB free, and installing takes up to "
            f"{NEEDED_BYTES / 1e9:.0f} GB. Make room, then give the same command again."
        )


# Installing


def python_of(venv):
    """Return the Python of an environment."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def usable(venv):
    """Whether an environment exists, and was made where it is now, for a Python that is there."""
    check = [str(python_of(venv)), "-I", str(KIT / "tools" / "venv_here.py")]
    try:
        return subprocess.run(check, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def has_pip(venv):
    """Whether an environment was made to its end: pip comes last."""
    command = [str(python_of(venv)), "-I", "-m", "pip", "--version"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def is_fresh(stamp, kit):
    """Whether the installation that `stamp` ends is younger than what it was made from."""
    sources = [kit / "pyproject.toml", kit / "constraints.txt"]
    made = stamp.stat().st_mtime if stamp.exists() else 0.0
    return all(source.stat().st_mtime <= made for source in sources)


def install(kit, extra=""):
    """Install the kit, and the packages of an `extra`, into `.venv` unless they are there.

    A stamp is written last, so that an installation that failed or was stopped starts again; what
    was downloaded and installed until then is not downloaded again. Raises `Obstacle`.
    """
    venv = kit / ".venv"
    stale = (venv / "pyvenv.cfg").exists() and not usable(venv)
    stamp = venv / ".installed"
    if stale or not is_fresh(stamp, kit):
        install_base(kit, venv, stale)
        stamp.touch()
    stamp = venv / f".installed-{extra}"
    if extra and not (is_fresh(stamp, kit) and usable(venv)):
        print(f"Installing what {WORDS[extra]}", flush=True)
        pip(kit, venv, f".[lab,{extra}]")
        stamp.touch()


def install_base(kit, venv, stale):
    """Make the environment where there is none that can be used, and install the kit into it."""
    ready = usable(venv) and has_pip(venv)
    if not ready:
        python = find_python()
        check_computer(platform.system(), platform.machine(), shutil.disk_usage(kit).free)
    print("Installing PyTorch, JupyterLab and this kit into .venv, once: about 2 minutes, 1.4 GB")
    print("(longer, and several GB more, where pip brings PyTorch's build for NVIDIA GPUs)")
    if stale:
        print("(.venv is made again: it was made in another folder, or for a Python that is gone)")
    sys.stdout.flush()
    if not ready:
        run([*python, "-m", "venv", "--clear", str(venv)], kit)
    pip(kit, venv, ".[lab]")


def pip(kit, venv, what):
    """Install `what`, editable, in the versions that were tested: with uv where it is there."""
    python = str(python_of(venv))
    tool = [python, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    if shutil.which("uv"):
        tool = ["uv", "pip", "install", "--quiet", "--python", python]
    run([*tool, "-c", "constraints.txt", "-e", what], kit)


def run(command, kit):
    """Run a command in the kit; raises `Obstacle` with what it said and what to do."""
    done = subprocess.run(
        command, cwd=kit, env=environment(kit), stderr=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise Obstacle("\n".join(filter(None, [done.stderr.strip(), advice(done.stderr)])))


def advice(said):
    """Return what to do about the last words of an installation that failed."""
    again = "give the same command again: it goes on where it stopped."
    if "No space left" in said or "Errno 28" in said:
        return f"The disk is full. Make room, then {again}"
    if "No matching distribution found for torch" in said or "torch has no wheels" in said:
        return (
            "There is no PyTorch of this version for this computer and this Python. Try Python "
            "3.12, or use the kit in a browser (book/ways_in.md)."
        )
    if "onnection" in said or "resolution" in said or "timed out" in said:
        return f"The packages could not be downloaded. Check the connection, then {again}"
    return f"The installation failed. If the lines above do not say why, {again}"


# Starting


def environment(kit):
    """Return the variables for programs of the kit.

    The kernel of .venv wins over any other that the user has named python3, and what users have set
    for other programs stays out.
    """
    variables = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    kernels = [str(kit / ".venv" / "share" / "jupyter"), variables.get("JUPYTER_PATH", "")]
    variables["JUPYTER_PATH"] = os.pathsep.join(filter(None, kernels))
    variables["MATPLOTLIBRC"] = str(kit / "tools" / "matplotlibrc")
    variables["PIP_USER"] = "0"
    return variables


def commands(name, arguments):
    """Return what a command runs, one after the other: arguments for the Python of .venv."""
    if name == "lab":
        first = f"--LabApp.default_url=/lab/tree/{NOTEBOOK}"
        return [["-m", "jupyterlab", "--ServerApp.root_dir=.", first, *arguments]]
    if name == "doctor":
        return [["-m", "mamlpp", "doctor", *arguments]]
    if name == "test":
        checks = [["ruff", "format", "--check", "."], ["ruff", "check", "."], ["mypy"]]
        tests = ["pytest", "-n", "2", "--dist", "loadgroup", "--durations=20", *arguments]
        return [["-m", *check] for check in [*checks, tests]]
    if name in ("exercises", "solutions"):
        return [["-m", "classroom.versions", *["--solutions"][: name == "solutions"], *arguments]]
    if name in ("handout", "grade"):
        return [["-m", f"classroom.{name}", *arguments]]
    if name == "gpu":
        return [["-m", "benchmarks", "gpu-report", *arguments]]
    if name in ("walkthrough", "figures", "book", "check"):
        return [[f"tools/{name}.py", *arguments]]
    return []


def start(name, arguments):
    """Run a command with the Python of .venv; return its exit status."""
    variables = environment(KIT)
    if name in ("test", "check"):
        variables.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
        variables["PYTHONDONTWRITEBYTECODE"] = ""  # else a hundred processes compile the kit
    python = str(python_of(KIT / ".venv"))
    for command in commands(name, arguments):
        process = subprocess.Popen([python, *command], cwd=KIT, env=variables)
        while process.poll() is None:
            try:
                process.wait()
            except KeyboardInterrupt:  # the program hears Ctrl-C too, and ends by itself
                continue
        if process.returncode:
            return process.returncode
    if name == "test" and not (shutil.which("chromium") or shutil.which("chromium-browser")):
        print("Left out: tests/browser, because there is no Chromium ('make browser' installs it)")
    return 0


def main(arguments):
    """Do what the command line says; return the exit status."""
    name, *rest = arguments or ["lab"]
    if name in HELP or (name == "setup" and rest):  # setup has no options
        print(__doc__)
        return 0 if {name, *rest} & set(HELP) else 2
    if name != "setup" and not commands(name, rest):
        print(f"There is no command {name!r}: 'python start.py help' lists them.", file=sys.stderr)
        return 2
    try:
        install(KIT, EXTRAS.get(name, ""))
    except Obstacle as obstacle:
        print(obstacle, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. Give the same command again: it goes on from here.", file=sys.stderr)
        return 130
    if name == "setup":
        print("Ready: type 'make lab' or 'python start.py'")
    return start(name, rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
