"""Whether the environment that runs this was made where it lies: exit code 1 where it was not.

.venv/bin/python -I tools/venv_here.py

An environment that was moved or copied with its kit runs, but its programs and its `mamlpp` are
still those of the old place. `make` asks before it uses .venv; this needs no package.
"""

import re
import sys
from pathlib import Path

MADE = re.compile(r"^command = .+? -m venv (?:--\S+ )*(.+)$", re.MULTILINE)


def made_here(prefix: Path) -> bool:
    """Whether `pyvenv.cfg` in `prefix` names that folder; True where it names none."""
    found = MADE.search((prefix / "pyvenv.cfg").read_text(encoding="utf-8"))
    try:
        return found is None or Path(found[1]).samefile(prefix)
    except OSError:  # there is no such folder any more
        return False


if __name__ == "__main__":
    sys.exit(not made_here(Path(sys.prefix)))
