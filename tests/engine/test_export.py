"""What a user takes away: a version that needs no Mindprint."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import httpx

import without_mindprint
from mindprint import AsyncMindprintClient
from mindprint_server.app import create_app
from mindprint_server.engine import Priority, Sampling
from mindprint_server.wiring import Services
from proved import live_version

TOKENS = 12


async def test_an_exported_version_loads_with_peft_and_vllm_alone(
    services: Services, adapters: list[Path], tmp_path: Path
) -> None:
    """Both continue a prompt as the service's own engine does with that version, and not as the base does."""
    version = await live_version(services, adapters[0], tmp_path, 1)
    transport = httpx.ASGITransport(create_app(services.settings, services=services))
    async with AsyncMindprintClient("http://127.0.0.1", transport=transport) as client:
        folder = await client.adapters.download(version.adapter, version.version, tmp_path / "exported")

    engine = services.engine
    prompt, greedy = engine.tokenizer.encode("A walk by the lake? "), Sampling(max_tokens=TOKENS)
    async with services.adapters.acquire("user/ann@1") as adapter:
        ours = await engine.generate(prompt, greedy, adapter=adapter, priority=Priority.INTERACTIVE)
    base = await engine.generate(prompt, greedy, adapter=None, priority=Priority.INTERACTIVE)
    assert ours.token_ids != base.token_ids

    process = await asyncio.create_subprocess_exec(
        sys.executable,
        without_mindprint.__file__,
        engine.info().model_path,
        str(folder),
        json.dumps(prompt),
        str(len(ours.token_ids)),
        env={**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_CPU_KVCACHE_SPACE": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 280)
    assert process.returncode == 0, err.decode()[-3000:]
    found = json.loads(out.decode().splitlines()[-1])
    assert found["peft"] == list(ours.token_ids)
    assert found["vllm"] == list(ours.token_ids)
