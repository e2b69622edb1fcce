"""Uploads over HTTP to the real adapter service on the fake engine: each malformed one is 4xx, the lease goes on."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mindprint.types import Lease
from mindprint_server.app import create_app
from mindprint_server.engine import AdapterRef, Priority
from mindprint_server.engine.fake import FakeEngine
from mindprint_server.exceptions import ServerError
from mindprint_server.settings import Settings
from mindprint_server.wiring import Services
from samples import write_tensors
from scripted import serving
from uploads import ended, leased
from weights import BASE, NAMES, adapter_config, data_of, header_of, nested, weights_file

ErrorOf = Callable[[httpx.Response], dict[str, Any]]


class Uploader:
    """Uploads files and manifests under leases of one user, as a trainer does."""

    def __init__(self, services: Services, client: httpx.AsyncClient) -> None:
        self.services = services
        self.client = client
        self._lease: Lease | None = None

    async def lease(self) -> Lease:
        """The active lease, or a new one where the last has ended."""
        if self._lease is None or await self.lease_state() != "active":
            self._lease = await leased(self.services)
        return self._lease

    async def lease_state(self) -> str:
        assert self._lease is not None
        return (await self.services.store.leases.get(self._lease.id)).state

    async def manifest(self, weights: bytes) -> dict[str, Any]:
        """What a trainer would say of these weights."""
        lease = await self.lease()
        encode, key = self.services.engine.tokenizer.encode, lease.adapter
        prompt, target = encode("a prompt"), encode(" yes, it is so")
        known = [one for one in await self.services.store.adapters.list_page() if one.key == key]
        newest = max((version.version for one in known for version in one.versions), default=0)
        values = {
            which: [
                (await self.services.engine.next_logprobs(
                    [*prompt, *target[:n]], [token], adapter=which, priority=Priority.PARITY_CHECK
                ))[0]
                for n, token in enumerate(target)
            ]
            for which in (AdapterRef(key, newest + 1, "", 99, Path()), None)
        }  # fmt: skip
        ours, base = values.values()
        return {
            "adapter": key, "base_digest": self.services.info().base_digest,
            "weights_sha256": hashlib.sha256(weights).hexdigest(), "trace_ids": lease.trace_ids,
            "samples": {"slow": 1}, "settings": {"rank": 4}, "losses": {"slow_first": 2.0}, "tokens": 10,
            "seconds": 1.5, "trainer": "t",
            "parity_items": [
                {"prompt_ids": prompt, "target_ids": target, "logprobs": ours, "base_logprobs": base}
            ],
        }  # fmt: skip

    async def upload(
        self, *, weights: bytes | None = None, config: bytes | None = None, manifest: bytes | None = None
    ) -> httpx.Response:
        weights = weights_file() if weights is None else weights
        text = json.dumps(await self.manifest(weights)).encode() if manifest is None else manifest
        response = await self.client.post(
            f"/v1/leases/{(await self.lease()).id}/complete",
            files={
                "manifest": (None, text),
                "config": ("c", adapter_config() if config is None else config),
                "weights": ("w", weights),
            },
        )
        return response if response.status_code != 202 else await self.checked(response.json()["id"])

    async def checked(self, publication_id: str) -> httpx.Response:
        """What the server says at the end of its checks."""
        with contextlib.suppress(ServerError):  # a version that is refused
            await ended(self.services, publication_id)
        return await self.client.get(f"/v1/publications/{publication_id}")

    async def changed(self, path: str, value: Any) -> bytes:
        """The manifest with one field changed; `path` is like `parity_items.0.logprobs`."""
        manifest: Any = await self.manifest(weights_file())
        *parents, last = (int(part) if part.isdecimal() else part for part in path.split("."))
        parent = manifest
        for part in parents:
            parent = parent[part]
        parent[last] = value
        return json.dumps(manifest).encode()

    def files(self) -> list[str]:
        """The files of adapters and of uploads on disk."""
        folders = [self.services.settings.data_dir / name for name in ("adapters", "uploads")]
        return [path.name for folder in folders for path in folder.rglob("*") if path.is_file()]


@asynccontextmanager
async def uploading(folder: Path) -> AsyncIterator[Uploader]:
    base = folder / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    (base / "tokenizer.json").write_text("{}")
    write_tensors(base / "model.safetensors", BASE)
    settings = Settings(engine="fake", model=str(base), data_dir=folder / "server", gate=False, profile_every=1000)
    async with serving(settings, FakeEngine(model_path=base)) as services:
        transport = httpx.ASGITransport(create_app(settings, services=services), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            yield Uploader(services, client)


@pytest.fixture
async def uploader(tmp_path: Path) -> AsyncIterator[Uploader]:
    async with uploading(tmp_path) as opened:
        yield opened


async def assert_refused(
    uploader: Uploader, error_of: ErrorOf, response: httpx.Response, code: str, param: str | None = None
) -> None:
    """Refused with 422, nothing kept, and the same lease takes the right files."""
    error = error_of(response)
    assert (response.status_code, error["code"]) == (422, code), error
    assert param is None or error["param"] == param
    assert await uploader.lease_state() == "active"
    assert uploader.files() == []
    assert (await uploader.upload()).status_code == 200


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64"])
async def test_upload_of_each_served_dtype_becomes_live(uploader: Uploader, dtype: str) -> None:
    response = await uploader.upload(weights=weights_file(header_of(dtype), data_of(dtype)))
    assert (response.status_code, response.json()["result"]["state"]) == (200, "live")


@pytest.mark.parametrize(
    ("path", "value", "param"),
    [
        ("losses", {"slow": float("nan")}, "manifest.losses.slow"),
        ("losses", {"slow": float("inf")}, "manifest.losses.slow"),
        ("seconds", float("nan"), "manifest.seconds"),
        ("settings", {"deep": [float("-inf")]}, "manifest.settings.deep[0]"),
        ("settings", {"note": "\0"}, "manifest.settings.note"),
        ("settings", {"seed": 2**64}, "manifest.settings.seed"),
        ("trainer", "\ud800", "manifest.trainer"),
        ("parity_items.0.logprobs.1", float("nan"), "manifest.parity_items[0].logprobs[1]"),
        ("parity_items.0.base_logprobs.0", float("inf"), "manifest.parity_items[0].base_logprobs[0]"),
        ("parity_items.0.logprobs.0", -1e308, "manifest.parity_items[0].logprobs[0]"),
        ("parity_items.0.target_ids.0", 10**9, "manifest.parity_items[0].target_ids[0]"),
        ("parity_items.0.prompt_ids.0", -1, "manifest.parity_items[0].prompt_ids[0]"),
        ("samples", {"slow": -1}, "manifest.samples.slow"),
        ("tokens", -1, "manifest.tokens"),
        ("settings", {str(n): n for n in range(60_000)}, "manifest"),
    ],
)
async def test_manifest_with_impossible_value_names_its_field(
    uploader: Uploader, error_of: ErrorOf, path: str, value: Any, param: str
) -> None:
    response = await uploader.upload(manifest=await uploader.changed(path, value))
    await assert_refused(uploader, error_of, response, "invalid_manifest", param)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("parity_items.0.prompt_ids.0", True),
        ("parity_items.0.target_ids.0", "1"),
        ("parity_items.0.target_ids.0", 1.0),
        ("parity_items.0.logprobs.0", "-0.5"),
        ("parity_items.0.base_logprobs.0", False),
        ("samples.slow", True),
        ("tokens", "10"),
        ("seconds", True),
        ("losses.slow_first", "2.0"),
    ],
)
async def test_manifest_with_value_of_another_type_names_its_field(
    uploader: Uploader, error_of: ErrorOf, path: str, value: Any
) -> None:
    response = await uploader.upload(manifest=await uploader.changed(path, value))
    name = re.sub(r"\.(\d+)", r"[\1]", path)
    await assert_refused(uploader, error_of, response, "validation_error", f"manifest.{name}")


@pytest.mark.parametrize("depth", [100, 30_000, 100_000])
async def test_manifest_nested_too_deep_is_refused(uploader: Uploader, error_of: ErrorOf, depth: int) -> None:
    await uploader.lease()
    response = await uploader.upload(manifest=b'{"settings":{"a":' + nested(depth) + b"}}")
    await assert_refused(uploader, error_of, response, "invalid_manifest", "manifest")


async def test_manifest_with_repeated_key_is_refused(uploader: Uploader, error_of: ErrorOf) -> None:
    text = await uploader.changed("tokens", 10)
    response = await uploader.upload(manifest=text.replace(b'"tokens"', b'"tokens": 1, "tokens"'))
    await assert_refused(uploader, error_of, response, "invalid_manifest", "manifest")


async def test_manifest_longer_than_the_model_is_refused(uploader: Uploader, error_of: ErrorOf) -> None:
    response = await uploader.upload(manifest=await uploader.changed("parity_items.0.prompt_ids", [1] * 5000))
    await assert_refused(uploader, error_of, response, "invalid_manifest", "manifest.parity_items[0]")


@pytest.mark.parametrize(
    ("config", "code"),
    [
        (adapter_config(target_modules=[["q_proj"]]), "adapter_targets"),
        (adapter_config(target_modules=[{}]), "adapter_targets"),
        (adapter_config(lora_alpha=1e30), "adapter_alpha"),
        (adapter_config(use_dora=True), "adapter_config"),
        (adapter_config(auto_mapping="\ud800"), "adapter_config"),
        (b'{"peft_type":' + nested(30_000) + b"}", "adapter_config"),
        (nested(100_000), "adapter_config"),
        (b"\xff\xfe", "adapter_config"),
    ],
)
async def test_config_that_cannot_be_served_is_refused(
    uploader: Uploader, error_of: ErrorOf, config: bytes, code: str
) -> None:
    await uploader.lease()
    await assert_refused(uploader, error_of, await uploader.upload(config=config), code)


def header_with(name: str, **fields: Any) -> bytes:
    header = header_of()
    header[name].update(fields)
    return weights_file(header)


@pytest.mark.parametrize(
    ("weights", "code"),
    [
        (weights_file(nested(30_000), b""), "adapter_header"),
        (weights_file(b'{"a":' * 100_000 + b"1" + b"}" * 100_000, b""), "adapter_header"),
        (header_with(NAMES[1], data_offsets=[0, 128]), "adapter_header"),
        (header_with(NAMES[1], data_offsets=[256, 128]), "adapter_header"),
        (header_with(NAMES[0], shape=[4.0, 8.0]), "adapter_header"),
        (header_with(NAMES[0], dtype="I32"), "adapter_dtype"),
        (header_with(NAMES[0], dtype="F33"), "adapter_dtype"),
        (weights_file() + b"\0" * 8, "adapter_header"),
        (weights_file(data=data_of(values=float("nan"))), "adapter_not_finite"),
        (weights_file(data=data_of(values=1e38)), "adapter_norm"),
        (b"", "adapter_truncated"),
    ],
)
async def test_weights_that_are_malformed_are_refused(
    uploader: Uploader, error_of: ErrorOf, weights: bytes, code: str
) -> None:
    await assert_refused(uploader, error_of, await uploader.upload(weights=weights), code)


# --- any change of a right upload -----------------------------------------------

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
    | st.sampled_from([-1, -(2**63), 2**64, 10**30, 1.0, -0.0, "1", "\0", "true"])
)  # fmt: skip
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)
PATHS = st.sampled_from([
    "adapter", "base_digest", "weights_sha256", "trace_ids", "samples", "samples.slow", "settings", "settings.rank",
    "losses", "losses.slow_first", "tokens", "seconds", "trainer", "parity_items", "parity_items.0",
    "parity_items.0.prompt_ids", "parity_items.0.prompt_ids.0", "parity_items.0.target_ids",
    "parity_items.0.target_ids.0", "parity_items.0.logprobs", "parity_items.0.logprobs.0",
    "parity_items.0.base_logprobs", "parity_items.0.base_logprobs.0", "another",
])  # fmt: skip
CONFIG_FIELDS = st.sampled_from([
    "peft_type", "r", "lora_alpha", "target_modules", "task_type", "bias", "use_rslora", "use_dora", "modules_to_save",
    "rank_pattern", "alpha_pattern", "layers_to_transform", "lora_dropout", "base_model_name_or_path", "another",
])  # fmt: skip
HEADER_FIELDS = st.tuples(
    st.sampled_from([*NAMES, "__metadata__"]), st.sampled_from(["dtype", "shape", "data_offsets"])
)


EDITS = st.lists(
    st.tuples(
        st.integers(0, 10**6),
        st.integers(0, 4),
        st.binary(max_size=4) | st.sampled_from([b"NaN", b"[", b"1e999", b'"\\ud800"']),
    ),
    min_size=1,
    max_size=3,
)
"""Where, how many bytes go, and which come: independent of the content, which differs from example to example."""


def edit(content: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    changed = bytearray(content)
    for place, removed, added in edits:
        at = place % (len(changed) + 1)
        changed[at : at + removed] = added
    return bytes(changed)


def assert_possible(manifest: dict[str, Any]) -> None:
    """What was taken has counts and token ids that are whole numbers from 0 on."""
    ids = [token for item in manifest["parity_items"] for name in ("prompt_ids", "target_ids") for token in item[name]]
    for number in (*ids, *manifest["samples"].values(), manifest["tokens"]):
        assert type(number) is int
        assert number >= 0


def test_any_changed_upload_is_taken_or_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    with asyncio.Runner() as runner:
        opened = uploading(tmp_path_factory.mktemp("changed"))
        uploader = runner.run(opened.__aenter__())

        def send(**parts: bytes) -> httpx.Response:
            response = runner.run(uploader.upload(**parts))
            assert response.status_code < 500, response.text
            return response

        @given(st.sampled_from(["weights", "config", "manifest"]), EDITS)
        @hypothesis_settings(max_examples=120)
        def change_part(part: str, edits: list[tuple[int, int, bytes]]) -> None:
            if part == "manifest":
                right = json.dumps(runner.run(uploader.manifest(weights_file()))).encode()
            else:
                right = weights_file() if part == "weights" else adapter_config()
            send(**{part: edit(right, edits)})

        @given(PATHS, VALUES)
        @hypothesis_settings(max_examples=120)
        def change_field(path: str, value: Any) -> None:
            manifest = runner.run(uploader.changed(path, value))
            if send(manifest=manifest).is_success:
                assert_possible(json.loads(manifest))

        @given(CONFIG_FIELDS, VALUES)
        @hypothesis_settings(max_examples=60)
        def change_config(field: str, value: Any) -> None:
            send(config=adapter_config(**{field: value}))

        @given(HEADER_FIELDS, VALUES)
        @hypothesis_settings(max_examples=60)
        def change_header(place: tuple[str, str], value: Any) -> None:
            header = header_of()
            header[place[0]][place[1]] = value
            send(weights=weights_file(header))

        try:
            change_part()
            change_field()
            change_config()
            change_header()
        finally:
            runner.run(opened.__aexit__(None, None, None))
