"""Claims leases for a trainer."""

from __future__ import annotations

from collections.abc import Callable

from mindprint import MindprintClient, MindprintError
from mindprint.types import Lease, LeaseRequest
from mindprint_trainer.lease import HeldLease
from mindprint_trainer.settings import Settings


class LeaseClaimer:
    """Claims leases of the adapters that the settings name, or of any."""

    def __init__(
        self,
        settings: Settings,
        client: MindprintClient,
        connect_for_heartbeats: Callable[[], MindprintClient],
        on_event: Callable[..., None],
    ) -> None:
        """Prepare to claim.

        Args:
            settings: Adapters, bounds and time to live.
            client: Claims the leases.
            connect_for_heartbeats: Makes clients for heartbeats: a call must take at most a third of the time to live.
            on_event: Called with an event for each lease.
        """
        self._settings, self._client = settings, client
        self._connect_for_heartbeats, self._on_event = connect_for_heartbeats, on_event

    def claim(self) -> Lease | None:
        """Claim the first named adapter that has enough traces waiting, or without names the one with the most."""
        for adapter in self._settings.adapter or (None,):
            request = LeaseRequest(
                owner=self._settings.owner,
                adapter=adapter,
                ttl_s=self._settings.ttl_s,
                min_traces=self._settings.min_traces,
                max_traces=self._settings.max_traces,
            )
            if (lease := self._client.leases.claim(request)) is not None:
                return lease
        return None

    def hold(self, lease: Lease) -> HeldLease:
        """Keep a claimed lease alive."""
        return HeldLease(lease, self._connect_for_heartbeats, self._settings.ttl_s)

    def fill(self, held: list[HeldLease]) -> None:
        """Claim leases and append them to `held`, up to `max_concurrent_adapters`.

        Raises:
            MindprintError: A claim failed and `held` is empty. If `held` has leases, the failure is ignored: the next
                call claims again.
        """
        while len(held) < self._settings.max_concurrent_adapters:
            try:
                lease = self.claim()
            except MindprintError:
                if held:
                    return
                raise
            if lease is None:
                return
            held.append(self.hold(lease))
            self._on_event("leased", adapter=lease.adapter, traces=len(lease.trace_ids), attempt=lease.attempt)
