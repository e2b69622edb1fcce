"""How many candidates an engagement gets, and of which kind: drawn on demand, blind before hinted. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Rules:
    most: int
    """Candidates that one engagement gets at most (K)."""
    at_once: int
    """Candidates drawn at once; more only where none was accepted."""
    blind: int
    """Of these, how many before the writer is shown the answer. At least one is always blind."""
    hints: bool
    """Whether the writer is ever shown the answer."""
    give_up: float | None
    """Nats. A candidate after which the real answer trails the likeliest choice by more ends the attempts of its kind:
    its brothers, written from the same prompt, hardly ever do better. None: never."""


@dataclass(frozen=True)
class Outcome:
    """What became of one candidate. `shortfall` in nats; None where its answer was never scored."""

    accepted: bool
    hinted: bool
    shortfall: float | None = None


@dataclass(frozen=True)
class Draw:
    numbers: range
    """Of the candidates to write now, counted from the engagement's first one."""
    hinted: bool


def next_draw(written: Sequence[Outcome], rules: Rules) -> Draw | None:
    """What to write next for one engagement; None when it is done."""
    done = len(written)
    if done >= rules.most or any(outcome.accepted for outcome in written):
        return None
    hinted = any(outcome.hinted for outcome in written)
    if not hinted:
        limit = max(1, min(rules.blind, rules.most)) if rules.hints else rules.most
        if done < limit and not _hopeless(written, rules):
            return Draw(range(done, min(done + rules.at_once, limit)), hinted=False)
        if not rules.hints:
            return None
    elif _hopeless([outcome for outcome in written if outcome.hinted], rules):
        return None
    return Draw(range(done, min(done + rules.at_once, rules.most)), hinted=True)


def _hopeless(same_kind: Sequence[Outcome], rules: Rules) -> bool:
    """Whether even the best of these came nowhere near the real answer."""
    scored = [outcome.shortfall for outcome in same_kind if outcome.shortfall is not None]
    return rules.give_up is not None and bool(scored) and min(scored) > rules.give_up
