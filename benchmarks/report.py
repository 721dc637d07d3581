"""Writing results, with where they come from: machine, date, commit, command."""

import json
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import torch

ROOT = Path(__file__).resolve().parents[1]


def provenance(module: str, cores: int, device: str = "cpu") -> dict[str, Any]:
    """Device, date, commit, PyTorch version and the command `python -m module …`, in which only
    the last part of an absolute path is kept, for privacy.

    `busy_with` is the load average: on a busy machine, two threads of one process, which wait for
    each other, are slowed more than two processes.
    """
    arguments = (Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:])
    processor = f"{cores} of {psutil.cpu_count()} cores, {_processor()}"
    return {
        "device": processor if device == "cpu" else torch.cuda.get_device_name(device),
        "busy_with": round(psutil.getloadavg()[0], 1),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _commit(),
        "torch": torch.__version__,
        "command": shlex.join(["python", "-m", module, *arguments]),
    }


def write(path: Path, result: dict[str, Any]) -> None:
    """Write a result as a JSON file; creates its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _commit() -> str:
    """The commit of this checkout, with + if files were changed; empty outside git."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=10", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
