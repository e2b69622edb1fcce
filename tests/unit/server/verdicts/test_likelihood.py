"""Closed choices by their labels, open answers token by token, on an engine that says what it is told."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest

from mindprint_server.engine import Priority
from mindprint_server.verdicts import likelihood
from mindprint_server.verdicts.likelihood import AnswerTokens, Likelihood
from scripted import Scripted

HOW: Any = {"adapter": None, "priority": Priority.BATCH}


def on_table(table: dict[tuple[str, str], float]) -> Scripted:
    """Probabilities by the text before and the token."""
    return Scripted(lambda before, token: math.log(table[before, token]))


async def score(engine: Scripted, texts: list[str], target: str | None, *, closed: bool = True) -> Likelihood:
    ways = {text: engine.tokenizer.encode(text) for text in texts}
    return await likelihood.score_answers(
        engine, engine.tokenizer.encode("Q"), AnswerTokens(ways, target, closed), **HOW
    )


async def test_choices_that_part_at_once_take_one_request() -> None:
    engine = on_table({("Q", "yes"): 0.6, ("Q", "no"): 0.2})
    scored = await score(engine, ["yes", "no"], "no")
    assert scored.choices == pytest.approx({"yes": math.log(0.75), "no": math.log(0.25)})
    assert (scored.target, scored.target_tokens) == (scored.choices and scored.choices["no"], 1)
    assert engine.asked == [("Q", ("yes", "no"))]


async def test_choices_that_share_a_first_token_differ_by_the_next() -> None:
    engine = on_table({("Q", "green"): 0.6, ("Q", "town"): 0.2, ("Qgreen", " tea"): 0.3, ("Qgreen", " lake"): 0.1})
    scored = await score(engine, ["green tea", "green lake", "town"], "green tea")
    assert scored.choices == pytest.approx(
        {"green tea": math.log(0.75 * 0.75), "green lake": math.log(0.75 * 0.25), "town": math.log(0.25)}
    )
    assert scored.target == pytest.approx(math.log(0.5625))
    assert scored.target_tokens == 2
    assert len(engine.asked) == 2


async def test_choice_that_begins_another_differs_by_its_end() -> None:
    engine = on_table({("Qno", "<|end|>"): 0.1, ("Qno", " way"): 0.4})
    scored = await score(engine, ["no", "no way"], "no way")
    assert scored.target == pytest.approx(math.log(0.8))
    assert len(engine.asked) == 1


async def test_choices_without_a_real_answer_are_scored_all_the_same() -> None:
    scored = await score(on_table({("Q", "yes"): 0.5, ("Q", "no"): 0.5}), ["yes", "no"], None)
    assert (scored.target, scored.target_tokens) == (None, 0)
    assert scored.choices == pytest.approx({"yes": math.log(0.5), "no": math.log(0.5)})


async def test_choices_that_read_alike_are_refused() -> None:
    with pytest.raises(ValueError, match="reword"):
        await score(on_table({}), ["", "yes"], "yes")


async def test_an_open_answer_is_the_sum_over_its_tokens_each_after_those_before() -> None:
    engine = on_table({("Q", "I"): 0.5, ("QI", " like"): 0.25, ("QI like", " tea"): 0.1, ("QI like tea", "."): 0.8})
    scored = await score(engine, ["I like tea."], "I like tea.", closed=False)
    assert scored.target == pytest.approx(math.log(0.5 * 0.25 * 0.1 * 0.8))
    assert (scored.target_tokens, scored.choices) == (4, None)
    assert len(engine.asked) == 4


async def test_forced_tokens_are_scored_one_by_one_in_order() -> None:
    engine = on_table({("Q", "a"): 0.5, ("Qa", " b"): 0.25})
    prefix, ids = engine.tokenizer.encode("Q"), engine.tokenizer.encode("a b")
    assert await likelihood.sequence_logprobs(engine, prefix, ids, **HOW) == pytest.approx(
        [math.log(0.5), math.log(0.25)]
    )
    assert await likelihood.sequence_logprobs(engine, prefix, [], **HOW) == []


@pytest.mark.parametrize("order", list(itertools.permutations(("no", "pass", "yes"))))
def test_order_of_the_choices_decides_nothing_between_equal_ones(order: tuple[str, ...]) -> None:
    assert likelihood.likeliest({choice: -0.7 if choice != "pass" else -1.4 for choice in order}) == "no"
