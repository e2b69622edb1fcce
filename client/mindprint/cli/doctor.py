"""`mindprint doctor`: check what is installed."""

from __future__ import annotations

from mindprint.cli.errors import exit_with


def doctor() -> None:
    """Show what is installed, which device and engine will be used, what is missing and how to get it."""
    from mindprint.doctor import report

    exit_with(report())
