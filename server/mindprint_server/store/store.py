"""The store: each method is one transaction, and none waits for anything but the database."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from mindprint.types import (
    Batch,
    BatchRequest,
    BatchState,
    Cohort,
    Engagement,
    Funnel,
    Ingested,
    Mode,
    Profile,
    Trace,
    TraceState,
    User,
    VerdictLabel,
)
from mindprint_server.store import batches, cohorts, funnel, gains, replays, traces, users
from mindprint_server.store.batches import ItemResult
from mindprint_server.store.database import Database
from mindprint_server.store.gains import Gain
from mindprint_server.store.holdout import Holdout
from mindprint_server.store.replays import Replay
from mindprint_server.store.training import NONE_HELD, Training


class Store(Training):
    """All that lasts, on SQLite or PostgreSQL. Made by `open`; safe to share between tasks.

    Raises `store.errors`: NotFound wherever an id that a call names is unknown, Busy when a wait took too long,
    the others where a method says so. What a call wrote is durable when it returns, and a call that raises has
    written nothing; a call whose caller is cancelled goes on to its end.
    """

    @classmethod
    async def open(cls, url: str, *, busy_timeout_s: float = 30.0) -> Store:
        """Opens `sqlite+aiosqlite:///PATH` or `postgresql+asyncpg://...` and brings its tables up to date.

        `busy_timeout_s` bounds each wait for a lock or a connection. StoreError: what keeps it from opening.
        """
        return cls(await Database.open(url, busy_timeout_s=busy_timeout_s))

    async def close(self) -> None:
        await self._database.close()

    # --- users, engagements, profiles ---

    async def add_engagements(self, user_id: str, items: Sequence[Engagement]) -> Ingested:
        """Stores all, or none (EngagementConflict: an id is known with other content). Makes the user if need be."""
        return await self._write(users.add_engagements, user_id, items)

    async def user(self, user_id: str) -> User:
        return await self._read(users.get, user_id)

    async def users(self, *, after: str | None = None, limit: int = 100) -> list[User]:
        """By id; `after` is the last id of the page before."""
        return await self._read(users.page, after, limit)

    async def engagement(self, user_id: str, engagement_id: str) -> Engagement:
        return await self._read(users.engagement, user_id, engagement_id)

    async def engagements(self, user_id: str, *, after: str | None = None, limit: int = 100) -> list[Engagement]:
        """By time, then id; `after` is the last id of the page before."""
        return await self._read(users.engagement_page, user_id, after, limit)

    async def history(
        self, user_id: str, *, before: datetime | None, not_id: str | None = None, limit: int | None
    ) -> list[Engagement]:
        """The newest `limit` engagements strictly before a time, oldest first; never `not_id`. None of either: all."""
        return await self._read(users.history, user_id, before, not_id, limit)

    async def history_length(self, user_id: str, *, before: datetime | None, not_id: str | None = None) -> int:
        """How many engagements `history` finds without a limit."""
        return await self._read(users.history_length, user_id, before, not_id)

    async def engagement_count(self, user_id: str, *, until: datetime | None = None) -> int:
        """Engagements up to and at `until`."""
        return await self._read(users.engagement_count, user_id, until)

    async def neighbour_pool(self, user_id: str, *, limit: int) -> list[str]:
        """At most `limit` other users who have engagements, the same ones at every call."""
        return await self._read(users.neighbour_pool, user_id, limit)

    async def add_profile(self, profile: Profile) -> Profile:
        """Stores it as the user's next version; the number that it came with does not matter."""
        return await self._write(users.add_profile, profile)

    async def profiles(self, user_id: str) -> list[Profile]:
        """By version."""
        return await self._read(users.profiles_of, user_id)

    async def profile(self, user_id: str, *, before: datetime | None = None) -> Profile | None:
        """The newest version, of those that cover only times before `before` if that is given."""
        return await self._read(users.profile, user_id, before)

    # --- cohorts ---

    async def cohorts(self) -> list[Cohort]:
        """By name. `everyone`, which holds all who are in no other, is always among them."""
        return await self._read(cohorts.every)

    async def cohort(self, name: str) -> Cohort:
        return await self._read(cohorts.get, name)

    async def put_cohort(self, name: str, description: str) -> Cohort:
        """Creates it, or describes it anew."""
        return await self._write(cohorts.put, name, description)

    async def add_members(self, name: str, users: Sequence[str]) -> Cohort:
        """Moves all these users into the cohort, from whichever they were in, or none (NotFound). EveryoneStays."""
        return await self._write(cohorts.add_members, name, users)

    async def remove_member(self, name: str, user_id: str) -> Cohort:
        """The user is in `everyone` again. NotFound: not in this cohort. EveryoneStays. Returns the one left."""
        return await self._write(cohorts.remove_member, name, user_id)

    async def delete_cohort(self, name: str) -> None:
        """Its users are in `everyone` again, its adapter is off, a lease on it is released; its versions stay.
        EveryoneStays."""
        await self._write(cohorts.delete, name)

    async def cohort_users(self, name: str, limit: int | None = None) -> list[str]:
        """Ids of its users, in order; the first `limit`."""
        return await self._read(cohorts.members, name, limit)

    # --- batches ---

    async def add_batch(
        self, request: BatchRequest, items: Sequence[tuple[str, str]], *, max_open: int
    ) -> tuple[Batch, bool]:
        """Queues (user, engagement) items; False with the earlier batch if the idempotency key came before.

        IdempotencyConflict: it came with another request. QueueFull: `max_open` batches have not ended.
        """
        return await self._write(batches.add, request, items, max_open)

    async def untraced(self, users: Sequence[str] | None, holdout: Holdout = NONE_HELD) -> list[tuple[str, str]]:
        """(user, engagement) without an accepted trace and not held out, of these users (None: of all), by user, then
        time."""
        return await self._read(traces.untraced, users, holdout)

    async def batch(self, id: str) -> Batch:
        return await self._read(batches.get, id)

    async def batches(self, limit: int = 100) -> list[Batch]:
        """Newest first."""
        return await self._read(batches.newest, limit)

    async def open_batches(self) -> list[Batch]:
        """Queued and running ones, oldest first."""
        return await self._read(batches.still_open)

    async def start_batch(self, id: str) -> None:
        """Only a queued batch changes; its start stays the first one over restarts."""
        await self._write(batches.start, id)

    async def finish_batch(self, id: str, state: BatchState, error: str | None = None) -> None:
        """Only an open batch changes."""
        await self._write(batches.finish, id, state, error)

    async def cancel_batch(self, id: str) -> Batch:
        """Only an open batch changes."""
        return await self._write(batches.finish, id, "cancelled")

    async def pending_items(self, batch_id: str) -> list[tuple[str, str]]:
        """(user, engagement) of the items that are not done, in the order of the plan."""
        return await self._read(batches.pending_items, batch_id)

    async def finish_items(self, done: Sequence[ItemResult], seconds: Mapping[str, float]) -> list[ItemResult]:
        """Stores items' traces, outcomes and counts, many in one commit; adds `seconds` of work to batches by id.

        An item that was done before is left as it is. Returns those whose rows are gone, of which nothing is stored.
        """
        return await self._write(batches.finish_items, done, seconds)

    # --- traces ---

    async def add_trace(self, trace: Trace) -> Trace:
        return await self._write(traces.add, trace)

    async def add_given(
        self, user_id: str, new: Sequence[Trace], *, alike: Callable[[str], str], most: int
    ) -> Ingested:
        """Stores waiting traces of a user, all or none, but for those that say of their engagement what an accepted one
        says: of thinkings that say the same, `alike` is the same.

        BacklogFull: more than `most` would wait.
        """
        return await self._write(traces.add_given, user_id, new, alike, most)

    async def trace(self, id: str) -> Trace:
        return await self._read(traces.get, id)

    async def traces(
        self,
        *,
        user: str | None = None,
        engagement: str | None = None,
        mode: Mode | None = None,
        batch: str | None = None,
        verdict: VerdictLabel | None = None,
        state: TraceState | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> list[Trace]:
        """By id, which is by time; `after` is the last id of the page before."""
        equal = {
            "user_id": user,
            "engagement_id": engagement,
            "mode": mode,
            "batch_id": batch,
            "verdict": verdict,
            "state": state,
        }
        return await self._read(traces.find, equal, after, limit)

    async def accepted_texts(self, user_id: str) -> set[str]:
        """The thinking of a user's accepted traces."""
        return await self._read(traces.accepted_texts, user_id)

    async def rejected(self, user_id: str, reasons: Sequence[str]) -> list[Trace]:
        """Of each engagement the first blind trace whose text is sound, if it was rejected for one of `reasons`."""
        return await self._read(traces.rejected, user_id, reasons)

    async def gains(self, user_id: str, *, base_digest: str, prompt_version: str, limit: int) -> list[Gain]:
        """Gains of the newest candidates of this base model, blind and personal, whatever their verdict; newest first.

        Of closed questions only those of batches: alone, wrong answers have no Gain, and the right ones would flatter.
        """
        return await self._read(gains.of_user, user_id, base_digest, prompt_version, limit)

    async def funnel(self, user_id: str | None = None) -> Funnel:
        """Of one user, or of the whole store."""
        return await self._read(funnel.of_user, user_id)

    async def backlog(self) -> dict[str, int]:
        """Waiting traces by adapter key."""
        return await self._read(traces.backlog)

    async def revive(self, trace_ids: Sequence[str]) -> int:
        """Puts dead traces back into the queue, with all their attempts; returns how many were dead."""
        return await self._write(traces.revive, trace_ids)

    # --- replays ---

    async def replays(self, base_digest: str, prompt_version: str) -> list[Replay]:
        """Those of this base model and prompt version, by position."""
        return await self._read(replays.of, base_digest, prompt_version)

    async def add_replays(self, base_digest: str, prompt_version: str, new: Sequence[Replay]) -> list[Replay]:
        """Stores those whose positions are free, and returns all: of two servers that write them at once, both get
        the same."""
        return await self._write(replays.add, base_digest, prompt_version, new)
