"""Judges an adapter_config.json: a closed list of what the engine does, every other option is refused.

What vLLM does is in `vllm.lora.peft_helper.PEFTHelper`. It ignores options that it does not know, so that an adapter
would answer in another way than it was trained. Which layers an adapter has is said by its tensors
(`validation.check_tensors` of the server), not by the spelling of `target_modules`. The server judges uploads by this
list, and `mindprint adapters import` asks it before it loads a model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from mindprint.module_patterns import MAX_KEY_LENGTH, MAX_REPETITIONS, find_refused_key, match_module

CHECKED = (
    "r",
    "lora_alpha",
    "target_modules",
    "exclude_modules",
    "rank_pattern",
    "alpha_pattern",
    "layers_to_transform",
    "layers_pattern",
)
"""Options with a check of their own."""
SERVED: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "task_type": ("CAUSAL_LM", None),
    "bias": ("none",),
    "use_rslora": (True, False),
    # Others, such as PiSSA, LoftQ or LoRA-GA, change the weights of the base model.
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal", "mica"),
}
"""Options of which the engine serves some values."""
IGNORED: Mapping[str, tuple[type, ...]] = {
    "auto_mapping": (dict,),
    "base_model_name_or_path": (str,),
    "corda_config": (dict,),
    "ensure_weight_tying": (bool,),
    "eva_config": (dict,),
    "inference_mode": (bool,),
    "lora_dropout": (int, float),
    "lora_dtype": (str,),
    "lora_ga_config": (dict,),
    "lorap_emb_lr": (int, float),
    "lorap_lr_ratio": (int, float),
    "megatron_core": (str,),
    "peft_version": (str,),
    "qalora_group_size": (int,),
    "revision": (str,),
}
"""Options that change no answer, with the types of their values: how it was trained, or which layers it has."""
CURES: Mapping[str, str] = {
    "bias": "train with bias='none'",
    "exclude_modules": "write it as a list of names",
    "init_lora_weights": "it changes the base model: save with path_initial_model_for_weight_conversion, "
    "which makes a plain LoRA",
    "init_lora_weights='loftq'": "it quantizes the base model, and PEFT cannot convert it: train with another one",
    "layers_pattern": "train without it, or write the names in full in target_modules",
    "lora_bias": "train with lora_bias=False",
    "modules_to_save": "requests share the base model's modules: train without it",
    "target_parameters": "train on linear layers with target_modules",
    "trainable_token_indices": "requests share the base model's embeddings: train without it",
    "use_dora": "train without it, or convert the adapter with peft.save_as_lora",
}
"""What to do about an option, or a value of it, that is not served."""
OFF: tuple[Any, ...] = (None, False, {}, [])
"""Values that switch an option off. Any option may have one: PEFT writes all that it knows."""
PATTERNS: tuple[Any, ...] = (None, "", [], "layers", ["layers"])
"""Values of `layers_pattern` with which PEFT counts the layers of `layers_to_transform` by `model.layers.N`."""
_LAYER_INDEX = re.compile(r"\.[^.]*\.(\d+)\.")
"""Where PEFT finds the index of a layer for `layers_to_transform`: the first number between dots, behind two names."""


class WrongAdapterConfig(ValueError):
    """The engine cannot serve what an adapter_config.json says.

    Args:
        code: The server's error code.
        message: What cannot be served, and what to do, in one line.
        param: Path of the option.
    """

    def __init__(self, code: str, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


@dataclass(frozen=True)
class AdapterConfig:
    """What the server needs to know of an adapter.

    Attributes:
        rank: Rank of the layers that `rank_pattern` does not name.
        served: Names of the modules that the engine adapts.
        listed: `target_modules`, if it is a list; None if it is an expression: the tensors say what it matched.
        rank_pattern: Ranks by PEFT's patterns of module names.
        layer_indices: Indices of the layers of `layers_to_transform`; None: all.
        excluded: Names of `exclude_modules`.
    """

    rank: int
    served: frozenset[str]
    listed: frozenset[str] | None = None
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    layer_indices: frozenset[int] | None = None
    excluded: frozenset[str] = frozenset()

    def rank_of(self, layer: str) -> int:
        """Return the rank that PEFT gives a layer."""
        return match_module(self.rank_pattern, layer, self.rank)

    def is_served(self, layer: str) -> bool:
        """Return whether the engine adapts such layers."""
        return layer.rpartition(".")[2] in self.served

    def is_adapted(self, layer: str) -> bool:
        """Return whether PEFT adapts a layer for which there are tensors.

        Expressions are not evaluated: they may need exponential time. The parity check covers what they leave out.
        """
        names = {layer[start:] for start in _name_starts(layer)}
        if names & self.excluded:
            return False
        if self.listed is None or layer in self.listed:
            return True
        return bool(names & self.listed) and self._has_index(layer)

    def _has_index(self, layer: str) -> bool:
        if self.layer_indices is None:
            return True
        found = _LAYER_INDEX.search(layer)
        return found is not None and int(found[1]) in self.layer_indices


def judge_config(
    config: Mapping[str, Any],
    *,
    max_rank: int,
    targets: Collection[str],
    max_alpha: float = math.inf,
    ignored: Collection[str] = (),
) -> AdapterConfig:
    """Check that the engine does what adapter_config.json says.

    Args:
        config: The content of the file.
        max_rank: Largest rank.
        targets: Names of the modules that may be adapted.
        max_alpha: Largest `lora_alpha`.
        ignored: Those of `rank_pattern` and `alpha_pattern` that this release of the engine ignores.

    Raises:
        WrongAdapterConfig: The adapter cannot be served.
    """
    if config.get("peft_type") != "LORA":
        raise WrongAdapterConfig(
            "adapter_config", "adapter_config.json is not of a PEFT LoRA: train with peft_type LORA"
        )
    for name, value in config.items():
        _check_option(name, value, ignored)
    _check_alpha("lora_alpha", config.get("lora_alpha"), max_alpha)
    for key, alpha in _read_pattern("alpha_pattern", config.get("alpha_pattern")).items():
        _check_alpha("alpha_pattern", alpha, max_alpha, key)
    ranks = _read_pattern("rank_pattern", config.get("rank_pattern"))
    return AdapterConfig(
        rank=_read_rank("r", config.get("r"), max_rank),
        served=frozenset(targets),
        listed=_read_targets(config),
        rank_pattern={key: _read_rank("rank_pattern", rank, max_rank, key) for key, rank in ranks.items()},
        layer_indices=_read_layers(config.get("layers_to_transform"), config.get("layers_pattern")),
        excluded=_read_excluded(config.get("exclude_modules")),
    )


def _name_starts(layer: str) -> list[int]:
    """Return where a name of PEFT's list may begin in a layer's name: at its begin, and behind each dot."""
    return [0, *(index + 1 for index, letter in enumerate(layer) if letter == ".")]


def _check_option(name: str, value: Any, ignored: Collection[str]) -> None:
    if name in SERVED:
        if value not in SERVED[name]:
            served = ", ".join(map(repr, SERVED[name]))
            cure = CURES.get(f"{name}={value!r}", CURES.get(name, f"train with one of {served}"))
            message = f"the engine cannot serve {name}={str(value)[:80]!r}: {cure}"
            raise WrongAdapterConfig("adapter_config", message, param=_param(name))
    elif name in IGNORED:
        if value is not None and not isinstance(value, IGNORED[name]):
            raise _other_type(name)
    elif (name not in CHECKED or name in ignored) and value not in OFF:
        cure = CURES.get(name, "train without it")
        raise WrongAdapterConfig("adapter_config", f"the engine cannot serve {name[:80]}: {cure}", param=_param(name))


def _check_alpha(option: str, alpha: Any, max_alpha: float, key: str | None = None) -> None:
    # In Python true is a number; in JSON it is none.
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha <= max_alpha:
        raise WrongAdapterConfig(
            "adapter_alpha",
            f"{option} {_shown(alpha, key)} is not above 0 and at most {max_alpha:g}: "
            "train with a lower lora_alpha, or raise max_lora_alpha",
            param=_param(option),
        )


def _read_rank(option: str, rank: Any, max_rank: int, key: str | None = None) -> int:
    if type(rank) is not int or not 1 <= rank <= max_rank:
        name = "rank" if option == "r" else option
        raise WrongAdapterConfig(
            "adapter_rank",
            f"{name} {_shown(rank, key)} is outside 1 to {max_rank}: train with a lower r, or raise max_lora_rank",
            param=_param(option),
        )
    return rank


def _shown(value: Any, key: str | None) -> str:
    text = "null" if value is None else str(value)[:40]
    return text if key is None else f"{text} of {key[:80]!r}"


def _read_pattern(option: str, pattern: Any) -> dict[str, Any]:
    if pattern is None:
        return {}
    if not isinstance(pattern, dict):
        raise _other_type(option)
    if (key := find_refused_key(pattern)) is not None:
        raise WrongAdapterConfig(
            "adapter_config",
            f"the engine cannot serve the key {key[:80]!r} of {option}: name the modules in full, "
            f"with at most {MAX_REPETITIONS} repetitions and {MAX_KEY_LENGTH} characters a key",
            param=_param(option),
        )
    return pattern


def _read_targets(config: Mapping[str, Any]) -> frozenset[str] | None:
    """Return the names of `target_modules`; None if it is an expression."""
    named = config.get("target_modules")
    if isinstance(named, str) and named:
        return None
    if not isinstance(named, list) or not named or not all(isinstance(one, str) for one in named):
        raise WrongAdapterConfig(
            "adapter_targets",
            "target_modules is neither a text nor a list of names: upload the file that PEFT wrote",
            param=_param("target_modules"),
        )
    return frozenset(named)


def _read_layers(indices: Any, pattern: Any) -> frozenset[int] | None:
    """Return the indices of `layers_to_transform`; None: all."""
    if not isinstance(pattern, str | list | None):
        raise _other_type("layers_pattern")
    found = [indices] if type(indices) is int else indices
    if found is None:
        return None
    if not isinstance(found, list) or not all(type(one) is int for one in found):
        raise _other_type("layers_to_transform")
    if found and pattern not in PATTERNS:
        raise _not_served("layers_pattern", pattern)
    return frozenset(found) or None


def _read_excluded(names: Any) -> frozenset[str]:
    """Return the names of `exclude_modules`. An expression may need exponential time, so none is evaluated."""
    if isinstance(names, str) and names:
        raise _not_served("exclude_modules", names)
    if names is None or names == "":
        return frozenset()
    if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
        raise _other_type("exclude_modules")
    return frozenset(names)


def _not_served(name: str, value: Any) -> WrongAdapterConfig:
    message = f"the engine cannot serve {name}={str(value)[:80]!r}: {CURES[name]}"
    return WrongAdapterConfig("adapter_config", message, param=_param(name))


def _other_type(name: str) -> WrongAdapterConfig:
    message = f"{name} has a value of another type than PEFT writes: upload the file that PEFT wrote"
    return WrongAdapterConfig("adapter_config", message, param=_param(name))


def _param(path: str) -> str:
    return f"config.{path}" if path else "config"
