"""What is taken out of an executed notebook, and what stays."""

import sys
from pathlib import Path

import pytest
from clean_outputs import KIT, WIDGET, WIDGET_STATES, clean, clean_text, drop_bars
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook, new_output

KERNEL = {"name": "python3", "display_name": "Python 3"}


def cleaned(*outputs: NotebookNode, states: dict | None = None) -> list[NotebookNode]:
    """The outputs of a cell after cleaning its notebook; `states` are those of widgets."""
    widgets = {WIDGET_STATES: {"state": states or {}}}
    notebook = new_notebook(cells=[new_code_cell("1", outputs=list(outputs))])
    notebook.metadata["widgets"] = NotebookNode(widgets)
    [cell] = clean(notebook).cells
    assert "widgets" not in notebook.metadata
    return cell.outputs


def widget(model: str = "box") -> NotebookNode:
    return new_output("display_data", {WIDGET: {"model_id": model}, "text/plain": "HBox(…)"})


def model(kind: str, **state) -> dict:
    return {"model_name": kind, "state": state}


@pytest.mark.parametrize(
    ("text", "stays"),
    [
        ("loss 0.5\n", "loss 0.5\n"),
        ("10%|█    | 1/10\r100%|█████| 10/10\ndone\n", "done\n"),
        ("step 1\rstep 2\n", "step 2\n"),
        ("windows\r\nlines\r\n", "windows\r\nlines\r\n"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("<function f at 0x7f00aa12>", "<function f>"),
        (f"{KIT / 'mamlpp' / 'maml.py'}:3", "./mamlpp/maml.py:3"),
        (f"{Path.home() / 'data'}", "~/data"),
        ("read /home/someone/x.py, then", "read …, then"),
        (r"in C:\Users\me", "in …"),
        ("95 % of 1/2, https://example.org/home/x", "95 % of 1/2, https://example.org/home/x"),
        (f"{sys.prefix}", ".venv"),
    ],
)
def test_text(text: str, stays: str):
    assert clean_text(text).replace("\r\n", "\n") == stays.replace("\r\n", "\n")


def test_warnings_and_bars_on_stderr_go_and_what_is_printed_stays():
    warning = new_output("stream", name="stderr", text="UserWarning: …")
    printed = new_output("stream", name="stdout", text="87 %\n")
    bar = new_output("stream", name="stdout", text=" 50%|███   | 1/2\r")
    assert [output.text for output in cleaned(warning, printed, bar)] == ["87 %\n"]


def test_a_picture_keeps_its_words():
    picture = new_output("display_data", {"image/png": "…"}, metadata={"image/png": {"alt": "a"}})
    assert cleaned(picture) == [picture]


def test_a_progress_bar_made_of_widgets_goes():
    states = {
        "box": model("HBoxModel", children=["IPY_MODEL_text", "IPY_MODEL_bar"]),
        "text": model("HTMLModel", description="training"),
        "bar": model("FloatProgressModel"),
    }
    assert cleaned(widget(), states=states) == []


def test_bars_alone_can_go():
    states = {"box": model("FloatProgressModel"), "knob": model("IntSliderModel")}
    knob = new_output("display_data", {WIDGET: {"model_id": "knob"}})
    words = new_output("stream", name="stdout", text="87 %\n")
    cell = new_code_cell("1", outputs=[widget(), knob, words])
    notebook = new_notebook(cells=[cell], metadata={"widgets": {WIDGET_STATES: {"state": states}}})
    drop_bars(notebook)
    assert notebook.cells[0].outputs == [knob, words]
    assert "widgets" in notebook.metadata, "the knob still needs its state"


def test_other_widgets_become_their_pictures_and_the_names_of_their_controls():
    picture = {"output_type": "display_data", "data": {"image/png": "…"}, "metadata": {}}
    states = {
        "box": model("VBoxModel", children=["IPY_MODEL_a", "IPY_MODEL_b", "IPY_MODEL_c"]),
        "a": model("IntSliderModel", description="steps"),
        "b": model("CheckboxModel", description="second order"),
        "c": model("OutputModel", outputs=[picture]),
    }
    words, shown = cleaned(widget(), states=states)
    assert "steps, second order" in words.data["text/markdown"]
    assert shown.data == picture["data"]


def test_a_widget_with_words_of_its_own_becomes_these_words():
    quiz = new_output(
        "display_data", {WIDGET: {"model_id": "box"}, "text/plain": "1. Why?\n   a) x"}
    )
    [words] = cleaned(quiz, states={"box": model("VBoxModel", description="Answer")})
    assert words.text == "1. Why?\n   a) x\n"


def test_a_widget_whose_state_was_not_stored_goes():
    assert cleaned(widget()) == []


def test_what_a_run_adds_to_a_notebook_goes():
    added = new_code_cell("profile = 'smoke'", metadata={"tags": ["injected-parameters"]})
    kept = new_code_cell("1", metadata={"papermill": {}, "tags": ["x"]})
    notebook = new_notebook(cells=[added, kept], metadata={"papermill": {}, "kernelspec": KERNEL})
    clean(notebook)
    assert [(cell.source, dict(cell.metadata)) for cell in notebook.cells] == [
        ("1", {"tags": ["x"]})
    ]
    assert notebook.metadata == {"kernelspec": KERNEL}
