"""A user's memory: episodic (chosen past engagements) and semantic (a written profile), never later than the query."""

from mindprint_server.memory.memory import Memory
from mindprint_server.memory.timeline import Timeline

__all__ = ["Memory", "Timeline"]
