"""TLS to a real PostgreSQL server of the test's own: what `sslmode` checks, and what a wrong certificate says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from certificates import Certificates, make_certificates
from databases import POSTGRES
from mindprint_server.store import Store, StoreError
from mindprint_server.store.database import Database
from postgres_server import PostgresServer, postgres_server

PASSWORD = "geheim"
pytestmark = pytest.mark.skipif(POSTGRES == "off", reason="PostgreSQL is off")


@pytest.fixture(scope="module")
def plain() -> Iterator[PostgresServer]:
    """A server without TLS."""
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def encrypted(certificates: Certificates) -> Iterator[PostgresServer]:
    with postgres_server(certificates) as server:
        yield server


def url_of(server: PostgresServer, mode: str, *, authority: Path | None = None) -> str:
    url = server.url.replace("postgres@", f"postgres:{PASSWORD}@") + f"?sslmode={mode}"
    return url if authority is None else f"{url}&sslrootcert={authority}"


async def refusal(url: str) -> str:
    """Return what a user reads whose server cannot open the database: in one line, without the password."""
    with pytest.raises(StoreError) as refused:
        await Store.open(url)
    # A StoreBusy would be tried again for a minute.
    assert type(refused.value) is StoreError
    message = str(refused.value)
    assert message.startswith("cannot open the database postgresql+asyncpg://postgres:***@127.0.0.1:")
    assert "\n" not in message
    assert PASSWORD not in message
    return message.partition("/postgres: ")[2]


async def is_encrypted(db: AsyncConnection) -> bool:
    query = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    return bool((await db.execute(text(query))).scalar_one())


@pytest.mark.parametrize("mode", ["prefer", "require", "verify-ca", "verify-full"])
async def test_server_with_tls_is_opened_encrypted(
    encrypted: PostgresServer, certificates: Certificates, mode: str
) -> None:
    authority = certificates.authority if mode.startswith("verify") else None
    database = await Database.open(url_of(encrypted, mode, authority=authority), busy_timeout_s=30, migrate=False)
    assert await database.read(is_encrypted)
    await database.close()


async def test_tables_are_made_through_tls(encrypted: PostgresServer, certificates: Certificates) -> None:
    store = await Store.open(url_of(encrypted, "verify-full", authority=certificates.authority))
    assert await store.users.list_page() == []
    await store.close()


@pytest.mark.parametrize("mode", ["disable", "prefer"])
async def test_server_without_tls_is_opened_by_modes_that_ask_for_none(plain: PostgresServer, mode: str) -> None:
    database = await Database.open(url_of(plain, mode), busy_timeout_s=30, migrate=False)
    assert not await database.read(is_encrypted)
    await database.close()


@pytest.mark.parametrize("mode", ["require", "verify-full"])
async def test_server_without_tls_is_refused_in_words(
    plain: PostgresServer, certificates: Certificates, mode: str
) -> None:
    authority = certificates.authority if mode == "verify-full" else None
    why = await refusal(url_of(plain, mode, authority=authority))
    assert why == "it takes no TLS: enable ssl there, or choose another sslmode"


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
async def test_certificate_of_another_authority_is_refused_in_words(
    encrypted: PostgresServer, tmp_path: Path, mode: str
) -> None:
    other = make_certificates(tmp_path)
    why = await refusal(url_of(encrypted, mode, authority=other.authority))
    assert why.startswith("its certificate is refused (unable to get local issuer certificate)")
    assert why.endswith(": correct sslrootcert or the certificate")


async def test_certificate_for_another_host_is_refused_by_verify_full(
    certificates: Certificates, tmp_path: Path
) -> None:
    other = make_certificates(tmp_path, names="DNS:db.example.org")
    with postgres_server(other) as server:
        why = await refusal(url_of(server, "verify-full", authority=other.authority))
        assert "its certificate is refused (IP address mismatch" in why
        database = await Database.open(
            url_of(server, "verify-ca", authority=other.authority), busy_timeout_s=30, migrate=False
        )
        await database.close()


async def test_file_without_a_certificate_is_refused_in_words(
    encrypted: PostgresServer, certificates: Certificates
) -> None:
    why = await refusal(url_of(encrypted, "verify-full", authority=certificates.key))
    assert why == "a file of certificates cannot be read: correct sslrootcert, sslcert and sslkey"


async def test_verify_full_without_a_file_of_the_authority_is_refused_in_one_line(
    encrypted: PostgresServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "root.crt" in await refusal(url_of(encrypted, "verify-full"))
