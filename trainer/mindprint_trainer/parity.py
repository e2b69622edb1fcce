"""Parity items: log-probabilities that the engine must reproduce once it has loaded the adapter.

They prove that a live adapter is the one that was trained. The weights are rounded to what the engine holds; the
arithmetic is the trainer's own. If the trainer computes in float32 and the engine in bfloat16, rounding alone makes
them differ: by 0.10 nats a token on the 135M model, and by 0.16 with an adapter on it, measured on unlikely text. Two
bfloat16 implementations differ by 0.10. An adapter changes the log-probabilities of its items by whole nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from mindprint.types import ParityItem
from mindprint_trainer.data.packing import forward_passes, pack_rows
from mindprint_trainer.data.tokenization import Segment, TokenizedSample
from mindprint_trainer.errors import NotFinite
from mindprint_trainer.model.base_model import Base
from mindprint_trainer.model.lora import LoraModelView
from mindprint_trainer.objective.batch import collate
from mindprint_trainer.objective.loss import measure_nll
from mindprint_trainer.settings import Settings


def measure_parity_items(
    base: Base,
    view: LoraModelView,
    adapter: int,
    sequences: Sequence[TokenizedSample],
    improvement: Callable[[int], float],
    settings: Settings,
    before_pass: Callable[[], None],
) -> list[ParityItem]:
    """Measure the sequences that the training changed most, and choose those with the most evidence.

    Args:
        base: The base model.
        view: The base model with the adapters.
        adapter: Index of the adapter in the view. It must hold the weights as they are saved.
        sequences: All sequences of the training run.
        improvement: Returns by how many nats a sequence's loss fell in training, by index. It needs no forward pass.
            Only the `parity_pool` sequences with the largest values are measured, with the adapter and without.
        settings: Number and length of the items.
        before_pass: Called before each forward pass; may raise to stop.

    Returns:
        At most `parity_items` items, those with the most evidence first.

    Raises:
        NotFinite: A log-probability is NaN or infinite.
    """
    order = sorted(range(len(sequences)), key=lambda index: (-improvement(index), index))
    # Drop sequences that are equal after shortening: they would be measured twice.
    pool = list(dict.fromkeys(shorten_sample(sequences[index], settings) for index in order))[: settings.parity_pool]
    adapted = target_logprobs(base, view, adapter, pool, settings, before_pass)
    with view.disable_adapters():
        unadapted = target_logprobs(base, view, adapter, pool, settings, before_pass)
    if not all(math.isfinite(value) for values in (*adapted.values(), *unadapted.values()) for value in values):
        raise NotFinite(
            "a log-probability of the trained adapter was not finite: "
            "lower MINDPRINT_TRAIN_LEARNING_RATE or look at the traces"
        )
    items = [
        ParityItem(
            prompt_ids=list(sequence.ids[: sequence.prompt_length]),
            target_ids=list(sequence.ids[sequence.prompt_length :]),
            logprobs=adapted[index],
            base_logprobs=unadapted[index],
        )
        for index, sequence in enumerate(pool)
    ]
    return sorted(items, key=evidence_nats, reverse=True)[: settings.parity_items]


def shorten_sample(sequence: TokenizedSample, settings: Settings) -> TokenizedSample:
    """Keep the last `parity_prompt_tokens` of the prompt and the first `parity_target_tokens` of the target."""
    begin = sequence.prompt_length
    prompt = sequence.ids[max(0, begin - settings.parity_prompt_tokens) : begin]
    target = sequence.ids[begin : begin + settings.parity_target_tokens]
    segment = Segment("answer", len(prompt), len(prompt) + len(target))
    return TokenizedSample("fast", "parity", prompt + target, (segment,))


def target_logprobs(
    base: Base,
    view: LoraModelView,
    adapter: int,
    sequences: Sequence[TokenizedSample],
    settings: Settings,
    before_pass: Callable[[], None],
) -> dict[int, list[float]]:
    """Compute the log-probability of each target token given all tokens before it.

    Args:
        base: The base model.
        view: The base model with the adapters.
        adapter: Index of the adapter in the view.
        sequences: What to measure. Each sequence has a row of its own, as in the engine.
        settings: Size of a forward pass.
        before_pass: Called before each forward pass; may raise to stop.

    Returns:
        The values in nats, by index of the sequence.
    """
    logprobs: dict[int, list[float]] = {index: [] for index in range(len(sequences))}
    rows = pack_rows(sequences, logprobs, settings.max_length, share_prefixes=False, adapter=adapter)
    pass_tokens = settings.micro_batch_tokens or base.default_pass_tokens
    for rows_of_pass in forward_passes(rows, pass_tokens, masked=base.path.is_masked):
        before_pass()
        batch = collate(rows_of_pass, base.device, masked=base.path.is_masked)
        for target, value in zip(batch.targets, measure_nll(view, batch, settings.logit_chunk), strict=True):
            logprobs[target.sequence].append(-value)
    return logprobs


def evidence_nats(item: ParityItem) -> float:
    """Return an item's evidence, in nats a token: the adapter's shift plus the target's mean log-probability.

    Two implementations differ less about a likely token than about an unlikely one (decision 003).
    """
    return mean_shift_nats(item) + sum(item.logprobs) / len(item.logprobs)


def mean_shift_nats(item: ParityItem) -> float:
    """Return the mean absolute difference that the adapter makes to an item's tokens, in nats."""
    pairs = zip(item.logprobs, item.base_logprobs, strict=True)
    return sum(abs(adapted - unadapted) for adapted, unadapted in pairs) / len(item.logprobs)
