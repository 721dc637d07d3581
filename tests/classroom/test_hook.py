"""The audit hook: it says in words what a submission must not do, on every system."""

import importlib.util
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from classroom.kernels import INSIDE


def behind_fence(code: str, folder: Path, *more: Path) -> tuple[str, str]:
    """Run `code` with `work` to write in and `solutions` not to read; return its last words."""
    for name in ("work", "solutions"):
        (folder / name).mkdir()
    (folder / "solutions" / "01.ipynb").write_text("secret", encoding="utf-8")
    (folder / "work" / "link").symlink_to(folder / "solutions" / "01.ipynb")
    rules = {
        "write": [str(folder / "work"), os.devnull],
        "unread": [str(folder)],
        "read": [str(folder / "work")],
        "bytes": 4_000_000_000,
        "log": str(folder / "work" / "log"),
        "spare": [os.getpid()],
    }
    path = os.pathsep.join(map(str, [INSIDE, *more]))
    environment = {"PYTHONPATH": path, "MAMLPP_FENCE": json.dumps(rules)}
    before = "import os, pathlib, shutil, socket, sqlite3, subprocess, sys\n"
    done = subprocess.run(
        [sys.executable, "-c", before + code],
        env=os.environ | environment,
        cwd=folder / "work",
        capture_output=True,
        text=True,
        check=False,
    )
    log = folder / "work" / "log"
    return (done.stderr or done.stdout).strip(), log.read_text("utf-8") if log.exists() else ""


REFUSED = {
    "open('../solutions/01.ipynb')": "reading 01.ipynb outside its own folder",
    "open(b'../solutions/01.ipynb')": "reading 01.ipynb outside its own folder",
    "os.open(pathlib.Path('link'), os.O_RDONLY)": "reading 01.ipynb outside its own folder",
    "list(pathlib.Path('..').iterdir())": "outside its own folder",
    "shutil.copy('../solutions/01.ipynb', '.')": "reading 01.ipynb outside its own folder",
    "open('../mine', 'w')": "writing mine outside its own folder",
    "open('../solutions/01.ipynb', 'r+')": "writing 01.ipynb outside its own folder",
    "os.remove('../solutions/01.ipynb')": "writing 01.ipynb outside its own folder",
    "os.rename('../solutions/01.ipynb', 'x')": "writing 01.ipynb outside its own folder",
    "os.link('../solutions/01.ipynb', 'x')": "writing 01.ipynb outside its own folder",
    "shutil.rmtree('../solutions')": "outside its own folder",
    "sqlite3.connect('../solutions/01.ipynb')": "writing 01.ipynb outside its own folder",
    "subprocess.run(['cat', '../solutions/01.ipynb'])": "starting the program cat",
    "os.system('cat ../solutions/01.ipynb')": "starting the program cat",
    "os.execvp('cat', ['cat', 'link'])": "starting the program",
    "os.kill(os.getppid(), 9)": "stopping the grader",
    "subprocess.run([sys.executable, '-c', 'open(\"link\")'], check=True)": "reading 01.ipynb",
}


@pytest.mark.parametrize("code", REFUSED)
def test_the_fence_refuses_and_notes(code: str, tmp_path: Path):
    words, log = behind_fence(code, tmp_path)
    assert "PermissionError" in words
    assert REFUSED[code] in words
    assert REFUSED[code] in log
    assert (tmp_path / "solutions" / "01.ipynb").read_text(encoding="utf-8") == "secret"


ALLOWED = [
    "open('mine', 'w').write('x'); os.rename('mine', 'yours'); os.remove('yours')",
    "os.mkdir('a'); shutil.rmtree('a'); open(os.devnull, 'w')",
    "sqlite3.connect(':memory:')",
    "os.makedirs('..', exist_ok=True)",
    "subprocess.run([sys.executable, '-c', 'import json'], check=True)",
    "import platform; platform.processor()",
    "os.kill(os.getpid(), 0)",
]


@pytest.mark.parametrize("code", ALLOWED)
def test_the_fence_lets_the_rest_pass(code: str, tmp_path: Path):
    assert behind_fence(code, tmp_path) == ("", "")


def fence(monkeypatch: pytest.MonkeyPatch, **changes: object) -> types.ModuleType:
    """The fence as a module that guards nothing, with some of its names changed."""
    monkeypatch.delenv("MAMLPP_FENCE", raising=False)
    path = INSIDE / "sitecustomize.py"
    spec = importlib.util.spec_from_file_location("fence", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, value in changes.items():
        monkeypatch.setattr(module, name, value)
    return module


@pytest.mark.parametrize(
    ("command", "program"),
    [
        ("C:\\Python\\python.exe -c pass", "C:\\Python\\python.exe"),
        ('"C:\\My Kit\\python.exe" -c "x y"', "C:\\My Kit\\python.exe"),
        (["my program", "-c"], "my program"),
        ([], ""),
    ],
)
def test_the_program_of_a_command_in_one_string_is_found(
    command: object, program: str, monkeypatch: pytest.MonkeyPatch
):
    assert fence(monkeypatch, WINDOWS=True).first_word(command) == program


@pytest.mark.parametrize(("any_case", "found"), [(True, True), (False, False)])
def test_case_counts_where_it_counts_for_the_file_system(
    any_case: bool, found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    module = fence(monkeypatch, ANY_CASE=any_case)
    folder = module.real(str(tmp_path / "Solutions"))
    assert module.inside(module.real(str(tmp_path / "SOLUTIONS" / "01.ipynb")), [folder]) is found


def test_the_root_of_a_drive_is_a_folder_too(monkeypatch: pytest.MonkeyPatch):
    assert fence(monkeypatch).inside(f"{os.sep}a", [os.sep])


@pytest.mark.parametrize("hidden", ["import os; os.environ['SEEN'] = '1'", "raise OSError('mine')"])
def test_the_sitecustomize_that_the_fence_hides_runs_and_the_fence_stands(
    hidden: str, tmp_path: Path
):
    other = tmp_path / "other"
    other.mkdir()
    (other / "sitecustomize.py").write_text(hidden, encoding="utf-8")
    code = "print(os.environ.get('SEEN')); open('../solutions/01.ipynb')"
    words, log = behind_fence(code, tmp_path, other)
    assert "reading 01.ipynb" in log
    assert ("mine" in words) == ("mine" in hidden)


def test_memory_has_an_end_behind_the_fence(tmp_path: Path):
    words, _ = behind_fence("bytearray(5_000_000_000)", tmp_path)
    assert words.endswith("MemoryError")
