"""`mamlpp doctor`: each check says what is good and what is bad, and none of them raises."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

from mamlpp import cli, doctor
from mamlpp.doctor import Finding

GB = 10**9


def test_everything_is_examined_and_nothing_raises():
    findings = doctor.examine()
    names = [finding.name for finding in findings]
    assert names == [
        *("kit", "Python", "packages", "PyTorch", "cores", "memory", "disk"),
        *("MAMLPP_DATA", "glyphs", "omniglot", "mini_imagenet", "cache"),
        *("Jupyter", "kernel", "widgets", "meta-step"),
    ]
    assert [each for each in findings if "cannot be checked" in each.value] == []
    assert all(each.advice for each in findings if not each.ok)


def test_a_check_that_fails_is_a_line_that_says_so(monkeypatch: pytest.MonkeyPatch):
    def fails() -> list[Finding]:
        raise OSError("no such device\nand more")

    monkeypatch.setattr(doctor, "CHECKS", {"cores": fails, "disk": lambda: [Finding("disk", "1")]})
    bad, good = doctor.examine()
    assert (bad.name, bad.value) == ("cores", "cannot be checked (OSError: no such device)")
    assert not bad.ok
    assert good == Finding("disk", "1")


# Each judgement: what was read, whether that is right, a part of what is said, of what is advised.


def judged(finding: Finding, ok: bool, value: str, advice: str = "") -> None:
    assert finding.ok is ok, finding
    assert value in finding.value
    assert advice in finding.advice
    assert bool(finding.advice) is bool(advice)


@pytest.mark.parametrize(("version", "ok"), [((3, 10), False), ((3, 11), True), ((3, 14), False)])
def test_python(version: tuple[int, int], ok: bool):
    text = ".".join(map(str, version))
    judged(doctor.judge_python(version, text), ok, text, "" if ok else "PYTHON=python3.13")


def test_packages():
    installed = {"numpy": "2.1", "torch": "2.13.0+cpu", "pandas": "1.5"}
    assert doctor.wrong_versions(["numpy>=2.0", "torch>=2.11"], installed.get) == []
    wrong = doctor.wrong_versions(["pandas>=2.2", "tqdm"], installed.get)
    assert wrong == ["pandas is 1.5, not >=2.2", "tqdm is missing"]
    judged(doctor.judge_packages([], 18, "numpy 2.1"), True, "all 18 that the kit needs; numpy 2.1")
    judged(doctor.judge_packages(wrong, 18, ""), False, "tqdm is missing", "make clean setup")


@pytest.mark.parametrize(
    ("build", "gpus", "driver", "ok", "value", "advice"),
    [
        ("CPU", [], "", True, "no GPU", ""),
        ("CUDA 12.8", [], "", True, "no GPU", ""),
        ("CUDA 12.8", ["H100"], "550.1", True, "sees H100 (driver 550.1)", ""),
        ("CPU", [], "550.1", True, "whose driver is 550.1", "CUDA build"),
        ("CUDA 13.0", [], "470.2", False, "whose driver is 470.2", "supports CUDA 13.0"),
    ],
)
def test_torch(build: str, gpus: list[str], driver: str, ok: bool, value: str, advice: str):
    judged(doctor.judge_torch("2.13.0", build, gpus, driver), ok, value, advice)


@pytest.mark.parametrize(
    ("script", "driver"), [("echo 550.54.15", "550.54.15"), ("echo no devices; exit 9", "")]
)
def test_the_driver_is_what_its_own_tool_says(
    script: str, driver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setattr(doctor.shutil, "which", lambda _: str(program))
    assert doctor.nvidia_driver() == driver


def test_without_the_tool_there_is_no_driver(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    assert doctor.nvidia_driver() == ""


@pytest.mark.parametrize(
    ("counted", "allowed", "quota", "busy", "value", "advice"),
    [
        (8, 8, None, 3.0, "8 of 8; 3 % busy", ""),
        (64, 2, None, 3.0, "2 of 64; this process is bound to 2;", ""),
        (64, 64, 1.5, 3.0, "2 of 64; the container has the time of 1.5;", ""),
        (64, 2, 8.0, 3.0, "2 of 64; this process is bound to 2; 3 %", ""),
        (8, 8, None, 97.0, "97 % busy now", "close other programs"),
    ],
)
def test_cores(
    counted: int, allowed: int, quota: float | None, busy: float, value: str, advice: str
):
    judged(doctor.judge_cores(counted, allowed, quota, busy), True, value, advice)


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
    ],
)
def test_the_quota_of_a_container_is_read(
    files: dict[str, str], quota: float | None, tmp_path: Path
):
    write(files, tmp_path)
    assert doctor.cpu_quota(tmp_path) == quota


def write(files: dict[str, str], folder: Path) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text + "\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("total", "free", "limit", "ok", "value"),
    [
        (16 * GB, 9 * GB, None, True, "16.0 GB, 9.0 GB free"),
        (16 * GB, 1 * GB, None, False, "16.0 GB, 1.0 GB free"),
        (64 * GB, 60 * GB, (4 * GB, 1 * GB), False, "4.0 GB in this container, 1.0 GB free"),
        (64 * GB, 60 * GB, (99 * GB, 1 * GB), True, "64.0 GB, 60.0 GB free"),
    ],
)
def test_memory(total: int, free: int, limit: tuple[int, int] | None, ok: bool, value: str):
    finding = doctor.judge_memory(total, free, limit)
    judged(finding, ok, value, "" if ok else "close other programs")


def test_the_memory_of_a_container_is_read(tmp_path: Path):
    assert doctor.memory_limit(tmp_path) is None
    files = {"memory.max": "max", "memory.current": "700", "memory.stat": "anon 5"}
    write(files, tmp_path)
    assert doctor.memory_limit(tmp_path) is None
    write({"memory.max": "1000", "memory.stat": "anon 5\ninactive_file 200"}, tmp_path)
    assert doctor.memory_limit(tmp_path) == (1000, 500)


def test_disk():
    judged(doctor.judge_disk({"a": 5 * GB, "b": 9 * GB}), True, "5.0 GB free in a, 9.0")
    judged(doctor.judge_disk({"a": 5 * GB, "b": GB}), False, "1.0 GB free in b", "make room")


def test_the_data_folder(tmp_path: Path):
    judged(doctor.judge_data_folder(""), True, "not set")
    judged(doctor.judge_data_folder(str(tmp_path)), True, tmp_path.name)
    judged(doctor.judge_data_folder(str(tmp_path / "no")), False, "is no folder", "or unset it")


def test_omniglot(tmp_path: Path):
    archives = ["one", "two"]
    judged(doctor.judge_omniglot(None, True, archives), True, "in the cache")
    judged(doctor.judge_omniglot(None, False, archives), True, "downloaded at first use")
    (tmp_path / "one").mkdir()
    judged(doctor.judge_omniglot(tmp_path, True, archives), False, "lacks two.zip", "two.zip")
    (tmp_path / "two.zip").touch()
    judged(doctor.judge_omniglot(tmp_path, True, archives), True, tmp_path.name)


def test_mini_imagenet(tmp_path: Path):
    judged(doctor.judge_mini_imagenet(None, "x"), True, "yours to put")
    judged(doctor.judge_mini_imagenet(tmp_path, "train/x"), False, "has no zip", "train/x")
    (tmp_path / "all.zip").touch()
    judged(doctor.judge_mini_imagenet(tmp_path, "x"), True, tmp_path.name)


def test_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a").write_bytes(bytes(3_000_000))
    judged(doctor.judge_cache(tmp_path), True, f"{tmp_path.name}, 3 MB")
    judged(doctor.judge_cache(tmp_path / "deep" / "er"), True, "not made yet")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]

    def refuses(**_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuses)
    judged(doctor.judge_cache(tmp_path), False, "cannot be written", "MAMLPP_CACHE")


def test_jupyter():
    judged(doctor.judge_jupyter({"jupyterlab": "4.6", "ipykernel": "7"}), True, "jupyterlab 4.6")
    judged(doctor.judge_jupyter({"ipywidgets": None}), False, "ipywidgets missing", "make setup")


def test_the_kernel_of_another_python_is_wrong(tmp_path: Path):
    own, other = (tmp_path / name / "python" for name in ("own", "other"))
    for program in (own, other):  # two environments made by the same Python
        program.parent.mkdir()
        program.symlink_to(sys.executable)
    for program in ("python", str(own)):
        judged(doctor.judge_kernel(program, tmp_path, own), True, "this Python")
    for program in (str(other), "no-such-python"):
        judged(doctor.judge_kernel(program, tmp_path, own), False, program, "make lab")


def test_no_kernel_is_wrong(monkeypatch: pytest.MonkeyPatch):
    def none(_: object, name: str) -> None:
        raise NoSuchKernel(name)

    monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", none)
    judged(doctor.check_kernel()[0], False, "no kernel named python3", "make clean setup")


def test_widgets(tmp_path: Path):
    own, other = (tmp_path / name / "package.json" for name in ("own", "other"))
    for path in (own, other):
        write({path.name: json.dumps({"version": "5.0.16"})}, path.parent)
    judged(doctor.judge_widgets([], [own], [own, other]), True, "extension 5.0.16")
    judged(doctor.judge_widgets([], [own], [other, own]), False, "another environment", "make lab")
    judged(doctor.judge_widgets([], [own], []), False, "has no extension", "make clean setup")
    judged(doctor.judge_widgets(["ipywidgets is missing"], [], []), False, "is missing", "make")


def test_the_meta_step():
    judged(doctor.judge_meta_step(0.26, True), True, "260 ms")
    judged(doctor.judge_meta_step(2.6, True), True, "2600 ms", "smoke")
    judged(doctor.judge_meta_step(0.26, False), False, "no number", "make clean setup")


def test_timing_a_meta_step_leaves_threads_and_random_numbers_alone():
    before = torch.get_num_threads(), torch.get_rng_state()
    seconds, finite = doctor.time_meta_step(repeats=1)
    assert seconds > 0
    assert finite
    assert torch.get_num_threads() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


def test_the_threads_are_put_back_after_a_failure_too(monkeypatch: pytest.MonkeyPatch):
    def fails(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("mamlpp.MetaLearner.meta_loss", fails)
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError):
        doctor.time_meta_step()
    assert torch.get_num_threads() == before


# The page


FINDINGS = [
    Finding("cores", "2 of 2"),
    Finding("memory", "8 GB", True, "close something"),
    Finding("MAMLPP_DATA", "~/Müller is no folder", False, "unset it"),
]


def test_the_page_has_a_line_each_and_what_to_do_below_it():
    assert doctor.report(FINDINGS).splitlines() == [
        "mamlpp doctor",
        "",
        "ok     cores        2 of 2",
        "note   memory       8 GB",
        "                    -> close something",
        "WRONG  MAMLPP_DATA  ~/Müller is no folder",
        "                    -> unset it",
        "",
        "1 line is wrong.",
    ]
    assert doctor.report(FINDINGS[:2]).endswith("\n\nNothing is wrong.")


def test_the_first_chapter_shows_this_page_and_measures_as_it_does():
    path = Path(__file__).parents[2] / "notebooks" / "00_start_here.ipynb"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = "".join(line for cell in cells if cell["cell_type"] == "code" for line in cell["source"])
    assert "doctor.report(doctor.examine())" in code
    assert "doctor.median_seconds(" in code
    assert not {name for name in ("psutil", "platform", "perf_counter() - begin") if name in code}


def test_students_and_teachers_are_told_of_it():
    for name in ("README.md", "TEACHING.md"):
        text = (Path(__file__).parents[2] / name).read_text(encoding="utf-8")
        assert "`make doctor`" in text, name


@pytest.mark.parametrize(("findings", "code"), [(FINDINGS, 1), (FINDINGS[:2], 0)])
def test_the_command_exits_with_1_where_something_is_wrong(
    findings: list[Finding], code: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(doctor, "examine", lambda: findings)
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    with pytest.raises(SystemExit) as stop:
        cli.main(["doctor"])
    assert stop.value.code == code
    terminal.flush()
    assert (b"~/M\\xfcller" in terminal.buffer.getvalue()) == bool(code)


def test_the_users_name_is_not_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert doctor.short(tmp_path / "kit") == "~/kit"
    assert doctor.short(tmp_path.parent) == str(tmp_path.parent)


def test_it_runs_where_torch_cannot_be_imported(tmp_path: Path):
    broken = "raise ImportError('DLL load failed')"
    write({"torch.py": broken}, tmp_path)
    command = [sys.executable, "-c", START.format(str(tmp_path), doctor.__file__)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "WRONG  PyTorch" in done.stdout
    assert "cannot be checked (ImportError: DLL load failed)" in done.stdout
    assert "ok     memory" in done.stdout
    assert done.stderr == ""


# As `python mamlpp/doctor.py` runs it.
START = """import runpy, sys
sys.path[:1] = ["", {!r}]
runpy.run_path({!r}, run_name="__main__")
"""
