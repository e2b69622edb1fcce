"""Receipts of erasures: the digest, the signature, and the key that signs."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from pathlib import Path

from mindprint.private_files import FILE, make_private_folder
from mindprint.types.erasures import Receipt

KEY_FILE = "receipts.key"
"""Name of the key's file in the server's data folder."""
KEY_BYTES = 32
SCHEME = "hmac-sha256"
KEY_ID_CHARS = 16


class KeyUnusable(Exception):
    """The file holds no key for receipts."""


def canonical(receipt: Receipt) -> bytes:
    """Return what is signed: the receipt without digest and signature, as JSON with sorted keys and no spaces."""
    fields = receipt.model_dump(mode="json", exclude={"digest", "signature"})
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sign(receipt: Receipt, key: bytes) -> Receipt:
    """Return a receipt with its digest and its signature."""
    text = canonical(receipt)
    signature = f"{SCHEME}:{key_id(key)}:{hmac.new(key, text, hashlib.sha256).hexdigest()}"
    return receipt.model_copy(update={"digest": _digest(text), "signature": signature})


def has_valid_digest(receipt: Receipt) -> bool:
    """Return whether the digest is that of the other fields. Anybody can make one: only the signature is proof."""
    return hmac.compare_digest(receipt.digest, _digest(canonical(receipt)))


def is_signed_with(receipt: Receipt, key: bytes) -> bool:
    """Return whether digest and signature are valid under a key."""
    expected = sign(receipt, key)
    return has_valid_digest(receipt) and hmac.compare_digest(receipt.signature, expected.signature)


def key_id(key: bytes) -> str:
    """Return the public name of a key: the first hex digits of its SHA-256."""
    return hashlib.sha256(b"mindprint receipts\0" + key).hexdigest()[:KEY_ID_CHARS]


def read_key(path: Path) -> bytes:
    """Return the key in a file.

    Raises:
        OSError: The file cannot be read.
        KeyUnusable: It holds no key.
    """
    try:
        key = bytes.fromhex(path.read_text("ascii").strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise KeyUnusable(f"{path} holds no key of {KEY_BYTES} bytes in hex: remove the file, or restore it")
    return key


def new_key() -> bytes:
    """Return a random key."""
    return secrets.token_bytes(KEY_BYTES)


def find_key(folder: Path) -> bytes | None:
    """Return the key in a data folder; None if there is none.

    Raises:
        OSError: The file cannot be read.
        KeyUnusable: The file holds no key.
    """
    path = folder / KEY_FILE
    return read_key(path) if path.exists() else None


def keep_key(folder: Path, key: bytes) -> None:
    """Write the key into a data folder. Another key that is there stays beside it, as `receipts.<its id>.key`.

    Raises:
        OSError: The folder cannot be written.
        KeyUnusable: The file holds no key.
    """
    old = find_key(folder)
    if old == key:
        return
    if old is not None:
        _write_key(folder / f"receipts.{key_id(old)}.key", old)
    _write_key(folder / KEY_FILE, key)


def _write_key(path: Path, key: bytes) -> None:
    """Write the file aside and rename it: a kill leaves no half of a key."""
    make_private_folder(path.parent)
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE), "w", encoding="ascii") as file:
        file.write(key.hex())
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _digest(text: bytes) -> str:
    return f"sha256:{hashlib.sha256(text).hexdigest()}"
