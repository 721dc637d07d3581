"""The ledger of claims: checked, printed, kept."""

import pytest

from mamlpp.show import claims


@pytest.fixture(autouse=True)
def own_files(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "YOURS", tmp_path / "build/yours.jsonl")
    monkeypatch.setattr(claims, "RECORDED", tmp_path / "ours.json")


def test_a_claim_that_holds_is_said_with_both_numbers_and_ours(capsys):
    assert claims.expect("A is above B", [0.7, 0.8], 0.5)
    claims.record()
    assert claims.expect("A is above B", 0.66, [0.6])
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "✓ A is above B. It holds here: 75.0 against 50.0 %.",
        "✓ A is above B. It holds here: 66.0 against 60.0 % (ours: 75.0 against 50.0 %).",
    ]


def test_a_claim_that_does_not_hold_says_why_that_may_be(capsys):
    assert not claims.expect("A is longer", 2, 3.456, unit="s", why="short runs differ", must=False)
    assert capsys.readouterr().out == (
        "✗ A is longer? It does not hold here: 2 against 3.46 s. Short runs differ.\n"
    )


def test_a_claim_that_must_hold_fails_where_it_does_not():
    with pytest.raises(AssertionError, match=r"hold everywhere: A is above B; it is 10.0 against"):
        claims.expect("A is above B", 0.1, 0.2)


def test_seeds_that_overlap_are_said_so_and_equal_numbers_are_said_once(capsys):
    claims.expect("A is above B", [0.7, 0.9], [0.6, 0.71])
    claims.record()
    claims.expect("A is above B", [0.7, 0.9], [0.6, 0.71])
    claims.expect("all seeds", [0.7, 0.9], [0.6, 0.69])
    assert capsys.readouterr().out.splitlines() == [
        "✓ A is above B. It holds here: 80.0 against 65.5 %, but the seeds overlap.",
        "✓ A is above B. It holds here: 80.0 against 65.5 %, but the seeds overlap.",
        "✓ all seeds. It holds here: 80.0 against 64.5 %.",
    ]
    assert list(claims.ledger()["holds"]) == ["yes, but seeds overlap", "yes"]


def test_large_numbers_are_grouped(capsys):
    claims.expect("more flips", 123459, 2, unit="")
    assert "123,459 against 2." in capsys.readouterr().out


def test_a_margin_is_part_of_the_claim(capsys):
    assert claims.expect("A", 0.30, 0.19, margin=0.1)
    assert not claims.expect("A", 0.28, 0.19, margin=0.1, must=False)
    assert "28.0 against 19.0 %" in capsys.readouterr().out


def test_equal_numbers_and_nan_do_not_hold():
    assert not claims.expect("equal", 1, 1, must=False)
    assert not claims.expect("diverged", float("nan"), 0, must=False)


def test_the_ledger_has_the_latest_of_each_claim_and_its_chapter(monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "notebooks/02_training_instability.ipynb")
    claims.expect("first", 0.2, 0.1, paper="as in table 1")
    claims.record()
    claims.YOURS.unlink()
    assert claims.ledger().to_dict("records") == [
        {
            "chapter": "02",
            "claim": "first",
            "the paper": "as in table 1",
            "ours": "20.0 against 10.0 %",
            "yours": "not run",
            "holds": "",
        }
    ]
    monkeypatch.delenv("JPY_SESSION_NAME")
    claims.expect("second", 0.1, 0.2, must=False)
    claims.expect("second", 0.3, 0.2)
    table = claims.ledger()
    assert list(table["claim"]) == ["first", "second"]
    assert list(table["yours"]) == ["not run", "30.0 against 20.0 %"]
    assert list(table["holds"]) == ["", "yes"]
    assert list(table["chapter"]) == ["02", ""]


def test_a_kit_that_may_only_be_read_still_checks(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(claims, "YOURS", tmp_path / "file/build/yours.jsonl")
    assert claims.expect("A", 2, 1)
