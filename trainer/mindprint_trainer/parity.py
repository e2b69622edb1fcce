"""Log-probabilities that the engine must reproduce once it has loaded the adapter (invariant 5).

They are computed from weights rounded as the engine holds them, in the trainer's own arithmetic. Where that is float32
and the engine's bfloat16, the two differ by rounding: 0.10 nats a token on the 135M model, 0.16 with an adapter on it,
measured on unlikely text; two bfloat16 implementations differ by 0.10. An adapter moves its canary by whole nats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mindprint.types import CanaryItem
from mindprint_trainer.data.packing import forward_passes, pack_rows
from mindprint_trainer.data.tokenization import Segment, TokenizedSample
from mindprint_trainer.model.base_model import Base
from mindprint_trainer.model.lora import LoraModelView
from mindprint_trainer.objective.loss import collate, measure_nll
from mindprint_trainer.settings import Settings


def measure_parity_items(
    base: Base,
    stack: LoraModelView,
    number: int,
    sequences: Sequence[TokenizedSample],
    learned: Callable[[int], float],
    settings: Settings,
    check: Callable[[], None],
) -> list[CanaryItem]:
    """Measures the sequences that the training moved most, and returns those that tell most of the finished adapter.

    Adapter `number` of the stack must hold the weights as they are saved. `learned` tells by how much a sequence's
    loss fell, which costs nothing to know; only `canary_pool` sequences are then measured with the adapter and without.
    """
    order = sorted(range(len(sequences)), key=lambda number: (-learned(number), number))
    # Sequences with equal ends would make the proof look broader than it is.
    pool = list(dict.fromkeys(shorten_sample(sequences[n], settings) for n in order))[: settings.canary_pool]
    ours = target_logprobs(base, stack, number, pool, settings, check)
    with stack.off():
        theirs = target_logprobs(base, stack, number, pool, settings, check)
    items = [
        CanaryItem(
            prompt_ids=list(sequence.ids[: sequence.prompt_length]),
            target_ids=list(sequence.ids[sequence.prompt_length :]),
            logprobs=ours[number],
            base_logprobs=theirs[number],
        )
        for number, sequence in enumerate(pool)
    ]
    return sorted(items, key=evidence_nats, reverse=True)[: settings.canary_items]


def shorten_sample(sequence: TokenizedSample, settings: Settings) -> TokenizedSample:
    """The last tokens of the prompt and the first tokens of the target."""
    begin = sequence.prompt_length
    prompt = sequence.ids[max(0, begin - settings.canary_prompt_tokens) : begin]
    target = sequence.ids[begin : begin + settings.canary_target_tokens]
    segment = Segment("answer", len(prompt), len(prompt) + len(target))
    return TokenizedSample("fast", "canary", prompt + target, (segment,))


def target_logprobs(
    base: Base,
    stack: LoraModelView,
    owner: int,
    sequences: Sequence[TokenizedSample],
    settings: Settings,
    check: Callable[[], None],
) -> dict[int, list[float]]:
    """log p of each target token given all before it, by number of the sequence; each sequence has its own row."""
    found: dict[int, list[float]] = {number: [] for number in range(len(sequences))}
    apart = pack_rows(sequences, found, settings.max_length, share=False, owner=owner)
    for together in forward_passes(apart, settings.micro_batch_tokens or base.pass_tokens, masked=base.masked):
        check()
        batch = collate(together, base.device, masked=base.masked)
        for target, value in zip(batch.targets, measure_nll(stack, batch, settings.logit_chunk), strict=True):
            found[target.sequence].append(-value)
    return found


def evidence_nats(item: CanaryItem) -> float:
    """How much an item proves, in nats a token: what the adapter moves it, less how unlikely its target is even so. The
    more likely a token, the less two arithmetics differ about it (docs/decisions/003)."""
    return mean_shift_nats(item) + sum(item.logprobs) / len(item.logprobs)


def mean_shift_nats(item: CanaryItem) -> float:
    """Mean absolute difference that the adapter makes, in nats a token."""
    pairs = zip(item.logprobs, item.base_logprobs, strict=True)
    return sum(abs(ours - theirs) for ours, theirs in pairs) / len(item.logprobs)
