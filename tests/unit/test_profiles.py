import pytest

import mamlpp


def test_a_misspelt_profile_is_named_with_the_choices():
    mamlpp.check_profile("laptop")
    with pytest.raises(mamlpp.InputError, match="one of smoke, laptop, gpu, paper, not 'labtop'"):
        mamlpp.check_profile("labtop")
