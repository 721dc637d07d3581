"""The wall holds: what a submission tries on the teacher's machine does not go through.

All attacks run in one submission, once with everything that this system has and once with Landlock
alone, as in a container, both without the audit hook; then each test looks at one attack.
"""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import nbformat
import psutil
import pytest
import zmq
from nbformat.v4 import new_code_cell, new_notebook

import mamlpp.checks
from classroom import execution, grading
from classroom.grade import kernels, workplace
from classroom.kernels import LARGEST_MESSAGE, Template, manager
from classroom.records import Workplace
from classroom.sets import Limits
from tests.classroom.attacks import ATTACKS, FILES, LEFT_BEHIND, NETWORK, SETUP

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the wall is Linux's own"),
    pytest.mark.xdist_group("wall"),  # one worker, so that all attacks run once
]
LIMITS = Limits(seconds_per_cell=30)
TRY = """try:
    {0}
    print("done")
except BaseException as error:
    print(type(error).__name__, error)"""
# Without namespaces Landlock leaves these open; TEACHING.md says so.
NOT_BY_LANDLOCK = {
    *("look whether it is there", "see who else is graded"),
    *("shared memory without end", "processes without end"),
}


@dataclass
class Teacher:
    """The teacher's folder, and programs that listen; `heard` is what reached them."""

    folder: Path
    sockets: dict[str, socket.socket]

    def values(self) -> str:
        ports = {name: self.sockets[name].getsockname()[1] for name in ("PORT", "UDP")}
        values = {"VICTIM": str(self.folder), "GRADER": os.getpid(), **ports}
        values |= {
            "ABSTRACT": f"of the teacher {os.getpid()}",
            "SOCKET": str(self.folder / "socket"),
        }
        values |= {"checks_file": mamlpp.checks.__file__}
        return "\n".join(f"{name} = {value!r}" for name, value in values.items())

    def heard(self) -> list[str]:
        found = []
        for name, each in self.sockets.items():
            each.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                found.append((name, each.recv(1) if name == "UDP" else each.accept()))
        return [name for name, _ in found]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Teacher]:
    folder = tmp_path_factory.mktemp("teacher")
    (folder / "notes.txt").write_text("secret", encoding="utf-8")
    os.utime(folder / "notes.txt", (1000, 1000))
    with contextlib.ExitStack() as stack:
        opened = {}
        for name, family, kind, address in [
            ("PORT", socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            ("UDP", socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            ("ABSTRACT", socket.AF_UNIX, socket.SOCK_STREAM, f"\0of the teacher {os.getpid()}"),
            ("SOCKET", socket.AF_UNIX, socket.SOCK_STREAM, str(folder / "socket")),
        ]:
            opened[name] = stack.enter_context(socket.socket(family, kind))
            opened[name].bind(address)
            if kind == socket.SOCK_STREAM:
                opened[name].listen()
        yield Teacher(folder, opened)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    folder = tmp_path_factory.mktemp("class")
    with workplace(folder, folder, folder, "smoke") as made:
        yield made


@pytest.fixture(scope="module")
def template(place: Workplace) -> Iterator[Template]:
    with kernels(place, trust=True) as made:
        yield made


def run(
    cells: list[str], place: Workplace, template: Template, folder: Path, limits: Limits = LIMITS
) -> tuple[list[str], str]:
    """Run the cells in a kernel; return what each printed, and which limit was broken."""
    notebook = new_notebook(cells=[new_code_cell(source) for source in cells])
    folder.mkdir()
    job = grading.job_of(limits, place, folder)
    work, environment = Path(job["write"][0]), job["environment"]
    environment.pop("MAMLPP_FENCE")  # which the audit hook reads
    excess, _ = execution.run(
        notebook, manager(job, template), limits, work, environment, lambda: False
    )
    return ["".join(map(words, cell.outputs)).strip() for cell in notebook.cells], excess


def words(output: nbformat.NotebookNode) -> str:
    return output.get("text", "") or output.get("evalue", "")


@pytest.fixture(scope="module", params=["everything", "landlock alone"])
def met(
    request: pytest.FixtureRequest,
    place: Workplace,
    template: Template,
    teacher: Teacher,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, str]:
    """What each attack met."""
    if not template.means.landlock:
        pytest.skip("this system has no Landlock")
    alone = request.param == "landlock alone"
    if not alone and not template.means.namespaces:
        pytest.skip("this system allows no namespaces")
    tried = {
        name: code for name, code in ATTACKS.items() if not (alone and name in NOT_BY_LANDLOCK)
    }
    before = template.means
    template.means = replace(before, namespaces=not alone)
    folder = tmp_path_factory.mktemp("grading") / "job"
    own = f"own = {folder.parts[2]!r}"
    setup = f"{SETUP}\n{teacher.values()}\n{own}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECRET_TOKEN", "hunter2")
        started = [TRY.format(code) for code in [*LEFT_BEHIND.values(), *tried.values()]]
        printed, _ = run([setup, *started], place, template, folder)
    template.means = before
    assert printed[0] == ""
    return dict(zip(["", *LEFT_BEHIND, *tried], printed, strict=True))


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_does_not_go_through(name: str, met: dict[str, str]):
    if name not in met:
        pytest.skip("not what Landlock is for")
    assert met[name] not in ("", "done"), met
    assert "NameError" not in met[name], "the attack itself is wrong"


def test_the_teacher_s_folder_is_as_it_was(met: dict[str, str], teacher: Teacher):
    status = (teacher.folder / "notes.txt").stat()
    assert (teacher.folder / "notes.txt").read_text(encoding="utf-8") == "secret"
    assert (status.st_mtime, oct(status.st_mode)) == (1000, "0o100644")
    assert sorted(path.name for path in teacher.folder.iterdir()) == ["notes.txt", "socket"]
    assert FILES.keys() & met.keys()


def test_no_program_of_the_teacher_heard_anything(met: dict[str, str], teacher: Teacher):
    assert NETWORK.keys() & met.keys()
    assert teacher.heard() == []


@pytest.mark.parametrize(("name", "mark"), [*zip(LEFT_BEHIND, ("613.1", "613.2"), strict=True)])
def test_what_was_left_behind_has_ended(name: str, mark: str, met: dict[str, str]):
    assert met[name] == "done"
    ends = time.monotonic() + 20
    while (found := started_with(mark)) and time.monotonic() < ends:
        time.sleep(0.1)
    assert found == []


def started_with(mark: str) -> list[int]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if mark in " ".join(process.cmdline()):
                found.append(process.pid)
    return found


# Limits that end a submission


HELD = "import time; x = bytearray(10**9); time.sleep(60)"


@pytest.mark.parametrize(
    ("code", "limits", "excess"),
    [
        (
            f"import subprocess, sys\nfor _ in range(3):\n"
            f"    subprocess.Popen([sys.executable, '-c', {HELD!r}])\nimport time; time.sleep(60)",
            {"bytes": 1_500_000_000},
            "it was stopped when it used more than 1.5 GB of memory",
        ),
        (
            "import time\nfor n in range(100):\n    open(str(n), 'wb').write(bytes(5_000_000))\n"
            "    time.sleep(0.1)",
            {"disk": 20_000_000},
            "it was stopped when it wrote more than 20 MB or 20000 files",
        ),
        (
            "import os, time\nkept = []\nfor _ in range(30):\n    kept.append(open('x', 'wb', 0))\n"
            "    os.unlink('x')\n    kept[-1].write(bytes(5_000_000))\ntime.sleep(60)",
            {"disk": 20_000_000},
            "it was stopped when it wrote more than 20 MB or 20000 files",
        ),
        (
            "import subprocess, sys, time\nfor _ in range(6):\n"
            "    subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
            "time.sleep(60)",
            {"processes": 4},
            "it was stopped when it ran more than 4 processes",
        ),
    ],
)
def test_what_breaks_a_limit_is_stopped(
    code: str, limits: dict, excess: str, place: Workplace, template: Template, tmp_path: Path
):
    own = Limits(**{"seconds_per_cell": 30} | limits)
    printed, found = run([code, "print('after')"], place, template, tmp_path / "job", own)
    assert found == excess
    assert printed[1] == "not run to its end, because its Python process had died"


def test_a_message_without_end_is_not_read(place: Workplace, tmp_path: Path):
    (tmp_path / "job").mkdir()
    client = manager(grading.job_of(LIMITS, place, tmp_path / "job"), None).client()
    with client.context.socket(zmq.SUB) as reader:
        assert reader.getsockopt(zmq.MAXMSGSIZE) == LARGEST_MESSAGE
    client.context.term()


def test_what_stands_in_the_place_of_the_hook_s_log_is_not_read(teacher: Teacher, tmp_path: Path):
    log = tmp_path / "log"
    log.symlink_to(teacher.folder / "notes.txt")
    assert grading.read_log(log) == []
    log.unlink()
    os.mkfifo(log)
    assert grading.read_log(log) == []
    log.unlink()
    log.write_text("reading x\n", encoding="utf-8")
    assert grading.read_log(log) == ["reading x"]


def test_a_template_that_is_killed_takes_its_kernels_along(place: Workplace, tmp_path: Path):
    with kernels(place, trust=True) as own:
        (tmp_path / "job").mkdir()
        job = grading.job_of(LIMITS, place, tmp_path / "job")
        (tmp_path / "job" / "k" / "connection.json").write_text("{}")
        kernel = own.fork(job)
        own.process.kill()
        own.process.wait()
        assert kernel.wait() is not None
        psutil.wait_procs([kernel.guard], timeout=20)
        assert not kernel.guard.is_running()


def test_the_template_knows_no_secret(template: Template, place: Workplace):
    names = set(psutil.Process(template.process.pid).environ())
    allowed = set(grading.clean_environment(place.folder, place)) | {"LC_CTYPE"}
    assert names <= allowed


def test_a_lower_limit_of_the_shell_does_not_open_the_wall(place: Workplace, tmp_path: Path):
    script = "import classroom.inside.wall as wall; wall.limit(10**10, 10**9, 100); print('fine')"
    command = ["bash", "-c", 'ulimit -d 4000000; exec "$0" -c "$1"', sys.executable, script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("fine\n", "")
