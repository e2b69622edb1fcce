"""From upload to last request: check, place, prove, register, switch, retire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import structlog

from mindprint.types import Adapter, Lease, Manifest, Version
from mindprint_server.adapters import canary, inspect
from mindprint_server.adapters.files import AdapterFiles
from mindprint_server.adapters.residents import Residents
from mindprint_server.engine import AdapterRef, Engine
from mindprint_server.errors import ApiError
from mindprint_server.metrics import Metrics
from mindprint_server.settings import Settings
from mindprint_server.store import NotFound, Store
from mindprint_server.store.errors import LeaseLost

log = structlog.get_logger(__name__)


class AdapterLife:
    def __init__(self, settings: Settings, store: Store, engine: Engine, metrics: Metrics, base_digest: str) -> None:
        self._settings = settings
        self._store = store
        self._engine = engine
        self._metrics = metrics
        self._base_digest = base_digest
        self._files = AdapterFiles(settings.data_dir / "adapters")
        self.residents = Residents(engine, metrics)
        self._live: dict[str, int | None] = {}
        self._completing: dict[str, asyncio.Lock] = {}
        self._base_shapes: inspect.Shapes = {}

    async def start(self) -> None:
        """Collects what a crash left on disk and reads the base's shapes."""
        known = await self._store.known_versions()
        if orphans := await asyncio.to_thread(self._files.collect_orphans, known):
            log.warning("adapter files without a version were removed", folders=orphans)
        folder = Path(self._engine.info().model_path)
        self._base_shapes = await asyncio.to_thread(inspect.base_shapes, folder)

    # --- resolving and using ---

    @asynccontextmanager
    async def use(self, model: str) -> AsyncIterator[AdapterRef | None]:
        """The adapter that a model name stands for now, held in the engine while the block runs; None is the base.

        `user/<id>` without a live version is the base. Raises ApiError (404, 409) for versions that cannot be used.
        """
        key, _, number = model.partition("@")
        if key == "base":
            yield None
            return
        live = await self._store.live(key)
        await self._follow(key, live.version if live else None)
        version = live
        if number:
            version = await self._store.version(key, int(number))
            if version.state == "refused":
                raise ApiError(409, "version_refused", f"{model} was refused: promote it by name if you mean it")
        if version is None:
            yield None
            return
        async with self.residents.hold(
            await self._ref(version), retired=self._live.get(key) != version.version
        ) as adapter:
            yield adapter

    async def _ref(self, version: Version) -> AdapterRef:
        key, number = version.adapter, version.version
        engine_id = await self._store.engine_id(key, number)
        return AdapterRef(key, number, version.digest, engine_id, self._files.path(key, number))

    async def _follow(self, key: str, live: int | None) -> None:
        """Takes note of the store's pointer, whoever moved it, and retires what it no longer names."""
        if self._live.get(key) != live:
            self._live[key] = live
            await self.residents.retire(key, but=live)

    # --- moving the pointer ---

    async def promote(self, key: str, version: int | None) -> Adapter:
        """Makes a version live, or none. The engine has it before the pointer moves."""
        if version is None:
            adapter = await self._store.set_live(key, None)
        else:
            async with self.residents.hold(await self._ref(await self._store.version(key, version))):
                adapter = await self._store.set_live(key, version)
                await self._follow(key, version)
        await self._follow(key, adapter.live)
        return adapter

    async def rollback(self, key: str) -> Adapter:
        """Back to the version that was live before."""
        adapter = await self._store.rollback(key)
        await self._follow(key, adapter.live)
        return adapter

    # --- a new version ---

    async def complete(self, lease_id: str, manifest: Manifest, config: bytes, weights: Path) -> Version:
        """Takes a trainer's upload live. The same upload again returns the same version.

        Raises ApiError (422) for files that cannot be served or an unproved adapter, LeaseLost.
        """
        lock = self._completing.setdefault(lease_id, asyncio.Lock())
        try:
            async with lock:
                return await self._complete(lease_id, manifest, config, weights)
        except ApiError as error:
            self._metrics.adapters_refused.labels(reason=error.code).inc()
            raise
        finally:
            if not lock.locked():
                self._completing.pop(lease_id, None)

    async def _complete(self, lease_id: str, manifest: Manifest, config: bytes, weights: Path) -> Version:
        lease = await self._store.lease(lease_id)
        digest = f"sha256:{manifest.weights_sha256}"
        if lease.state == "completed" and lease.version is not None:
            version = await self._store.version(lease.adapter, lease.version)
            if version.digest == digest:
                return version
        if lease.state != "active":
            raise LeaseLost(lease_id, f"it is {lease.state}")
        await asyncio.to_thread(self._check, lease, manifest, config, weights)

        number = await self._store.next_version(lease.adapter)
        manifest_json = manifest.model_dump_json(indent=1)
        await asyncio.to_thread(
            self._files.write, lease.adapter, number, weights=weights, config=config, manifest=manifest_json
        )
        version = Version(
            adapter=lease.adapter,
            version=number,
            state="live",
            digest=digest,
            base_digest=manifest.base_digest,
            parent=lease.parent,
            traces=len(lease.trace_ids),
            manifest=manifest,
            created_at=datetime.now(UTC),
        )
        try:
            # Retired until the pointer names it: if anything below fails, it leaves the engine with this block.
            async with self.residents.hold(await self._ref(version), retired=True) as adapter:
                version = await self._prove(version, adapter, manifest)
                if version.canary is not None and not version.canary.passed:
                    await self._store.refuse(lease_id, version, max_attempts=self._settings.max_attempts)
                    why = version.canary.reason
                    raise ApiError(422, "canary_failed", f"{adapter.name} cannot be shown to be live: {why}")
                version = await self._store.complete(lease_id, version)
                await self._follow(version.adapter, version.version)
        except ApiError:
            raise
        except ValueError as error:  # the engine would not load it
            await self._forget(version)
            raise ApiError(422, "adapter_load", str(error)) from error
        except LeaseLost:
            await self._forget(version)
            raise
        self._metrics.trained.inc(version.traces)
        log.info("version is live", adapter=version.adapter, version=version.version, traces=version.traces)
        return version

    def _check(self, lease: Lease, manifest: Manifest, config: bytes, weights: Path) -> None:
        s = self._settings
        if manifest.adapter != lease.adapter or set(manifest.trace_ids) != set(lease.trace_ids):
            raise inspect.refuse("manifest_mismatch", "the manifest's adapter or traces are not those of the lease")
        if manifest.base_digest != self._base_digest:
            raise inspect.refuse(
                "adapter_base_model",
                f"trained on base {manifest.base_digest[:23]}…, served is {self._base_digest[:23]}…: train on that",
            )
        shapes = inspect.read_shapes(weights)
        parsed = inspect.read_config(config, max_rank=s.max_lora_rank, targets=s.target_modules)
        inspect.check_tensors(shapes, self._base_shapes, rank=parsed["r"], targets=s.target_modules)
        if inspect.sha256(weights) != manifest.weights_sha256:
            raise inspect.refuse(
                "adapter_digest", "the weights are not those of the manifest's weights_sha256: upload again"
            )

    async def _prove(self, version: Version, adapter: AdapterRef, manifest: Manifest) -> Version:
        result = await canary.prove(
            self._engine,
            adapter,
            manifest.canary,
            tolerance=self._settings.canary_tolerance,
            min_shift=self._settings.canary_min_shift,
        )
        self._metrics.canary.labels(result="passed" if result.passed else "failed").inc()
        log.info("canary", adapter=adapter.name, **result.model_dump())
        return version.model_copy(update={"canary": result, "state": "live" if result.passed else "refused"})

    async def _forget(self, version: Version) -> None:
        """Removes the files of a number that never became a version."""
        try:
            await self._store.version(version.adapter, version.version)
        except NotFound:
            await asyncio.to_thread(self._files.remove, version.adapter, version.version)
