"""Routes of training leases: `client.leases`. Trainers call them."""

from __future__ import annotations

from pathlib import Path

from mindprint._methods import Method, Resource, SenderT
from mindprint.transport import Call, get_call, post_call, reply_of, segment
from mindprint.types import Heartbeat, Lease, LeaseRequest, Manifest, Version

_lease = reply_of(Lease)
_lease_or_none = reply_of(Lease | None)
_version = reply_of(Version)


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
        """Give a lease back; its traces wait again."""
        return post_call(f"{_path(lease_id)}/release", _lease)

    @Method
    def complete(self, lease_id: str, manifest: Manifest, config: bytes | Path, weights: bytes | Path) -> Call[Version]:
        """Upload the trained adapter and return its version once it is live.

        Completing again with the same weights returns the same version.

        Args:
            lease_id: The lease whose samples trained the adapter.
            manifest: What was trained and how, with the items of the parity check.
            config: PEFT's adapter_config.json, as bytes or as a file.
            weights: PEFT's adapter_model.safetensors, as bytes or as a file.

        Raises:
            ApiError: `lease_lost` (409), or 422 with the reason, such as `parity_failed`, `adapter_rank` or
                `adapter_base_model`.
        """
        return Call(
            method="POST",
            path=f"{_path(lease_id)}/complete",
            read=_version,
            form={"manifest": manifest.model_dump_json()},
            files={
                "config": ("adapter_config.json", config),
                "weights": ("adapter_model.safetensors", weights),
            },
            repeatable=True,
            slow=True,
        )


def _path(lease_id: str) -> str:
    return f"/v1/leases/{segment(lease_id)}"
