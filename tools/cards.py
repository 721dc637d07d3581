"""Write the card of each chapter, the take-away and the quiz at its end, and README's minutes.

.venv/bin/python tools/cards.py                           after an edit of notebooks/cards.json
.venv/bin/python tools/cards.py --record build/notebooks  the same, with a walkthrough's minutes

The words are in `notebooks/cards.json`, the minutes in `notebooks/minutes.json`: computing as an
executed walkthrough took, reading at 150 words and 20 lines of code a minute.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import tyro

from mamlpp.files import replacing

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS, README = ROOT / "notebooks", ROOT / "README.md"
WORDS, LINES = 150, 20  # read in a minute
OURS = ("card", "in-short", "quiz")  # ids of the cells that are written here
KINDS = ("markdown", "code")

Cell = dict[str, Any]


def measured(executed: Path) -> dict[str, Any]:
    """Minutes of each chapter: those that the notebooks in `executed` took, and those to read."""
    minutes = {}
    for name in _read("cards.json"):
        about = json.loads((executed / f"{name}.ipynb").read_text(encoding="utf-8"))["metadata"]
        computing = about["papermill"]["duration"] / 60
        minutes[name] = {"computing": round(computing, 1), "reading": reading(name)}
    return minutes


def reading(name: str) -> int:
    """Minutes to read a chapter."""
    cells = [cell for cell in _notebook(name)["cells"] if cell.get("id") not in OURS]
    texts = {kind: [_source(c) for c in cells if c["cell_type"] == kind] for kind in KINDS}
    words = sum(len(text.split()) for text in texts["markdown"])
    lines = sum(bool(line.strip()) for text in texts["code"] for line in text.splitlines())
    return max(1, round(words / WORDS + lines / LINES))


def with_card(name: str) -> dict[str, Any]:
    """The notebook of a chapter with its three cells as they should be."""
    card, minutes = _read("cards.json")[name], _read("minutes.json").get(name, {})
    notebook = _notebook(name)
    title, *rest = [cell for cell in notebook["cells"] if cell.get("id") not in OURS]
    code = f'from mamlpp.show import quiz\n\nquiz.show("{name}")'
    quiz = _cell("quiz", code, "code", execution_count=None, outputs=[])
    opening = _cell("card", opening_text(name, card, minutes))
    notebook["cells"] = [title, opening, *rest, _cell("in-short", closing_text(card)), quiz]
    return notebook


def opening_text(name: str, card: dict[str, Any], minutes: dict[str, float]) -> str:
    """What you will be able to do, what you need, how long it takes, and where you are."""
    needs = "; ".join(f"[{text}]({link})" if link else text for text, link in card["needs"])
    can = "\n".join(f"> - {line}" for line in card["can"])
    parts = [f"> **You are here** {chapter_map(name)}", f"> **You will be able to**\n>\n{can}"]
    parts += [f"> **You need** {needs}."]
    if minutes:
        parts.append(f"> **Time** {_time(minutes)}.")
    return "\n>\n".join(parts)


def chapter_map(here: str) -> str:
    """All chapters in their order, each a link, and a mark at this one."""
    names = {name: name[:2] if name[0].isdigit() else name for name in _read("cards.json")}
    return " · ".join(
        f"**▶ {short}**" if name == here else f"[{short}]({name}.ipynb)"
        for name, short in names.items()
    )


def closing_text(card: dict[str, Any]) -> str:
    """The take-away, the exercises, and one thing to try."""
    sets = ", ".join(f"[set {name[:2]}](exercises/{name}.ipynb)" for name in card["sets"])
    lines = [f"- **Exercises** {sets}."]
    lines = (lines if sets else []) + [f"- **Try** {card['try']}"]
    lines += [
        "- **Quiz** Run the last cell; [your progress](progress.ipynb) stays on this machine."
    ]
    return f"## In short\n\n{card['short']}\n\n" + "\n".join(lines)


def readme() -> str:
    """README, its table of chapters with the minutes of computing."""
    text, minutes = README.read_text(encoding="utf-8"), _read("minutes.json")
    for name, of in minutes.items():
        last = re.compile(rf"(?<=\(notebooks/{name}\.ipynb\) )(\|.*\| ).*(?= \|$)", re.MULTILINE)
        text = last.sub(rf"\g<1>{_waits(of)} min", text)
    total = sum(of["computing"] for of in minutes.values())
    return re.sub(r"\d+ in all", f"{total:.0f} in all", text)


def main(record: Path | None = None, check: bool = False) -> int:
    """Write the cells of every chapter, and README's minutes.

    Args:
        record: A folder of executed notebooks: take the minutes from them first.
        check: Write nothing; list the chapters whose cells are not up to date.

    Returns:
        The exit status: 1 if `check` found any.
    """
    if record and not check:
        _write(NOTEBOOKS / "minutes.json", measured(record))
    stale = [name for name in _read("cards.json") if with_card(name) != _notebook(name)]
    for name in stale:
        print(f"{name}: {'not up to date' if check else 'written'}")
        if not check:
            _write(NOTEBOOKS / f"{name}.ipynb", with_card(name))
    if readme() != README.read_text(encoding="utf-8"):
        stale.append(README.name)
        print(f"{README.name}: {'not up to date' if check else 'written'}")
        if not check:
            README.write_text(readme(), encoding="utf-8")
    return int(check and bool(stale))


def _time(minutes: dict[str, float]) -> str:
    return (
        f"about {minutes['reading']:.0f} minutes to read, and {_waits(minutes)} of computing "
        f"(profile `laptop`, two cores)"
    )


def _waits(minutes: dict[str, float]) -> str:
    return f"{minutes['computing']:.0f}" if minutes["computing"] >= 1 else "less than 1"


def _cell(identity: str, source: str, kind: str = "markdown", **more: Any) -> Cell:
    lines = source.splitlines(keepends=True)
    return {"cell_type": kind, "id": identity, "metadata": {}, "source": lines, **more}


def _source(cell: Cell) -> str:
    return "".join(cell["source"])


def _notebook(name: str) -> dict[str, Any]:
    return _read(f"{name}.ipynb")


def _read(name: str) -> dict[str, Any]:
    return json.loads((NOTEBOOKS / name).read_text(encoding="utf-8"))


def _write(path: Path, value: Any) -> None:
    with replacing(path) as part:
        part.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
