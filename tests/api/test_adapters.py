from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from mindprint_server.wiring import Services

ErrorOf = Callable[[httpx.Response], dict[str, Any]]
KEY = "/v1/adapters/user/ann"


@pytest.mark.usefixtures("two_versions")
async def test_promote_and_roll_back(client: httpx.AsyncClient, error_of: ErrorOf) -> None:
    listed = (await client.get("/v1/adapters")).json()["adapters"]
    assert [(one["key"], one["live"], len(one["versions"])) for one in listed] == [("user/ann", 2, 2)]
    assert (await client.post(f"{KEY}/rollback")).json()["live"] == 1
    response = await client.post(f"{KEY}/rollback")
    assert (response.status_code, error_of(response)["code"]) == (409, "nothing_to_roll_back")
    for version in (2, None):
        assert (await client.post(f"{KEY}/promote", json={"version": version})).json()["live"] == version
    assert (await client.get(KEY)).json()["live"] is None


@pytest.mark.usefixtures("two_versions")
async def test_a_version_that_is_not_there(client: httpx.AsyncClient, error_of: ErrorOf) -> None:
    response = await client.post(f"{KEY}/promote", json={"version": 9})
    assert (response.status_code, error_of(response)["code"]) == (404, "version_not_found")
    for body in ({}, {"version": 0}, {"version": "latest"}):
        response = await client.post(f"{KEY}/promote", json=body)
        assert (response.status_code, error_of(response)["param"]) == (422, "version")
    assert (await client.get(KEY)).json()["live"] == 2


async def test_unknown(client: httpx.AsyncClient, error_of: ErrorOf) -> None:
    response = await client.get("/v1/adapters/cohort/none")
    assert (response.status_code, error_of(response)["code"]) == (404, "adapter_not_found")


@pytest.mark.usefixtures("two_versions")
async def test_set_canary_and_end_it(client: httpx.AsyncClient, error_of: ErrorOf) -> None:
    released = (await client.put(f"{KEY}/canary", json={"version": 1, "share": 0.25})).json()
    assert (released["live"], released["canary"], released["canary_share"]) == (2, 1, 0.25)
    assert [one["state"] for one in released["versions"]] == ["canary", "live"]
    assert (await client.put(f"{KEY}/canary", json={"version": None})).json()["canary"] is None
    response = await client.put(f"{KEY}/canary", json={"version": 2})
    assert (response.status_code, error_of(response)["code"]) == (409, "version_live")
    for body in ({}, {"version": 1, "share": 1}, {"version": 1, "share": 0}):
        assert (await client.put(f"{KEY}/canary", json=body)).status_code == 422


@pytest.mark.usefixtures("two_versions")
async def test_one_version_and_where_it_comes_from(client: httpx.AsyncClient, error_of: ErrorOf) -> None:
    version = (await client.get(f"{KEY}/versions/2")).json()
    assert (version["version"], version["state"], version["digest"]) == (2, "live", "d1")
    lineage = (await client.get(f"{KEY}/versions/2/lineage")).json()
    assert [one["engagement_id"] for one in lineage["traces"]] == ["e1"]
    assert lineage["ancestors"] == ["user/ann@1"]
    trace = (await client.get(f"/v1/traces/{lineage['traces'][0]['trace_id']}")).json()
    assert trace["versions"] == ["user/ann@2"]
    for end in ("", "/lineage", "/download"):
        response = await client.get(f"{KEY}/versions/9{end}")
        assert (response.status_code, error_of(response)["code"]) == (404, "version_not_found")
        assert (await client.get(f"{KEY}/versions/0{end}")).status_code == 422


@pytest.mark.usefixtures("two_versions")
async def test_download(client: httpx.AsyncClient, services: Services, error_of: ErrorOf) -> None:
    response = await client.get(f"{KEY}/versions/2/download")
    assert response.headers["content-type"] == "application/zip"
    assert response.headers["content-disposition"] == 'attachment; filename="user-ann-2.zip"'
    assert int(response.headers["content-length"]) == len(response.content) == 3_000_000
    await services.store.retention.mark_files_removed("user/ann", 1)
    response = await client.get(f"{KEY}/versions/1/download")
    assert (response.status_code, error_of(response)["code"]) == (409, "version_files_gone")


@pytest.mark.usefixtures("two_versions")
async def test_pin(client: httpx.AsyncClient, services: Services, error_of: ErrorOf) -> None:
    for pinned in (True, True, False):
        assert (await client.post(f"{KEY}/versions/1/pin", json={"pinned": pinned})).json()["pinned"] == pinned
    assert (await client.post(f"{KEY}/versions/1/pin", json={})).status_code == 422
    await services.store.retention.mark_files_removed("user/ann", 1)
    for path, body in ((f"{KEY}/versions/1/pin", {"pinned": True}), (f"{KEY}/promote", {"version": 1})):
        response = await client.post(path, json=body)
        assert (response.status_code, error_of(response)["code"]) == (409, "version_files_gone")
