"""What TEACHING.md promises is there: its files, its commands, and the limits that it names."""

import inspect
import re
from pathlib import Path

import grade

ROOT = Path(__file__).parents[2]
TEACHING = (ROOT / "TEACHING.md").read_text(encoding="utf-8")


def test_every_link_leads_to_a_file():
    links = re.findall(r"\]\(([^)#]+)", TEACHING)
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_chapter_is_in_the_table_and_in_a_plan():
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        assert TEACHING.count(f"(notebooks/{path.name})") >= 2, path.name


def test_every_make_command_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    commands = set(re.findall(r"\bmake ([a-z]+)", TEACHING)) - {"sure"}
    assert {command for command in commands if f"\n{command}:" not in makefile} == set()


def test_the_limits_are_those_of_the_grader():
    limits = grade.Limits()
    assert f"stopped after {limits.seconds_per_cell} s" in TEACHING
    wanted = f"{limits.seconds // 60} minutes altogether, {limits.bytes / 1e9:g} GB"
    assert f"{wanted}, or {grade.MOST_PROCESSES} processes" in TEACHING


def test_the_options_exist():
    named = {name.replace("-", "_") for name in re.findall(r"[`\"]--([a-z-]+)[` ]", TEACHING)}
    assert named == {"seconds", "seconds_per_cell", "memory"}
    assert named <= set(inspect.signature(grade.main).parameters)
