"""Adapters in service, on an engine and a gate that a test controls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from mindprint.types import Check
from mindprint_server.adapters.artifact_owner import MARKER
from mindprint_server.engine import AdapterRef
from mindprint_server.engine.fake import FakeEngine
from mindprint_server.settings import Settings
from mindprint_server.store import VersionRecord
from mindprint_server.wiring import Services
from scripted import serving

KEY = "user/ann"
Open = Callable[..., Awaitable[Services]]


class Gate:
    """Returns the checks that a test sets, and remembers what it evaluated."""

    def __init__(self) -> None:
        self.checks = [Check(name="score", value=0.2, bound=0.0, passed=True), Check(name="general")]
        self.seen: list[tuple[str, str | None]] = []
        self.error: Exception | None = None
        self.held = asyncio.Event()
        self.held.set()

    async def evaluate(
        self, version: AdapterRef, live: AdapterRef | None, held_out: Mapping[str, Sequence[str]]
    ) -> list[Check]:
        self.seen.append((version.name, live.name if live else None))
        await self.held.wait()
        if self.error:
            raise self.error
        return self.checks


class Loader(FakeEngine):
    """Loads when it is let, and refuses the files of the versions in `broken`, and files that are gone."""

    def __init__(self, folder: Path) -> None:
        super().__init__(model_path=folder)
        self.broken: set[str] = set()
        self.loading = asyncio.Event()
        self.held = asyncio.Event()
        self.held.set()

    async def load(self, adapter: AdapterRef) -> None:
        self.loading.set()
        await self.held.wait()
        if adapter.name in self.broken or not (adapter.path / "adapter_model.safetensors").exists():
            raise ValueError("bad files")
        await super().load(adapter)


@asynccontextmanager
async def lives(settings: Settings, base_folder: Path, gate: Gate) -> AsyncIterator[Open]:
    """Open services with some settings changed, with the given gate, and with a chance of 0.5 for candidates."""
    async with AsyncExitStack() as stack:

        async def open(**changes: object) -> Services:
            changed = settings.model_copy(update=changes)
            services = await stack.enter_async_context(serving(changed, Loader(base_folder)))
            services.publications._publisher._gate = gate
            services.adapters._chance = lambda: 0.5
            return services

        yield open


def counted(services: Services, name: str, **labels: str) -> float:
    return services.metrics.registry.get_sample_value(f"mindprint_{name}", labels) or 0.0


async def answering(services: Services, model: str = KEY) -> str:
    async with services.adapters.acquire(model) as adapter:
        return adapter.name if adapter else "base"


async def folders(services: Services, key: str = KEY) -> list[int]:
    """The numbers of an adapter's versions whose files are in the artifact store; 0 for files of no version."""
    root = services.settings.data_dir / "artifacts"
    found = {path.name for path in (root.iterdir() if root.is_dir() else ()) if path.name != MARKER}
    versions = [version for adapter in await services.store.adapters.list_page() for version in adapter.versions]
    named = {
        version.artifact: version.version if version.adapter == key else None
        for version in versions
        if isinstance(version, VersionRecord)
    }
    return sorted(number for digest in found if (number := named.get(digest, 0)) is not None)


def folder_of(services: Services, version: VersionRecord) -> Path:
    """The folder of a version in the default artifact store."""
    assert version.artifact is not None
    return (services.settings.data_dir / "artifacts" / version.artifact).absolute()
