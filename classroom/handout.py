"""Make what students get of a set: one zip with everything that they need, and no solution.

make handout SET=01_inner_loop [COURSE="ML, spring 2027"] [ROSTER=roster.csv]

It holds the notebook with a stamp, the chapters that it links to, the package
and instructions, in the folders of the kit, so that every link works. With a roster each person
gets a zip of their own, whose visible tests draw other numbers.
"""

from mamlpp import stopping

stopping.listen(__name__, "Each zip that is there is whole; the same command makes them all.")

import re
import sys
import tempfile
import zipfile
from pathlib import Path

import nbformat
import tyro
from nbformat import NotebookNode

from classroom import stamps
from classroom.records import folder_name
from classroom.roster import Person, plain, read_roster
from classroom.sets import ExerciseSet, GradingError, Limits, load_set
from classroom.versions import ROOT, SOURCES, SourceError
from mamlpp.files import replacing

PLACE = "notebooks/exercises"  # of the notebook within the kit
KIT = ("mamlpp", "Makefile", "pyproject.toml", "constraints.txt", "README.md", "LICENSE")
TOOLS = ("start.py", "tools/venv_here.py", "tools/matplotlibrc")
LINK = re.compile(r"\]\(<?([^)\s>#:]+)|(?:src|href)=[\"']([^\"'#:]+)")
LARGEST = 3_000_000  # bytes of a file that a chapter links to
INSTRUCTIONS = """{title}
{line}
{for_whom}
1. Unpack this zip: right-click it, "Extract all". Do not work inside the zip.
2. Open a terminal in the folder, and type

       make lab START={place}

   Without make:  python3 -m venv .venv
                  .venv/bin/python -m pip install -c constraints.txt -e .
                  .venv/bin/python -m jupyterlab {place}
   (on Windows: .venv\\Scripts\\python instead of .venv/bin/python)
   The first start downloads about 1.4 GB, once.
3. Write your answers into the cells that say "Your code goes here", and run the cell below each: it
   tells you what is wrong. Do not change or delete the cells with tests.
4. Before you hand in: Kernel, Restart and run all cells. Save.
5. Hand in this one file, under its name:  {place}

You may add cells. Lines such as `!pip install` are not run when your work is graded.
"""


def make(exercise_set: ExerciseSet, course: str, person: Person | None, output: Path) -> Path:
    """Write the zip for one person, or for everybody, into the folder `output`."""
    student = student_of(person)
    name, stem = exercise_set.name, zip_name(exercise_set.name, person)
    notebook = notebook_of(exercise_set, course, student)
    place = f"{PLACE}/{name}.ipynb"
    files = {path: ROOT / path for path in kit_files() + linked(notebook, f"{PLACE}/{name}.ipynb")}
    with (
        replacing(output / f"{stem}.zip") as part,
        zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        archive.writestr(f"{name}/{place}", nbformat.writes(notebook))
        archive.writestr(f"{name}/READ_ME_FIRST.txt", instructions(name, place, course, person))
        for path, where in sorted(files.items()):
            if path != place:
                archive.write(where, f"{name}/{path}")
    return output / f"{stem}.zip"


def student_of(person: Person | None) -> str:
    """Return what the stamp calls a person; empty for everybody."""
    return (person.label or plain(person.name)) if person else ""


def zip_name(name: str, person: Person | None) -> str:
    """Return what the zip of a set is called, without its ending."""
    whose = f"_{plain(person.name)}_{plain(student_of(person))}" if person else ""
    return folder_name(name + whose)


def notebook_of(exercise_set: ExerciseSet, course: str, student: str) -> NotebookNode:
    """Return the notebook that a student gets, stamped."""
    own = stamps.variant(exercise_set, student)
    notebook = nbformat.from_dict(own.released)
    stamps.stamp(notebook, own, course, student)
    return notebook


def instructions(name: str, place: str, course: str, person: Person | None) -> str:
    """Return what a student reads first."""
    title = f"{course}: {name}" if course else name
    whose = (
        f"\nFor {person.name} alone: the numbers in your tests are your own.\n" if person else ""
    )
    return INSTRUCTIONS.format(title=title, line="=" * len(title), for_whom=whose, place=place)


def kit_files() -> list[str]:
    """Return the files of the kit that a student needs: the package, and how it is installed."""
    found = [ROOT / name for name in (*KIT, *TOOLS) if (ROOT / name).is_file()]
    found += [path for path in (ROOT / "mamlpp").rglob("*") if path.is_file()]
    names = [path.relative_to(ROOT).as_posix() for path in found]
    return [name for name in names if "__pycache__" not in name]


def linked(notebook: NotebookNode, place: str) -> list[str]:
    """Return the chapters to which a notebook links, and the pictures in them."""
    found = []
    for path in links_of(notebook, place):
        if path.startswith("notebooks/") and path.endswith(".ipynb") and PLACE not in path:
            found.append(path)
            chapter = nbformat.read(ROOT / path, 4)
            found += [each for each in links_of(chapter, path) if not each.endswith(".ipynb")]
    data = ["notebooks/cards.json", *sorted(quizzes())]
    return list(dict.fromkeys([*found, *(each for each in data if (ROOT / each).is_file())]))


def quizzes() -> list[str]:
    """Return the quizzes at the ends of the chapters."""
    return [path.relative_to(ROOT).as_posix() for path in (ROOT / "notebooks").glob("quizzes/*")]


def links_of(notebook: NotebookNode, place: str) -> list[str]:
    """Return the small files of the kit to which the text of a notebook at `place` links."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    names = [one or other for one, other in LINK.findall(text)]
    paths = [(ROOT / place).parent.joinpath(name).resolve() for name in names]
    kept = [p for p in paths if p.is_relative_to(ROOT) and p.is_file()]
    return [p.relative_to(ROOT).as_posix() for p in kept if p.stat().st_size <= LARGEST]


def check_names(set: str, people: list[Person | None]) -> None:
    """Raise `GradingError` where one person's zip would replace another's."""
    seen: dict[str, Person] = {}
    for person in filter(None, people):
        other = seen.setdefault(zip_name(set, person).casefold(), person)
        if other is not person:
            raise GradingError(
                f"{other.name!r} and {person.name!r} are one name without accents and signs: give "
                f"both a number or an address on the roster."
            )


def make_all(set: str, sources: Path, output: Path, course: str, roster: Path | None) -> list[Path]:
    """Write all zips of a set, and return them; `GradingError` where there is no such set."""
    names = [path.stem for path in sorted(sources.glob("*.ipynb"))]
    if set not in names:
        raise GradingError(
            f"Which set? Type 'make handout SET={names[0] if names else '01_inner_loop'}'; there "
            f"are: {', '.join(names)}."
        )
    people: list[Person | None] = [*read_roster(roster).people]
    check_names(set, people)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        try:
            exercise_set = load_set(sources / f"{set}.ipynb", Path(folder), Limits())
        except SourceError as error:
            raise GradingError(f"The source is faulty, see 'make exercises': {error}") from error
    return [make(exercise_set, course, person, output) for person in people or [None]]


def main(
    set: str = "",
    sources: Path = SOURCES,
    output: Path = ROOT / "build" / "handout",
    course: str = "",
    roster: Path | None = None,
) -> int:
    """Make the zips that students get of a set.

    Args:
        set: The set, such as 01_inner_loop.
        sources: The folder of the sets' sources.
        output: Where the zips go.
        course: The course and term, which the stamp names.
        roster: Who is in the class: each gets a variant of their own.

    Returns:
        The exit status: 1 where nothing could be made.
    """
    try:
        made = make_all(set, sources, output, course, roster)
    except GradingError as error:
        print(error, file=sys.stderr)
        return 1
    which = f"{len(made)} zips in {output}" if len(made) > 1 else str(made[0])
    print(f"Hand out {which}: no solutions, no hidden tests.")
    return 0


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
