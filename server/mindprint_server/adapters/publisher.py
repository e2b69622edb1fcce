"""Publishes a new version: from a trainer's upload to a live version, a canary, or a refusal.

`VersionPublisher.accept` validates an upload and stores it as a job. `run` is the rest of the protocol: load, parity
check, gate, prefetch, commit. `publications.py` calls it, at once or after a restart, and moves the pointers of this
process afterwards (`AdapterService.follow`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import structlog

from mindprint.types import Check, Lease, Manifest, PublicationState, Version
from mindprint.types.keys import AdapterKey, VersionRef
from mindprint_server.adapters.parity_check import ParityBounds, check_parity
from mindprint_server.adapters.prefetch import PrefixPrefetcher
from mindprint_server.adapters.residency import AdapterResidency
from mindprint_server.adapters.storage import AdapterStorage
from mindprint_server.adapters.validation import ServedModel, check_upload, list_layers
from mindprint_server.context import ServerContext
from mindprint_server.engine import AdapterRef
from mindprint_server.exceptions import ArtifactUnavailable, Invalid
from mindprint_server.sharing.admission import AdmissionController
from mindprint_server.store import (
    LeaseLost,
    LeaseRevoked,
    PublicationConflict,
    PublicationRecord,
    StoreBusy,
    VersionRecord,
)
from mindprint_server.tenancy import current_tenant

log = structlog.get_logger(__name__)
BeginStep = Callable[[PublicationState], Awaitable[None]]
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
        self._store = ctx.store
        self._engine = ctx.engine
        self._metrics = ctx.metrics
        self._storage = storage
        self._residency = residency
        self._gate = gate
        self._prefetcher = prefetcher
        self._admission = admission
        self._uploads: dict[str, asyncio.Lock] = {}

    async def accept(self, lease_id: str, manifest: Manifest, config: bytes, weights: Path) -> PublicationRecord:
        """Validate an upload, store it durably, and return its job. A repeated upload gets the job of the first one.

        Args:
            lease_id: The lease that the version was trained under.
            manifest: What the trainer says about the version.
            config: Content of adapter_config.json.
            weights: The uploaded safetensors file; it is moved.

        Raises:
            Invalid: The files cannot be served.
            ArtifactUnavailable: The files cannot be stored.
            LeaseLost: The lease has ended.
            PublicationConflict: Other weights were uploaded for the lease.
        """
        async with self._one_at_a_time(lease_id):
            if (known := await self._store.publication_jobs.find_of_lease(lease_id)) is not None:
                return _check_same(known, manifest)
            lease = await self._store.leases.get(lease_id)
            if lease.state == "revoked":
                raise LeaseRevoked(lease.id, lease.revoked_by or "")
            if lease.state != "active":
                raise LeaseLost(lease.id, f"it is {lease.state}")
            await self._validate(lease, manifest, config, weights)
            version = await self._store_files(lease, manifest, config, weights)
            async with self._files_removed_on_error(version):
                job = await self._store.publication_jobs.add(lease_id, version)
            if job.artifact != version.artifact:  # another server was faster
                await self._remove_files(version)
            return job

    async def run(self, job: PublicationRecord, begin_step: BeginStep) -> Version:
        """Check an uploaded version and take it into service. It may be done again from its beginning.

        Args:
            job: The job, claimed by this server.
            begin_step: Called before each step.

        Returns:
            The version, live or as the canary.

        Raises:
            Invalid: The version failed a check; it is stored as refused, and the job has ended.
            ArtifactUnavailable: The files cannot be read now.
            Busy: No slot came free in time.
            LeaseLost: The lease has ended otherwise.
        """
        with self._refusals_counted():
            lease = await self._store.leases.get(job.lease_id)
            await self._check_base(_version_of(job, lease), lease.id)
            await begin_step("loading")
            async with self._load(_version_of(job, lease), lease.id) as adapter:
                await begin_step("parity_check")
                version = await self._check_parity(_version_of(job, lease), adapter)
                await begin_step("gate")
                version = await self._evaluate(version, adapter, lease.held_out)
                await self._raise_if_refused(version, lease.id)
                await self._prefetcher.prefetch(adapter)
                return await self._commit(version, lease.id)

    # --- the steps ---

    async def _validate(self, lease: Lease, manifest: Manifest, config: bytes, weights: Path) -> None:
        info, settings = self._engine.info(), self._settings
        layers = await asyncio.to_thread(list_layers, weights, settings=settings)
        served = ServedModel(
            base_digest=info.base_digest,
            shapes=await self._engine.layer_shapes(layers),
            vocab_size=self._engine.tokenizer.vocab_size,
            max_model_len=info.max_model_len,
            max_rank=settings.max_lora_rank,
            targets=settings.target_modules,
            ignored_options=self._engine.ignored_adapter_options,
        )
        await asyncio.to_thread(check_upload, lease, manifest, config, weights, served=served, settings=settings)

    async def _store_files(self, lease: Lease, manifest: Manifest, config: bytes, weights: Path) -> VersionRecord:
        number, engine_id = await self._store.versions.allocate(lease.adapter)
        manifest_json = manifest.model_dump_json(indent=1)
        artifact = await self._storage.write(engine_id, weights=weights, config=config, manifest=manifest_json)
        return _version(lease, manifest, number, engine_id, artifact)

    async def _check_base(self, version: VersionRecord, lease_id: str) -> None:
        """Refuse a version of another base model: the server may have started with another one since the upload."""
        if version.base_digest != (served := self._engine.info().base_digest):
            detail = f"trained on {version.base_digest[:23]}…, served is {served[:23]}…"
            check = Check(name="base_model", passed=False, detail=detail)
            await self._raise_if_refused(add_checks(version, [check]), lease_id)

    @asynccontextmanager
    async def _load(self, version: VersionRecord, lease_id: str) -> AsyncIterator[AdapterRef]:
        """Keep the version loaded during the block. It is unloaded afterwards, unless `_commit` keeps it.

        A version that the engine refuses ends the lease as one that fails a check: another upload of the same weights
        would be refused again.
        """
        async with AsyncExitStack() as stack:
            adapter = await stack.enter_async_context(self._storage.open(version))
            try:
                await stack.enter_async_context(self._residency.pin_for_request(adapter))
            except ValueError as error:
                await self._storage.check(version)
                check = Check(name="load", passed=False, detail=str(error)[:MAX_DETAIL_CHARS])
                await self._raise_if_refused(add_checks(version, [check]), lease_id)
                raise
            except OSError as error:
                raise unreadable(adapter, error) from error
            yield adapter

    async def _check_parity(self, version: VersionRecord, adapter: AdapterRef) -> VersionRecord:
        bounds = ParityBounds.of(self._settings)
        result = await check_parity(
            self._engine,
            adapter,
            version.manifest.parity_items,
            bounds=bounds,
            wait_until_idle=self._admission.wait_until_idle,
        )
        self._metrics.parity_checks.labels(result="passed" if result.passed else "failed").inc()
        log.info("parity check", adapter=adapter.name, **result.model_dump())
        check = Check(
            name="parity",
            value=result.against_trainer,
            bound=bounds.tolerance,
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
        live = pointers.live
        try:
            ref = await stack.enter_async_context(self._storage.open(live))
            return await stack.enter_async_context(self._residency.pin_for_request(ref, pinned=live.pinned))
        except (ValueError, OSError, ArtifactUnavailable) as error:
            name = VersionRef.of(live.adapter, live.version)
            log.error("the live version cannot be loaded: evaluated without it", adapter=name, why=str(error))
            return None

    async def _raise_if_refused(self, version: VersionRecord, lease_id: str) -> None:
        """Store a version that failed a check, and raise its refusal."""
        if version.state != "refused":
            return
        error = refusal(version)
        reason, attempts = (error.code, error.message), self._settings.max_attempts
        stored = await self._store.publication.refuse(lease_id, version, max_attempts=attempts, reason=reason)
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
        self._metrics.trained.labels(tenant=current_tenant()).inc(stored.traces)
        log.info("version is in service", adapter=VersionRef.of(stored.adapter, stored.version), state=stored.state)
        return stored

    # --- around the steps ---

    @asynccontextmanager
    async def _one_at_a_time(self, lease_id: str) -> AsyncIterator[None]:
        """Serialize the uploads of a lease, and count those that are refused."""
        lock = self._uploads.setdefault(lease_id, asyncio.Lock())
        try:
            with self._refusals_counted():
                async with lock:
                    yield
        finally:
            if not lock.locked():
                self._uploads.pop(lease_id, None)

    @contextmanager
    def _refusals_counted(self) -> Iterator[None]:
        try:
            yield
        except Invalid as error:
            self._metrics.adapters_refused.labels(reason=error.code).inc()
            raise

    @asynccontextmanager
    async def _files_removed_on_error(self, version: VersionRecord) -> AsyncIterator[None]:
        """Remove the files if the block fails before the store knows the job."""
        try:
            yield
        except StoreBusy:
            # The row may have been committed all the same. Files without a row are removed later, as orphans.
            raise
        except Exception:
            await self._remove_files(version)
            raise

    async def _remove_files(self, version: VersionRecord) -> None:
        try:
            await self._storage.remove(version)
        except ArtifactUnavailable as error:
            log.warning("files of a failed upload were not removed", adapter=version.adapter, why=error.message)


def unreadable(adapter: AdapterRef, error: OSError) -> ArtifactUnavailable:
    """Return the error for files that were verified, but that the engine could not read."""
    return ArtifactUnavailable(f"the files of {adapter.name} cannot be read", error.strerror or type(error).__name__)


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
    if other := [check for check in version.checks if check.name == "base_model"]:
        message = (
            f"{name} is of another base model than the one served now ({other[0].detail}): train on the served one"
        )
        return Invalid("adapter_base_model", message)
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


def _check_same(known: PublicationRecord, manifest: Manifest) -> PublicationRecord:
    """Return a known job, if it is of these weights."""
    if known.digest != weights_digest(manifest):
        raise PublicationConflict(known.lease_id, known.digest)
    return known


def _version_of(job: PublicationRecord, lease: Lease) -> VersionRecord:
    if job.manifest is None:
        raise LeaseLost(lease.id, "its publication has ended")
    return _version(lease, job.manifest, job.version, job.engine_id, job.artifact)


def _version(lease: Lease, manifest: Manifest, number: int, engine_id: int, artifact: str | None) -> VersionRecord:
    return VersionRecord(
        adapter=lease.adapter,
        version=number,
        engine_id=engine_id,
        artifact=artifact,
        state="live",
        digest=weights_digest(manifest),
        base_digest=manifest.base_digest,
        parent=lease.parent,
        start=VersionRef.of(lease.start.adapter, lease.start.version) if lease.start else None,
        traces=len(lease.trace_ids),
        manifest=manifest,
        created_at=datetime.now(UTC),
    )


def weights_digest(manifest: Manifest) -> str:
    """Return the digest that names the weights of a version."""
    return f"sha256:{manifest.weights_sha256}"
