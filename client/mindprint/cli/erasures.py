"""`mindprint erasures`: list erasures, show one, verify a receipt."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from mindprint.cli.errors import Fail
from mindprint.cli.options import After, AsJson, Limit, Url, connect
from mindprint.cli.output import print_facts, print_json, print_next, print_rows
from mindprint.receipts import KEY_FILE, KeyUnusable, has_valid_digest, is_signed_with, key_id, read_key
from mindprint.sync_client import MindprintClient
from mindprint.types import Erasure, Receipt

app = typer.Typer(no_args_is_help=True)
Id = Annotated[str, typer.Argument(metavar="ERASURE", help="The erasure's id; `mindprint erasures list` shows it.")]
POLL_S = 0.5
DEFAULT_KEY = Path(".mindprint/server") / KEY_FILE


@app.command("list")
def list_erasures(limit: Limit = 100, after: After = None, as_json: AsJson = False, url: Url = None) -> None:
    """List the erasures, oldest first."""
    with connect(url) as client:
        page = client.erasures.list(limit=limit, after=after)
    if as_json:
        return print_json(page)
    rows = [(one.id, one.kind, one.user_id, one.state, one.created_at, one.finished_at) for one in page.erasures]
    print_rows(("erasure", "kind", "user", "state", "since", "done"), rows, empty="no erasures yet")
    print_next(page.next, "mindprint erasures list")


@app.command("show")
def show(erasure_id: Id, as_json: AsJson = False, url: Url = None) -> None:
    """Show an erasure and what it removed. --json prints it with its receipt, which `verify` takes."""
    with connect(url) as client:
        erasure = client.erasures.get(erasure_id)
    print_erasure(erasure, as_json)


@app.command("verify")
def verify(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="What `show --json` printed.")
    ],
    key: Annotated[
        Path, typer.Option(dir_okay=False, help="The server's key: receipts.key in its data folder.")
    ] = DEFAULT_KEY,
) -> None:
    """Check that a receipt is unchanged and signed by the server with this key."""
    receipt = _read_receipt(file)
    if not has_valid_digest(receipt):
        raise Fail(f"{file}: the digest is not that of the receipt: it was changed")
    try:
        secret = read_key(key)
    except OSError as error:
        raise Fail(f"{key}: {error.strerror or error}: name the server's key with --key", code=2) from None
    except KeyUnusable as error:
        raise Fail(str(error), code=2) from None
    if not is_signed_with(receipt, secret):
        signer = receipt.signature.split(":")[1:2]
        if signer != [key_id(secret)]:
            raise Fail(
                f"{file}: signed with the key {' '.join(signer) or '?'}, not with {key_id(secret)}: another server "
                "signed it, so take receipts.key of its data folder"
            )
        raise Fail(f"{file}: not signed with the key {key_id(secret)}: it was changed")
    typer.echo(f"receipt {receipt.id} of user {receipt.user_id} is unchanged and signed with the key {key_id(secret)}")


def wait_until_done(client: MindprintClient, erasure: Erasure) -> Erasure:
    """Return an erasure once it is done."""
    while erasure.state != "done":
        time.sleep(POLL_S)
        erasure = client.erasures.get(erasure.id)
    return erasure


def print_erasure(erasure: Erasure, as_json: bool) -> None:
    """Print an erasure: what it was for, and what its receipt counts."""
    if as_json:
        return print_json(erasure)
    facts: list[tuple[str, object]] = [
        ("erasure", erasure.id),
        ("kind", erasure.kind),
        ("user", erasure.user_id),
        ("engagement", erasure.engagement_id),
        ("after", erasure.after),
        ("before", erasure.before),
        ("state", erasure.state),
        ("since", erasure.created_at),
        ("done", erasure.finished_at),
    ]
    if receipt := erasure.receipt:
        facts += [(f"removed {kind.replace('_', ' ')}", count) for kind, count in receipt.counts.items()]
        facts += [
            ("withdrawn", ", ".join(receipt.withdrawn) or None),
            ("revoked leases", len(receipt.revoked_leases)),
            ("to train again", ", ".join(receipt.retraining) or None),
            ("digest", receipt.digest),
        ]
    print_facts(facts)


def _read_receipt(file: Path) -> Receipt:
    """Return the receipt in a file, which holds it alone or in its erasure."""
    text = file.read_bytes()
    try:
        receipt = Erasure.model_validate_json(text).receipt
    except ValidationError:
        try:
            receipt = Receipt.model_validate_json(text)
        except ValidationError:
            raise Fail(f"{file} holds no receipt: write one with `mindprint erasures show ID --json`", code=2) from None
    if receipt is None:
        raise Fail(f"{file}: the erasure is not done yet, so there is no receipt")
    return receipt
