"""The checks of the exercises: what passes, what does not, and which sentence answers it."""

import ast
import importlib
import re
from collections import Counter
from pathlib import Path

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from nbformat import NotebookNode

from mamlpp import checks
from mamlpp.checks import compare, hints, judging, set_7_mamlpp
from mamlpp.checks.set_8_bug_hunt import BUGS, KINDS
from mamlpp.learner import MetaLearner
from mamlpp.recipes import RECIPES
from tests.exercises.wrong_answers import WRONG_ANSWERS, WrongAnswer

ROOT = Path(__file__).resolve().parents[2]
SETS = sorted((ROOT / "exercises").glob("*.ipynb"))
for _path in sorted((Path(__file__).parent / "wrong_answers").glob("[sw]*.py")):
    importlib.import_module(f"tests.exercises.wrong_answers.{_path.stem}")

SOLUTION = re.compile(r"^( *)### BEGIN SOLUTION.*?### END SOLUTION", re.MULTILINE | re.DOTALL)
DEFINITIONS = (ast.Import, ast.ImportFrom, ast.FunctionDef)

PARTS = {"found", "shown", "fixed"}  # of each exercise of the bug hunt
NUMBERED = [f"{kind}_{n}" for kind in ("bug", "warm_up") for n in range(1, 9)]
NO_CHECKS = {"Wrong", "hint", "curves", "warm_up"}
EXERCISES = sorted(set(checks.__all__) - PARTS - NO_CHECKS) + NUMBERED

by_set = pytest.mark.parametrize("path", SETS, ids=lambda path: path.stem)
by_answer = pytest.mark.parametrize(
    "wrong", WRONG_ANSWERS, ids=lambda wrong: f"{wrong.check.__name__}-{wrong.words}"
)


def complaint_about(wrong: WrongAnswer) -> str:
    with pytest.raises(checks.Wrong) as caught:
        wrong.check(wrong.answer)
    return str(caught.value)


@by_answer
def test_each_wrong_answer_gets_its_own_sentence(wrong: WrongAnswer):
    said = complaint_about(wrong)
    assert wrong.words in said
    assert "\n" not in said
    others = {w.words for w in WRONG_ANSWERS if w.check is wrong.check} - {wrong.words}
    assert [words for words in others if words in said] == []


def test_there_are_a_dozen_wrong_answers_to_each_exercise():
    answers = Counter(
        re.sub(r"_(found|shown|fixed)$", "", wrong.check.__name__) for wrong in WRONG_ANSWERS
    )
    few = {name: answers[name] for name in EXERCISES if answers[name] < 12}
    assert few == {}


# The notebooks.


def cells_of(path: Path, kind: str) -> list[NotebookNode]:
    cells = nbformat.read(path, 4).cells
    return [cell for cell in cells if cell.metadata.get("nbgrader", {}).get(kind)]


def namespace_of(path: Path) -> dict:
    """What a notebook imports, and the functions that it defines, solutions included."""
    names: dict = {}
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "code" and not cell.metadata.get("nbgrader", {}).get("grade"):
            tree = ast.parse(cell.source)
            tree.body = [part for part in tree.body if isinstance(part, DEFINITIONS)]
            exec(compile(tree, path.name, "exec"), names)
    return names


@by_set
def test_the_solutions_pass_with_hidden_tests(path: Path, capsys: pytest.CaptureFixture[str]):
    names = namespace_of(path) | {"profile": "smoke"}
    trainings = "checks.reaches("  # which the grading of all sets in tests/classroom runs
    for cell in (cell for cell in cells_of(path, "grade") if trainings not in cell.source):
        exec(cell.source, names)
        assert "passed" in capsys.readouterr().out


@by_set
def test_a_stub_is_answered_by_its_own_error(path: Path):
    names = namespace_of(path) | {"profile": "smoke"}
    for cell in cells_of(path, "solution"):
        stub = SOLUTION.sub(r'\1raise NotImplementedError("Your code goes here.")', cell.source)
        exec(stub, names)
    for cell in cells_of(path, "grade"):
        with pytest.raises(NotImplementedError, match=r"Your code goes here\."):
            exec(cell.source, names)


@by_set
def test_each_exercise_says_what_it_asks_for(path: Path):
    cells = nbformat.read(path, 4).cells
    texts = [c.source for c in cells if c.cell_type == "markdown" and "\n## Ex" in "\n" + c.source]
    number = int(path.stem[:2])
    for place, text in enumerate(texts):
        assert text.startswith(f"## Exercise {number}.{place}: ")
        assert re.search(
            r"^Difficulty [1-5] of 5 · \d+ minutes · \d+ points? · hand in `", text, re.MULTILINE
        )
        assert f'Stuck? `checks.hint("{number}.{place}", 1)`' in text
    total = sum(c.metadata["nbgrader"]["points"] for c in cells_of(path, "grade"))
    assert total == sum(int(re.search(r"· (\d+) points?", text)[1]) for text in texts)
    head = " ".join(cells[0].source.split())
    minutes = sum(int(re.search(r"· (\d+) minutes", text)[1]) for text in texts)
    said = f"{len(texts)} exercises, {total} points, about {minutes} minutes, and an open question"
    assert said in head
    assert "· 2 minutes ·" in texts[0]


@by_set
def test_a_set_ends_with_an_open_question_and_its_rubric(path: Path):
    question, answer, model = nbformat.read(path, 4).cells[-3:]
    assert question.source.startswith(f"## Open question {int(path.stem[:2])}\n")
    assert question.source.count("\n| 1 | ") == 4
    assert answer.metadata["tags"] == ["open-answer"]
    assert model.metadata["tags"] == ["solution"]


def solution_lines(path: Path, exercise: str) -> set[str]:
    """The lines of the solutions of an exercise that say more than a name."""
    cells = nbformat.read(path, 4).cells
    starts = [i for i, cell in enumerate(cells) if cell.source.startswith("## ")]
    first = next(i for i in starts if cells[i].source.startswith(f"## Exercise {exercise}:"))
    last = min(i for i in starts if i > first)
    found = [SOLUTION.search(cell.source) for cell in cells[first:last]]
    lines = [line.strip() for match in found if match for line in match[0].splitlines()[1:-1]]
    return {line.removeprefix("return ") for line in lines if len(line) > 12}


@by_set
def test_three_hints_lead_to_each_exercise_and_none_is_the_answer(
    path: Path, capsys: pytest.CaptureFixture[str]
):
    texts = [cell.source for cell in nbformat.read(path, 4).cells]
    for exercise in re.findall(r"^## Exercise (\d\.\d):", "\n".join(texts), re.MULTILINE):
        for level in (1, 2, 3):
            checks.hint(exercise, level)
        said = capsys.readouterr().out
        assert [said.count(f"Hint {level} of 3: ") for level in (1, 2, 3)] == [1, 1, 1]
        assert [line for line in solution_lines(path, exercise) if line in said] == []


def test_hints_are_for_the_exercises_that_there_are():
    texts = [cell.source for path in SETS for cell in nbformat.read(path, 4).cells]
    exercises = re.findall(r"^## Exercise (\d\.\d):", "\n".join(texts), re.MULTILINE)
    assert sorted(hints.HINTS) == sorted(exercises)
    with pytest.raises(checks.Wrong, match=r"there is no exercise '9\.9'"):
        checks.hint("9.9")
    with pytest.raises(checks.Wrong, match="the levels are 1 to 3"):
        checks.hint("1.1", 4)


@by_set
def test_is_stored_as_students_need_it(path: Path):
    cells = nbformat.read(path, 4).cells
    assert cells[0].source.startswith(f"# Exercises {path.stem[:2]} · ")
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
    links = re.findall(r"\]\(([^)#]+\.ipynb)", "\n".join(cell.source for cell in cells))
    assert [link for link in links if not (path.parent / link).exists()] == []


# What all checks share.


@pytest.mark.parametrize(
    ("found", "expected", "words"),
    [
        ([1.0], 1.0, "it should give a number, not a list (answer(), it returned a list, [1]"),
        ({"a": 1.0}, {"b": 1.0}, "a dict with the names ['a'], expected the names ['b']"),
        ([1.0, 2.0], [1.0], "the list should have 1 entries, not 2"),
        (torch.zeros(2), torch.zeros(3), "a tensor of shape [2], expected shape [3]"),
        (torch.zeros(2), torch.zeros(2).double(), "float32 tensor, expected float64"),
        ({"a": [0.0, 1.5]}, {"a": [0.0, 2.5]}, "result['a'][1] is 1.5, expected 2.5"),
        (torch.tensor([1.0]), torch.tensor([1.01]), "result[0] is 1, expected 1.01"),
        (0.50001, 0.5, "it returned 0.50001, expected 0.5"),
        (1, True, "it should give True or False, not a number"),
        ("no", compare.Raised("a ValueError"), "it should raise a ValueError"),
    ],
)
def test_an_unknown_mistake_is_described(found, expected, words: str):
    def answer():
        return found

    with pytest.raises(checks.Wrong, match=re.escape(words)):
        judging.judge_trials(answer, [()], lambda: expected, {})


def test_a_notebook_shows_the_call_and_the_line_in_place_of_a_traceback():
    wrong = """from mamlpp import checks
def growth(curvatures, rate, steps):
    return 1 / 0
checks.growth(growth)"""
    not_written = """from mamlpp import checks
def gradients(loss, weights):
    raise NotImplementedError("Your code goes here.")
def momentum_loop(model, weights, x, y, rate, momentum, steps):
    return [weights, gradients(None, weights)]
checks.momentum_loop(momentum_loop)"""
    cells = [nbformat.v4.new_code_cell(source) for source in (wrong, not_written)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, kernel_name="python3", allow_errors=True).execute()
    outputs = [cell.outputs[0] for cell in notebook.cells]
    assert [[shown.ename, *shown.traceback] for shown in outputs] == [
        [
            "Wrong",
            "Wrong: growth stopped: ZeroDivisionError: division by zero",
            "    growth(curvatures=[2, -0.5], rate=0.3, steps=2)",
            "    line 3 of growth: return 1 / 0",
        ],
        ["NotImplementedError", "gradients: not written yet"],
    ]


def test_what_a_student_prints_is_shown_and_never_taken_for_a_result(
    capsys: pytest.CaptureFixture[str],
):
    with pytest.raises(checks.Wrong, match="only `return` hands it to the caller"):
        checks.growth(lambda curvatures, rate, steps: print("here"))
    assert capsys.readouterr().out == "here\n"


def right_answers(path: Path) -> list[str]:
    return [cell.source for cell in cells_of(path, "grade")]


@pytest.mark.parametrize("path", [p for p in SETS if "mamlpp" not in p.stem], ids=lambda p: p.stem)
def test_no_check_depends_on_the_settings_or_the_seed_of_the_notebook(path: Path):
    names = namespace_of(path)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad(), torch.device("meta"):
            torch.manual_seed(3)
            before = torch.random.get_rng_state()
            for source in right_answers(path):
                exec(source, names)
            assert torch.equal(torch.random.get_rng_state(), before)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_numbers_may_come_as_tensors_and_lists_as_tuples():
    assert compare.same(torch.tensor(0.5), 0.5)
    assert compare.same((1, 2.0), [1.0, 2])
    assert not compare.same(True, 1.0)
    assert not compare.same(0.5 + 1e-4, 0.5)


@pytest.mark.parametrize("number", range(1, 9))
def test_the_programs_of_the_bug_hunt_are_the_broken_ones(number: int):
    program = namespace_of(SETS[-1])[f"program_{number}"]
    bug = BUGS[number]
    for seed in (0, 1):
        with pytest.raises(checks.Wrong, match=re.escape(bug.defect)):
            checks.fixed(number, program, seed)
    assert bug.kind in bug_kinds_of(SETS[-1])


def bug_kinds_of(path: Path) -> list[str]:
    return re.findall(r'`"([a-z ]+)"`', nbformat.read(path, 4).cells[0].source)


def test_the_kinds_that_students_choose_from_are_those_that_are_known():
    assert bug_kinds_of(SETS[-1]) == list(KINDS)


def test_a_training_below_its_mark_is_told_what_it_reached(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(set_7_mamlpp, "_accuracy", lambda *_: 0.40)

    def train_learner(train, validation, tasks):
        return MetaLearner(RECIPES["maml++"].with_(filters=2), train.images.shape, ways=5)

    words = "train_learner reaches an accuracy of 40.0%; at least 45% are needed"
    with pytest.raises(checks.Wrong, match=re.escape(words)):
        checks.reaches(train_learner, 3, "smoke")


def test_a_training_that_takes_too_long_gets_no_points(monkeypatch: pytest.MonkeyPatch):
    def train_learner(train, validation, tasks):
        return MetaLearner(RECIPES["maml"].with_(filters=2), train.images.shape, ways=5)

    budget = set_7_mamlpp.BUDGETS["smoke"]._replace(seconds=-1)
    monkeypatch.setitem(set_7_mamlpp.BUDGETS, "smoke", budget)
    with pytest.raises(checks.Wrong, match="fewer filters"):
        checks.reaches(train_learner, 1, "smoke")


def test_a_teacher_can_set_the_profile_of_all(monkeypatch: pytest.MonkeyPatch):
    asked = []

    def train_learner(train, validation, tasks):
        asked.append(tasks)

    monkeypatch.setenv("MAMLPP_PROFILE", "smoke")
    with pytest.raises(checks.Wrong, match="returned None"):
        checks.reaches(train_learner, 1, "laptop")
    assert asked == [480]
