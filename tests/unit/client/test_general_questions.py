"""The general questions, which the gate and evaluations ask."""

from __future__ import annotations

from mindprint.general_questions import QUESTIONS


def test_the_general_questions_are_sound() -> None:
    assert 24 <= len(QUESTIONS) <= 40
    assert len({question.query for question in QUESTIONS}) == len(QUESTIONS)
    for question in QUESTIONS:
        assert question.right in question.choices
        assert len(set(question.choices)) == 4
