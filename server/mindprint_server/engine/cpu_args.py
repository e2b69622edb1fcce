"""Arguments and environment of vLLM on a CPU (measured in docs/decisions/001, 002 and 041)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, files
from typing import Any

from mindprint_server.engine.vllm_options import WrongOption
from mindprint_server.settings import EngineSettings

CPU_CACHE_GIB = 1.0
"""Default size of the KV cache on a CPU."""
NOT_LINEAR = {"embed_tokens", "lm_head"}
"""Target modules that are not linear layers; vLLM would adapt them too."""
DECIDED = {
    "enable_chunked_prefill": "long prompts are always computed in several steps (docs/decisions/041)",
    "max_num_batched_tokens": "set cpu_step_tokens",
    "scheduler_cls": "Mindprint's own lets tenants take turns (docs/decisions/034)",
    "additional_config": "Mindprint's own scheduler reads it",
    "worker_extension_cls": "Mindprint's own has the operations of adapters (docs/decisions/015)",
}
"""Options that `engine_args` may not set on a CPU, each with the reason."""


def check_cpu_options(given: Mapping[str, Any]) -> None:
    """Check options that the engine's operations on a CPU depend on.

    Raises:
        WrongOption: One of them is set.
    """
    for name, why in DECIDED.items():
        if name in given:
            raise WrongOption(f"{name} cannot be set on a CPU: {why}")


def cpu_args(settings: EngineSettings) -> dict[str, Any]:
    """Return the engine arguments for a CPU and set its environment.

    Raises:
        RuntimeError: `target_modules` names layers that are not linear. vLLM's operations for those would compute
            tokens of the base model with some adapter (docs/decisions/007).
    """
    if others := NOT_LINEAR.intersection(settings.target_modules):
        raise RuntimeError(f"target_modules: no adapters of {', '.join(sorted(others))} on a CPU: take them out")
    from mindprint_server.engine.cpu_scheduler import SHARED_STEP_TOKENS

    preload_openmp()
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", cores if settings.cpu_bind == "all" else settings.cpu_bind)
    return {
        # vLLM checks this share against one NUMA node at the start. The cache has its own size in bytes below.
        "gpu_memory_utilization": 0.2,
        "kv_cache_memory_bytes": int((settings.kv_cache_gib or CPU_CACHE_GIB) * 2**30),
        # vLLM's 128 tokens a block leave most of a short prompt out of the prefix cache.
        "block_size": 32,
        # Small steps: an answer that somebody waits for begins after the step that runs.
        "max_num_batched_tokens": max(settings.cpu_step_tokens, settings.max_num_seqs),
        "scheduler_cls": "mindprint_server.engine.cpu_scheduler.TurnScheduler",
        "additional_config": {SHARED_STEP_TOKENS: settings.cpu_shared_step_tokens},
        # Replaces the LoRA operations of linear layers. They run eagerly and cannot be compiled. And the random
        # generators of seeded requests: vLLM's end the engine when a prompt takes more than one step.
        "worker_extension_cls": "mindprint_server.engine.cpu_worker.WorkerExtension",
        "lora_target_modules": list(settings.target_modules),
        "enforce_eager": True,
    }


def preload_openmp() -> None:
    """Preload Intel's OpenMP in the engine's processes, as vLLM advises. It comes with vllm-cpu."""
    with contextlib.suppress(PackageNotFoundError):
        for file in files("intel-openmp") or []:
            if file.name == "libiomp5.so" and "LD_PRELOAD" not in os.environ:
                os.environ["LD_PRELOAD"] = os.path.realpath(file.locate())
