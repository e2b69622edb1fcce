"""The engine boundary: one protocol, one implementation on vLLM, one deterministic fake for HTTP and store tests."""

from mindprint_server.engine.base import (
    AdapterRef,
    ChatBackend,
    ChatParameters,
    Engine,
    EngineDied,
    EngineInfo,
    EngineStats,
    GenerationOutput,
    Message,
    Priority,
    PromptTooLong,
    RenderedPrompt,
    Sampling,
    Tokenizer,
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
