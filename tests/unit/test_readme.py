"""What the README shows is true: its recipes exist, and its snippets run."""

import re
import shlex
from pathlib import Path

import pytest

import mamlpp
from mamlpp import cli

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_every_recipe_is_named():
    for name in mamlpp.RECIPES:
        assert f"`{name}`" in README, name


def test_the_commands_are_understood():
    shell = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))
    lines = shell.replace("\\\n", " ").splitlines()
    commands = [shlex.split(line, comments=True)[1:] for line in lines if "bin/mamlpp" in line]
    assert {command[0] for command in commands} == {"data", "train", "evaluate", "sweep"}
    for command in commands:
        cli._parse(command)


def test_the_snippet_for_ones_own_module_runs(capsys: pytest.CaptureFixture[str]):
    (snippet,) = [
        code
        for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL)
        if "functional_call" in code
    ]
    exec(compile(snippet, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    for line in lines:
        before, *_, after = map(float, line.partition(":")[2].split())
        assert after < before
