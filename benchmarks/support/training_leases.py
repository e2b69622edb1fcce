"""Leases as a server would return them, built from a user's records without a server or an engine."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from mindprint.datasets import UserDataset
from mindprint.types import Lease, LoraLimits, Mode, Sample

EPISODES = 5
"""Past engagements in a prompt, at most."""
LEAD = "This user's answer:"
DIGEST = "sha256:base"
"""Digest of the base model in the leases. It is compared with no server's."""


def samples(tokenizer: Any, person: UserDataset, begin: int) -> list[Sample]:
    """Build a fast and a slow sample of each engagement.

    Prompts are the server's. The thinking is assembled from the user's earlier answers: only its length matters here.

    Args:
        tokenizer: A transformers tokenizer with a chat template.
        person: The user's records.
        begin: Index of the first engagement that gets samples; earlier ones are only memory.
    """
    from mindprint.chat_format import THINK_CLOSE, THINK_OPEN
    from mindprint_server.prompts.templates import build
    from mindprint_server.prompts.types import RecalledMemory

    made = []
    for number, asked in enumerate(person.engagements[begin:], begin):
        past = person.engagements[max(0, number - EPISODES) : number]
        text = "What this user has shown: " + " ".join(f"{e.prompt[-100:]} {e.response}." for e in past[-2:])
        variants: list[tuple[Literal["fast", "slow"], Mode, str, str]] = [
            ("fast", "direct", "", asked.response),
            ("slow", "personal", f"{THINK_OPEN}{text}{THINK_CLOSE}{LEAD}", f" {asked.response}"),
        ]
        for kind, mode, thinking_text, answer in variants:
            messages = build(RecalledMemory(episodes=tuple(past)), asked.prompt, asked.choices, mode)
            made.append(
                Sample(
                    kind=kind,
                    user_id=person.user_id,
                    engagement_id=asked.id,
                    prompt=str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)),
                    thinking=thinking_text,
                    answer=answer,
                )
            )
    return made


def lease(adapter: str, given: Sequence[Sample], rank: int) -> Lease:
    """Build a lease that never expires and that no server knows.

    Args:
        adapter: The adapter's key, also the id of the lease.
        given: Its samples.
        rank: The largest rank that the engine serves.
    """
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
