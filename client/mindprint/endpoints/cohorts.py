"""Routes of cohorts: `client.cohorts`."""

from __future__ import annotations

from collections.abc import Sequence

from mindprint._methods import Method, Resource, SenderT
from mindprint.transport import Call, delete_call, get_call, post_call, put_call, read_nothing, reply_of, segment
from mindprint.types import Cohort, CohortEdit, CohortPage, Members

_cohort = reply_of(Cohort)
_cohorts = reply_of(CohortPage)


class CohortsResource(Resource[SenderT]):
    """Groups of users whose traces train one adapter, `cohort/<name>`."""

    @Method
    def list(self, *, limit: int = 1000, after: str | None = None) -> Call[CohortPage]:
        """List cohorts with their number of users, ordered by name.

        Args:
            limit: Size of the page, 1 to 1000.
            after: `next` of the previous page; None starts at the beginning.
        """
        return get_call("/v1/cohorts", _cohorts, limit=limit, after=after)

    @Method
    def get(self, name: str) -> Call[Cohort]:
        """Return one cohort.

        Raises:
            ApiError: `cohort_not_found`.
        """
        return get_call(_path(name), _cohort)

    @Method
    def put(self, name: str, description: str = "") -> Call[Cohort]:
        """Create a cohort, or replace its description."""
        return put_call(_path(name), _cohort, CohortEdit(description=description))

    @Method
    def delete(self, name: str) -> Call[None]:
        """Remove a cohort; its users move to `everyone`, which cannot be removed."""
        return delete_call(_path(name), read_nothing)

    @Method
    def add_members(self, name: str, users: Sequence[str]) -> Call[Cohort]:
        """Move up to 10,000 users into a cohort; each user is in one cohort at a time."""
        return post_call(f"{_path(name)}/users", _cohort, Members(users=[*users]), repeatable=True)

    @Method
    def remove_member(self, name: str, user_id: str) -> Call[Cohort]:
        """Move a user from a cohort to `everyone`."""
        return delete_call(f"{_path(name)}/users/{segment(user_id)}", _cohort)


def _path(name: str) -> str:
    return f"/v1/cohorts/{segment(name)}"
