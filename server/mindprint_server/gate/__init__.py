"""The gate: the checks that a version must pass before it may answer requests. Every bound is a setting."""

from mindprint_server.gate.gate import Gate

__all__ = ["Gate"]
