"""`python -m mindprint` is the `mindprint` command."""

from __future__ import annotations

from mindprint.cli import app

app(prog_name="mindprint")
