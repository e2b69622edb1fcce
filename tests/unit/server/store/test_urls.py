"""URLs of databases as people have them."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, quote

import pytest

from mindprint_server.store import StoreError
from mindprint_server.store.urls import parse_url


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_every_spelling_of_postgresql_means_the_same(scheme: str) -> None:
    parsed = parse_url(f"{scheme}://ann@db.example:5433/mind")
    assert parsed.url.render_as_string() == "postgresql+asyncpg://ann@db.example:5433/mind"


@pytest.mark.parametrize("scheme", ["sqlite", "sqlite+aiosqlite"])
def test_every_spelling_of_sqlite_means_the_same(scheme: str) -> None:
    assert parse_url(f"{scheme}:////data/m.db").url.render_as_string() == "sqlite+aiosqlite:////data/m.db"


def test_password_with_percent_encoded_characters_is_decoded() -> None:
    assert parse_url("postgres://ann:p%40ss%2Fw%3A%23%25%20rd@db/mind").url.password == "p@ss/w:#% rd"


@pytest.mark.parametrize("mode", ["disable", "prefer", "require", "verify-full"])
def test_sslmode_reaches_asyncpg_as_libpq_reads_it(mode: str, tmp_path: Path) -> None:
    certificate = tmp_path / "my ca.pem"
    certificate.touch()
    parsed = parse_url(f"postgres://ann@db/mind?sslmode={mode}&sslrootcert={quote(str(certificate))}")
    assert parse_qs(parsed.dsn.partition("?")[2]) == {"sslmode": [mode], "sslrootcert": [str(certificate)]}
    assert not parsed.url.query


def test_session_parameters_are_taken_out_of_the_url() -> None:
    parsed = parse_url("postgres://ann@/mind?host=/run/pg&search_path=a,b&application_name=x&connect_timeout=3")
    assert dict(parsed.url.query) == {"host": "/run/pg"}
    assert (parsed.search_path, parsed.application_name, parsed.connect_timeout_s) == ("a,b", "x", 3.0)


def test_shown_url_has_neither_password_nor_parameters() -> None:
    parsed = parse_url("postgres://ann:geheim@db/mind?sslmode=require&sslpassword=geheim")
    assert str(parsed) == "postgresql+asyncpg://ann:***@db/mind"
    assert "geheim" not in repr(parsed)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgres://ann:gehe@im@db:port/x", "cannot be read.*percent-encode"),
        ("geheim", "cannot be read"),
        ("mysql://ann:geheim@db/x", "no database driver 'mysql'"),
        ("postgres://ann:geheim@db/x?channel_binding=geheim", "remove channel_binding"),
        ("postgres://ann:geheim@db/x?sslrootcert=/no/such/geheim", "do not exist: correct sslrootcert"),
        ("postgres://ann:geheim@db/x?connect_timeout=geheim", "connect_timeout.*not a number"),
    ],
)
def test_wrong_url_is_refused_without_its_secrets(url: str, says: str) -> None:
    with pytest.raises(StoreError, match=says) as caught:
        parse_url(url)
    assert "geheim" not in str(caught.value)
    assert "gehe" not in str(caught.value)
