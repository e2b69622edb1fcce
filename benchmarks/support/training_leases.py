"""Leases as a server would hand them out, made from a user's records without a server and without an engine."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from mindprint.datasets import UserDataset
from mindprint.types import Lease, LoraLimits, Mode, Sample

EPISODES = 5
"""Earlier answers in a prompt, at most."""
LEAD = "This user's answer:"
DIGEST = "sha256:base"
"""Of the base model, which is not compared with any server's."""


def samples(tokenizer: Any, person: UserDataset, begin: int) -> list[Sample]:
    """A fast and a slow sample of each engagement from number `begin` on; those before it are only remembered.

    Prompts are the server's. The thinking is put together from the user's earlier answers, for only its length matters
    here.
    """
    from mindprint_server.prompts import thinking
    from mindprint_server.prompts.templates import build
    from mindprint_server.prompts.types import RecalledMemory

    made = []
    for number, asked in enumerate(person.engagements[begin:], begin):
        past = person.engagements[max(0, number - EPISODES) : number]
        thought = "What this user has shown: " + " ".join(f"{e.prompt[-100:]} {e.response}." for e in past[-2:])
        ways: list[tuple[Literal["fast", "slow"], Mode, str, str]] = [
            ("fast", "direct", "", asked.response),
            ("slow", "personal", thinking.render_thinking(thought, LEAD), thinking.answer_suffix(LEAD, asked.response)),
        ]
        for kind, mode, thinks, answer in ways:
            messages = build(RecalledMemory(episodes=tuple(past)), asked.prompt, asked.choices, mode)
            made.append(
                Sample(
                    kind=kind,
                    user_id=person.user_id,
                    engagement_id=asked.id,
                    prompt=str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)),
                    thinking=thinks,
                    answer=answer,
                )
            )
    return made


def lease(adapter: str, given: Sequence[Sample], rank: int) -> Lease:
    """It does not run out, and nobody is asked for it."""
    from mindprint_server.settings import Settings

    return Lease(
        id=adapter,
        adapter=adapter,
        owner="benchmark",
        state="active",
        deadline=datetime.max.replace(tzinfo=UTC),
        attempt=1,
        trace_ids=[],
        samples=list(given),
        base_digest=DIGEST,
        limits=LoraLimits(max_rank=rank, target_modules=list(Settings.model_fields["target_modules"].default)),
    )
