"""Which database an artifact store belongs to: the one whose id stands in the store's marker.

A server removes artifacts that its own database does not name. So it first makes sure that the store is its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

MARKER = "mindprint-database"
"""Name of the file that says which database the artifacts belong to."""


class NotOwned(Exception):
    """An artifact store does not belong to this database, or nobody can say so."""


@dataclass(frozen=True)
class ArtifactOwner:
    """A database that has artifacts.

    Attributes:
        database_id: Returns its id; see `SigningKeyRepository.database_id`.
        list_named: Returns the digests of the artifacts that it names. Asked only while the store has no marker.
    """

    database_id: Callable[[], Awaitable[str]]
    list_named: Callable[[], Awaitable[Collection[str]]]


def is_owned(read_marker: Callable[[], str], database_id: str) -> bool:
    """Return whether the marker of an artifact store names this database. False: there is no marker.

    Args:
        read_marker: Returns the marker's text; raises FileNotFoundError if there is none.
        database_id: Id of the database.

    Raises:
        NotOwned: It names another one.
    """
    try:
        marker = read_marker()
    except FileNotFoundError:
        return False
    check_marker(marker, database_id)
    return True


def check_marker(marker: str, database_id: str) -> None:
    """Check that the marker of an artifact store names this database.

    Raises:
        NotOwned: It names another one, whose files would be removed as orphans.
    """
    if marker.strip() != database_id:
        raise NotOwned(
            "it belongs to another database: set another artifact_url, or remove its file "
            f"{MARKER} if that database is gone"
        )


def check_claim(database_id: str, *, stored: Collection[str], named: Collection[str]) -> None:
    """Check that a database may take an artifact store without a marker.

    Args:
        database_id: Id of the database.
        stored: Digests that are in the store.
        named: Digests that the database names.

    Raises:
        NotOwned: The store holds others' artifacts only, or none of those that the database names.
    """
    if (not stored and not named) or not set(stored).isdisjoint(named):
        return
    if stored:
        raise NotOwned(
            "it holds artifacts, but none of this database: set another artifact_url, or write "
            f"{database_id} into its file {MARKER} if they belong to this one"
        )
    raise NotOwned(
        "it is empty, but the database names artifacts: mount the folder, or correct artifact_url; to begin with an "
        f"empty store, write {database_id} into its file {MARKER}"
    )
