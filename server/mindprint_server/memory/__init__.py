"""A user's memory: episodic (chosen past engagements) and semantic (a written profile), never later than the query."""

from mindprint_server.memory.history import UserHistory
from mindprint_server.memory.profiles import ProfileWriter
from mindprint_server.memory.service import MemoryService

__all__ = ["MemoryService", "ProfileWriter", "UserHistory"]
