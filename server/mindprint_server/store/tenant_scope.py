"""Limits every statement to one tenant, while it is compiled to SQL: no query needs to remember a condition.

Each table with a column `tenant` is limited to the running work's tenant (`tenancy.py`), in SELECT (subqueries too),
JOIN, UPDATE and DELETE. Inserted rows get the tenant as the column's default. Without a tenant a statement fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Dialect, FromClause, Join, Select, String, Table, bindparam
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.selectable import AliasedReturnsRows, FromGrouping

from mindprint_server.tenancy import current_tenant, is_in_all_tenants

COLUMN = "tenant"
"""A table with a column of this name belongs to tenants, unless its `info` says `{"tenant_scope": False}`."""
_current: Any = bindparam("current_tenant", type_=String(), callable_=current_tenant)


class JoinAcrossTenants(RuntimeError):
    """A statement reads several tables in a way in which rows of different tenants might meet."""


def limit_to_tenant(dialect: Dialect) -> None:
    """Let a dialect compile statements that are limited to the running work's tenant."""
    compiler = dialect.statement_compiler
    dialect.statement_compiler = type(f"Tenant{compiler.__name__}", (_TenantCompiler, compiler), {})


class _TenantCompiler(SQLCompiler):
    """Adds the conditions on the tenant. A mix-in before a dialect's own compiler."""

    def visit_select(self, select_stmt: Any, *args: Any, **kw: Any) -> Any:
        return super().visit_select(_limited_select(select_stmt), *args, **kw)  # type: ignore[no-untyped-call]

    def visit_join(self, join: Any, *args: Any, **kw: Any) -> Any:
        return super().visit_join(_limited_join(join), *args, **kw)  # type: ignore[no-untyped-call]

    def visit_update(self, update_stmt: Any, *args: Any, **kw: Any) -> Any:
        return super().visit_update(_limited_change(update_stmt), *args, **kw)

    def visit_delete(self, delete_stmt: Any, *args: Any, **kw: Any) -> Any:
        return super().visit_delete(_limited_change(delete_stmt), *args, **kw)  # type: ignore[no-untyped-call]

    def update_from_clause(self, *args: Any, **kw: Any) -> Any:
        raise JoinAcrossTenants("an UPDATE reads a second table: put it into a subquery, which is limited to a tenant")

    def delete_extra_from_clause(self, *args: Any, **kw: Any) -> Any:
        raise JoinAcrossTenants("a DELETE reads a second table: put it into a subquery, which is limited to a tenant")


def _limited_select(query: Select[Any]) -> Select[Any]:
    tables = [table for source in query.get_final_froms() for table in _leftmost(source)]
    if is_in_all_tenants():
        if len(tables) > 1:
            names = ", ".join(table.description for table in tables)
            raise JoinAcrossTenants(f"a statement on all tenants reads {names}: read one table with a tenant")
        return query
    return query.where(*(table.c[COLUMN] == _current for table in tables))


def _limited_join(join: Join) -> Join:
    """Limit the right side of a join in its ON: in WHERE the condition would end what an outer join keeps."""
    right = list(_leftmost(join.right))
    if not right:
        return join
    if is_in_all_tenants():
        raise JoinAcrossTenants(f"a statement on all tenants joins {right[0].description}")
    onclause = join.onclause & (right[0].c[COLUMN] == _current)
    return Join(join.left, join.right, onclause=onclause, isouter=join.isouter, full=join.full)


def _limited_change(statement: Any) -> Any:
    if not _has_tenant(statement.table) or is_in_all_tenants():
        return statement
    return statement.where(statement.table.c[COLUMN] == _current)


def _leftmost(source: FromClause) -> Iterator[FromClause]:
    """Yield the table with a tenant that a FROM begins with; joins limit their right sides themselves."""
    while isinstance(source, Join | FromGrouping):
        source = source.left if isinstance(source, Join) else source.element
    if _has_tenant(source):
        yield source


def _has_tenant(source: Any) -> bool:
    table = source
    while isinstance(table, AliasedReturnsRows):
        table = table.element
    return isinstance(table, Table) and COLUMN in table.c and table.info.get("tenant_scope", True)
