"""What Mindprint changes in vLLM's worker process on a CPU. vLLM loads this module through `worker_extension_cls`."""

from __future__ import annotations

from mindprint_server.engine import cpu_lora, cpu_seeds
from mindprint_server.engine.worker_lora import LoraReporter

CHANGES = (cpu_lora, cpu_seeds)
"""Modules that change vLLM when they are imported."""


class WorkerExtension(LoraReporter):
    """Extension of vLLM's worker on a CPU. Naming it makes the worker import this module."""
