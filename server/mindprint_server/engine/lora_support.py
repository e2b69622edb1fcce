"""What of a model can get adapters, read from its files before vLLM loads them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog
from safetensors import safe_open

from mindprint.base_support import CONFIG, find_quantization, read_base_support, read_model_config

log = structlog.get_logger(__name__)

EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
"""Configuration fields that count the experts of a layer."""
_NO_ADAPTERS = ("embed", "lm_head", "norm")
"""Parts of the names of matrices that are no linear layers, or the head."""


def check_lora_support(folder: Path, target_modules: Sequence[str], *, on_cpu: bool) -> None:
    """Refuse a model whose adapters cannot be served, and log which of `target_modules` it lacks.

    Args:
        folder: The model.
        target_modules: The layers that adapters may change.
        on_cpu: Whether the engine runs on a CPU.

    Raises:
        RuntimeError: It is a mixture of experts or computes in int8 and the engine runs on a CPU, or it has none of the
            layers.
    """
    config = read_model_config(folder) if (folder / CONFIG).is_file() else {}
    if on_cpu and has_experts(config):
        raise RuntimeError(
            f"{config.get('model_type', 'the model')} is a mixture of experts, and vLLM serves adapters on one only on "
            "a GPU: name another model, or serve it on a GPU"
        )
    if (quantization := find_quantization(config)) is not None:
        if on_cpu and computes_in_int8(quantization):
            raise RuntimeError(
                "weights and activations of the model are int8, and vLLM serves adapters on such layers only on a GPU: "
                "name the unquantized model, or serve it on a GPU"
            )
        # Files of quantized layers have other names and shapes. The worker's own layers are checked after the load.
        return
    layers = linear_layers(_read_shapes(folder))
    missing = [name for name in target_modules if name not in layers]
    if layers and len(missing) == len(target_modules):
        raise RuntimeError(
            f"target_modules: the model has none of {', '.join(missing)}: name some of {', '.join(sorted(layers))}"
        )
    if layers and missing:
        log.warning("the model lacks layers of target_modules", lacks=sorted(missing), has=sorted(layers))


def check_base(folder: Path, served_methods: Collection[str]) -> None:
    """Refuse a model whose weights cannot be served, and say in the log if it cannot be trained.

    Args:
        folder: The model.
        served_methods: Values of `quant_method` that the engine reads.

    Raises:
        RuntimeError: The engine cannot read its weights.
    """
    if not (folder / CONFIG).is_file():
        return
    support = read_base_support(folder, served_methods)
    if support.level == "refused":
        raise RuntimeError(f"the model in {folder} cannot be served: {support.reason}")
    if support.level == "served":
        log.warning("adapters of this model cannot be trained or imported", model=str(folder), reason=support.reason)


def check_architecture(folder: Path, model_impl: str = "auto") -> None:
    """Refuse an architecture on which vLLM serves no adapters. Its code is loaded, not the weights.

    Args:
        folder: The model. vLLM takes the first of its `architectures` that it knows, and transformers' code if it knows
            none.
        model_impl: vLLM's option. `transformers` takes transformers' code always.

    Raises:
        RuntimeError: vLLM has it, and serves no adapters on it, or its code needs a package that is not installed.
    """
    from vllm.model_executor.models import ModelRegistry, supports_lora

    if model_impl not in ("auto", "vllm") or not (folder / CONFIG).is_file():
        return
    architectures: Sequence[str] = read_model_config(folder).get("architectures") or ()
    for name in architectures:
        if (registered := ModelRegistry.models.get(name)) is None:
            continue
        try:
            model_class = registered.load_model_cls()
        except ModuleNotFoundError as error:  # vLLM's own words for it name a log
            raise RuntimeError(
                f"vLLM's code of {name} needs the package {error.name}, which is not installed: install the release of "
                "it that fits the installed torch, or name a text model"
            ) from error
        except Exception as error:  # its code may need a device; the engine says so when it loads it
            log.info("architecture not checked", architecture=name, error=" ".join(str(error).split())[:200])
            return
        if not supports_lora(model_class):
            raise RuntimeError(
                f"vLLM serves no adapters on {name}: name another model, or set the engine's option "
                "`--engine-arg model_impl=transformers`"
            )
        return


def computes_in_int8(quantization: Mapping[str, Any]) -> bool:
    """Return whether linear layers multiply int8 weights with int8 activations.

    On a CPU vLLM 0.32 packs such weights away, and finds none when it wraps the layer for adapters.

    Args:
        quantization: What `find_quantization` returned.
    """
    groups = quantization.get("config_groups")
    return isinstance(groups, Mapping) and any(
        all(_is_int8(group.get(part)) for part in ("weights", "input_activations"))
        for group in groups.values()
        if isinstance(group, Mapping)
    )


def _is_int8(values: Any) -> bool:
    return isinstance(values, Mapping) and (values.get("type"), values.get("num_bits")) == ("int", 8)


def has_experts(config: Mapping[str, Any]) -> bool:
    """Return whether a configuration is that of a mixture of experts.

    Args:
        config: The content of config.json.
    """
    if config.get("is_moe") is False:
        return False
    counts = [config.get(name) for name in EXPERT_COUNTS]
    parts = [part for part in config.values() if isinstance(part, Mapping)]
    return any(map(_is_several, counts)) or any(map(has_experts, parts))


def _is_several(count: Any) -> bool:
    """Return whether a field counts more than one expert. Some have a list: a count for each part or layer."""
    counts = count if isinstance(count, list) else [count]
    return any(isinstance(one, int) and one > 1 for one in counts)


def linear_layers(shapes: Mapping[str, Collection[int]]) -> set[str]:
    """Return the last parts of the names of a model's linear layers.

    Args:
        shapes: Shapes of the model's tensors by name.
    """
    return {
        name.split(".")[-2]
        for name, shape in shapes.items()
        if name.endswith(".weight")
        and len(shape) == 2
        and not any(part in name.split(".")[-2] for part in _NO_ADAPTERS)
    }


def _read_shapes(folder: Path) -> dict[str, Collection[int]]:
    return {name: shape for path in sorted(folder.glob("*.safetensors")) for name, shape in _read_header(path)}


def _read_header(path: Path) -> Iterator[tuple[str, Collection[int]]]:
    with safe_open(path, framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118
            yield name, file.get_slice(name).get_shape()
