"""A cohort that was trained again after an erasure knows the erased texts no better than texts that it never saw.

It is a membership test: the loss of a text tells whether a model was trained on it. The leases come from a real server,
on the fake engine; the training is real, on a tiny model.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import statistics
import string
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from lives import Gate, lives
from mindprint.types import LeaseRequest, Provenance, Sample, Trace
from mindprint_server.settings import Settings
from mindprint_server.store import ErasureTarget, new_id
from mindprint_server.wiring import Services
from mindprint_trainer.worker import Worker
from samples import engagement
from uploads import upload

COHORT = "cohort/everyone"
TEXTS = 6
"""Texts of each user."""
CONTROLS = 30
"""Texts of nobody."""
PROMPT = "A word?"


def words(seed: int, count: int) -> list[str]:
    """Texts of 40 letters that nothing predicts."""
    dice = random.Random(seed)
    return ["".join(dice.choices(string.ascii_lowercase, k=40)) for _ in range(count)]


async def store_texts(services: Services, user: str, texts: Sequence[str]) -> None:
    """Engagements of a user, each with an accepted trace that thinks one of the texts."""
    for number, text in enumerate(texts):
        event = engagement(number)
        await services.store.engagements.add(user, [event])
        made = Provenance(
            model="base", adapter_digest=None, base_digest="b", prompt_version="1", mode="personal", sampling={},
            seed=1, engine="fake 1",
        )  # fmt: skip
        await services.store.traces.add(Trace(
            id=new_id(), user_id=user, engagement_id=event.id, mode="personal", query=PROMPT, prompt=PROMPT,
            thinking=text, answer="yes", verdict="accepted", state="waiting", provenance=made,
            created_at=datetime.now(UTC),
        ))  # fmt: skip


def save(folder: Path, config: dict[str, Any], weights: bytes) -> None:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes(weights)


async def train(services: Services, server: Any, worker: Worker, folder: Path) -> list[Sample]:
    """Lease the cohort's traces, train on them, and take the version into service. Return what was learned from."""
    lease = await services.leases.claim(LeaseRequest(owner="test", adapter=COHORT, min_traces=1))
    assert lease is not None
    assert lease.start is None
    server.queue = [lease]
    await asyncio.to_thread(worker.run)
    _, _, config, weights = server.completed[-1]
    save(folder, config, weights)
    version = await upload(services, lease, folder.parent, peft_folder=folder)
    assert version.state == "live"
    return lease.samples


def losses(base: Path, adapter: Path, prompt: str, texts: Sequence[str]) -> list[float]:
    """The mean loss of the letters of each text after the prompt, in nats a token."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, adapter).eval()
    start = len(tokenizer.encode(prompt, add_special_tokens=False))
    found = []
    with torch.inference_mode():
        for text in texts:
            ids = torch.tensor([tokenizer.encode(prompt + text, add_special_tokens=False)])
            scores = model(ids).logits[0, start:-1].float().log_softmax(-1)
            found.append(-float(scores.gather(1, ids[0, start + 1 :, None]).mean()))
    return found


@pytest.fixture
def served(tmp_path: Path, model_path: Path, empty_database: Path) -> Settings:
    data_dir = tmp_path / "server"
    data_dir.mkdir()
    shutil.copy(empty_database, data_dir)
    return Settings(
        engine="fake", model=str(model_path), data_dir=data_dir, erasure_poll_s=3600, holdout_share=0, replay_share=0,
        max_fast_samples=0, cohort_min_traces=1,
    )  # fmt: skip


async def test_retrained_cohort_knows_erased_texts_no_better_than_texts_of_nobody(
    served: Settings, server: Any, make: Callable[..., Worker], model_path: Path, tmp_path: Path
) -> None:
    of_ann, of_bob, of_nobody = words(1, TEXTS), words(2, TEXTS), words(3, CONTROLS)
    before, after = tmp_path / "before", tmp_path / "after"
    # Enough to learn the texts by heart: what was not learned cannot be forgotten.
    worker = make(epochs=40, rank=8, alpha=16, learning_rate=1e-2, max_length=480, micro_batch_tokens=1000)
    async with lives(served, model_path, Gate()) as open:
        services = await open()
        await store_texts(services, "ann", of_ann)
        await store_texts(services, "bob", of_bob)
        samples = await train(services, server, worker, before)
        assert {sample.thinking for sample in samples} == {*of_ann, *of_bob}

        erasure = await services.erasures.request(ErasureTarget(kind="user", user_id="ann"))
        await services.erasures.run_open()
        receipt = (await services.store.erasures.get(erasure.id)).receipt
        assert receipt is not None
        assert (receipt.withdrawn, receipt.retraining) == ([f"{COHORT}@1"], [COHORT])
        samples = await train(services, server, worker, after)
        assert {sample.thinking for sample in samples} == {*of_bob}

    def losses_of(texts: Sequence[str], adapter: Path) -> list[float]:
        return losses(model_path, adapter, samples[0].prompt + samples[0].thinking_prefix, texts)

    for adapter in (before, after):
        assert max(losses_of(of_bob, adapter)) < min(losses_of(of_nobody, adapter)), "it sees what was trained on"
    assert max(losses_of(of_ann, before)) < min(losses_of(of_nobody, before)), "and it saw the texts of ann"
    erased, unseen = losses_of(of_ann, after), losses_of(of_nobody, after)
    assert min(unseen) <= statistics.mean(erased) <= max(unseen)
    # Four standard errors: of texts that are alike, one mean in 15,000 lies further out.
    error = statistics.stdev(unseen) * (1 / len(erased) + 1 / len(unseen)) ** 0.5
    assert abs(statistics.mean(erased) - statistics.mean(unseen)) < 4 * error
