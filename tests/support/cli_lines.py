"""What the command says to a person."""

from __future__ import annotations

from typing import Any


def one_line(result: Any, code: int = 1) -> str:
    """The line of a failure, and nothing else on stderr."""
    assert result.exit_code == code, result.output
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.output
    return str(result.stderr).removeprefix("error: ").strip()
