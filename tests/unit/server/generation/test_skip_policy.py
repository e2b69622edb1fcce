"""Which engagements of a batch are skipped, and for which reason."""

from __future__ import annotations

from typing import Any

import pytest

from mindprint.types import BatchRequest
from mindprint_server.generation.candidate_policy import EngagementFacts, SkipPolicy, skip_reason
from mindprint_server.prompts.types import Question, RecalledMemory
from mindprint_server.settings import Settings

POLICY = SkipPolicy(min_answer_frequency=0.25, max_prior_shortfall=0.5)
CLOSED = Question("ann", "Tea?", ("yes", "no"), "yes", RecalledMemory(), None)
OPEN = Question("ann", "Tea?", None, "Gladly.", RecalledMemory(), None)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (EngagementFacts(), None),
        (EngagementFacts(answer_frequency=0.25, prior_shortfall=0.5), None),
        (EngagementFacts(unfit="no_history", answer_frequency=0.0), "no_history"),
        (EngagementFacts(answer_frequency=0.24), "rare_answer"),
        (EngagementFacts(answer_frequency=0.24, prior_shortfall=0.6), "rare_answer"),
        (EngagementFacts(answer_frequency=0.9, prior_shortfall=0.6), "prior_too_low"),
    ],
)
def test_skip_reason_is_the_cheapest_that_applies(facts: EngagementFacts, reason: str | None) -> None:
    assert skip_reason(facts, POLICY) == reason


def test_policy_without_bounds_skips_only_what_is_unfit() -> None:
    assert skip_reason(EngagementFacts(answer_frequency=0.0, prior_shortfall=99.0), SkipPolicy()) is None
    assert skip_reason(EngagementFacts(unfit="no_answer"), SkipPolicy()) == "no_answer"


@pytest.mark.parametrize(
    ("question", "settings", "request_fields"),
    [
        (OPEN, {}, {}),
        (CLOSED, {"accept_by": "gain"}, {}),
        (CLOSED, {}, {"mode": "generic"}),
        (CLOSED, {"exhaustive": True}, {}),
        (CLOSED, {}, {"exhaustive": True}),
    ],
)
def test_policy_is_empty_where_every_trace_counts(
    question: Question, settings: dict[str, Any], request_fields: dict[str, Any]
) -> None:
    request = BatchRequest.model_validate(request_fields)
    assert SkipPolicy.create(Settings.model_validate(settings), request, question) == SkipPolicy()


def test_policy_of_a_closed_question_has_the_bounds_of_the_settings() -> None:
    settings = Settings(min_answer_frequency=0.3, early_stop_margin_nats=0.7)
    assert SkipPolicy.create(settings, BatchRequest(), CLOSED) == SkipPolicy(0.3, 0.7)
    settings.prefilter_by_prior = False
    assert SkipPolicy.create(settings, BatchRequest(), CLOSED) == SkipPolicy(0.3, None)
