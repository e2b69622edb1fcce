"""The protocol's contracts on the engine under test."""

from __future__ import annotations

from engine_protocol import EngineProtocol


class TestEngine(EngineProtocol):
    """All of them hold."""
