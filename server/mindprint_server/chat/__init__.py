"""Chat completions: messages, memory, thinking, and the answer."""
