"""Routes of erasures: `client.erasures`. All need a key with the scope `admin`."""

from __future__ import annotations

from mindprint._methods import Method, Resource, SenderT
from mindprint.transport import Call, get_call, reply_of, segment
from mindprint.types import Erasure, ErasurePage

_erasure = reply_of(Erasure)
_erasures = reply_of(ErasurePage)


class ErasuresResource(Resource[SenderT]):
    """Jobs that erase a user's data, and their receipts. `client.users.erase` starts one."""

    @Method
    def list(self, *, limit: int = 100, after: str | None = None) -> Call[ErasurePage]:
        """List erasures in the order of their requests.

        Args:
            limit: Size of the page, 1 to 1000.
            after: `next` of the previous page; None starts at the beginning.
        """
        return get_call("/v1/erasures", _erasures, limit=limit, after=after)

    @Method
    def get(self, erasure_id: str) -> Call[Erasure]:
        """Return one erasure; once it is done, with its receipt.

        Raises:
            ApiError: `erasure_not_found`.
        """
        return get_call(f"/v1/erasures/{segment(erasure_id)}", _erasure)
