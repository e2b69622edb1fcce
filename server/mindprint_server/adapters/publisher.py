"""Publishes a new version: from a trainer's upload to a live version, a canary, or a refusal.

`VersionPublisher.publish` is the whole protocol in seven steps. The caller of the publisher moves the pointers of this
process afterwards (`AdapterService.publish`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Protocol

import structlog

from mindprint.types import Check, Lease, Manifest, Version
from mindprint.types.keys import AdapterKey, VersionRef
from mindprint_server.adapters.parity_check import check_parity
from mindprint_server.adapters.prefetch import PrefixPrefetcher
from mindprint_server.adapters.residency import AdapterResidency
from mindprint_server.adapters.storage import AdapterStorage
from mindprint_server.adapters.validation import ServedModel, Shapes, check_upload, read_base_shapes
from mindprint_server.admission import AdmissionController
from mindprint_server.context import ServerContext
from mindprint_server.engine import AdapterRef
from mindprint_server.exceptions import Busy, Invalid
from mindprint_server.store import LeaseLost, RecordNotFound, VersionRecord

log = structlog.get_logger(__name__)
MAX_DETAIL_CHARS = 400
"""Characters of the engine's own words that are stored with a version."""


class VersionGate(Protocol):
    """What the publisher needs of `gate.Gate`."""

    async def evaluate(
        self, version: AdapterRef, live: AdapterRef | None, held_out: Mapping[str, Sequence[str]]
    ) -> list[Check]:
        """Run the gate's checks on a version."""
        ...


class VersionPublisher:
    """Takes uploaded versions through all checks and into the store.

    Args:
        ctx: Settings, store, engine and metrics of the server.
        storage: Keeps the files.
        residency: Loads the version into the engine.
        gate: Evaluates the loaded version.
        prefetcher: Prefills the user's memory through the version.
        admission: Knows when no interactive request runs; the parity check waits for that.
    """

    def __init__(
        self,
        ctx: ServerContext,
        *,
        storage: AdapterStorage,
        residency: AdapterResidency,
        gate: VersionGate,
        prefetcher: PrefixPrefetcher,
        admission: AdmissionController,
    ) -> None:
        self._settings = ctx.settings
        self._supervisor = ctx.supervisor
        self._store = ctx.store
        self._engine = ctx.engine
        self._metrics = ctx.metrics
        self._storage = storage
        self._residency = residency
        self._gate = gate
        self._prefetcher = prefetcher
        self._admission = admission
        self._base_shapes: Shapes = {}
        self._uploads: dict[str, asyncio.Lock] = {}
        # A publication holds a slot for the new version and may wait for one for the live version. At most half of the
        # slots are taken by new versions, so that publications cannot block each other.
        self._publications = asyncio.Semaphore(max(1, ctx.settings.max_cpu_loras // 2))

    async def start(self) -> None:
        """Read the tensor shapes of the base model."""
        folder = Path(self._engine.info().model_path)
        self._base_shapes = await asyncio.to_thread(read_base_shapes, folder)

    async def publish(self, lease_id: str, manifest: Manifest, config: bytes, weights: Path) -> Version:
        """Publish the version that was trained under a lease. A repeated upload has the result of the first one.

        Args:
            lease_id: The lease.
            manifest: What the trainer says about the version.
            config: Content of adapter_config.json.
            weights: The uploaded safetensors file; it is moved.

        Returns:
            The version, live or as the canary.

        Raises:
            Invalid: The files cannot be served, or the version failed a check.
            Busy: No slot came free in time.
            LeaseLost: The lease has ended.
        """
        async with self._one_at_a_time(lease_id):
            lease = await self._store.leases.get(lease_id)
            if lease.state != "active":
                return await self._find_published(lease, manifest)
            await self._validate(lease, manifest, config, weights)
            version = await self._store_files(lease, manifest, config, weights)
            async with self._secured(version, lease_id), self._load(version, lease_id) as adapter:
                version = await self._check_parity(version, adapter)
                version = await self._evaluate(version, adapter, lease.held_out)
                await self._raise_if_refused(version, lease_id)
                await self._prefetcher.prefetch(adapter)
                return await self._commit(version, lease_id)

    # --- the steps ---

    async def _validate(self, lease: Lease, manifest: Manifest, config: bytes, weights: Path) -> None:
        info, settings = self._engine.info(), self._settings
        served = ServedModel(
            base_digest=info.base_digest,
            shapes=self._base_shapes,
            vocab_size=self._engine.tokenizer.vocab_size,
            max_model_len=info.max_model_len,
            max_rank=settings.max_lora_rank,
            targets=settings.target_modules,
        )
        await asyncio.to_thread(check_upload, lease, manifest, config, weights, served=served, settings=settings)

    async def _store_files(self, lease: Lease, manifest: Manifest, config: bytes, weights: Path) -> VersionRecord:
        number, engine_id = await self._store.versions.allocate(lease.adapter)
        manifest_json = manifest.model_dump_json(indent=1)
        await asyncio.to_thread(
            self._storage.write, lease.adapter, number, weights=weights, config=config, manifest=manifest_json
        )
        return VersionRecord(
            adapter=lease.adapter,
            version=number,
            engine_id=engine_id,
            state="live",
            digest=_digest(manifest),
            base_digest=manifest.base_digest,
            parent=lease.parent,
            start=VersionRef.of(lease.start.adapter, lease.start.version) if lease.start else None,
            traces=len(lease.trace_ids),
            manifest=manifest,
            created_at=datetime.now(UTC),
        )

    @asynccontextmanager
    async def _load(self, version: VersionRecord, lease_id: str) -> AsyncIterator[AdapterRef]:
        """Keep the version loaded during the block. It is unloaded afterwards, unless `_commit` keeps it.

        A version that the engine refuses ends the lease as one that fails a check: another upload of the same weights
        would be refused again.
        """
        async with AsyncExitStack() as stack:
            try:
                adapter = await stack.enter_async_context(self._residency.pin_for_request(self._storage.ref(version)))
            except ValueError as error:
                check = Check(name="load", passed=False, detail=str(error)[:MAX_DETAIL_CHARS])
                await self._raise_if_refused(add_checks(version, [check]), lease_id)
                raise
            except OSError as error:
                log.error("stored adapter files cannot be read", adapter=version.adapter, why=str(error))
                raise Busy("adapter_files_unreadable", "the stored files cannot be read: upload again") from error
            yield adapter

    async def _check_parity(self, version: VersionRecord, adapter: AdapterRef) -> VersionRecord:
        tolerance = self._settings.parity_tolerance_nats
        result = await check_parity(
            self._engine,
            adapter,
            version.manifest.parity_items,
            tolerance=tolerance,
            min_shift=self._settings.parity_min_shift_nats,
            wait_until_idle=self._admission.wait_until_idle,
        )
        self._metrics.parity_checks.labels(result="passed" if result.passed else "failed").inc()
        log.info("parity check", adapter=adapter.name, **result.model_dump())
        check = Check(
            name="parity",
            value=result.against_trainer,
            bound=tolerance,
            passed=result.passed,
            detail=result.reason or f"nats a token from the trainer's; {result.against_base:.4f} from the base",
        )
        return add_checks(version.model_copy(update={"parity": result}), [check])

    async def _evaluate(
        self, version: VersionRecord, adapter: AdapterRef, held_out: Mapping[str, Sequence[str]]
    ) -> VersionRecord:
        """Run the gate, with the live version as a reference. A version that failed the parity check skips it."""
        if version.state == "refused":
            return version
        async with AsyncExitStack() as stack:
            # With a single slot the live version cannot be loaded beside the new one.
            live = await self._load_live(version.adapter, stack) if self._settings.max_cpu_loras > 1 else None
            checks = await self._gate.evaluate(adapter, live, held_out)
        log.info("gate", adapter=adapter.name, checks={check.name: check.value for check in checks})
        return add_checks(version, checks)

    async def _load_live(self, key: str, stack: AsyncExitStack) -> AdapterRef | None:
        """Keep the version loaded that a new version of `key` would replace; for a user it may be a cohort's."""
        adapter = AdapterKey(key)
        _, pointers = (
            await self._store.live_versions.resolve_for_user(adapter.name)
            if adapter.kind == "user"
            else (key, await self._store.live_versions.get(key))
        )
        if pointers.live is None or pointers.live.base_digest != self._engine.info().base_digest:
            return None
        ref = self._storage.ref(pointers.live)
        try:
            return await stack.enter_async_context(self._residency.pin_for_request(ref, pinned=pointers.live.pinned))
        except (ValueError, OSError) as error:
            log.error("the live version cannot be loaded: evaluated without it", adapter=ref.name, why=str(error))
            return None

    async def _raise_if_refused(self, version: VersionRecord, lease_id: str) -> None:
        """Store a version that failed a check, and raise its refusal."""
        if version.state != "refused":
            return
        stored = await self._store.publication.refuse(lease_id, version, max_attempts=self._settings.max_attempts)
        failed = [check.name for check in failed_checks(stored)]
        for check in failed:
            self._metrics.gate_refusals.labels(check=check).inc()
        log.warning("version refused", adapter=VersionRef.of(version.adapter, version.version), failed=failed)
        raise refusal(stored)

    async def _commit(self, version: VersionRecord, lease_id: str) -> Version:
        """Store the version as live or as the canary; the traces are trained in the same transaction."""
        share = self._settings.canary_share or None
        stored = await self._store.publication.publish(lease_id, version, canary_share=share)
        self._residency.keep(stored.adapter, stored.version)
        self._metrics.trained.inc(stored.traces)
        log.info("version is in service", adapter=VersionRef.of(stored.adapter, stored.version), state=stored.state)
        return stored

    # --- around the steps ---

    @asynccontextmanager
    async def _one_at_a_time(self, lease_id: str) -> AsyncIterator[None]:
        """Serialize the uploads of a lease, and count those that are refused."""
        lock = self._uploads.setdefault(lease_id, asyncio.Lock())
        try:
            async with lock:
                yield
        except Invalid as error:
            self._metrics.adapters_refused.labels(reason=error.code).inc()
            raise
        finally:
            if not lock.locked():
                self._uploads.pop(lease_id, None)

    async def _find_published(self, lease: Lease, manifest: Manifest) -> Version:
        """Return the version of an earlier upload with the same content, or raise its refusal.

        Raises:
            LeaseLost: There was no such upload.
        """
        try:
            known = (await self._store.adapters.get(lease.adapter)).versions
        except RecordNotFound:
            known = []
        for version in reversed(known):
            if (version.digest, version.manifest.trace_ids) != (_digest(manifest), manifest.trace_ids):
                continue
            if lease.state == "completed" and version.version == lease.version:
                return version
            if lease.state == "released" and version.state == "refused":
                raise refusal(version)
        raise LeaseLost(lease.id, f"it is {lease.state}")

    @asynccontextmanager
    async def _secured(self, version: VersionRecord, lease_id: str) -> AsyncIterator[None]:
        """Extend the lease, wait for a place among the publications, and remove the files if the block fails."""
        async with self._files_removed_on_error(version), self._lease_extended(lease_id), self._publications:
            yield

    @asynccontextmanager
    async def _lease_extended(self, lease_id: str) -> AsyncIterator[None]:
        """Extend the lease during the block, so that a complete upload is not lost if its trainer dies."""
        ttl = self._settings.lease_extension_s

        async def extend() -> bool:
            try:
                lease = await self._store.leases.get(lease_id)
                if lease.deadline - datetime.now(UTC) < timedelta(seconds=ttl):
                    await self._store.leases.heartbeat(lease_id, ttl)
            except (LeaseLost, RecordNotFound):
                return False  # noticed when the version is stored
            return True

        extending = self._supervisor.start_loop("lease extension", extend, partial(asyncio.sleep, ttl / 3))
        try:
            yield
        finally:
            extending.cancel()
            await asyncio.gather(extending, return_exceptions=True)

    @asynccontextmanager
    async def _files_removed_on_error(self, version: VersionRecord) -> AsyncIterator[None]:
        """Remove the files if the block fails before the store knows the version."""
        try:
            yield
        except Exception:
            try:
                await self._store.versions.get(version.adapter, version.version)
            except RecordNotFound:
                await asyncio.to_thread(self._storage.remove, version.adapter, version.version)
            raise


def add_checks(version: VersionRecord, checks: Sequence[Check]) -> VersionRecord:
    """Return the version with further checks. It is refused if one of them failed."""
    state = "refused" if any(check.passed is False for check in checks) else version.state
    return version.model_copy(update={"checks": [*version.checks, *checks], "state": state})


def failed_checks(version: Version) -> list[Check]:
    """Return the checks that a version failed."""
    return [check for check in version.checks if check.passed is False]


def refusal(version: Version) -> Invalid:
    """Return the error for a refused version, with the figures of the checks that it failed."""
    name = VersionRef.of(version.adapter, version.version)
    if version.parity is not None and not version.parity.passed:
        message = (
            f"{name} failed the parity check ({version.parity.reason}): train its traces again, and compare the "
            "trainer's base model and precision with the server's if it fails again"
        )
        return Invalid("parity_failed", message)
    if unloaded := [check for check in version.checks if check.name == "load"]:
        message = f"the engine cannot load {name} ({unloaded[0].detail}): train its traces again"
        return Invalid("adapter_load", message)
    reasons = "; ".join(describe(check) for check in failed_checks(version))
    return Invalid(
        "gate_failed", f"{name} failed the gate ({reasons}): train again, or promote it by number to use it anyway"
    )


def describe(check: Check) -> str:
    """Describe a failed check, such as `collapse 0.41, bound 0.1 (thinking looped)`."""
    figures = [
        f"{label}{figure:.4g}" for label, figure in (("", check.value), ("bound ", check.bound)) if figure is not None
    ]
    detail = f" ({check.detail})" if check.detail else ""
    return f"{check.name} {', '.join(figures)}".rstrip() + detail


def _digest(manifest: Manifest) -> str:
    return f"sha256:{manifest.weights_sha256}"
