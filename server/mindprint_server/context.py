"""The context that every service of the server gets; `wiring.py` makes it once."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass
from functools import cached_property

from mindprint_server.engine import Engine
from mindprint_server.observability.metrics import Metrics
from mindprint_server.operation.shutdown import Shutdown
from mindprint_server.operation.supervision import Supervisor
from mindprint_server.settings import Settings
from mindprint_server.sharing.quotas import Quotas, StoredQuotas
from mindprint_server.store import Store
from mindprint_server.tenancy import tenant_or_none


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
    def quotas(self) -> Quotas:
        """Counts what tenants and keys use."""
        return Quotas(self.settings, retry_after_s=self.settings.retry_after_s)

    @cached_property
    def stored_quotas(self) -> StoredQuotas:
        """Counts what tenants store."""
        return StoredQuotas(self.settings, self.store)

    def count_generated(self, tokens: int) -> None:
        """Count tokens that the engine wrote for the running work's tenant."""
        self.token_counter()(tokens)

    def token_counter(self) -> Callable[[int], None]:
        """Return a function that counts tokens as `count_generated` does: for what ends in another context."""
        context = copy_context()
        counter = self.metrics.generated_tokens.labels(tenant=tenant_or_none() or "")

        def count(tokens: int) -> None:
            counter.inc(tokens)
            context.run(self.quotas.count_tokens, tokens)

        return count

    @cached_property
    def shutdown(self) -> Shutdown:
        """Tells streams when the server stops."""
        return Shutdown()
