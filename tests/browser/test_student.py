"""Quiz, predictions, the game and the canvas, done in a browser with the keyboard alone."""

from pathlib import Path

import pytest

from mamlpp.show import quiz
from tests.browser.conftest import Lab

pytestmark = pytest.mark.xdist_group("browser")  # one worker, so that all tests share one server
NOTEBOOK = Path(__file__).with_name("student.ipynb")
IMPORT, QUIZ, SLIDER, CHOICE, GUESSES, GAME, PLAYED, ALPHABET, DRAWN, PROGRESS = range(1, 11)


@pytest.fixture(scope="module")
def opened(server, browser):
    lab = Lab(server, browser)
    lab.open(NOTEBOOK, lambda text: text.replace("import mamlpp", own_progress(lab.folder), 1))
    lab.run(IMPORT)
    yield lab
    lab.close()


def own_progress(folder):
    return f"import os\\nos.environ['MAMLPP_PROGRESS'] = '{folder}/progress.json'\\nimport mamlpp"


def test_a_choice_answers_with_its_reason(opened):
    opened.run(QUIZ)
    first = quiz.read("01_maml")[0]["choices"]
    wrong = next(i for i, choice in enumerate(first) if not choice.get("right"))
    button = opened.find(QUIZ, "button.mamlpp-choice").nth(wrong)
    button.focus()
    button.press("Enter")
    says = opened.find(QUIZ, "[role=status]").first
    says.get_by_text(first[wrong]["because"][:30]).wait_for()
    # Long answers wrap instead of being cut off.
    assert button.evaluate("b => b.scrollWidth <= b.clientWidth + 1")
    opened.run(PROGRESS)
    assert f"{{'quiz': {{'01_maml': {{'0': {wrong}}}}}}}" in opened.text(PROGRESS)


def test_guesses_are_made_by_keyboard(opened):
    opened.run(SLIDER)
    opened.run(CHOICE)
    handle = opened.find(SLIDER, ".widget-slider .noUi-handle")
    handle.focus()
    handle.press("ArrowRight")
    button = opened.find(CHOICE, "button").filter(has_text="other")
    button.focus()
    button.press("Enter")

    def label():
        opened.run(GUESSES)
        return opened.text(GUESSES).strip() == "your guess: 5\nyour guess: other"

    opened.poll(label, "the guesses to arrive")


def test_the_game_is_played_to_its_end(opened):
    opened.run(GAME)
    for number in range(1, 11):
        opened.find(GAME, "[role=status]").get_by_text(f"drawing {number} of 10").wait_for()
        button = opened.find(GAME, "button").nth(number % 5)
        button.focus()
        button.press("Enter")
    opened.find(GAME, "[role=status]").get_by_text("Finished").wait_for()
    opened.run(PLAYED)
    assert "[1, 2, 3, 4, 0, 1, 2, 3, 4, 0]" in opened.text(PLAYED)
    assert opened.picture(PLAYED)


KEYS = ["Space", *["ArrowRight"] * 6, *["ArrowDown"] * 6, "Space"]


def test_characters_are_drawn_with_keys_and_with_the_mouse(opened):
    opened.run(ALPHABET)
    pads = opened.find(ALPHABET, "canvas")
    pads.first.wait_for()
    for number in range(5):
        pads.nth(number).focus()
        for key in [*KEYS[: 12 - 2 * number], "Space"]:
            pads.nth(number).press(key)
    button = opened.find(ALPHABET, "button").filter(has_text="learn and name it")
    button.press("Enter")
    status = opened.find(ALPHABET, "[role=status]")
    status.get_by_text("still to draw: one of them again").wait_for()

    area = pads.nth(5).bounding_box()
    opened.page.mouse.move(area["x"] + 30, area["y"] + 30)
    opened.page.mouse.down()
    opened.page.mouse.move(area["x"] + 100, area["y"] + 100, steps=8)
    opened.page.mouse.up()
    button.press("Enter")
    status.get_by_alt_text("the network says").wait_for()

    opened.run(DRAWN)
    assert "[1, 1, 1, 1, 1, 1]" in opened.text(DRAWN)
    pads.nth(0).focus()
    pads.nth(0).press("Backspace")
    opened.run(DRAWN)
    assert "[0, 1, 1, 1, 1, 1]" in opened.text(DRAWN)
