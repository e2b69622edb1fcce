"""Judges an uploaded adapter_config.json: a closed list of what the engine does, every other option is refused.

What vLLM does is in `vllm.lora.peft_helper.PEFTHelper`. It ignores options that it does not know, so that an adapter
would answer in another way than it was trained.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from mindprint_server.bounded_json import JsonRefused, parse_json
from mindprint_server.exceptions import Invalid
from mindprint_server.settings import AdapterSettings

CHECKED = ("r", "lora_alpha", "target_modules")
"""Options with a check of their own."""
SERVED: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "task_type": ("CAUSAL_LM", None),
    "bias": ("none",),
    "use_rslora": (True, False),
    # Others, such as PiSSA or LoftQ, change the weights of the base model.
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal", "mica", "lora_ga"),
}
"""Options of which the engine serves some values."""
IGNORED: Mapping[str, tuple[type, ...]] = {
    "auto_mapping": (dict,),
    "base_model_name_or_path": (str,),
    "inference_mode": (bool,),
    "layers_pattern": (str, list),
    "layers_to_transform": (int, list),
    "lora_dropout": (int, float),
    "megatron_core": (str,),
    "peft_version": (str,),
    "qalora_group_size": (int,),
    "revision": (str,),
}
"""Options that change no answer, with the types of their values. `layers_to_transform`: the weights say which layers
the adapter has."""
OFF: tuple[Any, ...] = (None, False, {}, [])
"""Values that switch an option off. Any option may have one: PEFT writes all that it knows."""


@dataclass(frozen=True)
class AdapterConfig:
    """What the server needs to know of an adapter.

    Attributes:
        rank: Rank of all its layers.
        targets: Modules that it adapts.
    """

    rank: int
    targets: frozenset[str]


def read_config(text: bytes, *, max_rank: int, targets: Collection[str], settings: AdapterSettings) -> AdapterConfig:
    """Parse adapter_config.json, and check that the engine does what it says.

    Args:
        text: Content of the file.
        max_rank: Largest rank.
        targets: Names of the modules that may be adapted.
        settings: Bounds of uploads.

    Raises:
        Invalid: The adapter cannot be served.
    """
    config = _parse(text, settings)
    if config.get("peft_type") != "LORA":
        raise Invalid("adapter_config", "adapter_config.json is not of a PEFT LoRA: train with peft_type LORA")
    for name, value in config.items():
        _check_option(name, value)
    _check_alpha(config.get("lora_alpha"), settings.max_lora_alpha)
    return AdapterConfig(_read_rank(config.get("r"), max_rank), _read_targets(config.get("target_modules"), targets))


def _parse(text: bytes, settings: AdapterSettings) -> dict[str, Any]:
    if len(text) > settings.max_adapter_config_bytes:
        raise Invalid(
            "adapter_config",
            f"adapter_config.json has {len(text)} bytes, more than {settings.max_adapter_config_bytes}: "
            "upload the file that PEFT wrote, or raise max_adapter_config_bytes",
        )
    try:
        config = parse_json(text, max_depth=settings.max_upload_json_depth)
    except JsonRefused as error:
        raise Invalid(
            "adapter_config",
            f"adapter_config.json cannot be read ({error}): upload the file that PEFT wrote",
            param=_param(error.path),
        ) from None
    if not isinstance(config, dict):
        raise Invalid("adapter_config", "adapter_config.json is no JSON object: upload the file that PEFT wrote")
    return config


def _check_option(name: str, value: Any) -> None:
    if name in SERVED:
        if value not in SERVED[name]:
            served = ", ".join(map(repr, SERVED[name]))
            raise Invalid(
                "adapter_config",
                f"the engine cannot serve {name}={str(value)[:80]!r}: train with one of {served}",
                param=_param(name),
            )
    elif name in IGNORED:
        if value is not None and not isinstance(value, IGNORED[name]):
            raise Invalid(
                "adapter_config",
                f"{name} has a value of another type than PEFT writes: upload the file that PEFT wrote",
                param=_param(name),
            )
    elif name not in CHECKED and value not in OFF:
        raise Invalid("adapter_config", f"the engine cannot serve {name[:80]}: train without it", param=_param(name))


def _check_alpha(alpha: Any, max_alpha: float) -> None:
    # In Python true is a number; in JSON it is none.
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha <= max_alpha:
        raise Invalid(
            "adapter_alpha",
            f"lora_alpha {str(alpha)[:40]} is not above 0 and at most {max_alpha:g}: "
            "train with a lower lora_alpha, or raise max_lora_alpha",
            param=_param("lora_alpha"),
        )


def _read_rank(rank: Any, max_rank: int) -> int:
    if type(rank) is not int or not 1 <= rank <= max_rank:
        raise Invalid(
            "adapter_rank",
            f"rank {str(rank)[:40]} is outside 1 to {max_rank}: train with a lower r, or raise max_lora_rank",
            param=_param("r"),
        )
    return rank


def _read_targets(named: Any, targets: Collection[str]) -> frozenset[str]:
    if not isinstance(named, list) or not named or not all(isinstance(one, str) for one in named):
        raise Invalid(
            "adapter_targets",
            f"target_modules is no list of names: name some of {sorted(targets)}",
            param=_param("target_modules"),
        )
    if unknown := sorted(set(named) - set(targets)):
        shown = [one[:40] for one in unknown[:5]]
        raise Invalid(
            "adapter_targets",
            f"target modules {shown} cannot be served: train only {sorted(targets)}",
            param=_param("target_modules"),
        )
    return frozenset(named)


def _param(path: str) -> str:
    return f"config.{path}" if path else "config"
