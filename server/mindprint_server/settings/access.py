"""Settings of access: keys, and which hosts a server without keys answers to."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, Field, SecretStr, StringConstraints, field_validator


class AccessSettings(BaseModel):
    """Access: who may call the server."""

    admin_key: SecretStr | None = None
    """A key with the scope `admin` that is stored nowhere, for a start without a person at the terminal. It has 32 to
    256 ASCII characters without white space. Unset or empty: keys from `mindprint keys` only."""
    key_cache_s: float = Field(2, gt=0, le=5)
    """Seconds for which a key is cached. A key that another server revoked is refused after this time."""
    allowed_hosts: tuple[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.-]+$", max_length=253)], ...] = ()
    """Names, besides those of loopback, that the `Host` header of a request may have while there is no key. It keeps
    pages in a browser from reaching the server under a name of their own."""
    openapi: bool = True
    """Serve `/docs` and `/openapi.json`, which need no key."""

    @field_validator("admin_key")
    @classmethod
    def _can_be_sent(cls, key: SecretStr | None) -> SecretStr | None:
        text = key.get_secret_value() if key else ""
        if text and not re.fullmatch(r"[!-~]{32,256}", text):
            raise ValueError("write 32 to 256 ASCII characters without white space, as `openssl rand -hex 32` does")
        return key if text else None
