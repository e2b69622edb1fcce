"""Settings of access: keys, and which hosts a server without keys answers to."""

from __future__ import annotations

import json
import re
from typing import Annotated

from pydantic import BaseModel, Field, SecretStr, StringConstraints, field_validator
from pydantic_settings import NoDecode

Origin = Annotated[str, StringConstraints(pattern=r"^https?://[a-z0-9.-]+(:[0-9]{1,5})?$", max_length=261)]
HostName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.-]+$", max_length=253)]


class AccessSettings(BaseModel):
    """Access: who may call the server."""

    admin_key: SecretStr | None = None
    """A key with the scope `admin` that is stored nowhere, for a start without a person at the terminal. It has 32 to
    256 ASCII characters without white space. Unset or empty: keys from `mindprint keys` only."""
    key_cache_s: float = Field(2, gt=0, le=5)
    """Seconds for which a key is cached. A key that another server revoked is refused after this time."""
    allowed_hosts: Annotated[tuple[HostName, ...], NoDecode] = ()
    """Names, besides those of loopback, that the `Host` header of a request may have while there is no key. It keeps
    pages in a browser from reaching the server under a name of their own. In a variable or a flag, separate them with
    commas, or write a JSON list."""
    cors_origins: Annotated[tuple[Origin, ...], NoDecode] = ()
    """Origins, such as `https://app.example.com`, whose pages in a browser may call the server. While there is no key,
    such a page may do everything. In a variable or a flag, separate them with commas, or write a JSON list. Empty:
    pages of other sites get no answer."""
    openapi: bool = True
    """Serve `/docs` and `/openapi.json`, which need no key."""

    @field_validator("allowed_hosts", "cors_origins", mode="before")
    @classmethod
    def _read_list(cls, names: object) -> object:
        if not isinstance(names, str):
            return names
        if names.lstrip().startswith("["):
            return json.loads(names)
        return [name.strip() for name in names.split(",") if name.strip()]

    @field_validator("admin_key")
    @classmethod
    def _can_be_sent(cls, key: SecretStr | None) -> SecretStr | None:
        text = key.get_secret_value() if key else ""
        if text and not re.fullmatch(r"[!-~]{32,256}", text):
            raise ValueError("write 32 to 256 ASCII characters without white space, as `openssl rand -hex 32` does")
        return key if text else None
