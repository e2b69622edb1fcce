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
    """OpenAI's error envelope; `code` is what programs switch on."""

    error: ErrorBody
