"""Routes of training leases: `client.leases`. Trainers call them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mindprint._methods import Method, Resource, SenderT, Steps, Workflow
from mindprint.endpoints import publications
from mindprint.transport import Call, get_call, post_call, reply_of, segment
from mindprint.types import Heartbeat, Lease, LeaseRequest, Manifest, Publication, Version

_lease = reply_of(Lease)
_lease_or_none = reply_of(Lease | None)


class LeasesResource(Resource[SenderT]):
    """Waiting traces of one adapter, held by one trainer until a deadline."""

    @Method
    def claim(self, request: LeaseRequest) -> Call[Lease | None]:
        """Claim the waiting traces of one adapter; return None when nothing is waiting."""
        return post_call("/v1/leases", _lease_or_none, request)

    @Method
    def get(self, lease_id: str) -> Call[Lease]:
        """Return one lease, without its samples.

        Raises:
            ApiError: `lease_not_found`.
        """
        return get_call(_path(lease_id), _lease)

    @Method
    def heartbeat(self, lease_id: str, ttl_s: float = 60.0) -> Call[Lease]:
        """Move a lease's deadline to `ttl_s` seconds from now.

        Raises:
            ApiError: `lease_lost` (409) if the lease is over.
        """
        return post_call(f"{_path(lease_id)}/heartbeat", _lease, Heartbeat(ttl_s=ttl_s), repeatable=True)

    @Method
    def release(self, lease_id: str) -> Call[Lease]:
        """Give a lease back; its traces wait again. A second call changes nothing."""
        return post_call(f"{_path(lease_id)}/release", _lease, repeatable=True)

    @Method
    def upload(
        self, lease_id: str, manifest: Manifest, config: bytes | Path, weights: bytes | Path
    ) -> Call[Publication]:
        """Upload the trained adapter and return its publication, which the server works in the background.

        The lease holds until the publication ends. The same weights again return the same publication.

        Args:
            lease_id: The lease whose samples trained the adapter.
            manifest: What was trained and how, with the items of the parity check.
            config: PEFT's adapter_config.json, as bytes or as a file.
            weights: PEFT's adapter_model.safetensors, as bytes or as a file.

        Raises:
            ApiError: `lease_lost` or `publication_conflict` (409), or 422 with the reason, such as `adapter_rank` or
                `adapter_base_model`.
        """
        return publications.upload(f"{_path(lease_id)}/complete", manifest, config, weights, repeatable=True)

    @Method
    def get_publication(self, publication_id: str) -> Call[Publication]:
        """Return a publication: what the server does with the upload now, and the version or the reason at the end.

        Raises:
            ApiError: `publication_not_found`.
        """
        return publications.get(publication_id)

    @Workflow
    def complete(
        self,
        lease_id: str,
        manifest: Manifest,
        config: bytes | Path,
        weights: bytes | Path,
        *,
        on_progress: Callable[[Publication], None] = publications.ignore,
        poll_s: float = 2.0,
    ) -> Steps[Version]:
        """Upload the trained adapter, wait until the server has checked it, and return its version.

        The server goes on whatever happens to this call: make it again with the same weights to go on waiting.

        Args:
            lease_id: The lease whose samples trained the adapter.
            manifest: What was trained and how, with the items of the parity check.
            config: PEFT's adapter_config.json, as bytes or as a file.
            weights: PEFT's adapter_model.safetensors, as bytes or as a file.
            on_progress: Called with the publication after the upload, and after each change of its state.
            poll_s: Seconds between two looks. The first ones come faster.

        Raises:
            ApiError: `lease_lost` (409), or 422 with the reason, such as `parity_failed`, `gate_failed` or
                `adapter_base_model`.
        """
        publication = yield LeasesResource.upload.describe(lease_id, manifest, config, weights)
        return (yield from publications.follow(publication, on_progress, poll_s))


def _path(lease_id: str) -> str:
    return f"/v1/leases/{segment(lease_id)}"
