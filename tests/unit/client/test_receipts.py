"""Receipts: what is signed, with which key, and what a change does."""

from __future__ import annotations

import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mindprint.receipts import (
    KEY_FILE,
    KeyUnusable,
    canonical,
    find_key,
    has_valid_digest,
    is_signed_with,
    keep_key,
    key_id,
    read_key,
    sign,
)
from mindprint.types import Receipt

KEY, OTHER = bytes(range(32)), bytes(32)


def receipt(**changes: Any) -> Receipt:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    made = Receipt(
        id="x1", tenant="default", kind="user", user_id="ann", requested_at=now, finished_at=now,
        counts={"traces": 1}, removed={"traces": ["t1"]}, withdrawn=[], revoked_leases=[], retraining=[],
    )  # fmt: skip
    return made.model_copy(update=changes)


def test_a_signed_receipt_is_valid_under_its_key_alone() -> None:
    signed = sign(receipt(), KEY)
    assert has_valid_digest(signed)
    assert is_signed_with(signed, KEY)
    assert not is_signed_with(signed, OTHER)
    assert signed.digest.startswith("sha256:")
    assert signed.signature.startswith("hmac-sha256:")


@pytest.mark.parametrize("change", [{"user_id": "bob"}, {"removed": {}}, {"withdrawn": ["user/ann@1"]}])
def test_any_change_is_seen(change: dict[str, Any]) -> None:
    signed = sign(receipt(), KEY)
    changed = signed.model_copy(update=change)
    assert not has_valid_digest(changed)
    # Anybody can compute a digest, nobody without the key a signature.
    resigned = changed.model_copy(update={"digest": sign(changed, OTHER).digest})
    assert has_valid_digest(resigned)
    assert not is_signed_with(resigned, KEY)


def test_what_is_signed_survives_the_way_over_the_wire() -> None:
    signed = sign(receipt(), KEY)
    assert is_signed_with(Receipt.model_validate_json(signed.model_dump_json()), KEY)
    assert canonical(signed) == canonical(receipt())
    assert b" " not in canonical(receipt())


def test_the_key_is_kept_for_its_owner_alone(tmp_path: Path) -> None:
    assert find_key(tmp_path) is None
    keep_key(tmp_path, KEY)
    keep_key(tmp_path, KEY)
    assert find_key(tmp_path) == KEY
    assert [file.name for file in tmp_path.iterdir()] == [KEY_FILE]
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600


def test_former_key_of_a_folder_stays_beside_the_new_one(tmp_path: Path) -> None:
    keep_key(tmp_path, OTHER)
    keep_key(tmp_path, KEY)
    assert find_key(tmp_path) == KEY
    assert read_key(tmp_path / f"receipts.{key_id(OTHER)}.key") == OTHER


@pytest.mark.parametrize("text", ["", "zz", "00"])
def test_a_file_that_holds_no_key_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / KEY_FILE).write_text(text)
    with pytest.raises(KeyUnusable, match="holds no key"):
        find_key(tmp_path)
