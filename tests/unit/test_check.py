"""Which unit tests `make check` runs for changed files."""

import check


def names(*files):
    return [path.name for path in check.tests_of([check.ROOT / file for file in files])]


def test_a_module_is_tested_by_the_file_of_its_name_and_by_those_that_import_it():
    found = names("mamlpp/show/recorded.py")
    assert found[0] == "test_recorded.py"
    assert "test_readme.py" not in found


def test_a_changed_test_file_is_run_itself():
    assert names("tests/unit/test_glyphs.py") == ["test_glyphs.py"]


def test_pages_and_notebooks_have_no_unit_tests():
    assert names("README.md", "notebooks/00_start_here.ipynb") == []


def test_what_everything_imports_waits_for_the_whole_suite():
    assert len(names("mamlpp/learner.py")) <= check.ENOUGH
