from __future__ import annotations

import asyncio
import dataclasses
import math
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from mindprint.types import ParityItem
from mindprint_server.adapters import parity_check
from mindprint_server.adapters.parity_check import ParityBounds, ParityLogprobs
from mindprint_server.engine import AdapterRef
from mindprint_server.engine.fake import FakeEngine
from mindprint_server.settings import AdapterSettings
from tiny import logprobs, make_adapter, make_model

BOUNDS = ParityBounds(tolerance=0.1, tolerance_share=0.25, min_shift=0.02)
DEFAULTS = ParityBounds.of(AdapterSettings())


def verdict(
    engine: list[float],
    base: list[float],
    trainer: list[float],
    trainer_base: list[float] | None = None,
    bounds: ParityBounds = BOUNDS,
) -> str | None:
    values = ParityLogprobs(engine, base, trainer, trainer_base or base)
    result = parity_check.compare_logprobs(values, bounds)
    assert result.passed == (result.reason is None)
    return result.reason


def test_parity_passes_only_for_the_adapter_itself() -> None:
    assert verdict([-1.0, -2.0], [-3.0, -4.0], [-1.05, -1.95]) is None
    assert "without the adapter" in str(verdict([-3.0, -4.0], [-3.0, -4.0], [-1.0, -2.0]))
    assert "from the trainer's" in str(verdict([-2.0, -3.0], [-3.0, -4.0], [-1.0, -2.0]))
    assert "no nearer" in str(verdict([-1.1, -2.1], [-1.05, -2.0], [-1.05, -2.0]))
    assert "not finite" in str(verdict([float("nan"), -2.0], [-3.0, -4.0], [-1.0, -2.0]))


def test_half_of_an_effect_below_the_tolerance_in_nats_is_refused() -> None:
    reason = str(verdict([-0.44], [-0.60], [-0.30], bounds=DEFAULTS))
    assert reason == (
        "the adapter has another effect on the engine: its log-odds are 0.4573 a token from the trainer's, "
        "0.25 of its effect of 0.8544 allowed"
    )


def test_double_effect_on_likely_tokens_is_refused() -> None:
    """In log-probabilities they are 0.05 apart, where the adapter moved them by 3."""
    assert "another effect" in str(verdict([-0.0005], [-3.0], [-0.05], bounds=DEFAULTS))


def test_wrong_values_of_the_trainers_base_do_not_widen_the_bound() -> None:
    assert "another effect" in str(verdict([-0.44], [-0.60], [-0.30], [-9.0], bounds=DEFAULTS))


def logprob(log_odds: float) -> float:
    return -math.log1p(math.exp(-log_odds))


ODDS = st.floats(-8, 4)
EFFECTS = st.floats(0.5, 6).flatmap(lambda size: st.sampled_from([size, -size]))
TOKENS = st.lists(st.tuples(ODDS, EFFECTS), min_size=1, max_size=8)


@given(tokens=TOKENS, scale=st.floats(-1, 0.7) | st.floats(1.3, 3))
def test_other_share_of_an_effect_never_passes(tokens: list[tuple[float, float]], scale: float) -> None:
    base = [logprob(odds) for odds, _ in tokens]
    trainer = [logprob(odds + effect) for odds, effect in tokens]
    engine = [logprob(odds + scale * effect) for odds, effect in tokens]
    assert verdict(engine, base, trainer, bounds=DEFAULTS) is not None


NOISY = st.tuples(st.floats(-8, 4), st.floats(1.5, 6), st.floats(-0.15, 0.15), st.floats(-0.15, 0.15))


@given(tokens=st.lists(NOISY, min_size=1, max_size=8))
def test_noise_of_bfloat16_passes(tokens: list[tuple[float, float, float, float]]) -> None:
    """Two implementations in bfloat16 differ by 0.1 nats a token, and a trained adapter moves them by 1 to 3."""
    base = [logprob(odds + noise) for odds, _, _, noise in tokens]
    trainer_base = [logprob(odds) for odds, *_ in tokens]
    trainer = [logprob(odds + effect) for odds, effect, *_ in tokens]
    engine = [logprob(odds + effect + noise) for odds, effect, noise, _ in tokens]
    bounds = dataclasses.replace(DEFAULTS, min_shift=0.0)
    assert verdict(engine, base, trainer, trainer_base, bounds) is None


def test_certain_tokens_and_values_above_zero_are_compared() -> None:
    assert verdict([0.0, 1e-7], [-3.0, -4.0], [-1e-7, -1e-6], bounds=DEFAULTS) is None


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[int], list[int]]:
    """A base, an adapter, a prompt, and the tokens that both together find likeliest."""
    base = make_model(tmp_path_factory.mktemp("base"))
    adapter = make_adapter(base, tmp_path_factory.mktemp("adapter"), seed=1, lora_alpha=4)
    prompt = list(range(40, 60))
    target: list[int] = []
    for _ in range(4):
        row = logprobs(base, prompt + target, adapter=adapter)[-1]
        target.append(row.index(max(row)))
    return base, adapter, prompt, target


def values_of(measured: tuple[Path, Path, list[int], list[int]], adapter: Path | None) -> list[float]:
    base, _, prompt, target = measured
    rows = logprobs(base, prompt + target, adapter=adapter)[len(prompt) - 1 :]
    return [row[token] for row, token in zip(rows, target, strict=False)]


def changed(adapter: Path, folder: Path, *, scale: float = 1.0, without: str = " ") -> Path:
    """The adapter with another scale, or without the layers of a name."""
    shutil.copytree(adapter, folder)
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file(
        {
            name: tensor * (scale if "lora_B" in name else 1) * (0.0 if without in name else 1)
            for name, tensor in tensors.items()
        },
        path,
    )
    return folder


@pytest.mark.parametrize(
    ("scale", "without"),
    [(0.5, " "), (2.0, " "), (0.0, " "), (1.0, "layers.0."), (1.0, "layers.1.")],
    ids=["half", "double", "none", "without layer 0", "without layer 1"],
)
def test_engine_that_applies_an_adapter_otherwise_than_peft_is_refused(
    measured: tuple[Path, Path, list[int], list[int]], tmp_path: Path, scale: float, without: str
) -> None:
    engine = values_of(measured, changed(measured[1], tmp_path / "other", scale=scale, without=without))
    base, trainer = values_of(measured, None), values_of(measured, measured[1])
    assert verdict(engine, base, trainer, bounds=DEFAULTS) is not None
    assert "another effect" in str(verdict(engine, base, trainer, bounds=ParityBounds(99.0, 0.25, 0.0))) or scale == 0
    assert verdict(trainer, base, trainer, bounds=DEFAULTS) is None


async def test_parity_fails_on_an_engine_that_ignores_adapters(base_folder: Path) -> None:
    class Deaf(FakeEngine):
        async def next_logprobs(self, prompt_ids, token_ids, *, adapter, priority):  # type: ignore[no-untyped-def]
            return await super().next_logprobs(prompt_ids, token_ids, adapter=None, priority=priority)

    engine = Deaf(model_path=base_folder)
    engine.tokenizer.encode("two words")
    item = ParityItem(prompt_ids=[1, 2], target_ids=[1, 2], logprobs=[-0.5, -0.5], base_logprobs=[-1, -1])
    ref = AdapterRef("user/ann", 1, "sha256:0", 1, base_folder)
    waits = []

    async def wait() -> None:
        waits.append(1)

    result = await parity_check.check_parity(engine, ref, [item], bounds=BOUNDS, wait_until_idle=wait)
    assert not result.passed
    assert result.against_base == 0
    assert result.tokens == 2
    assert len(waits) == 4  # two tokens, with the adapter and without


async def test_parity_item_is_scored_token_by_token(base_folder: Path) -> None:
    class Counting(FakeEngine):
        inside = 0
        most = 0

        async def next_logprobs(self, prompt_ids, token_ids, *, adapter, priority):  # type: ignore[no-untyped-def]
            self.inside += 1
            self.most = max(self.most, self.inside)
            await asyncio.sleep(0.001)
            found = await super().next_logprobs(prompt_ids, token_ids, adapter=adapter, priority=priority)
            self.inside -= 1
            return found

    async def wait() -> None:
        """Nobody is waited for."""

    engine = Counting(model_path=base_folder)
    engine.tokenizer.encode("one two three")
    short = ParityItem(prompt_ids=[1, 2], target_ids=[1, 2], logprobs=[-0.5, -0.5], base_logprobs=[-1, -1])
    long = ParityItem(prompt_ids=[2, 1], target_ids=[2, 1, 3], logprobs=[-0.5] * 3, base_logprobs=[-1] * 3)
    ref = AdapterRef("user/ann", 1, "sha256:0", 1, base_folder)
    result = await parity_check.check_parity(
        engine, ref, [short, long], bounds=ParityBounds(99, 0.4, 0), wait_until_idle=wait
    )
    assert result.tokens == 5
    assert engine.most == 1
