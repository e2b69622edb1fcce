"""`python -m mindprint_server` serves with the settings of the environment and of `mindprint.toml`."""

from __future__ import annotations

from mindprint_server.process import run
from mindprint_server.settings import Settings

raise SystemExit(run(Settings()))
