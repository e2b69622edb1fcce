"""vLLM's request object for an adapter version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mindprint_server.engine.base import AdapterRef

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest


def lora_request(adapter: AdapterRef) -> LoRARequest:
    """Build vLLM's request object for one version. Fields go by name: their order differs between releases."""
    from vllm.lora.request import LoRARequest

    # A plain str: vLLM sends the request to its core and serializes no subclass of str, such as `VersionRef`.
    return LoRARequest(lora_name=str(adapter.name), lora_int_id=adapter.engine_id, lora_path=str(adapter.path))
