"""Metrics that Prometheus scrapes at `/metrics`. Every drop, rejection, retry and refusal is counted by reason.

Labels have few values: a tenant, a route's template, an error's code, a verdict reason. Never a user, never a path.
A tenant is that of a valid key, so that callers cannot make series. It is empty for callers without a valid key and for
the server's own work.
Counters start at zero with the process. The store's own counts (`/v1/funnel`) survive a restart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from mindprint_server.engine import EngineStats

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


ENGINE_PREFIX = "vllm:"
NAMES_ADAPTERS = frozenset({"vllm:lora_requests_info"})
"""Metrics of the engine with the names of adapters in their labels, and so of users. They are not shown."""


class _EngineMetrics(Collector):
    """What vLLM counts in this process: it registers its metrics with Prometheus' default registry."""

    def collect(self) -> Iterator[Metric]:
        for family in REGISTRY.collect():
            if family.name.startswith(ENGINE_PREFIX) and family.name not in NAMES_ADAPTERS:
                yield family


class Metrics:
    """The metrics of one server. Each has its own registry, so two servers in one process do not share counts.

    vLLM's own are those of the process, which has at most one engine.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._of_engine = CollectorRegistry()
        self._of_engine.register(_EngineMetrics())

        # the funnel
        self.generated = self._counter("traces_generated", "Candidates written; each becomes a trace", "tenant")
        self.accepted = self._counter("traces_accepted", "Candidates accepted", "tenant", "hinted")
        self.rejected = self._counter("traces_rejected", "Candidates rejected, by verdict reason", "tenant", "reason")
        self.imported = self._counter("traces_imported", "Imported traces that were stored", "tenant")
        self.cancelled = self._counter("traces_cancelled", "Candidates ended because a sibling was accepted")
        self.trained = self._counter("traces_trained", "Traces that went into a version", "tenant")
        self.skipped = self._counter("items_skipped", "Engagements of batches that were skipped", "reason")
        self.items_dropped = self._counter(
            "items_dropped",
            "Claimed engagements of batches without a stored result: lost (to another server), ended (the batch has)",
            "reason",
        )
        self.generated_tokens = self._counter("generated_tokens", "Tokens written by the engine", "tenant")
        self.prompt_tokens = self._counter("prompt_tokens", "Prompt tokens given to the engine")
        self.cached_tokens = self._counter("cached_tokens", "Prompt tokens found in the prefix cache")

        # the engine, as the batch runner sees it
        self.batch_in_flight = self._gauge("batch_in_flight", "Engagements of batches that are being worked on")
        self.engine_running = self._gauge("engine_running", "Requests that the engine computes")
        self.engine_waiting = self._gauge("engine_waiting", "Requests that wait in the engine")
        self.engine_kv_use = self._gauge("engine_kv_use", "Share of the KV cache that running requests hold")
        self.engine_preemptions = self._gauge("engine_preemptions", "Requests preempted since the engine started")

        # the queue; both are read from the store at each scrape
        self.queue = self._gauge(
            "queue_traces", "Accepted traces in no version: waiting, leased, dead_letter", "tenant", "state"
        )
        self.open_batches = self._gauge("open_batches", "Batches queued or running", "tenant")
        self.replays_missing = self._counter("replays_missing", "Replay samples that leases should hold and do not")

        # adapters
        self.adapter_loads = self._counter(
            "adapter_loads", "Adapters loaded into the engine: loaded, failed", "outcome"
        )
        self.adapter_unloads = self._counter("adapter_unloads", "Adapters removed from the engine")
        self.adapters_refused = self._counter("adapters_refused", "Uploaded versions refused, by error code", "reason")
        self.artifact_fetches = self._counter(
            "artifact_fetches", "Looks for the files of a version: found, fetched, missing, damaged, failed", "outcome"
        )
        self.artifacts_collected = self._counter("artifacts_collected", "Files removed that no version names")
        self.parity_checks = self._counter("parity_checks", "Parity checks: passed, failed", "result")
        self.gate_refusals = self._counter("gate_refusals", "Checks that a new version failed", "check")
        self.resident_adapters = self._gauge("resident_adapters", "Adapters that the engine holds")
        self.adapter_requests = self._counter(
            "adapter_requests",
            "Requests for an adapter: hit (loaded already), load, wait (for a slot), busy (refused)",
            "outcome",
        )
        self.adapter_evictions = self._counter("adapter_evictions", "Adapters that left the engine to make room")
        self.adapter_wait_seconds = self._histogram(
            "adapter_wait_seconds", "From the request for an adapter to its slot in the engine"
        )
        self.served = self._counter(
            "adapter_answers", "Answers of versions in service: fine, collapsed, failed", "outcome"
        )
        self.withdrawn = self._counter(
            "versions_withdrawn",
            "Versions withdrawn, by failed check: service_collapsed, service_failed, erased_data",
            "check",
        )
        self.erased = self._counter("rows_erased", "Rows that erasures and retention removed, by kind", "kind")
        self.fallbacks = self._counter(
            "fallbacks", "Answers of another model or mode than asked for: base, direct", "to"
        )

        self.auto_decisions = self._counter(
            "auto_decisions", "Modes that `auto` chose, by mode reason", "mode", "reason"
        )

        self.task_failures = self._counter("task_failures", "Failures of background work", "task", "reason")

        # requests
        self.requests = self._counter("requests", "HTTP requests answered", "tenant", "route", "method", "status")
        self.refusals = self._counter("refusals", "Error replies", "tenant", "code")
        self.request_seconds = self._histogram("request_seconds", "From request to end of reply", "route", "method")
        self.first_token_seconds = self._histogram("first_token_seconds", "From chat request to first token")
        self.engine_seconds = self._histogram("engine_seconds", "Calls of the engine", "call")

    def update_engine(self, stats: EngineStats) -> None:
        """Set the gauges of the engine."""
        self.engine_running.set(stats.running)
        self.engine_waiting.set(stats.waiting)
        self.engine_kv_use.set(stats.kv_use)
        self.engine_preemptions.set(stats.preemptions)

    def refresh(self, *, queue: Mapping[tuple[str, str], int], open_batches: Mapping[str, int]) -> None:
        """Set the gauges whose values are read from the store.

        Args:
            queue: Number of traces by tenant and state.
            open_batches: Batches that are queued or running, by tenant.
        """
        for (tenant, state), depth in queue.items():
            self.queue.labels(tenant=tenant, state=state).set(depth)
        for tenant in {tenant for tenant, _ in queue}:
            self.open_batches.labels(tenant=tenant).set(open_batches.get(tenant, 0))

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format, those of vLLM last."""
        return generate_latest(self.registry) + generate_latest(self._of_engine)

    def _counter(self, name: str, help: str, *labels: str) -> Counter:
        return Counter(f"mindprint_{name}", help, labels, registry=self.registry)

    def _gauge(self, name: str, help: str, *labels: str) -> Gauge:
        return Gauge(f"mindprint_{name}", help, labels, registry=self.registry)

    def _histogram(self, name: str, help: str, *labels: str) -> Histogram:
        return Histogram(f"mindprint_{name}", help, labels, registry=self.registry, buckets=SECONDS)
