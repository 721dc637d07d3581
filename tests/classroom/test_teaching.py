"""What TEACHING.md promises is there: its files, its commands, its minutes, and its limits."""

import inspect
import re
from pathlib import Path

from classroom import grade
from classroom.sets import Limits

ROOT = Path(__file__).parents[2]
TEACHING = (ROOT / "TEACHING.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_link_leads_to_a_file():
    links = re.findall(r"\]\(([^)#]+)", TEACHING)
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_chapter_is_in_the_table_and_in_a_plan():
    chapters = [*(ROOT / "notebooks").glob("[0-9]*.ipynb"), ROOT / "notebooks" / "primer.ipynb"]
    for path in chapters:
        assert TEACHING.count(f"(notebooks/{path.name})") >= 2, path.name


def plans() -> list[list[tuple[int, str]]]:
    """The minutes and the words of each row of each plan, the last row being the sum."""
    tables = re.findall(r"^\| min \|.*\n\|---\|---\|\n((?:\|.*\n)+)", TEACHING, re.MULTILINE)
    rows = [re.findall(r"^\| (\d+) \| ?(.*) ?\|$", table, re.MULTILINE) for table in tables]
    return [[(int(minutes), words) for minutes, words in table] for table in rows]


def test_the_minutes_of_each_plan_add_up_and_there_are_breaks():
    assert len(plans()) == 5
    for plan in plans():
        *rows, (total, _) = plan
        assert sum(minutes for minutes, _ in rows) == total
        longest, since = 0, 0
        for minutes, words in rows:
            since = 0 if words.strip() == "break" else since + minutes
            longest = max(longest, since)
        assert longest <= 95, "too long without a break"


def test_a_chapter_has_more_minutes_than_the_machine_needs():
    row = r"\((notebooks/\w+\.ipynb)\) \|.*\| (?:less than )?(\d+) min \|"
    measured = dict(re.findall(row, README))
    assert len(measured) >= 12
    for plan in plans():
        for minutes, words in plan:
            for chapter in re.findall(r"\((notebooks/\w+\.ipynb)\)", words):
                assert minutes >= int(measured.get(chapter, 0)), (words, chapter)


def test_every_make_command_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    commands = set(re.findall(r"\bmake ([a-z]+)", TEACHING)) - {"sure"}
    assert {command for command in commands if f"\n{command}:" not in makefile} == set()


def test_the_limits_are_those_of_the_grader():
    limits = Limits()
    assert f"stopped after {limits.seconds_per_cell} s" in TEACHING
    wanted = f"{limits.seconds // 60} minutes altogether, {limits.bytes / 1e9:g} GB"
    wanted += f", or {limits.processes} processes, or {limits.disk // 1_000_000} MB on the disk"
    assert wanted in TEACHING


def test_the_options_exist():
    named = {name.replace("-", "_") for name in re.findall(r"[`\"=]--([a-z-]+)[` \n]", TEACHING)}
    assert named == {"seconds", "seconds_per_cell", "memory", "trust"}
    assert named <= set(inspect.signature(grade.main).parameters)
