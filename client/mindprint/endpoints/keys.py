"""Routes of API keys: `client.keys`. All but `get_self` need a key with the scope `admin`."""

from __future__ import annotations

from collections.abc import Sequence

from mindprint._methods import Method, Resource, SenderT
from mindprint.transport import Call, delete_call, get_call, post_call, reply_of, segment
from mindprint.types import ApiKey, ApiKeyPage, CreateApiKey, CreatedApiKey, RotateApiKey, Scope

_key = reply_of(ApiKey)
_created = reply_of(CreatedApiKey)
_keys = reply_of(ApiKeyPage)


class KeysResource(Resource[SenderT]):
    """Keys of callers: their names, scopes and ends."""

    @Method
    def create(
        self, name: str, scopes: Sequence[Scope], *, expires_in_s: float | None = None, tenant: str | None = None
    ) -> Call[CreatedApiKey]:
        """Create a key. Its text is in the reply and is never shown again.

        Args:
            name: What the key is for, 1 to 64 characters.
            scopes: What it may do: `infer`, `ingest`, `train`, `read`, `admin`.
            expires_in_s: Seconds after which it is refused; None: never.
            tenant: Whose data it reaches; None: the tenant of your own key. Another one takes an admin of `default`.

        Raises:
            ApiError: `first_key_is_admin`, the first key of a server without the scope `admin`; `other_tenant`, your
                key may not make keys of this tenant.
        """
        wanted = CreateApiKey(name=name, scopes=[*scopes], expires_in_s=expires_in_s, tenant=tenant)
        return post_call("/v1/keys", _created, wanted)

    @Method
    def list(self, *, limit: int = 1000, after: str | None = None) -> Call[ApiKeyPage]:
        """List keys of your tenant, revoked and expired ones too; for an admin of `default`, of all tenants.

        Args:
            limit: Size of the page, 1 to 1000.
            after: `next` of the previous page; None starts at the beginning.
        """
        return get_call("/v1/keys", _keys, limit=limit, after=after)

    @Method
    def get_self(self) -> Call[ApiKey]:
        """Return the key that this client sends. Any valid key may ask.

        Raises:
            ApiError: `no_keys`, the server has no keys yet.
        """
        return get_call("/v1/keys/self", _key)

    @Method
    def rotate(self, key_id: str, *, keep_old_s: float = 86_400) -> Call[CreatedApiKey]:
        """Create a key with the same name and scopes; the old one stays valid for `keep_old_s` seconds.

        Raises:
            ApiError: `key_not_found`.
        """
        return post_call(f"{_path(key_id)}/rotate", _created, RotateApiKey(keep_old_s=keep_old_s))

    @Method
    def revoke(self, key_id: str) -> Call[ApiKey]:
        """Revoke a key for good.

        Raises:
            ApiError: `key_not_found`.
        """
        return delete_call(_path(key_id), _key)


def _path(key_id: str) -> str:
    return f"/v1/keys/{segment(key_id)}"
