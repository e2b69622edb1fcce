"""Samples as token ids: those that the server scores and generates, by the rule of `mindprint.token_stretches`.

Truncation: the prompt is cut from the left until the sequence fits; the target is never cut. A sample is dropped and
counted when its target and one prompt token to predict it from do not fit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from mindprint.token_stretches import Tokenize, continue_tokens, split_tokens
from mindprint.types import Sample

Kind = Literal["slow", "fast", "replay"]
"""Slow: thinking and answer; fast: the answer alone; replay: generic thinking of the base model."""
Part = Literal["thinking_prefix", "thinking", "thinking_suffix", "answer"]
"""Part of the sample that a segment of the target holds."""
Stretch = list[tuple[Part | None, str]]
"""Parts of the turn that are tokenized as a whole, each with its text."""


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

    Tokens between two segments have no loss. They are the reminders that the server puts into the thinking. A token
    that crosses the border of two segments belongs to the first.
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


def tokenize(sample: Sample, tokenize_text: Tokenize, end_of_turn: int, max_length: int) -> TokenizedSample | None:
    """Encode a sample as one training sequence.

    Args:
        sample: Prompt and target texts from a lease.
        tokenize_text: Tokenizes text without adding special tokens.
        end_of_turn: Token id that ends every answer.
        max_length: Upper bound of the sequence, in tokens.

    Returns:
        The sequence, or None when the sample must be dropped: no target, no prompt, or a target that does not fit.
    """
    ids, segments = [token.id for token in tokenize_text(sample.prompt)], list[Segment]()
    before, prompt_length = sample.prompt, len(ids)
    for stretch in _stretches(sample):
        text = "".join(part_text for _, part_text in stretch)
        tokens = continue_tokens(tokenize_text, before, text)
        start = len(ids)
        for (part, _), end in zip(stretch, split_tokens(tokens, [len(part) for _, part in stretch]), strict=True):
            stop = len(ids) + end
            if part is not None and stop > start:
                segments.append(Segment(part, start, stop))
            start = stop
        ids += [token.id for token in tokens]
        before += text
    if sample.answer:
        start = segments.pop().start if segments and segments[-1].part == "answer" else len(ids)
        ids.append(end_of_turn)
        segments.append(Segment("answer", start, len(ids)))
    if not segments or not prompt_length:
        return None
    cut_tokens = max(0, len(ids) - max_length)
    if cut_tokens >= segments[0].start:
        return None
    segments = [Segment(one.part, one.start - cut_tokens, one.stop - cut_tokens) for one in segments]
    return TokenizedSample(
        sample.kind,
        sample.engagement_id,
        tuple(ids[cut_tokens:]),
        tuple(segments),
        cut_tokens,
        sample.user_id,
        _choices(sample, tokenize_text, before.removesuffix(sample.answer), end_of_turn),
    )


def _stretches(sample: Sample) -> list[Stretch]:
    """Return the parts of the turn by stretch; a part without a name has no loss."""
    thinking: list[Stretch] = [
        [("thinking_prefix", sample.thinking_prefix), (None, sample.reminder)],
        [("thinking", sample.thinking), ("thinking_suffix", sample.thinking_suffix)],
    ]
    if sample.answer_only:
        thinking = [[(None, text) for _, text in stretch] for stretch in thinking]
    answer: Stretch = [("answer", sample.answer)]
    return [stretch for stretch in (*thinking, answer) if any(text for _, text in stretch)]


def _choices(sample: Sample, tokenize_text: Tokenize, before: str, end_of_turn: int) -> tuple[tuple[int, ...], ...]:
    """Return the token ids of each allowed answer after the text before it, with the end-of-turn token."""
    if not sample.answer:
        return ()
    continued = (continue_tokens(tokenize_text, before, choice) for choice in sample.choices)
    return tuple((*(token.id for token in tokens), end_of_turn) for tokens in continued)


def tokenize_all(
    samples: Iterable[Sample], tokenize_text: Tokenize, end_of_turn: int, max_length: int
) -> tuple[list[TokenizedSample], int]:
    """Encode all samples as training sequences, in order.

    Args:
        samples: The samples of a lease.
        tokenize_text: Tokenizes text without adding special tokens.
        end_of_turn: Token id that ends every answer.
        max_length: Upper bound of each sequence, in tokens.

    Returns:
        The sequences, and how many samples were dropped.
    """
    tokenized = [tokenize(sample, tokenize_text, end_of_turn, max_length) for sample in samples]
    sequences = [sequence for sequence in tokenized if sequence is not None]
    return sequences, len(tokenized) - len(sequences)
