"""The context that every service of the server gets; `wiring.py` makes it once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from mindprint_server.engine import Engine
from mindprint_server.observability.metrics import Metrics
from mindprint_server.operation.shutdown import Shutdown
from mindprint_server.operation.supervision import Supervisor
from mindprint_server.settings import Settings
from mindprint_server.store import Store


@dataclass(frozen=True)
class ServerContext:
    """Settings, store, engine and metrics of one running server.

    The engine has started, so `engine.info()` returns the model, its length and its digest.
    """

    settings: Settings
    store: Store
    engine: Engine
    metrics: Metrics

    @cached_property
    def supervisor(self) -> Supervisor:
        """Runs the background tasks of all services."""
        failures = self.metrics.task_failures
        return Supervisor(self.settings, lambda task, reason: failures.labels(task=task, reason=reason).inc())

    @cached_property
    def shutdown(self) -> Shutdown:
        """Tells streams when the server stops."""
        return Shutdown()
