"""Adapters in service: publication, storage, loading, live versions and health."""

from mindprint_server.adapters.service import AdapterService

__all__ = ["AdapterService"]
