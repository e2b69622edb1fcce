"""vLLM's own HTTP server, as a user would start it, and an engine of ours whose every call goes to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from mindprint.local.console import Output
from mindprint.local.processes import Child, Processes, free_port
from mindprint.model_files import resolve
from mindprint_server.engine import (
    AdapterRef,
    ChatBackend,
    EngineInfo,
    EngineStats,
    GenerationOutput,
    Priority,
    Sampling,
)
from support.harness import CannotMeasure
from support.workload import as_options, engine_flags

if TYPE_CHECKING:
    from mindprint_server.settings import Settings

START_S = 300.0
MODULE = "vllm.entrypoints.openai.api_server"
LOOP = {"max_pattern_size": 12, "min_pattern_size": 1, "min_count": 4}


@asynccontextmanager
async def run_vllm_server(
    processes: Processes, settings: Settings, out: Output, *, at_once: int = 1024
) -> AsyncIterator[HttpEngine]:
    """VLLM's server with the engine flags of a Mindprint server, ready. Raises CannotMeasure."""
    flags = engine_flags(settings)  # also sets the environment that these flags go with
    port = free_port()
    words = ["--port", str(port), "--host", "127.0.0.1", "--disable-uvicorn-access-log", *as_options(flags)]
    child = processes.start("vllm", [MODULE, *words], {"VLLM_LOGGING_LEVEL": "WARNING"})
    url = f"http://127.0.0.1:{port}"
    await _ready(url, child, out)
    path = resolve(settings.model)
    info = EngineInfo("vLLM over HTTP", "", str(path), settings.max_model_len, base_digest="")
    engine = HttpEngine(url, _tokenizer(path), info, at_once)
    try:
        yield engine
    finally:
        await engine.stop()


async def _ready(url: str, child: Child, out: Output) -> None:
    async with httpx.AsyncClient() as http:
        with out.bar("vLLM's server") as bar:
            for second in range(int(START_S)):
                child.check()
                try:
                    if (await http.get(f"{url}/health")).status_code == 200:
                        bar.finish("ready")
                        return
                except httpx.TransportError:
                    pass
                bar.update(second, "starting")
                await asyncio.sleep(1)
    raise CannotMeasure(f"vLLM's server was not ready after {START_S:.0f} s: {child.log}")


def sampling_body(sampling: Sampling) -> dict[str, Any]:
    """Return the same sampling as our engine's, in the fields of vLLM's completions route."""
    return {
        "model": "base",
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "seed": sampling.seed,
        "stop": list(sampling.stop),
        "repetition_detection": LOOP if sampling.detect_loops else None,
        "return_token_ids": True,
    }


class HttpEngine:
    """`Engine` over vLLM's HTTP server: an async client as one would write it, many requests at once."""

    def __init__(self, url: str, tokenizer: Any, info: EngineInfo, at_once: int) -> None:
        self.ready = True
        self.dead = asyncio.Event()
        self.unsupported_fields: Mapping[str, str] = {}
        self.ignored_adapter_options: frozenset[str] = frozenset()
        self.tokenizer = tokenizer
        self._info = info
        # The server closes what is idle for five seconds: whoever takes it up in that moment is told nothing.
        limits = httpx.Limits(max_connections=at_once, max_keepalive_connections=at_once, keepalive_expiry=2)
        self._http = httpx.AsyncClient(base_url=url, timeout=600, limits=limits)

    async def start(self, progress: Callable[[str], None]) -> None: ...

    async def stop(self) -> None:
        await self._http.aclose()

    def info(self) -> EngineInfo:
        return self._info

    def stats(self) -> EngineStats:
        return EngineStats()

    async def chat_backend(self) -> ChatBackend | None:
        return None

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, adapter: AdapterRef | None, priority: Priority
    ) -> GenerationOutput:
        [one] = await self.generate_many(prompt_ids, sampling, 1)
        return one

    async def stream(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, adapter: AdapterRef | None, priority: Priority
    ) -> AsyncGenerator[GenerationOutput]:
        """Yield what `generate` writes, at once."""
        yield await self.generate(prompt_ids, sampling, adapter=adapter, priority=priority)

    async def generate_many(self, prompt_ids: Sequence[int], sampling: Sampling, count: int) -> list[GenerationOutput]:
        """`count` candidates in one request."""
        reply = await self._post({**sampling_body(sampling), "prompt": list(prompt_ids), "n": count})
        return [
            GenerationOutput(
                text=choice["text"],
                token_ids=tuple(choice["token_ids"]),
                finish={"stop": "stop", "length": "length", "repetition": "loop"}.get(choice["finish_reason"], "abort"),  # type: ignore[arg-type]
                prompt_tokens=len(prompt_ids),
                cached_tokens=0,
            )
            for choice in reply["choices"]
        ]

    async def next_logprobs(
        self, prompt_ids: Sequence[int], token_ids: Sequence[int], *, adapter: AdapterRef | None, priority: Priority
    ) -> list[float]:
        body = {
            "model": "base",
            "prompt": list(prompt_ids),
            "max_tokens": 1,
            "temperature": 0.0,
            "logprobs": 1,
            "logprob_token_ids": list(token_ids),
            "return_tokens_as_token_ids": True,
        }
        reply = await self._post(body)
        [position] = reply["choices"][0]["logprobs"]["top_logprobs"]
        return [position[f"token_id:{token}"] for token in token_ids]

    async def layer_shapes(self, layers: Sequence[str]) -> dict[str, tuple[int, ...]]:
        return {}

    async def load(self, adapter: AdapterRef) -> None: ...

    async def unload(self, adapter: AdapterRef) -> None: ...

    async def _post(self, body: dict[str, Any]) -> Any:
        reply = await self._http.post("/v1/completions", json=body)
        if reply.status_code != 200:
            raise CannotMeasure(f"vLLM's server answered {reply.status_code}: {reply.text[:200]}")
        return reply.json()


def _tokenizer(model: Path) -> Any:
    from mindprint_server.engine.tokenizer import HFTokenizer

    return HFTokenizer.load(model)
