"""Counts of items and traces, kept by triggers: whoever changes a row, this release or an older one, changes its count.

A later migration that makes one of these tables anew on SQLite must make its triggers anew too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

KEY = sa.String(length=160).with_variant(sa.String(length=160, collation="C"), "postgresql")
COLUMNS = "tenant, batch_id, kind, label, reason"
USER_ID_AT = 6
"""Where the user's id begins in an adapter's key, after `user/`. With the user, SQLite reads no other user's traces."""
TABLES = ("batch_items", "traces", "live_versions")
"""In the order in which writers lock their rows."""


def upgrade() -> None:
    op.create_table(
        "row_counts",
        sa.Column("tenant", KEY, nullable=False),
        sa.Column("batch_id", KEY, nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("label", KEY, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("slot", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "batch_id", "kind", "label", "reason", "slot", name=op.f("row_counts_pk")),
    )
    is_postgres = op.get_bind().dialect.name == "postgresql"
    if is_postgres:
        # No row may change between the first count and the end of this transaction.
        for table in TABLES:
            _run(f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE")
    for statement in _first_counts():
        _run(statement)
    for statement in _postgres() if is_postgres else _sqlite():
        _run(statement)


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        for table in TABLES:
            for event in ("insert", "update", "delete"):
                _run(f"DROP TRIGGER {table}_counted_{event} ON {table}")
            _run(f"DROP FUNCTION count_{table}()")
        _run("DROP FUNCTION count_live(text, text, integer, integer)")
        _run("DROP FUNCTION add_count(text, text, text, text, text, bigint)")
    else:
        for table in TABLES:
            for event in ("insert", "update", "delete"):
                _run(f"DROP TRIGGER {table}_counted_{event}")
    op.drop_table("row_counts")


def _run(statement: str) -> None:
    op.get_bind().exec_driver_sql(statement)


# --- what is counted ---

# CASE keeps PostgreSQL from joining the whole table to few rows.
_IS_LIVE = """CASE WHEN {row}.version IS NULL THEN false ELSE EXISTS (SELECT 1 FROM live_versions AS pointer
    WHERE pointer.tenant = {row}.tenant AND pointer.adapter = {row}.adapter AND pointer.version = {row}.version) END"""


def _trace_counts(row: str, amount: str, source: str = "") -> str:
    """Select what a trace adds to the counts: to those of its batch, and to those of all traces, batch ''."""
    verdict = f"{row}.verdict AS label, coalesce({row}.reason, '') AS reason, {amount} AS amount"
    kinds = {"generated": "true", "trained": f"{row}.state = 'trained'", "live": _IS_LIVE.format(row=row)}
    selects = [
        f"SELECT {row}.tenant AS tenant, {batch} AS batch_id, '{kind}' AS kind, {verdict} {source} WHERE {has} AND {of}"
        for kind, has in kinds.items()
        for batch, of in (("''", "true"), (f"{row}.batch_id", f"{row}.batch_id IS NOT NULL"))
    ]
    state = f"SELECT {row}.tenant AS tenant, '' AS batch_id, 'state' AS kind, {row}.state AS label, '' AS reason"
    return " UNION ALL ".join([*selects, f"{state}, {amount} AS amount {source}"])


def _item_counts(row: str, amount: str, source: str = "") -> str:
    """Select what an item of a batch adds to the counts. The label of an open item is ''."""
    label = f"coalesce({row}.outcome, '') AS label, '' AS reason, {amount} AS amount"
    return f"SELECT {row}.tenant AS tenant, {row}.batch_id AS batch_id, 'item' AS kind, {label} {source}"


def _first_counts() -> Iterator[str]:
    for table, counts in (("batch_items", _item_counts), ("traces", _trace_counts)):
        selects = counts("counted", "1", f"FROM {table} AS counted")
        yield (
            f"INSERT INTO row_counts ({COLUMNS}, slot, amount) SELECT {COLUMNS}, 0, sum(amount) "
            f"FROM ({selects}) AS added GROUP BY {COLUMNS}"
        )
    yield (
        f"INSERT INTO row_counts ({COLUMNS}, slot, amount) SELECT tenant, '', 'attempted', '', '', 0, count(*) FROM "
        "(SELECT DISTINCT tenant, user_id, engagement_id FROM traces WHERE engagement_id IS NOT NULL) AS attempted "
        "GROUP BY tenant"
    )


# --- SQLite: one writer at a time, so each count is one row ---


def _sqlite() -> Iterator[str]:
    for table, counts in (("batch_items", _item_counts), ("traces", _trace_counts)):
        added, removed = counts("NEW", "1"), counts("OLD", "-1")
        for event, selects in (("INSERT", added), ("UPDATE", f"{removed} UNION ALL {added}"), ("DELETE", removed)):
            body = _add(selects)
            if table == "traces" and event != "UPDATE":
                body += _sqlite_attempted(event)
            if event != "INSERT":
                body += _sqlite_remove_zeros("OLD.batch_id" if table == "batch_items" else "coalesce(OLD.batch_id, '')")
            yield _sqlite_trigger(table, event, body)
    for event in ("INSERT", "UPDATE", "DELETE"):
        parts = [
            _live_counts(row, amount)
            for row, amount in (("OLD", -1), ("NEW", 1))
            if event == "UPDATE" or row == ("NEW" if event == "INSERT" else "OLD")
        ]
        yield _sqlite_trigger("live_versions", event, _add(" UNION ALL ".join(parts)))


def _sqlite_trigger(table: str, event: str, body: str) -> str:
    return f"CREATE TRIGGER {table}_counted_{event.lower()} AFTER {event} ON {table} BEGIN {body} END"


def _add(selects: str) -> str:
    return (
        f"INSERT INTO row_counts ({COLUMNS}, slot, amount) SELECT tenant, batch_id, kind, label, reason, 0, amount "
        f"FROM ({selects}) WHERE true ON CONFLICT DO UPDATE SET amount = amount + excluded.amount; "
    )


def _sqlite_attempted(event: str) -> str:
    row, amount = ("NEW", 1) if event == "INSERT" else ("OLD", -1)
    others = (
        f"SELECT 1 FROM traces AS other WHERE other.tenant = {row}.tenant AND other.user_id = {row}.user_id "
        f"AND other.engagement_id = {row}.engagement_id AND other.id <> {row}.id"
    )
    return _add(
        f"SELECT {row}.tenant AS tenant, '' AS batch_id, 'attempted' AS kind, '' AS label, '' AS reason, "
        f"{amount} AS amount WHERE {row}.engagement_id IS NOT NULL AND NOT EXISTS ({others})"
    )


def _sqlite_remove_zeros(batch_id: str) -> str:
    return f"DELETE FROM row_counts WHERE tenant = OLD.tenant AND batch_id IN ('', {batch_id}) AND amount = 0; "


def _live_counts(row: str, amount: int) -> str:
    """Select the traces of an adapter's version, counted for all traces and for their batches."""
    of_version = (
        f"FROM traces WHERE traces.tenant = {row}.tenant AND traces.user_id = substr({row}.adapter, {USER_ID_AT}) "
        f"AND traces.state = 'trained' AND traces.adapter = {row}.adapter AND traces.version = {row}.version"
    )
    columns = f"verdict AS label, coalesce(reason, '') AS reason, {amount} AS amount"
    return (
        f"SELECT tenant, '' AS batch_id, 'live' AS kind, {columns} {of_version} UNION ALL "
        f"SELECT tenant, batch_id, 'live' AS kind, {columns} {of_version} AND batch_id IS NOT NULL"
    )


# --- PostgreSQL: a count is the sum of its slots. A transaction takes a slot that no other one has, so none waits. ---


def _postgres() -> Iterator[str]:
    yield """CREATE FUNCTION add_count(of_tenant text, of_batch text, of_kind text, of_label text, of_reason text,
        added bigint) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE free bigint; remaining bigint;
    BEGIN
        SELECT slot INTO free FROM row_counts WHERE tenant = of_tenant AND batch_id = of_batch AND kind = of_kind
            AND label = of_label AND reason = of_reason LIMIT 1 FOR UPDATE SKIP LOCKED;
        IF free IS NULL THEN
            INSERT INTO row_counts (tenant, batch_id, kind, label, reason, slot, amount)
                VALUES (of_tenant, of_batch, of_kind, of_label, of_reason, txid_current(), added)
                ON CONFLICT (tenant, batch_id, kind, label, reason, slot)
                DO UPDATE SET amount = row_counts.amount + excluded.amount;
            RETURN;
        END IF;
        UPDATE row_counts SET amount = amount + added WHERE tenant = of_tenant AND batch_id = of_batch
            AND kind = of_kind AND label = of_label AND reason = of_reason AND slot = free
            RETURNING amount INTO remaining;
        IF remaining = 0 THEN
            DELETE FROM row_counts WHERE tenant = of_tenant AND batch_id = of_batch AND kind = of_kind
                AND label = of_label AND reason = of_reason AND slot = free;
        END IF;
    END $$"""
    yield from _postgres_rows("batch_items", _item_counts)
    yield from _postgres_rows("traces", _trace_counts)
    of_version = (
        f"tenant = of_tenant AND user_id = substr(of_adapter, {USER_ID_AT}) "
        "AND state = 'trained' AND adapter = of_adapter AND version = of_version"
    )
    columns = "verdict AS label, coalesce(reason, '') AS reason, added AS amount"
    yield f"""CREATE FUNCTION count_live(of_tenant text, of_adapter text, of_version integer, added integer)
        RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM add_count(tenant, batch_id, 'live', label, reason, amount) FROM (
            SELECT tenant, batch_id, label, reason, sum(amount) AS amount FROM (
                SELECT tenant, '' AS batch_id, {columns} FROM traces WHERE {of_version}
                UNION ALL
                SELECT tenant, batch_id, {columns} FROM traces WHERE {of_version} AND batch_id IS NOT NULL
            ) AS counted GROUP BY tenant, batch_id, label, reason
        ) AS sums;
    END $$"""
    yield """CREATE FUNCTION count_live_versions() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'UPDATE' AND OLD.version IS NOT DISTINCT FROM NEW.version THEN
            RETURN NULL;
        END IF;
        IF TG_OP <> 'INSERT' AND OLD.version IS NOT NULL THEN
            PERFORM count_live(OLD.tenant, OLD.adapter, OLD.version, -1);
        END IF;
        IF TG_OP <> 'DELETE' AND NEW.version IS NOT NULL THEN
            PERFORM count_live(NEW.tenant, NEW.adapter, NEW.version, 1);
        END IF;
        RETURN NULL;
    END $$"""
    for event in ("INSERT", "UPDATE", "DELETE"):
        yield (
            f"CREATE TRIGGER live_versions_counted_{event.lower()} AFTER {event} ON live_versions "
            "FOR EACH ROW EXECUTE FUNCTION count_live_versions()"
        )


def _postgres_rows(table: str, counts: Callable[[str, str, str], str]) -> Iterator[str]:
    added, removed = (
        counts("changed", "1", "FROM new_rows AS changed"),
        counts("changed", "-1", "FROM old_rows AS changed"),
    )
    of_traces = table == "traces"
    yield f"""CREATE FUNCTION count_{table}() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE of_tenant record; engagement record; attempted bigint;
    BEGIN
        IF TG_OP = 'INSERT' THEN
            {_perform(added)}
            {_POSTGRES_ATTEMPTED if of_traces else ""}
        ELSIF TG_OP = 'UPDATE' THEN
            {_perform(f"{removed} UNION ALL {added}")}
        ELSE
            {_POSTGRES_LOCK_ADAPTERS if of_traces else ""}
            {_perform(removed)}
            {_POSTGRES_NO_LONGER_ATTEMPTED if of_traces else ""}
        END IF;
        RETURN NULL;
    END $$"""
    for event, rows in (("INSERT", ("NEW",)), ("UPDATE", ("OLD", "NEW")), ("DELETE", ("OLD",))):
        given = " ".join(f"{row} TABLE AS {row.lower()}_rows" for row in rows)
        yield (
            f"CREATE TRIGGER {table}_counted_{event.lower()} AFTER {event} ON {table} REFERENCING {given} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION count_{table}()"
        )


def _perform(selects: str) -> str:
    changed = f"SELECT {COLUMNS}, sum(amount) AS amount FROM ({selects}) AS changes GROUP BY {COLUMNS}"
    return f"PERFORM add_count({COLUMNS}, amount) FROM ({changed} HAVING sum(amount) <> 0) AS sums;"


# The rows of the engagements are locked, so that of two transactions one sees the traces of the other. A writer of
# traces has locked them before (`accepted_texts.py`), in the same order.
_POSTGRES_ATTEMPTED = """
            FOR of_tenant IN SELECT DISTINCT tenant FROM new_rows ORDER BY tenant LOOP
                attempted := 0;
                FOR engagement IN SELECT user_id, engagement_id, count(*) AS added FROM new_rows
                    WHERE tenant = of_tenant.tenant AND engagement_id IS NOT NULL
                    GROUP BY user_id, engagement_id ORDER BY user_id, engagement_id
                LOOP
                    CONTINUE WHEN engagement.added < (SELECT count(*) FROM (SELECT 1 FROM traces
                        WHERE tenant = of_tenant.tenant AND user_id = engagement.user_id
                        AND engagement_id = engagement.engagement_id LIMIT engagement.added + 1) AS found);
                    PERFORM 1 FROM engagements WHERE tenant = of_tenant.tenant AND user_id = engagement.user_id
                        AND id = engagement.engagement_id FOR NO KEY UPDATE;
                    CONTINUE WHEN engagement.added < (SELECT count(*) FROM (SELECT 1 FROM traces
                        WHERE tenant = of_tenant.tenant AND user_id = engagement.user_id
                        AND engagement_id = engagement.engagement_id LIMIT engagement.added + 1) AS found);
                    attempted := attempted + 1;
                END LOOP;
                CONTINUE WHEN attempted = 0;
                PERFORM add_count(of_tenant.tenant, '', 'attempted', '', '', attempted);
            END LOOP;"""
_POSTGRES_NO_LONGER_ATTEMPTED = """
            FOR of_tenant IN SELECT DISTINCT tenant FROM old_rows ORDER BY tenant LOOP
                attempted := 0;
                FOR engagement IN SELECT DISTINCT user_id, engagement_id FROM old_rows
                    WHERE tenant = of_tenant.tenant AND engagement_id IS NOT NULL ORDER BY user_id, engagement_id
                LOOP
                    PERFORM 1 FROM engagements WHERE tenant = of_tenant.tenant AND user_id = engagement.user_id
                        AND id = engagement.engagement_id FOR NO KEY UPDATE;
                    CONTINUE WHEN EXISTS (SELECT 1 FROM traces WHERE tenant = of_tenant.tenant
                        AND user_id = engagement.user_id AND engagement_id = engagement.engagement_id);
                    attempted := attempted - 1;
                END LOOP;
                CONTINUE WHEN attempted = 0;
                PERFORM add_count(of_tenant.tenant, '', 'attempted', '', '', attempted);
            END LOOP;"""
# The lock that whoever moves a pointer holds (`live_versions.py`): else both could count a trace that goes.
_POSTGRES_LOCK_ADAPTERS = """
            PERFORM pg_advisory_xact_lock(hashtextextended('mindprint ' || tenant || ' adapter ' || adapter, 0))
                FROM (SELECT DISTINCT tenant, adapter FROM old_rows WHERE state = 'trained'
                ORDER BY tenant, adapter) AS trained;"""
