"""Adapters that write one word and nothing else, made without training: an answer shows which version wrote each token.

The last layer's MLP adds a vector to every hidden state, so long that the output layer sees nothing else; it points to
where the mark's word is by far the likeliest token. A, the same for all marks, makes a number near |m| of the
layer's input x: its first row is m/|m|, m being the mean of x over some chats. The first column of B is the mark's
vector over |m|. With 1/|m| in A instead, the norm of B would pass the server's `max_tensor_norm`.
Whatever else the engine needs to load and prove an adapter is as the trainer makes it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mindprint.model_files import resolve
from mindprint.types import Lease, Manifest, ParityItem
from support.harness import CannotMeasure

if TYPE_CHECKING:
    from torch import Tensor

RANK = 8
TARGET = "down_proj"
LENGTH = 30.0
"""Of the added vector, in mean lengths of a hidden state."""
LEAD = 8.0
"""Nats by which a mark must lead every other token where nothing but its vector is seen."""
SURE = 0.01
"""Nats that a mark's log-probability may be under 0, at every place of its canary."""
CHATS, READ, WRITTEN = 2, 32, 4
"""Chats that every mark is computed through, tokens of each, and marks written after it."""
PROVED = 1
"""Of these, how many are a version's canary. As many as a trainer proves an adapter with, and as long ones."""
AT_ONCE = 256
"""Words that are looked at together."""
WORD = re.compile(r" [a-z]{4,8}")


@dataclass(frozen=True)
class ConstantAdapter:
    """An adapter's two files and their proof."""

    word: str
    """What it writes, without the space before it."""
    config: bytes
    weights: bytes
    canary: tuple[ParityItem, ...]

    def manifest(self, lease: Lease) -> Manifest:
        """As if it had been trained on the traces of this lease."""
        return Manifest(
            adapter=lease.adapter,
            base_digest=lease.base_digest,
            weights_sha256=hashlib.sha256(self.weights).hexdigest(),
            trace_ids=lease.trace_ids,
            samples={},
            settings={"mark": self.word},
            losses={},
            tokens=0,
            seconds=0.0,
            trainer="marks, not trained",
            parity_items=list(self.canary),
        )


def build_constant_adapters(
    model: str, count: int, made: Callable[[int], None] = lambda _: None
) -> list[ConstantAdapter]:
    """`count` adapters for a model, each with a word of its own; `made` hears how many there are.

    Every one is computed through, in the model's own arithmetic. Raises CannotMeasure if too few words fit.
    """
    import torch

    found: list[ConstantAdapter] = []
    with torch.inference_mode():
        maker = ConstantAdapterBuilder(model)
        for token, direction in maker.directions():
            if (marked := maker.marked(token, direction)) is not None:
                found.append(marked)
                made(len(found))
            if len(found) == count:
                return found
    raise CannotMeasure(f"only {len(found)} of {count} words can be marks of {model}: publish fewer versions")


class ConstantAdapterBuilder:
    """The base model, and what its last layer reads in chats."""

    def __init__(self, model: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from mindprint_server.training_data.replay_prompts import QUESTIONS

        path = resolve(model)
        self._torch = torch
        self._tokenizer = AutoTokenizer.from_pretrained(path)
        self._model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()
        self._head, self._norm = self._model.get_output_embeddings(), self._model.model.norm
        layers = self._model.model.layers
        self._layer = f"model.layers.{len(layers) - 1}.mlp.{TARGET}"
        self._seen: dict[str, Tensor] = {}
        layers[-1].mlp.get_submodule(TARGET).register_forward_pre_hook(self._see("inputs"))
        self._norm.register_forward_pre_hook(self._see("hidden"))
        chats = [self._chat(question) for question in QUESTIONS[:CHATS]]
        length = min(READ, *map(len, chats))
        self._prompts = [ids[-length:] for ids in chats]
        # A row of an early word in each answer: what a mark's own words look like to the layer is computed through.
        inputs, hidden = self._read(self._tokenizer.encode(" word" * WRITTEN, add_special_tokens=False))
        mean = inputs.float().mean((0, 1))
        self._mean_norm = mean.norm()
        self._a = self._in_rank(mean / self._mean_norm)
        self._length = LENGTH * hidden.float().norm(dim=-1).mean()

    def _see(self, name: str) -> Callable[[Any, tuple[Tensor, ...]], None]:
        def hook(_: Any, given: tuple[Tensor, ...]) -> None:
            self._seen[name] = given[0]

        return hook

    def _chat(self, question: str) -> list[int]:
        messages = [{"role": "user", "content": question}]
        ids = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        return list(ids)

    def _read(self, written: list[int]) -> tuple[Tensor, Tensor]:
        """Return the layer's inputs and the last hidden states, one row a prompt, where `written` is predicted."""
        self._model(self._torch.tensor([ids + written for ids in self._prompts]))
        places = slice(len(self._prompts[0]) - 1, -1)
        return self._seen["inputs"][:, places], self._seen["hidden"][:, places]

    def _in_rank(self, row: Tensor) -> Tensor:
        """Return a matrix of RANK rows, of which only the first is not zero, in the dtype of the model."""
        matrix = self._torch.zeros(RANK, len(row))
        matrix[0] = row
        return matrix.to(self._model.dtype)

    def directions(self) -> Iterator[tuple[int, Tensor]]:
        """Tokens that are a word, in the order of the vocabulary, and where a hidden state must point to be one."""
        torch, size = self._torch, self._model.config.vocab_size
        words = [id for id in range(len(self._tokenizer)) if WORD.fullmatch(self._tokenizer.decode([id]))]
        weights, head = self._norm.weight.float(), self._head.weight.float()
        for start in range(0, len(words), AT_ONCE):
            ids = torch.tensor(words[start : start + AT_ONCE])
            towards = torch.nn.functional.normalize(weights * head[ids], dim=-1)
            logits = self._norm(towards * self._length).float() @ head.T
            own = logits.gather(1, ids[:, None])
            others = logits.masked_fill(torch.nn.functional.one_hot(ids, size).bool(), -torch.inf)
            leads = (own - others.amax(1, keepdim=True))[:, 0] >= LEAD
            yield from ((int(id), towards[n]) for n, id in enumerate(ids) if leads[n])

    def marked(self, token: int, direction: Tensor) -> ConstantAdapter | None:
        """Return the adapter that writes this token; None if in some chat it does not do so for sure."""
        b = self._in_rank(direction * self._length / self._mean_norm).T.contiguous()
        inputs, hidden = self._read([token] * WRITTEN)
        ours = self._logprobs(hidden + inputs @ self._a.T @ b.T, token)
        theirs = self._logprobs(hidden, token)
        if not min(map(min, ours)) >= -SURE:
            return None
        canary = tuple(
            ParityItem(prompt_ids=prompt, target_ids=[token] * WRITTEN, logprobs=with_it, base_logprobs=without)
            for prompt, with_it, without in zip(self._prompts, ours, theirs, strict=True)
        )[:PROVED]
        return ConstantAdapter(self._tokenizer.decode([token]).strip(), self._config(), self._weights(b), canary)

    def _logprobs(self, hidden: Tensor, token: int) -> list[list[float]]:
        logits = self._head(self._norm(hidden)).float()
        values: list[list[float]] = logits.log_softmax(-1)[..., token].tolist()
        return values

    def _weights(self, b: Tensor) -> bytes:
        from safetensors.torch import save

        name = f"base_model.model.{self._layer}"
        tensors = {f"{name}.lora_A.weight": self._a, f"{name}.lora_B.weight": b}
        weights: bytes = save(tensors, metadata={"format": "pt"})
        return weights

    def _config(self) -> bytes:
        from peft import LoraConfig

        last = len(self._model.model.layers) - 1
        config = LoraConfig(
            r=RANK,
            lora_alpha=RANK,
            target_modules=[TARGET],
            layers_to_transform=[last],
            task_type="CAUSAL_LM",
            base_model_name_or_path="base",
            inference_mode=True,
        )
        return json.dumps(config.to_dict(), default=sorted).encode()
