"""Names of `engine_args`: how they are written, and which of vLLM's options Mindprint decides itself. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MODEL_FOLDER = "it belongs to the model's folder, which the trainer reads too: change it there"
_FORMAT = "it is always `hf`, the files that the trainer and the chat format read too"
_ADAPTERS = "adapters are loaded while the server runs: `mindprint adapters import`"
_TLS = "put a proxy with TLS in front of the server"
_TEXTS = "Mindprint's logs hold no texts"
_SCORES = "Mindprint's scores need it as it is"

DECIDED: Mapping[str, str] = {
    # settings of Mindprint
    "model": "set `model`",
    "dtype": "set `dtype`",
    "load_format": "set `load_format`",
    "max_model_len": "set `max_model_len`",
    "max_num_seqs": "set `max_num_seqs`",
    "enforce_eager": "set `enforce_eager`",
    "gpu_memory_utilization": "set `gpu_memory_utilization`",
    "device_memory_utilization": "set `gpu_memory_utilization`",
    "kv_cache_memory_bytes": "set `kv_cache_gib`",
    "max_loras": "set `max_loras`",
    "max_cpu_loras": "set `max_cpu_loras`",
    "max_lora_rank": "set `max_lora_rank`",
    "lora_target_modules": "set `target_modules`",
    "host": "set `host`",
    "port": "set `port`",
    "disable_fastapi_docs": "set `openapi`",
    "config": "set `--config`, a TOML file with a table `[engine_args]`",
    # always the same
    "enable_lora": "it is always on",
    "enable_prefix_caching": "it is always on",
    "scheduling_policy": "it is always `priority`, for chats go before batches",
    "disable_log_stats": "statistics are always on, for `/metrics`",
    "served_model_name": "the base model is always `base`",
    "runner": "the engine always generates text",
    "convert": "the engine always generates text",
    "skip_tokenizer_init": "the tokenizer is always loaded",
    "logprobs_mode": _SCORES,
    "lora_modules": _ADAPTERS,
    "default_mm_loras": _ADAPTERS,
    # the model
    "tokenizer": _MODEL_FOLDER,
    "tokenizer_mode": _FORMAT,
    "tokenizer_revision": _MODEL_FOLDER,
    "hf_config_path": _MODEL_FOLDER,
    "config_format": _FORMAT,
    "hf_overrides": _MODEL_FOLDER,
    "trust_remote_code": "no code of a model's folder is run, for the tokenizer and the trainer would need it too: "
    "serve a model that transformers knows",
    "revision": "download that revision, and set `model` to its folder",
    "code_revision": "download that revision, and set `model` to its folder",
    "hf_token": "set the environment variable HF_TOKEN, so that it is not printed",
    "chat_template": _MODEL_FOLDER,
    "default_chat_template_kwargs": "the mode of a request decides whether the model thinks",
    # access and logs
    "api_key": "make keys with `mindprint keys create`",
    "ssl_keyfile": _TLS,
    "ssl_certfile": _TLS,
    "ssl_ca_certs": _TLS,
    "enable_log_requests": _TEXTS,
    "enable_log_outputs": _TEXTS,
    "max_log_len": _TEXTS,
}
"""Options of `vllm serve` that `engine_args` may not set, each with what to do instead."""


def option_name(name: str) -> str:
    """Return the name of an option as vLLM's Python has it: `tool-call-parser` is `tool_call_parser`."""
    return name.strip().removeprefix("--").replace("-", "_")


def read_engine_args(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return options under the names of vLLM's Python.

    Args:
        given: Values by name, as a command line or a file has them.

    Raises:
        ValueError: An option is there twice, has no value, or is decided by Mindprint itself.
    """
    found: dict[str, Any] = {}
    for written, value in given.items():
        name = option_name(written)
        if name in found:
            raise ValueError(f"{name} is there twice, with _ and with -: keep one")
        if value is None:
            raise ValueError(f"{name} has no value: take it out for vLLM's default")
        if name in DECIDED:
            raise ValueError(f"{name} is decided by Mindprint: {DECIDED[name]}")
        found[name] = value
    return found
