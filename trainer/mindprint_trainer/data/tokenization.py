"""Samples as token ids. Pure.

The rule for what is too long: the prompt is cut from the left until the sequence fits, the target is never cut.
A sample whose target alone does not fit, with one prompt token to predict it from, is dropped and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from mindprint.types import Sample

EncodeText = Callable[[str], list[int]]
"""Text to ids, without special tokens."""
Kind = Literal["slow", "fast", "replay"]
Part = Literal["opening", "thinking", "closing", "answer"]


@dataclass(frozen=True, slots=True)
class Segment:
    """The target tokens `ids[start:stop]` of a sequence; the answer's include the end-of-turn token."""

    part: Part
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class TokenizedSample:
    """One training sequence: prompt, then the segments up to the end, in a gap between two what was recalled."""

    kind: Kind
    group: str
    """The engagement: its sequences share most of their prompt and stay in one step."""
    ids: tuple[int, ...]
    segments: tuple[Segment, ...]
    cut: int = 0
    """Prompt tokens that were cut off."""
    user_id: str | None = None
    """Whose it is; None for replay."""
    choices: tuple[tuple[int, ...], ...] = ()
    """What may be answered, each with the end-of-turn token; empty where anything may be or no answer is learned."""

    @property
    def prompt_length(self) -> int:
        return self.segments[0].start


def tokenize(sample: Sample, encode_text: EncodeText, end_of_turn: int, max_length: int) -> TokenizedSample | None:
    """The sample's sequence of at most `max_length` tokens; None if it has to be dropped."""
    prompt = encode_text(sample.prompt)
    texts: list[tuple[Part | None, str]] = [
        ("opening", sample.opening),
        (None, sample.recalled),
        ("thinking", sample.thinking),
        ("closing", sample.closing),
        ("answer", sample.answer),
    ]
    parts = [(part, encode_text(text)) for part, text in texts if text]
    if not parts:
        return None
    if sample.answer:
        parts[-1][1].append(end_of_turn)
    room = max_length - sum(len(ids) for _, ids in parts)
    if room < 1 or not prompt:
        return None
    cut = max(0, len(prompt) - room)
    ids, segments = prompt[cut:], []
    for part, written in parts:
        if part is not None:
            segments.append(Segment(part, len(ids), len(ids) + len(written)))
        ids += written
    choices = tuple((*encode_text(choice), end_of_turn) for choice in sample.choices if sample.answer)
    return TokenizedSample(sample.kind, sample.engagement_id, tuple(ids), tuple(segments), cut, sample.user_id, choices)


def tokenize_all(
    samples: Iterable[Sample], encode_text: EncodeText, end_of_turn: int, max_length: int
) -> tuple[list[TokenizedSample], int]:
    """All sequences that can be trained on, in order, and how many samples were dropped."""
    encoded = [tokenize(sample, encode_text, end_of_turn, max_length) for sample in samples]
    kept = [sequence for sequence in encoded if sequence is not None]
    return kept, len(encoded) - len(kept)
