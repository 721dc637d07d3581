"""The quizzes: their questions are well formed, a choice answers with its reason and is kept."""

import json
import re
from collections import Counter

import pytest

from mamlpp.errors import InputError
from mamlpp.show import progress, quiz

QUIZZES = sorted((progress.NOTEBOOKS / "quizzes").glob("*.json"))
NAME = "03_multi_step_loss"

by_name = pytest.mark.parametrize("path", QUIZZES, ids=lambda path: path.stem)


@pytest.fixture(autouse=True)
def own_file(tmp_path, monkeypatch):
    monkeypatch.setenv(progress.FILE, str(tmp_path / "kept" / "progress.json"))


# The questions


def test_every_chapter_and_the_primer_has_one():
    chapters = {path.stem for path in progress.NOTEBOOKS.glob("[0-9]*.ipynb")}
    assert {path.stem for path in QUIZZES} == {*chapters, "primer"}


@by_name
def test_each_question_has_one_right_answer_and_a_reason_of_its_own_for_each(path):
    questions = json.loads(path.read_text(encoding="utf-8"))
    assert len(questions) == 6 if path.stem == "primer" else 3 <= len(questions) <= 5
    for question in questions:
        choices = question["choices"]
        assert 2 <= len(choices) <= len(quiz.LETTERS), question["ask"]
        assert sum(bool(choice.get("right")) for choice in choices) == 1, question["ask"]
        for field in ("says", "because"):
            texts = [choice[field] for choice in choices]
            assert len(set(texts)) == len(texts)
            assert all(len(text.strip()) > (8 if field == "because" else 0) for text in texts)
        assert set(question) <= {"ask", "choices", "sketch"}


@by_name
def test_a_sketch_has_words_for_those_who_do_not_see_it(path):
    for question in json.loads(path.read_text(encoding="utf-8")):
        if "sketch" in question:
            sketch = question["sketch"]
            assert len(sketch["alt"]) > 40
            [ax] = quiz.draw_sketch(sketch).axes
            assert [line.get_label() for line in ax.lines] == list(sketch["lines"])
            assert ax.get_xlabel() == sketch["xlabel"]
            assert "sketch" in ax.get_title()


def test_the_right_answer_is_not_always_at_the_same_place():
    places = Counter(
        [bool(choice.get("right")) for choice in question["choices"]].index(True)
        for path in QUIZZES
        for question in json.loads(path.read_text(encoding="utf-8"))
    )
    assert max(places.values()) < 0.6 * places.total()


# The widget


def press(asked, question, wanted):
    """Press the first button of a question that is right, or that is wrong; its reason."""
    choices = asked.questions[question]["choices"]
    number = [bool(choice.get("right")) for choice in choices].index(wanted)
    asked.buttons[question][number].click()
    return choices[number]["because"]


def test_a_wrong_choice_answers_with_its_own_reason_and_a_right_one_counts():
    asked = quiz.Quiz(NAME)
    because = press(asked, 0, False)
    assert "✗" in asked.reasons[0].value
    assert because in asked.reasons[0].value
    assert f"0 of {len(asked.questions)}" in asked.score.value
    assert not asked.reasons[1].value

    because = press(asked, 0, True)
    assert "✓" in asked.reasons[0].value
    assert because in asked.reasons[0].value
    assert f"1 of {len(asked.questions)}" in asked.score.value
    marked = [button for button in asked.buttons[0] if button._dom_classes[1:]]
    assert [button._dom_classes for button in marked] == [("mamlpp-choice", "mamlpp-right")]


def test_choices_are_kept_and_shown_again():
    first = quiz.Quiz(NAME)
    because = press(first, 1, False)
    first.done.value = True

    again = quiz.Quiz(NAME)
    assert because in again.reasons[1].value
    assert again.done.value
    assert not quiz.Quiz("01_maml").score.value


def test_the_text_has_every_question_and_the_answers():
    text = quiz.as_text(quiz.read(NAME))
    for question in quiz.read(NAME):
        assert question["ask"] in text
        assert all(choice["says"] in text for choice in question["choices"])
    assert text.splitlines()[-1].startswith("Answers: 1 b, 2 ")


def test_showing_a_quiz_falls_back_to_text(capsys):
    quiz.show(NAME)  # without a front end, `display` prints
    assert "Answers:" in capsys.readouterr().out


def test_an_unknown_quiz_is_refused_with_those_that_exist():
    with pytest.raises(InputError, match=r"no quiz '3'; choose one of 00_start_here, "):
        quiz.read("3")


# What is kept


def test_the_table_shows_chapters_quizzes_and_sets():
    asked = quiz.Quiz(NAME)
    press(asked, 0, True)
    press(asked, 1, False)
    asked.done.value = True
    progress.keep("exercise", "curriculum", True)

    row = progress.table().loc[json.loads(progress.CARDS.read_text("utf-8"))[NAME]["title"]]
    assert row["worked through"] == "✓"
    assert row["quiz"] == f"1 of {len(asked.questions)} right"
    assert re.fullmatch(r"1 of [3-9] in set 03", row["exercises"])

    progress.forget()
    assert not progress.path().exists()
    assert set(progress.table()["worked through"]) == {"–"}


def test_a_damaged_file_is_an_empty_one():
    progress.path().parent.mkdir(parents=True)
    progress.path().write_text("{", encoding="utf-8")
    assert progress.read() == {}
    progress.keep("chapter", NAME, True)
    assert progress.read() == {"chapter": {NAME: True}}


def test_where_the_file_cannot_be_written_the_quiz_still_answers(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv(progress.FILE, str(tmp_path / "file" / "progress.json"))
    asked = quiz.Quiz(NAME)
    assert press(asked, 0, True) in asked.reasons[0].value


def test_grading_keeps_nothing(monkeypatch):
    monkeypatch.setenv("MAMLPP_CACHE_READ_ONLY", "1")
    progress.keep("exercise", "layer_step", True)
    assert progress.read() == {}
