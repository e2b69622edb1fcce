"""The life of adapters: checked on arrival, proved on the engine, switched at once, removed when unused."""

from mindprint_server.adapters.service import AdapterService

__all__ = ["AdapterService"]
