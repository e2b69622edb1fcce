"""Routes of adapters and their versions: `client.adapters`. A key is `user/<id>` or `cohort/<name>`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from mindprint import downloads
from mindprint._methods import DownloadMethod, Method, Resource, SenderT, Steps, Workflow
from mindprint.endpoints import publications
from mindprint.exceptions import InvalidRequest, MindprintError
from mindprint.transport import Call, Download, get_call, post_call, put_call, read_nothing, reply_of, segment
from mindprint.types import Adapter, AdapterPage, Lineage, Manifest, Pin, Promote, Publication, SetCanary, Version
from mindprint.types.keys import AdapterKey

_adapter = reply_of(Adapter)
_adapters = reply_of(AdapterPage)
_lineage = reply_of(Lineage)
_version = reply_of(Version)


class AdaptersResource(Resource[SenderT]):
    """LoRA adapters: their versions, which of them answer, and their files."""

    @Method
    def list(self, *, limit: int = 1000, after: str | None = None) -> Call[AdapterPage]:
        """List adapters with their versions, ordered by key.

        Args:
            limit: Size of the page, 1 to 1000.
            after: `next` of the previous page; None starts at the beginning.
        """
        return get_call("/v1/adapters", _adapters, limit=limit, after=after)

    @Method
    def get(self, key: str) -> Call[Adapter]:
        """Return one adapter, for instance `user/anna`.

        Raises:
            ApiError: `adapter_not_found`.
        """
        return get_call(_path(key), _adapter)

    @Method
    def promote(self, key: str, version: int | None) -> Call[Adapter]:
        """Make a version live.

        Args:
            key: The adapter.
            version: Its number; None takes the adapter off, so that the cohort's adapter or the base model answers.
        """
        # Send a mapping, because a model leaves out None, and the server needs the `null`.
        body = Promote(version=version).model_dump()
        return post_call(f"{_path(key)}/promote", _adapter, body, slow=True)

    @Method
    def rollback(self, key: str) -> Call[Adapter]:
        """Make the newest earlier version live that passed its checks and still has files."""
        return post_call(f"{_path(key)}/rollback", _adapter, slow=True)

    @Method
    def set_canary(self, key: str, version: int | None, share: float = 0.1) -> Call[Adapter]:
        """Let a version answer a share of the adapter's requests before it is live.

        Args:
            key: The adapter.
            version: Its number; None ends the canary.
            share: Share of the requests, above 0 and below 1.
        """
        body = SetCanary(version=version, share=share).model_dump()
        return put_call(f"{_path(key)}/canary", _adapter, body, slow=True)

    @Method
    def get_version(self, key: str, number: int) -> Call[Version]:
        """Return one version with its checks."""
        return get_call(_version_path(key, number), _version)

    @Method
    def get_lineage(self, key: str, number: int) -> Call[Lineage]:
        """Return what a version comes from: its traces, its ancestors, and what the gate evaluated it on."""
        return get_call(f"{_version_path(key, number)}/lineage", _lineage)

    @Method
    def upload(self, manifest: Manifest, config: bytes | Path, weights: bytes | Path) -> Call[Publication]:
        """Upload an adapter that was trained elsewhere and return its publication.

        It is not sent again after a broken connection: each call makes a version of its own, unless the checks of the
        same weights still run. `get` shows whether there is one.

        Args:
            manifest: The adapter's key, digests, and the items of the parity check; it names no traces.
            config: PEFT's adapter_config.json, as bytes or as a file.
            weights: PEFT's adapter_model.safetensors, as bytes or as a file.

        Raises:
            ApiError: `adapter_leased` (409) while it is trained, or 422 with the reason, such as `adapter_config` or
                `adapter_targets`.
        """
        return publications.upload(f"{_path(manifest.adapter)}/versions", manifest, config, weights, repeatable=False)

    @Workflow
    def import_version(
        self,
        manifest: Manifest,
        config: bytes | Path,
        weights: bytes | Path,
        *,
        on_progress: Callable[[Publication], None] = publications.ignore,
        on_absence: Callable[[MindprintError], None] = publications.ignore_absence,
        max_absence_s: float = publications.MAX_ABSENCE_S,
        poll_s: float = 2.0,
    ) -> Steps[Version]:
        """Upload an adapter that was trained elsewhere, wait until the server has checked it, and return its version.

        Once it is uploaded, the server goes on whatever happens to this call, also after a restart.

        Args:
            manifest: The adapter's key, digests, and the items of the parity check; it names no traces.
            config: PEFT's adapter_config.json, as bytes or as a file.
            weights: PEFT's adapter_model.safetensors, as bytes or as a file.
            on_progress: Called with the publication after the upload, and after each change of its state.
            on_absence: Called once in each absence of the server, with the error of the first look.
            max_absence_s: Seconds without an answer after which the wait ends with an error. The server may go on.
            poll_s: Seconds between two looks. The first ones come faster.

        Raises:
            ApiError: `adapter_leased` (409) while it is trained, or 422 with the reason, such as `parity_failed`,
                `adapter_config` or `adapter_targets`.
            MindprintError: The server is away for longer than `max_absence_s`, or refuses to tell.
        """
        publication = yield AdaptersResource.upload.describe(manifest, config, weights)
        following = publications.follow(
            publication, on_progress, poll_s, on_absence=on_absence, max_absence_s=max_absence_s
        )
        return (yield from following)

    @Method
    def pin(self, key: str, number: int, pinned: bool = True) -> Call[Version]:
        """Keep a version's files and, once it is loaded, its slot in the engine.

        Args:
            key: The adapter.
            number: The version.
            pinned: False ends the pin.
        """
        return post_call(f"{_version_path(key, number)}/pin", _version, Pin(pinned=pinned), repeatable=True, slow=True)

    @DownloadMethod
    def download(self, key: str, number: int, folder: Path, *, max_bytes: int = downloads.MAX_BYTES) -> Download[Path]:
        """Download a version as a plain PEFT folder and return the folder.

        It holds adapter_config.json, adapter_model.safetensors, manifest.json and README.md, the model card. It appears
        whole or not at all.

        Args:
            key: The adapter.
            number: The version.
            folder: Where the files go. It must be absent or empty.
            max_bytes: Refuse a larger download.

        Raises:
            ApiError: `version_files_gone` (409) once retention has removed the files.
            BadReply: The weights are not those of the manifest.
            OSError: The folder cannot be written.
        """
        call = get_call(f"{_version_path(key, number)}/download", read_nothing)
        return Download(call, partial(downloads.opened, folder, max_bytes))


def _version_path(key: str, number: int) -> str:
    return f"{_path(key)}/versions/{number}"


def _path(key: str) -> str:
    try:
        adapter = AdapterKey(key)
    except ValueError as error:
        raise InvalidRequest(str(error)) from None
    return f"/v1/adapters/{adapter.kind}/{segment(adapter.name)}"
