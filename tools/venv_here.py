"""Check that the running environment was created where it is now; exit code 1 if it was not.

.venv/bin/python -I tools/venv_here.py

An environment that was moved or copied with the kit still runs, but its programs, and its `mamlpp`,
are those at the old place. `make` runs this check before it uses .venv. It needs no packages.
"""

import re
import sys
from pathlib import Path

MADE = re.compile(r"^command = .+? -m venv (?:--\S+ )*(.+)$", re.MULTILINE)


def made_here(prefix: Path) -> bool:
    """Whether `pyvenv.cfg` in `prefix` names that folder; True if it names none."""
    found = MADE.search((prefix / "pyvenv.cfg").read_text(encoding="utf-8"))
    try:
        return found is None or Path(found[1]).samefile(prefix)
    except OSError:  # that folder no longer exists
        return False


if __name__ == "__main__":
    sys.exit(not made_here(Path(sys.prefix)))
