from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import load
from transformers import LlamaConfig

from mindprint.types import Lease, LoraLimits, Manifest, Sample, Start
from mindprint_trainer.errors import CannotTrain, LeaseEnded, NotFinite
from mindprint_trainer.model import peft_io
from mindprint_trainer.model.base_model import Base
from mindprint_trainer.model.forward_path import ForwardPath, candidate_paths
from mindprint_trainer.model.lora import LoraConfig
from mindprint_trainer.objective import batch, loss
from mindprint_trainer.settings import Settings
from mindprint_trainer.training.multi_adapter import (
    Callbacks,
    TrainedAdapter,
    TrainingJob,
    train_adapter,
    train_adapters,
    train_in_shared_passes,
)
from mindprint_trainer.training.run import StepReport, TrainingRun, learning_rate_factor

PATHS = candidate_paths(LlamaConfig(), "cpu")
LeaseOf = Callable[..., Lease]
Weights = dict[str, torch.Tensor]
Go = Callable[..., tuple[Manifest, Weights]]


@pytest.fixture
def go(base: Base, settings: Settings) -> Go:
    def trained(lease: Lease, **changes: Any) -> tuple[Manifest, Weights]:
        made = train_adapter(base, lease, settings.model_copy(update=changes))
        return made.manifest, load(made.files.weights)

    return trained


def only(base: Base, settings: Settings, job: TrainingJob) -> Weights:
    ((_, result),) = train_in_shared_passes(base, [job], settings)
    assert isinstance(result, TrainedAdapter)
    found: Weights = load(result.files.weights)
    return found


def same(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def answers(base: Base) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = base.model(input_ids=torch.arange(60).unsqueeze(0)).logits
        return logits.clone()


def test_the_loss_goes_down_in_every_part(go: Go, lease_of: LeaseOf) -> None:
    manifest, weights = go(lease_of(), epochs=6)
    for name in ("slow_thinking", "slow_answer", "fast_answer"):
        assert manifest.losses[f"{name}_last"] < manifest.losses[f"{name}_first"] - 0.5
    assert any(tensor.any() for name, tensor in weights.items() if "lora_B" in name)


def test_training_after_another_user_gives_the_same_bits_as_training_alone(
    go: Go, lease_of: LeaseOf, base: Base
) -> None:
    before = answers(base)
    _, alone = go(lease_of("ben"))
    _, other = go(lease_of("anna"))
    manifest, after = go(lease_of("ben"))
    assert same(alone, after)
    assert not same(alone, other)
    assert torch.equal(before, answers(base))
    assert manifest.adapter == "user/ben"


def test_no_token_of_another_user_enters_an_adapter_s_batch(
    base: Base, settings: Settings, lease_of: LeaseOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each token that goes through an adapter is looked at, one by one and together."""
    seen: list[tuple[str, str]] = []
    original = batch.target_hidden_states
    owners: list[str] = []

    def watched(view: Any, packed: batch.PackedBatch) -> torch.Tensor:
        flat = packed.ids.flatten().tolist()
        covered = [place for part in packed.parts for place in range(part.span.start, part.span.stop)]
        assert covered == list(range(len(flat)))
        for part in packed.parts:
            text = "".join(map(chr, flat[part.span.start : part.span.stop]))
            seen.append((owners[part.span.adapter], text))
        return original(view, packed)

    monkeypatch.setattr(loss, "target_hidden_states", watched)
    held = {name: "".join(map(chr, base.encode_text(name))) for name in ("anna", "ben", "carl")}
    owners[:] = ["anna"]
    train_adapter(base, lease_of("anna"), settings)
    owners[:] = ["ben", "anna", "carl"]
    train_adapters(base, [lease_of(name) for name in owners], settings)
    assert {owner for owner, _ in seen} == set(held)
    for owner, text in seen:
        assert not any(mark in text for name, mark in held.items() if name != owner)
    assert all(any(held[name] in text for owner, text in seen if owner == name) for name in held)


def test_lease_with_a_sample_of_another_user_is_refused(go: Go, lease_of: LeaseOf) -> None:
    lease = lease_of("anna")
    lease.samples[3].user_id = "ben"
    with pytest.raises(CannotTrain, match="the lease for user/anna holds samples of 1 other users"):
        go(lease)
    cohort = lease_of("anna", adapter="cohort/all", samples=lease.samples)
    assert go(cohort)[0].adapter == "cohort/all"


def test_the_seed_decides_and_another_try_takes_another(
    go: Go, base: Base, settings: Settings, lease_of: LeaseOf
) -> None:
    _, one = go(lease_of(), seed=3)
    assert same(one, go(lease_of(), seed=3)[1])
    assert same(one, go(lease_of(attempt=2), seed=3)[1])
    assert not same(one, go(lease_of(), seed=4)[1])
    again = only(base, settings.model_copy(update={"seed": 3}), TrainingJob(lease_of(), tries=1))
    assert same(again, go(lease_of(), seed=4)[1])


def test_dropout_is_decided_by_the_seed_too(go: Go, lease_of: LeaseOf) -> None:
    torch.manual_seed(1)
    _, one = go(lease_of(), dropout=0.2)
    torch.manual_seed(2)
    assert same(one, go(lease_of(), dropout=0.2)[1])
    assert not same(one, go(lease_of())[1])


def test_how_a_step_is_cut_into_passes_does_not_matter(go: Go, lease_of: LeaseOf) -> None:
    _, one = go(lease_of(), epochs=1)
    _, other = go(lease_of(), epochs=1, micro_batch_tokens=100, logit_chunk=5, share_prompts=False)
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize("path", [PATHS[2], *PATHS[1::2]], ids=str)
def test_every_path_trains_as_the_fastest_one_does(
    go: Go, base: Base, settings: Settings, lease_of: LeaseOf, path: ForwardPath
) -> None:
    _, one = go(lease_of(), epochs=1)
    made = train_adapter(replace(base, path=path), lease_of(), settings.model_copy(update={"epochs": 1}))
    other = load(made.files.weights)
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], atol=1e-3, rtol=1e-2)


def test_a_training_starts_from_its_parent(go: Go, base: Base, settings: Settings, lease_of: LeaseOf) -> None:
    made = train_adapter(base, lease_of("anna"), settings)
    start = Start(adapter="cohort/all", version=3, digest=f"sha256:{made.files.digest}")
    shape = LoraConfig(4, 8, tuple(sorted(lease_of().limits.target_modules)))
    parent = peft_io.ParentAdapter(start, shape, load(made.files.weights))
    lease = lease_of("ben", start=start)
    ((_, result),) = train_in_shared_passes(base, [TrainingJob(lease, parent)], settings.model_copy(update={"rank": 2}))
    assert isinstance(result, TrainedAdapter)
    assert result.manifest.settings["start"] == "cohort/all@3"
    assert result.manifest.settings["rank"] == 4
    assert go(lease_of("ben"))[0].settings["start"] is None
    still = settings.model_copy(update={"learning_rate": 1e-12, "weight_decay": 0, "epochs": 1})
    ((_, result),) = train_in_shared_passes(base, [TrainingJob(lease, parent)], still)
    assert isinstance(result, TrainedAdapter)
    for name, tensor in load(result.files.weights).items():
        torch.testing.assert_close(tensor, parent.tensors[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("changes", [{}, {"micro_batch_tokens": 4000}, {"schedule": "sequential"}])
def test_adapters_trained_together_are_those_trained_apart(
    base: Base, settings: Settings, lease_of: LeaseOf, changes: dict[str, Any]
) -> None:
    names = ("anna", "ben", "carl")
    asked = settings.model_copy(update=changes)
    limits = LoraLimits(max_rank=2, target_modules=["q_proj", "v_proj"])
    leases = [lease_of(name, **({"limits": limits} if name == "carl" else {})) for name in names]
    leases[1].samples = leases[1].samples[:4]
    before = answers(base)
    for lease, made in zip(leases, train_adapters(base, leases, asked), strict=True):
        alone = train_adapter(base, lease, asked)
        assert made.manifest.losses == pytest.approx(alone.manifest.losses, abs=2e-3)
        assert (made.manifest.adapter, made.manifest.tokens) == (lease.adapter, alone.manifest.tokens)
        weights = load(alone.files.weights)
        for name, tensor in load(made.files.weights).items():
            torch.testing.assert_close(tensor, weights[name], atol=2e-3, rtol=2e-2)
        for one, other in zip(made.manifest.parity_items, alone.manifest.parity_items, strict=True):
            assert one.base_logprobs == pytest.approx(other.base_logprobs, abs=1e-3)
    assert torch.equal(before, answers(base))


def test_one_that_ends_leaves_the_others_as_they_are(base: Base, settings: Settings, lease_of: LeaseOf) -> None:
    calls = itertools.count(1)

    def lost() -> None:
        if next(calls) == 3:
            raise LeaseEnded

    jobs = [
        TrainingJob(lease_of("anna")),
        TrainingJob(lease_of("ben"), raise_if_lost=lost),
        TrainingJob(lease_of("carl", samples=[Sample(kind="fast", engagement_id="e", prompt="", answer="x")] * 2)),
    ]
    ended = {job.lease.adapter: result for job, result in train_in_shared_passes(base, jobs, settings)}
    assert isinstance(ended["user/ben"], LeaseEnded)
    assert isinstance(ended["user/carl"], CannotTrain)
    result = ended["user/anna"]
    assert isinstance(result, TrainedAdapter)
    alone = train_adapter(base, lease_of("anna"), settings)
    assert result.manifest.losses == pytest.approx(alone.manifest.losses, abs=2e-3)


def test_a_loss_that_is_not_a_number_ends_one_and_not_the_others(
    base: Base, settings: Settings, lease_of: LeaseOf
) -> None:
    torn = train_adapter(base, lease_of("anna"), settings)
    weights = {name: torch.full_like(tensor, float("nan")) for name, tensor in load(torn.files.weights).items()}
    shape = LoraConfig(4, 8, tuple(sorted(lease_of().limits.target_modules)))
    parent = peft_io.ParentAdapter(Start(adapter="user/ben", version=1, digest="d"), shape, weights)
    jobs = [TrainingJob(lease_of("anna")), TrainingJob(lease_of("ben"), parent)]
    ended = {job.lease.adapter: result for job, result in train_in_shared_passes(base, jobs, settings)}
    assert isinstance(ended["user/ben"], NotFinite)
    assert isinstance(result := ended["user/anna"], TrainedAdapter)
    assert result.manifest.losses == pytest.approx(torn.manifest.losses, abs=2e-3)


def test_the_manifest_says_what_was_done(go: Go, lease_of: LeaseOf, base: Base) -> None:
    lease = lease_of()
    too_long = lease.samples[0].model_copy(update={"thinking": "x" * 300})
    long_prompt = lease.samples[1].model_copy(update={"prompt": "x" * 300})
    replay = Sample(kind="replay", engagement_id="r", prompt="What is tea?", thinking="Hm.", answer=" A drink.")
    lease.samples = [too_long, long_prompt, *lease.samples[2:], replay]
    manifest, _ = go(lease, rank=64)
    assert manifest.trace_ids == lease.trace_ids
    assert manifest.samples == {"slow": 5, "fast": 6, "replay": 1, "cut": 1, "dropped": 1}
    assert manifest.base_digest == base.digest
    assert manifest.settings["rank"] == 8
    assert manifest.settings["learning_rate"] == 5e-3
    assert not {"server", "api_key", "work_dir", "owner", "model"} & manifest.settings.keys()
    assert {"replay_thinking_first", "replay_answer_last"} <= manifest.losses.keys()
    assert manifest.tokens % 3 == 0
    assert manifest.tokens > 3 * 500
    assert manifest.seconds > 0
    assert "torch" in manifest.trainer
    assert 1 <= len(manifest.parity_items) <= 3


def test_progress_is_reported_after_each_step(base: Base, settings: Settings, lease_of: LeaseOf) -> None:
    told: list[StepReport] = []
    manifest = train_adapter(base, lease_of(), settings, Callbacks(on_step=told.append)).manifest
    assert [report.step for report in told] == list(range(1, 10))
    assert {report.steps for report in told} == {9}
    assert {report.lease_id for report in told} == {"lease-anna"}
    assert told[-1].tokens == told[-1].total_tokens == manifest.tokens
    assert set(told[-1].losses) == {"slow_thinking", "slow_answer", "fast_answer"}


def test_a_loss_that_is_not_a_number_stops_it(base: Base, settings: Settings, lease_of: LeaseOf) -> None:
    wild = settings.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(NotFinite, match="user/anna was not finite in step"):
        train_adapter(base, lease_of(), wild)


def test_a_check_ends_it_between_two_passes(base: Base, settings: Settings, lease_of: LeaseOf) -> None:
    calls = itertools.count(1)

    def check() -> None:
        if next(calls) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train_adapter(base, lease_of(), settings, Callbacks(check))
    assert next(calls) == 4


def test_a_lease_with_nothing_that_fits_is_refused(go: Go, lease_of: LeaseOf) -> None:
    with pytest.raises(CannotTrain, match="none of the 12 samples of user/anna fits into 4 tokens"):
        go(lease_of(), max_length=4)
    with pytest.raises(CannotTrain, match="none of the layers"):
        go(lease_of(limits=LoraLimits(max_rank=8, target_modules=["c_attn"])))


def test_the_learning_rate_rises_stays_and_falls() -> None:
    assert [learning_rate_factor(step, 20, 0.2, 0) for step in range(1, 7)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert learning_rate_factor(20, 20, 0.2, 0) == 1
    assert learning_rate_factor(1, 5, 0.1, 0) == learning_rate_factor(1, 5, 0, 0) == 1
    assert [learning_rate_factor(step, 8, 0.25, 0.5) for step in range(1, 9)] == [0.5, 1, 1, 1, 1, 0.75, 0.5, 0.25]
    assert [learning_rate_factor(step, 4, 1, 1) for step in range(1, 5)] == [0.25, 0.5, 0.5, 0.25]
    assert learning_rate_factor(1, 1, 1, 1) == 1


def test_answers_end_with_the_token_of_the_lease(base: Base, settings: Settings, lease_of: LeaseOf) -> None:
    """The engine stops at it, whatever `eos_token` says."""
    run = TrainingRun(base, lease_of("anna", end_of_turn=7), settings, None, 0)
    assert base.end_of_turn != 7
    assert {sequence.ids[-1] for sequence in run.sequences} == {7}


def test_lease_whose_end_of_turn_the_model_lacks_is_refused(base: Base, settings: Settings, lease_of: LeaseOf) -> None:
    with pytest.raises(CannotTrain, match="ends a turn with token 100000 and this model has 264"):
        TrainingRun(base, lease_of("anna", end_of_turn=100_000), settings, None, 0)
