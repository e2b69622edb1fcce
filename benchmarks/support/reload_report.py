"""What the phases and the stories of reload.py come to, as rows and bars."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from lora_mix import quantile
from support.chat_load import ChatReply
from support.harness import CannotMeasure, Report, spread
from support.load_phases import PUBLISHING, QUIET, Phase
from support.publisher import PublishedVersion
from support.time_to_live import TimeToLive


def report_phases(
    report: Report, phases: Mapping[str, Sequence[Phase]], published: Sequence[PublishedVersion], tokens: int
) -> None:
    words = {one.name: one.word for one in published}
    failed, mixed, p99 = 0, 0, dict[str, float]()
    for side, its_phases in phases.items():
        replies = [reply for phase in its_phases for reply in phase.replies]
        answers = [reply for reply in replies if reply.failure is None]
        if not all(any(reply.failure is None for reply in phase.replies) for phase in its_phases):
            raise CannotMeasure(f"nothing was answered in a {side} phase: {replies[-1].failure}")
        mixing = [reply for reply in answers if mixes_versions(reply, words, tokens)]
        failed, mixed = failed + len(replies) - len(answers), mixed + len(mixing)
        p99[side] = first_token_s(answers, 0.99)
        report.row(
            side=side,
            requests=len(replies),
            failed=len(replies) - len(answers),
            mixed=len(mixing),
            outdated=sum(is_outdated(reply, published) for reply in answers),
            first_token_p50_s=first_token_s(answers, 0.5),
            first_token_p99_s=p99[side],
            phases_p99_s=spread(first_token_s(phase.replies, 0.99) for phase in its_phases),
            busy_cores=spread(phase.busy_cores for phase in its_phases),
        )
    for number, pair in enumerate(zip(*phases.values(), strict=True), 1):
        for side, phase in zip(phases, pair, strict=True):
            report.row(
                phase=f"{side} {number}",
                versions=phase.versions,
                requests=len(phase.replies),
                first_token_p50_s=first_token_s(phase.replies, 0.5),
                first_token_p99_s=first_token_s(phase.replies, 0.99),
                busy_cores=phase.busy_cores,
            )
    late = published[-sum(phase.versions for phase in phases[PUBLISHING]) :]
    report.row(
        published_under_load=len(late),
        adapters=len({one.key for one in late}),
        claim_to_live_s=spread(one.seconds for one in late),
    )
    everything = [reply for side in phases.values() for phase in side for reply in phase.replies]
    # What the engine has cached of a user's memory is of one version: who asks a new one first pays for reading it.
    new, during = first_replies(everything), [reply for phase in phases[PUBLISHING] for reply in phase.replies]
    for publishing, some in (
        ("a version's first answer", [reply for reply in during if reply in new]),
        ("its later ones", [reply for reply in during if reply not in new]),
    ):
        report.row(
            publishing=publishing,
            requests=len(some),
            first_token_p50_s=first_token_s(some, 0.5) if some else None,
            first_token_p99_s=first_token_s(some, 0.99) if some else None,
        )
    for failure, times in Counter(reply.failure for reply in everything if reply.failure).items():
        report.row(failure=failure, times=times)
    report.bar("failed requests", failed, at_most=0)
    report.bar("sequences that mix versions", mixed, at_most=0)
    report.bar("p99 time to first token, publishing over quiet", p99[PUBLISHING] / p99[QUIET], at_most=1.2)


def mixes_versions(reply: ChatReply, words: Mapping[str, str], tokens: int) -> bool:
    """Whether any token is not the mark of the version that the reply names."""
    return reply.text.split() != [words.get(reply.version, "")] * tokens


def is_outdated(reply: ChatReply, published: Sequence[PublishedVersion]) -> bool:
    """Whether an older version answers than the newest that was live when the request was sent."""
    versions = [one for one in published if one.key == reply.key]
    older = sum(one.live_at <= reply.sent_at for one in versions) - 1
    return reply.version in {one.name for one in versions[: max(0, older)]}


def first_replies(replies: Sequence[ChatReply]) -> frozenset[ChatReply]:
    """Return the first answer of each version."""
    found: dict[str, ChatReply] = {}
    for reply in sorted(replies, key=lambda reply: reply.sent_at):
        if reply.failure is None:
            found.setdefault(reply.version, reply)
    return frozenset(found.values())


def first_token_s(replies: Sequence[ChatReply], share: float) -> float:
    """Return the quantile of those that were answered, in seconds."""
    return quantile(sorted(reply.first_token_s for reply in replies if reply.failure is None), share)


def report_time_to_live(report: Report, stories: Sequence[TimeToLive]) -> None:
    for one in stories:
        report.row(**vars(one), total_s=one.total_s, without_training_s=one.without_training_s)
    report.row(
        trained_and_live=len(stories),
        trace_to_first_token_s=spread(one.total_s for one in stories),
        training_s=spread(one.training_s for one in stories),
        all_but_training_s=spread(one.without_training_s for one in stories),
    )
