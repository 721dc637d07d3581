"""A prediction: its default where nobody answers, the reader's guess where somebody does."""

import matplotlib.pyplot as plt
import pytest

from mamlpp.errors import InputError
from mamlpp.show import predict


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


def test_untouched_a_slider_gives_its_default_and_the_figure_says_so(ax, capsys):
    guess = predict.slider("What accuracy?", 0, 100, default=40, unit="%")
    assert "Predict: What accuracy?" in capsys.readouterr().out  # where there are no widgets
    predict.plot_guess(guess, ax, x=3, scale=1 / 100)
    [line] = ax.lines
    assert line.get_xydata().tolist() == [[3, 0.4]]
    assert line.get_label() == "default guess: 40 %"
    predict.plot_guess(guess, ax, y=2)
    assert ax.lines[1].get_xydata().tolist() == [[40, 2]], "on an axis of per cent that lies down"


def test_a_moved_slider_is_the_readers_guess(ax):
    guess = predict.slider("What loss?", 0, 5, default=1, step=0.1)
    guess.control.value = 2.5
    predict.plot_guess(guess, ax)
    assert list(ax.lines[0].get_ydata()) == [2.5, 2.5]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["your guess: 2.5"]
    assert guess.verdict(1.234567) == "your guess: 2.5. It is: 1.23"


def test_a_choice_says_whether_it_was_right():
    guess = predict.choice("Which ends higher?", ["MAML", "neither"], default="MAML")
    assert guess.verdict("MAML") == "default guess: MAML. It is: MAML. Right!"
    guess.control.value = "neither"
    assert guess.verdict("MAML") == "your guess: neither. It is: MAML"


def test_a_default_that_cannot_be_chosen_is_refused():
    with pytest.raises(InputError, match=r"default guess 120 is not in 0 … 100"):
        predict.slider("?", 0, 100, default=120)
    with pytest.raises(InputError, match=r"'no' is none of yes"):
        predict.choice("?", ["yes"], default="no")
