"""The checks of a candidate: one row a reason, in the order in which they are made, cheapest first.

A check is a pure predicate over what was measured so far. The reason of the first check that fails is kept with the
trace and counted. To add a reason: its name and group in `mindprint.types.traces`, a row in `CHECKS`, and its bound in
the settings; a new score also needs a measurement in `verdicts/verifier.py`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal, get_args

from mindprint.thinking_text import own_words, words
from mindprint.types import Mode, Reason
from mindprint_server.engine.base import FinishReason
from mindprint_server.prompts.templates import prefix_without_reminders
from mindprint_server.settings import Settings, VerdictSettings

_TAG = re.compile(r"</?think>", re.IGNORECASE)
_LEAK = re.compile(
    r"\b(the|this|their) (given|provided|actual|real|stated|known|target|gold|expected) (answer|response|choice)\b"
    r"|\b(answer|response|choice) (is|was) (given|provided|already known)\b",
    re.IGNORECASE,
)
LOOP_LENGTH, LOOP_COUNT = 4, 5
"""A text loops where one n-gram of this many words occurs this many times (`method.md`: Loop)."""

Stage = Literal["text", "answer", "gain", "anchor", "anchor_random", "hindsight"]
"""What is measured before a check is made, by cost. `text`: nothing. `answer`: the answers' likelihood after the
thinking. `gain`: the same without the thinking. `anchor`: both under the nearest other user's memory. `anchor_random`:
both under a random other user's memory; no check reads it. `hindsight`: some of the thinking's own tokens."""
STAGES: tuple[Stage, ...] = get_args(Stage)


@dataclass
class Measurements:
    """What is known of a candidate; the stages of verification add to it."""

    thinking: str
    finish: FinishReason
    own_words: int
    """Words of the thinking without the thinking prefix and the answer's lead."""
    is_duplicate: bool = False
    target: str | None = None
    answer: str = ""
    """The likeliest choice, or the real answer to an open question."""
    choices: dict[str, float] | None = None
    """Log-probability of each choice after the thinking, normalized over the choices."""
    scores: dict[str, float] = field(default_factory=dict)
    """In nats, under the names that a trace's `scores` have."""


@dataclass(frozen=True)
class CandidateCheck:
    """One reason to reject a candidate."""

    reason: Reason
    stage: Stage
    """The stage after which the check is made."""
    is_failed: Callable[[Measurements, VerdictSettings], bool]
    deficit: Callable[[Measurements, VerdictSettings], float | None] | None = None
    """How far the score is under its bound, in nats a token; None where early stopping does not read it."""


def _is_below(value: float | None, bound: float | None) -> bool:
    # Negated so that NaN fails too.
    return value is not None and bound is not None and not value >= bound


def _is_above(value: float | None, bound: float | None) -> bool:
    return value is not None and bound is not None and not value <= bound


def _deficit(value: float | None, bound: float | None) -> float | None:
    return None if value is None or bound is None else bound - value


CHECKS: tuple[CandidateCheck, ...] = (
    CandidateCheck("loop", "text", lambda c, s: c.finish == "loop" or loops(c.thinking)),
    CandidateCheck("parse", "text", lambda c, s: _TAG.search(c.thinking) is not None),
    CandidateCheck("empty", "text", lambda c, s: c.own_words < s.min_thinking_words),
    CandidateCheck("leak", "text", lambda c, s: _LEAK.search(c.thinking) is not None),
    CandidateCheck("duplicate", "text", lambda c, s: c.is_duplicate),
    CandidateCheck("wrong_answer", "answer", lambda c, s: s.accept_by == "answer" and c.answer != c.target),
    CandidateCheck(
        "low_gain",
        "gain",
        lambda c, s: _is_below(c.scores.get("gain"), s.min_gain),
        lambda c, s: _deficit(c.scores.get("gain"), s.min_gain),
    ),
    CandidateCheck(
        "low_anchor",
        "anchor",
        lambda c, s: _is_below(c.scores.get("anchor"), s.min_anchor),
        lambda c, s: _deficit(c.scores.get("anchor"), s.min_anchor),
    ),
    CandidateCheck(
        "hindsight", "hindsight", lambda c, s: _is_above(c.scores.get("hindsight_gap"), s.max_hindsight_gap)
    ),
)
"""Every check, in order. `not_selected` has none: imported traces bring it."""


def first_failed(stage: Stage, measured: Measurements, settings: VerdictSettings) -> CandidateCheck | None:
    """Return the first check of a stage that a candidate fails; None if it passes all of them."""
    return next((check for check in CHECKS if check.stage == stage and check.is_failed(measured, settings)), None)


class ThinkingChecker:
    """Checks a thinking by its text alone, whatever the answer."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def measure(self, thinking: str, *, thinking_prefix: str, mode: Mode, finish: FinishReason) -> Measurements:
        """Measure a thinking by its text.

        Args:
            thinking: The whole thinking, with its thinking prefix.
            thinking_prefix: The text with which it was made to begin. Words of the thinking prefix and of the
            answer's lead do not
                count as its own; what the thinking prefix recalls of the user does.
            mode: The mode it was generated in.
            finish: Why the generation ended.
        """
        silent = prefix_without_reminders(thinking_prefix, self._settings.thinking_prefixes.get(mode, ""))
        return Measurements(thinking, finish, own_words(thinking, silent, self._settings.answer_prefix))

    def check(self, thinking: str, *, thinking_prefix: str, mode: Mode, finish: FinishReason) -> Reason | None:
        """Return why a thinking cannot be accepted, whatever the answer; None if it can.

        Args:
            thinking: The whole thinking, with its thinking prefix.
            thinking_prefix: The text with which it was made to begin.
            mode: The mode it was generated in.
            finish: Why the generation ended.
        """
        measured = self.measure(thinking, thinking_prefix=thinking_prefix, mode=mode, finish=finish)
        failed = first_failed("text", measured, self._settings)
        return failed.reason if failed else None


def loops(text: str) -> bool:
    """Return whether one 4-gram of words occurs five times or more (`method.md`: Loop)."""
    said = words(text)
    grams = Counter(zip(*(said[start:] for start in range(LOOP_LENGTH)), strict=False))
    return bool(grams) and max(grams.values()) >= LOOP_COUNT


def fingerprint(thinking: str) -> str:
    """Return what two thinkings of the same words have in common."""
    return " ".join(words(thinking))


def fingerprints(thinkings: Iterable[str]) -> set[str]:
    """Return the fingerprints of several thinkings."""
    return {fingerprint(thinking) for thinking in thinkings}


def is_sampled(thinking: str, share: float) -> bool:
    """Return whether a thinking is among the `share` (0 to 1) that get a score which decides nothing.

    The text decides, so the result is the same at every call.
    """
    return int.from_bytes(sha256(thinking.encode()).digest()[:4], "big") < share * 2**32


def shortfall(choices: Mapping[str, float], target: str) -> float:
    """Return the nats by which the real answer is behind the likeliest choice; 0 where it is the likeliest."""
    return max(choices.values()) - choices[target]
