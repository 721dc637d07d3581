"""Installing the kit: the files that list packages agree, and `make` does what it says."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_notebook
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from rattler import MatchSpec
from venv_here import made_here
from walkthrough import run_notebook

import start
from tests.makers import UMLAUT

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
CONDA_NAMES = {"torch": "pytorch"}

RUNTIME = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = {
    name: [Requirement(line) for line in lines]
    for name, lines in PROJECT["optional-dependencies"].items()
}

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def pins() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    requirements = [Requirement(line) for line in lines if not line.startswith("#")]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def pinned_version(requirement: Requirement) -> str:
    [specifier] = requirement.specifier
    assert specifier.operator == "=="
    return specifier.version


# environment.yml


def conda_ranges() -> dict[str, SpecifierSet]:
    specs = [line for line in CONDA["dependencies"] if isinstance(line, str)]
    parts = [line.partition(" ") for line in specs]
    return {name: SpecifierSet(limits) for name, _, limits in parts}


def test_conda_installs_the_ranges_of_the_project_and_nothing_else():
    every = [*RUNTIME, *EXTRAS["lab"]]
    wanted = {CONDA_NAMES.get(each.name, each.name): each.specifier for each in every}
    wanted |= {"python": SpecifierSet(PROJECT["requires-python"]), "pip": SpecifierSet()}
    assert conda_ranges() == wanted


def test_conda_installs_the_kit_itself_with_pip():
    assert [each for each in CONDA["dependencies"] if isinstance(each, dict)] == [{"pip": ["-e ."]}]


@pytest.mark.parametrize("spec", [each for each in CONDA["dependencies"] if isinstance(each, str)])
def test_conda_can_read_each_line(spec: str):
    assert MatchSpec(spec, strict=True).name.normalized == spec.split()[0]


def test_binder_installs_the_same_with_one_python():
    lines = yaml.safe_load((ROOT / "binder" / "environment.yml").read_text(encoding="utf-8"))
    binder = {line.partition(" ")[0]: line.partition(" ")[2] for line in lines["dependencies"]}
    # Binder's builder reads the version from "python=3.12", and from nothing else.
    [python] = [name for name in binder if name.startswith("python=")]
    del binder[python]
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.partition("=")[2])
    wanted = conda_ranges()
    del wanted["python"]
    wanted["pytorch-cpu"] = wanted.pop("pytorch")
    assert {name: SpecifierSet(limits) for name, limits in binder.items()} == wanted


# constraints.txt


def test_torch_is_pinned_to_what_was_tested():
    assert pinned_version(pins()["torch"]) == "2.13.0"


@pytest.mark.parametrize(
    "requirement",
    [
        *RUNTIME,
        *EXTRAS["lab"],
        *EXTRAS["benchmarks"],
        *EXTRAS["classroom"],
        *EXTRAS["book"],
        *EXTRAS["dev"],
    ],
    ids=lambda each: each.name,
)
def test_the_pin_lies_in_the_range_of_the_project(requirement: Requirement):
    pin = pinned_version(pins()[canonicalize_name(requirement.name)])
    assert requirement.specifier.contains(pin)


@pytest.mark.skipif(
    not (Path(sys.prefix) / ".installed").exists(),
    reason="make did not install this Python's packages",
)
def test_make_installed_what_is_pinned():
    installed = {name: installed_version(name) for name in pins()}
    wanted = {name: pinned_version(pin) for name, pin in pins().items()}
    assert {name: wanted[name] for name, found in installed.items() if found} == {
        name: found for name, found in installed.items() if found
    }


def installed_version(name: str) -> str | None:
    try:
        return Version(version(name)).public  # torch's may end in +cpu
    except PackageNotFoundError:
        return None  # one that only another version of Python needs


# CITATION.cff


def test_the_citation_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]


# Makefile


def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "--no-print-directory", "-C", str(ROOT), *arguments]
    return subprocess.run(
        command, env=variables | environment, capture_output=True, text=True, check=False
    )


@needs_make
def test_help_lists_every_command():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    listed = re.findall(r"^  make (\w+) +\S", make().stdout, re.MULTILINE)
    assert listed == " ".join(phony).split()


@needs_make
@pytest.mark.parametrize("python", ["no-such-python", "false"])
def test_a_python_that_does_not_start_is_refused_in_one_sentence(python: str):
    refused = make("setup", f"PYTHON={python}")
    assert refused.returncode != 0
    first, *rest = refused.stderr.splitlines()
    assert first.startswith(f"There is no Python that starts as '{python}'")
    assert all("Error" in line for line in rest)  # make's own last word


@needs_make
@pytest.mark.parametrize(
    "name", ["setup", "lab", "test", "walkthrough", "book", "figures", "exercises", "doctor"]
)
def test_make_calls_start(name: str):
    assert f"start.py {name}" in make("--dry-run", name).stdout


def test_what_students_do_not_need_is_an_extra_that_grading_installs():
    assert {each.name for each in EXTRAS["classroom"]} == {"nbgrader"}
    assert set(EXTRAS["classroom"]) <= set(EXTRAS["dev"])  # the tests grade
    assert "nbgrader" not in {each.name for each in RUNTIME}
    for command in ("exercises", "handout", "grade"):
        assert start.EXTRAS[command] == "classroom"


@needs_make
def test_grade_passes_on_what_it_is_told():
    told = ["SUBMITTED=my class", "SET=01_inner_loop", "WORKERS=3", "PROFILE=smoke"]
    told += ["ROSTER=my roster.csv", "DUE=2027-03-05 18:00", "LATE=10 % a day", "COURSE=spring 27"]
    told.append("GRADE_ARGS=--seconds 9")
    command = shlex.split(make("--dry-run", "grade", *told).stdout.replace("\\\n", ""))
    start = command.index("grade")
    passed = [
        "--workers",
        "3",
        "--profile",
        "smoke",
        "--submitted",
        "my class",
        "--set",
        "01_inner_loop",
        "--roster",
        "my roster.csv",
        "--due",
        "2027-03-05 18:00",
        "--late",
        "10 % a day",
        "--course",
        "spring 27",
    ]
    assert command[start + 1 :] == [*passed, "--seconds", "9"]


@needs_make
def test_a_folder_of_submissions_may_have_any_name():
    for name in ["it's", 'a "b" c', "a#b", f"$HOME {UMLAUT}"]:
        told = make("--dry-run", "grade", f"SUBMITTED={name.replace('$', '$$')}")
        assert name in shlex.split(told.stdout.replace("\\\n", "")), told.stderr


@pytest.mark.parametrize(
    ("text", "here"),
    [
        ("home = /usr/bin\ncommand = /usr/bin/python3 -m venv {here}\n", True),
        ("command = /usr/bin/python3 -m venv --clear {here}\n", True),
        ("command = /usr/bin/python3 -m venv {here}/../other\n", False),
        ("command = /usr/bin/python3 -m venv {here}/no-such\n", False),
        ("home = /usr/bin\nuv = 0.9\n", True),  # by a program that does not say
    ],
)
def test_an_environment_knows_where_it_was_made(text: str, here: bool, tmp_path: Path):
    prefix = tmp_path / "a kit" / ".venv"
    prefix.mkdir(parents=True)
    (prefix.parent / "other").mkdir()
    (prefix / "pyvenv.cfg").write_text(text.format(here=prefix), encoding="utf-8")
    assert made_here(prefix) is here


# Line endings


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is no checkout")
def test_every_file_of_text_has_the_same_line_endings_everywhere():
    command = ["git", "-C", str(ROOT), "ls-files", "--eol"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    fields = [line.split("\t") for line in lines]
    loose = [name for about, name in fields if "eol=lf" not in about and "-text" not in about]
    assert sorted(loose) == [".gitattributes", ".gitignore"]


# The kernel


@pytest.mark.parametrize("variable", ["JUPYTER_PATH", "JUPYTER_DATA_DIR"])
def test_a_kernel_of_the_user_named_python3_is_passed_over(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    kernel = {"argv": ["false"], "display_name": "Not ours", "language": "python"}
    spec = tmp_path / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps(kernel), encoding="utf-8")
    monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    source, output = tmp_path / "source.ipynb", tmp_path / "output.ipynb"
    cell = new_code_cell("import sys\nprint(sys.executable)")
    metadata = {"kernelspec": {"name": "python3", "display_name": "", "language": "python"}}
    nbformat.write(new_notebook(cells=[cell], metadata=metadata), source)

    run_notebook(source, output, {})

    assert nbformat.read(output, 4).cells[0].outputs[0].text.strip() == sys.executable
    assert os.environ.get(variable) == str(tmp_path)


SETTINGS = """import os, matplotlib, IPython
print(matplotlib.rcParams["text.usetex"], matplotlib.get_backend(), "mine" in globals())"""


def test_start_up_files_and_settings_of_the_user_stay_out_of_notebooks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    startup = tmp_path / "ipython" / "profile_default" / "startup" / "mine.py"
    startup.parent.mkdir(parents=True)
    for path in (startup, tmp_path / "startup.py"):
        path.write_text("mine = 1", encoding="utf-8")
    settings = tmp_path / "matplotlib" / "matplotlibrc"
    settings.parent.mkdir()
    settings.write_text("text.usetex: True\n", encoding="utf-8")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONSTARTUP", str(tmp_path / "startup.py"))
    monkeypatch.setenv("MPLCONFIGDIR", str(settings.parent))
    monkeypatch.setenv("MPLBACKEND", "nowhere")
    # A kit's folder may have braces in its name, which papermill would fill in.
    source, output = tmp_path / "source.ipynb", tmp_path / "{out}" / "output.ipynb"
    kernel = {"name": "python3", "display_name": "", "language": "python"}
    cells = [new_code_cell(SETTINGS)]
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), source)

    run_notebook(source, output, {})

    (stream,) = nbformat.read(output, 4).cells[0].outputs
    usetex, backend, mine = stream.text.split()
    assert (usetex, backend.rpartition("_")[2], mine) == ("False", "inline", "False")
    assert os.environ["PYTHONSTARTUP"] == str(tmp_path / "startup.py")
