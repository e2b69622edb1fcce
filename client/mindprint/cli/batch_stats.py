"""What the counters of a batch say: numbers and their short forms, without a terminal."""

from __future__ import annotations

from typing import NamedTuple

from mindprint.endpoints.batches import FINAL_STATES
from mindprint.types import Batch

ENOUGH = 10
"""Engagements done before a time is foretold; of small batches, a tenth. The first ones carry the start of all others
that are under way, and would make the rest look far too long."""
UNLIKELY = ("little_precedent", "out_of_reach")
"""Reasons for which a batch that is not thorough leaves an engagement out."""


class Stage(NamedTuple):
    """One row of the funnel."""

    name: str
    number: int
    share: float | None = None
    """Of the candidates generated."""


def funnel_rows(batch: Batch) -> list[Stage]:
    """What became of the engagements and candidates, in the order of the way they go."""
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
    """None where there is nothing to divide by."""
    return part / whole if whole else None


def running_seconds(batch: Batch) -> float | None:
    """Seconds in which the batch was worked on; None until it has generated something.

    The server's speed is over just these seconds. The time since `started_at` would not do: it holds every restart,
    and the wait for the server to come back.
    """
    return ratio(batch.generated_tokens, batch.tokens_per_second)


def seconds_left(batch: Batch) -> float | None:
    """What the engagements not done will take at the pace so far; None while that would be a guess."""
    seconds = running_seconds(batch)
    if batch.state != "running" or not seconds or batch.done < min(ENOUGH, batch.items / 10):
        return None
    return seconds / batch.done * (batch.items - batch.done)


def accepted_engagements(batch: Batch) -> int:
    """Engagements with an accepted trace. Exact where candidates are drawn one by one, as they are by default;
    of several drawn at once more than one may be accepted, and this is the most that there can be."""
    return min(batch.funnel.accepted, batch.funnel.attempted)


def accepted_per_second(batch: Batch) -> float | None:
    return ratio(accepted_engagements(batch), running_seconds(batch))


def candidates_each(batch: Batch) -> float | None:
    """Candidates for one engagement."""
    return ratio(batch.funnel.generated, batch.funnel.attempted)


def cached_share(batch: Batch) -> float | None:
    """Of the prompt tokens, those that the prefix cache served."""
    return ratio(batch.cached_tokens, batch.prompt_tokens)


def pace(batch: Batch) -> list[tuple[str, str | None]]:
    """How fast it goes and for how long yet."""
    ended = batch.state in FINAL_STATES
    return [
        ("tokens/s", amount(batch.tokens_per_second)),
        ("engagements accepted/s", amount(accepted_per_second(batch))),
        ("candidates an engagement", amount(candidates_each(batch))),
        ("prompt tokens cached", percent(cached_share(batch))),
        ("ran for" if ended else "running for", duration(running_seconds(batch))),
        *([] if ended else [("time left", _told(seconds_left(batch)))]),
    ]


def summary(batch: Batch) -> str:
    """One line on where a batch stands."""
    share = percent(ratio(batch.funnel.accepted, batch.funnel.generated))
    rate, each = amount(accepted_per_second(batch)), amount(candidates_each(batch))
    cached, left = percent(cached_share(batch)), seconds_left(batch)
    told = [
        f"{batch.done}/{batch.items} engagements",
        f"{batch.funnel.generated} candidates" + (f" ({each} each)" if each else ""),
        f"{batch.funnel.accepted} accepted" + (f" ({share})" if share else ""),
        f"{amount(batch.tokens_per_second)} tokens/s",
        *([f"{rate} accepted/s"] if rate else []),
        *([f"{cached} of prompts cached"] if cached else []),
        *([] if batch.state in FINAL_STATES else [f"time left {_told(left)}"]),
    ]
    return f"{batch.state}: {', '.join(told)}"


def left_out(batch: Batch) -> str | None:
    """What an ended batch did not try because it was unlikely to bring a trace, and how to try it all the same."""
    unlikely = sum(batch.skipped.get(reason, 0) for reason in UNLIKELY)
    if batch.state not in FINAL_STATES or not unlikely:
        return None
    return f"left out as unlikely: {unlikely} of {batch.items}; `mindprint batches start --thorough` tries them too"


def amount(value: float | None) -> str | None:
    """Two digits that say something, whatever the size."""
    if value is None:
        return None
    return f"{value:.0f}" if value >= 9.95 or value == 0 else f"{value:#.2g}"


def percent(share: float | None) -> str | None:
    return None if share is None else "100 %" if share == 1 else f"{share * 100:.1f} %"


def _told(left: float | None) -> str:
    return "unknown" if left is None else f"about {duration(left)}"


def duration(seconds: float | None) -> str | None:
    """Seconds, minutes, or hours and minutes, or days and hours: never more than two units."""
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
