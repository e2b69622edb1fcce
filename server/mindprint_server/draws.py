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
    """Of these, how many before the writer is shown the answer; 0: it is shown from the first one on."""
    hints: bool
    """Whether the writer is ever shown the answer."""
    give_up: float | None
    """Nats. Where the real answer trails the likeliest choice by more after the best candidate so far, the engagement
    is given up: further candidates, hinted ones too, hardly ever make up for it (docs/decisions/006). None: never."""


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
    if done >= rules.most or any(outcome.accepted for outcome in written) or _hopeless(written, rules):
        return None
    blind = min(rules.blind, rules.most) if rules.hints else rules.most
    hinted = done >= blind
    return Draw(range(done, min(done + rules.at_once, rules.most if hinted else blind)), hinted)


def _hopeless(written: Sequence[Outcome], rules: Rules) -> bool:
    """Whether even the best of these came nowhere near the real answer."""
    scored = [outcome.shortfall for outcome in written if outcome.shortfall is not None]
    return rules.give_up is not None and bool(scored) and min(scored) > rules.give_up
