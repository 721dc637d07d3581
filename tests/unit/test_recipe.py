import dataclasses

import numpy as np
import pytest

from mamlpp import RECIPES, InputError, Recipe, schedules


def test_with_changes_one_field_and_leaves_the_recipe_alone():
    recipe = RECIPES["maml"]
    assert recipe.with_(inner_steps=3) == dataclasses.replace(recipe, inner_steps=3)
    assert recipe.inner_steps == 5
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.inner_steps = 3


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("steps", 3, "no field 'steps'; its fields are filters, pooling"),
        ("filters", 0, "filters must be a whole number from 1 on, not 0"),
        ("inner_steps", 2.5, "inner_steps must be a whole number from 1 on, not 2.5"),
        ("meta_batch", -1, "meta_batch must be"),
        ("epochs", 0, "epochs must be"),
        ("iterations_per_epoch", 0, "iterations_per_epoch must be"),
        ("validation_tasks", 0, "validation_tasks must be"),
        ("validation_tasks", 1, "validation_tasks must be 2 or more, .*, not 1"),
        ("inner_rate", 0.0, "inner_rate must be positive"),
        ("outer_rate", float("nan"), "outer_rate must be positive or None, not nan"),
        ("pooling", "mean", "pooling must be one of max, stride, not 'mean'"),
        ("query_statistics", "both", "query_statistics must be one of query, support"),
        ("second_order_from", -1, "second_order_from must be 0 or more, not -1"),
        ("clip_norm", 0.0, "clip_norm must be positive or None, not 0.0"),
        ("clip_value", -1.0, "clip_value must be positive or None, not -1.0"),
        ("nonfinite", "go", "nonfinite must be one of skip, stop, not 'go'"),
    ],
)
def test_a_field_that_cannot_be_is_named(field, value, said):
    with pytest.raises(InputError, match=said):
        Recipe().with_(**{field: value})


def test_numbers_of_other_libraries_become_plain_ones():
    recipe = Recipe().with_(inner_steps=np.int64(3), inner_rate=np.float32(0.5), seed=np.int64(1))
    assert (recipe.inner_steps, recipe.inner_rate, recipe.seed) == (3, 0.5, 1)
    assert {type(recipe.inner_steps), type(recipe.seed)} == {int}
    assert type(recipe.inner_rate) is float
    with pytest.raises(InputError, match="epochs must be a whole number, 1 or more, not '3'"):
        recipe.with_(epochs="3")


def test_two_ways_of_clipping_are_refused():
    with pytest.raises(InputError, match="by clip_norm or by clip_value: give one"):
        Recipe(clip_norm=1.0, clip_value=1.0)


def test_every_field_has_one_comment_that_becomes_its_help():
    import ast
    import inspect
    import textwrap

    body = ast.parse(textwrap.dedent(inspect.getsource(Recipe))).body[0].body
    for index, node in enumerate(body):
        if isinstance(node, ast.AnnAssign):
            said = body[index + 1]
            assert isinstance(said, ast.Expr), f"{node.target.id} has no comment"
            assert isinstance(said.value.value, str)


def test_order_schedule():
    assert schedules.second_order(0, 0.0)
    assert not schedules.second_order(None, 1e9)
    assert [schedules.second_order(50, epoch) for epoch in (0, 49.99, 50, 51)] == [
        *(False, False),
        *(True, True),
    ]
    assert not RECIPES["fomaml"].with_(seed=3).second_order_from
    assert RECIPES["maml"].second_order_from == 0
