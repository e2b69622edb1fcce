"""What a version must pass before it may answer (docs: method.md's starting values, each a setting)."""

from mindprint_server.gate.gate import Gate

__all__ = ["Gate"]
