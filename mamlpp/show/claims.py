"""The ledger of claims: what a chapter states, checked where the chapter runs.

    claims.expect("MAML++ ends above MAML", plus, maml, why="another seed can turn it round")
    claims.ledger()    # every claim so far: the paper's words, our numbers, yours

Our numbers are those of `claims.json` beside this file, recorded after a walkthrough. Yours are
kept in one small file, `build/claims.jsonl` (or the one that `MAMLPP_CLAIMS` names), which you may
delete.
"""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas

_KIT = Path(__file__).resolve().parents[2]
RECORDED = Path(__file__).with_name("claims.json")
YOURS = Path(os.environ.get("MAMLPP_CLAIMS", _KIT / "build/claims.jsonl"))

COLUMNS = ["chapter", "claim", "the paper", "ours", "yours", "holds"]  # of the ledger

Numbers = float | Sequence[float]  # one number, or one for each seed


def expect(
    claim: str, higher: Numbers, lower: Numbers, *, margin: float = 0.0, unit: str = "%",
    paper: str = "", why: str = "", must: bool = True,
) -> bool:  # fmt: skip
    """Check that one number is above another, print a line about it, and keep it in the ledger.

    Above by more than a `margin`, in the same unit. Of several seeds the means are compared, and
    the line says where a seed of the one is not above every seed of the other. `unit` follows the
    numbers; "%" means that they are fractions. `paper` is what the paper says of it, and `why` a
    reason for which it may turn out otherwise. Raises `AssertionError` where it does not hold and
    `must`.
    """
    scale = 100 if unit == "%" else 1
    here = [scale * float(np.mean(x)) for x in (higher, lower)]
    holds = here[0] > here[1] + scale * margin
    overlap = bool(holds and np.min(higher) <= np.max(lower))
    about = {"chapter": _chapter(), "claim": claim, "paper": paper}
    _keep(about | {"here": here, "unit": unit, "holds": holds, "overlap": overlap})
    words, ours = _pair(here, unit), _ours(claim, unit)
    words += f" (ours: {ours})" if ours not in ("–", words) else ""
    if holds:
        print(f"✓ {claim}. It holds here: {words}{', but the seeds overlap' * overlap}.")
    else:
        reason = f" {why[0].upper()}{why[1:]}." if why else ""
        print(f"✗ {claim}? It does not hold here: {words}.{reason}")
    if must and not holds:
        raise AssertionError(f"this should hold everywhere: {claim}; it is {words}")
    return holds


def ledger() -> pandas.DataFrame:
    """Every claim with the paper's words, our numbers, and yours as far as you have run them."""
    ours, yours = _recorded(), _kept()
    rows = []
    for claim in {**ours, **yours}:
        about = yours.get(claim) or ours[claim]
        own, unit = yours.get(claim), about["unit"]
        rows.append(
            {
                "chapter": about.get("chapter", ""),
                "claim": claim,
                "the paper": about["paper"] or "–",
                "ours": _ours(claim, unit),
                "yours": "not run" if own is None else _pair(own["here"], unit),
                "holds": "" if own is None else _verdict(own),
            }
        )
    return pandas.DataFrame(rows, columns=COLUMNS)


def record() -> None:
    """Make your numbers ours: what a release of this kit does after its walkthrough."""
    text = json.dumps(_kept(), indent=1, ensure_ascii=False)
    RECORDED.write_text(text + "\n", encoding="utf-8")


def _ours(claim: str, unit: str) -> str:
    ours = _recorded().get(claim)
    return _pair(ours["here"], unit) if ours else "–"


def _verdict(own: dict[str, Any]) -> str:
    if not own["holds"]:
        return "no"
    return "yes, but seeds overlap" if own.get("overlap") else "yes"


def _short(number: float) -> str:
    if abs(number) >= 1000:
        return f"{number:,.0f}"
    return f"{number:.1f}" if abs(number) >= 10 else f"{number:.3g}"


def _pair(numbers: Sequence[float], unit: str) -> str:
    one, other = map(_short, numbers)
    space = " " if unit and not unit.startswith("-") else ""
    return f"{one} against {other}{space}{unit}"


def _chapter() -> str:
    """Return the number of the notebook that runs ("02"), or "" where that is not known."""
    return Path(os.environ.get("JPY_SESSION_NAME", "")).name.partition("_")[0]  # set by Jupyter


def _keep(entry: dict[str, Any]) -> None:
    with suppress(OSError):  # a kit that may only be read
        YOURS.parent.mkdir(exist_ok=True)
        with YOURS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")


def _kept() -> dict[str, Any]:
    """The latest entry of each claim that was checked on this machine."""
    if not YOURS.exists():
        return {}
    lines = YOURS.read_text(encoding="utf-8").splitlines()
    return {entry["claim"]: entry for entry in map(json.loads, lines)}


def _recorded() -> dict[str, Any]:
    return json.loads(RECORDED.read_text(encoding="utf-8")) if RECORDED.exists() else {}
