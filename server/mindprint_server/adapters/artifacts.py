"""The artifact store as a server uses it: written once, fetched when needed, verified, and bounded on disk.

If `artifact_url` names a folder, artifacts are used in place. Otherwise `data_dir/adapters` holds copies of those that
this server wrote or fetched. What goes wrong here is this server's fault or the store's, never the version's.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

import structlog
from cachetools import TTLCache

from mindprint_server.adapters.artifact_folders import ArtifactFolders, DigestMismatch
from mindprint_server.adapters.artifact_owner import ArtifactOwner, NotOwned
from mindprint_server.adapters.remote_artifacts import ArtifactUrlError, RemoteArtifacts, local_folder
from mindprint_server.exceptions import ArtifactUnavailable, ServerError
from mindprint_server.observability.metrics import Metrics
from mindprint_server.settings import Settings

log = structlog.get_logger(__name__)
P = ParamSpec("P")
T = TypeVar("T")
MAX_FAILURES = 4096
"""Failed fetches that are remembered; see `artifact_retry_s`."""


class ArtifactStore:
    """Writes artifacts, and keeps verified folders of those that requests use.

    Args:
        settings: Where artifacts and their copies are, and the bounds.
        metrics: Counts fetches and evictions.
        owner: The database that the artifacts belong to.
        is_loaded: Returns whether the engine has the files of a folder loaded. Such a folder is not evicted.
    """

    def __init__(
        self, settings: Settings, metrics: Metrics, *, owner: ArtifactOwner, is_loaded: Callable[[Path], bool]
    ) -> None:
        url = settings.artifact_url or str(settings.data_dir / "artifacts")
        folder = local_folder(url)
        self._settings = settings
        self._metrics = metrics
        self._owner = owner
        self._is_loaded = is_loaded
        options = json.loads(settings.artifact_options.get_secret_value()) if settings.artifact_options else {}
        self._remote = RemoteArtifacts(url, options) if folder is None else None
        self.folders = ArtifactFolders(folder or settings.data_dir / "adapters")
        self._database_id: str | None = None
        self._threads = ThreadPoolExecutor(settings.max_artifact_calls, thread_name_prefix="artifacts")
        self._verified: set[str] = set()
        self._holds: Counter[str] = Counter()
        self._sizes: OrderedDict[str, int] = OrderedDict()
        """Sizes of the copies in bytes, by digest, the one that was used least recently first."""
        self._preparing: dict[str, asyncio.Task[None]] = {}
        self._evicting: dict[str, asyncio.Task[None]] = {}
        self._failures: TTLCache[str, str] = TTLCache(MAX_FAILURES, settings.artifact_retry_s)

    async def start(self) -> None:
        """Remove the copies that no version names any more, and those above the bound.

        A version may have been erased by another server while this one was not running.

        Raises:
            StoreError: The database does not answer.
        """
        if self._remote is not None:
            named = await self._owner.list_named()
            sizes = await self._run("copies", self._list_sizes)
            for digest in sizes.keys() - named:
                await self._run(_named(digest), self.folders.remove, digest)
            self._sizes = OrderedDict((digest, size) for digest, size in sizes.items() if digest in named)
            await self._trim()

    async def stop(self) -> None:
        """Wait for evictions, and drop calls that have not begun."""
        for task in self._preparing.values():
            task.cancel()
        await asyncio.gather(*self._preparing.values(), *self._evicting.values(), return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def ping(self) -> None:
        """Ask whether artifacts can be written, and take an artifact store that is nobody's.

        Raises:
            ArtifactUnavailable: They cannot, or they are not this database's.
        """
        if self._database_id is None:
            self._database_id = await self._owner.database_id()
        what, store = "the artifact store", self._remote or self.folders
        if not await self._run(what, store.ping, self._database_id):
            named = await self._owner.list_named()
            await self._run(what, store.claim, self._database_id, named)

    async def write(self, engine_id: int, *, weights: Path, config: bytes, manifest: str) -> str:
        """Store the files of a new version, and return their digest. See `ArtifactFolders.write`.

        Args:
            engine_id: The version's id in the engine.
            weights: The safetensors file; it is moved.
            config: Content of adapter_config.json.
            manifest: Content of manifest.json.

        Raises:
            ArtifactUnavailable: They cannot be stored.
            StorageFull: The disk is full.
        """
        await self.ping()
        write = partial(self.folders.write, engine_id, weights=weights, config=config, manifest=manifest)
        digest = await self._run("a new artifact", write)
        await self._keep(digest)
        return digest

    async def add(self, engine_id: int, fill: Callable[[Path], None]) -> str:
        """Store files that `fill` puts into a folder, and return their digest. See `ArtifactFolders.add`."""
        await self.ping()
        digest = await self._run("a new artifact", self.folders.add, engine_id, fill)
        await self._keep(digest)
        return digest

    @asynccontextmanager
    async def hold(self, digest: str, engine_id: int) -> AsyncIterator[Path]:
        """Return the verified folder of an artifact, and keep it on disk during the block. It is fetched if needed.

        Args:
            digest: The artifact.
            engine_id: The id of its version in the engine.

        Raises:
            ArtifactUnavailable: It is missing, damaged, out of reach, or not fetched within `artifact_wait_s`.
        """
        with self._used(digest):
            if digest not in self._verified:
                await self._wait_until_ready(digest, engine_id)
            if digest in self._sizes:
                self._sizes.move_to_end(digest)
            yield self.folders.path(digest)

    @contextmanager
    def _used(self, digest: str) -> Iterator[None]:
        """Keep a copy from being evicted during the block."""
        self._holds[digest] += 1
        try:
            yield
        finally:
            self._holds[digest] -= 1
            if not self._holds[digest]:
                del self._holds[digest]

    async def check(self, digest: str, engine_id: int) -> None:
        """Verify the folder of an artifact again, after the engine refused it.

        Raises:
            ArtifactUnavailable: The files are missing or damaged. They are fetched again for the next request.
        """
        self._verified.discard(digest)
        await self._run(_named(digest), self.folders.verify, digest, engine_id)
        self._verified.add(digest)

    async def remove(self, digest: str) -> None:
        """Remove an artifact from the store and from this server's disk.

        Raises:
            ArtifactUnavailable: The store is out of reach.
        """
        if self._remote is not None:
            await self._run(_named(digest), self._remote.remove, digest)
            # A fetch that began before must not leave its copy behind. One that begins now finds nothing.
            if (fetching := self._preparing.get(digest)) is not None:
                await asyncio.wait([fetching])
        self._verified.discard(digest)
        self._sizes.pop(digest, None)
        await self._run(_named(digest), self.folders.remove, digest)

    async def remove_new(self, name: str) -> None:
        """Remove a folder that an upload is written into, as `list_manifests` named it. The upload then fails.

        Raises:
            ArtifactUnavailable: The store is out of reach.
        """
        await self._run("an upload", self.folders.remove_new, name)

    async def list_manifests(self, named: Collection[str]) -> dict[str, str]:
        """Return the manifests of artifacts and copies that are not named, and of uploads that are being written.

        Args:
            named: Digests that are left out.

        Returns:
            Texts of manifests, by digest; of an upload by the name of its folder. One without a manifest is left out.

        Raises:
            ArtifactUnavailable: The store is out of reach, or belongs to another database.
        """
        await self.ping()
        found = await self._run("copies", self.folders.list_manifests, named)
        if self._remote is not None:
            found |= await self._run("artifacts", self._remote.list_manifests, named)
        return found

    async def list_old(self, min_age_s: float, *, named: Collection[str]) -> set[str]:
        """Return the artifacts and copies that are at least so old, not named, and that no request uses.

        Folders of that age which were never finished are removed.

        Args:
            min_age_s: Minimum age in seconds.
            named: Digests that versions name.

        Raises:
            ArtifactUnavailable: The store is out of reach, or belongs to another database.
        """
        await self.ping()
        await self._run("copies", self.folders.remove_partial, min_age_s)
        ages = await self._run("copies", self.folders.list_ages)
        if self._remote is not None:
            # A copy may be older than the artifact, or younger: the younger of both counts.
            stored = await self._run("artifacts", self._remote.list_ages, named)
            ages = {one: min(ages.get(one, age), stored.get(one, age)) for one, age in (ages | stored).items()}
        old = {digest for digest, age_s in ages.items() if age_s >= min_age_s and digest not in named}
        return {digest for digest in old if not self.is_used(digest)}

    def is_used(self, digest: str) -> bool:
        """Return whether a request, a fetch, an upload or the engine of this server uses an artifact."""
        return digest in self._holds or digest in self._preparing or self._is_loaded(self.folders.path(digest))

    # --- fetching ---

    async def _wait_until_ready(self, digest: str, engine_id: int) -> None:
        if why := self._failures.get(digest):
            raise _unreadable(digest, why)
        if (task := self._preparing.get(digest)) is None:
            task = asyncio.create_task(self._prepare(digest, engine_id))
            task.add_done_callback(_retrieve_exception)
            self._preparing[digest] = task
        # Shield the fetch: a cancelled request must not take it away from others.
        done, _ = await asyncio.wait([task], timeout=self._settings.artifact_wait_s)
        if not done:
            raise _unreadable(digest, "it is still being fetched")
        if task.cancelled():
            raise _unreadable(digest, "the server is stopping")
        task.result()

    async def _prepare(self, digest: str, engine_id: int) -> None:
        try:
            if evicting := self._evicting.get(digest):
                await asyncio.wait([evicting])
            outcome = await self._run(_named(digest), self._find_or_fetch, digest, engine_id)
            self._metrics.artifact_fetches.labels(outcome=outcome).inc()
            self._failures.pop(digest, None)
            self._verified.add(digest)
            await self._remember_copy(digest)
        except ServerError as error:
            why = error.why if isinstance(error, ArtifactUnavailable) else error.message
            outcome = _outcome_of(error.__cause__)
            self._failures[digest] = why
            self._metrics.artifact_fetches.labels(outcome=outcome).inc()
            log.error("the files of a version cannot be used", artifact=digest, outcome=outcome, why=why)
            raise _unreadable(digest, why) from error
        finally:
            del self._preparing[digest]

    def _find_or_fetch(self, digest: str, engine_id: int) -> str:
        if self._remote is None:
            self.folders.verify(digest, engine_id)
            return "found"
        try:
            self.folders.verify(digest, engine_id)
            return "found"
        except FileNotFoundError:
            pass
        except DigestMismatch:
            log.error("a copy of an artifact is damaged: it is fetched again", artifact=digest)
        self.folders.remove(digest)
        self.folders.add(engine_id, partial(self._remote.get, digest), digest=digest)
        return "fetched"

    # --- copies ---

    async def _keep(self, digest: str) -> None:
        """Put a folder that was just written into the store, if the store is elsewhere."""
        self._verified.add(digest)
        if self._remote is not None:
            # Counted as used until it is stored: another artifact may need its space meanwhile.
            with self._used(digest):
                await self._remember_copy(digest)
                await self._run(_named(digest), self._remote.put, digest, self.folders.path(digest))

    async def _remember_copy(self, digest: str) -> None:
        if self._remote is not None:
            self._sizes[digest] = await self._run(_named(digest), self.folders.size, digest)
            self._sizes.move_to_end(digest)
            await self._trim(keep=digest)

    async def _trim(self, keep: str | None = None) -> None:
        """Evict copies above `artifact_cache_bytes`, the least recently used first, but none that is used."""
        surplus = sum(self._sizes.values()) - self._settings.artifact_cache_bytes
        for digest, size in list(self._sizes.items()):
            if surplus <= 0:
                return
            if digest != keep and not self.is_used(digest):
                surplus -= size
                self._sizes.pop(digest, None)
                self._verified.discard(digest)
                self._evicting[digest] = asyncio.create_task(self._evict(digest))

    async def _evict(self, digest: str) -> None:
        try:
            await self._run(_named(digest), self.folders.remove, digest)
        except ServerError as error:
            log.warning("a copy of an artifact was not removed", artifact=digest, why=error.message)
        finally:
            del self._evicting[digest]

    def _list_sizes(self) -> dict[str, int]:
        return {digest: self.folders.size(digest) for digest in self.folders.list_ages()}

    async def _run(self, what: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a call of the store in a thread, for at most `artifact_timeout_s`."""
        timeout_s = self._settings.artifact_timeout_s
        running = asyncio.get_running_loop().run_in_executor(self._threads, partial(work, *args, **kwargs))
        try:
            async with asyncio.timeout(timeout_s):
                return await running
        except TimeoutError as error:
            raise ArtifactUnavailable(f"{what} cannot be used", f"no answer within {timeout_s:g} s") from error
        except ServerError:
            raise
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ArtifactUnavailable(f"{what} cannot be used", "it is not in the artifact store") from error
        except (DigestMismatch, ArtifactUrlError, NotOwned) as error:
            raise ArtifactUnavailable(f"{what} cannot be used", str(error)) from error
        except Exception as error:
            # Each library behind fsspec raises errors of its own kind.
            log.debug("a call of the artifact store failed", exc_info=error)
            why = getattr(error, "strerror", None) or type(error).__name__
            raise ArtifactUnavailable(f"{what} cannot be used", str(why)) from error


def _named(digest: str) -> str:
    return f"artifact {digest[:12]}…"


def _unreadable(digest: str, why: str) -> ArtifactUnavailable:
    return ArtifactUnavailable(f"{_named(digest)} cannot be used", why)


def _outcome_of(cause: BaseException | None) -> str:
    if isinstance(cause, FileNotFoundError | NotADirectoryError):
        return "missing"
    return "damaged" if isinstance(cause, DigestMismatch) else "failed"


def _retrieve_exception(task: asyncio.Task[None]) -> None:
    """Retrieve the exception of a fetch, so that asyncio does not log it if no request waits for it any more."""
    if not task.cancelled():
        task.exception()
