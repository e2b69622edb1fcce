from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from made_outcomes import outcome, unanswered
from mindprint.cli import app
from mindprint.datasets import UserDataset
from mindprint.types import Engagement, ImportedTrace
from mindprint_eval.config import EvalOptions, EvaluationError
from mindprint_eval.metrics import embedding_similarity
from mindprint_eval.metrics.human_rationales import HumanRationale
from mindprint_eval.requests import EvalRequest
from mindprint_eval.results import Outcome
from mindprint_eval.shard import EvalShard, ShardRunner
from tiny import make_model

NOW = datetime(2026, 1, 1, tzinfo=UTC)
VECTORS = {"quiet": (1.0, 0.0), "loud": (0.0, 1.0), "both": (0.6, 0.8)}


def told(user: str, thinking: str, reason: str) -> HumanRationale:
    return HumanRationale(
        user, Engagement(id=f"{user}/0", prompt="?", response="A", occurred_at=NOW, reason=reason), thinking
    )


def thought(thinking: str) -> Outcome:
    return outcome(measure="reason", arm="A2", thinking=thinking)


def by_arm(found: Sequence[Outcome], user: str) -> dict[str, float | None]:
    return {row.arm: row.cosine for row in found if row.user == user}


class Fake:
    """Knows the vectors of three words, and keeps what it was asked and in which thread."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.threads: list[threading.Thread] = []

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        self.asked += texts
        self.threads.append(threading.current_thread())
        return np.array([VECTORS[text] for text in texts])


def test_a_reason_is_compared_with_the_trace_and_generic_thinking_and_the_trace_with_another_s() -> None:
    fake = Fake()
    people = [told("ann", "both", "quiet"), told("bob", "loud", "loud")]
    found = embedding_similarity.similarity_outcomes(people, [thought("loud"), thought("both")], 3, fake)
    assert by_arm(found, "ann") == {"L-trace": 0.6, "L-generic": 0.0, "L-other": 0.8}
    assert by_arm(found, "bob") == {"L-trace": 1.0, "L-generic": 0.8, "L-other": 0.0}
    assert sorted(fake.asked) == ["both", "loud", "quiet"]
    first = found[0]
    assert (first.measure, first.outcome, first.seed, first.item) == ("likeness", "answered", 3, "ann/0")
    assert (first.thinking, first.target) == ("both", "quiet")


@pytest.mark.parametrize("generic", [unanswered("failed"), thought(" \n")])
def test_without_generic_thinking_or_another_user_those_are_left_out(generic: Outcome) -> None:
    found = embedding_similarity.similarity_outcomes([told("ann", "both", "quiet")], [generic], 0, Fake())
    assert by_arm(found, "ann") == {"L-trace": 0.6}


# --- the model ---


def test_embeddings_are_means_over_tokens_of_unit_length(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = make_model(tmp_path / "model")
    vectors = embedding_similarity.embed_texts(folder, ["a walk", "", "tax forms" * 200, "a walk"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 0, 1, 1], atol=1e-5)
    assert vectors[0].tolist() == vectors[3].tolist()
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        ids = AutoTokenizer.from_pretrained(folder)("a walk", return_tensors="pt")["input_ids"]
        mean = model(input_ids=ids).last_hidden_state[0].mean(0)
    np.testing.assert_allclose(vectors[0], (mean / mean.norm()).numpy(), atol=1e-5)


def test_a_folder_that_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(EvaluationError, match=r"cannot be loaded .*: name another with --embeddings, or go without"):
        embedding_similarity.embed_texts(tmp_path, ["a"])


@pytest.mark.parametrize("name", ["torch", "transformers"])
def test_without_the_libraries(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(EvaluationError, match=f"--embeddings needs {name}, which is not installed: run `pip install"):
        embedding_similarity.embed_texts(tmp_path, ["a"])


# --- in an evaluation ---


async def reasons_of(tmp_path: Path, embeddings: Path | None, reason: str | None = "quiet") -> list[Outcome]:
    """Return what a shard of one user measures of reasons; every answer thinks "both"."""

    async def execute(_: str, questions: Sequence[EvalRequest]) -> list[Outcome]:
        return [outcome(measure="reason", arm=one.arm, thinking="both") for one in questions]

    e = Engagement(id="1", prompt="?", response="A", occurred_at=NOW, reason=reason)
    executor: Any = SimpleNamespace(execute=execute)
    shard = EvalShard([UserDataset("ann", [e], [])], [], seed=1)
    builder: Any = None
    runner = ShardRunner(EvalOptions(data=tmp_path, embeddings=embeddings), shard, builder, executor)
    runner._training_sets = {"selected": {"ann": [ImportedTrace(engagement_id="1", thinking="loud")]}}
    await runner._ask_rationales()
    found = runner.result.outcomes
    return [row for row in found if row.measure == "likeness"]


async def test_shard_compares_reasons_in_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake()
    monkeypatch.setattr(embedding_similarity, "embed_texts", lambda folder, texts: fake(texts))
    found = await reasons_of(tmp_path, tmp_path)
    assert by_arm(found, "ann") == {"L-trace": 0.0, "L-generic": 0.6}
    assert {row.seed for row in found} == {1}
    assert len(fake.threads) == 1
    assert fake.threads[0] is not threading.current_thread()


async def test_nothing_is_embedded_unasked_or_without_reasons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_similarity, "embed_texts", None)
    assert await reasons_of(tmp_path, None) == []
    assert await reasons_of(tmp_path, tmp_path, reason=None) == []


@pytest.mark.parametrize(("name", "why"), [("model", "has no config.json"), ("gone", "is no folder")])
def test_a_folder_without_a_model_is_refused_at_once(name: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    result = CliRunner().invoke(
        app, ["eval", "run", "--data", str(tmp_path), "--embeddings", str(tmp_path / name)], env={"NO_COLOR": "1"}
    )
    assert result.exit_code == 2
    assert f"{tmp_path / name} {why}: name the folder of a transformers model" in result.stderr


def test_the_folder_reaches_the_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mindprint_eval import runner

    seen: list[EvalOptions] = []

    def run_eval(options: EvalOptions) -> int:
        seen.append(options)
        return 0

    monkeypatch.setattr(runner, "run_eval", run_eval)
    (tmp_path / "config.json").write_text("{}")
    for more in ([], ["--embeddings", str(tmp_path)]):
        assert CliRunner().invoke(app, ["eval", "run", "--data", str(tmp_path), *more]).exit_code == 0
    assert [options.embeddings for options in seen] == [None, tmp_path]
