"""Who is in the class: a file from the course system, or a plain one, with a person in each row.

    name,id,email
    Ann Lee,71,ann.lee@example.org

Other names of the columns, other separators and the exports of Moodle and Canvas are understood.
A file that was handed in belongs to the one person whose name, number or address it carries.
"""

import csv
import io
import re
import unicodedata
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from classroom.sets import GradingError
from mamlpp.errors import InputError
from mamlpp.files import read_text

# What a column may be called, without blanks, signs and capitals.
COLUMNS = {
    "name": "name fullname student studentname completename nachnamevorname vollstandigername",
    "first": "firstname givenname forename vorname prenom nombre",
    "last": "surname lastname familyname nachname nom apellidos",
    "id": "id idnumber studentid studentnumber identifier sisuserid userid matriculation "
    "matriculationnumber matrikelnummer number username login sisloginid loginid",
    "email": "email emailaddress mail emailadresse eaddress",
}
KINDS = {name: kind for kind, names in COLUMNS.items() for name in names.split()}
WORD = re.compile(r"[^\W_]+")
POINTS_POSSIBLE = "points possible"  # how the second row of Canvas's export begins


@dataclass(frozen=True)
class Person:
    """A row of the roster: its values by kind of column ("name", "id", …), and its number."""

    row: int
    values: dict[str, tuple[str, ...]]

    @property
    def name(self) -> str:
        """The name as people write it."""
        whole = self.values.get("name", ("",))[0]
        parts = (*self.values.get("first", ()), *self.values.get("last", ()))
        return whole or " ".join(part for part in parts if part) or self.label

    @property
    def label(self) -> str:
        """The first identifier that there is."""
        return next((v for kind in ("id", "email") for v in self.values.get(kind, ()) if v), "")

    @property
    def keys(self) -> set[str]:
        """What a folder or a file may be called that is this person's."""
        return self.exact | self.names

    @cached_property
    def exact(self) -> set[str]:
        """The numbers and the addresses."""
        emails = [value for value in self.values.get("email", ()) if value]
        exact = [value for value in self.values.get("id", ()) if value]
        exact += emails
        # Moodle numbers people "Participant 71", and folders "Ann Lee_71".
        exact += [value.rpartition(" ")[2] for value in exact if value.startswith("Participant ")]
        return {plain(value) for value in exact}

    @cached_property
    def names(self) -> set[str]:
        """The name: in any order, as one word, and as Canvas writes it (leeann)."""
        words = plain_words(self.name)
        local = {plain(each.partition("@")[0]) for each in self.values.get("email", ()) if each}
        return {sorted_words(words), "".join(words), "".join([*words[-1:], *words[:-1]])} | local


@dataclass(frozen=True)
class Roster:
    """The rows of the file as they are, for the grades to go into, and the people in them."""

    header: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    people: list[Person] = field(default_factory=list)
    separator: str = ","

    def find(self, student: str) -> Person | None:
        """Return the one person to whom a folder's or file's name belongs, or None."""
        names = names_in(student)
        found = [person for person in self.people if person.exact & names]
        found = found or [person for person in self.people if person.names & names]
        return found[0] if len(found) == 1 else None


def plain(text: str) -> str:
    """Return `text` without accents, capitals and signs."""
    bare = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    words = [WORD.findall(each.casefold()) for each in (bare, text)]
    return "".join(words[0] or words[1])  # other scripts stay as they are


def plain_words(text: str) -> list[str]:
    """Return the words of `text`, plain, and none that is empty."""
    return [word for each in WORD.findall(text) if (word := plain(each))]


def sorted_words(words: list[str]) -> str:
    """Return words in the same order, whichever of the names comes first."""
    return " ".join(sorted(words))


def names_in(student: str) -> set[str]:
    """Return everything in a folder's name that may be a person's name, number or address."""
    words = plain_words(student)
    letters = [word for word in words if not word.isdigit()]
    numbers = {word for word in words if any(c.isdigit() for c in word)}
    return {plain(student), sorted_words(letters), "".join(letters)} | numbers


def read_roster(path: Path | None) -> Roster:
    """Return the roster in the file `path`, an empty one without a file.

    Raises `GradingError` where it is no table, or names nobody.
    """
    if path is None:
        return Roster()
    try:
        text = read_text(path)
    except InputError as error:
        raise GradingError(f"The roster: {error}.") from error
    first = text.partition("\n")[0]
    separator = max(",;\t", key=first.count)
    table = [row for row in csv.reader(io.StringIO(text), delimiter=separator) if any(row)]
    kinds = [KINDS.get(plain(name), "") for name in table[0]] if table else []
    if not {"name", "first", "id", "email"} & set(kinds):
        raise GradingError(
            f"The roster {path} has no column for names, numbers or addresses: its first line must "
            f"name the columns, as in 'name,id,email'."
        )
    people = [
        Person(number, values_of(row, kinds))
        for number, row in enumerate(table[1:])
        if POINTS_POSSIBLE not in row[0].casefold() and "student, test" not in row[0].casefold()
    ]
    check_people(people, path)
    return Roster(table[0], table[1:], people, separator)


def values_of(row: list[str], kinds: list[str]) -> dict[str, tuple[str, ...]]:
    """Return the values of a row by the kind of column."""
    pairs = [(kind, value.strip()) for kind, value in zip(kinds, row, strict=False) if kind]
    return {kind: tuple(v for k, v in pairs if k == kind) for kind, _ in pairs}


def check_people(people: list[Person], path: Path) -> None:
    """Raise `GradingError` if two rows have the same number or address."""
    seen: dict[str, Person] = {}
    for person in people:
        other = seen.setdefault(person.label or person.name, person)
        if other is not person:
            raise GradingError(
                f"The roster {path} has {person.label or person.name!r} in two rows: a number or "
                f"an address belongs to one person."
            )
