"""Tiny random models of the causal language models of transformers 5.19, by model type, and how each is trained."""

from __future__ import annotations

import dataclasses
from typing import Any

SIZES: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "d_model": 32,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_inner": 48,
    "n_positions": 128,
    "rotary_dim": 4,
    "num_layers": 2,
    "num_heads": 4,
    "dim": 32,
    "embed_dim": 32,
    "ffn_dim": 48,
    "ffn_hidden": 48,
    "ffn_hidden_size": 48,
    "decoder_layers": 2,
    "encoder_layers": 2,
    "decoder_attention_heads": 4,
    "encoder_attention_heads": 4,
    "decoder_ffn_dim": 48,
    "encoder_ffn_dim": 48,
    "max_seq_len": 128,
    # mixtures of experts
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_topk": 2,
    "moe_k": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "moe_shared_expert_intermediate_size": 16,
    "shared_intermediate_size": 16,
    "expert_ffn_hidden_size": 16,
    "zero_expert_num": 2,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    # latent attention
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "index_head_dim": 8,
    "index_n_heads": 2,
    # recurrent layers
    "state_size": 8,
    "ssm_state_size": 8,
    "mamba_n_heads": 4,
    "mamba_num_heads": 4,
    "mamba_head_dim": 16,
    "mamba_d_ssm": 64,
    "mamba_d_state": 8,
    "mamba_chunk_size": 8,
    "chunk_size": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_head_dim": 8,
    "linear_num_heads": 4,
    # others
    "sliding_window": 8,
    "attention_chunk_size": 8,
    "window_size": 8,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 128,
}
"""Fields that most configurations share, with tiny values. Windows are shorter than the probe, so that they show."""
DECODER = {"is_decoder": True}
HYBRID = {"num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"]}
CAPPED = {"attn_logit_softcapping": 1.0, "final_logit_softcapping": 2.0}
GRANITE = {
    "logits_scaling": 4.0,
    "embedding_multiplier": 2.0,
    "residual_multiplier": 0.5,
    "attention_multiplier": 0.2,
}
LATENT = {"num_key_value_heads": 4}
CHANGES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        [
            "axk1",
            "axk2",
            "deepseek_v2",
            "deepseek_v3",
            "deepseek_v32",
            "glm4_moe_lite",
            "glm_moe_dsa",
            "longcat_flash",
            "minicpm3",
            "youtu",
        ],
        LATENT,
    ),
    **dict.fromkeys(
        [
            "bert",
            "bert-generation",
            "big_bird",
            "camembert",
            "data2vec-text",
            "electra",
            "ernie",
            "megatron-bert",
            "rembert",
            "roberta",
            "roberta-prelayernorm",
            "roformer",
            "xlm-roberta",
            "xlm-roberta-xl",
        ],
        DECODER,
    ),
    "blt": {"encoder_hash_byte_group_vocab": 64},
    "blt_local_encoder": {"hidden_size_global": 32},
    "blt_local_decoder": {"hidden_size_global": 32},
    "cohere": {"logit_scale": 0.25},
    "cohere2": {"logit_scale": 0.25},
    "cohere2_moe": {"logit_scale": 0.25},
    "cohere_compass_text": {
        "logit_scale": 0.25,
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {
            name: {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 1, 1]}
            for name in ("sliding_attention", "full_attention")
        },
    },
    "dbrx": {
        "n_layers": 2,
        "n_heads": 4,
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10_000.0, "clip_qkv": 8.0},
        "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "cpmant": {"dim_ff": 48, "dim_head": 8, "position_bias_num_buckets": 8, "position_bias_max_distance": 32},
    "falcon_h1": {"lm_head_multiplier": 0.5, "mamba_d_head": 16},
    "gemma2": CAPPED,
    "gemma3_text": {"final_logit_softcapping": 2.0},
    "gemma3n_text": {
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 0,
        "laurel_rank": 8,
        "final_logit_softcapping": 2.0,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
    "gemma4_text": {"final_logit_softcapping": 2.0},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granite": GRANITE,
    "granite_swa": GRANITE,
    "granitemoe": GRANITE,
    "granitemoe_swa": GRANITE,
    "granitemoeshared": GRANITE,
    "granitemoehybrid": GRANITE | {"layer_types": ["mamba", "attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    "kimi_linear": HYBRID | LATENT,
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "laguna": {"layer_types": ["sliding_attention", "full_attention"]},
    "mamba2": {"num_heads": 4, "head_dim": 16, "n_groups": 2},
    "nemotron_h": {"layers_block_type": ["mamba", "attention", "moe"], "num_hidden_layers": 3, "n_groups": 2},
    "prophetnet": {"num_decoder_layers": 2, "num_decoder_attention_heads": 4},
    "qwen3_5_moe_text": HYBRID,
    "qwen3_5_text": HYBRID,
    "qwen3_next": HYBRID,
    "reformer": DECODER
    | {
        "axial_pos_embds_dim": (16, 16),
        "axial_pos_shape": (8, 16),
        "num_hashes": 1,
        "attention_head_size": 8,
        "feed_forward_size": 48,
    },
    "roc_bert": DECODER
    | {"pronunciation_embed_dim": 8, "pronunciation_vocab_size": 16, "shape_embed_dim": 8, "shape_vocab_size": 16},
    "rwkv": {"rescale_every": 1},
    "vaultgemma": CAPPED,
    "xlm": {"causal": True},
    "xmod": DECODER | {"default_language": "en_XX"},
    "zamba": {
        "num_hidden_layers": 5,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "mamba_dt_rank": 4,
        "use_mamba_kernels": False,
        "attention_head_dim": 16,
        "num_key_value_heads": 4,
    },
    "zamba2": {
        "num_hidden_layers": 3,
        "layers_block_type": ["mamba", "hybrid", "hybrid"],
        "adapter_rank": 4,
        "use_mamba_kernels": False,
    },
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 16},
}
"""What a family needs besides `SIZES`, and values of what its forward does to logits and scores, so that it shows."""


SERVED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The server's default `target_modules`."""
TARGETS: dict[str, tuple[str, ...]] = {
    "falcon_mamba": ("in_proj", "out_proj"),
    "git": ("dense", "key", "query", "value"),
    "mamba": ("in_proj", "out_proj"),
    "rwkv": ("key", "receptance"),
}
"""Layers that get adapters, where neither `SERVED` nor all linear layers fit."""

FORWARD_PATHS: dict[str, str] = {
    "afmoe": "chains/sdpa/head",
    "apertus": "trees/blocks/head",
    "arcee": "trees/blocks/head",
    "aria_text": "trees/blocks/head",
    "axk1": "trees/sdpa/head",
    "axk2": "chains/sdpa/head",
    "bamba": "chains/sdpa/head",
    "bart": "chains/sdpa/head",
    "bert": "trees/blocks/tail",
    "bert-generation": "trees/blocks/head",
    "big_bird": "chains/sdpa/tail",
    "bigbird_pegasus": "chains/eager/head",
    "biogpt": "trees/blocks/head",
    "bitnet": "trees/blocks/head",
    "blenderbot": "chains/sdpa/head",
    "blenderbot-small": "chains/sdpa/head",
    "bloom": "chains/sdpa/head",
    "camembert": "chains/sdpa/tail",
    "codegen": "chains/sdpa/head",
    "cohere": "trees/blocks/tail",
    "cohere2": "chains/sdpa/tail",
    "cohere2_moe": "chains/sdpa/tail",
    "cohere_compass_text": "chains/sdpa/tail",
    "ctrl": "trees/blocks/head",
    "cwm": "chains/sdpa/head",
    "data2vec-text": "chains/sdpa/tail",
    "dbrx": "trees/blocks/head",
    "deepseek_v2": "trees/sdpa/head",
    "deepseek_v3": "trees/sdpa/head",
    "deepseek_v32": "chains/sdpa/head",
    "deepseek_v4": "chains/eager/head",
    "diffllama": "trees/blocks/head",
    "doge": "chains/sdpa/head",
    "dots1": "trees/blocks/head",
    "electra": "trees/blocks/tail",
    "emu3": "trees/blocks/head",
    "ernie": "trees/blocks/tail",
    "ernie4_5": "trees/blocks/head",
    "ernie4_5_moe": "trees/blocks/head",
    "exaone4": "chains/sdpa/head",
    "exaone_moe": "chains/sdpa/head",
    "falcon": "trees/sdpa/head",
    "falcon_h1": "chains/sdpa/tail",
    "falcon_mamba": "chains/eager/head",
    "flex_olmo": "trees/blocks/head",
    "fuyu": "trees/blocks/head",
    "gemma": "trees/blocks/head",
    "gemma2": "chains/eager/tail",
    "gemma3": "chains/sdpa/head",
    "gemma3_text": "chains/sdpa/tail",
    "gemma3n_text": "chains/sdpa/tail",
    "gemma4": "chains/sdpa/tail",
    "gemma4_text": "chains/sdpa/tail",
    "gemma4_unified_text": "chains/sdpa/head",
    "git": "trees/eager/head",
    "glm": "trees/blocks/head",
    "glm4": "trees/blocks/head",
    "glm4_moe": "trees/blocks/head",
    "glm4_moe_lite": "trees/sdpa/head",
    "glm_moe_dsa": "chains/sdpa/head",
    "gpt_bigcode": "trees/blocks/head",
    "gpt_neo": "chains/sdpa/head",
    "gpt_neox": "trees/blocks/head",
    "gpt_neox_japanese": "chains/sdpa/head",
    "gpt_oss": "chains/eager/head",
    "gptj": "chains/sdpa/head",
    "granite": "trees/blocks/tail",
    "granite_swa": "chains/eager/tail",
    "granitemoe": "trees/blocks/tail",
    "granitemoe_swa": "chains/eager/tail",
    "granitemoehybrid": "chains/sdpa/tail",
    "granitemoeshared": "trees/blocks/tail",
    "helium": "trees/blocks/head",
    "hrm_text": "trees/blocks/head",
    "hunyuan_v1_dense": "trees/blocks/head",
    "hunyuan_v1_moe": "trees/blocks/head",
    "hy_v3": "trees/blocks/head",
    "hy_v4": "chains/eager/head",
    "hyperclovax": "trees/blocks/head",
    "inkling_text": "chains/sdpa/tail",
    "jais2": "trees/blocks/head",
    "jamba": "chains/sdpa/head",
    "jetmoe": "trees/blocks/head",
    "kimi_linear": "chains/sdpa/head",
    "laguna": "chains/sdpa/head",
    "lfm2": "chains/sdpa/head",
    "lfm2_moe": "chains/sdpa/head",
    "llama": "trees/blocks/head",
    "llama4": "chains/sdpa/head",
    "llama4_text": "chains/sdpa/head",
    "longcat_flash": "trees/sdpa/head",
    "mamba": "chains/eager/head",
    "mamba2": "chains/eager/head",
    "marian": "chains/sdpa/head",
    "mbart": "chains/sdpa/head",
    "megatron-bert": "chains/sdpa/tail",
    "mellum": "trees/blocks/head",
    "mimo_v2_flash": "chains/eager/head",
    "minicpm3": "trees/sdpa/tail",
    "minimax": "chains/sdpa/head",
    "minimax_m2": "trees/blocks/head",
    "minimax_m3_vl_text": "trees/blocks/head",
    "ministral": "chains/sdpa/head",
    "ministral3": "chains/sdpa/head",
    "mistral": "chains/sdpa/head",
    "mixtral": "chains/sdpa/head",
    "mllama": "trees/blocks/head",
    "modernbert-decoder": "chains/sdpa/tail",
    "moshi": "chains/sdpa/head",
    "mpt": "chains/sdpa/head",
    "mvp": "chains/sdpa/head",
    "nanochat": "trees/blocks/tail",
    "nemotron": "trees/sdpa/head",
    "nemotron_h": "chains/sdpa/head",
    "olmo": "trees/blocks/head",
    "olmo2": "trees/blocks/head",
    "olmo3": "chains/sdpa/head",
    "olmo_hybrid": "chains/sdpa/head",
    "olmoe": "trees/blocks/head",
    "opt": "trees/blocks/head",
    "pegasus": "chains/sdpa/head",
    "persimmon": "trees/blocks/head",
    "phi": "trees/blocks/head",
    "phi3": "chains/sdpa/head",
    "phimoe": "chains/sdpa/head",
    "plbart": "chains/sdpa/head",
    "qwen2": "trees/blocks/head",
    "qwen2_moe": "trees/blocks/head",
    "qwen3": "trees/blocks/head",
    "qwen3_5": "chains/sdpa/head",
    "qwen3_5_moe": "chains/sdpa/head",
    "qwen3_5_moe_text": "chains/sdpa/head",
    "qwen3_5_text": "chains/sdpa/head",
    "qwen3_moe": "trees/blocks/head",
    "qwen3_next": "chains/sdpa/head",
    "qwen4_exp": "chains/sdpa/head",
    "qwen4_exp_text": "chains/sdpa/head",
    "recurrent_gemma": "chains/sdpa/head",
    "rembert": "chains/sdpa/tail",
    "roberta": "chains/sdpa/tail",
    "roberta-prelayernorm": "chains/sdpa/tail",
    "roc_bert": "trees/blocks/tail",
    "roformer": "chains/sdpa/tail",
    "seed_oss": "trees/blocks/head",
    "smollm3": "trees/blocks/head",
    "solar_open": "trees/blocks/head",
    "stablelm": "trees/sdpa/head",
    "starcoder2": "chains/sdpa/head",
    "trocr": "chains/sdpa/head",
    "vaultgemma": "chains/eager/tail",
    "whisper": "trees/blocks/head",
    "xglm": "chains/sdpa/head",
    "xlm": "chains/sdpa/head",
    "xlm-roberta": "chains/sdpa/tail",
    "xlm-roberta-xl": "chains/sdpa/tail",
    "xlstm": "chains/eager/head",
    "xmod": "chains/sdpa/tail",
    "youtu": "trees/sdpa/head",
    "zamba": "chains/sdpa/head",
    "zamba2": "chains/sdpa/head",
    "zaya": "chains/sdpa/head",
}
"""The path that the trainer takes on a CPU, by model type."""
REFUSED: dict[str, str] = {
    "blt": "differ from the model's own by",
    "cpmant": "is no causal language model",
    "gpt-sw3": "has no linear layers that can get an adapter",
    "gpt2": "has no linear layers that can get an adapter",
    "openai-gpt": "has no linear layers that can get an adapter",
    "prophetnet": "differ from the model's own by",
    "reformer": "no gradient reaches the layers with adapters",
    "rwkv": "differ from the model's own by",
    "xlnet": "is no causal language model",
}
"""What the line says with which the trainer refuses a model before training, by model type."""
NOT_TINY: dict[str, str] = {
    "gemma3n": "its image encoder is a model of the package timm, which is not a dependency (gemma3n_text is measured)",
    "gemma4_assistant": "it drafts for another model and has no vocabulary of its own",
    "gemma4_unified": "its image and audio parts have 35 million weights at least (gemma4_unified_text is measured)",
    "gemma4_unified_assistant": "it drafts for another model and has no vocabulary of its own",
    "got_ocr2": "its image encoder has 472 million weights at least",
    "musicgen": "it writes audio codes; its configuration has no text model alone",
    "phi4_multimodal": "its image and audio encoders have 6 million weights at least, and take 12 s",
    "musicgen_melody": "it writes audio codes; its configuration has no text model alone",
}
"""Why there is no tiny model, by model type."""


def target_modules(model_type: str, names: set[str]) -> tuple[str, ...]:
    """Choose the layers that get adapters: those of `SERVED` that the model has, else all.

    Args:
        model_type: The model's type.
        names: Last parts of the names of its linear layers without the head.
    """
    return TARGETS.get(model_type) or tuple(sorted(names & set(SERVED) or names))


def tiny_config(model_type: str) -> Any:
    """Build the configuration of a tiny model.

    Args:
        model_type: A model type of transformers.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return CONFIG_MAPPING[model_type](**_tiny_fields(CONFIG_MAPPING[model_type]))


def _tiny_fields(cls: Any) -> dict[str, Any]:
    """Return the fields of a configuration class with tiny values, those of its parts included."""
    fields = {field.name for field in dataclasses.fields(cls)}
    aliases: dict[str, str] = cls.attribute_map
    known = {
        name: value
        for name, value in SIZES.items()
        if name in fields or (name in aliases and aliases[name] not in SIZES)
    }
    parts = {name: _tiny_fields(part) for name, part in cls.sub_configs.items() if dataclasses.is_dataclass(part)}
    return known | parts | CHANGES.get(cls.model_type, {})


def tiny_model(model_type: str, seed: int = 0) -> Any:
    """Build a tiny model in float32 with random weights: the same seed gives the same ones.

    Args:
        model_type: A model type of transformers.
        seed: Seed of the weights.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(tiny_config(model_type))
    return model.float().eval().requires_grad_(False)


def tiny_base(model_type: str) -> Any:
    """Build a tiny model as the trainer holds it: a `Base` that computes in float32.

    Args:
        model_type: A model type of transformers.
    """
    import torch

    from mindprint.token_stretches import Token
    from mindprint_trainer.model.base_model import Base
    from mindprint_trainer.model.forward_path import candidate_paths

    model, device = tiny_model(model_type), torch.device("cpu")
    return Base(
        model=model,
        tokenize_text=lambda text: [
            Token(byte, place) for place, character in enumerate(text) for byte in character.encode()
        ],
        eos_token_id=2,
        digest="sha256:tiny",
        serving_dtype=torch.float32,
        device=device,
        path=candidate_paths(model.config, device.type)[0],
    )
