"""Error replies."""

from __future__ import annotations

from mindprint.types.base import Reply


class ErrorBody(Reply):
    """An error in OpenAI's form. `code` is stable and meant for programs."""

    message: str
    type: str
    code: str
    param: str | None = None


class ErrorReply(Reply):
    """An error reply in OpenAI's form. Programs should test its `code`."""

    error: ErrorBody
