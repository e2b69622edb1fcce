"""Erasure at the terminal: users erase, users export, erasures list, show and verify."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from mindprint.receipts import keep_key, new_key, sign
from mindprint.types import Receipt

WHEN = "2026-01-01T12:00:00Z"
RECEIPT = {
    "id": "x1", "tenant": "default", "kind": "user", "user_id": "ann", "requested_at": WHEN, "finished_at": WHEN,
    "counts": {"traces": 2, "batch_items": 1}, "removed": {"traces": ["t1", "t2"]},
    "withdrawn": ["cohort/everyone@3"], "revoked_leases": ["l1"], "retraining": ["cohort/everyone"],
}  # fmt: skip


@pytest.fixture
def key(tmp_path: Path) -> bytes:
    made = new_key()
    keep_key(tmp_path / "data", made)
    return made


@pytest.fixture
def done(samples: Any, key: bytes) -> dict[str, Any]:
    receipt = sign(Receipt.model_validate(RECEIPT), key)
    return dict(samples.erasure(state="done", finished_at=WHEN, receipt=receipt.model_dump(mode="json")))


def test_erasing_a_user_waits_for_the_receipt(run: Any, server: Any, samples: Any, done: Any) -> None:
    server.routes(DELETE_v1_users_ann=samples.erasure(), GET_v1_erasures_x1=done)
    told = run("users", "erase", "ann", "--yes").stdout
    assert "cohort/everyone@3" in told
    assert "removed batch items" in told


def test_erasing_asks_first(run: Any, server: Any) -> None:
    result = run("users", "erase", "ann", stdin="n\n")
    assert "Erase all data of user ann?" in result.stderr
    assert result.exit_code == 130
    assert server.asked == []


def test_one_engagement_and_a_span_are_not_mixed(run: Any) -> None:
    wrong = run("users", "erase", "ann", "--engagement", "e1", "--before", "2026-01-01", "--yes")
    assert (wrong.exit_code, "use one of them" in wrong.stderr) == (2, True)


def test_a_list_and_one(run: Any, server: Any, done: Any) -> None:
    server.routes(GET_v1_erasures={"erasures": [done], "next": "x1"}, GET_v1_erasures_x1=done)
    assert "ann" in run("erasures", "list").stdout
    assert json.loads(run("erasures", "show", "x1", "--json").stdout)["receipt"]["signature"]


def test_a_receipt_is_verified_with_the_servers_key(run: Any, done: Any, tmp_path: Path) -> None:
    file, key_file = tmp_path / "receipt.json", str(tmp_path / "data" / "receipts.key")
    file.write_text(json.dumps(done))
    assert "unchanged and signed" in run("erasures", "verify", str(file), "--key", key_file).stdout
    file.write_text(json.dumps(done["receipt"]))
    assert "unchanged and signed" in run("erasures", "verify", str(file), "--key", key_file).stdout
    file.write_text(json.dumps({**done["receipt"], "user_id": "bob"}))
    assert "was changed" in run("erasures", "verify", str(file), "--key", key_file).stderr
    file.write_text(json.dumps(sign(Receipt.model_validate(RECEIPT), bytes(32)).model_dump(mode="json")))
    assert "another server" in run("erasures", "verify", str(file), "--key", key_file).stderr
    assert "--key" in run("erasures", "verify", str(file), "--key", str(tmp_path / "no")).stderr
    file.write_text("{}")
    assert "holds no receipt" in run("erasures", "verify", str(file), "--key", key_file).stderr


def test_an_export_is_one_file(run: Any, server: Any, tmp_path: Path) -> None:
    server.answers_with(httpx.Response(200, content=b"zip"))
    file = tmp_path / "ann.zip"
    assert "3 bytes" in run("users", "export", "ann", str(file)).stdout
    assert file.read_bytes() == b"zip"
    assert "exists" in run("users", "export", "ann", str(file)).stderr
    assert [one.name for one in tmp_path.iterdir()] == ["ann.zip"]
