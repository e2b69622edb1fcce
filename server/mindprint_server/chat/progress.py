"""What is known of an answer while it is made: the version that is at it, and the thinking that was written."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

BETWEEN = "\n\n"
"""Stands between the thinkings of two attempts."""


async def show_nothing(text: str) -> None:
    """Do nothing with a piece of thinking: a whole answer brings all of it at once."""


class Progress:
    """Collects the thinking of all attempts at one answer, as its caller sees it.

    A thinking is shown while it is written. Whether it collapsed is known at its end, so that what a caller was shown
    of it stays, and the thinking of the next attempt follows.

    Attributes:
        model: Name of the version that is at it; None while it is not chosen.
        reasoning: The thinking so far.
        tokens: Tokens that were written as thinking so far.
        prompt_tokens: Tokens that stood before the last thinking; None where the answer continues no thinking.

    Args:
        show: Gets each piece of thinking when it is written.
    """

    def __init__(self, show: Callable[[str], Awaitable[None]] = show_nothing) -> None:
        self.model: str | None = None
        self.reasoning = ""
        self.tokens = 0
        self.prompt_tokens: int | None = None
        self._show = show
        self._before = ""
        self._tokens_before = 0

    def begin(self, prompt_tokens: int) -> None:
        """Begin another thinking behind a prompt of so many tokens."""
        self.prompt_tokens = prompt_tokens
        self._before = self.reasoning + BETWEEN if self.reasoning else ""
        self._tokens_before = self.tokens

    async def update(self, text: str, tokens: int) -> None:
        """Show what a thinking has grown by.

        Args:
            text: All of it so far. What was there before does not change.
            tokens: Tokens that were written for it so far.
        """
        self.tokens = self._tokens_before + tokens
        whole = self._before + text if text else self.reasoning
        piece, self.reasoning = whole[len(self.reasoning) :], whole
        if piece:
            await self._show(piece)
