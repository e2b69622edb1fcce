"""Training runs: one adapter, several together, several in threads."""
