"""The checks of a candidate: one row a reason, in the order in which they are made, cheapest first.

A check is a pure predicate over what was measured so far. The reason of the first check that fails is stored with the
trace and counted. To add a reason, add its name and group to `mindprint.types.traces`, a row to `CHECKS`, and its bound
to the settings. A new score also needs a measurement in `verdicts/verifier.py`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal, get_args

from mindprint.chat_format import THINK_TAG
from mindprint.thinking_text import own_words, words
from mindprint.types import Mode, Reason
from mindprint_server.engine.types import FinishReason
from mindprint_server.prompts.templates import prefix_without_reminders
from mindprint_server.settings import Settings, VerdictSettings

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
    """The measurements of one candidate. Each stage of the verification adds to them."""

    thinking: str
    finish: FinishReason
    own_words: int
    """Words of the thinking without those of the thinking prefix and the answer prefix."""
    is_duplicate: bool = False
    target: str | None = None
    answer: str = ""
    """The likeliest choice, or the real answer to an open question."""
    choices: dict[str, float] | None = None
    """Log-probability of each choice after the thinking, normalized over the choices."""
    scores: dict[str, float] = field(default_factory=dict)
    """Scores in nats, by the names that they have in a trace's `scores`."""


@dataclass(frozen=True)
class CandidateCheck:
    """One reason to reject a candidate."""

    reason: Reason
    stage: Stage
    """The stage after which the check is made."""
    is_failed: Callable[[Measurements, VerdictSettings], bool]
    deficit: Callable[[Measurements, VerdictSettings], float | None] | None = None
    """Returns how far the score is below its bound, in nats a token. None: early stopping does not use the score."""


def _is_below(value: float | None, bound: float | None) -> bool:
    # Negated so that NaN fails too.
    return value is not None and bound is not None and not value >= bound


def _is_above(value: float | None, bound: float | None) -> bool:
    return value is not None and bound is not None and not value <= bound


def _deficit(value: float | None, bound: float | None) -> float | None:
    return None if value is None or bound is None else bound - value


CHECKS: tuple[CandidateCheck, ...] = (
    CandidateCheck("loop", "text", lambda measured, settings: measured.finish == "loop" or loops(measured.thinking)),
    CandidateCheck("parse", "text", lambda measured, settings: THINK_TAG.search(measured.thinking) is not None),
    CandidateCheck("empty", "text", lambda measured, settings: measured.own_words < settings.min_thinking_words),
    CandidateCheck("leak", "text", lambda measured, settings: _LEAK.search(measured.thinking) is not None),
    CandidateCheck("duplicate", "text", lambda measured, settings: measured.is_duplicate),
    CandidateCheck(
        "wrong_answer",
        "answer",
        lambda measured, settings: settings.accept_by == "answer" and measured.answer != measured.target,
    ),
    CandidateCheck(
        "low_gain",
        "gain",
        lambda measured, settings: _is_below(measured.scores.get("gain"), settings.min_gain),
        lambda measured, settings: _deficit(measured.scores.get("gain"), settings.min_gain),
    ),
    CandidateCheck(
        "low_anchor",
        "anchor",
        lambda measured, settings: _is_below(measured.scores.get("anchor"), settings.min_anchor),
        lambda measured, settings: _deficit(measured.scores.get("anchor"), settings.min_anchor),
    ),
    CandidateCheck(
        "hindsight",
        "hindsight",
        lambda measured, settings: _is_above(measured.scores.get("hindsight_gap"), settings.max_hindsight_gap),
    ),
)
"""Every check, in order. The reason `not_selected` has no check: it comes with imported traces."""


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
            thinking_prefix: The text with which it was made to begin. Its words do not count as the thinking's own,
                except for its reminders. Words of the answer prefix do not count either.
            mode: The mode it was generated in.
            finish: Why the generation ended.
        """
        bare_prefix = prefix_without_reminders(thinking_prefix, self._settings.thinking_prefixes.get(mode, ""))
        return Measurements(thinking, finish, own_words(thinking, bare_prefix, self._settings.answer_prefix))

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
    tokens = words(text)
    grams = Counter(zip(*(tokens[start:] for start in range(LOOP_LENGTH)), strict=False))
    return bool(grams) and max(grams.values()) >= LOOP_COUNT


def fingerprint(thinking: str) -> str:
    """Return a thinking's words in one line. Thinkings with equal fingerprints count as the same."""
    return " ".join(words(thinking))


def fingerprints(thinkings: Iterable[str]) -> set[str]:
    """Return the fingerprints of several thinkings."""
    return {fingerprint(thinking) for thinking in thinkings}


def is_sampled(thinking: str, share: float) -> bool:
    """Return whether a thinking is in a sample of about `share` (0 to 1) of all thinkings.

    A hash of the text decides, so the result is the same at every call.
    """
    return int.from_bytes(sha256(thinking.encode()).digest()[:4], "big") < share * 2**32


def shortfall(choices: Mapping[str, float], target: str) -> float:
    """Return by how many nats the real answer is less likely than the likeliest choice; 0 if it is the likeliest."""
    return max(choices.values()) - choices[target]
