"""The quiz at the end of a chapter: `quiz.show("03_multi_step_loss")`.

The questions are `notebooks/quizzes/NAME.json`: a list of

    {"ask": "…", "choices": [{"says": "…", "right": true, "because": "…"}, {"says": …}, …]}

with exactly one right choice, and a reason for each. A question may have a "sketch" to read, which
is drawn here: {"title", "xlabel", "ylabel", "lines": {name: [y, …]}, "log": false, "alt"}.
Choices are kept in `progress.json` on this machine. Where there are no widgets, the text is shown.
"""

import json
from collections.abc import Sequence
from html import escape
from typing import Any

import ipywidgets  # type: ignore[import-untyped]
import matplotlib
from matplotlib.figure import Figure

from mamlpp.errors import InputError
from mamlpp.show import progress
from mamlpp.show.html import as_image, show_widget, status
from mamlpp.show.plots import use_style

LETTERS = "abcd"
Question = dict[str, Any]

# Buttons cut long texts off unless they are told to wrap.
_STYLE = """<style>
.mamlpp-choice {height: auto !important; white-space: normal !important; text-align: left;
  line-height: 1.4; padding: 6px 10px; margin: 3px 0; max-width: 46em}
.mamlpp-choice:focus-visible {outline: 3px solid #0173b2}
.mamlpp-right {border: 2px solid #029e73 !important}
.mamlpp-wrong {border: 2px solid #d55e00 !important}
</style>"""


def read(name: str) -> list[Question]:
    """The questions of a chapter; raises `InputError` where there is no such quiz."""
    path = progress.NOTEBOOKS / "quizzes" / f"{name}.json"
    if not path.is_file():
        there = ", ".join(sorted(each.stem for each in path.parent.glob("*.json")))
        raise InputError(f"there is no quiz {name!r}; choose one of {there}")
    return json.loads(path.read_text(encoding="utf-8"))


def show(name: str) -> None:
    """Display the quiz of a chapter, with the choices made before."""
    quiz = Quiz(name)
    show_widget(quiz.box, as_text(quiz.questions))


class Quiz:
    """The questions of a chapter as widgets: a button for each choice, its reason below."""

    def __init__(self, name: str) -> None:
        self.name, self.questions = name, read(name)
        self.chosen: dict[str, int] = dict(progress.read().get("quiz", {}).get(name, {}))
        self.buttons = [
            [self._button(q, c, choice["says"]) for c, choice in enumerate(question["choices"])]
            for q, question in enumerate(self.questions)
        ]
        self.reasons = [ipywidgets.HTML() for _ in self.questions]
        self.score = ipywidgets.HTML()
        ticked = bool(progress.read().get("chapter", {}).get(name))
        self.done = ipywidgets.Checkbox(
            ticked, description="I have worked through this chapter", indent=False,
            layout={"width": "auto"},
        )  # fmt: skip
        self.done.observe(lambda change: progress.keep("chapter", name, change["new"]), "value")
        parts = [part for q in range(len(self.questions)) for part in self._parts(q)]
        self.box = ipywidgets.VBox([ipywidgets.HTML(_STYLE), *parts, self.score, self.done])
        for q, choice in self.chosen.items():
            self._mark(int(q), choice)

    def choose(self, question: int, choice: int) -> None:
        """Choose an answer: mark it, say why it is right or wrong, and keep it."""
        self.chosen[str(question)] = choice
        self._mark(question, choice)
        progress.keep("quiz", self.name, self.chosen)

    def _button(self, question: int, choice: int, says: str) -> ipywidgets.Button:
        button = ipywidgets.Button(
            description=f"{LETTERS[choice]}) {says}", layout={"width": "auto"}
        )
        button.add_class("mamlpp-choice")
        button.on_click(lambda _: self.choose(question, choice))
        return button

    def _parts(self, q: int) -> list[ipywidgets.Widget]:
        ask = ipywidgets.HTML(f"<b>{q + 1}. {escape(self.questions[q]['ask'])}</b>")
        sketch = self.questions[q].get("sketch")
        picture = [ipywidgets.HTML(as_image(draw_sketch(sketch), sketch["alt"]))] if sketch else []
        return [ask, *picture, *self.buttons[q], self.reasons[q]]

    def _mark(self, q: int, chosen: int) -> None:
        choice = self.questions[q]["choices"][chosen]
        right = bool(choice.get("right"))
        for number, button in enumerate(self.buttons[q]):
            for style in ("mamlpp-right", "mamlpp-wrong"):
                button.remove_class(style)
            if number == chosen:
                button.add_class("mamlpp-right" if right else "mamlpp-wrong")
        sign = "✓ Right." if right else "✗ Not quite."
        self.reasons[q].value = status(f"<b>{sign}</b> {escape(choice['because'])}")
        correct = sum(
            bool(self.questions[int(i)]["choices"][c].get("right")) for i, c in self.chosen.items()
        )
        self.score.value = status(f"{correct} of {len(self.questions)} answered right.")


def as_text(questions: Sequence[Question]) -> str:
    """All questions and choices as plain text, the answers in the last line."""
    lines, answers = [], []
    for number, question in enumerate(questions, start=1):
        lines.append(f"{number}. {question['ask']}")
        if "sketch" in question:
            lines.append(f"   [{question['sketch']['alt']}]")
        for letter, choice in zip(LETTERS, question["choices"], strict=False):
            lines.append(f"   {letter}) {choice['says']}")
            if choice.get("right"):
                answers.append(f"{number} {letter}")
    return "\n".join([*lines, "", f"Answers: {', '.join(answers)}"])


def draw_sketch(sketch: dict[str, Any]) -> Figure:
    """The small plot of a question."""
    with matplotlib.rc_context():
        use_style()
        figure = Figure(figsize=(5.6, 2.4), dpi=90, facecolor="white", layout="constrained")
        ax = figure.add_subplot()
        for (name, values), style in zip(sketch["lines"].items(), ("-", "--", ":"), strict=False):
            ax.plot(range(len(values)), values, style, linewidth=2.5, label=name)
        ax.set(xlabel=sketch["xlabel"], ylabel=sketch["ylabel"])
        ax.set_title(f"{sketch['title']} (a sketch)", fontsize=11)
        if sketch.get("log"):
            ax.set_yscale("log")
        ax.tick_params(labelsize=9)
        ax.legend(fontsize=9)
    return figure
