"""The tables. Columns have the names of the wire types' fields, so that rows become wire types without a mapping.

The migrations create these tables. A test checks that the two agree.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
    text,
    true,
)

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pk",
        "fk": "%(table_name)s_%(column_0_N_name)s_fk",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ck": "%(table_name)s_%(constraint_name)s",
    }
)


class Utc(TypeDecorator[datetime]):
    """A time with its zone. SQLite stores no zone, so times are stored and read as UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value} has no time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Prose(TypeDecorator[str]):
    """Text that a model generated. PostgreSQL cannot store NUL characters, so they are replaced by U+FFFD."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else value.replace("\0", "\N{REPLACEMENT CHARACTER}")


# Ids compare byte by byte, so that lists have the same order on every database.
Key = String(160).with_variant(String(160, collation="C"), "postgresql")
Word = String(32)
Json = JSON(none_as_null=True)


def _count(name: str) -> Column[int]:
    return Column(name, Integer, nullable=False, server_default="0")


def _created_at() -> Column[Any]:
    return Column("created_at", Utc, nullable=False)


# The first migration inserts the row `everyone`. It is never deleted.
cohorts = Table(
    "cohorts",
    metadata,
    Column("name", Key, primary_key=True),
    Column("description", Text, nullable=False, server_default=""),
    _created_at(),
)

users = Table(
    "users",
    metadata,
    Column("id", Key, primary_key=True),
    Column("cohort", Key, ForeignKey("cohorts.name")),  # NULL: member of `everyone`
    _created_at(),
    Index("users_by_cohort", "cohort", "id"),
)

engagements = Table(
    "engagements",
    metadata,
    Column("user_id", Key, ForeignKey("users.id"), primary_key=True),
    Column("id", Key, primary_key=True),
    Column("prompt", Text, nullable=False),
    Column("response", Text, nullable=False),
    Column("occurred_at", Utc, nullable=False),
    Column("reason", Text),
    Column("choices", Json),
    _created_at(),
    Index("engagements_by_time", "user_id", "occurred_at", "id"),
)

profiles = Table(
    "profiles",
    metadata,
    Column("user_id", Key, ForeignKey("users.id"), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("text", Prose, nullable=False),
    _count("tokens"),
    _count("covers"),
    Column("covers_until", Utc, nullable=False),
    Column("prompt_version", Key, nullable=False),
    Column("base_digest", Key, nullable=False),
    _created_at(),
)

batches = Table(
    "batches",
    metadata,
    Column("id", Key, primary_key=True),
    Column("state", Word, nullable=False),
    Column("request", Json, nullable=False),
    Column("idempotency_key", Key, unique=True),
    _count("generated_tokens"),
    _count("prompt_tokens"),
    _count("cached_tokens"),
    _count("truncated"),
    _count("hinted"),
    Column("busy_seconds", Float, nullable=False, server_default="0"),
    Column("error", Text),
    _created_at(),
    Column("started_at", Utc),
    Column("finished_at", Utc),
    Index("batches_by_state", "state", "id"),
)

batch_items = Table(
    "batch_items",
    metadata,
    Column("batch_id", Key, ForeignKey("batches.id"), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("user_id", Key, nullable=False),
    Column("engagement_id", Key, nullable=False),
    Column("outcome", Key),  # NULL: not done
    ForeignKeyConstraint(["user_id", "engagement_id"], ["engagements.user_id", "engagements.id"]),
    UniqueConstraint("batch_id", "user_id", "engagement_id"),
    Index("batch_items_by_outcome", "batch_id", "outcome", "position"),
)

leases = Table(
    "leases",
    metadata,
    Column("id", Key, primary_key=True),
    Column("adapter", Key, nullable=False),
    Column("owner", Key, nullable=False),
    Column("state", Word, nullable=False),
    Column("deadline", Utc, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("trace_ids", Json, nullable=False),
    Column("held_out", Json, nullable=False, server_default="{}"),  # engagement ids by user
    Column("fast", Json, nullable=False, server_default="{}"),  # engagement ids by user
    Column("rejected", Json, nullable=False, server_default="{}"),  # trace ids by user
    Column("start", Json),
    Column("parent", Integer),
    Column("version", Integer),
    _created_at(),
    Index("leases_by_deadline", "state", "deadline"),
    # At most one active lease per adapter, also if two claims ever run at the same time.
    Index(
        "leases_one_active",
        "adapter",
        unique=True,
        sqlite_where=text("state = 'active'"),
        postgresql_where=text("state = 'active'"),
    ),
)

traces = Table(
    "traces",
    metadata,
    Column("id", Key, primary_key=True),
    Column("user_id", Key, ForeignKey("users.id"), nullable=False),
    Column("engagement_id", Key),
    Column("batch_id", Key, ForeignKey("batches.id")),
    Column("adapter", Key, nullable=False),
    Column("mode", Word, nullable=False),
    Column("query", Prose, nullable=False),
    Column("prompt", Prose, nullable=False),
    Column("thinking", Prose, nullable=False),
    Column("answer", Prose, nullable=False),
    Column("choice_logprobs", Json),
    Column("verdict", Word, nullable=False),
    Column("reason", Prose),
    Column("scores", Json, nullable=False),
    Column("state", Word, nullable=False),
    Column("version", Integer),
    Column("lease_id", Key, ForeignKey("leases.id")),
    _count("attempts"),
    _count("prompt_tokens"),
    _count("cached_tokens"),
    _count("thinking_tokens"),
    Column("finish", Key, nullable=False),
    Column("provenance", Json, nullable=False),
    _created_at(),
    ForeignKeyConstraint(["user_id", "engagement_id"], ["engagements.user_id", "engagements.id"]),
    CheckConstraint("state = 'stored' OR verdict = 'accepted'", name="only_accepted_queue"),
    CheckConstraint("(state = 'trained') = (version IS NOT NULL)", name="trained_in_one_version"),
    CheckConstraint("state <> 'leased' OR lease_id IS NOT NULL", name="leased_by_a_lease"),
    Index("traces_queue", "state", "adapter", "id"),
    Index("traces_of_lease", "lease_id", "id"),
    Index("traces_of_engagement", "user_id", "engagement_id", "verdict", "id", "state"),
    Index("traces_of_user", "user_id", "id"),
    Index("traces_of_batch", "batch_id", "id"),
    # These two cover all columns that a funnel counts, so that it reads no row of this table.
    Index("traces_counts_of_user", "user_id", "verdict", "reason", "state", "adapter", "version"),
    Index("traces_counts_of_batch", "batch_id", "verdict", "reason", "state", "adapter", "version"),
)

# Allocated version numbers, also those that no version was stored for: no path and no engine id is ever used twice.
version_numbers = Table(
    "version_numbers",
    metadata,
    Column("engine_id", Integer, primary_key=True, autoincrement=True),
    Column("adapter", Key, nullable=False),
    Column("version", Integer, nullable=False),
    _created_at(),
    UniqueConstraint("adapter", "version"),
    sqlite_autoincrement=True,
)

versions = Table(
    "versions",
    metadata,
    Column("adapter", Key, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("lease_id", Key, ForeignKey("leases.id"), nullable=False, unique=True),
    Column("refused", Boolean, nullable=False),
    Column("digest", Key, nullable=False),
    Column("base_digest", Key, nullable=False),
    Column("parent", Integer),
    _count("traces"),
    Column("parity", Json),
    Column("checks", Json, nullable=False, server_default="[]"),
    Column("pinned", Boolean, nullable=False, server_default=false()),
    Column("files", Boolean, nullable=False, server_default=true()),
    Column("start", Key),
    Column("manifest", Json, nullable=False),
    _created_at(),
    ForeignKeyConstraint(["adapter", "version"], ["version_numbers.adapter", "version_numbers.version"]),
)

# All versions that a trace is in, refused ones too. `traces.version` is only the version of the user's own adapter; it
# keeps the trace from being leased again.
trace_versions = Table(
    "trace_versions",
    metadata,
    Column("trace_id", Key, ForeignKey("traces.id"), primary_key=True),
    Column("adapter", Key, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    ForeignKeyConstraint(["adapter", "version"], ["versions.adapter", "versions.version"]),
    Index("trace_versions_by_version", "adapter", "version"),
)

# The live version and the canary of each adapter. For an adapter without a row the base model answers.
live_versions = Table(
    "live_versions",
    metadata,
    Column("adapter", Key, primary_key=True),
    Column("version", Integer),
    Column("canary", Integer),
    Column("canary_share", Float),
    ForeignKeyConstraint(["adapter", "version"], ["versions.adapter", "versions.version"]),
    ForeignKeyConstraint(["adapter", "canary"], ["versions.adapter", "versions.version"]),
    CheckConstraint("(canary IS NULL) = (canary_share IS NULL)", name="canary_has_share"),
)

# General questions with the base model's generic thinking and answer, which trainers mix into their samples.
replays = Table(
    "replays",
    metadata,
    Column("base_digest", Key, primary_key=True),
    Column("prompt_version", Key, primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("prompt", Prose, nullable=False),
    Column("thinking", Prose, nullable=False),
    Column("answer", Prose, nullable=False),
    _created_at(),
)

# Keys of callers. Of a secret only the SHA-256 is kept. Rows stay, so that a server that once had keys never opens.
api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Key, primary_key=True),
    Column("name", Text, nullable=False),
    Column("secret_sha256", Key, nullable=False),
    Column("scopes", Json, nullable=False),
    _created_at(),
    Column("expires_at", Utc),
    Column("revoked_at", Utc),
    Column("last_used_at", Utc),
)
