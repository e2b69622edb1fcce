"""Compute and format the numbers of a batch, without a terminal."""

from __future__ import annotations

from typing import NamedTuple

from mindprint.endpoints.batches import FINAL_STATES
from mindprint.types import Batch

ENOUGH = 10
"""Engagements done before the time left is estimated; for small batches, a tenth of them.

The first ones include the start of all others that run with them, so that an estimate from them is far too long.
"""
UNLIKELY = ("rare_answer", "prior_too_low")
"""Reasons for which a batch skips an engagement unless it is exhaustive."""


class Stage(NamedTuple):
    """One row of the funnel."""

    name: str
    number: int
    share: float | None = None
    """Share of the generated candidates."""


def funnel_rows(batch: Batch) -> list[Stage]:
    """Return the rows of the funnel, from engagements attempted to traces in a live version."""
    funnel = batch.funnel
    generated = funnel.generated
    unjudged = generated - funnel.accepted - sum(funnel.rejected.values())
    return [
        Stage("attempted", funnel.attempted),
        *([Stage("  memory cut to fit", batch.truncated)] if batch.truncated else []),
        *(Stage(f"  skipped: {reason}", count) for reason, count in sorted(batch.skipped.items())),
        Stage("generated", generated, ratio(generated, generated)),
        *(
            Stage(f"  rejected: {reason}", count, ratio(count, generated))
            for reason, count in sorted(funnel.rejected.items())
        ),
        *([Stage("  not judged", unjudged, ratio(unjudged, generated))] if unjudged > 0 else []),
        Stage("accepted", funnel.accepted, ratio(funnel.accepted, generated)),
        *([Stage("  saw the answer", batch.hinted, ratio(batch.hinted, generated))] if batch.hinted else []),
        Stage("trained", funnel.trained),
        Stage("live", funnel.live),
    ]


def ratio(part: float, whole: float | None) -> float | None:
    """Divide; return None if there is nothing to divide by."""
    return part / whole if whole else None


def running_seconds(batch: Batch) -> float | None:
    """Return the seconds in which the batch ran; None until it has generated something.

    The server computes its speed over these seconds. The time since `started_at` would include restarts.
    """
    return ratio(batch.generated_tokens, batch.tokens_per_second)


def seconds_left(batch: Batch) -> float | None:
    """Estimate the seconds left from the speed so far; None while too little is done."""
    seconds = running_seconds(batch)
    if batch.state != "running" or not seconds or batch.done < min(ENOUGH, batch.items / 10):
        return None
    return seconds / batch.done * (batch.items - batch.done)


def accepted_engagements(batch: Batch) -> int:
    """Count the engagements with an accepted trace.

    Exact if candidates are generated one by one. Of several at once more than one may be accepted: an upper bound.
    """
    return min(batch.funnel.accepted, batch.funnel.attempted)


def accepted_per_second(batch: Batch) -> float | None:
    """Return the accepted engagements per second."""
    return ratio(accepted_engagements(batch), running_seconds(batch))


def candidates_each(batch: Batch) -> float | None:
    """Return the mean number of candidates for one engagement."""
    return ratio(batch.funnel.generated, batch.funnel.attempted)


def cached_share(batch: Batch) -> float | None:
    """Return the share of prompt tokens that came from the prefix cache."""
    return ratio(batch.cached_tokens, batch.prompt_tokens)


def pace(batch: Batch) -> list[tuple[str, str | None]]:
    """Return the speed of a batch and the time left, as names and texts."""
    ended = batch.state in FINAL_STATES
    return [
        ("tokens/s", amount(batch.tokens_per_second)),
        ("engagements accepted/s", amount(accepted_per_second(batch))),
        ("candidates an engagement", amount(candidates_each(batch))),
        ("prompt tokens cached", percent(cached_share(batch))),
        ("ran for" if ended else "running for", duration(running_seconds(batch))),
        *([] if ended else [("time left", _or_unknown(seconds_left(batch)))]),
    ]


def summary(batch: Batch) -> str:
    """Summarize a batch in one line."""
    share = percent(ratio(batch.funnel.accepted, batch.funnel.generated))
    rate, each = amount(accepted_per_second(batch)), amount(candidates_each(batch))
    cached, left = percent(cached_share(batch)), seconds_left(batch)
    parts = [
        f"{batch.done}/{batch.items} engagements",
        f"{batch.funnel.generated} candidates" + (f" ({each} each)" if each else ""),
        f"{batch.funnel.accepted} accepted" + (f" ({share})" if share else ""),
        f"{amount(batch.tokens_per_second)} tokens/s",
        *([f"{rate} accepted/s"] if rate else []),
        *([f"{cached} of prompts cached"] if cached else []),
        *([] if batch.state in FINAL_STATES else [f"time left {_or_unknown(left)}"]),
    ]
    waits = f"; waits: {batch.waiting_for}" if batch.waiting_for else ""
    return f"{batch.state}: {', '.join(parts)}{waits}"


def left_out(batch: Batch) -> str | None:
    """Say how many engagements an ended batch skipped as unlikely, and how to include them; None if there are none."""
    unlikely = sum(batch.skipped.get(reason, 0) for reason in UNLIKELY)
    if batch.state not in FINAL_STATES or not unlikely:
        return None
    return f"left out as unlikely: {unlikely} of {batch.items}; `mindprint batches start --exhaustive` tries them too"


def amount(value: float | None) -> str | None:
    """Format a number with two significant digits."""
    if value is None:
        return None
    return f"{value:.0f}" if value >= 9.95 or value == 0 else f"{value:#.2g}"


def percent(share: float | None) -> str | None:
    return None if share is None else "100 %" if share == 1 else f"{share * 100:.1f} %"


def _or_unknown(left: float | None) -> str:
    return "unknown" if left is None else f"about {duration(left)}"


def duration(seconds: float | None) -> str | None:
    """Format seconds in at most two units, from seconds to days."""
    if seconds is None:
        return None
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"
