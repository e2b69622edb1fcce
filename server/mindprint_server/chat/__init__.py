"""OpenAI-compatible chat: messages, thinking, fallback and streaming."""
