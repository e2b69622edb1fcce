"""The Mindprint server: memory, traces, queue, adapters and OpenAI-compatible answers on one vLLM engine."""
