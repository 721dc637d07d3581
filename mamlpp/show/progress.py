"""What a reader has done, in one small file on the reader's own disk: `progress.json`.

    progress.table()     every chapter: worked through, its quiz, its exercise sets
    progress.forget()    delete the file

It lies in the cache folder (`MAMLPP_CACHE`), or where `MAMLPP_PROGRESS` says. It holds the choice
made at each quiz question, the chapters that were ticked off, and the exercises whose check has
passed. Nothing sends it anywhere.
"""

import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas

from mamlpp.data.cache import READ_ONLY
from mamlpp.data.folders import cache_folder
from mamlpp.errors import InputError
from mamlpp.files import replacing

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
CARDS = NOTEBOOKS / "cards.json"
FILE = "MAMLPP_PROGRESS"
_HAND_IN = re.compile(r"hand in ((?:`\w+`(?:, )?)+)")


def path() -> Path:
    """The file, which need not exist."""
    return Path(os.environ.get(FILE) or cache_folder() / "progress.json")


def read() -> dict[str, dict[str, Any]]:
    """What was kept, by kind ("quiz", "chapter", "exercise") and name."""
    with suppress(OSError, ValueError, InputError):
        kept = json.loads(path().read_text(encoding="utf-8"))
        if isinstance(kept, dict):
            return kept
    return {}


def keep(kind: str, name: str, value: Any) -> None:
    """Keep one thing. Where the file cannot be written, nothing is kept and nothing fails."""
    if os.environ.get(READ_ONLY):  # somebody else's work is being graded
        return
    kept = read()
    kept.setdefault(kind, {})[name] = value
    with suppress(OSError, InputError), replacing(path()) as part:
        part.write_text(json.dumps(kept, indent=1, ensure_ascii=False), encoding="utf-8")


def forget() -> None:
    """Delete the file."""
    with suppress(OSError, InputError):
        path().unlink()


def table() -> pandas.DataFrame:
    """One row for each chapter: worked through, right answers in its quiz, exercises that pass."""
    kept = read()
    cards = json.loads(CARDS.read_text(encoding="utf-8"))
    rows = []
    for name, card in cards.items():
        sets = [_set_done(each, kept.get("exercise", {})) for each in card["sets"]]
        rows.append(
            {
                "chapter": card["title"],
                "worked through": "✓" if kept.get("chapter", {}).get(name) else "–",
                "quiz": _quiz_done(name, kept.get("quiz", {}).get(name, {})),
                "exercises": ", ".join(sets) or "none",
            }
        )
    return pandas.DataFrame(rows).set_index("chapter")


def _quiz_done(name: str, chosen: dict[str, int]) -> str:
    questions = json.loads((NOTEBOOKS / f"quizzes/{name}.json").read_text(encoding="utf-8"))
    choices = [question["choices"] for question in questions]
    right = [bool(some[chosen.get(str(i), 0)].get("right")) for i, some in enumerate(choices)]
    done = sum(ok for i, ok in enumerate(right) if str(i) in chosen)
    return f"{done} of {len(questions)} right"


def _set_done(name: str, passed: dict[str, Any]) -> str:
    text = (NOTEBOOKS / f"exercises/{name}.ipynb").read_text(encoding="utf-8")
    wanted = [f for some in _HAND_IN.findall(text) for f in re.findall(r"`(\w+)`", some)]
    return f"{sum(f in passed for f in wanted)} of {len(wanted)} in set {name[:2]}"
