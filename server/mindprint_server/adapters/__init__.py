"""The life of adapters: checked on arrival, proved on the engine, switched at once, removed when unused."""

from mindprint_server.adapters.service import AdapterLife

__all__ = ["AdapterLife"]
