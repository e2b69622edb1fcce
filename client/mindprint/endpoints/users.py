"""Routes of users, their engagements and their profiles: `client.users`."""

from __future__ import annotations

from collections.abc import Sequence

from mindprint._methods import Method, Resource, SenderT
from mindprint.transport import Call, get_call, post_call, reply_of, segment
from mindprint.types import (
    AutoModeDecisions,
    Engagement,
    EngagementBatch,
    EngagementPage,
    Ingested,
    Profile,
    User,
    UserPage,
)

_auto_mode = reply_of(AutoModeDecisions)
_engagements = reply_of(EngagementPage)
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


def _path(user_id: str) -> str:
    return f"/v1/users/{segment(user_id)}"
