"""Errors of the demo."""

from __future__ import annotations


class DemoError(Exception):
    """The demo cannot go on. The message says why."""
