"""`start.py`: installing and starting without make, and what it says where that is not possible.

And the cell by which notebooks install the kit on Colab.
"""

import ast
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import colab
import pytest

import start
from mamlpp.show.html import widget_output
from tests.makers import UMLAUT

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What an installation reads, in a folder of a name that is hard to quote.

    pip does nothing, and is in no environment: it would take seconds to get there.
    """
    folder = tmp_path / f'kit it\'s "q" # $x {UMLAUT}'
    folder.mkdir()
    for name in ("pyproject.toml", "constraints.txt"):
        (folder / name).write_bytes((ROOT / name).read_bytes())
    monkeypatch.setattr(start, "pip", lambda kit, venv, what: None)
    monkeypatch.setattr(start, "check_computer", lambda *_: None)
    monkeypatch.setattr(start, "has_pip", lambda venv: True)
    monkeypatch.setattr(start, "run", without_pip)
    return folder


REALLY_RUN, REALLY_HAS_PIP = start.run, start.has_pip


def without_pip(command: list[str], kit: Path) -> None:
    place = command.index("venv") + 1 if "venv" in command else len(command)
    REALLY_RUN([*command[:place], *["--without-pip"][: "venv" in command], *command[place:]], kit)


def says(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    start.install(folder)
    return capsys.readouterr().out


def test_it_needs_the_standard_library_alone():
    tree = ast.parse((ROOT / "start.py").read_text(encoding="utf-8"))
    names = [a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names]
    names += [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names


def test_an_old_python_reads_it_to_the_sentence_that_refuses_it():
    ast.parse((ROOT / "start.py").read_text(encoding="utf-8"), feature_version=(3, 7))


@pytest.mark.parametrize(
    ("version", "is_good"),
    [((3, 10), False), ((3, 11), True), ((3, 13), True), ((3, 14), False), ((2, 7), False)],
)
def test_pythons(version: tuple[int, int], is_good: bool):
    assert start.good(version) is is_good


def test_another_python_is_found_where_this_one_will_not_do(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(start, "good", lambda version: tuple(version[:2]) == (3, 12))
    monkeypatch.setattr(start.shutil, "which", lambda name: name)
    monkeypatch.setattr(start, "has_venv", lambda command: command == ["py", "-3.12"])
    assert start.find_python() == ["py", "-3.12"]


def test_no_python_that_will_do_is_one_sentence(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(start, "has_venv", lambda command: False)
    with pytest.raises(start.Obstacle, match=r"needs Python 3.11 to 3.13 with venv and pip, and '"):
        start.find_python()


@pytest.mark.parametrize(
    ("system", "machine", "free", "words"),
    [
        ("Darwin", "x86_64", 1e12, "Macs with Intel"),
        ("Windows", "ARM64", 1e12, "Windows on ARM"),
        ("Linux", "x86_64", 2e9, "2.0 GB free"),
    ],
)
def test_a_computer_that_will_not_do(system: str, machine: str, free: float, words: str):
    with pytest.raises(start.Obstacle, match=words):
        start.check_computer(system, machine, free)


@pytest.mark.parametrize(
    ("system", "machine"), [("Darwin", "arm64"), ("Windows", "AMD64"), ("Linux", "aarch64")]
)
def test_a_computer_that_will_do(system: str, machine: str):
    start.check_computer(system, machine, 1e12)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        ("ERROR: No matching distribution found for torch>=2.11", "no PyTorch of this version"),
        ("Temporary failure in name resolution", "could not be downloaded"),
        ("error: something else", "installation failed"),
    ],
)
def test_what_to_do_about_a_failed_installation(said: str, words: str):
    assert words in start.advice(said)


def test_a_step_that_fails_says_what_it_said_and_leaves_no_stamp(
    kit: Path, monkeypatch: pytest.MonkeyPatch
):
    command = [sys.executable, "-c", "import sys; sys.exit('No space left on device')"]
    monkeypatch.setattr(start, "pip", lambda kit, venv, what: start.run(command, kit))
    with pytest.raises(start.Obstacle, match="No space left on device\nThe disk is full"):
        start.install(kit)
    assert not (kit / ".venv" / ".installed").exists()


def test_it_installs_once_and_again_when_the_packages_change(
    kit: Path, capsys: pytest.CaptureFixture[str]
):
    assert "Installing" in says(kit, capsys)
    assert says(kit, capsys) == ""
    later = time.time() + 10
    os.utime(kit / "constraints.txt", (later, later))
    assert "Installing" in says(kit, capsys)


def test_an_environment_that_was_not_finished_is_finished(
    kit: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(start, "run", REALLY_RUN)
    monkeypatch.setattr(start, "has_pip", REALLY_HAS_PIP)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(kit / ".venv")], check=True)
    assert "Installing" in says(kit, capsys)
    assert start.has_pip(kit / ".venv")


AGAIN = "(.venv is made again: it was made in another folder, or for a Python that is gone)"


def test_an_environment_that_was_moved_is_made_again(kit: Path, capsys: pytest.CaptureFixture[str]):
    assert AGAIN not in says(kit, capsys)
    (kit / ".venv" / "kept").touch()
    moved = kit.rename(kit.parent / "moved")
    assert AGAIN in says(moved, capsys)
    assert not (moved / ".venv" / "kept").exists()
    assert says(moved, capsys) == ""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no links to a Python")
def test_an_environment_whose_python_is_gone_is_made_again(
    kit: Path, capsys: pytest.CaptureFixture[str]
):
    says(kit, capsys)
    for program in (kit / ".venv" / "bin").glob("python*"):
        program.unlink()
        program.symlink_to("no-such-python")
    assert AGAIN in says(kit, capsys)


def test_an_extra_is_installed_once(kit: Path, monkeypatch: pytest.MonkeyPatch):
    installed: list[str] = []
    monkeypatch.setattr(start, "pip", lambda kit, venv, what: installed.append(what))
    for _ in range(2):
        start.install(kit, "classroom")
    assert installed == [".[lab]", ".[lab,classroom]"]


def test_uv_is_used_where_it_is_there(kit: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    ran: list[list[str]] = []
    monkeypatch.setattr(start, "run", lambda command, kit: ran.append(command))
    for found in ("/bin/uv", None):
        monkeypatch.setattr(start.shutil, "which", lambda name, found=found: found)
        start.pip(kit, kit / ".venv", ".")
    assert [command[0] for command in ran] == ["uv", str(start.python_of(kit / ".venv"))]
    assert all(command[-4:] == ["-c", "constraints.txt", "-e", "."] for command in ran)


def test_each_command_runs_something_that_is_there():
    for name in ("walkthrough", "figures", "book", "check"):
        assert start.commands(name, ["--x"]) == [[f"tools/{name}.py", "--x"]]
        assert (ROOT / "tools" / f"{name}.py").is_file()
    for name in ("exercises", "solutions", "handout", "grade"):
        [[option, module, *rest]] = start.commands(name, ["--x"])
        assert (option, rest[-1]) == ("-m", "--x")
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file()
    assert start.commands("gpu", ["--x"]) == [["-m", "benchmarks", "gpu-report", "--x"]]
    assert start.commands("doctor", []) == [["-m", "mamlpp", "doctor"]]
    assert set(start.EXTRAS) <= set(start.__doc__.split())


def test_lab_serves_the_whole_kit_opens_a_notebook_that_exists_and_keeps_the_token():
    [command] = start.commands("lab", ["--no-browser"])
    assert "--ServerApp.root_dir=." in command  # so that links to code and figures work
    assert command[-1] == "--no-browser"
    assert (ROOT / start.NOTEBOOK).is_file()
    assert "token" not in " ".join(command).lower()


def test_an_unknown_command_is_refused_in_one_sentence(capsys: pytest.CaptureFixture[str]):
    assert start.main(["lba"]) == 2
    assert capsys.readouterr().err.startswith("There is no command 'lba'")


def test_setup_explains_itself_instead_of_installing(monkeypatch, capsys):
    monkeypatch.setattr(start, "install", lambda *_: pytest.fail("it installs"))
    assert start.main(["setup", "--help"]) == 0
    assert start.main(["setup", "3.12"]) == 2  # it has no options
    assert capsys.readouterr().out.count("python start.py doctor") == 2


HOSTILE = {
    "MPLBACKEND": "nowhere",
    "PIP_USER": "1",
    "PYTHONHOME": "nowhere",
    "PYTHONSTARTUP": "nowhere",
}


def test_what_the_user_has_set_for_other_programs_stays_out(monkeypatch: pytest.MonkeyPatch):
    for name, value in {**HOSTILE, "JUPYTER_PATH": "mine"}.items():
        monkeypatch.setenv(name, value)
    found = start.environment(ROOT)
    assert {name: found.get(name) for name in HOSTILE} == dict.fromkeys(HOSTILE) | {"PIP_USER": "0"}
    assert Path(found["MATPLOTLIBRC"]).is_file()
    kernels = str(ROOT / ".venv" / "share" / "jupyter")
    assert found["JUPYTER_PATH"].split(os.pathsep) == [kernels, "mine"]


def test_tests_take_one_thread_and_keep_what_they_compile(monkeypatch: pytest.MonkeyPatch):
    given: dict[str, str] = {}
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setattr(start, "commands", lambda *_: [["-c", ""]])
    really = subprocess.Popen

    def popen(command: list[str], env: dict[str, str], **options: Path) -> subprocess.Popen:
        given.update(env)
        return really(command, env=env, **options)

    monkeypatch.setattr(subprocess, "Popen", popen)
    assert start.start("lab", []) == 0
    assert given["PYTHONDONTWRITEBYTECODE"] == "1"
    assert start.start("test", []) == 0
    assert (given["PYTHONDONTWRITEBYTECODE"], given["OMP_NUM_THREADS"]) == ("", "1")


# Colab


def first_code(path: Path) -> str:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return next("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def test_each_notebook_begins_with_the_cell_for_colab():
    paths = [*colab.notebooks(), *ROOT.glob("notebooks/exercises/*.ipynb")]
    others = [path.name for path in paths if first_code(path) != colab.SOURCE]
    assert others == [], "run tools/colab.py, then make exercises"


def test_the_cell_for_colab_does_nothing_elsewhere():
    exec(colab.SOURCE, {})  # get_ipython is not even there


def test_the_cell_for_colab_fetches_the_kit_once_and_pins_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    kit, ran = tmp_path / "kit", []

    def system(command: str) -> None:
        ran.append(command)
        (kit / "notebooks").mkdir(parents=True, exist_ok=True)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace())
    names = {"get_ipython": lambda: SimpleNamespace(system=system), "input": lambda _: "me/mine"}
    for _ in range(2):
        exec(colab.SOURCE.replace("/content/kit", kit.as_posix()), names)
    clone, install = ran
    assert clone.startswith("git clone")
    assert f"/me/mine {kit}" in clone
    assert install.endswith(f"-m pip install --quiet anywidget --editable {kit}")
    assert sys.path[0] == str(kit)
    assert Path.cwd() == kit / "notebooks"


def test_widgets_are_shown_by_what_colabs_ipywidgets_7_has_too():
    output = widget_output(SimpleNamespace(model_id="a"), "words")
    assert output["application/vnd.jupyter.widget-view+json"]["model_id"] == "a"
    assert output["text/plain"] == "words"
