"""Samples as token ids.

Truncation: the prompt is cut from the left until the sequence fits; the target is never cut. A sample is dropped and
counted when its target and one prompt token to predict it from do not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from mindprint.types import Sample

EncodeText = Callable[[str], list[int]]
"""Encodes text to token ids, without special tokens."""
Kind = Literal["slow", "fast", "replay"]
"""Slow: thinking and answer; fast: the answer alone; replay: generic thinking of the base model."""
Part = Literal["thinking_prefix", "thinking", "thinking_suffix", "answer"]
"""Part of the sample that a segment of the target holds."""


@dataclass(frozen=True, slots=True)
class Segment:
    """The target tokens `ids[start:stop]` of a sequence. The answer's segment includes the end-of-turn token."""

    part: Part
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class TokenizedSample:
    """One training sequence: the prompt, then the segments to its end.

    Tokens between two segments have no loss. They are the reminders that the server puts into the thinking.
    """

    kind: Kind
    group: str
    """Id of the engagement. Sequences of one group share most of their prompt and stay in one optimizer step."""
    ids: tuple[int, ...]
    """Token ids of the whole sequence."""
    segments: tuple[Segment, ...]
    """Segments of the target, in order and without overlap; at least one."""
    cut_tokens: int = 0
    """Prompt tokens that were cut off to fit."""
    user_id: str | None = None
    """The user whose engagement it is; None for replay."""
    choices: tuple[tuple[int, ...], ...] = ()
    """Token ids of each allowed answer, with the end-of-turn token. Empty for an open question, or without an
    answer."""

    @property
    def prompt_length(self) -> int:
        """Number of tokens before the first segment."""
        return self.segments[0].start


def tokenize(sample: Sample, encode_text: EncodeText, end_of_turn: int, max_length: int) -> TokenizedSample | None:
    """Encode a sample as one training sequence.

    Args:
        sample: Prompt and target texts from a lease.
        encode_text: Encodes text without special tokens.
        end_of_turn: Token id that ends every answer.
        max_length: Upper bound of the sequence, in tokens.

    Returns:
        The sequence, or None when the sample must be dropped: no target, no prompt, or a target that does not fit.
    """
    prompt = encode_text(sample.prompt)
    texts: list[tuple[Part | None, str]] = [
        ("thinking_prefix", sample.thinking_prefix),
        (None, sample.reminder),
        ("thinking", sample.thinking),
        ("thinking_suffix", sample.thinking_suffix),
        ("answer", sample.answer),
    ]
    parts = [(part, encode_text(text)) for part, text in texts if text]
    if not parts:
        return None
    if sample.answer:
        parts[-1][1].append(end_of_turn)
    max_prompt_tokens = max_length - sum(len(part_ids) for _, part_ids in parts)
    if max_prompt_tokens < 1 or not prompt:
        return None
    cut_tokens = max(0, len(prompt) - max_prompt_tokens)
    ids, segments = prompt[cut_tokens:], []
    for part, part_ids in parts:
        if part is not None:
            segments.append(Segment(part, len(ids), len(ids) + len(part_ids)))
        ids += part_ids
    choices = tuple((*encode_text(choice), end_of_turn) for choice in sample.choices if sample.answer)
    return TokenizedSample(
        sample.kind, sample.engagement_id, tuple(ids), tuple(segments), cut_tokens, sample.user_id, choices
    )


def tokenize_all(
    samples: Iterable[Sample], encode_text: EncodeText, end_of_turn: int, max_length: int
) -> tuple[list[TokenizedSample], int]:
    """Encode all samples as training sequences, in order.

    Args:
        samples: The samples of a lease.
        encode_text: Encodes text without special tokens.
        end_of_turn: Token id that ends every answer.
        max_length: Upper bound of each sequence, in tokens.

    Returns:
        The sequences, and how many samples were dropped.
    """
    tokenized = [tokenize(sample, encode_text, end_of_turn, max_length) for sample in samples]
    sequences = [sequence for sequence in tokenized if sequence is not None]
    return sequences, len(tokenized) - len(sequences)
