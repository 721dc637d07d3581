"""Check what changed: format, lint, types, and the unit tests of the files that differ from main.

make check

A changed module is tested by the test file of its name, and by those that name it in an import; a
changed test file by itself. `make test SLOW=1` checks everything.
"""

import re
import subprocess
import sys
from pathlib import Path

import tyro

ROOT = Path(__file__).resolve().parents[1]
UNIT = ROOT / "tests/unit"
ENOUGH = 8  # test files: one that changes what everything imports waits for `make test`


def changed() -> list[Path]:
    """Files that differ from the last commit, or that git does not know yet."""
    commands = (["diff", "--name-only", "HEAD"], ["ls-files", "--others", "--exclude-standard"])
    lines = [_git(*command).splitlines() for command in commands]
    return [ROOT / line for some in lines for line in some]


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout


def tests_of(files: list[Path]) -> list[Path]:
    """The unit tests to run, those of the files' own names first."""
    own = [path for path in files if path.parent == UNIT and path.name.startswith("test_")]
    modules = [path for path in files if path.suffix == ".py" and path not in own]
    own += [UNIT / f"test_{path.stem}.py" for path in modules]
    names = "|".join(re.escape(path.stem) for path in modules) or "(?!)"
    imports = re.compile(rf"^(from|import) .*\b({names})\b", re.MULTILINE)
    others = [p for p in sorted(UNIT.glob("test_*.py")) if imports.search(p.read_text("utf-8"))]
    return [path for path in dict.fromkeys([*own, *others]) if path.exists()][:ENOUGH]


def main() -> int:
    """Run the checks in turn; the exit status of the first that fails."""
    found = tests_of(changed())
    checks = [["ruff", "format", "--check", "."], ["ruff", "check", "."], ["mypy"]]
    if found:
        checks.append(["pytest", "-q", "-x", "-n", "2", *map(str, found)])
    for check in checks:
        done = subprocess.run([sys.executable, "-m", *check], cwd=ROOT, check=False)
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
