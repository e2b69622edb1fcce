"""Routes of users, their engagements and their profiles: `client.users`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

from mindprint import downloads
from mindprint._methods import DownloadMethod, Method, Resource, SenderT
from mindprint.transport import Call, Download, delete_call, get_call, post_call, read_nothing, reply_of, segment
from mindprint.types import (
    AutoModeDecisions,
    Engagement,
    EngagementBatch,
    EngagementPage,
    Erasure,
    Ingested,
    Profile,
    User,
    UserPage,
)

_auto_mode = reply_of(AutoModeDecisions)
_engagements = reply_of(EngagementPage)
_erasure = reply_of(Erasure)
_ingested = reply_of(Ingested)
_profile = reply_of(Profile)
_user = reply_of(User)
_users = reply_of(UserPage)


class UsersResource(Resource[SenderT]):
    """Users, their engagements and their profiles."""

    @Method
    def list(self, *, limit: int = 100, after: str | None = None) -> Call[UserPage]:
        """List users ordered by id.

        Args:
            limit: Size of the page, 1 to 1000.
            after: `next` of the previous page; None starts at the beginning.
        """
        return get_call("/v1/users", _users, limit=limit, after=after)

    @Method
    def get(self, user_id: str) -> Call[User]:
        """Return one user.

        Raises:
            ApiError: `user_not_found`.
        """
        return get_call(_path(user_id), _user)

    @Method
    def add_engagements(self, user_id: str, engagements: Sequence[Engagement]) -> Call[Ingested]:
        """Store up to 1000 engagements, all or none; create the user if it is new.

        Sending the same engagements again changes nothing.

        Raises:
            ApiError: `engagement_conflict` (409) if an id is stored with other content.
        """
        body = EngagementBatch(engagements=[*engagements])
        return post_call(f"{_path(user_id)}/engagements", _ingested, body, repeatable=True)

    @Method
    def list_engagements(self, user_id: str, *, limit: int = 100, after: str | None = None) -> Call[EngagementPage]:
        """List a user's engagements, oldest first.

        Args:
            user_id: The user.
            limit: Size of the page, 1 to 1000.
            after: Id of the last engagement of the previous page; None starts at the beginning.
        """
        return get_call(f"{_path(user_id)}/engagements", _engagements, limit=limit, after=after)

    @Method
    def get_profile(self, user_id: str) -> Call[Profile]:
        """Return the newest profile.

        Raises:
            ApiError: `profile_not_found` if none has been written yet.
        """
        return get_call(f"{_path(user_id)}/profile", _profile)

    @Method
    def write_profile(self, user_id: str) -> Call[Profile]:
        """Write a new profile now, from all engagements, and return it."""
        return post_call(f"{_path(user_id)}/profile", _profile, slow=True)

    @Method
    def get_auto_mode(self, user_id: str) -> Call[AutoModeDecisions]:
        """Return which mode `auto` chooses for the user's closed and open queries, with the evidence."""
        return get_call(f"{_path(user_id)}/auto-mode", _auto_mode)

    @Method
    def erase(self, user_id: str) -> Call[Erasure]:
        """Erase a user: engagements, profiles, traces, the adapter, and every version that learned from them.

        The job runs in the background; `client.erasures.get` shows when it is done, and its receipt. Called again, it
        returns the same job.

        Raises:
            ApiError: `user_not_found` if there is no such user and never was.
        """
        return delete_call(_path(user_id), _erasure)

    @Method
    def erase_engagement(self, user_id: str, engagement_id: str) -> Call[Erasure]:
        """Erase one engagement with all that may show it: later traces, and profiles that cover it.

        Raises:
            ApiError: `engagement_not_found` if there is none with this id and never was.
        """
        return delete_call(f"{_path(user_id)}/engagements/{segment(engagement_id)}", _erasure)

    @Method
    def erase_engagements(
        self, user_id: str, *, after: datetime | None = None, before: datetime | None = None
    ) -> Call[Erasure]:
        """Erase the engagements of a span of time, of which at least one end is given.

        Args:
            user_id: The user.
            after: From this time on; None: from the first.
            before: Before this time; None: to the last.
        """
        span = {
            name: None if time is None else time.isoformat() for name, time in (("after", after), ("before", before))
        }
        return delete_call(f"{_path(user_id)}/engagements", _erasure, **span)

    @DownloadMethod
    def export(self, user_id: str, file: Path, *, max_bytes: int = downloads.MAX_BYTES) -> Download[Path]:
        """Download all that is stored of a user as a zip, and return its path. It appears whole or not at all.

        Args:
            user_id: The user.
            file: The zip; it must not exist.
            max_bytes: Refuse a larger download.

        Raises:
            ApiError: `user_not_found`.
            InvalidRequest: The file exists.
            OSError: The file cannot be written.
        """
        call = get_call(f"{_path(user_id)}/export", read_nothing)
        return Download(call, partial(downloads.opened_file, file, max_bytes))


def _path(user_id: str) -> str:
    return f"/v1/users/{segment(user_id)}"
