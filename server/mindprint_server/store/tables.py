"""The tables. Columns have the names of the wire types' fields, so that rows become wire types without a mapping.

The migrations create these tables. A test checks that the two agree.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
    true,
)

from mindprint_server.store.column_types import Json, Key, Prose, Utc, Word
from mindprint_server.tenancy import current_tenant

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pk",
        "fk": "%(table_name)s_%(column_0_N_name)s_fk",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ck": "%(table_name)s_%(constraint_name)s",
    }
)


def _count(name: str) -> Column[int]:
    return Column(name, Integer, nullable=False, server_default="0")


def _tenant(*, primary_key: bool = False) -> Column[str]:
    """Whose the row is. The database layer sets it and limits every statement to it: see `tenant_scope.py`."""
    return Column("tenant", Key, primary_key=primary_key, nullable=False, default=current_tenant)


def _created_at() -> Column[Any]:
    return Column("created_at", Utc, nullable=False)


# Each tenant has the row `everyone` from its beginning. It is never deleted.
cohorts = Table(
    "cohorts",
    metadata,
    _tenant(primary_key=True),
    Column("name", Key, primary_key=True),
    Column("description", Text, nullable=False, server_default=""),
    _created_at(),
)

users = Table(
    "users",
    metadata,
    _tenant(primary_key=True),
    Column("id", Key, primary_key=True),
    Column("cohort", Key),  # NULL: member of `everyone`
    _created_at(),
    ForeignKeyConstraint(["tenant", "cohort"], ["cohorts.tenant", "cohorts.name"]),
    Index("users_by_cohort", "tenant", "cohort", "id"),
)

engagements = Table(
    "engagements",
    metadata,
    _tenant(primary_key=True),
    Column("user_id", Key, primary_key=True),
    Column("id", Key, primary_key=True),
    Column("prompt", Text, nullable=False),
    Column("response", Text, nullable=False),
    Column("occurred_at", Utc, nullable=False),
    Column("reason", Text),
    Column("choices", Json),
    _created_at(),
    ForeignKeyConstraint(["tenant", "user_id"], ["users.tenant", "users.id"]),
    Index("engagements_by_time", "tenant", "user_id", "occurred_at", "id"),
)

profiles = Table(
    "profiles",
    metadata,
    _tenant(primary_key=True),
    Column("user_id", Key, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("text", Prose, nullable=False),
    _count("tokens"),
    _count("covers"),
    Column("covers_until", Utc, nullable=False),
    Column("prompt_version", Key, nullable=False),
    Column("base_digest", Key, nullable=False),
    _created_at(),
    ForeignKeyConstraint(["tenant", "user_id"], ["users.tenant", "users.id"]),
)

batches = Table(
    "batches",
    metadata,
    _tenant(primary_key=True),
    Column("id", Key, primary_key=True),
    Column("state", Word, nullable=False),
    Column("request", Json, nullable=False),
    Column("idempotency_key", Key),
    Column("api_key", Key),  # id of the key that started it; NULL: none
    Column("waiting_for", Text),  # why a server starts none of its items; NULL: none said so
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
    UniqueConstraint("tenant", "idempotency_key"),
    Index("batches_by_state", "tenant", "state", "id"),
)

batch_items = Table(
    "batch_items",
    metadata,
    _tenant(primary_key=True),
    Column("batch_id", Key, primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("user_id", Key, nullable=False),
    Column("engagement_id", Key, nullable=False),
    Column("outcome", Key),  # NULL: not done
    Column("owner", Key),  # the server that works on it; NULL: none, or done
    Column("deadline", Utc),  # from then on another server may claim it
    ForeignKeyConstraint(["tenant", "batch_id"], ["batches.tenant", "batches.id"]),
    ForeignKeyConstraint(
        ["tenant", "user_id", "engagement_id"], ["engagements.tenant", "engagements.user_id", "engagements.id"]
    ),
    UniqueConstraint("tenant", "batch_id", "user_id", "engagement_id"),
    Index("batch_items_by_outcome", "tenant", "batch_id", "outcome", "position"),
    # Few rows: items are claimed shortly before they are worked on. A heartbeat changes no column of an index.
    Index(
        "batch_items_claimed",
        "tenant",
        "batch_id",
        "user_id",
        sqlite_where=text("owner IS NOT NULL"),
        postgresql_where=text("owner IS NOT NULL"),
    ),
    # An engagement that is erased must have no item: without this index all items would be read for each.
    Index("batch_items_of_engagement", "tenant", "user_id", "engagement_id"),
)

leases = Table(
    "leases",
    metadata,
    _tenant(primary_key=True),
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
    Column("revoked_by", Key),  # id of the erasure
    Column("imported", Boolean, nullable=False, server_default=false()),  # its version was trained elsewhere
    _created_at(),
    Index("leases_by_deadline", "tenant", "state", "deadline"),
    # At most one active lease per adapter, also if two claims ever run at the same time.
    Index(
        "leases_one_active",
        "tenant",
        "adapter",
        unique=True,
        sqlite_where=text("state = 'active'"),
        postgresql_where=text("state = 'active'"),
    ),
)

traces = Table(
    "traces",
    metadata,
    _tenant(primary_key=True),
    Column("id", Key, primary_key=True),
    Column("user_id", Key, nullable=False),
    Column("engagement_id", Key),
    Column("batch_id", Key),
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
    Column("lease_id", Key),
    _count("attempts"),
    _count("prompt_tokens"),
    _count("cached_tokens"),
    _count("thinking_tokens"),
    Column("finish", Key, nullable=False),
    Column("provenance", Json, nullable=False),
    _created_at(),
    ForeignKeyConstraint(
        ["tenant", "user_id", "engagement_id"], ["engagements.tenant", "engagements.user_id", "engagements.id"]
    ),
    ForeignKeyConstraint(["tenant", "user_id"], ["users.tenant", "users.id"]),
    ForeignKeyConstraint(["tenant", "batch_id"], ["batches.tenant", "batches.id"]),
    ForeignKeyConstraint(["tenant", "lease_id"], ["leases.tenant", "leases.id"]),
    CheckConstraint("state = 'stored' OR verdict = 'accepted'", name="only_accepted_queue"),
    CheckConstraint("(state = 'trained') = (version IS NOT NULL)", name="trained_in_one_version"),
    CheckConstraint("state <> 'leased' OR lease_id IS NOT NULL", name="leased_by_a_lease"),
    Index("traces_queue", "tenant", "state", "adapter", "id"),
    Index("traces_of_lease", "tenant", "lease_id", "id"),
    Index("traces_of_engagement", "tenant", "user_id", "engagement_id", "verdict", "id", "state"),
    Index("traces_of_user", "tenant", "user_id", "id"),
    Index("traces_of_batch", "tenant", "batch_id", "id"),
    # These two cover all columns that a funnel counts, so that it reads no row of this table.
    Index("traces_counts_of_user", "tenant", "user_id", "verdict", "reason", "state", "adapter", "version"),
    Index("traces_counts_of_batch", "tenant", "batch_id", "verdict", "reason", "state", "adapter", "version"),
)

# Counts of items and traces, kept by triggers (migration 0017). A count is the sum of its slots: on PostgreSQL
# transactions that change it at the same time have one each.
row_counts = Table(
    "row_counts",
    metadata,
    _tenant(primary_key=True),
    Column("batch_id", Key, primary_key=True),  # '': of all batches, and outside of batches
    Column("kind", Word, primary_key=True),
    Column("label", Key, primary_key=True),
    Column("reason", Text, primary_key=True),
    Column("slot", BigInteger, primary_key=True, autoincrement=False),
    Column("amount", BigInteger, nullable=False),
    # Backups leave it out: the triggers count rows that are restored.
    info={"derived": True},
)

# Allocated version numbers, also those that no version was stored for: no path and no engine id is ever used twice.
version_numbers = Table(
    "version_numbers",
    metadata,
    _tenant(),
    Column("engine_id", Integer, primary_key=True, autoincrement=True),
    Column("adapter", Key, nullable=False),
    Column("version", Integer, nullable=False),
    _created_at(),
    UniqueConstraint("tenant", "adapter", "version"),
    sqlite_autoincrement=True,
)

versions = Table(
    "versions",
    metadata,
    _tenant(primary_key=True),
    Column("adapter", Key, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("lease_id", Key, nullable=False),
    Column("refused", Boolean, nullable=False),
    Column("digest", Key, nullable=False),
    Column("base_digest", Key, nullable=False),
    Column("parent", Integer),
    _count("traces"),
    Column("parity", Json),
    Column("checks", Json, nullable=False, server_default="[]"),
    Column("pinned", Boolean, nullable=False, server_default=false()),
    Column("files", Boolean, nullable=False, server_default=true()),
    # SHA-256 over the files and the engine id; it names their folder. NULL: the files are in the old folders.
    Column("artifact", Key),
    Column("start", Key),
    Column("erasure_id", Key),  # the erasure that withdrew it
    Column("manifest", Json, nullable=False),
    _created_at(),
    ForeignKeyConstraint(["tenant", "lease_id"], ["leases.tenant", "leases.id"]),
    UniqueConstraint("tenant", "lease_id"),
    ForeignKeyConstraint(
        ["tenant", "adapter", "version"],
        ["version_numbers.tenant", "version_numbers.adapter", "version_numbers.version"],
    ),
)

# Uploaded versions that a server checks and takes into service. The lease of an open one does not expire.
publications = Table(
    "publications",
    metadata,
    _tenant(primary_key=True),
    Column("id", Key, primary_key=True),
    Column("lease_id", Key, nullable=False),
    Column("adapter", Key, nullable=False),
    Column("version", Integer, nullable=False),
    Column("engine_id", Integer, nullable=False),
    Column("digest", Key, nullable=False),  # of the weights
    Column("artifact", Key),  # NULL: ended
    Column("manifest", Json),  # NULL: ended
    Column("state", Word, nullable=False),
    Column("steps", Json, nullable=False),  # times by state
    _count("tries"),
    Column("code", Key),
    Column("message", Text),
    Column("owner", Key),  # the server that works on it; NULL: none, or ended
    Column("deadline", Utc),  # from then on another server may claim it
    _created_at(),
    Column("finished_at", Utc),
    ForeignKeyConstraint(["tenant", "lease_id"], ["leases.tenant", "leases.id"]),
    UniqueConstraint("tenant", "lease_id"),
    Index("publications_by_state", "tenant", "state", "id"),
)

# All versions that a trace is in, refused ones too. `traces.version` is only the version of the user's own adapter; it
# keeps the trace from being leased again.
trace_versions = Table(
    "trace_versions",
    metadata,
    _tenant(primary_key=True),
    Column("trace_id", Key, primary_key=True),
    Column("adapter", Key, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    ForeignKeyConstraint(["tenant", "adapter", "version"], ["versions.tenant", "versions.adapter", "versions.version"]),
    ForeignKeyConstraint(["tenant", "trace_id"], ["traces.tenant", "traces.id"]),
    Index("trace_versions_by_version", "tenant", "adapter", "version"),
)

# The users that each version learned from, also those whose traces are gone: an erasure finds its versions here.
version_users = Table(
    "version_users",
    metadata,
    _tenant(primary_key=True),
    Column("user_id", Key, primary_key=True),
    Column("adapter", Key, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    ForeignKeyConstraint(["tenant", "adapter", "version"], ["versions.tenant", "versions.adapter", "versions.version"]),
    Index("version_users_by_version", "tenant", "adapter", "version"),
)

# The live version and the canary of each adapter. For an adapter without a row the base model answers.
live_versions = Table(
    "live_versions",
    metadata,
    _tenant(primary_key=True),
    Column("adapter", Key, primary_key=True),
    Column("version", Integer),
    Column("canary", Integer),
    Column("canary_share", Float),
    ForeignKeyConstraint(["tenant", "adapter", "version"], ["versions.tenant", "versions.adapter", "versions.version"]),
    ForeignKeyConstraint(["tenant", "adapter", "canary"], ["versions.tenant", "versions.adapter", "versions.version"]),
    CheckConstraint("(canary IS NULL) = (canary_share IS NULL)", name="canary_has_share"),
)

# Jobs that erase a user's data. They stay, with their receipts, after the user is gone.
erasures = Table(
    "erasures",
    metadata,
    _tenant(primary_key=True),
    Column("id", Key, primary_key=True),
    Column("kind", Word, nullable=False),
    Column("user_id", Key, nullable=False),
    Column("engagement_id", Key),
    Column("after", Utc),
    Column("before", Utc),
    Column("traces_before", Utc),  # only of a retention
    Column("state", Word, nullable=False),
    Column("plan", Json),  # ids of what is removed; NULL: not collected, or done
    Column("epoch", Integer),  # the tenant's epoch from which on nobody has read the rows
    Column("receipt", Json),
    _created_at(),
    Column("finished_at", Utc),
    Index("erasures_by_state", "tenant", "state", "id"),
    Index("erasures_of_user", "tenant", "user_id", "id"),
    Index("erasures_by_epoch", "tenant", "epoch"),
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

# Tenants, each made with its first key. `default` is always there.
tenants = Table(
    "tenants",
    metadata,
    Column("id", Key, primary_key=True),
    _count("erasure_epoch"),  # grows with each erasure, so that every server drops what it remembers
    _created_at(),
)

# Keys of callers. Of a secret only the SHA-256 is kept. Rows stay, so that a server that once had keys never opens.
api_keys = Table(
    "api_keys",
    metadata,
    Column("tenant", Key, ForeignKey("tenants.id"), nullable=False),
    Column("id", Key, primary_key=True),
    Column("name", Text, nullable=False),
    Column("secret_sha256", Key, nullable=False),
    Column("scopes", Json, nullable=False),
    _created_at(),
    Column("expires_at", Utc),
    Column("revoked_at", Utc),
    Column("last_used_at", Utc),
    # A caller's tenant follows from its key, so keys are found before a tenant is set.
    info={"tenant_scope": False},
)

# Keys that the servers sign with, in hex. Each is made once, by the server that needs it first.
signing_keys = Table(
    "signing_keys",
    metadata,
    Column("name", Key, primary_key=True),
    Column("key", Key, nullable=False),
    _created_at(),
)

# What the clock of deadlines showed last. SQLite only: PostgreSQL has a clock of its own.
clock_marks = Table(
    "clock_marks",
    metadata,
    Column("name", Key, primary_key=True),
    Column("at", Utc, nullable=False),
    Column("boot_id", Key),  # NULL: the system does not tell one start of the computer from another
    Column("boot_s", Float, nullable=False),
)

# Who changed what. A row is written before the change, without a status; the status follows.
audit_events = Table(
    "audit_events",
    metadata,
    _tenant(primary_key=True),
    Column("id", Key, primary_key=True),
    Column("actor", Key, nullable=False),
    Column("action", Key, nullable=False),
    Column("objects", Json, nullable=False),
    Column("status", Integer),
    Column("request_id", Key, nullable=False),
    _created_at(),
    Index("audit_events_by_time", "tenant", "created_at"),
)
