"""`mindprint keys create`, `backup` and `restore`: what is done with the database of this host."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx

from cli_lines import one_line


def test_a_new_key_is_shown_once(run: Any, server: Any, samples: Any) -> None:
    server.answers_with(httpx.Response(201, json=samples.created_key(expires_at="2026-02-01T12:00:00Z")))
    result = run("keys", "create", "app", "-s", "infer", "-s", "read", "--days", "31")
    assert "mp_k1_secret" in result.stdout
    assert "cannot be shown again" in result.stderr
    assert json.loads(server.asked[0].content) == {
        "name": "app",
        "scopes": ["infer", "read"],
        "expires_in_s": 31 * 86_400,
    }


def test_the_first_admin_key_is_made_in_the_database(run: Any, tmp_path: Path) -> None:
    result = run("keys", "create", "--admin", "--set", f"data_dir={tmp_path}", "--json")
    assert f"Written to {tmp_path / 'mindprint.db'}: " in result.stderr
    assert "restart trainers and apps with one" in result.stderr
    made = json.loads(result.stdout)
    assert (made["name"], made["scopes"]) == ("admin", ["admin"])
    assert made["key"].startswith(f"mp_{made['id']}_")
    with closing(sqlite3.connect(tmp_path / "mindprint.db")) as db:
        assert db.execute("SELECT id FROM api_keys").fetchall() == [(made["id"],)]


def test_an_admin_key_needs_a_database(run: Any) -> None:
    result = run("keys", "create", "--admin", "--set", "database_url=sqlite+aiosqlite:///:memory:")
    assert "SQLite needs a file" in one_line(result)


def test_backup_and_restore_run_on_the_host(run: Any, server: Any, tmp_path: Path) -> None:
    old, new, folder = tmp_path / "old", tmp_path / "new", tmp_path / "backup"
    assert run("keys", "create", "--admin", "--set", f"data_dir={old}").exit_code == 0
    made = run("backup", str(folder), "--data-dir", str(old), "--json")
    assert made.exit_code == 0
    assert json.loads(made.stdout)["rows"]["api_keys"] == 1
    restored = run("restore", str(folder), "--data-dir", str(new))
    assert restored.exit_code == 0
    assert "start the server now" in restored.stderr
    with closing(sqlite3.connect(new / "mindprint.db")) as db:
        assert db.execute("SELECT name FROM api_keys").fetchall() == [("admin",)]
    assert "not empty (audit_events, signing_keys, api_keys)" in one_line(
        run("restore", str(folder), "--set", f"data_dir={new}")
    )
    assert "is there already" in one_line(run("backup", str(folder), "--data-dir", str(old)))
    assert server.asked == []
