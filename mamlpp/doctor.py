"""What the kit finds on this machine, on one page, and what to do about each thing that is wrong.

    mamlpp doctor                 (make doctor, where .venv is not activated; chapter 00 shows it)
    python mamlpp/doctor.py       where PyTorch, or the kit itself, cannot even be imported

Each check reads something and hands it to a function that judges it, so that the judgement can be
tested. A check that fails becomes a line that says so. Nothing is downloaded, and no file is left.
"""

import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mamlpp import MetaLearner, TaskBatch

PYTHONS = ((3, 11), (3, 13))
FREE_MEMORY, FREE_DISK = 1.5e9, 2e9  # bytes that a notebook and its data need
BUSY = 50  # percent of the cores
SLOW = 1.0  # seconds a meta-step
WIDGETS = "@jupyter-widgets/jupyterlab-manager/package.json"
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Finding:
    """One line of the page: what was looked at, what was found, and what to do.

    Where `ok` is true, `advice` is what could be better, empty if nothing could.
    """

    name: str
    value: str
    ok: bool = True
    advice: str = ""


def examine() -> list[Finding]:
    """Return everything that can be found out in a few seconds; raises nothing."""
    return [finding for name, check in CHECKS.items() for finding in _safely(name, check)]


def _safely(name: str, check: Callable[[], list[Finding]]) -> list[Finding]:
    try:
        return check()
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        advice = "type 'make setup', and if that does not help, report this page"
        return [Finding(name, f"cannot be checked ({reason})", False, advice)]


# Python and packages


def check_python() -> list[Finding]:
    """The kit's version and place, and the Python that runs it."""
    kit = f"{metadata.version('mamlpp')} in {short(Path(__file__).resolve().parents[1])}"
    return [Finding("kit", kit), judge_python(sys.version_info[:2], platform.python_version())]


def judge_python(version: tuple[int, int], text: str) -> Finding:
    """Whether this `version` of Python is one that the kit was tested with."""
    where = f"{text} on {platform.system()} {platform.machine()}, {short(Path(sys.prefix))}"
    oldest, newest = (".".join(map(str, each)) for each in PYTHONS)
    advice = f"choose another Python: make setup PYTHON=python{newest}"
    good = PYTHONS[0] <= version <= PYTHONS[1]
    value = where if good else f"{where}; the kit needs {oldest} to {newest}"
    return Finding("Python", value, good, "" if good else advice)


def check_packages() -> list[Finding]:
    """Whether each package that the kit needs is there, in a version that will do.

    Those of notebooks are needed where one of them is there.
    """
    every = [line.partition(";") for line in metadata.requires("mamlpp") or []]
    lab = has_lab()
    needed = [n for n, _, extra in every if "extra ==" not in extra or (lab and "lab" in extra)]
    shown = ", ".join(f"{name} {version_of(name)}" for name in ("numpy", "matplotlib", "pandas"))
    return [judge_packages(wrong_versions(needed), len(needed), shown)]


def judge_packages(wrong: Sequence[str], count: int, shown: str) -> Finding:
    """What is `wrong` with the `count` packages, and, if nothing, versions that are `shown`."""
    if wrong:
        return Finding("packages", "; ".join(wrong), False, "install them again: make clean setup")
    return Finding("packages", f"all {count} that the kit needs; {shown}")


def wrong_versions(
    needed: Sequence[str], version: Callable[[str], str | None] | None = None
) -> list[str]:
    """Return in words which packages that are `needed` are missing, or of another version.

    `needed` are requirements such as "numpy>=2.0"; `version` says what is installed of a name.
    """
    from packaging.requirements import Requirement

    wrong = []
    for requirement in map(Requirement, needed):
        found = (version or version_of)(requirement.name)
        if found is None:
            wrong.append(f"{requirement.name} is missing")
        elif not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} is {found}, not {requirement.specifier}")
    return wrong


def has_lab() -> bool:
    """Whether this is an installation for notebooks: mamlpp[lab]."""
    return any(map(version_of, ("jupyterlab", "ipywidgets", "papermill")))


def version_of(package: str) -> str | None:
    """Return the version of an installed `package`, or None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


# The machine


def check_torch() -> list[Finding]:
    """PyTorch's version and build, and the GPUs that it sees."""
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else ""
    build = build or (f"ROCm {torch.version.hip}" if torch.version.hip else "CPU")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return [judge_torch(torch.__version__, build, gpus, nvidia_driver())]


def nvidia_driver() -> str:
    """Return the version of NVIDIA's driver, empty where there is none that answers."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    query = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=3, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip().partition("\n")[0]


def judge_torch(version: str, build: str, gpus: Sequence[str], driver: str) -> Finding:
    """Whether PyTorch uses the GPU that there is; no GPU is fine."""
    value = f"{version}, {build} build"
    if gpus:
        return Finding("PyTorch", f"{value}, sees {', '.join(gpus)} (driver {driver or 'unknown'})")
    if not driver:
        return Finding("PyTorch", f"{value}, no GPU: the CPU does it, as all notebooks expect")
    value += f", does not use the GPU, whose driver is {driver}"
    if build == "CPU":
        return Finding("PyTorch", value, True, "to use it, install a CUDA build from pytorch.org")
    return Finding("PyTorch", value, False, f"install a newer driver, one that supports {build}")


def check_cores() -> list[Finding]:
    """How many cores this process may use, and how busy they are."""
    import psutil

    process = psutil.Process()
    counted = psutil.cpu_count() or 1
    allowed = process.cpu_affinity() if hasattr(process, "cpu_affinity") else list(range(counted))
    each = psutil.cpu_percent(0.5, percpu=True)
    busy = statistics.mean(each[core] for core in allowed if core < len(each))
    return [judge_cores(counted, len(allowed), cpu_quota(), busy)]


def cpu_quota(folder: Path = CGROUP) -> float | None:
    """Return how many cores' time a container allows, or None where it sets no limit."""
    if (folder / "cpu.max").exists():
        quota, period = _words(folder / "cpu.max")
    elif (folder / "cpu/cpu.cfs_quota_us").exists():
        (quota,) = _words(folder / "cpu/cpu.cfs_quota_us")
        (period,) = _words(folder / "cpu/cpu.cfs_period_us")
    else:
        return None
    return None if quota in ("max", "-1") else int(quota) / int(period)


def _words(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split()


def judge_cores(counted: int, allowed: int, quota: float | None, busy: float) -> Finding:
    """How many of the `counted` cores can be used, and whether other programs use them now."""
    usable = min(allowed, math.ceil(quota or allowed))
    value = f"{usable} of {counted}"
    if allowed < counted:
        value += f"; this process is bound to {allowed}"
    if quota is not None and quota < allowed:
        value += f"; the container has the time of {quota:g}"
    value += f"; {busy:.0f} % busy now"
    if busy < BUSY:
        return Finding("cores", value)
    advice = "close other programs, or wait: until then trainings take longer than announced"
    return Finding("cores", value, True, advice)


def check_memory() -> list[Finding]:
    """Memory that is there, and that is free."""
    import psutil

    memory = psutil.virtual_memory()
    return [judge_memory(memory.total, memory.available, memory_limit())]


def memory_limit(folder: Path = CGROUP) -> tuple[int, int] | None:
    """Return the bytes that a container allows, and those left of them; None without a limit."""
    try:
        most = (folder / "memory.max").read_text(encoding="utf-8").strip()
        used = int((folder / "memory.current").read_text(encoding="utf-8"))
        rows = (folder / "memory.stat").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    cached = sum(int(row.split()[1]) for row in rows if row.startswith("inactive_file "))
    return None if most == "max" else (int(most), int(most) - used + cached)


def judge_memory(total: int, free: int, limit: tuple[int, int] | None = None) -> Finding:
    """Whether enough of the memory (bytes) is free for a notebook."""
    inside = ""
    if limit is not None and limit[0] < total:
        inside = " in this container"
        total, free = limit[0], min(free, limit[1])
    value = f"{total / 1e9:.1f} GB{inside}, {free / 1e9:.1f} GB free"
    if free >= FREE_MEMORY:
        return Finding("memory", value)
    advice = f"close other programs and notebooks: keep {FREE_MEMORY / 1e9:g} GB free"
    return Finding("memory", value, False, advice)


def check_disk() -> list[Finding]:
    """Room where runs are written and where the cache lies."""
    from mamlpp.data.folders import cache_folder

    places = {"this folder": Path.cwd(), "the cache": cache_folder()}
    return [judge_disk({name: shutil.disk_usage(existing(at)).free for name, at in places.items()})]


def judge_disk(free: Mapping[str, int]) -> Finding:
    """Whether there is room in each place: `free` bytes by the place's name."""
    value = ", ".join(f"{room / 1e9:.1f} GB free in {name}" for name, room in free.items())
    if min(free.values()) >= FREE_DISK:
        return Finding("disk", value)
    return Finding("disk", value, False, f"make room: keep {FREE_DISK / 1e9:g} GB free in each")


# Data


def check_data() -> list[Finding]:
    """Which datasets are at hand, and where."""
    from mamlpp.data import mini_imagenet, omniglot
    from mamlpp.data.folders import cache_folder, user_folder

    drawn = any(cache_folder().glob("glyphs-train-*"))
    folder = user_folder("omniglot", omniglot.HOW_TO_GET)
    return [
        judge_data_folder(os.environ.get("MAMLPP_DATA", "")),
        Finding("glyphs", "drawn, in the cache" if drawn else "drawn in seconds at first use"),
        judge_omniglot(folder, omniglot.at_hand(), list(omniglot.CHARACTERS)),
        judge_mini_imagenet(
            user_folder("mini_imagenet", mini_imagenet.HOW_TO_GET), mini_imagenet.LAYOUT
        ),
    ]


def judge_data_folder(named: str) -> Finding:
    """Whether the folder `named` by MAMLPP_DATA is there; none is fine."""
    if not named:
        return Finding("MAMLPP_DATA", "not set: no data of your own")
    if Path(named).is_dir():
        return Finding("MAMLPP_DATA", short(Path(named)))
    advice = "set it to the folder that holds omniglot/ or mini_imagenet/, or unset it"
    return Finding("MAMLPP_DATA", f"{short(Path(named))} is no folder", False, advice)


def judge_omniglot(folder: Path | None, at_hand: bool, archives: Sequence[str]) -> Finding:
    """Whether the `archives` of Omniglot lie in the user's `folder`, or else in the cache."""
    if folder is None:
        value = "in the cache" if at_hand else "not here: downloaded at first use (14 MB)"
        return Finding("omniglot", value)
    names = [name for name in archives if not _either(folder, name, f"{name}.zip")]
    if not names:
        return Finding("omniglot", short(folder))
    missing = " and ".join(f"{name}.zip" for name in names)
    advice = f"put {missing} there, or rename the folder to have Omniglot downloaded"
    return Finding("omniglot", f"{short(folder)} lacks {missing}", False, advice)


def _either(folder: Path, *names: str) -> bool:
    return any((folder / name).exists() for name in names)


def judge_mini_imagenet(folder: Path | None, layout: str) -> Finding:
    """Whether Mini-ImageNet's `folder` holds anything; it need not be there."""
    if folder is None:
        value = "not here: it is yours to put into MAMLPP_DATA/mini_imagenet"
        return Finding("mini_imagenet", value)
    if any(folder.glob("*.zip")) or _either(folder, "train"):
        return Finding("mini_imagenet", short(folder))
    advice = f"put zips or folders there that hold {layout}"
    return Finding("mini_imagenet", f"{short(folder)} has no zip and no train/", False, advice)


def check_cache() -> list[Finding]:
    """The cache folder, its size, and whether it can be written."""
    from mamlpp.data.folders import cache_folder

    return [judge_cache(cache_folder())]


def judge_cache(folder: Path) -> Finding:
    """Whether files can be made in `folder`, or, where it is not there yet, it itself."""
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    value = f"{short(folder)}, {size / 1e6:.0f} MB" if folder.exists() else short(folder)
    try:
        with tempfile.TemporaryFile(dir=existing(folder)):
            return Finding("cache", value if folder.exists() else f"{value}, not made yet")
    except OSError:
        advice = "set MAMLPP_CACHE to a folder that you may write to"
        return Finding("cache", f"{value}, cannot be written", False, advice)


def existing(path: Path) -> Path:
    """Return `path`, or the nearest folder above it that is there."""
    path = path.absolute()
    return next(each for each in (path, *path.parents) if each.exists())


# Jupyter


def check_jupyter() -> list[Finding]:
    """The versions of what notebooks run on."""
    if not has_lab():
        advice = "for the notebooks: pip install 'mamlpp[lab]'"
        return [Finding("Jupyter", "not installed, and not needed by commands", True, advice)]
    names = ("jupyterlab", "ipykernel", "ipywidgets")
    return [judge_jupyter({name: version_of(name) for name in names})]


def judge_jupyter(versions: Mapping[str, str | None]) -> Finding:
    """Whether each of the packages is there: versions by name, None for what is missing."""
    value = ", ".join(f"{name} {version or 'missing'}" for name, version in versions.items())
    good = all(versions.values())
    return Finding("Jupyter", value, good, "" if good else "install it: make setup")


def check_kernel() -> list[Finding]:
    """Whether notebooks run on the Python that the kit is installed in."""
    if not has_lab():
        return []
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        spec = KernelSpecManager().get_kernel_spec("python3")
    except NoSuchKernel:
        value = "there is no kernel named python3"
        return [Finding("kernel", value, False, "install it: make clean setup")]
    return [judge_kernel(spec.argv[0], Path(spec.resource_dir), Path(sys.executable))]


def judge_kernel(program: str, folder: Path, python: Path) -> Finding:
    """Whether the kernel python3, found in `folder`, starts `program` of the same Python as this.

    Links are not followed: a virtual environment's Python is a link to the one that it was made by.
    """
    major, minor = sys.version_info[:2]
    if program in ("python", f"python{major}", f"python{major}.{minor}"):
        return Finding("kernel", "python3 starts this Python")  # which Jupyter fills in
    found = shutil.which(program)
    if found is not None and Path(found).parent.samefile(python.parent):
        return Finding("kernel", "python3 starts this Python")
    value = f"python3 starts {short(Path(program))}, by {short(folder)}"
    advice = "start with 'make lab', or remove it: jupyter kernelspec remove python3"
    return Finding("kernel", value, False, advice)


def check_widgets() -> list[Finding]:
    """Whether the widgets' Python side and the part of it in the browser belong together."""
    if not has_lab():
        return []
    from jupyter_core.paths import jupyter_path

    wanted = metadata.requires("ipywidgets") or [] if version_of("ipywidgets") else []
    needed = ["ipywidgets", *(line for line in wanted if line.startswith("jupyterlab"))]
    wrong = wrong_versions(needed)
    if wrong:
        return [judge_widgets(wrong, [], [])]
    files = metadata.files("jupyterlab_widgets") or []
    own = [Path(str(file.locate())) for file in files if file.as_posix().endswith(WIDGETS)]
    shown = [Path(folder, WIDGETS) for folder in jupyter_path("labextensions")]
    return [judge_widgets([], own, [path for path in shown if path.exists()])]


def judge_widgets(wrong: Sequence[str], own: Sequence[Path], found: Sequence[Path]) -> Finding:
    """Whether JupyterLab shows the widgets of this environment.

    `wrong` says what is wrong with the packages' versions. `own` is where this environment has the
    extension for JupyterLab, `found` where JupyterLab finds one; it takes the first.
    """
    advice = "type 'make lab', or install them again: make clean setup"
    if wrong:
        return Finding("widgets", "; ".join(wrong), False, advice)
    if not found:
        value = "JupyterLab has no extension for them: sliders and buttons would be missing"
        return Finding("widgets", value, False, advice)
    version = json.loads(found[0].read_text(encoding="utf-8")).get("version", "no version")
    if not any(found[0].samefile(path) for path in own if path.exists()):
        value = f"JupyterLab takes another environment's extension, in {short(found[0].parent)}"
        return Finding("widgets", value, False, advice)
    return Finding("widgets", f"shown by JupyterLab's extension {version}")


# The meta-step


def check_meta_step() -> list[Finding]:
    """One meta-step on random images, with one thread, timed."""
    return [judge_meta_step(*time_meta_step())]


def time_meta_step(repeats: int = 3) -> tuple[float, bool]:
    """Return the median seconds of a meta-step, and whether its gradient is finite.

    One 5-way 1-shot task, 32 filters, five second-order steps, one thread.
    """
    import torch

    from mamlpp import RECIPES, MetaLearner, TaskBatch

    images = torch.rand(1, 5, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(5).unsqueeze(0)
    batch = TaskBatch(images, labels, images.flip(-1), labels)
    recipe = RECIPES["maml"].with_(filters=32)
    learner = MetaLearner(recipe, image_shape=(1, 28, 28), ways=5, seed=0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds = median_seconds(learner, batch, repeats)
    finally:
        torch.set_num_threads(threads)
    gradients = [weight.grad for weight in learner.parameters() if weight.grad is not None]
    finite = bool(gradients) and all(bool(each.isfinite().all()) for each in gradients)
    return seconds, finite


def median_seconds(learner: "MetaLearner", batch: "TaskBatch", repeats: int = 3) -> float:
    """Return the median seconds of the meta-gradient of a batch, which stays in every `.grad`."""
    seconds = []
    for _ in range(1 + repeats):  # the first fetches memory
        begin = time.perf_counter()
        learner.zero_grad()
        loss, _ = learner.meta_loss(batch)
        loss.backward()
        loss.item()  # waits for the GPU, where there is one
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[1:])


def judge_meta_step(seconds: float, finite: bool) -> Finding:
    """Whether a meta-step gave a gradient, and in a time that makes the notebooks bearable."""
    value = f"{1000 * seconds:.0f} ms for one 5-way task, one thread"
    if not finite:
        advice = "install PyTorch again: make clean setup"
        return Finding("meta-step", f"{value}, but its gradient is no number", False, advice)
    if seconds < SLOW:
        return Finding("meta-step", value)
    return Finding(
        "meta-step", f"{value}, slow", True, "run notebooks with profile = 'smoke' first"
    )


# The page


CHECKS: dict[str, Callable[[], list[Finding]]] = {
    "Python": check_python,
    "packages": check_packages,
    "PyTorch": check_torch,
    "cores": check_cores,
    "memory": check_memory,
    "disk": check_disk,
    "data": check_data,
    "cache": check_cache,
    "Jupyter": check_jupyter,
    "kernel": check_kernel,
    "widgets": check_widgets,
    "meta-step": check_meta_step,
}


def short(path: Path) -> str:
    """Return `path` as text, with ~ for the user's home."""
    try:
        return (Path("~") / path.relative_to(Path.home())).as_posix()
    except (ValueError, RuntimeError):  # elsewhere, or nobody's
        return str(path)


def report(findings: Sequence[Finding]) -> str:
    """Return the page: a line for each finding, and below it what to do, if anything."""
    width = max(len(finding.name) for finding in findings)
    lines = ["mamlpp doctor", ""]
    for finding in findings:
        mark = ("note" if finding.advice else "ok") if finding.ok else "WRONG"
        lines.append(f"{mark:<6} {finding.name:<{width}}  {finding.value}")
        if finding.advice:
            lines.append(f"{'':<6} {'':<{width}}  -> {finding.advice}")
    wrong = sum(not finding.ok for finding in findings)
    many = f"{wrong} lines are" if wrong > 1 else "1 line is"
    return "\n".join([*lines, "", f"{many} wrong." if wrong else "Nothing is wrong."])


def main() -> int:
    """Print the page and return the exit code: 1 where something is wrong."""
    findings = examine()
    encoding = sys.stdout.encoding or "ascii"
    print(report(findings).encode(encoding, "backslashreplace").decode(encoding))
    return int(not all(finding.ok for finding in findings))


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # not this file's own folder
    sys.exit(main())
