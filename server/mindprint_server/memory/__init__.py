"""A user's memory: episodic (chosen past engagements) and semantic (a written profile), never later than the query."""

from mindprint_server.memory.memory import Memory

__all__ = ["Memory"]
