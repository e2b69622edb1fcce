"""vLLM's request object for an adapter version, and what this release of vLLM does with adapters."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from mindprint_server.engine.types import AdapterRef

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest

PATTERNS = ("rank_pattern", "alpha_pattern")
"""Options of PEFT that vLLM 0.32 reads. Older releases ignore them, and scale layers in another way than PEFT."""
MAX_NAMES = 12
"""Names of layers in a message."""


def lora_request(adapter: AdapterRef) -> LoRARequest:
    """Build vLLM's request object for one version. Fields go by name: their order differs between releases."""
    from vllm.lora.request import LoRARequest

    return LoRARequest(lora_name=adapter.engine_name, lora_int_id=adapter.engine_id, lora_path=str(adapter.path))


def list_ignored_options() -> frozenset[str]:
    """Return those of `PATTERNS` that the installed release of vLLM ignores."""
    from vllm.lora.peft_helper import PEFTHelper

    return frozenset(option for option in PATTERNS if option not in PEFTHelper.__dataclass_fields__)


def check_targets(layers: Collection[str], targets: Collection[str], known: Collection[str]) -> None:
    """Check that the model has layers that adapters may change.

    Args:
        layers: Names of all layers that the engine adapts.
        targets: The setting `target_modules`.
        known: Names that `target_modules` could have for this model.

    Raises:
        RuntimeError: It has none of them.
    """
    if not {layer.rpartition(".")[2] for layer in layers} & set(targets):
        shown = ", ".join(sorted(known)[:MAX_NAMES])
        raise RuntimeError(
            f"the model has none of the layers {', '.join(sorted(targets))} that adapters may change: "
            f"name some of its own in target_modules ({shown}), or serve another model"
        )
