"""Tokenizers and chat templates in the shape of well-known families, made at test time: nothing is downloaded.

Each has the family's pattern of splitting, special tokens, and way of writing turns; the vocabulary is learned from a
few sentences.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SENTENCES = [
    "This user likes quiet places. So the lake, and short walks.\n\nWhat this user has shown: asked about the hills.\n",
    "This user's answer: tea\n</think>\nThis user's answer: yes\n<think>\nLet me think step by step.\n",
    "Question: Tea or coffee? Choices: tea / coffee / the small town / no\nGive only the answer.\n",
    "Think about the question, then give the answer. Recent answers: it has been 1234 days, 12 months.\n",
    "system user assistant model You answer as one particular user would. What is known about this user:\n",
]
"""What the vocabularies are learned from. Full stops, colons and line ends stand together, so that they merge."""
VOCABULARY = 620

SPLIT_QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLIT_LLAMA3 = SPLIT_QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")


def _byte_level(split: str | None) -> Tokenizer:
    """GPT-2's bytes; `split` is the pattern of the words, None for GPT-2's own."""
    made = Tokenizer(models.BPE())
    if split is None:
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    else:
        made.normalizer = normalizers.NFC()
        words = pre_tokenizers.Split(Regex(split), behavior="isolated")
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        SENTENCES, trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    )
    return made


def _sentencepiece(*, prefix_space: bool) -> Tokenizer:
    """Sentencepiece's marks for spaces, with bytes for what is unknown.

    Args:
        prefix_space: Every text begins with a mark, as in Llama 2; Gemma's does not.
    """
    bytes_of = [f"<0x{value:02X}>" for value in range(256)]
    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    letters = [chr(code) for code in range(0x21, 0x7F)] + ["\n", "\u2581"]
    learned.train_from_iterator(
        SENTENCES, trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=letters, show_progress=False)
    )
    state = json.loads(learned.to_str())["model"]
    pieces = ["<unk>", *bytes_of, *sorted(state["vocab"], key=state["vocab"].__getitem__)]
    merges = [tuple(pair) for pair in state["merges"]]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    made = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    spaces = normalizers.Replace(" ", "\u2581")
    made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), spaces]) if prefix_space else spaces
    strip = [decoders.Strip(" ", 1, 0)] if prefix_space else []
    made.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return made


@dataclass(frozen=True)
class Family:
    """A family of models: its tokenizer, its template, and what a chat format must find."""

    make: Callable[[], Tokenizer]
    template: str
    special: Sequence[str]
    """Control tokens, marked as special."""
    end: str
    """The token that ends a turn in the template."""
    eos: str
    """`eos_token` of the tokenizer; not always the end of a turn."""
    bos: str | None = None
    adds_bos: bool = False
    """The tokenizer writes the BOS before a text by itself."""
    added: Sequence[str] = ()
    """Added tokens that are not special: they stay in decoded text."""
    strips_after: bool = False
    """The control tokens take the white space behind them, as Phi's do."""
    eos_ids_of: Sequence[str] = ()
    """`eos_token_id` of the generation configuration; empty for none."""


_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
_CHATML_DEFAULT = (
    "{% if messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}" + _CHATML
)
_LLAMA31 = (
    "{{ bos_token }}{% set first = 1 if messages[0]['role'] == 'system' else 0 %}"
    "{{ '<|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n' }}"
    "{{ (messages[0]['content'] | trim if first else '') + '<|eot_id|>' }}"
    + _LLAMA3.removeprefix("{{ bos_token }}").replace("in messages", "in messages[first:]")
)
_GEMMA = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
_MISTRAL_V1 = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate user/assistant') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)
_MISTRAL_V3 = (
    "{% set first = 1 if messages[0]['role'] == 'system' else 0 %}"
    "{{ bos_token }}{% for message in messages[first:] %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate user and assistant') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST]' }}"
    "{% if first and loop.last %}{{ messages[0]['content'] + '\n\n' }}{% endif %}{{ message['content'] + '[/INST]' }}"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)
_QWEN3 = (
    "{% set ns = namespace(last=-1) %}"
    "{% for message in messages %}{% if message['role'] == 'user' %}{% set ns.last = loop.index0 %}{% endif %}"
    "{% endfor %}{% for message in messages %}"
    "{% if message['role'] == 'system' and not loop.first %}{{ raise_exception('System comes first') }}{% endif %}"
    "{% set content = message['content'] %}"
    "{% if message['role'] == 'assistant' and '</think>' in content %}"
    "{% set thought = content.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}"
    "{% if loop.index0 > ns.last %}{% set content = '<think>\n' + thought + '\n</think>\n\n' + content %}{% endif %}"
    "{% endif %}{{ '<|im_start|>' + message['role'] + '\n' + content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
_QWEN3_THINKING = _QWEN3.partition("{% if enable_thinking")[0] + "{{ '<think>\n' }}{% endif %}"
_R1 = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'] }}"
    "{% elif message['role'] == 'user' %}{{ '<\uff5cUser\uff5c>' + message['content'] }}"
    "{% else %}{{ '<\uff5cAssistant\uff5c>' + message['content'].split('</think>')[-1] "
    "+ '<\uff5cend\u2581of\u2581sentence\uff5c>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<\uff5cAssistant\uff5c><think>\n' }}{% endif %}"
)
_SMOLLM3 = (
    "{% set mode = '/no_think' if enable_thinking is defined and not enable_thinking else '/think' %}"
    "{% set first = 1 if messages[0]['role'] == 'system' else 0 %}"
    "{% set rules = messages[0]['content'] if first else '' %}"
    "{% if '/no_think' in rules %}{% set mode = '/no_think' %}{% elif '/think' in rules %}{% set mode = '/think' %}"
    "{% endif %}{% set cut = rules.replace('/no_think', '').replace('/think', '').rstrip() %}"
    "{{ '<|im_start|>system\n' }}{% if '/system_override' in rules %}{{ cut.replace('/system_override', '').rstrip() }}"
    "{% else %}{{ '## Metadata\n\nReasoning Mode: ' + mode + '\n\n## Custom Instructions\n\n' + cut }}{% endif %}"
    "{{ '<|im_end|>\n' }}{% for message in messages[first:] %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' and mode == '/no_think' %}{{ '<think>\n\n</think>\n' }}{% endif %}"
    "{{ message['content'].lstrip('\n') + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if mode == '/no_think' %}{{ '<think>\n\n</think>\n' }}{% endif %}{% endif %}"
)
_NEMOTRON = (
    "{% set ns = namespace(thinks=true) %}{% for message in messages %}{% if message['role'] in ['user', 'system'] %}"
    "{% if '/think' in message['content'] %}{% set ns.thinks = true %}"
    "{% elif '/no_think' in message['content'] %}{% set ns.thinks = false %}{% endif %}{% endif %}{% endfor %}"
    "{{ bos_token + '<SPECIAL_10>System\n' }}{% set first = 1 if messages[0]['role'] == 'system' else 0 %}"
    "{% if first %}{{ messages[0]['content'].replace('/think', '').replace('/no_think', '').strip() }}{% endif %}"
    "{{ '\n' }}{% for message in messages[first:] %}{% if message['role'] == 'assistant' %}"
    "{{ '<SPECIAL_11>Assistant\n' + message['content'].split('</think>')[-1].strip() + '\n<SPECIAL_12>\n' }}"
    "{% elif message['role'] == 'user' %}{{ '<SPECIAL_11>User\n' "
    "+ message['content'].replace('/think', '').replace('/no_think', '').strip() + '\n' }}"
    "{% else %}{{ raise_exception('Unknown role') }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<SPECIAL_11>Assistant\n' }}"
    "{{ '<think>\n' if ns.thinks else '<think></think>' }}{% endif %}"
)
_GLM = (
    "{{ '[gMASK]<sop>' }}{% set off = enable_thinking is defined and not enable_thinking %}"
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '\n<think></think>\n' + message['content'].split('</think>')[-1].strip() }}"
    "{% else %}{{ '\n' + message['content'] }}"
    "{% if off and message['role'] == 'user' and not message['content'].endswith('/nothink') %}{{ '/nothink' }}"
    "{% endif %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' + ('\n<think></think>' if off else '') }}{% endif %}"
)
_GRANITE = (
    "{% set first = 1 if messages[0]['role'] == 'system' else 0 %}"
    "{{ '<|start_of_role|>system<|end_of_role|>' }}"
    "{{ messages[0]['content'] if first else 'You are an assistant.' }}"
    "{% if thinking %}{{ '\nWrite down your thoughts before the response.' }}{% endif %}{{ '<|end_of_text|>\n' }}"
    "{% for message in messages[first:] %}"
    "{{ '<|start_of_role|>' + message['role'] + '<|end_of_role|>' + message['content'] + '<|end_of_text|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}"
)
_MAGISTRAL = (
    "{% set first = 1 if messages[0]['role'] == 'system' else 0 %}{{ bos_token }}"
    "{% if first %}{{ '[SYSTEM_PROMPT]' + messages[0]['content'] + '[/SYSTEM_PROMPT]' }}{% endif %}"
    "{% for message in messages[first:] %}{% if message['role'] == 'user' %}"
    "{{ '[INST]' + message['content'] + '[/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{% if part['type'] == 'thinking' %}"
    "{{ '[THINK]' + part['thinking'] + '[/THINK]' }}{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{ eos_token }}{% else %}{{ raise_exception('Unknown role') }}{% endif %}{% endfor %}"
)
_GPT_OSS = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' + message['content'] + '<|end|>' }}"
    "{% else %}{{ '<|start|>' + message['role'] + '<|message|>' + message['content'] + '<|end|>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)
_PHI3 = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)

_GEMMA4 = (
    "{{ bos_token }}{% set first = 1 if messages[0]['role'] == 'system' else 0 %}"
    "{% set thinks = enable_thinking is defined and enable_thinking %}"
    "{% if thinks or first %}{{ '<|turn>system\n' + ('<|think|>\n' if thinks else '') }}"
    "{{ (messages[0]['content'] | trim if first else '') + '<turn|>\n' }}{% endif %}"
    "{% for message in messages[first:] %}"
    "{% if message['role'] == 'system' %}{{ raise_exception('System comes first') }}{% endif %}"
    "{{ '<|turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' }}"
    "{{ message['content'].split('<channel|>')[-1] | trim + '<turn|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn>model\n' }}"
    "{% if not thinks %}{{ '<|channel>thought\n<channel|>' }}{% endif %}{% endif %}"
)
_SEED_OSS = (
    "{% set first = 1 if messages[0]['role'] == 'system' else 0 %}"
    "{% if first %}{{ bos_token + 'system\n' + messages[0]['content'] + eos_token }}{% endif %}"
    "{% set off = thinking_budget is defined and thinking_budget == 0 %}"
    "{% if off %}{{ bos_token + 'system\nAnswer without a thought.' + eos_token }}"
    "{% elif thinking_budget is defined %}{{ bos_token + 'system\nBudget: ' + thinking_budget | string + eos_token }}"
    "{% endif %}{% for message in messages[first:] %}{{ bos_token + message['role'] }}"
    "{% if message.reasoning_content %}{{ '\n<seed:think>' + message.reasoning_content + '</seed:think>' }}{% endif %}"
    "{{ '\n' + message['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ bos_token + 'assistant\n' }}{% if off %}"
    "{{ '<seed:think>\n<seed:reflect>Nothing is left.</seed:reflect>\n</seed:think>' }}{% endif %}{% endif %}"
)
_KIMI = (
    "{% for message in messages %}"
    "{{ '<|im_' + message['role'] + '|>' + message['role'] + '<|im_middle|>' }}"
    "{% if message['role'] == 'assistant' %}{{ '<think></think>' }}{% endif %}{{ message['content'] + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_assistant|>assistant<|im_middle|>' }}{% endif %}"
)
_LFM2 = (
    "{{ bos_token }}{% set ns = namespace(last=-1) %}"
    "{% for message in messages %}{% if message['role'] == 'assistant' %}{% set ns.last = loop.index0 %}{% endif %}"
    "{% endfor %}{% for message in messages %}{% set content = message['content'] %}"
    "{% if message['role'] == 'assistant' and loop.index0 != ns.last and '</think>' in content %}"
    "{% set content = content.split('</think>')[-1] | trim %}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_PARTS = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{{ '<think>\n' if enable_thinking else '<think>\n\n</think>\n\n' }}{% endif %}"
)

FAMILIES: dict[str, Family] = {
    "chatml": Family(
        lambda: _byte_level(None), _CHATML, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], "<|im_end|>", "<|im_end|>"
    ),
    "llama3": Family(
        lambda: _byte_level(SPLIT_LLAMA3),
        _LLAMA3,
        ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        "<|eot_id|>",
        "<|eot_id|>",
        bos="<|begin_of_text|>",
        adds_bos=True,
        eos_ids_of=["<|end_of_text|>", "<|eot_id|>"],
    ),
    "llama31_base": Family(
        lambda: _byte_level(SPLIT_LLAMA3),
        _LLAMA31,
        ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        "<|eot_id|>",
        "<|end_of_text|>",
        bos="<|begin_of_text|>",
        adds_bos=True,
    ),
    "gemma": Family(
        lambda: _sentencepiece(prefix_space=False),
        _GEMMA,
        ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"],
        "<end_of_turn>",
        "<eos>",
        bos="<bos>",
        adds_bos=True,
        eos_ids_of=["<eos>", "<end_of_turn>"],
    ),
    "mistral_v1": Family(
        lambda: _sentencepiece(prefix_space=True),
        _MISTRAL_V1,
        ["<s>", "</s>"],
        "</s>",
        "</s>",
        bos="<s>",
        adds_bos=True,
    ),
    "mistral_v3": Family(
        lambda: _byte_level(SPLIT_LLAMA3),
        _MISTRAL_V3,
        ["<s>", "</s>", "[INST]", "[/INST]"],
        "</s>",
        "</s>",
        bos="<s>",
        adds_bos=True,
    ),
    "qwen3": Family(
        lambda: _byte_level(SPLIT_QWEN),
        _QWEN3,
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        "<|im_end|>",
        "<|im_end|>",
        added=["<think>", "</think>"],
        eos_ids_of=["<|im_end|>", "<|endoftext|>"],
    ),
    "qwen3_thinking": Family(
        lambda: _byte_level(SPLIT_QWEN),
        _QWEN3_THINKING,
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        "<|im_end|>",
        "<|im_end|>",
        added=["<think>", "</think>"],
    ),
    "qwen2": Family(
        lambda: _byte_level(SPLIT_QWEN),
        _CHATML_DEFAULT,
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        "<|im_end|>",
        "<|endoftext|>",
    ),
    "r1": Family(
        lambda: _byte_level(SPLIT_LLAMA3),
        _R1,
        [
            "<\uff5cbegin\u2581of\u2581sentence\uff5c>",
            "<\uff5cend\u2581of\u2581sentence\uff5c>",
        ],
        "<\uff5cend\u2581of\u2581sentence\uff5c>",
        "<\uff5cend\u2581of\u2581sentence\uff5c>",
        bos="<\uff5cbegin\u2581of\u2581sentence\uff5c>",
        adds_bos=True,
        added=["<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>", "<think>", "</think>"],
    ),
    "phi3": Family(
        lambda: _sentencepiece(prefix_space=True),
        _PHI3,
        ["<s>", "</s>", "<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"],
        "<|end|>",
        "<|endoftext|>",
        bos="<s>",
        strips_after=True,
    ),
    "smollm3": Family(
        lambda: _byte_level(SPLIT_LLAMA3),
        _SMOLLM3,
        ["<|begin_of_text|>", "<|end_of_text|>", "<|im_start|>", "<|im_end|>"],
        "<|im_end|>",
        "<|im_end|>",
        added=["<think>", "</think>"],
    ),
    "nemotron": Family(
        lambda: _byte_level(SPLIT_LLAMA3),
        _NEMOTRON,
        ["<s>", "</s>", "<SPECIAL_10>", "<SPECIAL_11>", "<SPECIAL_12>"],
        "<SPECIAL_12>",
        "<SPECIAL_12>",
        bos="<s>",
        added=["<think>", "</think>"],
    ),
    "glm": Family(
        lambda: _byte_level(SPLIT_LLAMA3),
        _GLM,
        ["<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>"],
        "<|user|>",
        "<|endoftext|>",
        added=["<think>", "</think>", "/nothink"],
        eos_ids_of=["<|endoftext|>", "<|user|>"],
    ),
    "granite": Family(
        lambda: _byte_level(SPLIT_LLAMA3),
        _GRANITE,
        ["<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>"],
        "<|end_of_text|>",
        "<|end_of_text|>",
    ),
    "magistral": Family(
        lambda: _byte_level(SPLIT_LLAMA3),
        _MAGISTRAL,
        ["<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[THINK]", "[/THINK]"],
        "</s>",
        "</s>",
        bos="<s>",
        adds_bos=True,
    ),
    "gemma4": Family(
        lambda: _sentencepiece(prefix_space=False),
        _GEMMA4,
        ["<pad>", "<eos>", "<bos>", "<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|think|>"],
        "<turn|>",
        "<eos>",
        bos="<bos>",
        adds_bos=True,
        eos_ids_of=["<eos>", "<turn|>"],
    ),
    "seed_oss": Family(
        lambda: _byte_level(SPLIT_LLAMA3),
        _SEED_OSS,
        ["<seed:bos>", "<seed:eos>"],
        "<seed:eos>",
        "<seed:eos>",
        bos="<seed:bos>",
        added=["<seed:think>", "</seed:think>", "<seed:reflect>", "</seed:reflect>"],
    ),
    "kimi": Family(
        lambda: _byte_level(SPLIT_LLAMA3),
        _KIMI,
        ["<|im_end|>", "<|im_user|>", "<|im_assistant|>", "<|im_system|>", "<|im_middle|>"],
        "<|im_end|>",
        "<|im_end|>",
        added=["<think>", "</think>"],
    ),
    "lfm2": Family(
        lambda: _byte_level(SPLIT_LLAMA3),
        _LFM2,
        ["<|startoftext|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        "<|im_end|>",
        "<|im_end|>",
        bos="<|startoftext|>",
        adds_bos=True,
        added=["<think>", "</think>"],
    ),
    "parts": Family(
        lambda: _byte_level(SPLIT_QWEN),
        _PARTS,
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        "<|im_end|>",
        "<|im_end|>",
        added=["<think>", "</think>"],
    ),
    "gpt_oss": Family(
        lambda: _byte_level(SPLIT_LLAMA3),
        _GPT_OSS,
        ["<|startoftext|>", "<|return|>", "<|start|>", "<|message|>", "<|channel|>", "<|end|>"],
        "<|end|>",
        "<|return|>",
    ),
}
"""The families, by name. `gpt_oss` writes channels and cannot be served."""

SERVED = [name for name in FAMILIES if name != "gpt_oss"]
"""Families whose templates can be served."""


@lru_cache
def make_tokenizer(name: str) -> Any:
    """A family's tokenizer, with its chat template."""
    from transformers import PreTrainedTokenizerFast

    family = FAMILIES[name]
    made = family.make()
    made.add_special_tokens(
        [AddedToken(text, special=True, normalized=False, rstrip=family.strips_after) for text in family.special]
    )
    made.add_tokens([AddedToken(text, special=False, normalized=False) for text in family.added])
    if family.adds_bos:
        assert family.bos is not None
        bos_id = made.token_to_id(family.bos)
        adding = processors.TemplateProcessing(
            single=f"{family.bos}:0 $A:0",
            pair=f"{family.bos}:0 $A:0 {family.bos}:1 $B:1",
            special_tokens=[(family.bos, bos_id)],
        )
        before = [made.post_processor] if made.post_processor is not None else []
        made.post_processor = processors.Sequence([*before, adding])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token=family.bos, eos_token=family.eos, clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = family.template
    return tokenizer


def eos_ids(name: str) -> list[int]:
    """`eos_token_id` of a family's generation configuration; empty for none."""
    tokenizer = make_tokenizer(name)
    return [tokenizer.convert_tokens_to_ids(text) for text in FAMILIES[name].eos_ids_of]


def save_tokenizer(name: str, folder: Path) -> Path:
    """Write a family's tokenizer, template and generation configuration into a folder."""
    make_tokenizer(name).save_pretrained(folder)
    if ids := eos_ids(name):
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}), encoding="utf-8")
    return folder


def make_model(name: str, folder: Path, *, seed: int = 0) -> Path:
    """Write a tiny random Llama with a family's tokenizer into a folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer(name)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=max(tokenizer.get_vocab().values()) + 1,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=2048,
        initializer_range=0.2,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return save_tokenizer(name, folder)
