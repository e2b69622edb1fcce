"""A disk that is really full: the data folder of a real server process is on a small file system of its own."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from fake_service import FakeService, fake_service, upload_parts
from mindprint_server.adapters.artifact_folders import PARTIAL
from samples import engagement

SIZE = 24 * 1024**2
WIDTH = 1 << 14
"""Width of the base model: an adapter's weights are 1 MiB."""
BLOCK = 4096
LONG = "a long walk " * 350
pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True)
class Disk:
    """A file system that can be filled."""

    root: Path

    @property
    def ballast(self) -> Path:
        """Return the file that takes the space."""
        return self.root / "ballast"

    def fill(self, *, leave: int = 0) -> None:
        """Take all space but `leave` bytes, rounded down to whole blocks."""
        with self.ballast.open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(BLOCK))
            except OSError:
                pass
        with self.ballast.open("r+b") as file:
            file.truncate(self.ballast.stat().st_size // BLOCK * BLOCK - leave // BLOCK * BLOCK)

    def free(self) -> None:
        """Give the space back."""
        self.ballast.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    root = tmp_path_factory.mktemp("full") / "disk"
    root.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(root)]
    try:
        done = subprocess.run(command, capture_output=True, check=False, text=True)
        why = done.stderr.strip() if done.returncode else None
    except OSError as error:
        why = str(error)
    if why is not None:
        pytest.skip(f"a disk that is full needs the right to mount a tmpfs: {why}")
    yield Disk(root)
    subprocess.run(["umount", "-l", str(root)], check=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(mounted: Disk) -> AsyncIterator[FakeService]:
    """A server whose database, uploads and artifacts are on the disk. It does not look ahead for free space."""
    data = mounted.root / "data"
    settings = {"DATA_DIR": str(data), "DATABASE_URL": f"sqlite:///{data / 'mindprint.db'}", "MIN_FREE_BYTES": "0"}
    async with fake_service(mounted.root.parent, width=WIDTH, **settings) as service:
        yield service


@pytest.fixture
def disk(mounted: Disk) -> Iterator[Disk]:
    yield mounted
    mounted.free()


def long_engagements(first: int) -> dict[str, Any]:
    """A body of 0.8 MB."""
    items = [engagement(n, day=n % 200) for n in range(first, first + 200)]
    return {"engagements": [one.model_copy(update={"prompt": LONG}).model_dump(mode="json") for one in items]}


def assert_refused(reply: httpx.Response) -> None:
    assert reply.status_code in (503, 507), reply.text
    assert int(reply.headers["retry-after"]) >= 1
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "code", "param"}
    assert error["code"] in ("storage_full", "store_full", "store_busy", "artifact_unavailable")


async def engagements_of(service: FakeService, user: str) -> int:
    return int((await service.http.get(f"/v1/users/{user}")).json()["engagements"])


async def test_writes_are_refused_reads_go_on_and_writes_work_again(service: FakeService, disk: Disk) -> None:
    await service.store_users("ann")
    disk.fill()
    refused = await service.http.post("/v1/users/ann/engagements", json=long_engagements(10))
    assert_refused(refused)
    for method, path, body in (
        ("POST", "/v1/users/bob/engagements", long_engagements(0)),
        ("PUT", "/v1/cohorts/cooks", {"description": LONG}),
        ("POST", "/v1/keys", {"name": "full", "scopes": ["read"]}),
        ("POST", "/v1/batches", {"users": ["ann"]}),
        ("DELETE", "/v1/users/ann/engagements/e000", None),
    ):
        # SQLite may have room for a small write in its own files.
        reply = await service.http.request(method, path, json=body)
        if not reply.is_success:
            assert_refused(reply)
    for path in ("/v1/users", "/v1/users/ann/engagements", "/v1/traces", "/v1/adapters", "/v1/batches", "/metrics"):
        assert (await service.http.get(path)).status_code == 200, path
    before = await engagements_of(service, "ann")
    assert before <= 3, "nothing of the refused write is stored"
    disk.free()
    stored = await service.http.post("/v1/users/ann/engagements", json=long_engagements(10))
    assert stored.is_success, stored.text
    assert await engagements_of(service, "ann") == before + 200


@pytest.mark.parametrize("room", [0, 512 * 1024], ids=["full", "half of the weights fit"])
async def test_upload_that_does_not_fit_leaves_no_file_and_can_be_repeated(
    service: FakeService, disk: Disk, tmp_path: Path, room: int
) -> None:
    user = f"leaves-{room}"
    await service.store_users(user)
    lease = await service.lease(user)
    parts, path = upload_parts(lease, tmp_path, WIDTH), f"/v1/leases/{lease['id']}/complete"
    disk.fill(leave=room)
    assert_refused(await service.http.post(path, files=parts))
    data = disk.root / "data"
    assert list((data / "uploads").glob("*")) == []
    assert [one for one in (data / "artifacts").rglob("*") if one.name.endswith(PARTIAL)] == []
    disk.free()
    assert (await service.http.get(f"/v1/leases/{lease['id']}")).json()["state"] == "active"
    reply = await service.http.post(path, files=parts)
    version = await service.published(reply)
    disk.fill()
    for place in (f"/v1/adapters/user/{user}/versions/{version['version']}/download", f"/v1/users/{user}/export"):
        assert_refused(await service.http.get(place))
    assert list((data / "downloads").glob("*")) == []
