from __future__ import annotations

from mindprint_eval.arms import ARMS, BARE_THINKING_ARMS, GENERAL_QUESTION_ARMS, PERTURBED_ARMS, RECIPES


def test_every_arm_has_a_recipe_that_is_there() -> None:
    assert {arm.recipe for arm in ARMS.values() if arm.recipe} == set(RECIPES)
    assert all(name == arm.name for name, arm in ARMS.items())


def test_only_arms_that_think_are_measured_for_it() -> None:
    assert all(ARMS[name].mode != "direct" for name in (*BARE_THINKING_ARMS, *PERTURBED_ARMS))
    assert {"A3", "A6", "A7", "A9"} <= set(BARE_THINKING_ARMS)


def test_general_questions_go_once_to_each_adapter() -> None:
    recipes = [ARMS[name].recipe for name in GENERAL_QUESTION_ARMS]
    assert len(set(recipes)) == len(recipes)
    assert set(recipes) == {None, *RECIPES} - {"shuffled", "cohort", "cohort-first"}
