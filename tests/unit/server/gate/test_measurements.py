from __future__ import annotations

import pytest

from mindprint_server.engine import GenerationOutput
from mindprint_server.engine.types import FinishReason
from mindprint_server.gate.measurements import is_collapsed

PREFIX = "What this user has shown:"
LEAD = "This user's answer:"


@pytest.mark.parametrize(
    ("text", "finish", "expected"),
    [
        ("They walk by the lake each day.", "stop", False),
        ("They walk.", "stop", True),
        (f"{PREFIX} they walk by the lake", "stop", False),
        (f"\n{PREFIX} no", "stop", True),
        (f"{LEAD} lake", "stop", True),
        (f"{PREFIX} {LEAD} the lake", "stop", True),
        (f"{LEAD} lake, for they walk by the lake each day", "stop", False),
        ("They walk by the lake each day and", "length", True),
        ("the sea and the hills " * 6, "stop", True),
    ],
)
def test_thinking_is_gone_that_loops_never_closes_or_says_too_little(
    text: str, finish: FinishReason, expected: bool
) -> None:
    """The words of a thinking prefix that an adapter has learned say nothing, nor do those that an answer is led in
    by."""
    assert is_collapsed(GenerationOutput(text, (), finish, 0, 0), PREFIX, LEAD) is expected
