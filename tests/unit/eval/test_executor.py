from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mindprint import ApiError
from mindprint.datasets import HeldOutQuestion
from mindprint.local.console import Output
from mindprint.types import Provenance, Trace, TraceRequest
from mindprint_eval.arms import ARMS
from mindprint_eval.config import EvaluationError
from mindprint_eval.executor import RequestExecutor
from mindprint_eval.requests import CacheScope, EvalRequest, build_request
from mindprint_eval.response_cache import ResponseCache
from mindprint_eval.runner import root_cause

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Server:
    def __init__(self, **made: Any) -> None:
        self.made = {"adapter_digest": None, "base_digest": "b"} | made
        self.traces = self
        self.asked: list[TraceRequest] = []
        self.error: Exception | None = None

    async def create(self, request: TraceRequest) -> Trace:
        self.asked.append(request)
        if self.error:
            raise self.error
        made: Any = {
            "model": request.model, "prompt_version": "1", "mode": request.mode, "sampling": {}, "seed": None,
            "engine": "fake", **self.made,
        }  # fmt: skip
        return Trace(
            id="t", user_id=request.user_id, mode=request.mode, query=request.query or "", thinking="", answer="yes",
            verdict="accepted", provenance=Provenance(**made), created_at=NOW,
        )  # fmt: skip


def question(number: int, digest: str | None = None) -> EvalRequest:
    row = HeldOutQuestion(f"{number}", f"Question {number}?", ["yes", "no"], "yes", NOW)
    return build_request("answer", ARMS["A1"], "ann", row, "base", digest, "own")


def executor(server: Any, book: ResponseCache) -> RequestExecutor:
    return RequestExecutor(server, Output(), book, CacheScope({"ann": "m"}, {"digest": "b"}), seed=0, in_flight=2)


async def test_only_new_questions_are_put(tmp_path: Path) -> None:
    server = Server()
    with ResponseCache(tmp_path / "b.jsonl") as book:
        first_time = await executor(server, book).execute("A1", [question(1), question(2)])
        second = await executor(server, book).execute("A1", [question(2), question(3), question(1)])
    assert [request.query for request in server.asked] == ["Question 1?", "Question 2?", "Question 3?"]
    assert [row.item for row in second] == ["2", "3", "1"]
    assert second[0] == first_time[1]
    assert all(row.seconds >= 0 for row in second)


async def test_an_error_is_an_outcome_and_is_asked_again(tmp_path: Path) -> None:
    server = Server()
    server.error = ApiError("too long", status=422, code="prompt_too_long")
    with ResponseCache(tmp_path / "b.jsonl") as book:
        [row] = await executor(server, book).execute("A1", [question(1)])
        assert (row.outcome, row.right) == ("failed", None)
        assert "too long" in row.why
        server.error = None
        [row] = await executor(server, book).execute("A1", [question(1)])
        assert row.outcome == "answered"


async def test_a_base_that_changed_half_way_ends_the_evaluation(tmp_path: Path) -> None:
    with ResponseCache(tmp_path / "b.jsonl") as book:
        with pytest.raises(ExceptionGroup) as raised:
            await executor(Server(base_digest="other"), book).execute("A1", [question(1)])
        cause = root_cause(raised.value)
        assert isinstance(cause, EvaluationError)
        assert "the base model's digest was b and is other" in str(cause)
        assert len(book) == 0


async def test_an_answer_of_another_adapter_does_not_count(tmp_path: Path) -> None:
    with ResponseCache(tmp_path / "b.jsonl") as book:
        [row] = await executor(Server(adapter_digest=None), book).execute("A5", [question(1, digest="sha256:wanted")])
        assert (row.outcome, row.why) == ("failed", "base answered in the adapter's place")
        assert len(book) == 0
