"""A new version, from upload to pointer: checked, placed, proved, examined; then live, a candidate, or refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

import structlog

from mindprint.types import Check, Lease, Manifest, Version
from mindprint_server.adapters import parity_check, storage, validation
from mindprint_server.adapters.residency import AdapterResidency
from mindprint_server.adapters.storage import AdapterFiles
from mindprint_server.admission import Lull
from mindprint_server.context import ServerContext
from mindprint_server.engine import AdapterRef
from mindprint_server.exceptions import Invalid
from mindprint_server.store import LeaseLost, RecordNotFound, StoreError, VersionRecord

log = structlog.get_logger(__name__)


class Examiner(Protocol):
    """The gate, as far as it is needed here."""

    async def evaluate(
        self, candidate: AdapterRef, live: AdapterRef | None, held_out: Mapping[str, Sequence[str]]
    ) -> list[Check]:
        """What it finds, on engagements (by user) that no training saw. Both versions are in the engine."""
        ...


class Reader(Protocol):
    """Reads ahead what a version's first question will need."""

    async def warm(self, adapter: AdapterRef) -> None: ...


class VersionPublisher:
    """`lull()` is awaited before each step of a proof; `moved(key)` whenever a version is live or a candidate."""

    def __init__(
        self,
        ctx: ServerContext,
        *,
        files: AdapterFiles,
        residents: AdapterResidency,
        gate: Examiner | None,
        warmer: Reader | None,
        lull: Lull,
        moved: Callable[[str], Awaitable[None]],
    ) -> None:
        self._settings = ctx.settings
        self._store = ctx.store
        self._engine = ctx.engine
        self._metrics = ctx.metrics
        self._files = files
        self._residents = residents
        self._gate = gate
        self._warmer = warmer
        self._lull = lull
        self._moved = moved
        self._base_shapes: validation.Shapes = {}
        self._completing: dict[str, asyncio.Lock] = {}
        # A proof holds a version and may wait for another one's place: no more of them than leave one such place free.
        self._proofs = asyncio.Semaphore(max(1, ctx.settings.max_cpu_loras // 2))

    async def start(self) -> None:
        """Reads the base's shapes."""
        folder = Path(self._engine.info().model_path)
        self._base_shapes = await asyncio.to_thread(validation.base_shapes, folder)

    async def complete(self, lease_id: str, manifest: Manifest, config: bytes, weights: Path) -> Version:
        """Takes a trainer's upload into service. The same upload again has the same outcome.

        Raises Invalid for files that cannot be served and for a version that does not pass, LeaseLost.
        """
        lock = self._completing.setdefault(lease_id, asyncio.Lock())
        try:
            async with lock:
                return await self._complete(lease_id, manifest, config, weights)
        except Invalid as error:
            self._metrics.adapters_refused.labels(reason=error.code).inc()
            raise
        finally:
            if not lock.locked():
                self._completing.pop(lease_id, None)

    async def _complete(self, lease_id: str, manifest: Manifest, config: bytes, weights: Path) -> Version:
        lease = await self._store.leases.get(lease_id)
        digest = f"sha256:{manifest.weights_sha256}"
        if lease.state != "active":
            return await self._again(lease, digest, manifest)
        await asyncio.to_thread(self._check, lease, manifest, config, weights)

        number, engine_id = await self._store.versions.allocate(lease.adapter)
        manifest_json = manifest.model_dump_json(indent=1)
        await asyncio.to_thread(
            self._files.write, lease.adapter, number, weights=weights, config=config, manifest=manifest_json
        )
        version = VersionRecord(
            adapter=lease.adapter,
            version=number,
            engine_id=engine_id,
            state="live",
            digest=digest,
            base_digest=manifest.base_digest,
            parent=lease.parent,
            start=f"{lease.start.adapter}@{lease.start.version}" if lease.start else None,
            traces=len(lease.trace_ids),
            manifest=manifest,
            created_at=datetime.now(UTC),
        )
        try:
            async with self._prolonged(lease_id), self._proofs:
                version = await self._enter(lease, version)
        except Exception:
            await self._forget(version)
            raise
        self._metrics.trained.inc(version.traces)
        log.info("version is in service", adapter=f"{lease.adapter}@{number}", state=version.state)
        await self._prune(lease.adapter)
        return version

    async def _again(self, lease: Lease, digest: str, manifest: Manifest) -> Version:
        """What became of an upload that came before. Raises LeaseLost if none did."""
        try:
            known = (await self._store.adapters.get(lease.adapter)).versions
        except RecordNotFound:
            known = []
        for version in reversed(known):
            if (version.digest, version.manifest.trace_ids) != (digest, manifest.trace_ids):
                continue
            if lease.state == "completed" and version.version == lease.version:
                return version
            if lease.state == "released" and version.state == "refused":
                raise refusal(version)
        raise LeaseLost(lease.id, f"it is {lease.state}")

    def _check(self, lease: Lease, manifest: Manifest, config: bytes, weights: Path) -> None:
        s = self._settings
        if manifest.adapter != lease.adapter or set(manifest.trace_ids) != set(lease.trace_ids):
            raise Invalid("manifest_mismatch", "the manifest's adapter or traces are not those of the lease")
        served = self._engine.info().base_digest
        if manifest.base_digest != served:
            raise Invalid(
                "adapter_base_model",
                f"trained on base {manifest.base_digest[:23]}…, served is {served[:23]}…: train on that",
            )
        shapes = validation.read_shapes(weights)
        parsed = validation.read_config(config, max_rank=s.max_lora_rank, targets=s.target_modules)
        validation.check_tensors(shapes, self._base_shapes, rank=parsed["r"], targets=s.target_modules)
        if validation.sha256(weights) != manifest.weights_sha256:
            raise Invalid("adapter_digest", "the weights are not those of the manifest's weights_sha256: upload again")

    async def _enter(self, lease: Lease, version: VersionRecord) -> VersionRecord:
        """Proves the version in the engine and stores it, live or as the candidate. Raises Invalid if it fails."""
        async with AsyncExitStack() as held:
            try:
                # No pointer names it yet: if anything below fails, it leaves the engine with this block.
                adapter = await held.enter_async_context(self._residents.hold(self._files.ref(version)))
            except (ValueError, OSError) as error:
                raise Invalid("adapter_load", str(error)) from error
            version = await self._prove(version, adapter)
            if version.state != "refused":
                version = await self._examine(version, adapter, lease)
            if version.state == "refused":
                version = await self._store.publication.refuse(
                    lease.id, version, max_attempts=self._settings.max_attempts
                )
                for check in failed(version):
                    self._metrics.gate_refusals.labels(check=check.name).inc()
                log.warning("version refused", adapter=adapter.name, failed=[check.name for check in failed(version)])
                raise refusal(version)
            if self._warmer is not None:
                await self._warmer.warm(adapter)
            share = self._settings.canary_share or None
            version = await self._store.publication.publish(lease.id, version, candidate_share=share)
            await self._moved(version.adapter)
        return version

    async def _prove(self, version: VersionRecord, adapter: AdapterRef) -> VersionRecord:
        tolerance = self._settings.canary_tolerance
        result = await parity_check.check_parity(
            self._engine,
            adapter,
            version.manifest.canary,
            tolerance=tolerance,
            min_shift=self._settings.canary_min_shift,
            lull=self._lull,
        )
        self._metrics.canary.labels(result="passed" if result.passed else "failed").inc()
        log.info("canary", adapter=adapter.name, **result.model_dump())
        check = Check(
            name="canary",
            value=result.against_trainer,
            bound=tolerance,
            passed=result.passed,
            detail=result.reason or f"nats a token from the trainer's; {result.against_base:.4f} from the base",
        )
        return judged(version.model_copy(update={"canary": result}), [check])

    async def _examine(self, version: VersionRecord, adapter: AdapterRef, lease: Lease) -> VersionRecord:
        """What the gate finds, beside what answers now."""
        if self._gate is None:
            return version
        async with AsyncExitStack() as held:
            live = await self._serving(version.adapter, held) if self._settings.max_cpu_loras > 1 else None
            checks = await self._gate.evaluate(adapter, live, lease.held_out)
        log.info("gate", adapter=adapter.name, checks={check.name: check.value for check in checks})
        return judged(version, checks)

    async def _serving(self, key: str, held: AsyncExitStack) -> AdapterRef | None:
        """The version that a new one of `key` would take the place of, held; for a user it may be a cohort's."""
        kind, _, name = key.partition("/")
        _, pointers = (
            await self._store.live_versions.resolve_for_user(name)
            if kind == "user"
            else (key, await self._store.live_versions.get(key))
        )
        if pointers.live is None:
            return None
        ref = self._files.ref(pointers.live)
        try:
            return await held.enter_async_context(self._residents.hold(ref, pinned=pointers.live.pinned))
        except (ValueError, OSError) as error:
            log.error("the live version cannot be loaded: examined without it", adapter=ref.name, why=str(error))
            return None

    @asynccontextmanager
    async def _prolonged(self, lease_id: str) -> AsyncIterator[None]:
        """Keeps the lease while the block runs: what has arrived whole is not lost because its trainer goes away."""
        ttl = self._settings.lease_extension_s

        async def beat() -> None:
            while True:
                with suppress(StoreError):  # it has ended, or the store is busy: storing the version will tell
                    lease = await self._store.leases.get(lease_id)
                    if lease.deadline - datetime.now(UTC) < timedelta(seconds=ttl):
                        await self._store.leases.heartbeat(lease_id, ttl)
                await asyncio.sleep(ttl / 3)

        beating = asyncio.create_task(beat())
        try:
            yield
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)

    async def _forget(self, version: Version) -> None:
        """Removes the files of a number that never became a version."""
        try:
            await self._store.versions.get(version.adapter, version.version)
        except RecordNotFound:
            await asyncio.to_thread(self._files.remove, version.adapter, version.version)

    async def _prune(self, key: str) -> None:
        """Only tidying up: the new version is in service whether or not it succeeds."""
        try:
            await storage.prune(self._store, self._files, self._residents, key, self._settings.keep_versions)
        except (StoreError, OSError) as error:
            log.warning("old versions were not removed", adapter=key, why=str(error))


# --- pure --------------------------------------------------------------------------


def judged(version: VersionRecord, checks: Sequence[Check]) -> VersionRecord:
    """The version with these checks too; refused if one of them failed."""
    state = "refused" if any(check.passed is False for check in checks) else version.state
    return version.model_copy(update={"checks": [*version.checks, *checks], "state": state})


def failed(version: Version) -> list[Check]:
    return [check for check in version.checks if check.passed is False]


def refusal(version: Version) -> Invalid:
    """Why a version was refused, with the figures of what failed."""
    name = f"{version.adapter}@{version.version}"
    if version.canary is not None and not version.canary.passed:
        return Invalid("canary_failed", f"{name} cannot be shown to be live: {version.canary.reason}")
    reasons = "; ".join(told(check) for check in failed(version))
    return Invalid("gate_failed", f"{name} did not pass ({reasons}): it is kept, and promote puts it in service")


def told(check: Check) -> str:
    """A failed check in words, such as `collapse 0.41, bound 0.1 (thinking looped)`."""
    figures = [
        f"{label}{figure:.4g}" for label, figure in (("", check.value), ("bound ", check.bound)) if figure is not None
    ]
    detail = f" ({check.detail})" if check.detail else ""
    return f"{check.name} {', '.join(figures)}".rstrip() + detail
