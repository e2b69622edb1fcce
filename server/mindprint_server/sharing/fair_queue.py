"""A queue for the slots of a resource that tenants share: a free slot goes to the waiting tenant that holds fewest.

It is max-min fairness, as in weighted fair queueing with equal weights: while a tenant waits, no tenant that holds more
slots gets another one.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from dataclasses import dataclass


@dataclass(eq=False)
class Ticket:
    """A request for slots."""

    tenant: str
    slots: int
    is_admitted: bool = False


class FairQueue:
    """Decides whose request gets the next free slots. It does no I/O and knows no time.

    Args:
        slots: Slots of the resource.
        reserved: Slots that one tenant leaves free for others, once a second one has asked.
    """

    def __init__(self, slots: int, *, reserved: int = 0) -> None:
        self._slots = slots
        self._reserved = reserved
        self._held: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[Ticket]] = OrderedDict()
        """Waiting requests by tenant. The tenant that was served longest ago is first."""
        self._seen: set[str] = set()

    @property
    def held(self) -> int:
        """Slots in use."""
        return self._held.total()

    @property
    def seen(self) -> frozenset[str]:
        """Tenants that have asked so far."""
        return frozenset(self._seen)

    def count_waiting(self, tenant: str) -> int:
        """Count the waiting requests of a tenant."""
        return len(self._waiting.get(tenant, ()))

    def add(self, tenant: str, slots: int = 1) -> Ticket:
        """Queue a request behind those of its tenant. Call `admit` afterwards.

        Args:
            tenant: Whose request.
            slots: Slots that it takes; more than there are count as all of them.
        """
        self._seen.add(tenant)
        ticket = Ticket(tenant, min(slots, self._slots))
        self._waiting.setdefault(tenant, deque()).append(ticket)
        return ticket

    def remove(self, ticket: Ticket) -> None:
        """Take out a request: it has ended, or its caller left. Call `admit` afterwards."""
        if ticket.is_admitted:
            self._held[ticket.tenant] -= ticket.slots
            if not self._held[ticket.tenant]:
                del self._held[ticket.tenant]
            return
        waiting = self._waiting[ticket.tenant]
        waiting.remove(ticket)
        if not waiting:
            del self._waiting[ticket.tenant]

    def admit(self) -> list[Ticket]:
        """Give the free slots away, and return the requests that got them.

        A request that needs several slots is not passed by another tenant's that needs fewer: it would starve.
        """
        admitted = []
        while (tenant := self._next_tenant()) is not None:
            ticket = self._waiting[tenant][0]
            if self.held + ticket.slots > self._slots:
                break
            self._waiting[tenant].popleft()
            if self._waiting[tenant]:
                self._waiting.move_to_end(tenant)
            else:
                del self._waiting[tenant]
            ticket.is_admitted = True
            self._held[tenant] += ticket.slots
            admitted.append(ticket)
        return admitted

    def _next_tenant(self) -> str | None:
        """Return the waiting tenant that holds fewest slots, and of several the one that was served longest ago."""
        most = self._slots - self._reserved if len(self._seen) > 1 else self._slots
        below = [
            tenant
            for tenant, waiting in self._waiting.items()
            # One that holds nothing may always begin, also with a request of more slots than it should take.
            if not self._held[tenant] or self._held[tenant] + waiting[0].slots <= most
        ]
        return min(below, key=lambda tenant: self._held[tenant], default=None)
