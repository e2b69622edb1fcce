"""Works the publication jobs of all tenants in the background: those of this server, and those that another one left.

The jobs and their claims are in the store (`PublicationJobRepository`). `VersionPublisher` knows how one is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import uuid4

import structlog

from mindprint.types import Manifest, Publication, PublicationState, Version
from mindprint.types.keys import VersionRef
from mindprint_server.adapters.publisher import VersionPublisher
from mindprint_server.adapters.storage import AdapterStorage
from mindprint_server.context import ServerContext
from mindprint_server.engine import EngineDied
from mindprint_server.exceptions import ArtifactUnavailable, Busy, Invalid, StorageFull
from mindprint_server.operation.supervision import describe, retry_delay_s
from mindprint_server.settings import Settings
from mindprint_server.store import LeaseLost, OpenPublication, PublicationRecord, RecordNotFound, StoreBusy, StoreError
from mindprint_server.tenancy import in_tenant

log = structlog.get_logger(__name__)
WAITS = (Busy, StorageFull, StoreBusy)
"""Errors that say nothing about the upload: a slot, a disk or the database has to become free."""


@dataclass
class Wait:
    """A job whose last try ended because something was busy. Its next try does not count.

    Attributes:
        since: Time of the first such try, in seconds of the monotonic clock.
        until: Time before which this server does not begin with it again.
    """

    since: float
    until: float


class ClaimLost(Exception):
    """Another server has taken the job over, or it has ended."""


class PublicationService:
    """Takes uploads, and works the publication jobs of all tenants until they end.

    Args:
        ctx: Settings, store and supervisor of the server.
        publisher: Does one job.
        storage: Keeps the files of versions.
        follow: Called with a version that is published: it moves the pointers of this process.
    """

    def __init__(
        self,
        ctx: ServerContext,
        *,
        publisher: VersionPublisher,
        storage: AdapterStorage,
        follow: Callable[[Version], Awaitable[None]],
    ) -> None:
        self.owner = uuid4().hex
        self._settings = ctx.settings
        self._store = ctx.store
        self._supervisor = ctx.supervisor
        self._publisher = publisher
        self._storage = storage
        self._follow = follow
        # A publication holds a slot for the new version and may wait for one for the live version. At most half of the
        # slots are taken by new versions, so that publications cannot block each other.
        self._max_running = max(1, ctx.settings.max_cpu_loras // 2)
        self._running: dict[str, tuple[str, asyncio.Task[None]]] = {}
        """Tenant and task by job."""
        self._claimed: set[str] = set()
        """Jobs that this server works and holds in the store."""
        self._waits: dict[str, Wait] = {}
        self._wake = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to work the jobs."""
        ttl_s, start_loop = self._settings.publication_claim_ttl_s, self._supervisor.start_loop
        self._loops = [
            start_loop("publications", self._begin_jobs, self._wait),
            start_loop("publication heartbeat", self._extend, partial(asyncio.sleep, ttl_s / 3)),
        ]

    async def stop(self) -> None:
        """Stop the work. The jobs go on at other servers, or when this one starts again."""
        tasks = [*self._loops, *(task for _, task in self._running.values())]
        tenants = {tenant for tenant, _ in self._running.values()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for tenant in tenants:
            # A store that is away now must not keep the server from stopping: the claims end at their deadline.
            with contextlib.suppress(StoreError), in_tenant(tenant):
                await self._store.publication_jobs.give_back(self.owner)

    async def accept(self, lease_id: str, manifest: Manifest, config: bytes, weights: Path) -> Publication:
        """Validate an upload, store it, and begin to check it. See `VersionPublisher.accept`.

        Args:
            lease_id: The lease that the version was trained under.
            manifest: What the trainer says about the version.
            config: Content of adapter_config.json.
            weights: The uploaded safetensors file; it is moved.

        Returns:
            The job, with its result if it has ended.

        Raises:
            Invalid: The files cannot be served.
            ArtifactUnavailable: The files cannot be stored.
            LeaseLost: The lease has ended.
            PublicationConflict: Other weights were uploaded for the lease.
        """
        job = await self._publisher.accept(lease_id, manifest, config, weights)
        self._wake.set()
        return await self._with_result(job)

    async def get(self, publication_id: str) -> Publication:
        """Return a job, with its version once it is published.

        Raises:
            RecordNotFound: There is no such job.
        """
        return await self._with_result(await self._store.publication_jobs.get(publication_id))

    async def _with_result(self, job: PublicationRecord) -> Publication:
        if job.state != "published":
            return job
        # An erasure may have deleted the version.
        with contextlib.suppress(RecordNotFound):
            return job.model_copy(update={"result": await self._store.versions.get(job.adapter, job.version)})
        return job

    # --- the loops ---

    async def _begin_jobs(self) -> bool:
        """Begin with jobs that no server holds, as many as may run here."""
        self._wake.clear()
        if len(self._running) < self._max_running:
            now = time.monotonic()
            running = Counter(tenant for tenant, _ in self._running.values())
            for job in in_turn(await self._store.publication_jobs.list_claimable(), running):
                # One that waits leaves its place to the others.
                is_due = job.id not in self._waits or self._waits[job.id].until <= now
                if len(self._running) < self._max_running and job.id not in self._running and is_due:
                    self._begin(job)
        return True

    def _begin(self, job: OpenPublication) -> None:
        with in_tenant(job.tenant):
            work = partial(self._work, job.id)
            # One bad publication must not take the server out of service. The store has probes of its own.
            task = self._supervisor.start_job("publication", work, affects_readiness=False)
        self._running[job.id] = job.tenant, task
        task.add_done_callback(lambda _: self._end(job.id))

    def _end(self, publication_id: str) -> None:
        self._running.pop(publication_id, None)
        self._claimed.discard(publication_id)
        self._wake.set()

    async def _wait(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.publication_poll_s):
                await self._wake.wait()

    async def _extend(self) -> bool:
        """Extend the claims, and stop the work on jobs that have ended or that another server has taken over."""
        by_tenant: dict[str, list[str]] = {}
        for id, (tenant, _) in self._running.items():
            if id in self._claimed:
                by_tenant.setdefault(tenant, []).append(id)
        for tenant, ids in by_tenant.items():
            with in_tenant(tenant):
                ttl_s = self._settings.publication_claim_ttl_s
                lost = await self._store.publication_jobs.extend(self.owner, ids, ttl_s=ttl_s)
            for id in lost & self._running.keys() & self._claimed:
                log.info("work on a publication stopped: it has ended, or another server goes on", publication=id)
                self._running[id][1].cancel()
        return True

    # --- one job ---

    async def _work(self, publication_id: str) -> None:
        """Try a job once. Only errors of the store at its claim or its end are raised: the supervisor tries again."""
        settings = self._settings
        job = await self._store.publication_jobs.claim(
            publication_id,
            self.owner,
            ttl_s=settings.publication_claim_ttl_s,
            is_try=publication_id not in self._waits,
        )
        waited = self._waits.pop(publication_id, None)
        if job is None:
            return
        self._claimed.add(job.id)
        if job.artifact is None:
            await self._give_up(job, "publication_failed", WITHOUT_FILES)
            return
        if job.tries > settings.max_publication_tries:
            await self._give_up(job, "publication_failed", failed_for_good(job, "the server ended"))
            return
        try:
            async with asyncio.timeout(settings.max_publication_s) as bound:
                version = await self._publisher.run(job, partial(self._begin_step, job.id))
        except (Invalid, ClaimLost):
            return  # the refused version is stored, or another server goes on
        except LeaseLost as error:
            await self._give_up(job, error.code, error.message)
        except EngineDied:
            return  # The process ends, and the next one goes on once the claim has ended: one try, not several.
        except Exception as error:
            self._supervisor.report("publication", error)
            now = time.monotonic()
            wait = Wait(waited.since if waited else now, now + settings.publication_poll_s)
            if isinstance(error, TimeoutError) and bound.expired():
                await self._give_up(job, "publication_too_slow", too_slow(settings.max_publication_s))
            elif is_last_try(error, job, settings, waited_s=now - wait.since):
                await self._give_up(job, "publication_failed", failed_for_good(job, describe(error)))
            elif isinstance(error, WAITS):
                self._waits[job.id] = wait
                # Another server may have what this one lacks, such as the files.
                self._claimed.discard(job.id)
                await self._store.publication_jobs.give_back(self.owner, job.id)
            else:
                await self._defer(job)
        else:
            await self._follow(version)

    async def _defer(self, job: PublicationRecord) -> None:
        """Let the claim of a job that failed run out at its next try. Any server begins with it then."""
        settings = self._settings
        delay_s = retry_delay_s(
            job.tries,
            min_s=settings.publication_retry_min_s,
            max_s=settings.publication_retry_max_s,
            jitter=random.random(),
        )
        # The heartbeat would extend the claim.
        self._claimed.discard(job.id)
        await self._store.publication_jobs.extend(self.owner, [job.id], ttl_s=delay_s)

    async def _begin_step(self, publication_id: str, state: PublicationState) -> None:
        if not await self._store.publication_jobs.begin_step(publication_id, self.owner, state):
            raise ClaimLost

    async def _give_up(self, job: PublicationRecord, code: str, message: str) -> None:
        """End a job without a version, and remove its files."""
        name = VersionRef.of(job.adapter, job.version)
        log.error("a publication was given up", adapter=name, code=code, why=message, tries=job.tries)
        attempts = self._settings.max_attempts
        # The heartbeat would take the ended job for one that is lost, and stop the removal of the files.
        self._claimed.discard(job.id)
        artifact = await self._store.publication_jobs.fail(job.id, code=code, message=message, max_attempts=attempts)
        if artifact is None:
            return
        try:
            await self._storage.remove_artifact(artifact)
        except ArtifactUnavailable as error:
            log.warning("files of a failed publication were not removed", adapter=name, why=error.message)


WITHOUT_FILES = "its files are gone, as after a restore of a backup that was made while it ended: train again"


def is_last_try(error: Exception, job: Publication, settings: Settings, *, waited_s: float) -> bool:
    """Return whether a job is given up after an error.

    What is busy, such as the store or a slot, is waited for up to `max_publication_s`. Other errors count as tries.

    Args:
        error: How the try ended.
        job: The job.
        settings: The bounds.
        waited_s: Seconds since the first try in a row that found something busy.
    """
    if isinstance(error, WAITS):
        return waited_s > settings.max_publication_s
    return job.tries >= settings.max_publication_tries


def too_slow(bound_s: float) -> str:
    """Describe a publication that took longer than its bound."""
    return f"the checks of the upload took longer than {bound_s:g} s: train again, or raise max_publication_s"


def failed_for_good(job: Publication, why: str) -> str:
    """Describe a publication whose last try failed."""
    return (
        f"the checks of the upload failed {job.tries} times, the last time with: {why}; "
        "look at the server's log for `publication`, remove the cause, and train again"
    )


def in_turn(jobs: Iterable[OpenPublication], running: Mapping[str, int]) -> list[OpenPublication]:
    """Return jobs in the order in which they begin: that of the tenant with the fewest before it first.

    Args:
        jobs: What may begin, oldest first.
        running: Number of running jobs by tenant.
    """
    before = Counter(running)
    places = list[tuple[int, OpenPublication]]()
    for job in jobs:
        places.append((before[job.tenant], job))
        before[job.tenant] += 1
    return [job for _, job in sorted(places, key=lambda place: place[0])]
