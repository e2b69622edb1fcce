"""Training runs: one adapter, several in shared passes, several in threads."""
