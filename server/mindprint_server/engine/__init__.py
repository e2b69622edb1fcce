"""The engine boundary: one protocol, one implementation on vLLM, one deterministic fake for HTTP and store tests."""

from mindprint_server.engine.base import ChatBackend, ChatParameters, Engine, RenderedPrompt, Tokenizer
from mindprint_server.engine.types import (
    AdapterRef,
    EngineDied,
    EngineInfo,
    EngineStats,
    GenerationOutput,
    Message,
    Priority,
    PromptTooLong,
    Sampling,
)

__all__ = [
    "AdapterRef",
    "ChatBackend",
    "ChatParameters",
    "Engine",
    "EngineDied",
    "EngineInfo",
    "EngineStats",
    "GenerationOutput",
    "Message",
    "Priority",
    "PromptTooLong",
    "RenderedPrompt",
    "Sampling",
    "Tokenizer",
]
