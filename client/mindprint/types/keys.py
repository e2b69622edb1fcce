"""Names of adapters, versions and models: the only place that knows how `user/<id>@<number>` is written.

Each name is a `str`, so it can be sent, stored and compared as it is written.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, cast

from pydantic import StringConstraints

Kind = Literal["user", "cohort"]
USER_PREFIX = "user/"
"""Prefix of the keys of users' adapters, for SQL that builds a key in the database."""
COHORT_PREFIX = "cohort/"
"""Prefix of the keys of cohorts' adapters, for SQL."""
BASE = "base"
"""The model name of the base model without an adapter."""

_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*"
_KEY = rf"(user|cohort)/{_NAME}"
_NUMBER = r"[1-9][0-9]{0,8}"

NAME = rf"^{_NAME}$"
"""The pattern of a user's or cohort's id. It becomes a folder name, so it holds no slash and no `..`."""
Name = Annotated[str, StringConstraints(pattern=NAME, max_length=64)]
"""A user's or cohort's id."""
AdapterKeyStr = Annotated[str, StringConstraints(pattern=rf"^{_KEY}$", max_length=72)]
"""An adapter's key on the wire: `user/<id>` or `cohort/<name>`."""
MODEL_NAME_LENGTH = 84
"""Maximum length of a model's name, in characters."""
EXAMPLE = "user/anna@7"
"""Example of a version's name, for messages."""
ModelNameStr = Annotated[
    str, StringConstraints(pattern=rf"^({BASE}|{_KEY}(@{_NUMBER})?)$", max_length=MODEL_NAME_LENGTH)
]
"""A model on the wire: `base`, `user/<id>` or `cohort/<name>`, the latter two optionally with `@<number>`."""
MemoryNameStr = Annotated[str, StringConstraints(pattern=rf"^(own|none|{USER_PREFIX}{_NAME})$", max_length=69)]
"""Whose memory a prompt shows: the user's `own`, `none`, or that of `user/<id>`."""


class AdapterKey(str):
    """The key of an adapter: `user/<id>` or `cohort/<name>`.

    Raises:
        ValueError: The text is no adapter's key.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> AdapterKey:
        if not re.fullmatch(_KEY, text):
            raise ValueError(f"{text!r} is no adapter: write user/<id> or cohort/<name>")
        return super().__new__(cls, text)

    @classmethod
    def make(cls, kind: Kind, name: str) -> AdapterKey:
        """Return the key of the adapter of a user or cohort."""
        return cls.user(name) if kind == "user" else cls.cohort(name)

    @classmethod
    def user(cls, user_id: str) -> AdapterKey:
        """Return the key of a user's own adapter."""
        return cls(USER_PREFIX + user_id)

    @classmethod
    def cohort(cls, name: str) -> AdapterKey:
        """Return the key of a cohort's adapter."""
        return cls(COHORT_PREFIX + name)

    @property
    def kind(self) -> Kind:
        """Whether it is the adapter of a `user` or of a `cohort`."""
        return cast(Kind, self.partition("/")[0])

    @property
    def name(self) -> str:
        """The user's id or the cohort's name."""
        return self.partition("/")[2]

    @property
    def user_id(self) -> str | None:
        """The user's id; None for a cohort's adapter."""
        return self.name if self.kind == "user" else None


class VersionRef(str):
    """The name of one version of an adapter: `user/<id>@<number>` or `cohort/<name>@<number>`.

    Raises:
        ValueError: The text names no version.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> VersionRef:
        if not re.fullmatch(f"{_KEY}@[1-9][0-9]*", text):
            raise ValueError(f"{text!r} names no version: write user/<id>@<number> or cohort/<name>@<number>")
        return super().__new__(cls, text)

    @classmethod
    def of(cls, key: str, number: int) -> VersionRef:
        """Return the name of version `number` of an adapter; numbers start at 1."""
        return cls(f"{key}@{number}")

    @property
    def key(self) -> AdapterKey:
        """The adapter's key."""
        return AdapterKey(self.partition("@")[0])

    @property
    def number(self) -> int:
        """The version's number."""
        return int(self.partition("@")[2])


class ModelName(str):
    """What a request may name as its model: `base`, an adapter's key, or a version.

    Raises:
        ValueError: The text is no model's name.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> ModelName:
        if not re.fullmatch(f"{BASE}|{_KEY}(@{_NUMBER})?", text):
            raise ValueError(f"{text!r} is no model: write base, user/<id> or cohort/<name>, optionally with @<number>")
        return super().__new__(cls, text)

    @property
    def key(self) -> AdapterKey | None:
        """The adapter's key; None for the base model."""
        return None if self == BASE else AdapterKey(self.partition("@")[0])

    @property
    def number(self) -> int | None:
        """The number of the version; None if the server chooses the version."""
        return int(number) if (number := self.partition("@")[2]) else None
