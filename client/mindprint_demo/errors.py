"""The one error of the demo's own."""

from __future__ import annotations


class DemoError(Exception):
    """The demo cannot go on. The message says why."""
