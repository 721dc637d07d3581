import pytest

import mamlpp


def test_a_misspelt_profile_is_named_with_the_choices():
    mamlpp.check_profile("laptop")
    with pytest.raises(mamlpp.InputError, match="one of smoke, laptop, gpu, paper, not 'labtop'"):
        mamlpp.check_profile("labtop")


def test_the_environment_chooses_the_profile(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MAMLPP_PROFILE", raising=False)
    assert mamlpp.chosen_profile("laptop") == "laptop"
    monkeypatch.setenv("MAMLPP_PROFILE", "smoke")
    assert mamlpp.chosen_profile("laptop") == "smoke"
    monkeypatch.setenv("MAMLPP_PROFILE", "labtop")
    with pytest.raises(mamlpp.InputError, match="not 'labtop'"):
        mamlpp.chosen_profile("laptop")
