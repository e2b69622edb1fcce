from __future__ import annotations

from mindprint_eval.arms import ARMS, BARE, CHANGED, GENERAL, RECIPES


def test_every_arm_has_a_recipe_that_is_there() -> None:
    assert {arm.recipe for arm in ARMS.values() if arm.recipe} == set(RECIPES)
    assert all(name == arm.name for name, arm in ARMS.items())


def test_only_arms_that_think_are_measured_for_it() -> None:
    assert all(ARMS[name].mode != "direct" for name in (*BARE, *CHANGED))
    assert {"A3", "A6", "A7", "A9"} <= set(BARE)


def test_general_questions_go_once_to_each_adapter() -> None:
    recipes = [ARMS[name].recipe for name in GENERAL]
    assert len(set(recipes)) == len(recipes)
    assert set(recipes) == {None, *RECIPES} - {"shuffled", "cohort", "cohort-first"}
