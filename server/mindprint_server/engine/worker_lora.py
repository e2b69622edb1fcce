"""What vLLM's worker says about its LoRA layers: which there are, and which of an adapter's it applies.

vLLM loads this module in its worker processes, through `worker_extension_cls`. `add_lora` says True also for an adapter
none of whose tensors fits a layer (0.32), and files of the base model do not always say the shapes of its layers: they
may be quantized, or named in another way. The layers in the worker are what adapters are applied to.

Nothing of vLLM is imported here. Its LoRA manager is not public: where it has another form, the worker says that it
does not know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

LayerShape = list[int]
"""Output and input features of a linear layer. A list: replies of a worker are lists, not tuples."""


class LoraReporter:
    """Extension of vLLM's worker. Its methods are called through `collective_rpc`, in each worker."""

    def report_lora_layers(self) -> dict[str, LayerShape] | None:
        """Return the layers that adapters can change, by vLLM's names; None if they cannot be told."""
        manager = _manager(self)
        return None if manager is None else list_layers(manager)

    def list_lora_targets(self) -> list[str]:
        """List the names of the layers of this model that vLLM could adapt, also of those that are not targets."""
        manager = _manager(self)
        return [] if manager is None else list_targets(manager)

    def find_lora_layers(self, names: Sequence[str]) -> dict[str, LayerShape] | None:
        """Return the layers that adapters call by these names; None if they cannot be told.

        Args:
            names: Names of layers as in an adapter's file, without PEFT's prefix.
        """
        manager = _manager(self)
        if manager is None:
            return None
        layers = list_layers(manager)
        renamed = {name: rename(manager.model, name) for name in names}
        return {name: layers[ours] for name, ours in renamed.items() if ours in layers}

    def list_unapplied_lora(self, engine_id: int) -> list[str] | None:
        """List the layers of a loaded adapter that fit no layer of this worker; None if they cannot be told.

        Args:
            engine_id: The adapter.
        """
        manager = _manager(self)
        if manager is None or (adapter := manager.list_adapters().get(engine_id)) is None:
            return None
        return list_unapplied(manager, adapter)


def list_layers(manager: Any) -> dict[str, LayerShape]:
    """Return output and input features of the linear layers of a LoRA manager, by vLLM's names.

    vLLM packs some layers into one, such as q, k and v. Each has its own name and shape here.

    Args:
        manager: vLLM's `LoRAModelManager`.
    """
    layers: dict[str, LayerShape] = {}
    for name, module in manager.modules.items():
        parts = manager.packed_modules.get(name, [name])
        widths = full_widths(module, len(parts))
        if widths is not None:
            layers |= {part: [width, module.base_layer.input_size] for part, width in zip(parts, widths, strict=True)}
    return layers


def list_targets(manager: Any) -> list[str]:
    """List the last parts of the names of the layers that a LoRA manager could adapt, with packed ones apart.

    Args:
        manager: vLLM's `LoRAModelManager`.
    """
    packed = getattr(manager, "packed_modules_mapping", {})
    return sorted({part for name in manager.supported_lora_modules for part in packed.get(name) or [name]})


def full_widths(module: Any, count: int) -> list[int] | None:
    """Return the output features of the layers that one module packs, over all workers; None if it is not linear.

    Args:
        module: vLLM's LoRA layer.
        count: Number of layers that it packs.
    """
    base: Any = getattr(module, "base_layer", None)
    if not hasattr(base, "input_size") or not hasattr(base, "output_size"):
        return None
    if hasattr(base, "total_num_kv_heads") and count == 3:
        value_size = getattr(base, "v_head_size", base.head_size)
        key_heads = base.total_num_kv_heads
        return [base.total_num_heads * base.head_size, key_heads * base.head_size, key_heads * value_size]
    if count == 1:
        return [base.output_size]
    widths = list(getattr(base, "output_sizes", ()))
    return widths if len(widths) == count else None


def rename(model: Any, name: str) -> str:
    """Return vLLM's name of a layer that an adapter calls `name`, as vLLM itself finds it while it loads an adapter."""
    mapper = getattr(model, "hf_to_vllm_mapper", None)
    if mapper is None:
        return name
    if hasattr(mapper, "get_rename_mapper"):
        mapper = mapper.get_rename_mapper()
    # Mapped with the end that tensors have: a mapper may replace ends of names.
    end = ".lora_A.weight"
    return str(mapper._map_name(name + end) or "").removesuffix(end)


def list_unapplied(manager: Any, adapter: Any) -> list[str]:
    """List the layers of an adapter that a LoRA manager has no layer for, by vLLM's names.

    Args:
        manager: vLLM's `LoRAModelManager`.
        adapter: Its `LoRAModel`. The manager has packed its layers as it packed the model's.
    """
    return sorted(name for name in adapter.loras if name not in manager.modules)


def unapplied_by_all(replies: Sequence[Sequence[str] | None]) -> list[str]:
    """Return the layers that no worker applied. With pipeline parallelism each has layers of its own.

    Args:
        replies: What `list_unapplied_lora` returned in each worker. None does not know, so nothing is unapplied.
    """
    known = [set(reply) for reply in replies if reply is not None]
    return sorted(set.intersection(*known)) if len(known) == len(replies) and known else []


def join_layers(replies: Sequence[Mapping[str, LayerShape] | None]) -> dict[str, tuple[int, ...]] | None:
    """Return the layers of all workers; None if one of them does not know."""
    layers: dict[str, tuple[int, ...]] = {}
    for reply in replies:
        if reply is None:
            return None
        layers |= {name: tuple(shape) for name, shape in reply.items()}
    return layers


def _manager(worker: Any) -> Any | None:
    lora_manager = getattr(getattr(worker, "model_runner", None), "lora_manager", None)
    manager = getattr(lora_manager, "_adapter_manager", None)
    wanted = ("model", "modules", "packed_modules", "list_adapters", "supported_lora_modules")
    return manager if all(hasattr(manager, name) for name in wanted) else None
