"""What the README and the book's pages show is true: recipes exist, commands are understood."""

import re
import shlex
from pathlib import Path

import mamlpp
from mamlpp import cli

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "book").glob("*.md")}


def test_the_readme_takes_a_minute():
    assert len(README.splitlines()) < 150


def test_every_recipe_is_named():
    for name in mamlpp.RECIPES:
        assert f"`{name}`" in PAGES["command_line"], name


def test_the_commands_are_understood():
    shell = "\n".join(re.findall(r"```sh\n(.*?)```", "".join(PAGES.values()), re.DOTALL))
    lines = shell.replace("\\\n", " ").splitlines()
    commands = [shlex.split(line, comments=True)[1:] for line in lines if "bin/mamlpp" in line]
    assert {command[0] for command in commands} == {"data", "train", "evaluate", "sweep"}
    for command in commands:
        cli._parse(command)
