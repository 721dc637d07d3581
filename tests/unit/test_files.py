"""Paths as people give them, text as editors save it, files written as a whole."""

import codecs
import errno
import os
import time
from pathlib import Path

import pytest

from mamlpp.errors import InputError
from mamlpp.files import read_text, remove_leftovers, replacing, user_path


def test_a_path_keeps_its_meaning_when_the_folder_changes(tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    path = user_path("runs/x")
    monkeypatch.chdir("other")
    assert path == tmp_path / "runs" / "x"


@pytest.mark.parametrize("given", ["~/runs", Path("~/runs")])
def test_the_home_folder_is_expanded(tmp_path, monkeypatch, given):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert user_path(given) == tmp_path / "runs"


@pytest.mark.skipif(os.name == "nt", reason="Windows takes any name for a user's")
def test_the_home_folder_of_nobody_is_refused():
    with pytest.raises(InputError, match=r"~nobody-here/x begins with .* write the whole path$"):
        user_path("~nobody-here/x")


@pytest.mark.parametrize(
    "data",
    [
        "größe = 1\n".encode(),
        "größe = 1\n".encode("utf-8-sig"),
        codecs.BOM_UTF16_LE + "größe = 1\n".encode("utf-16-le"),
        codecs.BOM_UTF16_BE + "größe = 1\n".encode("utf-16-be"),
        codecs.BOM_UTF32_LE + "größe = 1\n".encode("utf-32-le"),
        b"gr\xc3\xb6\xc3\x9fe = 1\r\n",
    ],
)
def test_text_is_read_whatever_the_editor_wrote(tmp_path, data):
    path = tmp_path / "sweep.toml"
    path.write_bytes(data)
    assert read_text(path) == "größe = 1\n"


@pytest.mark.parametrize(
    "data",
    ["größe".encode("latin-1"), "name = 1".encode("utf-16-le"), codecs.BOM_UTF16_LE + b"odd"],
)
def test_what_is_no_text_is_refused_in_a_sentence(tmp_path, data):
    path = tmp_path / "sweep.toml"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"sweep\.toml is not text in UTF-8; save it .* as UTF-8$"):
        read_text(path)


def test_text_that_is_not_there_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(InputError, match=r"none\.toml cannot be read \(No such file"):
        read_text(tmp_path / "none.toml")


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "a").write_text("old", encoding="utf-8")
    with pytest.raises(RuntimeError), replacing(tmp_path / "a") as part:  # noqa: PT012
        part.write_text("new", encoding="utf-8")
        raise RuntimeError
    assert [path.read_text(encoding="utf-8") for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
def test_a_drive_that_knows_no_sync_will_do_but_a_broken_one_will_not(
    tmp_path, monkeypatch, number
):
    def fsync(_):
        raise OSError(number, "sync")

    def write():
        with replacing(tmp_path / "a") as part:
            part.write_text("new", encoding="utf-8")

    monkeypatch.setattr(os, "fsync", fsync)
    if number == errno.EINVAL:
        write()
    else:
        with pytest.raises(OSError, match="sync"):
            write()
    assert len(list(tmp_path.iterdir())) == (number == errno.EINVAL)


def test_leftovers_go_once_they_are_old_enough(tmp_path):
    for name, age in (("old", 100), ("new", 0)):
        (tmp_path / f".part-{name}").mkdir()
        os.utime(tmp_path / f".part-{name}", (time.time() - age,) * 2)
    remove_leftovers(tmp_path, older_than=50)
    assert [path.name for path in tmp_path.iterdir()] == [".part-new"]
    remove_leftovers(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("refused", [2, 99])
def test_a_file_that_is_being_read_is_replaced_a_moment_later(tmp_path, monkeypatch, refused):
    calls, pauses, replace = [], [], os.replace

    def busy(*paths):  # as on Windows
        calls.append(paths)
        if len(calls) <= refused:
            raise PermissionError(13, "The process cannot access the file")
        replace(*paths)

    monkeypatch.setattr("mamlpp.files.os.replace", busy)
    monkeypatch.setattr("mamlpp.files.time.sleep", pauses.append)
    path = tmp_path / "a.txt"
    path.write_text("old", encoding="utf-8")

    def write():
        with replacing(path) as part:
            part.write_text("new", encoding="utf-8")

    if refused == 2:
        write()
    else:
        with pytest.raises(PermissionError):
            write()
        assert sum(pauses) < 2
    assert path.read_text(encoding="utf-8") == ("new" if refused == 2 else "old")
