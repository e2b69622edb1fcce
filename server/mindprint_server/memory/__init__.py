"""A user's memory: episodic (chosen past engagements) and semantic (a written profile), never later than the query."""

from mindprint_server.memory.history import Timeline
from mindprint_server.memory.service import Memory

__all__ = ["Memory", "Timeline"]
